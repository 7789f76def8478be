//! Calls put together through the whole path: the log, the durable subscription, the projection.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use prost::Message;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use yeta_gateway::calls::metrics::CallsMetrics;
use yeta_gateway::calls::{
    Assembler, AssemblerOptions, CallPage, CallQuery, Calls, CallsError, SUBSCRIPTION, turbo_note,
};
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::{
    Call, CallDirection, CallOutcome, CallRecord, CallRecordVariant, CallState, Dialog, PushEvent,
    PushKind, TaskResult, Voice,
};
use yeta_gateway::push::{EventId, Position};
use yeta_gateway::store::embedded::subscriptions::EmbeddedSubscriptions;
use yeta_gateway::store::embedded::{EmbeddedLog, Options};
use yeta_gateway::store::subscriptions::Subscriptions;
use yeta_gateway::store::{NewEntry, Notes, PushLog, ReadLimit};

use crate::support::eventually;

const ACCOUNT: &str = "default";
const WAIT: Duration = Duration::from_secs(600);
const RETENTION: Duration = Duration::from_secs(3600);

/// A log with subscriptions and calls, and a clock that the test sets.
struct World {
    folder: TempDir,
    now_ms: Arc<AtomicU64>,
    log: Arc<EmbeddedLog>,
    subscriptions: Arc<EmbeddedSubscriptions>,
    sentinels: AtomicU64,
}

/// An assembler at work.
struct Running {
    calls: Arc<Calls>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends it at once, wherever it is.
    async fn kill(self) -> Arc<Calls> {
        self.task.abort();
        // An error is what was asked for.
        let _ = self.task.await;
        self.calls
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.calls.close().await;
    }
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now_ms = Arc::new(AtomicU64::new(1_600_000_000_000));
        let clock = now_ms.clone();
        let options = Options {
            retention: RETENTION,
            ..Options::new(folder.path())
                .with_clock(Arc::new(move || at(clock.load(Ordering::SeqCst))))
        };
        let log = Arc::new(EmbeddedLog::open(options).await.unwrap());
        let subscriptions = EmbeddedSubscriptions::open(log.clone(), 100).await.unwrap();
        Self {
            folder,
            now_ms,
            log,
            subscriptions: Arc::new(subscriptions),
            sentinels: AtomicU64::new(0),
        }
    }

    fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("calls")
    }

    fn start(&self) -> Running {
        self.start_with(Arc::new(Calls::open(&self.path()).unwrap()))
    }

    fn start_with(&self, calls: Arc<Calls>) -> Running {
        let clock = self.now_ms.clone();
        let options = AssemblerOptions {
            wait: WAIT,
            clock: Arc::new(move || at(clock.load(Ordering::SeqCst))),
        };
        let assembler = Assembler::new(
            calls.clone(),
            self.log.clone(),
            self.subscriptions.clone(),
            self.log.clone(),
            options,
            CallsMetrics::register(&mut Registry::default()),
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(assembler.run(stop.clone()));
        Running { calls, stop, task }
    }

    async fn push(&self, payload: Payload) {
        self.log.append(vec![entry(payload)]).await.unwrap();
    }

    async fn push_all(&self, payloads: impl IntoIterator<Item = Payload>) {
        for payload in payloads {
            self.push(payload).await;
        }
    }

    /// The calls in the log, in its order, without those of `settle`.
    async fn told(&self) -> Vec<Call> {
        let mut told = Vec::new();
        let mut position = self.log.earliest();
        loop {
            let limit = ReadLimit {
                entries: 1000,
                bytes: usize::MAX,
            };
            let batch = self.log.read(position, limit).await.unwrap();
            for entry in batch.entries {
                position = entry.cursor.position;
                if let Some(Payload::Call(call)) = entry.decode().unwrap().payload {
                    assert_eq!(entry.decode().unwrap().kind(), PushKind::Call);
                    told.push(call);
                }
            }
            if batch.reaches_end {
                told.retain(|call| !call.call_uuid.starts_with("sentinel"));
                return told;
            }
        }
    }

    /// Waits until everything in the log has been applied, and all that follows from it.
    async fn settle(&self, running: &Running) {
        let sentinel = format!("sentinel-{}", self.sentinels.fetch_add(1, Ordering::SeqCst));
        self.push(Payload::CallRecord(CallRecord {
            direction: CallDirection::Inbound.into(),
            ..basic(&sentinel)
        }))
        .await;
        eventually("the sentinel is told", async || {
            let call = running.calls.get(None, &sentinel).await.unwrap()?;
            (call.revision == 1).then_some(())
        })
        .await;
        eventually("everything is acknowledged", async || {
            let info = self.subscriptions.get(SUBSCRIPTION).await.unwrap();
            (info.place == *self.log.end().borrow()).then_some(())
        })
        .await;
    }

    async fn call(&self, running: &Running, call_uuid: &str) -> Call {
        running.calls.get(None, call_uuid).await.unwrap().unwrap()
    }

    /// The same wherever and whenever it was asked for.
    async fn everything(&self, running: &Running) -> BTreeMap<String, Call> {
        let mut calls = BTreeMap::new();
        let mut query = CallQuery {
            size: 7,
            ..CallQuery::default()
        };
        loop {
            let page = running.calls.list(query.clone()).await.unwrap();
            let next = page.next.clone();
            for call in decoded(page) {
                calls.insert(call.call_uuid.clone(), call);
            }
            match next {
                Some(next) => query.page_token = next,
                None => break,
            }
        }
        calls.retain(|call_uuid, _| !call_uuid.starts_with("sentinel"));
        calls
    }
}

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn entry(payload: Payload) -> NewEntry {
    let kind = match &payload {
        Payload::CallRecord(_) => PushKind::CallRecord,
        Payload::Voice(_) => PushKind::Voice,
        Payload::Dialog(_) => PushKind::Dialog,
        Payload::Call(_) => PushKind::Call,
        Payload::VoiceArchived(_) => PushKind::VoiceArchived,
        Payload::Unrecognized(_) => PushKind::Unrecognized,
    };
    let id = EventId::of_raw(ACCOUNT, "test", format!("{payload:?}").as_bytes());
    let event = PushEvent {
        event_id: id.to_string(),
        account: ACCOUNT.into(),
        kind: kind.into(),
        payload: Some(payload),
        ..PushEvent::default()
    };
    NewEntry::new(id, &event, Bytes::new())
}

