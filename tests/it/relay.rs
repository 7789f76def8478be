//! Readers of the log: where they start, what they leave out, and what they say on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use yeta_gateway::edge::reading::{Received, read};
use yeta_gateway::proto::{PushFilter, PushKind};
use yeta_gateway::push::{CursorError, Position};
use yeta_gateway::relay::metrics::RelayMetrics;
use yeta_gateway::relay::{
    PageQuery, Reader, RelayError, Source, Start, Step, Subscriber, list, resolve,
};
use yeta_gateway::store::embedded::{EmbeddedLog, Options};
use yeta_gateway::store::subscriptions::{Handed, Member, SubscriptionError};
use yeta_gateway::store::{Filter, PushLog, ReadError};

use crate::support::within;

struct TestLog {
    embedded: Arc<EmbeddedLog>,
    log: Arc<dyn PushLog>,
    drain: CancellationToken,
    now_ms: Arc<AtomicU64>,
    _folder: TempDir,
}

impl TestLog {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now_ms = Arc::new(AtomicU64::new(1_600_000_000_000));
        let clock = now_ms.clone();
        let options = Options {
            retention: Duration::from_secs(60),
            tail_bytes: 16 << 10,
            ..Options::new(folder.path()).with_clock(Arc::new(move || {
                UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::SeqCst))
            }))
        };
        let embedded = Arc::new(EmbeddedLog::open(options).await.unwrap());
        Self {
            log: embedded.clone(),
            embedded,
            drain: CancellationToken::new(),
            now_ms,
            _folder: folder,
        }
    }

    async fn push(&self, account: &str, module: &str, body: &str) {
        let received = Received {
            account,
            module,
            content_type: None,
            voice_base_url: "http://voice.example/",
        };
        let pushes = read(&received, &body.to_owned().into());
        let entries = pushes.into_iter().map(Into::into).collect();
        self.log.append(entries).await.unwrap();
    }

    async fn push_records(&self, range: std::ops::Range<usize>) {
        for n in range {
            let body = format!(r#"{{"call_uuid":"{n}"}}"#);
            self.push("default", "receiveCallRecord", &body).await;
        }
    }

    fn reader(&self, start: Position, filter: PushFilter) -> Reader {
        let filter = Filter::new(filter, None);
        let metrics = RelayMetrics::default();
        Reader::new(self.log.clone(), start, filter, self.drain.clone(), metrics)
    }
}

/// What a reader tells, one event or word at a time: a call's id, or whether it has caught up.
#[derive(Debug, PartialEq)]
enum Told {
    Call(String),
    Progress(bool),
}

async fn told(reader: &mut Reader) -> Vec<Told> {
    match within("a step", reader.next()).await.unwrap() {
        Step::Events(events) => {
            let call = |entry: &Arc<yeta_gateway::store::Entry>| {
                let json: serde_json::Value = serde_json::from_slice(&entry.raw).unwrap();
                Told::Call(json["call_uuid"].as_str().unwrap().to_owned())
            };
            events.iter().map(call).collect()
        }
        Step::Progress { caught_up, .. } => vec![Told::Progress(caught_up)],
    }
}

