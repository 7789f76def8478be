//! Interleavings and corners of the ledger, each with the behaviour that it must not break.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::metrics::SubmissionsMetrics;
use super::{About, Caller, Options, RowOutcome, Submissions, SubmissionsError, UploadEvent};
use crate::account::Account;
use crate::platform::simulation_seam::{Gate, HttpAnswer, PostError, Transport};
use crate::platform::{Platform, PlatformConfig, PlatformMetrics};
use crate::proto::settle_submission_request::{Outcome as Settled, Which};
use crate::proto::upload_header::Target;
use crate::proto::{
    CallDirection, CallOutRequest, CallOutResponse, CallRecord, CallRecordVariant, DirectCall,
    InsertTaskDataRequest, Row, SettleSubmissionRequest, SettledNotSent, SubmissionState,
    UploadHeader, UploadRow,
};
use crate::push::StoreId;
use crate::secret::Secret;
use crate::store::Notes;
use crate::store::memory::{Fault, MemoryDisk, MemoryStore, Op};

const BEGAN_MS: u64 = 1_760_000_000_000;
const CALLER: Caller<'static> = Caller {
    account: "a",
    client: "b",
};
const NUMBER: &str = "13800138000";

/// What the platform does with the next change.
#[derive(Clone)]
enum Act {
    /// Accepts it, and answers after this long.
    Accept(u64),
    /// Accepts it, and answers once this has a permit.
    AcceptWhen(Arc<Semaphore>),
    /// Does not receive it; the connection breaks.
    Lose,
    /// Accepts it and never answers.
    AcceptAndHang,
    /// Accepts it; the connection breaks.
    AcceptAndBreak,
}

#[derive(Default)]
struct Yeta {
    acts: Mutex<VecDeque<Act>>,
    /// The rows that were accepted: id, task, values.
    rows: Mutex<Vec<(String, String, Vec<String>)>>,
}

impl Yeta {
    fn next(&self, act: Act) {
        self.acts.lock().unwrap().push_back(act);
    }

    fn ids_of(&self, number: &str) -> Vec<String> {
        let rows = self.rows.lock().unwrap();
        rows.iter()
            .filter(|(_, _, values)| values[0] == number)
            .map(|(id, _, _)| id.clone())
            .collect()
    }

    fn take(&self, body: &Value) -> Value {
        let mut rows = self.rows.lock().unwrap();
        let task = body["task_id"].as_str().unwrap_or("900").to_owned();
        let mut ids = Vec::new();
        for row in body["call_list"].as_array().unwrap() {
            let values = row.as_array().unwrap().iter();
            let values = values.map(|it| it.as_str().unwrap().to_owned()).collect();
            let id = 1000 + rows.len() as u64;
            ids.push(json!(id));
            rows.push((id.to_string(), task.clone(), values));
        }
        json!({"code": 0, "result": {"total": ids.len(), "task_data_ids": ids}})
    }
}

impl Transport for Yeta {
    fn post<'a>(
        &'a self,
        path: &'a str,
        _: Option<&'a SecretString>,
        body: Bytes,
        gate: &'a Arc<Gate>,
    ) -> BoxFuture<'a, Result<HttpAnswer, PostError>> {
        Box::pin(async move {
            let try_number = gate.arm();
            if !gate.open(try_number) {
                gate.close();
                return Err(PostError::NotSent("closed".to_owned()));
            }
            let ok = |body: Value| {
                Ok(HttpAnswer {
                    status: 200,
                    body: body.to_string().into(),
                })
            };
            let broken = || Err(PostError::NoAnswer("connection reset".to_owned()));
            let body: Value = serde_json::from_slice(&body).unwrap();
            let answer = match path.rsplit('/').next().unwrap() {
                "token" => ok(json!({"code": 0, "result": {"token": "t", "time_expire": 3600}})),
                "query" => ok(json!({"code": 0, "result": {"total_rows": 0, "rows": []}})),
                _ => {
                    let act = self.acts.lock().unwrap().pop_front();
                    match act.unwrap_or(Act::Accept(1)) {
                        Act::Accept(ms) => {
                            let answer = self.take(&body);
                            sleep(Duration::from_millis(ms)).await;
                            ok(answer)
                        }
                        Act::AcceptWhen(when) => {
                            let answer = self.take(&body);
                            when.acquire().await.unwrap().forget();
                            ok(answer)
                        }
                        Act::Lose => broken(),
                        Act::AcceptAndHang => {
                            self.take(&body);
                            std::future::pending().await
                        }
                        Act::AcceptAndBreak => {
                            self.take(&body);
                            broken()
                        }
                    }
                }
            };
            gate.close();
            answer
        })
    }
}

