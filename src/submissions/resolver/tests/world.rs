use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::routing::post;
use axum::{Json, Router, extract::State};
use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::Resolver;
use crate::account::Account;
use crate::platform::{Platform, PlatformConfig, PlatformMetrics};
use crate::proto::push_event::Payload;
use crate::proto::submission::{Outcome, Request};
use crate::proto::{
    CallOutRequest, CallRecord, PushEvent, PushKind, Row, Submission, SubmissionOperation,
    SubmissionState,
};
use crate::push::{EventId, Position, StoreId};
use crate::secret::Secret;
use crate::store::embedded::{EmbeddedLog, Options};
use crate::store::{AppendError, Appended, Batch, NewEntry, PushLog, ReadError, ReadLimit};
use crate::submissions::stored::Key;
use crate::submissions::unsettled::{Open, Unsettled};

pub const ACCOUNT: &str = "default";

/// A submission's key.
pub fn key(name: &str) -> Key {
    Key {
        account: ACCOUNT.to_owned(),
        name: name.to_owned(),
    }
}

/// A ledger in memory.
#[derive(Default)]
pub struct Stub {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
pub struct Inner {
    pub submissions: BTreeMap<String, Submission>,
    pub claimed: HashSet<String>,
    /// How often something was written.
    pub writes: usize,
    /// So many writes are refused first.
    pub refuse: usize,
    /// What cannot be read.
    pub unreadable: HashSet<String>,
}

fn ids(submission: &Submission) -> &[String] {
    match &submission.outcome {
        Some(Outcome::CallOutResponse(response)) => &response.task_data_ids,
        Some(Outcome::InsertTaskDataResponse(response)) => &response.task_data_ids,
        _ => &[],
    }
}

fn is_open(submission: &Submission) -> bool {
    match submission.state() {
        SubmissionState::Unknown => true,
        SubmissionState::Accepted => ids(submission).iter().any(String::is_empty),
        _ => false,
    }
}

impl Stub {
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Lets a submission become open.
    pub fn open(&self, name: &str, submission: Submission) {
        self.inner().submissions.insert(name.to_owned(), submission);
        self.changed.send_modify(|version| *version += 1);
    }

    pub fn get(&self, name: &str) -> Submission {
        self.inner().submissions[name].clone()
    }

    /// The ids of a submission's rows, as far as they are known.
    pub fn ids(&self, name: &str) -> Vec<String> {
        ids(&self.get(name)).to_vec()
    }

    /// Waits until this is so.
    pub async fn until(&self, is_so: impl Fn(&Inner) -> bool) {
        let mut changed = self.changed.subscribe();
        changed.wait_for(|_| is_so(&self.inner())).await.unwrap();
    }

