//! The calling half of a gateway: its gRPC services before some platform.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Server},
};
use tonic_types::StatusExt;
use yeta_gateway::{
    account::Account,
    config::Client,
    grpc::{admission::AdmissionLayer, auth::Clients, config_service, outbound_service},
    platform::{Platform, PlatformConfig, PlatformMetrics},
    proto::{
        config_service_client::ConfigServiceClient, outbound_service_client::OutboundServiceClient,
    },
    secret::Secret,
    store::embedded::{EmbeddedLog, Options},
    store::{AppendError, Note, NoteChange, Notes, ReadError, Survives},
    submissions::{self, Submissions, metrics::SubmissionsMetrics},
};

pub struct Bridge {
    pub platform: Arc<Platform>,
    pub outbound: OutboundServiceClient<Channel>,
    pub config: ConfigServiceClient<Channel>,
    registry: Registry,
    _folder: TempDir,
}

pub fn account(name: &str) -> Arc<Account> {
    Arc::new(Account {
        name: name.to_owned(),
        app_key: Secret::inline("key"),
        app_secret: Secret::inline("secret"),
        push_secret: Secret::inline("push-secret"),
        allow_push_from: Vec::new(),
        enabled: true,
    })
}

/// Short where a test waits for the whole of it; without bounds, so that what a
/// test sends at once goes out at once.
pub fn settings(base_url: &str) -> PlatformConfig {
    PlatformConfig {
        base_url: base_url.to_owned(),
        request_timeout: Duration::from_secs(20),
        max_requests_per_second: 0,
        max_concurrent_requests: 0,
        ..PlatformConfig::default()
    }
}

/// Notes that cannot be written.
struct Unnoted;

#[async_trait]
impl Notes for Unnoted {
    async fn change(&self, _: Vec<NoteChange>, _: Survives) -> Result<(), AppendError> {
        Err(AppendError::Unavailable("no disk".into()))
    }

    async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        Ok(vec![None; keys.len()])
    }

    async fn list(&self, _: &str, _: &str, _: usize) -> Result<Vec<Note>, ReadError> {
        Ok(Vec::new())
    }
}

impl Bridge {
    pub async fn start(base_url: &str) -> Self {
        Self::with(&settings(base_url), &["default"], &[]).await
    }

    pub async fn with(settings: &PlatformConfig, accounts: &[&str], clients: &[Client]) -> Self {
        let mut registry = Registry::default();
        let metrics = PlatformMetrics::register(&mut registry);
        let known = accounts.iter().map(|name| account(name));
        let platform = Arc::new(Platform::new(settings, known, metrics).unwrap());
        let names: Vec<String> = accounts.iter().map(|&name| name.to_owned()).collect();
        let options = submissions::Options {
            accounts: names.clone(),
            ..submissions::Options::default()
        };
        let clients = Arc::new(Clients::new(clients, names));
        let folder = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(Options::new(folder.path()))
            .await
            .unwrap();
        let log = Arc::new(log);
        let counts = SubmissionsMetrics::register(&mut registry);
        let submissions =
            Submissions::open(log.clone(), log, platform.clone(), options, counts).await;

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Server::builder()
            .layer(AdmissionLayer::new(clients))
            .add_service(config_service(Arc::clone(&platform)))
            .add_service(outbound_service(
                Arc::clone(&platform),
                Arc::new(submissions.unwrap()),
                Arc::new(|| "end-of-log".to_owned()),
                Arc::new(Unnoted),
                CancellationToken::new(),
            ));
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
        Self {
            platform,
            outbound: OutboundServiceClient::new(channel.clone()),
            config: ConfigServiceClient::new(channel),
            registry,
            _folder: folder,
        }
    }

    /// The metrics as they are scraped.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }
}

/// The reason and the domain of an error.
pub fn reason(status: &Status) -> (Code, String, String) {
    let details = status.get_error_details();
    let info = details.error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    (status.code(), info.reason.clone(), info.domain.clone())
}