struct Stage {
    yeta: Arc<Yeta>,
    disk: MemoryDisk,
    began: Instant,
    clock_off: Arc<AtomicI64>,
    options: Options,
}

struct Gateway {
    submissions: Arc<Submissions>,
    end: CancellationToken,
    running: JoinHandle<()>,
}

impl Stage {
    fn new() -> Self {
        let began = Instant::now();
        let clock_off = Arc::new(AtomicI64::new(0));
        let off = clock_off.clone();
        let options = Options {
            accounts: vec!["a".to_owned()],
            clients: vec!["b".to_owned()],
            clock: Arc::new(move || at(began, off.load(Ordering::SeqCst))),
            ..Options::default()
        };
        Self {
            yeta: Arc::default(),
            disk: MemoryDisk::new(StoreId([7; 8])),
            began,
            clock_off,
            options,
        }
    }

    async fn open(&self) -> Gateway {
        self.open_with(self.yeta.clone()).await
    }

    async fn open_with(&self, transport: Arc<dyn Transport>) -> Gateway {
        let mut registry = Registry::default();
        let account = Arc::new(Account {
            name: "a".to_owned(),
            app_key: Secret::inline("key"),
            app_secret: Secret::inline("secret"),
            push_secret: Secret::inline("push-secret"),
            allow_push_from: Vec::new(),
            enabled: true,
        });
        let metrics = PlatformMetrics::register(&mut registry);
        let config = PlatformConfig::default();
        let platform = Platform::with_transport(&config, [account], metrics, transport);
        let clock = self.options.clock.clone();
        let store = Arc::new(MemoryStore::open(self.disk.clone(), clock));
        let submissions = Submissions::open(
            store.clone(),
            store,
            Arc::new(platform),
            self.options.clone(),
            SubmissionsMetrics::register(&mut registry),
        );
        let submissions = Arc::new(submissions.await.unwrap());
        let end = CancellationToken::new();
        let (running, until) = (submissions.clone(), end.clone());
        let running = tokio::spawn(async move { running.run(until).await });
        Gateway {
            submissions,
            end,
            running,
        }
    }

