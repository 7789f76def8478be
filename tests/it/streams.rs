//! `SubscribePushes` and `ListPushes` as a client sees them, through a whole gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::Server;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;
use yeta_gateway::account::Account;
use yeta_gateway::config::{Client, Permission};
use yeta_gateway::edge::reading::{Received, read};
use yeta_gateway::grpc::admission::AdmissionLayer;
use yeta_gateway::grpc::auth::Clients;
use yeta_gateway::grpc::push_service;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{
    ListPushesRequest, Position, PushEvent, PushFilter, SubscribePushesRequest,
    SubscribePushesResponse, list_pushes_request,
};
use yeta_gateway::relay::metrics::RelayMetrics;
use yeta_gateway::secret::Secret;
use yeta_gateway::store::PushLog;
use yeta_gateway::store::embedded::subscriptions::EmbeddedSubscriptions;
use yeta_gateway::store::embedded::{EmbeddedLog, Options};

use crate::backfill::world::backfill_of_nothing;
use crate::bridge::reason;
use crate::support::{
    Pushes, TestApp, earliest, eventually, from_cursor, next_event, next_message, pushes_client,
    record, within,
};

type Stream = Streaming<SubscribePushesResponse>;

async fn subscribe(client: &mut Pushes, request: SubscribePushesRequest) -> Stream {
    client.subscribe_pushes(request).await.unwrap().into_inner()
}

/// The next messages up to word that the reader has caught up: the events' calls, the cursor.
async fn until_caught_up(stream: &mut Stream) -> (Vec<String>, String) {
    let mut calls = Vec::new();
    loop {
        match next_message(stream).await.unwrap() {
            SubscribePushesResponse::Event(event) => calls.push(call(&event)),
            SubscribePushesResponse::Progress(progress) if progress.caught_up => {
                return (calls, progress.cursor);
            }
            _ => {}
        }
    }
}