fn basic(call_uuid: &str) -> CallRecord {
    CallRecord {
        variant: CallRecordVariant::Basic.into(),
        call_uuid: call_uuid.into(),
        callee: "13000000001".into(),
        direction: CallDirection::Outbound.into(),
        ..CallRecord::default()
    }
}

fn outbound(call_uuid: &str) -> CallRecord {
    CallRecord {
        variant: CallRecordVariant::Outbound.into(),
        task_id: "t1".into(),
        task_data_id: "346252615123869699".into(),
        task_row_index: Some(0),
        task_tries: Some(0),
        task_result: TaskResult::Success.into(),
        task_result_code: "0".into(),
        task_result_desc: "成功".into(),
        ..basic(call_uuid)
    }
}

fn answered(record: CallRecord) -> Payload {
    Payload::CallRecord(CallRecord {
        time_answer: Some(1_527_737_763_429),
        ..record
    })
}

fn unanswered(record: CallRecord) -> Payload {
    Payload::CallRecord(CallRecord {
        task_result: TaskResult::NotAnswered.into(),
        task_result_code: "20".into(),
        task_result_desc: "用户未接".into(),
        ..record
    })
}

fn voice(call_uuid: &str) -> Payload {
    Payload::Voice(Voice {
        call_uuid: call_uuid.into(),
        url: "a.wav".into(),
        ..Voice::default()
    })
}

fn dialog(call_uuid: &str) -> Payload {
    Payload::Dialog(Dialog {
        call_uuid: call_uuid.into(),
        task_id: "t1".into(),
        tag_max: "A".into(),
        ..Dialog::default()
    })
}

/// The four pushes of an answered outbound call.
fn whole(call_uuid: &str) -> [Payload; 4] {
    [
        answered(basic(call_uuid)),
        answered(outbound(call_uuid)),
        voice(call_uuid),
        dialog(call_uuid),
    ]
}

