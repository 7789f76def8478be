//! Builds the gateway's parts, serves on listeners that are already bound, and stops in order.
//!
//! The one place that knows which engine the store has.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use crate::account::Account;
use crate::admin::{self, Ready};
use crate::config::Config;
use crate::edge::metrics::EdgeMetrics;
use crate::edge::{Edge, EdgeConfig};
use crate::grpc::auth::Clients;
use crate::grpc::observe::{GrpcMetrics, ObserveLayer};
use crate::grpc::overload::OverloadLayer;
use crate::grpc::{self, LogEnd};
use crate::http_server;
use crate::platform::{Platform, PlatformConfig, PlatformMetrics, WireError};
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::relay::metrics::RelayMetrics;
use crate::store::PushLog;
use crate::store::embedded::metrics::StoreMetrics;
use crate::store::embedded::{EmbeddedLog, OpenError, Options};

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
    /// The platform's address is not usable.
    #[error(transparent)]
    Platform(#[from] WireError),
    /// Server reflection could not be built from the compiled descriptors.
    #[error("server reflection cannot be offered: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The gRPC server failed.
    #[error("the gRPC server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
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

    let log = Arc::new(EmbeddedLog::open(store_options(&config)).await?);
    StoreMetrics::register(&mut registry, log.clone());
    let (parts, edge) = Parts::build(&config, log.clone(), metrics)?;

    // Probes and metrics answer until the very end, the retention of the log as well.
    let ready = Ready::default();
    let end = CancellationToken::new();
    let admin = admin::router(ready.clone(), Arc::new(registry));
    let admin = tokio::spawn(http_server::serve(
        listeners.admin,
        admin,
        end.clone().cancelled_owned(),
    ));
    let retention = tokio::spawn(retire(log.clone(), config.store.retention, end.clone()));

    let drain = parts.drain.clone();
    let push = edge.router();
    let push = http_server::serve(listeners.push, push, drain.clone().cancelled_owned());
    let grpc = async {
        let ended = parts.serve_grpc(&config, listeners.grpc).await;
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
            finish(fronts, &parts.platform, config.shutdown_grace).await
        }
    };

    ready.set(false);
    log.close().await;
    end.cancel();
    // A panic in one of them has been reported; the gateway ends either way.
    let _ = tokio::join!(admin, retention);
    tracing::info!("stopped");
    stopped
}

/// Gives what is under way until the grace is over.
async fn finish(
    fronts: impl Future<Output = Result<(), AppError>>,
    platform: &Platform,
    grace: Duration,
) -> Result<(), AppError> {
    let deadline = Instant::now() + grace;
    let Ok(stopped) = timeout_at(deadline, fronts).await else {
        tracing::warn!("some requests were cut off: they did not end within shutdown_grace");
        return Ok(());
    };
    if timeout_at(deadline, platform.finish()).await.is_err() {
        tracing::warn!("some submissions were still without an outcome");
    }
    stopped
}

/// Everything that is counted, room by room.
struct Metrics {
    grpc: GrpcMetrics,
    edge: EdgeMetrics,
    relay: RelayMetrics,
    platform: PlatformMetrics,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        Self {
            grpc: GrpcMetrics::register(registry),
            edge: EdgeMetrics::register(registry),
            relay: RelayMetrics::register(registry),
            platform: PlatformMetrics::register(registry),
        }
    }
}

/// The rooms, put together.
struct Parts {
    clients: Arc<Clients>,
    platform: Arc<Platform>,
    log: Arc<dyn PushLog>,
    /// Cancelled when the gateway is told to stop.
    drain: CancellationToken,
    grpc: GrpcMetrics,
    relay: RelayMetrics,
}

