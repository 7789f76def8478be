//! The gRPC server: its services, what surrounds them, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::ServiceBuilder;

use super::admission::AdmissionLayer;
use super::auth::Clients;
use super::observe::{GrpcMetrics, ObserveLayer};
use super::overload::OverloadLayer;
use super::supervision::SupervisionLayer;
use super::{
    LogEnd, Targets, call_service, config_service, outbound_service, push_service,
    subscription_service, voice_service,
};
use crate::backfill::Backfill;
use crate::calls::Calls;
use crate::platform::Platform;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::reconciliation::Reconciliation;
use crate::relay::metrics::RelayMetrics;
use crate::store::subscriptions::Subscriptions;
use crate::store::{Notes, PushLog};
use crate::submissions::Submissions;
use crate::voice::{Archive, VoiceServer};

/// What the services work with.
pub struct GrpcServer {
    /// Who may call what.
    pub clients: Arc<Clients>,
    /// What calls go to.
    pub platform: Arc<Platform>,
    /// What is written down before it is sent.
    pub submissions: Arc<Submissions>,
    /// What streams are read from.
    pub log: Arc<dyn PushLog>,
    /// What members join.
    pub subscriptions: Arc<dyn Subscriptions>,
    /// The way from the platform's files into it.
    pub backfill: Arc<Backfill>,
    /// What is kept beside it.
    pub notes: Arc<dyn Notes>,
    /// The calls put together.
    pub calls: Arc<Calls>,
    /// The rows of which no record came.
    pub reconciliation: Arc<Reconciliation>,
    /// Where recordings are fetched.
    pub voices: Arc<VoiceServer>,
    /// Copies of recordings, if they are kept.
    pub archive: Option<Arc<Archive>>,
    /// Cancelled when the gateway is told to stop.
    pub drain: CancellationToken,
    /// Counts of requests.
    pub metrics: GrpcMetrics,
    /// Counts of readers.
    pub relay_metrics: RelayMetrics,
    /// So many requests are served at once.
    pub max_concurrent_requests: usize,
    /// So many bytes one request message may have.
    pub max_request_bytes: usize,
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Server reflection could not be built from the compiled descriptors.
    #[error("server reflection cannot be offered: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A peer that has vanished without a word is noticed after these two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What health checks can ask for: the whole gateway, and each of its services.
const SERVICES: [&str; 7] = [
    "",
    "yeta.v1.CallService",
    "yeta.v1.ConfigService",
    "yeta.v1.OutboundService",
    "yeta.v1.PushService",
    "yeta.v1.SubscriptionService",
    "yeta.v1.VoiceService",
];

impl GrpcServer {
    /// Serves until the gateway drains and what is under way has ended.
    pub async fn serve(self, listener: TcpListener) -> Result<(), ServeError> {
        let (reporter, health) = tonic_health::server::health_reporter();
        set_health(&reporter, ServingStatus::Serving).await;
        let drain = self.drain.clone();
        let draining = async move {
            drain.cancelled().await;
            set_health(&reporter, ServingStatus::NotServing).await;
            end_health_watches(&reporter).await;
        };
        let layers = ServiceBuilder::new()
            // Outermost: whatever comes of a request further in, it is counted.
            .layer(ObserveLayer(self.metrics.clone()))
            // A request without credentials, or without the right, takes no permit.
            .layer(AdmissionLayer::new(self.clients.clone()))
            .layer(SupervisionLayer)
            .layer(OverloadLayer::new(self.max_concurrent_requests));
        // A client that compresses whatever it sends asks these three, too.
        let health = health.accept_compressed(Gzip).accept_compressed(Zstd);
        let reflection = reflection_builder("grpc.reflection.v1.ServerReflection").build_v1()?;
        let reflection = reflection.accept_compressed(Gzip).accept_compressed(Zstd);
        let older_reflection =
            reflection_builder("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()?;
        let older_reflection = older_reflection
            .accept_compressed(Gzip)
            .accept_compressed(Zstd);
        let config = config_service(self.platform.clone());
        let outbound = outbound_service(
            self.platform.clone(),
            self.submissions.clone(),
            self.log_end(),
            self.notes.clone(),
            self.drain.clone(),
        );
        let calls = call_service(
            self.calls.clone(),
            self.reconciliation.clone(),
            self.log.clone(),
            self.drain.clone(),
            self.relay_metrics.clone(),
        );
        let voices = voice_service(
            Targets {
                server: self.voices.clone(),
                archive: self.archive,
                calls: self.calls.clone(),
                log: self.log.clone(),
            },
            self.drain.clone(),
        );
        let subscriptions = subscription_service(
            self.log.clone(),
            self.subscriptions.clone(),
            self.clients.clone(),
        );
        let pushes = push_service(
            self.log,
            self.subscriptions,
            self.clients,
            self.backfill,
            self.drain,
            self.relay_metrics,
        );
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .layer(layers)
            .add_service(health)
            .add_service(reflection)
            .add_service(older_reflection)
            .add_service(calls.max_decoding_message_size(self.max_request_bytes))
            .add_service(config.max_decoding_message_size(self.max_request_bytes))
            .add_service(outbound.max_decoding_message_size(self.max_request_bytes))
            .add_service(pushes.max_decoding_message_size(self.max_request_bytes))
            .add_service(subscriptions.max_decoding_message_size(self.max_request_bytes))
            .add_service(voices.max_decoding_message_size(self.max_request_bytes))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                draining,
            )
            .await?;
        Ok(())
    }

    fn log_end(&self) -> LogEnd {
        let log = self.log.clone();
        Arc::new(move || log.cursor(*log.end().borrow()).to_string())
    }
}

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

/// Describes every message and service, and lists those that are served: of the gateway's own
/// services, health, and what reflects itself.
fn reflection_builder(itself: &str) -> tonic_reflection::server::Builder<'static> {
    let mut builder = tonic_reflection::server::Builder::configure();
    for service in SERVICES.into_iter().filter(|name| !name.is_empty()) {
        builder = builder.with_service_name(service);
    }
    builder
        .with_service_name("grpc.health.v1.Health")
        .with_service_name(itself)
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // So that a tool can show what stands in an error's details.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
