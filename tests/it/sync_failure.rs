//! A sync of the journal that fails once: what was written is written and synced anew before
//! anybody is answered.

use std::fs;
use std::process::Command;

use crate::support::{Http, Process, eventually, record};

const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/sync_failure/shim.c");
const MODULE: &str = "receiveCallRecord";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_sync_the_journal_is_written_and_synced_anew_before_the_next_success() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(path("shim.so"))
        .args([SHIM, "-ldl"])
        .status();
    assert!(built.unwrap().success(), "cc builds the shim");
    Process::configure(folder.path(), "");
    let mut command = Process::command(folder.path());
    command
        .env("LD_PRELOAD", path("shim.so"))
        .env("YETA_FAIL_SYNC", path("fail-sync"))
        .env("YETA_SYNC_LOG", path("sync-log"));
    let gateway = Process::spawn(command).await;
    let at = gateway.addresses.push.clone();
    let http = Http::new();
    let push = async |call: &str| http.push(&at, MODULE, record(call)).await.unwrap();
    assert!(push("before").await.is_success());

    fs::write(path("fail-sync"), "").unwrap();
    // The next sync fails, which need not be that of this push.
    eventually("a refused push", async || {
        let answer = push("refused").await;
        (!answer.is_success() || !path("fail-sync").exists()).then_some(())
    })
    .await;
    eventually("success again", async || {
        push("refused").await.is_success().then_some(())
    })
    .await;

    let log = fs::read_to_string(path("sync-log")).unwrap();
    let journal = newest_journal(&path("store/log"));
    let refused_at = find(&journal, b"refused");
    let mut steps = log.lines().map(|line| {
        let mut words = line.split(' ');
        let what = words.next().unwrap().to_owned();
        let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        (what, numbers[0], numbers[0] + numbers[1])
    });
    assert!(steps.any(|(what, ..)| what == "failed"), "{log}");
    let covers = |from: u64, to: u64| from <= refused_at && refused_at < to;
    let is_rewrite = |(what, from, to): (String, u64, u64)| what == "wrote" && covers(from, to);
    assert!(steps.any(is_rewrite), "{log}");
    assert!(steps.any(|(what, ..)| what == "synced"), "{log}");
}

fn newest_journal(folder: &std::path::Path) -> Vec<u8> {
    let files = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
    let journals = files.filter(|path| path.extension().is_some_and(|it| it == "jnl"));
    fs::read(journals.max().unwrap()).unwrap()
}

/// Where the first copy of some bytes stands.
fn find(bytes: &[u8], text: &[u8]) -> u64 {
    let found = bytes.windows(text.len()).position(|it| it == text);
    found.unwrap() as u64
}