    /// The platform's time, which is right.
    fn now_ms(&self) -> i64 {
        i64::try_from(BEGAN_MS).unwrap() + i64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    /// The outbound record of a row's call, dialled now.
    fn record(&self, id: &str, task_id: &str, values: &[&str]) -> CallRecord {
        CallRecord {
            call_uuid: format!("call-{id}"),
            callee: values[0].to_owned(),
            task_id: task_id.to_owned(),
            task_data_id: id.to_owned(),
            time_dial: Some(self.now_ms()),
            variant: CallRecordVariant::Outbound.into(),
            direction: CallDirection::Outbound.into(),
            task_row_head: vec!["phone".to_owned(), "name".to_owned()],
            task_row_value: values.iter().map(|&it| it.to_owned()).collect(),
            ..CallRecord::default()
        }
    }
}

fn at(began: Instant, off_ms: i64) -> SystemTime {
    let elapsed = i64::try_from(began.elapsed().as_millis()).unwrap();
    UNIX_EPOCH + Duration::from_millis(BEGAN_MS.checked_add_signed(elapsed + off_ms).unwrap())
}

fn call_out(request_id: &str, values: &[&str]) -> CallOutRequest {
    CallOutRequest {
        request_id: request_id.to_owned(),
        robot_id: "7".to_owned(),
        line_num: "0551".to_owned(),
        call_column: vec!["phone".to_owned(), "name".to_owned()],
        call_list: vec![Row {
            values: values.iter().map(|&it| it.to_owned()).collect(),
        }],
        ..CallOutRequest::default()
    }
}

fn insert(values: &[&str]) -> InsertTaskDataRequest {
    InsertTaskDataRequest {
        task_id: "5".to_owned(),
        call_column: vec!["phone".to_owned(), "name".to_owned()],
        call_list: call_out("", values).call_list,
        ..InsertTaskDataRequest::default()
    }
}

/// Begins a call without a request id.
fn call_plainly(
    gateway: &Arc<Submissions>,
) -> JoinHandle<Result<CallOutResponse, SubmissionsError>> {
    let gateway = gateway.clone();
    tokio::spawn(async move {
        let request = call_out("", &[NUMBER, "v"]);
        gateway.submit(CALLER, &request, None).await
    })
}

async fn push(gateway: &Submissions, record: &CallRecord) -> Option<String> {
    let about = About {
        event_id: format!("event-{}", record.task_data_id),
        task_data_id: &record.task_data_id,
        record: Some(record),
    };
    let deadline = Instant::now() + Duration::from_secs(1);
    let keys = gateway.row_keys().of("a", &[about], deadline).await;
    keys.into_iter().next().unwrap()
}

async fn state(gateway: &Submissions, id: &str) -> SubmissionState {
    let found = gateway.get(CALLER, id).await.unwrap();
    found.map_or(SubmissionState::Unspecified, |it| it.state())
}

fn header() -> UploadHeader {
    UploadHeader {
        target: Some(Target::Direct(DirectCall {
            robot_id: "7".to_owned(),
            line_num: "0551".to_owned(),
            ..DirectCall::default()
        })),
        call_column: vec!["phone".to_owned(), "name".to_owned()],
        upload_id: "upload".to_owned(),
        ..UploadHeader::default()
    }
}

fn row(key: &str, number: &str) -> UploadRow {
    UploadRow {
        row_key: key.to_owned(),
        values: vec![number.to_owned(), "v".to_owned()],
    }
}

/// Uploads one row; its outcome, and whether it was known before.
async fn upload_one(gateway: &Submissions, key: &str, number: &str) -> (RowOutcome, bool) {
    let mut session = gateway
        .upload(CALLER, header(), CancellationToken::new())
        .await
        .unwrap();
    let mut events = session.events().unwrap();
    session.take(vec![row(key, number)]).await.unwrap();
    session.finish().await.unwrap();
    while let Some(event) = events.recv().await {
        if let UploadEvent::Row(row) = event {
            return (row.outcome, row.known_before);
        }
    }
    panic!("no result");
}

// the undo of one batch, which is late, removes the row records of a later batch.
#[tokio::test(start_paused = true)]
async fn a_row_is_sent_once_although_the_intent_of_an_earlier_batch_failed() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    let gateway = &gateway.submissions;
    let intents = AtomicUsize::new(0);
    stage.disk.set_faults(Some(Box::new(move |op| {
        let Op::Change { changes, .. } = op else {
            return Fault::None;
        };
        let is_intent = changes
            .iter()
            .any(|it| it.key.starts_with("upload-row/") && it.value.is_some());
        // The second batch's intent fails, once.
        if is_intent && intents.fetch_add(1, Ordering::SeqCst) == 1 {
            return Fault::FailBefore;
        }
        Fault::None
    })));
    // The first batch is answered after 100 ms.
    stage.yeta.next(Act::Accept(100));
    let mut session = gateway
        .upload(CALLER, header(), CancellationToken::new())
        .await
        .unwrap();
    let _events = session.events().unwrap();
    session
        .take(vec![row("other", "13700137000")])
        .await
        .unwrap();
    session.flush().await.unwrap();
    sleep(Duration::from_millis(10)).await;
    session.take(vec![row("k", NUMBER)]).await.unwrap();
    let ended = session.finish().await;
    println!("first stream: {ended:?}");
    assert!(ended.is_err());
    // A second stream begins as soon as the store takes writes again.
    sleep(Duration::from_millis(110)).await;
    let second = upload_one(gateway, "k", NUMBER).await;
    println!("second stream: {second:?}");
    sleep(Duration::from_secs(5)).await;
    let third = upload_one(gateway, "k", NUMBER).await;
    println!("third stream: {third:?}");
    assert_eq!(stage.yeta.ids_of(NUMBER).len(), 1, "dialled twice");
}