    /// Waits until a submission is known to be accepted.
    pub async fn accepted(&self, name: &str) {
        let is_so = |inner: &Inner| {
            let submission = &inner.submissions[name];
            submission.state() == SubmissionState::Accepted
        };
        self.until(is_so).await;
    }
}

#[async_trait]
impl Unsettled for Stub {
    fn open_ones(&self) -> Vec<Open> {
        let inner = self.inner();
        let open = inner.submissions.iter().filter(|(_, it)| is_open(it));
        open.map(|(name, it)| Open {
            key: key(name),
            operation: it.operation(),
            created_at_ms: u64::try_from(it.created_at.unwrap().seconds).unwrap() * 1000,
            push_cursor: it.push_cursor.clone(),
        })
        .collect()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn with_number(&self, account: &str, number: &str) -> Vec<Key> {
        assert_eq!(account, ACCOUNT);
        let inner = self.inner();
        let open = inner.submissions.iter().filter(|(_, it)| is_open(it));
        open.filter(|(_, it)| {
            let Some(Request::CallOut(request)) = &it.request else {
                return false;
            };
            request.call_list.iter().any(|row| row.values[0] == number)
        })
        .map(|(name, _)| key(name))
        .collect()
    }

    fn has_open_rows(&self, account: &str) -> bool {
        account == ACCOUNT
    }

    async fn load(&self, key: &Key) -> Result<Option<Submission>, ReadError> {
        let inner = self.inner();
        if inner.unreadable.contains(&key.name) {
            return Err(ReadError::Damaged { lost: 1..2 });
        }
        Ok(inner.submissions.get(&key.name).cloned())
    }

    async fn is_claimed(&self, _: &str, task_data_id: &str) -> Result<bool, ReadError> {
        let inner = self.inner();
        let told = |it: &Submission| ids(it).iter().any(|id| id == task_data_id);
        let is_told = inner.submissions.values().any(told);
        Ok(is_told || inner.claimed.contains(task_data_id))
    }

    async fn is_task_claimed(&self, _: &str, task_id: &str) -> Result<bool, ReadError> {
        let inner = self.inner();
        let made = |it: &Submission| match &it.outcome {
            Some(Outcome::CreateTaskResponse(response)) => response.task_id == task_id,
            _ => false,
        };
        let is_made = inner.submissions.values().any(made);
        Ok(is_made || inner.claimed.contains(task_id))
    }

    async fn until_back(&self, _: &str) {}

    async fn found(&self, key: &Key, submission: Submission) -> Result<(), AppendError> {
        {
            let mut inner = self.inner();
            if inner.refuse > 0 {
                inner.refuse -= 1;
                return Err(AppendError::Unavailable("the disk is full".to_owned()));
            }
            inner.writes += 1;
            inner.submissions.insert(key.name.clone(), submission);
        }
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }
}

/// A log that fails when it is told to, and counts how often it is read.
pub struct Log {
    inner: EmbeddedLog,
    pub faults: Mutex<VecDeque<ReadError>>,
    pub reads: AtomicUsize,
}

#[async_trait]
impl PushLog for Log {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    async fn append(&self, entries: Vec<NewEntry>) -> Result<Vec<Appended>, AppendError> {
        self.inner.append(entries).await
    }

    async fn read(&self, after: Position, limit: ReadLimit) -> Result<Batch, ReadError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let fault = self.faults.lock().unwrap().pop_front();
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.inner.read(after, limit).await
    }

    async fn seek(&self, time: SystemTime) -> Result<Position, ReadError> {
        self.inner.seek(time).await
    }

    fn end(&self) -> watch::Receiver<Position> {
        self.inner.end()
    }

