//! Everything that keeps account of rows, before a sandbox that calls nobody, on a clock that the
//! test sets. Records come from the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use yeta_gateway::backfill::Backfill;
use yeta_gateway::calls::metrics::CallsMetrics;
use yeta_gateway::calls::{Assembler, AssemblerOptions, Calls};
use yeta_gateway::edge::reading::{Received, read};
use yeta_gateway::platform::{Operation, Platform, PlatformMetrics};
use yeta_gateway::proto::{
    CallOutRequest, CreateTaskRequest, InsertTaskDataRequest, OverdueReason, OverdueRow,
};
use yeta_gateway::reconciliation::metrics::ReconciliationMetrics;
use yeta_gateway::reconciliation::{Options, OverdueQuery, Reconciliation, Report};
use yeta_gateway::sandbox::SandboxConfig;
use yeta_gateway::store::PushLog;
use yeta_gateway::store::embedded::subscriptions::EmbeddedSubscriptions;
use yeta_gateway::store::embedded::{self, EmbeddedLog};
use yeta_gateway::submissions::metrics::SubmissionsMetrics;
use yeta_gateway::submissions::{self, Caller, Submissions};

use crate::backfill::platform::Files;
use crate::backfill::world::backfill_from;
use crate::bridge::{account, settings};
use crate::sandbox::harness::Sandbox;
use crate::submissions::stage::fast;

const CALLER: Caller<'static> = Caller {
    account: "default",
    client: "",
};
pub const MINUTE: u64 = 60_000;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// 00:00 of 2026-01-15 in China, before the sandbox's own time.
const MIDNIGHT: u64 = 1_768_406_400_000;

pub struct World {
    pub sandbox: Sandbox,
    pub files: Files,
    pub backfill: Arc<Backfill>,
    pub reconciliation: Arc<Reconciliation>,
    submissions: Arc<Submissions>,
    platform: Arc<Platform>,
    log: Arc<EmbeddedLog>,
    calls: Arc<Calls>,
    subscriptions: Arc<EmbeddedSubscriptions>,
    registry: Registry,
    noting: CancellationToken,
    assembling: Option<CancellationToken>,
    now_ms: Arc<AtomicU64>,
    folder: TempDir,
}

impl World {
    /// With calls put together; its clock stands at this hour in China.
    pub async fn start(hour: u64) -> Self {
        let mut world = Self::without_assembler(hour).await;
        world.assemble();
        world
    }

    /// Where what is pushed is not put together.
    pub async fn without_assembler(hour: u64) -> Self {
        // Tasks that are started end at once; nobody is told.
        let sandbox = SandboxConfig {
            speed: 1e9,
            push_to: Vec::new(),
            ..fast()
        };
        let sandbox = Sandbox::start(sandbox).await;
        let now_ms = Arc::new(AtomicU64::new(MIDNIGHT + hour * HOUR));
        let files = Files::start().await;
        Self::on(sandbox, files, TempDir::new().unwrap(), now_ms).await
    }

    async fn on(sandbox: Sandbox, files: Files, folder: TempDir, now_ms: Arc<AtomicU64>) -> Self {
        let mut registry = Registry::default();
        let clock: embedded::Clock = {
            let now_ms = now_ms.clone();
            Arc::new(move || UNIX_EPOCH + Duration::from_millis(now_ms.load(Ordering::SeqCst)))
        };
        let store = embedded::Options {
            retention: Duration::from_hours(60 * 24),
            ..embedded::Options::new(folder.path()).with_clock(clock.clone())
        };
        let log = Arc::new(EmbeddedLog::open(store).await.unwrap());
        let subscriptions = EmbeddedSubscriptions::open(log.clone(), 10).await.unwrap();
        let calls = Arc::new(Calls::open(&folder.path().join("calls")).unwrap());
        let metrics = PlatformMetrics::register(&mut registry);
        let platform = Platform::new(&settings(&sandbox.base), [account("default")], metrics);
        let platform = Arc::new(platform.unwrap());
        let options = submissions::Options {
            accounts: vec!["default".into()],
            clock: clock.clone(),
            ..submissions::Options::default()
        };
        let metrics = SubmissionsMetrics::register(&mut registry);
        let submissions =
            Submissions::open(log.clone(), log.clone(), platform.clone(), options, metrics).await;
        let submissions = Arc::new(submissions.unwrap());
        let (noting, end) = (submissions.clone(), CancellationToken::new());
        let until = end.clone();
        tokio::spawn(async move { noting.run(until).await });
        let backfill = backfill_from(&files.base_url, &log, folder.path(), &now_ms).await;
        let reconciliation = Reconciliation::new(
            log.clone(),
            log.clone(),
            calls.clone(),
            platform.clone(),
            Some(backfill.clone()),
            Options {
                after_task_end: Duration::from_mins(10),
                after_submission: Duration::from_hours(2),
                keep: Duration::from_hours(7 * 24),
                keep_awaited: Duration::from_hours(30 * 24),
                every: Duration::from_mins(1),
                report_at: jiff::civil::time(9, 0, 0, 0),
                clock,
            },
            ReconciliationMetrics::register(&mut registry),
        );
        Self {
            sandbox,
            files,
            backfill,
            reconciliation: Arc::new(reconciliation),
            submissions,
            platform,
            log,
            calls,
            subscriptions: Arc::new(subscriptions),
            registry,
            noting: end,
            assembling: None,
            now_ms,
            folder,
        }
    }