// the claim is looked up before the twin, so a request that ends in between is missed.
#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_while_its_record_is_weighed_keeps_its_id() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    let gateway = &gateway.submissions;
    // "t" never reaches the platform.
    stage.yeta.next(Act::Lose);
    let request = call_out("t", &[NUMBER, "v"]);
    let lost = gateway.submit(CALLER, &request, None);
    assert!(matches!(lost.await, Err(SubmissionsError::Unknown(_))));
    // Another request with the same row is accepted, and its answer is on its way.
    let answer = Arc::new(Semaphore::new(0));
    stage.yeta.next(Act::AcceptWhen(answer.clone()));
    let plain = call_plainly(gateway);
    sleep(Duration::from_millis(50)).await;
    let ids = stage.yeta.ids_of(NUMBER);
    assert_eq!(ids.len(), 1);
    // The answer comes while the second look for the claim is under way.
    let (claim, looks) = (format!("row/a/{}", ids[0]), AtomicUsize::new(0));
    stage.disk.set_faults(Some(Box::new(move |op| {
        if let Op::GetMany(keys) = op
            && keys.contains(&claim)
            && looks.fetch_add(1, Ordering::SeqCst) == 2
        {
            answer.add_permits(1);
        }
        Fault::None
    })));
    push(gateway, &stage.record(&ids[0], "900", &[NUMBER, "v"])).await;
    let reply = plain.await.unwrap().unwrap();
    println!("plain call: {reply:?}");
    sleep(Duration::from_secs(1)).await;
    let found = gateway.get(CALLER, "t").await.unwrap().unwrap();
    println!("t: {found:?}");
    assert_eq!(found.state(), SubmissionState::Unknown);
}

// a killed plain insert can be the owner of a record that fits a lost direct call.
#[tokio::test(start_paused = true)]
async fn a_record_of_a_killed_plain_insert_settles_no_direct_call() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    stage.yeta.next(Act::Lose);
    let request = call_out("t", &[NUMBER, "v"]);
    let lost = gateway.submissions.submit(CALLER, &request, None);
    assert!(matches!(lost.await, Err(SubmissionsError::Unknown(_))));
    stage.yeta.next(Act::AcceptAndHang);
    let submissions = gateway.submissions.clone();
    let plain = tokio::spawn(async move {
        let request = insert(&[NUMBER, "v"]);
        submissions.submit(CALLER, &request, None).await.map(|_| ())
    });
    sleep(Duration::from_millis(50)).await;
    let ids = stage.yeta.ids_of(NUMBER);
    assert_eq!(ids.len(), 1);
    stage.disk.kill();
    gateway.end.cancel();
    plain.abort();
    let gateway = stage.open().await;
    push(
        &gateway.submissions,
        &stage.record(&ids[0], "5", &[NUMBER, "v"]),
    )
    .await;
    let found = gateway.submissions.get(CALLER, "t").await.unwrap().unwrap();
    println!("t: {found:?}");
    assert_eq!(found.state(), SubmissionState::Unknown);
}

async fn killed_plain_call(clock_off: i64) -> SubmissionState {
    let stage = Stage::new();
    let gateway = stage.open().await;
    stage.yeta.next(Act::Lose);
    let request = call_out("t", &[NUMBER, "v"]);
    let lost = gateway.submissions.submit(CALLER, &request, None);
    assert!(matches!(lost.await, Err(SubmissionsError::Unknown(_))));
    stage.yeta.next(Act::AcceptAndHang);
    let submissions = gateway.submissions.clone();
    let plain = tokio::spawn(async move {
        let request = call_out("", &[NUMBER, "v"]);
        submissions.submit(CALLER, &request, None).await.map(|_| ())
    });
    sleep(Duration::from_millis(50)).await;
    let ids = stage.yeta.ids_of(NUMBER);
    stage.disk.kill();
    gateway.end.cancel();
    plain.abort();
    stage.clock_off.store(clock_off, Ordering::SeqCst);
    let gateway = stage.open().await;
    push(
        &gateway.submissions,
        &stage.record(&ids[0], "900", &[NUMBER, "v"]),
    )
    .await;
    state(&gateway.submissions, "t").await
}

