//! The gRPC server: its services, what surrounds them, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tower::ServiceBuilder;

use super::admission::AdmissionLayer;
use super::auth::Clients;
use super::connection::Serving;
use super::connections::Connections;
use super::observe::{GrpcMetrics, ObserveLayer};
use super::overload::{Bounds, OverloadLayer};
use super::receive::{ReceiveBounds, ReceiveLayer};
use super::supervision::SupervisionLayer;
use super::{
    LogEnd, Targets, call_service, config_service, outbound_service, push_service,
    subscription_service, voice_service,
};
use crate::accept::{Acceptor, Throttle};
use crate::backfill::Backfill;
use crate::calls::Calls;
use crate::platform::Platform;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::reconciliation::Reconciliation;
use crate::relay::metrics::RelayMetrics;
use crate::store::subscriptions::Subscriptions;
use crate::store::{Notes, PushLog};
use crate::submissions::Submissions;
use crate::tls::ServerTls;
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
    /// TLS of the listener; `None`: plain text.
    pub tls: Option<Arc<ServerTls>>,
    /// What is served at once, and how long things may take.
    pub limits: Limits,
}

/// The bounds of the server; see `[grpc]` in the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum number of requests at once.
    pub max_concurrent_requests: usize,
    /// The maximum size of a request message.
    pub max_request_bytes: usize,
    /// The maximum size of all request messages at once.
    pub max_buffered_bytes: usize,
    /// The maximum time that a request message takes to arrive.
    pub message_timeout: Duration,
    /// The maximum number of connections.
    pub max_connections: usize,
    /// The maximum number of connections from one address.
    pub max_connections_per_address: usize,
    /// The age at which a connection is closed; zero: none.
    pub max_connection_age: Duration,
    /// The maximum number of streams.
    pub max_streams: usize,
    /// The maximum number of streams of one client; 0: half of all where there are several.
    pub max_streams_per_client: usize,
    /// The time after which a response is ended of which the client takes nothing.
    pub slow_consumer_timeout: Duration,
    /// Whether clients can ask which services there are.
    pub reflection: bool,
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Server reflection could not be built from the compiled descriptors.
    #[error("server reflection cannot be offered: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

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
    /// Serves until the gateway drains and what is in flight has ended.
    pub async fn serve(self, listener: TcpListener) -> Result<(), ServeError> {
        let (reporter, health) = tonic_health::server::health_reporter();
        set_health(&reporter, ServingStatus::Serving).await;
        let (limits, drain) = (self.limits, self.drain.clone());
        let serving = Serving {
            tls: self.tls.clone(),
            max_age: limits.max_connection_age,
            patience: limits.slow_consumer_timeout,
            drain: CancellationToken::new(),
        };
        let leaving = serving.drain.clone();
        let clients = self.clients.count();
        let service = ServiceBuilder::new()
            // Outermost: every request is counted, whatever its end.
            .layer(ObserveLayer(self.metrics.clone()))
            // A request without credentials, or without the right, takes no permit.
            .layer(AdmissionLayer::new(self.clients.clone()))
            .layer(SupervisionLayer)
            .layer(OverloadLayer::new(Bounds {
                requests: limits.max_concurrent_requests,
                streams: limits.max_streams,
                streams_per_client: limits.max_streams_per_client,
                clients,
            }))
            .layer(ReceiveLayer::new(ReceiveBounds {
                max_request_bytes: limits.max_request_bytes,
                max_buffered_bytes: limits.max_buffered_bytes,
                message_timeout: limits.message_timeout,
                clients,
            }))
            .service(self.routes(health)?);
        let connections =
            Connections::new(limits.max_connections, limits.max_connections_per_address);
        let tasks = TaskTracker::new();
        let mut acceptor = Acceptor::new("grpc", listener);
        let mut refusals = Throttle::default();
        loop {
            let (stream, peer) = tokio::select! {
                accepted = acceptor.accept() => accepted,
                () = drain.cancelled() => break,
            };
            let Some(slot) = connections.open(peer) else {
                if let Some(before) = refusals.strike(Instant::now()) {
                    tracing::warn!(%peer, before, "too many connections: one was refused");
                }
                continue;
            };
            tasks.spawn(serving.clone().serve(stream, peer, slot, service.clone()));
        }
        drop(acceptor);
        // The last word of health must be on its way before its connections leave.
        set_health(&reporter, ServingStatus::NotServing).await;
        end_health_watches(&reporter).await;
        leaving.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(())
    }

    fn routes(self, health: HealthServer<impl Health>) -> Result<Routes, ServeError> {
        let max = self.limits.max_request_bytes;
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
        // A client that compresses whatever it sends asks health and reflection, too.
        let mut routes = Routes::new(health.accept_compressed(Gzip).accept_compressed(Zstd))
            .add_service(calls.max_decoding_message_size(max))
            .add_service(config.max_decoding_message_size(max))
            .add_service(outbound.max_decoding_message_size(max))
            .add_service(pushes.max_decoding_message_size(max))
            .add_service(subscriptions.max_decoding_message_size(max))
            .add_service(voices.max_decoding_message_size(max));
        if self.limits.reflection {
            let v1 = reflection_builder("grpc.reflection.v1.ServerReflection").build_v1()?;
            let v1alpha =
                reflection_builder("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()?;
            routes = routes
                .add_service(v1.accept_compressed(Gzip).accept_compressed(Zstd))
                .add_service(v1alpha.accept_compressed(Gzip).accept_compressed(Zstd));
        }
        Ok(routes.prepare())
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