impl Parts {
    fn build(
        config: &Config,
        log: Arc<dyn PushLog>,
        metrics: Metrics,
    ) -> Result<(Self, Edge), AppError> {
        let accounts: Vec<Arc<Account>> = config.accounts.iter().cloned().map(Arc::new).collect();
        let names = accounts
            .iter()
            .map(|account| account.name.clone())
            .collect();
        let platform = Platform::new(
            &platform_config(config),
            accounts.iter().cloned(),
            metrics.platform,
        )?;
        let edge = Edge::new(edge_config(config), accounts, log.clone(), metrics.edge);
        let parts = Self {
            clients: Arc::new(Clients::new(&config.clients, names)),
            platform: Arc::new(platform),
            log,
            drain: CancellationToken::new(),
            grpc: metrics.grpc,
            relay: metrics.relay,
        };
        Ok((parts, edge))
    }

    async fn serve_grpc(&self, config: &Config, listener: TcpListener) -> Result<(), AppError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, ServingStatus::Serving).await;
        let log = self.log.clone();
        let log_end: LogEnd = Arc::new(move || log.cursor(*log.end().borrow()).to_string());
        let limit = config.grpc.max_request_bytes;
        let outbound = grpc::outbound_service(self.platform.clone(), self.clients.clone(), log_end);
        let pushes = grpc::push_service(
            self.log.clone(),
            self.clients.clone(),
            self.drain.clone(),
            self.relay.clone(),
        );
        let layers = ServiceBuilder::new()
            // Outermost: whatever comes of a request further in, it is counted.
            .layer(ObserveLayer(self.grpc.clone()))
            // Inside counting, so that a panic is counted as the INTERNAL that it becomes.
            .layer(CatchPanicLayer::custom(grpc::panicked))
            // Innermost: what is refused here costs nothing further in. Deadlines and rights are
            // looked at by each service, which knows what they mean for it.
            .layer(OverloadLayer::new(config.grpc.max_concurrent_requests));
        let drain = self.drain.clone();
        let draining = async move {
            drain.cancelled().await;
            set_health(&health, ServingStatus::NotServing).await;
            end_health_watches(&health).await;
        };
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .layer(layers)
            // A client that compresses whatever it sends asks these, too.
            .add_service(
                health_service
                    .accept_compressed(Gzip)
                    .accept_compressed(Zstd),
            )
            .add_service(
                reflection()
                    .build_v1()?
                    .accept_compressed(Gzip)
                    .accept_compressed(Zstd),
            )
            .add_service(
                reflection()
                    .build_v1alpha()?
                    .accept_compressed(Gzip)
                    .accept_compressed(Zstd),
            )
            .add_service(grpc::config_service(
                self.platform.clone(),
                self.clients.clone(),
            ))
            .add_service(outbound.max_decoding_message_size(limit))
            .add_service(pushes.max_decoding_message_size(limit))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                draining,
            )
            .await?;
        Ok(())
    }
}

/// A peer that has vanished without a word is noticed after these two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What health checks can ask for: the whole gateway, and each of its services.
const SERVICES: [&str; 4] = [
    "",
    "yeta.v1.ConfigService",
    "yeta.v1.OutboundService",
    "yeta.v1.PushService",
];

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}

/// Ends the streams of those who watch health, after their last word: they have no end of their
/// own, and would hold their connections open for the whole grace.
async fn end_health_watches(health: &HealthReporter) {
    let mut health = health.clone();
    for service in SERVICES {
        health.clear_service_status(service).await;
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
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

fn store_options(config: &Config) -> Options {
    Options {
        retention: config.store.retention,
        retention_bytes: config.store.retention_bytes,
        ..Options::new(&config.store.path)
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
    }
}

fn edge_config(config: &Config) -> EdgeConfig {
    EdgeConfig {
        max_body_bytes: config.push.max_body_bytes,
        max_buffered_bytes: config.push.max_buffered_bytes,
        append_timeout: config.push.append_timeout,
        voice_base_url: config.platform.voice_base_url.to_string(),
        dialog_context: config.dialog_context.fallback.clone(),
    }
}
