//! Builds the gateway's parts, serves on listeners that are already bound, and stops in order.
//!
//! The one place that knows which engine the store has.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::admin::{self, Ready};
use crate::backfill::metrics::BackfillMetrics;
use crate::backfill::{self, Backfill};
use crate::calls::metrics::CallsMetrics;
use crate::calls::{self, Assembler, AssemblerOptions, Calls};
use crate::config::Config;
use crate::edge::metrics::EdgeMetrics;
use crate::edge::{Edge, EdgeConfig};
use crate::grpc::auth::Clients;
use crate::grpc::observe::GrpcMetrics;
use crate::grpc::server::{GrpcServer, ServeError};
use crate::http_server;
use crate::platform::{
    DownloadConfig, Downloads, Platform, PlatformConfig, PlatformMetrics, WireError,
};
use crate::provider::metrics::ProviderMetrics;
use crate::provider::{EndpointError, Providers};
use crate::relay::metrics::{RelayMetrics, SubscriptionMetrics};
use crate::relay::watch::{Limits, Watch};
use crate::store::PushLog as _;
use crate::store::embedded::metrics::StoreMetrics;
use crate::store::embedded::subscriptions::EmbeddedSubscriptions;
use crate::store::embedded::{EmbeddedLog, OpenError, Options};
use crate::store::subscriptions::{SubscriptionError, Subscriptions as _};
use crate::submissions::metrics::SubmissionsMetrics;
use crate::submissions::{self, RowKeys, Submissions, SubmissionsError, UploadOptions};
use crate::voice::metrics::VoiceMetrics;
use crate::voice::{
    self, Archive, ArchiveError, ArchiveOptions, Archivist, ArchivistOptions, S3Options,
    ServerError, ServerOptions, VoiceServer,
};

