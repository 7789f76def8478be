//! The shell commands, as somebody at a terminal uses them.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::{NAME, ack_ids, join, joining, manager, nack, push_numbers, stats, take};
use crate::support::{TestApp, eventually, within};
use yeta_gateway::proto::NackPushesRequest;

fn command(app: &TestApp, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yeta-gateway"));
    command
        .args(arguments)
        .env("YETA_GATEWAY_ADDRESS", &app.grpc)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs `subscription` with these arguments, which must succeed; gives what it printed.
async fn run(app: &TestApp, arguments: &[&str]) -> String {
    let arguments = [&["subscription"], arguments].concat();
    let ran = within("a command", command(app, &arguments).output()).await;
    let ran = ran.unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{arguments:?}: {said}");
    String::from_utf8(ran.stdout).unwrap()
}

async fn json(app: &TestApp, arguments: &[&str]) -> Value {
    let printed = run(app, &[arguments, &["--json"]].concat()).await;
    serde_json::from_str(&printed).unwrap()
}

#[tokio::test]
async fn a_subscription_is_looked_after_from_the_shell() {
    let app = TestApp::start().await;
    push_numbers(&app, 0..3).await;
    let create = ["create", NAME, "--from-start", "--kind", "call-record"];
    let created = run(&app, &[&create[..], &["--backoff", "2s"]].concat()).await;
    assert!(created.contains("kind call_record"), "{created}");
    assert!(created.contains("2s to 20s"), "{created}");
    let listed = run(&app, &["list"]).await;
    assert!(listed.contains(NAME) && listed.contains("open"), "{listed}");
    assert_eq!(json(&app, &["show", NAME]).await["stats"]["lagEvents"], "3");
    assert_eq!(json(&app, &["pause", NAME]).await["paused"], true);
    assert_eq!(json(&app, &["resume", NAME]).await["paused"], false);
    let updated = json(&app, &["update", NAME, "--ack-deadline", "5s"]).await;
    assert_eq!(updated["ackDeadline"], "5s");
    assert_eq!(updated["backoff"]["minimum"], "2s");

    let mut client = app.pushes();
    let mut stream = join(&mut client, joining(NAME)).await;
    let events = take(&mut stream, 3).await;
    let park = NackPushesRequest {
        ack_ids: ack_ids(&events),
        park: true,
        reason: "unreadable".into(),
        ..NackPushesRequest::default()
    };
    nack(&mut client, park).await;
    drop(stream);
    let letters = run(&app, &["dead-letters", NAME]).await;
    assert_eq!(letters.matches("unreadable").count(), 3, "{letters}");
    let one = json(&app, &["redrive", NAME, &events[0].event_id]).await;
    assert_eq!(one["redriven"], "1");
    assert_eq!(
        run(&app, &["redrive", NAME, "--all"]).await,
        "2 delivered again\n"
    );
    run(&app, &["seek", NAME, "--latest"]).await;
    assert_eq!(
        json(&app, &["show", NAME]).await["stats"].get("lagEvents"),
        None
    );
    run(&app, &["delete", NAME]).await;
    let shown = command(&app, &["subscription", "show", NAME])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(said.contains("SUBSCRIPTION_NOT_FOUND"), "{said}");
}

#[tokio::test]
async fn tail_acknowledges_what_it_has_printed_unless_it_is_told_not_to() {
    let app = TestApp::start().await;
    push_numbers(&app, 0..3).await;
    let mut manager = manager(&app);
    let tail = ["tail", "--subscription", NAME, "--from-start", "--json"];
    let peek = command(&app, &[&tail[..], &["--no-ack"]].concat())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("three events to be out", async || {
        let asked = super::GetSubscriptionRequest { name: NAME.into() };
        let answer = manager.get_subscription(asked).await.ok()?;
        (answer.into_inner().stats?.unacked == 3).then_some(())
    })
    .await;
    drop(peek);
    let follow = command(&app, &tail).stdout(Stdio::piped()).spawn().unwrap();
    eventually("three events to be acknowledged", async || {
        let told = stats(&mut manager).await;
        (told.unacked == 0 && told.lag_events == 0).then_some(())
    })
    .await;
    let mut follow = follow;
    follow.kill().await.unwrap();
    let printed = follow.wait_with_output().await.unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    let calls = printed.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["callRecord"]["callUuid"].as_str().unwrap().to_owned()
    });
    assert_eq!(calls.collect::<Vec<_>>(), ["0", "1", "2"]);
}