    /// Closes everything, and opens it again as another process would.
    pub async fn reopen(self) -> Self {
        self.noting.cancel();
        if let Some(assembling) = self.assembling {
            assembling.cancel();
        }
        self.calls.close().await;
        drop((self.reconciliation, self.backfill));
        drop((self.submissions, self.subscriptions));
        self.log.close().await;
        drop((self.log, self.calls));
        let mut world = Self::on(self.sandbox, self.files, self.folder, self.now_ms).await;
        world.assemble();
        world
    }

    /// Lets what is pushed be put together from now on.
    pub fn assemble(&mut self) {
        let end = CancellationToken::new();
        let assembler = Assembler::new(
            self.calls.clone(),
            self.log.clone(),
            self.subscriptions.clone(),
            self.log.clone(),
            AssemblerOptions::default(),
            CallsMetrics::register(&mut Registry::default()),
        );
        tokio::spawn(assembler.run(end.clone()));
        self.assembling = Some(end);
    }

    pub fn pass(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Submits rows without a request id.
    pub async fn plain(&self, request: &CallOutRequest) -> Vec<String> {
        let reply = self.submissions.submit(CALLER, request, None).await;
        reply.unwrap().task_data_ids
    }

    /// Submits rows under a request id.
    pub async fn call_out(&self, request: &CallOutRequest) -> Vec<String> {
        let reply = self.submissions.submit(CALLER, request, None).await;
        reply.unwrap().task_data_ids
    }

    pub async fn create(&self, request: &CreateTaskRequest) -> String {
        let reply = self.submissions.submit(CALLER, request, None).await;
        reply.unwrap().task_id
    }

    pub async fn insert(&self, request: &InsertTaskDataRequest) -> Vec<String> {
        let reply = self.submissions.submit(CALLER, request, None).await;
        reply.unwrap().task_data_ids
    }

    /// Asks the platform for something else.
    pub async fn ask<O: Operation>(&self, request: &O) -> O::Reply {
        self.platform.call("default", request, None).await.unwrap()
    }

    /// A push about a row comes, of a call of its own.
    pub async fn push(&self, module: &str, row: &str) {
        let body = about(row);
        let received = Received {
            account: "default",
            module,
            content_type: Some("application/json"),
            voice_base_url: "http://127.0.0.1:1/",
        };
        let pushes = read(&received, &body.into());
        let entries = pushes.into_iter().map(Into::into).collect();
        self.log.append(entries).await.unwrap();
    }

    pub async fn record(&self, row: &str) {
        self.push("receiveCallRecord", row).await;
    }

    /// Looks; gives the reports that were due.
    pub async fn look(&self) -> Vec<Report> {
        let round = self.reconciliation.round("default").await.unwrap();
        round.unwrap().reports
    }

    pub async fn overdue(&self) -> Vec<OverdueRow> {
        let query = OverdueQuery {
            size: 1000,
            ..OverdueQuery::default()
        };
        let page = self.reconciliation.list(&query).await.unwrap();
        assert_eq!(page.next, None);
        page.rows
    }

    /// Looks, and tells which rows are overdue, and why.
    pub async fn overdue_now(&self) -> Vec<(String, OverdueReason)> {
        self.look().await;
        let rows = self.overdue().await.into_iter();
        let mut rows: Vec<_> = rows
            .map(|row| (row.task_data_id.clone(), row.reason()))
            .collect();
        rows.sort();
        rows
    }

    pub fn metric(&self, line: &str) -> Option<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let mut lines = text.lines();
        lines.find_map(|found| found.strip_prefix(line).map(|it| it.trim().to_owned()))
    }
}

/// What is pushed about a row, of a call of its own.
pub fn about(row: &str) -> String {
    json!({
        "call_uuid": format!("call of {row}"),
        "task_data_id": row,
        "direction": 1,
        "callee": "13000000001",
        "url": "a.wav",
    })
    .to_string()
}