// Promise 2, whatever the clock does.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_behind_at_a_start_makes_no_record_certain() {
    assert_eq!(killed_plain_call(0).await, SubmissionState::Unknown);
    assert_eq!(
        killed_plain_call(-3 * 3_600_000).await,
        SubmissionState::Unknown
    );
}

// a push waits no longer than its deadline.
#[tokio::test(start_paused = true)]
async fn a_push_waits_for_evidence_no_longer_than_until_its_deadline() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    stage.yeta.next(Act::Lose);
    let request = call_out("t", &[NUMBER, "v"]);
    let lost = gateway.submissions.submit(CALLER, &request, None);
    assert!(matches!(lost.await, Err(SubmissionsError::Unknown(_))));
    let _busy = gateway.submissions.ledger.lock("a").await;
    let record = stage.record("77", "900", &[NUMBER, "v"]);
    let pushed = timeout(Duration::from_secs(30), push(&gateway.submissions, &record));
    assert!(
        pushed.await.is_ok(),
        "waits for the account's lock for ever"
    );
}

// expiry forgets a record that has changed since it was read.
#[tokio::test(start_paused = true)]
async fn expiry_does_not_forget_a_request_that_is_sent_again_meanwhile() {
    let mut stage = Stage::new();
    stage.options.keep = Duration::from_secs(90);
    let gateway = stage.open().await;
    let gateway = &gateway.submissions;
    for at in 0..40 {
        let request = call_out(&format!("old-{at}"), &[&format!("1370000{at:04}"), "v"]);
        gateway.submit(CALLER, &request, None).await.unwrap();
    }
    stage.yeta.next(Act::Lose);
    let request = call_out("t", &[NUMBER, "v"]);
    let lost = gateway.submit(CALLER, &request, None);
    assert!(matches!(lost.await, Err(SubmissionsError::Unknown(_))));
    let settle = SettleSubmissionRequest {
        which: Some(Which::RequestId("t".to_owned())),
        outcome: Some(Settled::NotSent(SettledNotSent {})),
        reason: "the platform has nothing".to_owned(),
        ..SettleSubmissionRequest::default()
    };
    gateway.settle("a", "b", &settle).await.unwrap();
    // The client asks again just as the sweep has read the record.
    let read = Arc::new(Notify::new());
    let (key, is_read) = (super::Key::of_request("a", "b", "t").note(), read.clone());
    stage.disk.set_faults(Some(Box::new(move |op| {
        if let Op::GetMany(keys) = op
            && keys.len() > 20
            && keys.contains(&key)
        {
            is_read.notify_one();
        }
        Fault::None
    })));
    // The sweep at 60 s finds it young, the one at 120 s old.
    read.notified().await;
    // The answer comes before the sweep comes to the record.
    stage
        .yeta
        .next(Act::AcceptWhen(Arc::new(Semaphore::new(1))));
    read.notified().await;
    let first = gateway.submit(CALLER, &request, None).await.unwrap();
    println!("sent again: {first:?}");
    sleep(Duration::from_secs(5)).await;
    println!("state: {:?}", state(gateway, "t").await);
    let second = gateway.submit(CALLER, &request, None).await.unwrap();
    println!("repeated: {second:?}");
    assert_eq!(stage.yeta.ids_of(NUMBER).len(), 1, "dialled twice");
}

// markers.
#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_before_the_marker_is_written_leaves_none() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    stage.disk.set_faults(Some(Box::new(|op| match op {
        Op::Change { changes, .. }
            if changes[0].key.starts_with("untracked/") && changes[0].value.is_some() =>
        {
            Fault::Hang
        }
        _ => Fault::None,
    })));
    let request = insert(&[NUMBER, "v"]);
    let plain = gateway.submissions.submit(CALLER, &request, None);
    assert!(timeout(Duration::from_millis(100), plain).await.is_err());
    stage.disk.set_faults(None);
    sleep(Duration::from_secs(600)).await;
    assert!(
        !gateway.submissions.ledger.trust.has_markers(),
        "a marker for ever"
    );
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_leaves_no_marker() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    let request = insert(&[NUMBER, "v"]);
    gateway
        .submissions
        .submit(CALLER, &request, None)
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    gateway.submissions.finish().await;
    gateway.end.cancel();
    gateway.running.await.unwrap();
    let store = MemoryStore::open(stage.disk.clone(), stage.options.clock.clone());
    let left = store.list("untracked/", "", 10).await.unwrap();
    assert_eq!(left, [], "evidence about the task is never trusted again");
}

