/* Fails one sync of a journal with EIO once the file YETA_FAIL_SYNC is there, which it removes.
 * Writes a line for each later write and sync of a journal to the file YETA_SYNC_LOG. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int has_failed = 0;

static int is_journal(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 4) return 0;
    path[len] = 0;
    return strstr(path, "/log/") != NULL && strcmp(path + len - 4, ".jnl") == 0;
}

static void note(const char *text, long long offset, size_t len) {
    char line[128];
    int size = snprintf(line, sizeof line, "%s %lld %zu\n", text, offset, len);
    int log = open(getenv("YETA_SYNC_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (log >= 0) {
        if (write(log, line, size) < 0) abort();
        close(log);
    }
}

static int sync_with(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (!is_journal(fd)) return real(fd);
    if (unlink(getenv("YETA_FAIL_SYNC")) == 0) {
        has_failed = 1;
        note("failed", 0, 0);
        errno = EIO;
        return -1;
    }
    int result = real(fd);
    if (has_failed) note("synced", 0, 0);
    return result;
}

int fsync(int fd) { return sync_with("fsync", fd); }

int fdatasync(int fd) { return sync_with("fdatasync", fd); }

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (has_failed && is_journal(fd)) note("wrote", offset, len);
    return real(fd, bytes, len, offset);
}
