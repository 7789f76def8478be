//! What the commands print of others' text, as on a terminal.

use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{NackPushesRequest, Position, SubscribePushesRequest};

use crate::support::{TestApp, binary, next_event, within};

/// A window title, the clipboard, a cleared screen, an 8-bit sequence, a forged line, and a text
/// that reads backwards.
const HOSTILE: &str =
    "A\u{1b}]0;title\u{7}\u{1b}]52;c;cm0gLXJm\u{7}\u{1b}[2J\u{9b}2J\nforged\u{202e}Z";

fn command(app: &TestApp, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("YETA_GATEWAY_ADDRESS", &app.grpc)
        // As if standard output were a terminal: nothing is stripped there.
        .env("CLICOLOR_FORCE", "1")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Checks that nothing is left that a terminal obeys, but colours, bold and dim.
fn is_harmless(printed: &str) {
    let mut rest = printed;
    while let Some((_, after)) = rest.split_once('\u{1b}') {
        let end = after.find(|c: char| !matches!(c, '[' | ';' | '0'..='9'));
        let end = end.unwrap_or(after.len());
        assert!(after[end..].starts_with('m'), "{printed:?}");
        rest = &after[end..];
    }
    for unsafe_char in ['\u{7}', '\u{9b}', '\u{202e}'] {
        assert!(!printed.contains(unsafe_char), "{printed:?}");
    }
    let is_forged = printed.lines().any(|line| line.starts_with("forged"));
    assert!(!is_forged, "{printed:?}");
    assert!(
        printed.contains("52;c;") && printed.contains("forged"),
        "{printed:?}"
    );
}

async fn output(app: &TestApp, arguments: &[&str]) -> String {
    let ran = within("a command", command(app, arguments).output()).await;
    String::from_utf8(ran.unwrap().stdout).unwrap()
}

#[tokio::test]
async fn commands_show_escapes_in_pushes_and_reasons_and_do_not_pass_them_on() {
    let app = TestApp::start().await;
    let record = json!({
        "call_uuid": "c", "app_id": "app", "direction": 2, "task_result_desc": HOSTILE,
    });
    app.push("receiveCallRecord", record.to_string()).await;
    let dialog = json!({
        "call_uuid": "c", "app_id": "app",
        "dialog": [{ "seq": 1, "role": "customer", "text_man": HOSTILE, "tag_name": HOSTILE }],
    });
    app.push("receiveDialog", dialog.to_string()).await;

    for json in [false, true] {
        let arguments = ["tail", "--from-start", "--json"];
        let arguments = &arguments[..if json { 3 } else { 2 }];
        let mut tail = command(&app, arguments).spawn().unwrap();
        let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            let line = within("a line", lines.next_line()).await.unwrap().unwrap();
            is_harmless(&line);
        }
        tail.kill().await.unwrap();
    }

    let mut pushes = app.pushes();
    let request = SubscribePushesRequest {
        subscription: "crm".into(),
        start: Some(Start::Position(Position::Earliest.into())),
        ..SubscribePushesRequest::default()
    };
    let mut stream = pushes.subscribe_pushes(request).await.unwrap().into_inner();
    let event = next_event(&mut stream).await;
    let park = NackPushesRequest {
        subscription: "crm".into(),
        ack_ids: vec![event.ack_id],
        park: true,
        reason: HOSTILE.into(),
        ..NackPushesRequest::default()
    };
    pushes.nack_pushes(park).await.unwrap();
    for arguments in [
        &["subscription", "dead-letters", "crm"][..],
        &["subscription", "dead-letters", "crm", "--json"],
        &["call", "get", "c"],
        &["call", "get", "c", "--json"],
    ] {
        is_harmless(&output(&app, arguments).await);
    }
}