// Promise 1/3: an unreadable record may have been sent.
#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_kept_as_long_as_any() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    let request = call_out("t", &[NUMBER, "v"]);
    // The gateway has run for two days.
    sleep(Duration::from_hours(48)).await;
    gateway
        .submissions
        .submit(CALLER, &request, None)
        .await
        .unwrap();
    let key = super::Key::of_request("a", "b", "t").note();
    gateway
        .submissions
        .ledger
        .notes
        .put(&key, vec![0xff; 9])
        .await
        .unwrap();
    let repeated = gateway.submissions.submit(CALLER, &request, None).await;
    assert!(
        matches!(repeated, Err(SubmissionsError::Unknown(_))),
        "{repeated:?}"
    );
    sleep(Duration::from_secs(120)).await;
    let repeated = gateway.submissions.submit(CALLER, &request, None).await;
    println!("{repeated:?}");
    assert_eq!(stage.yeta.ids_of(NUMBER).len(), 1, "dialled twice");
}

// evidence that comes while the outcome is being written counts.
#[tokio::test(start_paused = true)]
async fn evidence_heard_while_an_outcome_is_written_is_kept() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    let gateway = &gateway.submissions;
    let is_down = Arc::new(AtomicBool::new(false));
    let down = is_down.clone();
    stage.disk.set_faults(Some(Box::new(move |op| {
        let is_outcome = matches!(op, Op::Change { changes, .. } if changes.iter().any(|it| it.key.starts_with("submission/")));
        if is_outcome && down.load(Ordering::SeqCst) { Fault::FailBefore } else { Fault::None }
    })));
    stage.yeta.next(Act::AcceptAndBreak);
    let submitted = {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let request = call_out("t", &[NUMBER, "v"]);
            gateway.submit(CALLER, &request, None).await
        })
    };
    // The intent is written, then the store takes nothing.
    while stage.yeta.ids_of(NUMBER).is_empty() {
        tokio::task::yield_now().await;
    }
    is_down.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(1)).await;
    let ids = stage.yeta.ids_of(NUMBER);
    push(gateway, &stage.record(&ids[0], "900", &[NUMBER, "v"])).await;
    is_down.store(false, Ordering::SeqCst);
    let ended = submitted.await.unwrap();
    println!("{ended:?}");
    assert_eq!(state(gateway, "t").await, SubmissionState::Accepted);
}

// what one refused insert shows is taken for the rule of the next.
#[tokio::test(start_paused = true)]
async fn an_insert_is_halved_only_if_that_very_insert_has_left_nothing() {
    use super::simulation::book;
    let world = Arc::new(book::World::new(
        1,
        book::Weather {
            faults: 0,
            storm: false,
            keeps_good_rows: true,
        },
    ));
    let task = world.book().make_by_hand("rows", json!({}));
    let stage = Stage::new();
    let line = Arc::new(book::Line {
        world: world.clone(),
        alive: Arc::new(AtomicBool::new(true)),
    });
    let gateway = stage.open_with(line).await;
    let header = UploadHeader {
        target: Some(Target::TaskId(task)),
        ..header()
    };
    let mut session = gateway
        .submissions
        .upload(CALLER, header, CancellationToken::new())
        .await
        .unwrap();
    let mut events = session.events().unwrap();
    // Two bad rows: refused, and the task has grown by none.
    session
        .take(vec![
            row("bad-1", "19900000001"),
            row("bad-2", "19900000002"),
        ])
        .await
        .unwrap();
    session.flush().await.unwrap();
    session.wait_for_batches().await;
    // A bad row among good ones: refused, and the good ones were kept.
    let good = (0..7).map(|at| row(&format!("good-{at}"), &format!("1380013800{at}")));
    let rows = good.chain([row("bad-3", "19900000003")]).collect();
    session.take(rows).await.unwrap();
    session.finish().await.unwrap();
    while let Ok(UploadEvent::Row(row)) = events.try_recv() {
        println!("{}: {:?}", row.row_key, row.outcome);
    }
    let mut dialled = std::collections::BTreeMap::new();
    for row in &world.book().rows {
        *dialled.entry(row.values[0].clone()).or_insert(0) += 1;
    }
    println!("{dialled:?}");
    assert!(
        dialled.values().all(|times| *times <= 1),
        "dialled twice: {dialled:?}"
    );
}