/// All orders of the numbers below four.
fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::new();
    for number in 0..256_usize {
        let order = [number % 4, number / 4 % 4, number / 16 % 4, number / 64];
        if order.iter().collect::<BTreeSet<_>>().len() == 4 {
            orders.push(order);
        }
    }
    assert_eq!(orders.len(), 24);
    orders
}

/// What is the same of a call whenever its pushes came.
fn content(call: &Call, call_uuid: &str) -> Call {
    let text = format!("{call_uuid:?}");
    assert!(format!("{call:?}").contains(&text));
    let mut call = Call {
        pushes: Vec::new(),
        call_uuid: String::new(),
        ..call.clone()
    };
    call.call_record.as_mut().unwrap().call_uuid.clear();
    call.voice.as_mut().unwrap().call_uuid.clear();
    call.dialog.as_mut().unwrap().call_uuid.clear();
    call
}

/// Revisions by call, as the log tells them.
fn revisions(told: &[Call]) -> BTreeMap<String, Vec<(u32, CallState)>> {
    let mut revisions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for call in told {
        let of_call = revisions.entry(call.call_uuid.clone()).or_default();
        of_call.push((call.revision, call.state()));
    }
    revisions
}

#[tokio::test]
async fn any_order_of_a_calls_pushes_gives_one_complete_revision_of_the_same_call() {
    let world = World::new().await;
    let running = world.start();
    for (n, order) in orders().iter().enumerate() {
        let pushes = whole(&n.to_string());
        for index in order {
            world.push(pushes[*index].clone()).await;
        }
    }
    world.settle(&running).await;
    let told = world.told().await;
    assert_eq!(told.len(), 24);
    let first = content(&world.call(&running, "0").await, "0");
    assert_eq!((first.state(), first.revision), (CallState::Complete, 1));
    assert_eq!(first.outcome(), CallOutcome::Answered);
    for call in told {
        assert_eq!(content(&call, &call.call_uuid), first);
        let held = world.call(&running, &call.call_uuid).await;
        assert_eq!(content(&held, &call.call_uuid), first);
        assert_eq!(held.pushes.len(), 4);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_late_push_that_changes_a_call_gives_a_second_revision() {
    let world = World::new().await;
    let running = world.start();
    world.push_all(whole("c")).await;
    world.settle(&running).await;
    world
        .push(Payload::Dialog(Dialog {
            call_uuid: "c".into(),
            tag_min: "D".into(),
            ..Dialog::default()
        }))
        .await;
    world.settle(&running).await;
    let told = world.told().await;
    assert_eq!(
        revisions(&told)["c"],
        [(1, CallState::Complete), (2, CallState::Complete)]
    );
    assert_eq!(
        (told[1].tag_max.as_str(), told[1].tag_min.as_str()),
        ("A", "D")
    );
    assert_eq!(world.call(&running, "c").await, told[1]);
    running.stop().await;
}

#[tokio::test]
async fn an_unanswered_call_is_complete_by_its_record_alone() {
    let world = World::new().await;
    let running = world.start();
    world.push(unanswered(basic("c"))).await;
    world.settle(&running).await;
    let call = world.call(&running, "c").await;
    assert_eq!(call.state(), CallState::Partial);
    assert_eq!(call.missing, [PushKind::CallRecord as i32]);
    world.push(unanswered(outbound("c"))).await;
    world.settle(&running).await;
    let call = world.call(&running, "c").await;
    assert_eq!((call.state(), call.revision), (CallState::Complete, 1));
    assert_eq!(call.outcome(), CallOutcome::NotAnswered);
    assert_eq!((call.answered, call.attempt), (false, 1));
    running.stop().await;
}

#[tokio::test]
async fn a_call_of_a_turbo_task_waits_for_no_recording() {
    let world = World::new().await;
    let note = turbo_note(ACCOUNT, "t1");
    world.log.put(&note, b"1".to_vec()).await.unwrap();
    let running = world.start();
    world.push_all([answered(outbound("c")), dialog("c")]).await;
    world.settle(&running).await;
    assert_eq!(
        revisions(&world.told().await)["c"],
        [(1, CallState::Complete)]
    );
    running.stop().await;
}

#[tokio::test]
async fn a_call_times_out_by_the_clock_and_a_recording_that_comes_yet_completes_it() {
    let world = World::new().await;
    let running = world.start();
    world.push_all([answered(outbound("c")), dialog("c")]).await;
    world.settle(&running).await;
    assert!(world.told().await.is_empty());
    world.pass(WAIT + Duration::from_secs(2));
    let call = eventually("it times out", async || world.told().await.pop()).await;
    assert_eq!(call.state(), CallState::TimedOut);
    assert_eq!(call.missing, [PushKind::Voice as i32]);
    world.push(voice("c")).await;
    world.settle(&running).await;
    assert_eq!(
        revisions(&world.told().await)["c"],
        [(1, CallState::TimedOut), (2, CallState::Complete)]
    );
    running.stop().await;
}

#[tokio::test]
async fn a_call_times_out_by_the_logs_time_when_history_is_read() {
    let world = World::new().await;
    world.push_all([answered(outbound("c")), dialog("c")]).await;
    world.pass(WAIT + Duration::from_millis(1));
    // Nothing that the clock alone would close: the next push is what tells.
    let running = world.start();
    world.settle(&running).await;
    assert_eq!(
        revisions(&world.told().await)["c"],
        [(1, CallState::TimedOut)]
    );
    running.stop().await;
}

#[tokio::test]
async fn an_assembler_killed_anywhere_makes_the_same_calls_and_tells_none_twice() {
    const CALLS: usize = 120;
    let world = World::new().await;
    let mut calls = Arc::new(Calls::open(&world.path()).unwrap());
    let orders = orders();
    for round in 0..4 {
        for n in 0..CALLS {
            let call_uuid = n.to_string();
            let pushes = whole(&call_uuid);
            let push = pushes[orders[n % 24][round]].clone();
            world.push(push).await;
            if n % 12 == 5 {
                let running = world.start_with(calls);
                tokio::time::sleep(Duration::from_micros(rand::random_range(0..12_000))).await;
                calls = running.kill().await;
            }
        }
    }
    let running = world.start_with(calls);
    world.settle(&running).await;
    let told = revisions(&world.told().await);
    assert_eq!(told.len(), CALLS);
    for (call_uuid, revisions) in told {
        assert_eq!(revisions, [(1, CallState::Complete)], "{call_uuid}");
        let call = world.call(&running, &call_uuid).await;
        assert_eq!((call.revision, call.pushes.len()), (1, 4), "{call_uuid}");
    }
    running.stop().await;
}

/// Calls of every state, some with several revisions.
async fn varied(world: &World, running: &Running) {
    for (n, order) in orders().iter().enumerate() {
        let pushes = whole(&n.to_string());
        for index in order.iter().take(1 + n % 4) {
            world.push(pushes[*index].clone()).await;
        }
    }
    world.settle(running).await;
    world.pass(WAIT + Duration::from_secs(2));
    eventually("what is not complete times out", async || {
        (world.told().await.len() == 24).then_some(())
    })
    .await;
    for n in [2, 5, 6] {
        world.push_all(whole(&n.to_string())).await;
        // Those that are there already, in other words.
        let dialog = Dialog {
            call_uuid: n.to_string(),
            tag_min: "D".into(),
            ..Dialog::default()
        };
        world.push(Payload::Dialog(dialog)).await;
    }
    world.push_all([voice("partial")]).await;
    world.settle(running).await;
}

#[tokio::test]
async fn a_deleted_projection_is_made_again_and_nothing_is_told_twice() {
    let world = World::new().await;
    let running = world.start();
    varied(&world, &running).await;
    let (calls, told) = (world.everything(&running).await, world.told().await);
    assert_eq!(calls["partial"].state(), CallState::Partial);
    running.stop().await;
    std::fs::remove_dir_all(world.path()).unwrap();

    let running = world.start();
    world.settle(&running).await;
    assert_eq!(world.everything(&running).await, calls);
    assert_eq!(world.told().await, told);
    running.stop().await;
}

#[tokio::test]
async fn a_rewound_subscription_changes_nothing() {
    let world = World::new().await;
    let running = world.start();
    varied(&world, &running).await;
    let (calls, told) = (world.everything(&running).await, world.told().await);
    world
        .subscriptions
        .seek(SUBSCRIPTION, Position::START)
        .await
        .unwrap();
    world.settle(&running).await;
    assert_eq!(world.everything(&running).await, calls);
    assert_eq!(world.told().await, told);
    running.stop().await;
}

#[tokio::test]
async fn what_retention_has_removed_is_forgotten_and_what_is_left_of_a_call_still_tells_it_whole() {
    let world = World::new().await;
    let running = world.start();
    world.push_all(whole("old")).await;
    world
        .push_all([
            answered(basic("straddling")),
            answered(outbound("straddling")),
        ])
        .await;
    world.settle(&running).await;
    world.pass(RETENTION / 2);
    world
        .push_all([voice("straddling"), dialog("straddling")])
        .await;
    world.settle(&running).await;
    let before = world.call(&running, "straddling").await;
    assert_eq!(before.revision, 2, "it had timed out: {before:?}");
    let told = world.told().await;

    world.pass(RETENTION / 2 + Duration::from_secs(1));
    world.log.retire(0).await;
    eventually("the old call is forgotten", async || {
        let call = running.calls.get(None, "old").await.unwrap();
        call.is_none().then_some(())
    })
    .await;
    assert_eq!(world.call(&running, "straddling").await, before);
    running.stop().await;

    // Made again, it lacks the records, but for the earlier event of the call.
    std::fs::remove_dir_all(world.path()).unwrap();
    let running = world.start();
    world.settle(&running).await;
    assert_eq!(world.call(&running, "straddling").await, before);
    let left: Vec<_> = told
        .into_iter()
        .filter(|call| call.call_uuid == "straddling")
        .collect();
    assert_eq!(world.told().await, left);
    running.stop().await;
}

#[tokio::test]
async fn what_is_of_no_call_is_passed_over() {
    let world = World::new().await;
    let running = world.start();
    world.push(answered(basic(""))).await;
    world.settle(&running).await;
    assert!(world.everything(&running).await.is_empty());
    running.stop().await;
}

/// Twenty calls: redials of rows, of two tasks, each a second after the one before.
async fn rows(world: &World) {
    for n in 0..20_u64 {
        let record = CallRecord {
            task_id: format!("t{}", n % 2),
            task_data_id: format!("row{}", n % 5),
            task_tries: Some(i32::try_from(n / 5).unwrap()),
            callee: format!("1300000000{}", n % 3),
            ..outbound(&n.to_string())
        };
        let answers = n % 4 == 0;
        world
            .push(if answers {
                answered(record)
            } else {
                unanswered(record)
            })
            .await;
        world.pass(Duration::from_secs(1));
    }
}

fn decoded(page: CallPage) -> Vec<Call> {
    let calls = page.calls.into_iter();
    calls.map(|call| Call::decode(call).unwrap()).collect()
}

async fn listed(running: &Running, query: CallQuery) -> Vec<u64> {
    let mut query = CallQuery { size: 3, ..query };
    let mut found = Vec::new();
    loop {
        let page = running.calls.list(query.clone()).await.unwrap();
        assert!(page.calls.len() <= 3);
        let next = page.next.clone();
        let calls = decoded(page).into_iter();
        found.extend(calls.filter_map(|call| call.call_uuid.parse::<u64>().ok()));
        match next {
            Some(next) => query.page_token = next,
            None => return found,
        }
    }
}

#[tokio::test]
async fn calls_are_listed_newest_first_by_what_they_belong_to() {
    let world = World::new().await;
    let running = world.start();
    let start = world.now_ms.load(Ordering::SeqCst);
    rows(&world).await;
    world.settle(&running).await;
    let newest = |wanted: &dyn Fn(u64) -> bool| -> Vec<u64> {
        (0..20).rev().filter(|n| wanted(*n)).collect()
    };
    let query = CallQuery::default;
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();

    assert_eq!(listed(&running, query()).await, newest(&|_| true));
    let of_task = CallQuery {
        task_ids: texts(&["t1"]),
        ..query()
    };
    assert_eq!(listed(&running, of_task).await, newest(&|n| n % 2 == 1));
    let of_rows = CallQuery {
        task_data_ids: texts(&["row1", "row3", "row1"]),
        ..query()
    };
    assert_eq!(
        listed(&running, of_rows.clone()).await,
        newest(&|n| n % 5 == 1 || n % 5 == 3)
    );
    let of_both = CallQuery {
        task_ids: texts(&["t0"]),
        callees: texts(&["13000000000"]),
        ..of_rows
    };
    assert_eq!(
        listed(&running, of_both).await,
        newest(&|n| (n % 5 == 1 || n % 5 == 3) && n % 2 == 0 && n % 3 == 0)
    );
    let of_time = CallQuery {
        since: Some(at(start + 4_000)),
        until: Some(at(start + 9_000)),
        ..query()
    };
    assert_eq!(listed(&running, of_time).await, [8, 7, 6, 5, 4]);
    let waiting = CallQuery {
        states: vec![CallState::Partial],
        ..query()
    };
    assert_eq!(listed(&running, waiting).await, newest(&|n| n % 4 == 0));
    let unanswered = CallQuery {
        answered: Some(false),
        outcomes: vec![CallOutcome::NotAnswered],
        task_ids: texts(&["t0"]),
        ..query()
    };
    assert_eq!(listed(&running, unanswered).await, newest(&|n| n % 4 == 2));
    let of_nobody = CallQuery {
        accounts: Some(BTreeSet::new()),
        ..query()
    };
    assert!(listed(&running, of_nobody).await.is_empty());
    let of_account = CallQuery {
        accounts: Some(BTreeSet::from([ACCOUNT.to_owned()])),
        ..query()
    };
    assert_eq!(listed(&running, of_account).await.len(), 20);

    let bad = CallQuery {
        page_token: "AAAA".into(),
        ..query()
    };
    let refused = running.calls.list(bad).await;
    assert!(
        matches!(refused, Err(CallsError::BadPageToken)),
        "{refused:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn redials_of_a_row_are_its_attempts() {
    let world = World::new().await;
    let running = world.start();
    rows(&world).await;
    world.settle(&running).await;
    let row = running.calls.row(ACCOUNT, "row2").await.unwrap();
    let attempts: Vec<_> = row
        .iter()
        .map(|call| (call.call_uuid.as_str(), call.attempt))
        .collect();
    assert_eq!(attempts, [("2", 1), ("7", 2), ("12", 3), ("17", 4)]);
    assert!(running.calls.row("other", "row2").await.unwrap().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_call_is_seen_by_the_accounts_that_may() {
    let world = World::new().await;
    let running = world.start();
    world.push(answered(outbound("c"))).await;
    world.settle(&running).await;
    let accounts = |name: &str| Some(BTreeSet::from([name.to_owned()]));
    let get = async |accounts: Option<BTreeSet<String>>| {
        let call = running.calls.get(accounts.as_ref(), "c").await.unwrap();
        call.is_some()
    };
    assert!(get(None).await);
    assert!(get(accounts(ACCOUNT)).await);
    assert!(!get(accounts("other")).await);
    assert!(running.calls.get(None, "C").await.unwrap().is_none());
    running.stop().await;
}

#[tokio::test]
async fn a_damaged_projection_is_made_again() {
    let world = World::new().await;
    let running = world.start();
    world.push_all(whole("c")).await;
    world.settle(&running).await;
    let before = world.call(&running, "c").await;
    running.stop().await;
    damage(&world.path());
    let running = world.start();
    world.settle(&running).await;
    assert_eq!(world.call(&running, "c").await, before);
    assert_eq!(world.told().await.len(), 1);
    running.stop().await;
}

/// Overwrites the middle of the journal.
fn damage(path: &Path) {
    let files = std::fs::read_dir(path)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut journals = files.filter(|file| file.extension().is_some_and(|e| e == "jnl"));
    let journal = journals.next().unwrap();
    let mut bytes = std::fs::read(&journal).unwrap();
    let middle = 200.min(bytes.len() / 2);
    bytes[middle..middle + 16].fill(0x5a);
    std::fs::write(&journal, bytes).unwrap();
}
