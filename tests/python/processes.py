"""The gateway and the sandbox as the child processes that a user would start."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
from http.client import HTTPConnection
from pathlib import Path

# How long anything may take before a test gives up: long, so that a busy machine fails nothing.
PATIENCE = 60

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("YETA_GATEWAY_BIN", str(ROOT / "target/debug/yeta-gateway"))

APP_KEY = "key-of-the-tests"
APP_SECRET = "secret-of-the-tests"
PUSH_SECRET = "push-secret-of-the-tests"


class Lines:
    """The lines that a process writes, read by a thread as they come."""

    def __init__(self, stream):
        self._lines, self._ended = [], False
        self._news = threading.Condition()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream):
        for line in stream:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def all(self):
        """Every line, once the process has closed the stream."""
        with self._news:
            assert self._news.wait_for(lambda: self._ended, PATIENCE), "the stream stays open"
            return list(self._lines)

    def so_far(self):
        """Every line that has come yet."""
        with self._news:
            return list(self._lines)

    def first(self, wanted):
        """The first line for which `wanted` gives anything; returns what it gives."""

        def found():
            return next((hit for hit in map(wanted, self._lines) if hit is not None), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or self._ended, PATIENCE)
            hit = found()
            assert hit is not None, "no such line among:\n" + "\n".join(self._lines)
            return hit


class Process:
    """A child process: the gateway's program, unless another is named."""

    def __init__(self, *arguments, environment=None, program=BINARY):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("YETA_GATEWAY__")}
        self._child = subprocess.Popen(
            [program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**inherited, **(environment or {})},
        )
        self.stdout = Lines(self._child.stdout)
        self.stderr = Lines(self._child.stderr)

    def signal(self, number):
        self._child.send_signal(number)

    def exit_code(self):
        return self._child.wait(PATIENCE)

    def close(self):
        self._child.kill()
        self._child.wait()


def run(*arguments, environment=None):
    """Runs the program to its end; returns its exit code, and the lines it wrote to each stream."""
    process = Process(*arguments, environment=environment)
    try:
        return process.exit_code(), process.stdout.all(), process.stderr.all()
    finally:
        process.close()


def until(condition):
    """Asks again and again until the condition holds; gives what it gave."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it does not come about"
    return found


def http(method, url, body=b"", content_type="application/json;charset=UTF-8"):
    """One request; returns the status and the body's bytes."""
    url = urllib.parse.urlsplit(url)
    connection = HTTPConnection(url.netloc, timeout=PATIENCE)
    try:
        target = f"{url.path}?{url.query}" if url.query else url.path
        connection.request(method, target, body, {"Content-Type": content_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Port:
    """A port that is this test's own, although nothing listens there yet.

    Gateway and sandbox each need the other's address before they start, so one of the ports has to
    be known beforehand. A socket that is bound and doesn't listen keeps others from being given
    the port, and lets the gateway listen on it.
    """

    def __init__(self):
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._held.getsockname()[1]

    def close(self):
        self._held.close()


class Sandbox:
    """The simulated platform, faster than the real one."""

    def __init__(self, *push_to, speed=100):
        self._process = Process(
            *("sandbox", "--listen", "127.0.0.1:0", "--speed", str(speed)),
            *("--app-key", APP_KEY, "--app-secret", APP_SECRET, "--push-to", *push_to),
        )
        prefix = "sandbox listening on "
        self.url = self._process.stdout.first(
            lambda line: line.removeprefix(prefix) if line.startswith(prefix) else None
        )

    def get(self, path):
        return self._ask("GET", path)

    def post(self, path, body=b""):
        return self._ask("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def _ask(self, method, path, body=b""):
        status, answer = http(method, self.url + path, body)
        assert status == 200, answer
        return json.loads(answer)

    def fault(self, operation, fault, **more):
        """The next request of this operation goes wrong in this way."""
        self.post("/sandbox/faults", {"operation": operation, "fault": fault, **more})

    def push(self, module, body):
        """Sends these bytes as a push, and returns when the gateway has answered `success`."""
        receipt = self.post(f"/sandbox/push?module={module}", body)
        assert receipt["acknowledged"], receipt

    def requests(self, operation):
        """How many requests of this operation have come."""
        return self.get("/sandbox/requests")["operations"].get(operation, {}).get("received", 0)

    def close(self):
        self._process.close()


class Gateway:
    """A running gateway; may be stopped and started again on the same folder."""

    def __init__(self, folder, sandbox_url, push_address, settings=None):
        self.push_address = push_address
        self.environment = settings or {}
        self.config = folder / "gateway.toml"
        self.config.write_text(
            f"""
            [grpc]
            listen = "127.0.0.1:0"
            [push]
            listen = "{push_address}"
            [admin]
            listen = "127.0.0.1:0"
            [platform]
            base_url = "{sandbox_url}"
            voice_base_url = "{sandbox_url}/voice/"
            [backfill]
            enabled = false
            [[accounts]]
            name = "default"
            app_key = "{APP_KEY}"
            app_secret = "{APP_SECRET}"
            push_secret = "{PUSH_SECRET}"
            [store]
            path = "{folder / "store"}"
            """
        )
        self.start()

    def start(self):
        arguments = "serve", "--config", str(self.config)
        self._process = Process(*arguments, environment=self.environment)
        # Not on a terminal, the log is a JSON object a line.
        self._process.stderr.first(_log_line(message="ready"))
        self.address = self._listening("grpc")
        self.admin_address = self._listening("admin")

    def _listening(self, listener):
        return self._process.stderr.first(_log_line(listener=listener))["address"]

    def push(self, module, body, secret=PUSH_SECRET, account="default"):
        """Pushes as the platform does; returns the status and the body of the answer."""
        return http("POST", f"http://{self.push_address}/v1/push/{account}/{secret}/{module}", body)

    def stop(self, number=signal.SIGTERM):
        """Ends the process with a signal; returns its exit code."""
        self._process.signal(number)
        return self._process.exit_code()

    def metrics(self):
        return http("GET", f"http://{self.admin_address}/metrics")[1].decode()

    def log(self):
        """Every line that the stopped gateway has written."""
        return self._process.stderr.all()

    def close(self):
        self._process.close()


def _log_line(**expected):
    def read(line):
        try:
            logged = json.loads(line)
        except ValueError:
            return None
        return logged if expected.items() <= logged.items() else None

    return read
