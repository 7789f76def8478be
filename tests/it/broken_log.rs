//! A gateway whose log cannot be written, and commands whose output nobody reads.

use std::fs::File;
use std::io::{PipeReader, Read as _, pipe};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use yeta_gateway::sandbox::SandboxConfig;

use crate::sandbox::harness::Sandbox;
use crate::submissions::requests::call_out;
use crate::submissions::stage::{outbound, silent};
use crate::support::{
    Http, Process, binary, earliest, eventually, next_event, pushes_client, record, within,
};

#[tokio::test]
async fn a_gateway_whose_log_reader_is_gone_goes_on_serving() {
    let (reader, log) = pipe().unwrap();
    goes_on_serving(log.into(), move || drop(reader)).await;
}

#[tokio::test]
async fn a_gateway_whose_log_disk_is_full_goes_on_serving() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    goes_on_serving(full.into(), || {}).await;
}

/// Starts a gateway, breaks its log once it is ready, and looks for what needs each of its parts.
async fn goes_on_serving(log: Stdio, break_log: impl FnOnce()) {
    let sandbox = Sandbox::start(SandboxConfig {
        token_life: Duration::from_secs(2),
        ..silent()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    Process::configure_with_platform(folder.path(), &sandbox.base, "");
    let gateway = Process::spawn_with_log(Process::command(folder.path()), log).await;
    break_log();
    let at = gateway.addresses.clone();
    let issued = async || {
        sandbox.get("/sandbox/tokens").await["issued"]
            .as_u64()
            .unwrap()
    };

    let mut client = outbound(&at.grpc);
    for (id, number) in [("a", "13000000001"), ("b", "13000000002")] {
        let request = call_out(id, &[[number, "one"]]);
        let answer = within("an answer", client.call_out(request)).await.unwrap();
        assert_eq!(answer.into_inner().task_data_ids.len(), 1);
        let before = issued().await;
        eventually("another token", async || {
            (issued().await > before).then_some(())
        })
        .await;
    }
    let rows = sandbox.get("/sandbox/rows").await;
    assert_eq!(rows["accepted"], 2, "{rows}");

    let http = Http::new();
    let pushed = http.push(&at.push, "receiveCallRecord", record("c")).await;
    assert!(pushed.unwrap().is_success());
    let stream = pushes_client(&at.grpc).subscribe_pushes(earliest()).await;
    let event = next_event(&mut stream.unwrap().into_inner()).await;
    assert_eq!(event.raw_json, record("c").as_bytes());

    gateway.terminate();
    let (status, _) = gateway.ended().await;
    assert!(status.success(), "{status}");
}

/// Runs a command whose standard output or error is this.
fn run(args: &[&str], stdout: Stdio, stderr: Stdio) -> (Option<i32>, String) {
    let mut child = Command::new(binary())
        .args(args)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    let mut errors = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut errors).unwrap();
    }
    (child.wait().unwrap().code(), errors)
}

fn closed() -> Stdio {
    let (reader, writer): (PipeReader, _) = pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    let full = File::options().write(true).open("/dev/full").unwrap();
    full.into()
}

#[test]
fn commands_whose_output_is_closed_end_quietly() {
    for args in [&["check"][..], &["serve", "--print-default-config"]] {
        let (code, errors) = run(args, closed(), Stdio::piped());
        assert_eq!((code, &*errors), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn a_command_whose_output_disk_is_full_says_so() {
    let args = ["serve", "--print-default-config"];
    let (code, errors) = run(&args, full(), Stdio::piped());
    assert_eq!(code, Some(1));
    let expected = "yeta-gateway: standard output cannot be written: ";
    assert!(errors.starts_with(expected), "{errors}");
}

#[test]
fn the_exit_status_of_a_failure_that_cannot_be_reported_stays_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("faulty.toml");
    std::fs::write(&file, "speed = 3").unwrap();
    let file = file.to_str().unwrap();
    for stderr in [closed, full] {
        for (command, expected) in [("check", 2), ("serve", 1)] {
            let args = [command, "--config", file];
            let (code, _) = run(&args, Stdio::null(), stderr());
            assert_eq!(code, Some(expected), "{command}");
        }
    }
}

#[tokio::test]
async fn tail_ends_quietly_when_nobody_reads_it_and_acknowledges_nothing_unread() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Process::start(folder.path()).await;
    let at = gateway.addresses.clone();
    create_subscription(&at.grpc, folder.path());
    let http = Http::new();
    let pushed = http.push(&at.push, "receiveCallRecord", record("a")).await;
    assert!(pushed.unwrap().is_success());

    let tail = |stdout| {
        let args = [
            "tail",
            "--address",
            &at.grpc,
            "--subscription",
            "s",
            "--json",
        ];
        let mut command = Command::new(binary());
        command.args(args).stdin(Stdio::null()).stdout(stdout);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let mut unread = tail(closed());
    let status = eventually("the end of tail", async || unread.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));

    let (reader, writer) = pipe().unwrap();
    let mut read = tail(writer.into());
    let line = tokio::task::spawn_blocking(move || {
        use std::io::{BufRead as _, BufReader};
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        line
    });
    let line = within("the event again", line).await.unwrap();
    assert!(line.contains("\"callUuid\":\"a\""), "{line}");
    read.kill().unwrap();
    read.wait().unwrap();
}

fn create_subscription(grpc: &str, folder: &Path) {
    let created = Command::new(binary())
        .args(["subscription", "create", "s", "--address", grpc])
        .current_dir(folder)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(created.success());
}
