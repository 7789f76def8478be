//! `yeta-gateway voice get`.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use super::Stage;
use crate::support::within;

async fn get(stage: &Stage, arguments: &[&str], output: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yeta-gateway"));
    command
        .args(["voice", "get", "--address", &stage.app.grpc, "-o"])
        .arg(output)
        .args(arguments);
    within("the command", command.output()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_recording_goes_into_a_file_and_nothing_is_left_beside_it() {
    let stage = Stage::start().await;
    let bytes = stage.record("a.wav", 500_000).await;
    stage.announce("c", "a.wav", 400_000).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.wav");

    let done = get(&stage, &["c"], &file).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(
        text(&done.stdout).contains("500000 bytes"),
        "{}",
        text(&done.stdout)
    );
    assert!(text(&done.stderr).contains("the push told 400000"));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);

    let done = get(&stage, &["--url", "a.wav", "--json"], &file).await;
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (&report["size"], &report["resumed_at"]),
        (&json!(500_000), &json!(0))
    );
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_recording_is_taken_up_where_the_file_ends_and_never_with_another_one() {
    let stage = Stage::start().await;
    let bytes = stage.record("a.wav", 500_000).await;
    let other = stage.record("b.wav", 600_000).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.wav");
    let part = folder.path().join("a.wav.part");
    // The voice server fails for good after a half.
    let faults = json!([
        { "operation": "voice", "fault": "cut_mid_answer" },
        { "operation": "voice", "fault": "not_found" },
    ]);

    stage.sandbox.fault(faults.clone()).await;
    let broken = get(&stage, &["--url", "a.wav"], &file).await;
    assert!(!broken.status.success() && text(&broken.stderr).contains("VOICE_NOT_FOUND"));
    let begun = std::fs::metadata(&part).unwrap().len();
    assert!(begun > 0 && begun < 500_000 && !file.exists(), "{begun}");
    let done = get(&stage, &["--url", "a.wav", "--json"], &file).await;
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["resumed_at"], json!(begun));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);

    stage.sandbox.fault(faults).await;
    get(&stage, &["--url", "a.wav"], &file).await;
    assert!(part.exists());
    let done = get(&stage, &["--url", "b.wav", "--json"], &file).await;
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["resumed_at"], json!(0));
    assert_eq!(std::fs::read(&file).unwrap(), other);
}

#[tokio::test]
async fn a_recording_that_does_not_come_leaves_nothing_behind() {
    let stage = Stage::start().await;
    stage.announce("c", "gone.wav", 1_000).await;
    let folder = tempfile::tempdir().unwrap();
    let failed = get(&stage, &["c"], &folder.path().join("c.wav")).await;
    let said = text(&failed.stderr);
    assert!(!failed.status.success() && said.contains("announced at"));
    // A folder is refused before anything is fetched.
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let failed = get(&stage, &["c"], &inner).await;
    assert!(text(&failed.stderr).contains("is a folder"));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
