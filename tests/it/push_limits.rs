//! Bounds of the push port: what one push, one connection and one account can take.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::{ListPushesRequest, PushEvent, PushFilter, PushKind};

use crate::support::{
    Answer, Http, PATIENCE, PUSH_SECRET, Process, TestApp, eventually, pushes_client, record,
    within,
};

/// A gateway whose second account is a copy of the first.
async fn with_other_account(change: impl FnOnce(&mut yeta_gateway::config::Config)) -> TestApp {
    TestApp::with(|config| {
        let mut other = config.accounts[0].clone();
        other.name = "other".into();
        config.accounts.push(other);
        change(config);
    })
    .await
}

fn head(account: &str, module: &str, headers: &str) -> String {
    format!("POST /v1/push/{account}/{PUSH_SECRET}/{module} HTTP/1.1\r\nhost: x\r\n{headers}\r\n")
}

async fn connect(base: &str) -> TcpStream {
    let address = base.trim_start_matches("http://");
    within("a connection", TcpStream::connect(address))
        .await
        .unwrap()
}

/// Everything that comes until the connection ends.
async fn read_to_end(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A connection that is reset has ended as well.
    let _ = within("the connection's end", connection.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn send(connection: &mut TcpStream, text: &str) {
    connection.write_all(text.as_bytes()).await.unwrap();
}

async fn list(app: &TestApp, accounts: &[&str]) -> Vec<PushEvent> {
    let request = ListPushesRequest {
        include_raw: true,
        filter: Some(PushFilter {
            accounts: accounts.iter().map(|&it| it.into()).collect(),
            ..PushFilter::default()
        }),
        ..ListPushesRequest::default()
    };
    let page = app.pushes().list_pushes(request).await.unwrap();
    page.into_inner().events
}

#[tokio::test]
async fn an_event_with_a_deep_member_reaches_its_own_account_alone_and_everybody_can_decode_it() {
    let app = with_other_account(|_| {}).await;
    let arrays = "[".repeat(49) + &"]".repeat(49);
    let objects = r#"{"a":"#.repeat(40) + "1" + &"}".repeat(40);
    for (call, deep) in [("1", &arrays), ("2", &objects)] {
        let body = format!(r#"{{"call_uuid":"{call}","direction":2,"extra":{deep}}}"#);
        app.push("receiveCallRecord", body).await;
    }
    let turn =
        format!(r#"{{"call_uuid":"3","dialog":[{{"hits":[{{"x":{arrays}}}],"y":{objects}}}]}}"#);
    app.push("receiveDialog", turn).await;
    assert_eq!(list(&app, &["other"]).await, []);
    let own = list(&app, &["default"]).await;
    let kinds: Vec<_> = own.iter().map(PushEvent::kind).collect();
    let expected = [PushKind::CallRecord, PushKind::CallRecord, PushKind::Dialog];
    assert_eq!(kinds, expected, "{own:?}");
    assert!(own.iter().all(|event| !event.raw_json.is_empty()));
}

#[tokio::test]
async fn half_announced_bodies_of_one_account_hold_up_no_push_of_another_nor_of_the_same() {
    let app = with_other_account(|config| {
        config.push.append_timeout = PATIENCE;
        config.push.max_buffered_bytes = 8 << 20;
        config.push.max_body_bytes = 1 << 20;
    })
    .await;
    let mut held = Vec::new();
    for number in 0..32 {
        let mut connection = connect(&app.push).await;
        let body = if number % 2 == 0 {
            "content-length: 1048576\r\n"
        } else {
            "transfer-encoding: chunked\r\n"
        };
        send(&mut connection, &head("other", "receiveVoice", body)).await;
        if number % 2 == 1 {
            send(&mut connection, "1\r\nx\r\n").await;
        }
        held.push(connection);
    }
    for account in ["default", "other"] {
        let uri = format!("{}/v1/push/{account}/{PUSH_SECRET}/receiveVoice", app.push);
        let body = Full::new(Bytes::from(record(account)));
        let request = http::Request::post(uri).body(body).unwrap();
        assert!(app.http.send(request).await.unwrap().is_success());
    }
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_answered_408_and_one_without_room_503() {
    let app = TestApp::with(|config| {
        config.push.append_timeout = Duration::from_secs(1);
        config.push.max_body_bytes = 4096;
        // Less than one body of that size, so that it never finds room.
        config.push.max_buffered_bytes = 2048;
    })
    .await;
    for (sent, status) in [(9, "408"), (4096, "503")] {
        let mut connection = connect(&app.push).await;
        let head = head(
            "default",
            "receiveVoice",
            "connection: close\r\ncontent-length: 4096\r\n",
        );
        send(&mut connection, &(head + &"x".repeat(sent))).await;
        let answer = read_to_end(&mut connection).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
        assert!(!answer.contains("success"), "{answer}");
    }
    app.push("receiveVoice", "{}").await;
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_an_answered_one_is_kept_and_says_so() {
    let app = TestApp::with(|config| config.push.header_timeout = Duration::from_millis(200)).await;
    assert_eq!(read_to_end(&mut connect(&app.push).await).await, "");
    let mut half = connect(&app.push).await;
    send(&mut half, "POST /v1/push/default/").await;
    assert_eq!(read_to_end(&mut half).await, "");
    let mut kept = connect(&app.push).await;
    for _ in 0..2 {
        let request = head("default", "receiveVoice", "content-length: 2\r\n") + "{}";
        send(&mut kept, &request).await;
        let mut answer = String::new();
        while !answer.ends_with("success") {
            let mut part = [0; 1024];
            let read = within("an answer", kept.read(&mut part)).await.unwrap();
            assert_ne!(read, 0, "closed after {answer}");
            answer += std::str::from_utf8(&part[..read]).unwrap();
        }
        assert!(
            answer.to_lowercase().contains("keep-alive: timeout=70"),
            "{answer}"
        );
        // Longer than a head may take, while a silent connection beside it is closed.
        assert_eq!(read_to_end(&mut connect(&app.push).await).await, "");
    }
}

#[tokio::test]
async fn one_address_holds_half_of_the_connections_unless_it_is_a_trusted_proxy() {
    let few = |config: &mut yeta_gateway::config::Config| {
        config.push.max_connections = 16;
        config.push.header_timeout = PATIENCE;
    };
    let app = TestApp::with(few).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(connect(&app.push).await);
    }
    // The listener accepts in order: this one comes after all of those.
    assert_eq!(read_to_end(&mut connect(&app.push).await).await, "");
    held.pop();
    eventually("room for a connection", async || {
        let pushed = app.http.push(&app.push, "receiveVoice", "{}").await;
        pushed.ok().filter(Answer::is_success)
    })
    .await;

    let app = TestApp::with(|config| {
        few(config);
        config.push.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(connect(&app.push).await);
    }
    let pushed = app.http.push(&app.push, "receiveVoice", "{}");
    let (pushed, ()) = tokio::join!(pushed, async {
        tokio::task::yield_now().await;
        held.pop();
    });
    assert!(pushed.unwrap().is_success(), "waited for a connection");
}

#[tokio::test]
async fn the_client_behind_a_trusted_proxy_is_the_one_that_may_push() {
    let push = async |app: &TestApp, forwarded: Option<&str>| {
        let uri = format!("{}/v1/push/default/{PUSH_SECRET}/receiveVoice", app.push);
        let mut request = http::Request::post(uri);
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-for", forwarded);
        }
        let request = request.body(Full::new(Bytes::from_static(b"{}"))).unwrap();
        app.http.send(request).await.unwrap().status.as_u16()
    };
    let allow = |config: &mut yeta_gateway::config::Config| {
        config.accounts[0].allow_push_from = vec!["198.51.100.0/24".parse().unwrap()];
    };
    let app = TestApp::with(|config| {
        allow(config);
        config.push.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    assert_eq!(push(&app, None).await, 404);
    assert_eq!(push(&app, Some("198.51.100.7")).await, 200);
    assert_eq!(push(&app, Some("198.51.100.7, 192.0.2.1")).await, 404);
    // Without a trusted proxy the header is anybody's claim.
    let app = TestApp::with(allow).await;
    assert_eq!(push(&app, Some("198.51.100.7")).await, 404);
}

/// The highest memory that a process has had resident, in MiB.
fn peak_mib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn no_body_takes_memory_or_disk_out_of_proportion() {
    let folder = tempfile::tempdir().unwrap();
    // An unoptimized build needs more than the platform's three seconds.
    Process::configure(folder.path(), "push.append_timeout = '60s'");
    let gateway = Process::spawn(Process::command(folder.path())).await;
    let http = Http::new();
    let numbers = |count: usize| {
        let numbers: Vec<_> = (0..count).map(|number| number.to_string()).collect();
        format!("[{}]", numbers.join(","))
    };
    let turns = |count: usize| {
        format!(
            r#"{{"call_uuid":"t","dialog":[{}]}}"#,
            vec!["{}"; count].join(",")
        )
    };
    for body in [
        numbers(100_000),
        numbers(999_999),
        numbers(20_000),
        turns(500_000),
        turns(2_700_000),
        format!("[{}0]", "0,".repeat(4_000_000)),
        "[".repeat(4 << 20) + &"]".repeat(4 << 20),
    ] {
        let length = body.len();
        let answer = http.push(&gateway.addresses.push, "receiveDialog", body.clone());
        let answer = within("an answer", answer).await.unwrap();
        assert_eq!(&*answer.text(), "success", "{length} bytes");
    }
    let peak = peak_mib(&gateway);
    assert!(peak < 250, "{peak} MiB");
    let mut client = pushes_client(&gateway.addresses.grpc);
    let mut request = ListPushesRequest::default();
    let mut events = Vec::new();
    loop {
        let page = client.list_pushes(request.clone()).await.unwrap();
        let page = page.into_inner();
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(events.len(), 7);
    for event in events {
        let is_unrecognized = matches!(event.payload, Some(Payload::Unrecognized(_)));
        assert!(is_unrecognized, "{event:?}");
    }
}

#[tokio::test]
async fn heads_without_end_are_cut_at_sixteen_kilobytes_each() {
    const CONNECTIONS: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let gateway = Process::start(folder.path()).await;
    let before = peak_mib(&gateway);
    let head = format!("POST / HTTP/1.1\r\nx: {}", "x".repeat(390_000));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = connect(&gateway.addresses.push).await;
        // The gateway answers and closes while the rest is still being sent.
        let _ = within("sending", connection.write_all(head.as_bytes())).await;
        connections.push(connection);
    }
    for mut connection in connections {
        let answer = read_to_end(&mut connection).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
    }
    let more = peak_mib(&gateway) - before;
    // 300 heads of 390 kB would be 114 MiB.
    assert!(more < 50, "{more} MiB");
    let http = Http::new();
    let answer = http.push(&gateway.addresses.push, "receiveVoice", "{}");
    assert!(answer.await.unwrap().is_success());
}
