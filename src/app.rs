//! Builds the gateway's parts, serves on listeners that are already bound, and stops in order.

mod descriptors;
mod erase;
mod listeners;
mod metrics;
mod parts;
mod reload;
mod settings;
mod store;
mod work;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub use self::erase::erase;
pub use self::listeners::Listeners;
use self::metrics::Metrics;
use self::parts::{JobParts, Parts};
use self::store::Store;
use self::work::{Job, retire};
use crate::admin::{self, Ready};
use crate::calls;
use crate::config::Config;
use crate::erase::EraseError;
use crate::grpc::server::ServeError;
use crate::hash_key::HashKeyError;
use crate::http_server;
use crate::platform::{Platform, WireError};
use crate::provider::EndpointError;
use crate::secret;
use crate::store::embedded::OpenError;
use crate::store::subscriptions::SubscriptionError;
use crate::submissions::{Submissions, SubmissionsError};
use crate::tls::TlsError;
use crate::voice::{ArchiveError, ServerError};

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
    /// The key of the store's hashes cannot be used.
    #[error(transparent)]
    HashKey(#[from] HashKeyError),
    /// The calls that were put together cannot be opened.
    #[error(transparent)]
    Calls(#[from] calls::OpenError),
    /// What was submitted cannot be taken up.
    #[error(transparent)]
    Submissions(#[from] SubmissionsError),
    /// The voice server cannot be used.
    #[error(transparent)]
    Voice(#[from] ServerError),
    /// A person's data cannot be erased.
    #[error(transparent)]
    Erase(#[from] EraseError),
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
    /// The TLS files of a listener cannot be used.
    #[error("grpc.tls: {0}")]
    Tls(#[from] TlsError),
    /// The TLS files of the push listener cannot be used.
    #[error("push.tls: {0}")]
    PushTls(#[source] TlsError),
    /// The gRPC server failed.
    #[error(transparent)]
    Grpc(#[from] ServeError),
}

/// Runs the gateway until `shutdown` resolves and everything under way has ended.
pub async fn run(
    mut config: Config,
    listeners: Listeners,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AppError> {
    let mut registry = Registry::with_prefix("yeta_gateway");
    let metrics = Metrics::register(&mut registry);
    metrics::register_openness(&mut registry, config.clients.is_empty());
    listeners.announce();
    settings::warn_of(&config);
    descriptors::fit(&mut config);

    let push_limits = settings::push_limits(&config).map_err(AppError::PushTls)?;
    if let Err(error) = secret::keep_fresh(settings::secrets(&config)) {
        tracing::error!(%error, "secrets are not read again when their files change");
    }
    let store = Store::open(&config, &mut registry).await?;
    let drain = CancellationToken::new();
    let parts = Parts::build(&config, &store, metrics, drain.clone()).await?;
    let (platform, submissions) = (parts.platform, parts.submissions);

    let ready = Ready::default();
    // Probes and metrics are answered until the very end.
    let admin = Job::start("admin listener", |stop| {
        let router = admin::router(ready.clone(), Arc::new(registry));
        let limits = http_server::Limits::small("admin");
        http_server::serve(listeners.admin, router, limits, stop.cancelled_owned())
    });
    let jobs = start_jobs(&config, &store, parts.jobs);
    let push = parts.edge.router();
    let draining = drain.clone().cancelled_owned();
    let push = http_server::serve(listeners.push, push, push_limits, draining);
    let grpc = async {
        let ended = parts.grpc.serve(listeners.grpc).await;
        let is_expected = ended.is_err() || drain.is_cancelled();
        assert!(
            is_expected,
            "the gRPC server ended although nobody stopped it"
        );
        // If it failed, the other listener ends too.
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
    for job in jobs.into_iter().rev() {
        job.stop().await;
    }
    store.close().await;
    admin.stop().await;
    tracing::info!("stopped");
    Ok(stopped?)
}

/// Starts what runs beside the listeners; to be stopped in reverse order.
fn start_jobs(config: &Config, store: &Store, parts: JobParts) -> Vec<Job> {
    let JobParts {
        assembler,
        archivist,
        submissions,
        backfill,
        reconciliation,
        watch,
        reload,
    } = parts;
    let (log, retention) = (store.log.clone(), config.store.retention);
    let calls = store.calls.clone();
    let mut jobs = vec![
        Job::start("retention", |stop| {
            retire(log, retention, move || calls.table_bytes(), stop)
        }),
        Job::start("subscription watch", |stop| watch.run(stop)),
        Job::start("assembler", |stop| assembler.run(stop)),
    ];
    if let Some(reload) = reload {
        jobs.push(Job::start("configuration", |stop| reload.run(stop)));
    }
    if let Some(archivist) = archivist {
        jobs.push(Job::start("archivist", |stop| archivist.run(stop)));
    }
    jobs.push(Job::start("submissions", |stop| async move {
        submissions.run(stop).await;
    }));
    if config.backfill.enabled {
        jobs.push(Job::start("backfill", |stop| async move {
            backfill.run(stop).await;
        }));
    }
    jobs.push(Job::start("reconciliation", |stop| async move {
        reconciliation.run(stop).await;
    }));
    jobs
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
