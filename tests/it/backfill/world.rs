//! A log with backfills into it, and a clock that the test sets.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::time::Instant;
use yeta_gateway::account::Account;
use yeta_gateway::backfill::file::Limits;
use yeta_gateway::backfill::metrics::BackfillMetrics;
use yeta_gateway::backfill::{Backfill, BackfillError, Options, Progress, Run, Turn};
use yeta_gateway::edge::reading::{Received, read};
use yeta_gateway::platform::{
    DownloadConfig, Downloads, Platform, PlatformConfig, PlatformMetrics,
};
use yeta_gateway::proto::PushEvent;
use yeta_gateway::push::Position;
use yeta_gateway::store::embedded::{self, EmbeddedLog};
use yeta_gateway::store::{PushLog, ReadLimit};
use yeta_gateway::submissions::metrics::SubmissionsMetrics;
use yeta_gateway::submissions::{self, Submissions};

use super::platform::Files;
use crate::bridge::account;
use crate::support::record;

/// 14:00 of 2026-11-21 in China.
pub const NOON: u64 = 1_795_240_800_000;
pub const HOUR: u64 = 3_600_000;
pub const DAY: u64 = 24 * HOUR;
pub const YESTERDAY: &str = "2026-11-20";

pub struct World {
    pub platform: Files,
    pub log: Arc<EmbeddedLog>,
    pub backfill: Arc<Backfill>,
    pub registry: Registry,
    now_ms: Arc<AtomicU64>,
    retention: Duration,
    limits: Limits,
    folder: TempDir,
}

impl World {
    pub async fn start() -> Self {
        Self::with(Duration::from_hours(30 * 24), Limits::default()).await
    }

    pub async fn with(retention: Duration, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now_ms = Arc::new(AtomicU64::new(NOON));
        Self::on(Files::start().await, folder, now_ms, retention, limits).await
    }

    async fn on(
        platform: Files,
        folder: TempDir,
        now_ms: Arc<AtomicU64>,
        retention: Duration,
        limits: Limits,
    ) -> Self {
        let log = open(folder.path(), retention, &now_ms).await;
        let mut registry = Registry::default();
        let options = options(folder.path(), limits, &now_ms);
        let backfill = made(&platform.base_url, &log, options, &mut registry).await;
        Self {
            platform,
            log,
            backfill,
            registry,
            now_ms,
            retention,
            limits,
            folder,
        }
    }

    /// Closes everything, and opens it again as another process would.
    pub async fn reopen(self) -> Self {
        drop(self.backfill);
        self.log.close().await;
        drop(self.log);
        let (platform, folder, now_ms) = (self.platform, self.folder, self.now_ms);
        Self::on(platform, folder, now_ms, self.retention, self.limits).await
    }

    pub fn pass(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// The time of an event that was given up so long ago.
    pub fn ago(&self, ms: u64) -> u64 {
        self.now_ms.load(Ordering::SeqCst) - ms
    }

    /// A push arrives in time.
    pub async fn push(&self, module: &str, body: &str) {
        let received = Received {
            account: "default",
            module,
            content_type: Some("application/json"),
            voice_base_url: "",
        };
        let pushes = read(&received, &body.to_owned().into());
        let entries = pushes.into_iter().map(Into::into).collect();
        self.log.append(entries).await.unwrap();
    }

    pub async fn push_call(&self, call: &str) {
        self.push("receiveCallRecord", &record(call)).await;
    }

    /// The right to read files, if nobody has it now.
    pub async fn turn(&self, account: &str) -> Result<Turn, BackfillError> {
        self.backfill.turn_by(account, Instant::now()).await
    }

    pub async fn catch_up(&self) -> Result<Progress, BackfillError> {
        self.backfill.catch_up("default").await
    }

    /// Everything that the log holds.
    pub async fn events(&self) -> Vec<PushEvent> {
        let mut events = Vec::new();
        let mut after = self.log.earliest();
        loop {
            let limit = ReadLimit {
                entries: 1000,
                bytes: 1 << 20,
            };
            let batch = self.log.read(after, limit).await.unwrap();
            let Some(last) = batch.entries.last() else {
                return events;
            };
            after = last.cursor.position;
            for entry in &batch.entries {
                let mut event = entry.decode().unwrap();
                event.raw_json = entry.raw.clone();
                events.push(event);
            }
        }
    }

    pub fn end(&self) -> Position {
        *self.log.end().borrow()
    }

    pub fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }
}

/// The sum of a backfill, and how it ended.
pub async fn ended(mut run: Run) -> (Progress, Result<(), BackfillError>) {
    let mut sum = Progress::default();
    loop {
        match run.next().await {
            Some(Ok(progress)) => sum = progress,
            Some(Err(error)) => return (sum, Err(error)),
            None => return (sum, Ok(())),
        }
    }
}

async fn open(path: &Path, retention: Duration, now_ms: &Arc<AtomicU64>) -> Arc<EmbeddedLog> {
    let options = embedded::Options {
        retention,
        ..embedded::Options::new(path).with_clock(clock(now_ms))
    };
    Arc::new(EmbeddedLog::open(options).await.unwrap())
}

fn clock(now_ms: &Arc<AtomicU64>) -> embedded::Clock {
    let now_ms = now_ms.clone();
    Arc::new(move || UNIX_EPOCH + Duration::from_millis(now_ms.load(Ordering::SeqCst)))
}

fn options(folder: &Path, limits: Limits, now_ms: &Arc<AtomicU64>) -> Options {
    Options {
        at: jiff::civil::time(6, 0, 0, 0),
        folder: folder.join("spool"),
        voice_base_url: "http://voice.example/".to_owned(),
        limits,
        backoff: Duration::from_millis(1),
        clock: clock(now_ms),
    }
}

async fn made(
    base_url: &str,
    log: &Arc<EmbeddedLog>,
    options: Options,
    registry: &mut Registry,
) -> Arc<Backfill> {
    let accounts: Vec<Arc<Account>> = vec![account("default"), account("second")];
    let config = PlatformConfig {
        base_url: base_url.to_owned(),
        ..PlatformConfig::default()
    };
    let platform = Platform::new(&config, accounts, PlatformMetrics::register(registry));
    let platform = Arc::new(platform.unwrap());
    let downloads = Downloads::new(&DownloadConfig {
        base_url: format!("{base_url}/push_download/"),
        connect_timeout: Duration::from_secs(5),
        wait: Duration::from_secs(20),
    });
    let submissions = Submissions::open(
        log.clone(),
        log.clone(),
        platform.clone(),
        submissions::Options::default(),
        SubmissionsMetrics::register(registry),
    );
    Arc::new(Backfill::new(
        platform,
        downloads.unwrap(),
        log.clone(),
        log.clone(),
        submissions.await.unwrap().row_keys(),
        options,
        BackfillMetrics::register(registry),
    ))
}

/// One for whoever needs any.
pub async fn backfill_of_nothing(log: &Arc<EmbeddedLog>, folder: &Path) -> Backfill {
    let now_ms = Arc::new(AtomicU64::new(NOON));
    let made = backfill_from("http://127.0.0.1:1", log, folder, &now_ms).await;
    Arc::into_inner(made).unwrap()
}

/// One from a platform, into a log, by a clock.
pub async fn backfill_from(
    platform: &str,
    log: &Arc<EmbeddedLog>,
    folder: &Path,
    now_ms: &Arc<AtomicU64>,
) -> Arc<Backfill> {
    let options = options(folder, Limits::default(), now_ms);
    made(platform, log, options, &mut Registry::default()).await
}