fn call(event: &PushEvent) -> String {
    match &event.payload {
        Some(Payload::CallRecord(record)) => record.call_uuid.clone(),
        Some(Payload::Voice(voice)) => voice.call_uuid.clone(),
        Some(Payload::Dialog(dialog)) => dialog.call_uuid.clone(),
        other => panic!("{other:?}"),
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn push_numbers(app: &TestApp, range: std::ops::Range<usize>) {
    for number in range {
        app.push("receiveCallRecord", record(&number.to_string()))
            .await;
    }
}

fn starting(start: Option<Start>) -> SubscribePushesRequest {
    SubscribePushesRequest {
        start,
        ..SubscribePushesRequest::default()
    }
}

#[tokio::test]
async fn a_stream_starts_where_it_is_told() {
    let app = TestApp::start().await;
    let mut client = app.pushes();
    push_numbers(&app, 0..3).await;
    let middle = SystemTime::now() + Duration::from_millis(1);
    eventually("the next millisecond", async || {
        (SystemTime::now() > middle).then_some(())
    })
    .await;
    push_numbers(&app, 3..6).await;

    let position = |position: Position| Some(Start::Position(position.into()));
    let mut stream = subscribe(&mut client, earliest()).await;
    let first = next_event(&mut stream).await;
    for (start, expected) in [
        (position(Position::Earliest), numbers(0..6)),
        (Some(Start::Since(middle.into())), numbers(3..6)),
        (Some(Start::Cursor(first.cursor)), numbers(1..6)),
        (position(Position::Latest), Vec::new()),
        (position(Position::Unspecified), Vec::new()),
        (None, Vec::new()),
    ] {
        let mut stream = subscribe(&mut client, starting(start.clone())).await;
        assert_eq!(until_caught_up(&mut stream).await.0, expected, "{start:?}");
    }
    // A stream from the end is given what comes after.
    let mut stream = subscribe(&mut client, starting(None)).await;
    push_numbers(&app, 6..7).await;
    assert_eq!(call(&next_event(&mut stream).await), "6");
    app.stop().await.unwrap();
}

#[tokio::test]
async fn raw_bytes_come_when_they_are_asked_for() {
    let app = TestApp::start().await;
    push_numbers(&app, 0..1).await;
    let mut stream = subscribe(&mut app.pushes(), earliest()).await;
    assert_eq!(next_event(&mut stream).await.raw_json, record("0"));
    let position = Some(Start::Position(Position::Earliest.into()));
    let mut stream = subscribe(&mut app.pushes(), starting(position)).await;
    assert!(next_event(&mut stream).await.raw_json.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_flows_into_live_for_every_reader_at_its_own_speed_while_pushes_come_in() {
    const EACH: usize = 300;
    let app = Arc::new(TestApp::start().await);
    push_numbers(&app, 0..EACH).await;
    let pushers: Vec<_> = (1..4)
        .map(|pusher| {
            let app = app.clone();
            tokio::spawn(
                async move { push_numbers(&app, pusher * EACH..(pusher + 1) * EACH).await },
            )
        })
        .collect();
    let readers: Vec<_> = [0, 1, 7, 50]
        .into_iter()
        .map(|pause_every| {
            let app = app.clone();
            tokio::spawn(async move {
                let mut stream = subscribe(&mut app.pushes(), earliest()).await;
                let mut cursors = Vec::new();
                let mut calls = Vec::new();
                while calls.len() < 4 * EACH {
                    let event = next_event(&mut stream).await;
                    calls.push(call(&event));
                    cursors.push(event.cursor);
                    if pause_every > 0 && calls.len() % pause_every == 0 {
                        tokio::time::sleep(Duration::from_micros(500)).await;
                    }
                }
                (calls, cursors)
            })
        })
        .collect();
    for pusher in pushers {
        within("a pusher", pusher).await.unwrap();
    }
    let mut all = Vec::new();
    for reader in readers {
        all.push(within("a reader", reader).await.unwrap());
    }
    assert!(all.iter().all(|read| *read == all[0]), "readers differ");
    let mut calls = all.remove(0).0;
    assert_eq!(calls[..EACH], numbers(0..EACH));
    calls.sort_unstable();
    let mut expected = numbers(0..4 * EACH);
    expected.sort_unstable();
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn a_resumed_stream_goes_on_after_an_event_or_progress_past_what_its_filter_left_out() {
    let app = TestApp::start().await;
    push_numbers(&app, 0..10).await;
    let filter = PushFilter {
        call_uuids: vec!["3".into()],
        ..PushFilter::default()
    };
    let request = SubscribePushesRequest {
        filter: Some(filter),
        ..earliest()
    };
    let mut stream = subscribe(&mut app.pushes(), request.clone()).await;
    let (calls, cursor) = until_caught_up(&mut stream).await;
    assert_eq!(calls, ["3"]);
    let mut stream = subscribe(&mut app.pushes(), from_cursor(&cursor)).await;
    assert_eq!(until_caught_up(&mut stream).await.0, numbers(0..0));
    push_numbers(&app, 10..11).await;
    assert_eq!(call(&next_event(&mut stream).await), "10");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_costs_little_delays_nobody_and_misses_nothing() {
    const PUSHES: usize = 1500;
    const BYTES: usize = 16 << 10;
    let app = TestApp::start().await;
    let mut stuck = subscribe(&mut app.pushes(), earliest()).await;
    let mut other = subscribe(&mut app.pushes(), earliest()).await;
    let padding = "x".repeat(BYTES);
    for number in 0..PUSHES {
        let body = format!(r#"{{"call_uuid":"{number}","direction":2,"padding":"{padding}"}}"#);
        app.push("receiveCallRecord", body).await;
    }
    for number in 0..PUSHES {
        assert_eq!(call(&next_event(&mut other).await), number.to_string());
    }
    // What was handed out beyond the other's events waits for the stuck one, in the gateway or in
    // the connection: of some 48 MiB, no more than a few.
    let metrics = app.http.get(&app.admin, "/metrics").await.unwrap().text();
    let name = "yeta_gateway_delivered_events_total ";
    let delivered = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    let buffered = delivered.parse::<usize>().unwrap().saturating_sub(PUSHES);
    assert!(
        buffered * BYTES < 12 << 20,
        "{buffered} events are held for a reader that is stuck"
    );
    for number in 0..PUSHES {
        assert_eq!(call(&next_event(&mut stuck).await), number.to_string());
    }
}

#[tokio::test]
async fn pages_hold_what_matches_in_order_and_join_into_the_whole() {
    let app = TestApp::start().await;
    push_numbers(&app, 0..25).await;
    app.push("receiveVoice", r#"{"call_uuid":"voice"}"#).await;
    let mut client = app.pushes();
    let mut request = ListPushesRequest {
        page_size: 7,
        filter: Some(PushFilter {
            kinds: vec![1],
            ..PushFilter::default()
        }),
        ..ListPushesRequest::default()
    };
    let mut sizes = Vec::new();
    let mut calls = Vec::new();
    loop {
        let page = client
            .list_pushes(request.clone())
            .await
            .unwrap()
            .into_inner();
        sizes.push(page.events.len());
        calls.extend(page.events.iter().map(call));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(calls, numbers(0..25));
    assert_eq!(sizes[..4], [7, 7, 7, 4]);

    let mut list = async |request: ListPushesRequest| {
        let page = client.list_pushes(request).await.unwrap().into_inner();
        page.events.iter().map(call).collect::<Vec<_>>()
    };
    let long_ago = Some((UNIX_EPOCH + Duration::from_secs(1)).into());
    let until = ListPushesRequest {
        until: long_ago,
        ..ListPushesRequest::default()
    };
    assert!(list(until).await.is_empty());
    let later = SystemTime::now() + Duration::from_secs(3600);
    let start = Some(list_pushes_request::Start::Since(later.into()));
    assert!(
        list(ListPushesRequest {
            start,
            ..ListPushesRequest::default()
        })
        .await
        .is_empty()
    );
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_and_say_why() {
    let app = TestApp::start().await;
    let mut client = app.pushes();
    let page_size = ListPushesRequest {
        page_size: 1001,
        ..ListPushesRequest::default()
    };
    let refused = client.list_pushes(page_size).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let elsewhere = TestApp::start().await;
    push_numbers(&elsewhere, 0..1).await;
    let mut stream = subscribe(&mut elsewhere.pushes(), earliest()).await;
    let foreign = next_event(&mut stream).await.cursor;
    for cursor in [&*foreign, "", "AAAA", "not a cursor", &foreign[1..]] {
        let refused = client
            .subscribe_pushes(from_cursor(cursor))
            .await
            .unwrap_err();
        let expected = (
            Code::InvalidArgument,
            "BAD_CURSOR".into(),
            "yeta-gateway".into(),
        );
        assert_eq!(reason(&refused), expected, "{cursor:?}");
        let request = ListPushesRequest {
            start: Some(list_pushes_request::Start::Cursor(cursor.to_owned())),
            ..ListPushesRequest::default()
        };
        assert_eq!(
            reason(&client.list_pushes(request).await.unwrap_err()),
            expected,
            "{cursor:?}"
        );
    }
}

/// The push service alone, on a log whose clock the test sets.
struct Clocked {
    log: Arc<EmbeddedLog>,
    now_ms: Arc<AtomicU64>,
    client: Pushes,
    _folder: TempDir,
}

impl Clocked {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now_ms = Arc::new(AtomicU64::new(1_600_000_000_000));
        let clock = now_ms.clone();
        let options = Options {
            retention: Duration::from_secs(60),
            ..Options::new(folder.path()).with_clock(Arc::new(move || {
                UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::SeqCst))
            }))
        };
        let log = Arc::new(EmbeddedLog::open(options).await.unwrap());
        let subscriptions = EmbeddedSubscriptions::open(log.clone(), 1).await.unwrap();
        let clients = Arc::new(Clients::new(&[], vec!["default".into()]));
        let service = push_service(
            log.clone(),
            Arc::new(subscriptions),
            clients.clone(),
            Arc::new(backfill_of_nothing(&log, folder.path()).await),
            CancellationToken::new(),
            RelayMetrics::register(&mut Registry::default()),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = pushes_client(&format!("http://{}", listener.local_addr().unwrap()));
        let layer = AdmissionLayer::new(clients);
        let server = Server::builder().layer(layer).add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self {
            log,
            now_ms,
            client,
            _folder: folder,
        }
    }

    async fn push(&self, call: &str) {
        let received = Received {
            account: "default",
            module: "receiveCallRecord",
            content_type: None,
            voice_base_url: "",
        };
        let pushes = read(&received, &record(call).into());
        let entries = pushes.into_iter().map(Into::into).collect();
        self.log.append(entries).await.unwrap();
    }
}

#[tokio::test]
async fn a_cursor_that_retention_has_passed_is_refused_with_the_earliest_one() {
    let mut clocked = Clocked::start().await;
    clocked.push("old").await;
    clocked.push("old too").await;
    let mut stream = subscribe(&mut clocked.client, earliest()).await;
    let cursor = next_event(&mut stream).await.cursor;
    clocked.now_ms.fetch_add(61_000, Ordering::SeqCst);
    clocked.push("young").await;
    clocked.log.retire(0).await;

    let refused = clocked
        .client
        .subscribe_pushes(from_cursor(&cursor))
        .await
        .unwrap_err();
    let list = ListPushesRequest {
        start: Some(list_pushes_request::Start::Cursor(cursor)),
        ..ListPushesRequest::default()
    };
    let earliest_cursor = |refused: &Status| {
        let expected = (
            Code::OutOfRange,
            "CURSOR_EXPIRED".into(),
            "yeta-gateway".into(),
        );
        assert_eq!(reason(refused), expected);
        let details = refused.get_error_details();
        details.error_info().unwrap().metadata["earliest_cursor"].clone()
    };
    let go_on_from = earliest_cursor(&refused);
    assert_eq!(
        earliest_cursor(&clocked.client.list_pushes(list).await.unwrap_err()),
        go_on_from
    );
    let mut stream = subscribe(&mut clocked.client, from_cursor(&go_on_from)).await;
    assert_eq!(call(&next_event(&mut stream).await), "young");
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn a_client_sees_its_own_accounts_pushes_alone() {
    let client = |name: &str, allow: Permission, accounts: &[&str]| Client {
        name: name.to_owned(),
        token_sha256: vec![Sha256::digest(format!("{name}-token")).into()],
        allow: vec![allow],
        accounts: accounts.iter().map(|&account| account.to_owned()).collect(),
        ..Client::default()
    };
    let app = TestApp::with(|config| {
        config.accounts.push(Account {
            name: "second".into(),
            app_key: Secret::inline("key"),
            app_secret: Secret::inline("secret"),
            push_secret: Secret::inline("second-secret"),
            allow_push_from: Vec::new(),
            enabled: true,
        });
        config.clients = vec![
            client("all", Permission::Subscribe, &["*"]),
            client("one", Permission::Subscribe, &["second"]),
            client("caller", Permission::Outbound, &["*"]),
        ];
    })
    .await;
    push_numbers(&app, 0..1).await;
    let uri = format!(
        "{}/v1/push/second/second-secret/receiveCallRecord",
        app.push
    );
    let request = http::Request::post(uri).body(http_body_util::Full::new(record("1").into()));
    assert!(app.http.send(request.unwrap()).await.unwrap().is_success());

    let mut pushes = app.pushes();
    let mut read = async |token: &str, accounts: &[&str]| {
        let filter = PushFilter {
            accounts: accounts.iter().map(|&account| account.to_owned()).collect(),
            ..PushFilter::default()
        };
        let request = SubscribePushesRequest {
            filter: Some(filter.clone()),
            ..earliest()
        };
        let stream = pushes.subscribe_pushes(with_token(token, request)).await;
        let list = ListPushesRequest {
            filter: Some(filter),
            ..ListPushesRequest::default()
        };
        let page = pushes.list_pushes(with_token(token, list)).await;
        match (stream, page) {
            (Ok(stream), Ok(page)) => {
                let calls = until_caught_up(&mut stream.into_inner()).await.0;
                let listed: Vec<_> = page.into_inner().events.iter().map(call).collect();
                assert_eq!(calls, listed);
                Ok(calls)
            }
            (Err(stream), Err(page)) => {
                assert_eq!(reason(&stream), reason(&page));
                Err((reason(&stream).0, reason(&stream).1))
            }
            other => panic!("{other:?}"),
        }
    };
    let refused = |code: Code, reason: &str| Err((code, reason.to_owned()));
    assert_eq!(read("all-token", &[]).await, Ok(numbers(0..2)));
    assert_eq!(read("all-token", &["default"]).await, Ok(numbers(0..1)));
    assert_eq!(read("one-token", &[]).await, Ok(numbers(1..2)));
    assert_eq!(read("one-token", &["second"]).await, Ok(numbers(1..2)));
    assert_eq!(
        read("one-token", &["default"]).await,
        refused(Code::PermissionDenied, "ACCOUNT_FORBIDDEN")
    );
    assert_eq!(
        read("one-token", &["default", "second"]).await,
        refused(Code::PermissionDenied, "ACCOUNT_FORBIDDEN")
    );
    assert_eq!(
        read("all-token", &["third"]).await,
        refused(Code::NotFound, "ACCOUNT_NOT_FOUND")
    );
    assert_eq!(
        read("caller-token", &[]).await,
        refused(Code::PermissionDenied, "RPC_FORBIDDEN")
    );
    assert_eq!(
        read("nobody", &[]).await,
        refused(Code::Unauthenticated, "UNAUTHENTICATED")
    );
}