/// Why the gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A listener's address cannot be had; choose another, or stop who has it.
    #[error("cannot listen on {address} ({key}): {error}")]
    Bind {
        /// The setting that names the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The calls that were put together cannot be opened.
    #[error(transparent)]
    Calls(#[from] calls::OpenError),
    /// What was submitted cannot be taken up.
    #[error(transparent)]
    Submissions(#[from] SubmissionsError),
    /// The voice server cannot be used.
    #[error(transparent)]
    Voice(#[from] ServerError),
    /// Recordings cannot be kept where they are to be.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Durable subscriptions cannot be changed.
    #[error(transparent)]
    Subscriptions(#[from] SubscriptionError),
    /// The platform's address is not usable.
    #[error(transparent)]
    Platform(#[from] WireError),
    /// A provider cannot be asked.
    #[error("dialog_context: {0}")]
    Provider(#[from] EndpointError),
    /// The gRPC server failed.
    #[error(transparent)]
    Grpc(#[from] ServeError),
}

/// The three sockets that the gateway serves on.
#[derive(Debug)]
pub struct Listeners {
    /// For services.
    pub grpc: TcpListener,
    /// For the platform.
    pub push: TcpListener,
    /// For probes and metrics.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds what the configuration names.
    pub async fn bind(config: &Config) -> Result<Self, AppError> {
        Ok(Self {
            grpc: bind("grpc.listen", config.grpc.listen).await?,
            push: bind("push.listen", config.push.listen).await?,
            admin: bind("admin.listen", config.admin.listen).await?,
        })
    }

    fn announce(&self) {
        for (name, listener) in [
            ("grpc", &self.grpc),
            ("push", &self.push),
            ("admin", &self.admin),
        ] {
            if let Ok(address) = listener.local_addr() {
                tracing::info!(listener = name, %address, "{name} listening on {address}");
            }
        }
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| AppError::Bind {
            key,
            address,
            error,
        })
}

/// Runs the gateway until `shutdown` resolves and everything under way has ended.
pub async fn run(
    config: Config,
    listeners: Listeners,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AppError> {
    let mut registry = Registry::with_prefix("yeta_gateway");
    let metrics = Metrics::register(&mut registry);
    listeners.announce();
    if config.accounts.is_empty() {
        tracing::warn!("no [[accounts]] are configured: nothing can be called or pushed");
    }

    let store = Store::open(&config, &mut registry).await?;
    let (log, subscriptions, calls) = store.parts();
    let accounts: Vec<Arc<Account>> = config.accounts.iter().cloned().map(Arc::new).collect();
    let platform = platform_config(&config);
    let platform = Platform::new(&platform, accounts.clone(), metrics.platform)?;
    let platform = Arc::new(platform);
    let submissions = Submissions::open(
        log.clone(),
        log.clone(),
        platform.clone(),
        submissions_options(&config),
        metrics.submissions,
    );
    let submissions = Arc::new(submissions.await?);
    let edge = Edge::new(
        edge_config(&config),
        accounts,
        log.clone(),
        submissions.row_keys(),
        Providers::new(config.dialog_context.clone(), &metrics.provider)?,
        metrics.edge,
    );
    let row_keys = submissions.row_keys();
    let backfill = backfill_of(&config, &platform, &log, row_keys, metrics.backfill)?;
    let voices = VoiceServer::new(&voice_server_options(&config), metrics.voice.clone())?;
    let voices = Arc::new(voices);
    let archivist = archivist(&config, &store, &voices, metrics.voice).await?;
    let drain = CancellationToken::new();
    let grpc = GrpcServer {
        clients: Arc::new(Clients::new(&config.clients, account_names(&config))),
        platform: platform.clone(),
        submissions: submissions.clone(),
        log: log.clone(),
        notes: log.clone(),
        calls: calls.clone(),
        subscriptions: subscriptions.clone(),
        backfill: backfill.clone(),
        voices,
        drain: drain.clone(),
        metrics: metrics.grpc,
        relay_metrics: metrics.relay,
        max_concurrent_requests: config.grpc.max_concurrent_requests,
        max_request_bytes: config.grpc.max_request_bytes,
    };

    let ready = Ready::default();
    let admin = admin::router(ready.clone(), Arc::new(registry));
    let watch = Watch::new(
        log.clone(),
        subscriptions.clone(),
        metrics.subscriptions,
        limits(&config, log.clone()),
    );
    let background = Background::start(
        listeners.admin,
        admin,
        log.clone(),
        config.store.retention,
        watch,
    );
    let assembler = assembler(&config, &store, metrics.calls);
    let assembling = Task::start(|end| assembler.run(end));
    let archiving = archivist.map(|archivist| Task::start(|end| archivist.run(end)));
    let errands = errands(&config, &submissions, backfill);
    let push = edge.router();
    let push = http_server::serve(listeners.push, push, drain.clone().cancelled_owned());
    let grpc = async {
        let ended = grpc.serve(listeners.grpc).await;
        // Ends early only if it failed: the gateway does not go on by halves.
        drain.cancel();
        ended
    };
    let mut fronts = std::pin::pin!(async { tokio::join!(push, grpc).1 });
    ready.set(true);
    tracing::info!("ready");
    let stopped = tokio::select! {
        stopped = &mut fronts => stopped,
        () = shutdown => {
            tracing::info!(grace = ?config.shutdown_grace, "draining");
            ready.set(false);
            drain.cancel();
            finish(fronts, &platform, &submissions, config.shutdown_grace).await
        }
    };

    ready.set(false);
    errands.stop().await;
    if let Some(archiving) = archiving {
        archiving.stop().await;
    }
    assembling.stop().await;
    store.close().await;
    background.stop().await;
    tracing::info!("stopped");
    Ok(stopped?)
}

/// What is kept on disk.
struct Store {
    log: Arc<EmbeddedLog>,
    subscriptions: Arc<EmbeddedSubscriptions>,
    calls: Arc<Calls>,
}

impl Store {
    async fn open(config: &Config, registry: &mut Registry) -> Result<Self, AppError> {
        let log = Arc::new(EmbeddedLog::open(store_options(config)).await?);
        StoreMetrics::register(registry, log.clone());
        let subscriptions = EmbeddedSubscriptions::open(log.clone(), config.subscriptions.max);
        Ok(Self {
            subscriptions: Arc::new(subscriptions.await?),
            calls: Arc::new(Calls::open(&config.store.path.join("calls"))?),
            log,
        })
    }

    fn parts(&self) -> (Arc<EmbeddedLog>, Arc<EmbeddedSubscriptions>, Arc<Calls>) {
        let (log, subscriptions) = (self.log.clone(), self.subscriptions.clone());
        (log, subscriptions, self.calls.clone())
    }

    /// Closes everything; the log last, as the others write into it.
    async fn close(&self) {
        self.calls.close().await;
        self.subscriptions.close().await;
        self.log.close().await;
    }
}

/// What goes on until the very end: probes and metrics, the retention of the log, and the watch
/// over subscriptions.
struct Background {
    end: CancellationToken,
    admin: JoinHandle<()>,
    retention: JoinHandle<()>,
    watch: JoinHandle<()>,
}

impl Background {
    fn start(
        listener: TcpListener,
        admin: Router,
        log: Arc<EmbeddedLog>,
        retention: Duration,
        watch: Watch,
    ) -> Self {
        let end = CancellationToken::new();
        let admin = http_server::serve(listener, admin, end.clone().cancelled_owned());
        Self {
            admin: tokio::spawn(admin),
            retention: tokio::spawn(retire(log, retention, end.clone())),
            watch: tokio::spawn(watch.run(end.clone())),
            end,
        }
    }

    async fn stop(self) {
        self.end.cancel();
        // A panic in one of them has been reported; the gateway ends either way.
        let _ = tokio::join!(self.admin, self.retention, self.watch);
    }
}

/// Work that goes on as long as anything can come in.
struct Task {
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Task {
    fn start<F>(work: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let end = CancellationToken::new();
        Self {
            task: tokio::spawn(work(end.clone())),
            end,
        }
    }

    async fn stop(self) {
        self.end.cancel();
        // A panic in it has been reported; the gateway ends either way.
        let _ = self.task.await;
    }
}

/// Gives what is under way until the grace is over.
async fn finish(
    fronts: impl Future<Output = Result<(), ServeError>>,
    platform: &Platform,
    submissions: &Submissions,
    grace: Duration,
) -> Result<(), ServeError> {
    let now = Instant::now();
    // The last fifth is for what has gone out: its outcome must be written down.
    let stopped = timeout_at(now + grace * 4 / 5, fronts).await;
    if stopped.is_err() {
        tracing::warn!("some requests were cut off: they did not end within shutdown_grace");
    }
    let finish = async { tokio::join!(platform.finish(), submissions.finish()) };
    if timeout_at(now + grace, finish).await.is_err() {
        tracing::warn!("some submissions were still without an outcome");
    }
    stopped.unwrap_or(Ok(()))
}

/// Everything that is counted, room by room.
struct Metrics {
    grpc: GrpcMetrics,
    edge: EdgeMetrics,
    relay: RelayMetrics,
    subscriptions: SubscriptionMetrics,
    platform: PlatformMetrics,
    provider: ProviderMetrics,
    calls: CallsMetrics,
    submissions: SubmissionsMetrics,
    backfill: BackfillMetrics,
    voice: VoiceMetrics,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        Self {
            grpc: GrpcMetrics::register(registry),
            edge: EdgeMetrics::register(registry),
            relay: RelayMetrics::register(registry),
            subscriptions: SubscriptionMetrics::register(registry),
            platform: PlatformMetrics::register(registry),
            provider: ProviderMetrics::register(registry),
            calls: CallsMetrics::register(registry),
            submissions: SubmissionsMetrics::register(registry),
            backfill: BackfillMetrics::register(registry),
            voice: VoiceMetrics::register(registry),
        }
    }
}

/// Applies retention now and then, until told to stop.
async fn retire(log: Arc<EmbeddedLog>, retention: Duration, end: CancellationToken) {
    const OFTEN: Duration = Duration::from_secs(1);
    const SELDOM: Duration = Duration::from_secs(30);
    let mut ticks = interval((retention / 100).clamp(OFTEN, SELDOM));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = ticks.tick() => log.retire().await,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rough measure")]
fn limits(config: &Config, log: Arc<EmbeddedLog>) -> Limits {
    let most = config.store.retention_bytes;
    Limits {
        stuck_after: config.subscriptions.stuck_after,
        retention: config.store.retention,
        fullness: Box::new(move || match most {
            0 => 0.0,
            most => log.stats().bytes as f64 / most as f64,
        }),
    }
}

/// Who keeps recordings, if they are to be kept.
async fn archivist(
    config: &Config,
    store: &Store,
    voices: &Arc<VoiceServer>,
    metrics: VoiceMetrics,
) -> Result<Option<Archivist>, AppError> {
    let voice = &config.voice;
    let (log, subscriptions, calls) = store.parts();
    if voice.archive.is_empty() {
        voice::forget(subscriptions.as_ref()).await?;
        return Ok(None);
    }
    let archive = Archive::open(&ArchiveOptions {
        url: voice.archive.clone(),
        s3: S3Options {
            endpoint: voice.s3.endpoint.clone(),
            region: voice.s3.region.clone(),
            keys: voice.s3.keys.clone(),
        },
    })?;
    let options = ArchivistOptions {
        name: voice.name.clone(),
        retry_for: voice.retry_for,
        retry_after: voice.retry_after,
        at_once: voice.max_concurrent,
        clock: Arc::new(SystemTime::now),
    };
    Ok(Some(Archivist::new(
        archive,
        voices.clone(),
        calls,
        log.clone(),
        subscriptions,
        log,
        options,
        metrics,
    )))
}

fn voice_server_options(config: &Config) -> ServerOptions {
    ServerOptions {
        base_url: config.platform.voice_base_url.to_string(),
        connect_timeout: config.platform.connect_timeout,
        stall_timeout: config.voice.stall_timeout,
    }
}

fn account_names(config: &Config) -> Vec<String> {
    config
        .accounts
        .iter()
        .map(|account| account.name.clone())
        .collect()
}

fn store_options(config: &Config) -> Options {
    Options {
        retention: config.store.retention,
        retention_bytes: config.store.retention_bytes,
        ..Options::new(&config.store.path)
    }
}

fn assembler(config: &Config, store: &Store, metrics: CallsMetrics) -> Assembler {
    let (log, subscriptions, calls) = store.parts();
    let options = AssemblerOptions {
        wait: config.calls.wait,
        clock: Arc::new(SystemTime::now),
    };
    Assembler::new(calls, log.clone(), subscriptions, log, options, metrics)
}

fn submissions_options(config: &Config) -> submissions::Options {
    let submissions = &config.submissions;
    submissions::Options {
        keep: submissions.keep,
        keep_rows: submissions.keep_rows,
        numbers: submissions.numbers,
        uploads: UploadOptions {
            duplicate_numbers: submissions.duplicate_numbers,
            duplicate_row_keys: submissions.duplicate_row_keys,
            max_batches: submissions.max_batches,
            patience: submissions.patience,
        },
        accounts: account_names(config),
        clock: Arc::new(SystemTime::now),
    }
}

/// What the gateway asks of the platform without being asked itself.
fn errands(config: &Config, submissions: &Arc<Submissions>, backfill: Arc<Backfill>) -> Task {
    let is_backfilling = config.backfill.enabled;
    let submissions = submissions.clone();
    Task::start(|end| async move {
        let backfilling = async {
            if is_backfilling {
                backfill.run(end.clone()).await;
            }
        };
        tokio::join!(submissions.run(end.clone()), backfilling);
    })
}

/// The way from the platform's files into the log.
fn backfill_of(
    config: &Config,
    platform: &Arc<Platform>,
    log: &Arc<EmbeddedLog>,
    row_keys: Arc<RowKeys>,
    metrics: BackfillMetrics,
) -> Result<Arc<Backfill>, WireError> {
    Ok(Arc::new(Backfill::new(
        platform.clone(),
        Downloads::new(&download_config(config))?,
        log.clone(),
        log.clone(),
        row_keys,
        backfill_options(config),
        metrics,
    )))
}

fn backfill_options(config: &Config) -> backfill::Options {
    backfill::Options {
        at: config.backfill.at,
        folder: config.store.path.clone(),
        retention: config.store.retention,
        voice_base_url: config.platform.voice_base_url.to_string(),
        limits: backfill::file::Limits {
            // What stands around a push on its line has room, too.
            line_bytes: config.push.max_body_bytes.saturating_add(4096),
            ..backfill::file::Limits::default()
        },
        backoff: Duration::from_mins(1),
        clock: Arc::new(SystemTime::now),
    }
}

fn download_config(config: &Config) -> DownloadConfig {
    DownloadConfig {
        base_url: config.platform.push_download_url.to_string(),
        connect_timeout: config.platform.connect_timeout,
        wait: config.platform.request_timeout,
    }
}

fn platform_config(config: &Config) -> PlatformConfig {
    let platform = &config.platform;
    PlatformConfig {
        base_url: platform.base_url.to_string(),
        path_prefix: platform.path_prefix.clone(),
        request_timeout: platform.request_timeout,
        connect_timeout: platform.connect_timeout,
        pool_idle_timeout: platform.pool_idle_timeout,
        max_requests_per_second: platform.max_requests_per_second,
        max_concurrent_requests: platform.max_concurrent_requests,
        breaker_failures: platform.breaker_failures,
        ..PlatformConfig::default()
    }
}

fn edge_config(config: &Config) -> EdgeConfig {
    EdgeConfig {
        max_body_bytes: config.push.max_body_bytes,
        max_buffered_bytes: config.push.max_buffered_bytes,
        append_timeout: config.push.append_timeout,
        voice_base_url: config.platform.voice_base_url.to_string(),
    }
}