// without heads a record's values fit rows of other columns, which are no twins.
#[tokio::test(start_paused = true)]
async fn a_record_without_heads_settles_no_row_whose_values_another_has_in_other_columns() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    let gateway = &gateway.submissions;
    stage.yeta.next(Act::Lose);
    let first = call_out("a-first", &[NUMBER, "v"]);
    let _ = gateway.submit(CALLER, &first, None).await;
    stage.yeta.next(Act::AcceptAndBreak);
    let second = CallOutRequest {
        call_column: vec!["phone".to_owned(), "city".to_owned()],
        ..call_out("b-second", &[NUMBER, "v"])
    };
    let _ = gateway.submit(CALLER, &second, None).await;
    let ids = stage.yeta.ids_of(NUMBER);
    assert_eq!(ids.len(), 1);
    let record = CallRecord {
        task_row_head: Vec::new(),
        ..stage.record(&ids[0], "900", &[NUMBER, "v"])
    };
    push(gateway, &record).await;
    let states = (
        state(gateway, "a-first").await,
        state(gateway, "b-second").await,
    );
    println!("{states:?}");
    assert_ne!(states.0, SubmissionState::Accepted);
}

// unknown outcomes without an id are bounded, too.
#[tokio::test(start_paused = true)]
async fn the_unknown_outcomes_of_plain_creations_and_calls_are_bounded() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    let gateway = &gateway.submissions;
    let index = &gateway.ledger.index;
    let mut record = super::record::Record::new(crate::proto::Submission::default());
    record.get_mut().set_state(SubmissionState::Unknown);
    let mut request = call_out("", &[NUMBER, "v"]);
    request.call_list = vec![request.call_list[0].clone(); 50];
    record.get_mut().request = Some(crate::proto::submission::Request::CallOut(request));
    for at in 0..(super::open::MAX_UNKNOWN_ROWS / 50) {
        let key = super::Key {
            account: "a".to_owned(),
            name: format!("p.{at}"),
        };
        let mut record = record.clone();
        // Numbers of their own, so that this test is quick.
        if let Some(crate::proto::submission::Request::CallOut(request)) =
            &mut record.get_mut().request
        {
            for (row, values) in request.call_list.iter_mut().enumerate() {
                values.values[0] = format!("13{:09}", at * 50 + row);
            }
        }
        index.update(&key, &record);
    }
    assert!(index.is_full("a"));
    let before = index.unknown("a");
    stage.yeta.next(Act::AcceptAndBreak);
    let _ = gateway
        .submit(CALLER, &call_out("", &[NUMBER, "v"]), None)
        .await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(index.unknown("a"), before, "grows without an end");
}

// a person gives a task that is known to be another submission's.
#[tokio::test(start_paused = true)]
async fn a_claimed_task_is_no_outcome_of_another_submission() {
    use super::simulation::book;
    use crate::proto::{CreateTaskRequest, SettledAccepted};
    let weather = book::Weather {
        faults: 0,
        storm: false,
        keeps_good_rows: false,
    };
    let world = Arc::new(book::World::new(1, weather));
    let stage = Stage::new();
    let line = Arc::new(book::Line {
        world: world.clone(),
        alive: Arc::new(AtomicBool::new(true)),
    });
    let gateway = stage.open_with(line).await;
    let gateway = &gateway.submissions;
    let create = |id: &str| CreateTaskRequest {
        request_id: id.to_owned(),
        task_name: format!("task {id}"),
        ..CreateTaskRequest::default()
    };
    let first = gateway
        .submit(CALLER, &create("first"), None)
        .await
        .unwrap();
    world.weather.lock().unwrap().storm = true;
    let second = gateway.submit(CALLER, &create("second"), None).await;
    assert!(
        matches!(second, Err(SubmissionsError::Unknown(_))),
        "{second:?}"
    );
    let settle = SettleSubmissionRequest {
        which: Some(Which::RequestId("second".to_owned())),
        outcome: Some(Settled::Accepted(SettledAccepted {
            task_id: first.task_id.clone(),
            ..SettledAccepted::default()
        })),
        ..SettleSubmissionRequest::default()
    };
    let settled = gateway.settle("a", "b", &settle).await;
    assert!(
        matches!(settled, Err(SubmissionsError::ClaimedId(_))),
        "{settled:?}"
    );
}