    fn earliest(&self) -> Position {
        self.inner.earliest()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// The tasks that the platform has, and how often it was asked.
#[derive(Default)]
pub struct Desk {
    pub tasks: Mutex<Vec<Value>>,
    pub asked: AtomicUsize,
}

async fn query(State(desk): State<Arc<Desk>>, Json(query): Json<Value>) -> Json<Value> {
    desk.asked.fetch_add(1, Ordering::SeqCst);
    let tasks = desk.tasks.lock().unwrap();
    let name = query["task_name"].as_str().unwrap();
    let named = |task: &&Value| task["task_name"].as_str().unwrap().contains(name);
    let named: Vec<_> = tasks.iter().filter(named).collect();
    let size = query["page_size"].as_u64().unwrap();
    let skip = (query["page_index"].as_u64().unwrap() - 1) * size;
    let rows = named.iter().skip(usize::try_from(skip).unwrap());
    let rows: Vec<_> = rows.take(usize::try_from(size).unwrap()).collect();
    let result = json!({ "total_rows": named.len(), "rows": rows });
    Json(json!({ "code": 0, "message": "ok", "result": result }))
}

async fn token() -> Json<Value> {
    let result = json!({ "token": "token-1", "time_expire": 3600 });
    Json(json!({ "code": 0, "message": "ok", "result": result }))
}

async fn platform(desk: Arc<Desk>) -> Platform {
    let router = Router::new()
        .route("/openapi/oauth/v1/token", post(token))
        .route("/openapi/outbound/v1/task/query", post(query))
        .with_state(desk);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = PlatformConfig {
        base_url: format!("http://{}", listener.local_addr().unwrap()),
        ..PlatformConfig::default()
    };
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let account = Arc::new(Account {
        name: ACCOUNT.to_owned(),
        app_key: Secret::inline("key"),
        app_secret: Secret::inline("secret"),
        push_secret: Secret::inline("push"),
        allow_push_from: Vec::new(),
    });
    let metrics = PlatformMetrics::register(&mut Registry::default());
    Platform::new(&config, [account], metrics).unwrap()
}

/// A resolver and all around it.
pub struct World {
    pub stub: Arc<Stub>,
    pub log: Arc<Log>,
    pub desk: Arc<Desk>,
    pub resolver: Arc<Resolver>,
    pub stop: CancellationToken,
    pushed: AtomicUsize,
    _folder: TempDir,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inner = EmbeddedLog::open(Options::new(folder.path()))
            .await
            .unwrap();
        let log = Arc::new(Log {
            inner,
            faults: Mutex::default(),
            reads: AtomicUsize::new(0),
        });
        let (stub, desk) = (Arc::new(Stub::default()), Arc::new(Desk::default()));
        let platform = Arc::new(platform(desk.clone()).await);
        let mut resolver = Resolver::new(stub.clone(), log.clone(), platform, Counter::default());
        resolver.first_look = Duration::from_millis(1);
        Self {
            stub,
            log,
            desk,
            resolver: Arc::new(resolver),
            stop: CancellationToken::new(),
            pushed: AtomicUsize::new(0),
            _folder: folder,
        }
    }

    /// Lets the resolver run.
    pub fn run(&self) -> JoinHandle<()> {
        let (resolver, stop) = (self.resolver.clone(), self.stop.clone());
        tokio::spawn(async move { resolver.run(stop).await })
    }

    /// The cursor of the log's end.
    pub fn cursor(&self) -> String {
        let end = *self.log.end().borrow();
        self.log.cursor(end).to_string()
    }

    /// A CallOut that was not answered, sent now.
    pub fn call_out(&self, rows: &[[&str; 2]]) -> Submission {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let request = CallOutRequest {
            call_column: texts(&["phone", "name"]),
            call_list: rows.iter().map(|row| Row { values: texts(row) }).collect(),
            ..CallOutRequest::default()
        };
        Submission {
            operation: SubmissionOperation::CallOut.into(),
            push_cursor: self.cursor(),
            request: Some(Request::CallOut(request)),
            ..unknown()
        }
    }

    /// Stores the record of a call that was dialled after everything else.
    pub async fn push(&self, task_data_id: &str, row: [&str; 2]) {
        let record = CallRecord {
            call_uuid: format!("call of {task_data_id}"),
            callee: row[0].to_owned(),
            task_data_id: task_data_id.to_owned(),
            time_dial: Some(i64::MAX),
            task_row_head: ["phone", "name"].map(str::to_owned).to_vec(),
            task_row_value: row.map(str::to_owned).to_vec(),
            ..CallRecord::default()
        };
        let event = PushEvent {
            account: ACCOUNT.to_owned(),
            kind: PushKind::CallRecord.into(),
            payload: Some(Payload::CallRecord(record)),
            ..PushEvent::default()
        };
        let number = self.pushed.fetch_add(1, Ordering::SeqCst);
        let entry = NewEntry {
            id: EventId::of_raw(ACCOUNT, "receiveCallRecord", &number.to_be_bytes()),
            event: event.encode_to_vec().into(),
            raw: Bytes::new(),
        };
        self.log.append(vec![entry]).await.unwrap();
    }
}

/// A submission that was not answered.
pub fn unknown() -> Submission {
    Submission {
        state: SubmissionState::Unknown.into(),
        account: ACCOUNT.to_owned(),
        created_at: Some(SystemTime::now().into()),
        unknown_because: "the connection was lost".to_owned(),
        timed_out: true,
        ..Submission::default()
    }
}