/// Everything up to word that the reader has caught up.
async fn calls_until_caught_up(reader: &mut Reader) -> Vec<String> {
    let mut calls = Vec::new();
    loop {
        for told in told(reader).await {
            match told {
                Told::Call(call) => calls.push(call),
                Told::Progress(true) => return calls,
                Told::Progress(false) => {}
            }
        }
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_flows_into_live_without_a_gap_or_a_double_for_every_reader() {
    let log = Arc::new(TestLog::new().await);
    log.push_records(0..1500).await;
    let readers: Vec<_> = (0..4)
        .map(|n: u64| {
            let mut reader = log.reader(Position(n * 300), PushFilter::default());
            tokio::spawn(async move {
                let first = usize::try_from(n).unwrap() * 300;
                let mut calls = Vec::new();
                while calls.len() < 2000 - first {
                    for told in told(&mut reader).await {
                        if let Told::Call(call) = told {
                            calls.push(call);
                        }
                    }
                }
                assert_eq!(calls, numbers(first..2000));
            })
        })
        .collect();
    log.push_records(1500..2000).await;
    for reader in readers {
        within("a reader", reader).await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_says_once_that_it_has_caught_up_and_again_after_it_fell_behind() {
    let log = TestLog::new().await;
    let mut reader = log.reader(Position::START, PushFilter::default());
    assert_eq!(told(&mut reader).await, [Told::Progress(true)]);
    log.push_records(0..3).await;
    assert_eq!(told(&mut reader).await.len(), 3);
    // More than one batch holds: for a while it is behind.
    log.push_records(3..1503).await;
    assert_eq!(calls_until_caught_up(&mut reader).await, numbers(3..1503));
}

/// A member that is handed what is put into it, and nothing after that.
struct Fed(Vec<Handed>);

#[async_trait::async_trait]
impl Member for Fed {
    fn mark_broken(&mut self) {}

    async fn next(&mut self) -> Result<Handed, SubscriptionError> {
        match self.0.pop() {
            Some(handed) => Ok(handed),
            None => std::future::pending().await,
        }
    }

    fn place(&self) -> Position {
        Position(7)
    }

    fn is_caught_up(&self) -> bool {
        self.0.is_empty()
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_is_told_its_subscriptions_place_when_caught_up_and_every_ten_seconds() {
    let log = TestLog::new().await;
    let mut subscriber = Subscriber::new(
        log.log.clone(),
        Box::new(Fed(vec![Handed::CaughtUp])),
        None,
        log.drain.clone(),
        RelayMetrics::default(),
    );
    let start = tokio::time::Instant::now();
    for seconds in [0, 10, 20] {
        let step = subscriber.next().await.unwrap();
        let Step::Progress { cursor, caught_up } = step else {
            panic!("{step:?}")
        };
        assert_eq!((cursor, caught_up), (log.log.cursor(Position(7)), true));
        assert_eq!(start.elapsed().as_secs(), seconds);
    }
    log.drain.cancel();
    let ended = subscriber.next().await;
    assert!(matches!(ended, Err(RelayError::Draining)), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn progress_comes_every_ten_seconds_and_passes_what_the_filter_left_out() {
    let log = TestLog::new().await;
    let filter = PushFilter {
        call_uuids: vec!["none".into()],
        ..PushFilter::default()
    };
    let mut reader = log.reader(Position::START, filter);
    assert_eq!(told(&mut reader).await, [Told::Progress(true)]);
    for round in 0..3 {
        log.push_records(round..round + 1).await;
        let before = tokio::time::Instant::now();
        assert_eq!(told(&mut reader).await, [Told::Progress(true)]);
        assert_eq!(before.elapsed().as_secs(), 10);
        assert_eq!(reader.cursor().position, *log.log.end().borrow());
    }
}

#[tokio::test]
async fn a_draining_gateway_ends_a_waiting_reader() {
    let log = TestLog::new().await;
    let mut reader = log.reader(Position::START, PushFilter::default());
    assert_eq!(told(&mut reader).await, [Told::Progress(true)]);
    let drain = log.drain.clone();
    let waiting = tokio::spawn(async move { reader.next().await });
    drain.cancel();
    let ended = within("the reader's end", waiting).await.unwrap();
    assert!(matches!(ended, Err(RelayError::Draining)), "{ended:?}");
}

#[tokio::test]
async fn a_reader_that_retention_overtakes_is_told_and_does_not_skip() {
    let log = TestLog::new().await;
    log.push_records(0..50).await;
    let mut reader = log.reader(Position::START, PushFilter::default());
    log.now_ms.fetch_add(61_000, Ordering::SeqCst);
    log.push_records(50..51).await;
    log.embedded.retire(0).await;
    match reader.next().await {
        Err(RelayError::Read(ReadError::Expired { earliest })) => {
            assert_eq!(earliest, Position(50));
        }
        other => panic!("{other:?}"),
    }
    let old = log.log.cursor(Position(10)).to_string();
    let expired = resolve(&log.log, &Start::Cursor(old)).await;
    assert!(
        matches!(expired, Err(RelayError::Read(ReadError::Expired { .. }))),
        "{expired:?}"
    );
    let earliest = resolve(&log.log, &Start::Earliest).await.unwrap();
    let mut reader = log.reader(earliest, PushFilter::default());
    assert_eq!(calls_until_caught_up(&mut reader).await, ["50"]);
}

#[tokio::test]
async fn a_reader_starts_where_it_is_told() {
    let log = TestLog::new().await;
    log.push_records(0..2).await;
    let noon = log.now_ms.fetch_add(1000, Ordering::SeqCst) + 1000;
    log.push_records(2..3).await;
    let at = |start| {
        let log = &log;
        async move {
            let position = resolve(&log.log, &start).await.unwrap();
            calls_until_caught_up(&mut log.reader(position, PushFilter::default())).await
        }
    };
    assert_eq!(at(Start::Earliest).await, ["0", "1", "2"]);
    assert!(at(Start::Latest).await.is_empty());
    assert_eq!(
        at(Start::Since(UNIX_EPOCH + Duration::from_millis(noon))).await,
        ["2"]
    );
    let cursor = log.log.cursor(Position(1)).to_string();
    assert_eq!(at(Start::Cursor(cursor)).await, ["1", "2"]);
    let other = TestLog::new().await;
    let foreign = Start::Cursor(other.log.cursor(Position::START).to_string());
    let refused = resolve(&log.log, &foreign).await;
    assert!(
        matches!(refused, Err(RelayError::BadCursor(CursorError::Foreign))),
        "{refused:?}"
    );
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "it is a table")]
async fn a_filter_matches_any_value_within_a_list_and_all_between_lists() {
    let log = TestLog::new().await;
    for (account, module, body) in [
        (
            "a",
            "receiveCallRecord",
            r#"{"call_uuid":"1","app_id":"x","task_id":"t"}"#,
        ),
        (
            "a",
            "receiveDialog",
            r#"{"call_uuid":"2","app_id":"x","robot_id":"r","task_data_id":"d"}"#,
        ),
        (
            "b",
            "receiveVoice",
            r#"{"call_uuid":"3","app_id":"y","call_relation_id":"c"}"#,
        ),
        ("b", "somethingElse", r#"{"call_uuid":"4","app_id":"x"}"#),
    ] {
        log.push(account, module, body).await;
    }
    let list = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
    let none = PushFilter::default;
    for (filter, expected) in [
        (none(), vec!["1", "2", "3", "4"]),
        (
            PushFilter {
                accounts: list(&["b"]),
                ..none()
            },
            vec!["3", "4"],
        ),
        (
            PushFilter {
                app_ids: list(&["x", "y"]),
                ..none()
            },
            vec!["1", "2", "3"],
        ),
        (
            PushFilter {
                app_ids: list(&["x"]),
                robot_ids: list(&["r"]),
                ..none()
            },
            vec!["2"],
        ),
        (
            PushFilter {
                task_ids: list(&["t"]),
                ..none()
            },
            vec!["1"],
        ),
        (
            PushFilter {
                task_data_ids: list(&["d"]),
                ..none()
            },
            vec!["2"],
        ),
        (
            PushFilter {
                call_relation_ids: list(&["c"]),
                ..none()
            },
            vec!["3"],
        ),
        (
            PushFilter {
                call_uuids: list(&["3", "1"]),
                ..none()
            },
            vec!["1", "3"],
        ),
        (
            PushFilter {
                kinds: vec![PushKind::Unrecognized.into()],
                ..none()
            },
            vec!["4"],
        ),
        (
            PushFilter {
                accounts: list(&["a"]),
                app_ids: list(&["y"]),
                ..none()
            },
            vec![],
        ),
    ] {
        let mut reader = log.reader(Position::START, filter.clone());
        assert_eq!(
            calls_until_caught_up(&mut reader).await,
            expected,
            "{filter:?}"
        );
    }
}

#[tokio::test]
async fn accounts_that_a_client_may_not_see_are_left_out_whatever_it_asks_for() {
    let log = TestLog::new().await;
    for account in ["a", "a", "b"] {
        let end = log.log.end().borrow().0;
        let body = format!(r#"{{"call_uuid":"{end}"}}"#);
        log.push(account, "receiveCallRecord", &body).await;
    }
    for (asked, seen) in [(vec![], 2), (vec!["b".to_owned()], 0)] {
        let asked = PushFilter {
            accounts: asked,
            ..PushFilter::default()
        };
        let query = PageQuery {
            after: Position::START,
            until: None,
            filter: Filter::new(asked.clone(), Some(vec!["a".to_owned()])),
            size: 10,
        };
        let page = list(&log.log, &query).await.unwrap();
        assert_eq!(page.entries.len(), seen, "{asked:?}");
    }
}

#[tokio::test]
async fn pages_join_into_the_whole_and_end() {
    let log = TestLog::new().await;
    log.push_records(0..25).await;
    let mut after = Position::START;
    let mut sizes = Vec::new();
    loop {
        let query = PageQuery {
            after,
            until: None,
            filter: Filter::new(PushFilter::default(), None),
            size: 10,
        };
        let page = list(&log.log, &query).await.unwrap();
        sizes.push(page.entries.len());
        match page.next {
            Some(next) => after = next.position,
            None => break,
        }
    }
    assert_eq!(sizes, [10, 10, 5]);
}