// what stood in the way of evidence is gone, and the evidence counts.
#[tokio::test(start_paused = true)]
async fn evidence_counts_once_a_plain_twin_has_another_id() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    let gateway = &gateway.submissions;
    stage.yeta.next(Act::AcceptAndBreak);
    let _ = gateway
        .submit(CALLER, &call_out("t", &[NUMBER, "v"]), None)
        .await;
    let own = stage.yeta.ids_of(NUMBER)[0].clone();
    let answer = Arc::new(Semaphore::new(0));
    stage.yeta.next(Act::AcceptWhen(answer.clone()));
    let plain = call_plainly(gateway);
    sleep(Duration::from_millis(50)).await;
    push(gateway, &stage.record(&own, "900", &[NUMBER, "v"])).await;
    answer.add_permits(1);
    plain.await.unwrap().unwrap();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(state(gateway, "t").await, SubmissionState::Accepted);
}

// a stop does not wait for a store that takes nothing.
#[tokio::test(start_paused = true)]
async fn a_stop_comes_to_its_end_although_the_store_takes_no_answers() {
    let stage = Stage::new();
    let gateway = stage.open().await;
    stage.disk.set_faults(Some(Box::new(|op| match op {
        Op::Change { changes, .. } if !changes[0].key.starts_with("untracked/") => {
            Fault::FailBefore
        }
        _ => Fault::None,
    })));
    let request = call_out("", &[NUMBER, "v"]);
    gateway
        .submissions
        .submit(CALLER, &request, None)
        .await
        .unwrap();
    sleep(Duration::from_secs(5)).await;
    gateway.end.cancel();
    let stopped = timeout(Duration::from_secs(600), gateway.running).await;
    assert!(stopped.is_ok(), "the process does not end");
}

#[tokio::test(start_paused = true)]
async fn a_stream_waits_no_longer_than_patience_for_the_rows_of_an_earlier_one() {
    let mut stage = Stage::new();
    // Less than the platform gets for an answer.
    stage.options.uploads.patience = Duration::from_secs(5);
    let gateway = stage.open().await;
    let gateway = &gateway.submissions;
    let begin = || gateway.upload(CALLER, header(), CancellationToken::new());
    let answer = Arc::new(Semaphore::new(0));
    stage.yeta.next(Act::AcceptWhen(answer.clone()));
    let mut first = begin().await.unwrap();
    first.take(vec![row("k", NUMBER)]).await.unwrap();
    first.flush().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    drop(first);
    let second = timeout(Duration::from_secs(60), begin()).await;
    let second = second.expect("an end of the wait").map(|_| ());
    assert!(
        matches!(second, Err(SubmissionsError::Unavailable(_))),
        "{second:?}"
    );
    answer.add_permits(1);
    assert_eq!(
        upload_one(gateway, "k", NUMBER).await,
        (RowOutcome::Accepted("1000".to_owned()), true)
    );
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_not_forgotten_while_evidence_about_it_is_weighed() {
    let mut stage = Stage::new();
    stage.options.keep_rows = Duration::from_secs(90);
    let gateway = stage.open().await;
    stage.yeta.next(Act::Lose);
    upload_one(&gateway.submissions, "k", NUMBER).await;
    let ledger = &gateway.submissions.ledger;
    let batches = async || {
        ledger
            .notes
            .list("submission/a/u.", "", 9)
            .await
            .unwrap()
            .len()
    };
    let weighing = ledger.lock("a").await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(batches().await, 1);
    drop(weighing);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(batches().await, 0);
}
