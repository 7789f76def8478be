//! The gateway's parts, built upon its store.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::AppError;
use super::metrics::Metrics;
use super::reload::Reload;
use super::settings::{
    account_names, archive_options, archivist_options, assembler_options, backfill_options,
    download_config, edge_config, grpc_limits, grpc_tls, limits, platform_config,
    reconciliation_options, submissions_options, voice_server_options,
};
use super::store::Store;
use crate::account::Account;
use crate::backfill::Backfill;
use crate::calls::Assembler;
use crate::config::Config;
use crate::edge::Edge;
use crate::grpc::auth::Clients;
use crate::grpc::jwt::Jwts;
use crate::grpc::server::GrpcServer;
use crate::platform::{Downloads, Platform};
use crate::provider::Providers;
use crate::reconciliation::Reconciliation;
use crate::relay::watch::Watch;
use crate::submissions::{self, Submissions};
use crate::voice::metrics::VoiceMetrics;
use crate::voice::{self, Archive, Archivist, VoiceServer};

/// What serves, and what goes on beside it.
pub(super) struct Parts {
    pub platform: Arc<Platform>,
    pub submissions: Arc<Submissions>,
    pub edge: Edge,
    pub grpc: GrpcServer,
    pub jobs: JobParts,
}

/// The parts that run in the background.
pub(super) struct JobParts {
    pub assembler: Assembler,
    /// None if no archive is configured.
    pub archivist: Option<Archivist>,
    pub submissions: Arc<Submissions>,
    pub backfill: Arc<Backfill>,
    pub reconciliation: Arc<Reconciliation>,
    pub watch: Watch,
    /// None if the configuration comes from no file.
    pub reload: Option<Reload>,
}

impl Parts {
    /// Builds everything; nothing runs yet. Streams end when `drain` is cancelled.
    pub async fn build(
        config: &Config,
        store: &Store,
        metrics: Metrics,
        drain: CancellationToken,
    ) -> Result<Self, AppError> {
        let (log, calls) = (&store.log, &store.calls);
        let accounts: Vec<Arc<Account>> = config.accounts.iter().cloned().map(Arc::new).collect();
        let platform = Platform::new(&platform_config(config), accounts.clone(), metrics.platform)?;
        let platform = Arc::new(platform);
        let submissions = Submissions::open(
            log.clone(),
            log.clone(),
            platform.clone(),
            submissions::Options {
                records_lost: store.log.records_lost(),
                ..submissions_options(config, store.hash_key.clone())
            },
            metrics.submissions,
        );
        let submissions = Arc::new(submissions.await?);
        let edge = Edge::new(
            edge_config(config),
            accounts,
            log.clone(),
            submissions.row_keys(),
            Providers::new(config.dialog_context.clone(), &metrics.provider)?,
            metrics.edge,
        );
        let backfill = Arc::new(Backfill::new(
            platform.clone(),
            Downloads::new(&download_config(config))?,
            log.clone(),
            log.clone(),
            submissions.row_keys(),
            backfill_options(config),
            metrics.backfill,
        ));
        let reconciliation = Arc::new(Reconciliation::new(
            log.clone(),
            log.clone(),
            calls.clone(),
            platform.clone(),
            config.backfill.enabled.then(|| backfill.clone()),
            reconciliation_options(config),
            metrics.reconciliation,
        ));
        let voices = VoiceServer::new(&voice_server_options(config), metrics.voice.clone())?;
        let voices = Arc::new(voices);
        let archive = archive_options(config).map(|options| Archive::open(&options));
        let archive = archive.transpose()?.map(Arc::new);
        let archivist = archivist(config, store, &voices, archive.as_ref(), metrics.voice).await?;
        let clients =
            Clients::new(&config.clients, account_names(config)).listening_on(config.grpc.listen);
        let clients = Arc::new(clients.with_jwts(Jwts::new(&config.kubernetes)));
        let reload = Reload::new(config, clients.clone(), platform.clone());
        let grpc = GrpcServer {
            clients: clients.clone(),
            platform: platform.clone(),
            submissions: submissions.clone(),
            log: log.clone(),
            notes: log.clone(),
            calls: calls.clone(),
            subscriptions: store.subscriptions.clone(),
            backfill: backfill.clone(),
            reconciliation: reconciliation.clone(),
            voices,
            archive,
            drain,
            metrics: metrics.grpc,
            relay_metrics: metrics.relay,
            tls: grpc_tls(config)?,
            limits: grpc_limits(config),
        };
        let assembler = Assembler::new(
            calls.clone(),
            log.clone(),
            store.subscriptions.clone(),
            log.clone(),
            assembler_options(config),
            metrics.calls,
        );
        let watch = Watch::new(
            log.clone(),
            store.subscriptions.clone(),
            metrics.subscriptions,
            limits(config, log.clone()),
        );
        Ok(Self {
            platform,
            submissions: submissions.clone(),
            edge,
            grpc,
            jobs: JobParts {
                assembler,
                archivist,
                submissions,
                backfill,
                reconciliation,
                watch,
                reload,
            },
        })
    }
}

/// Who keeps recordings. Without an archive nobody does, and what was waiting is forgotten.
async fn archivist(
    config: &Config,
    store: &Store,
    voices: &Arc<VoiceServer>,
    archive: Option<&Arc<Archive>>,
    metrics: VoiceMetrics,
) -> Result<Option<Archivist>, AppError> {
    let Some(archive) = archive.cloned() else {
        voice::forget(store.subscriptions.as_ref()).await?;
        return Ok(None);
    };
    Ok(Some(Archivist::new(
        archive,
        voices.clone(),
        store.calls.clone(),
        store.log.clone(),
        store.subscriptions.clone(),
        store.log.clone(),
        archivist_options(config),
        metrics,
    )))
}
