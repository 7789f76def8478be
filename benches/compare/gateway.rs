//! The whole gateway, on free ports and a folder of its own.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use yeta_gateway::app::{self, AppError, Listeners};
use yeta_gateway::calls;
use yeta_gateway::config::Config;
use yeta_gateway::proto::{ListSubscriptionsRequest, ListSubscriptionsResponse, SubscriptionStats};

use crate::measure::server_runtime;
use crate::rpc::Connection;

/// The path of a push, and its secret.
pub const PUSH_PATH: &str = "/v1/push/default/bench-push-secret/receiveCallRecord";

const LIST_SUBSCRIPTIONS: &str = "/yeta.v1.SubscriptionService/ListSubscriptions";

/// What the names of the gateway's threads begin with.
pub const THREADS: &[&str] = &["gateway", "store-writer", "fjall"];

pub struct Gateway {
    pub grpc: SocketAddr,
    pub push: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), AppError>>>,
    runtime: Runtime,
    _store: TempDir,
}

/// Log lines are written as in production, JSON from `info` on, to where they cost nothing more.
pub fn init_logging() -> anyhow::Result<()> {
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter("info")
        .with_writer(Mutex::new(nowhere))
        .try_init()
        .map_err(|error| anyhow!(error))
}

/// A folder for a store, beside the build's own files: /tmp may be memory, where a sync costs
/// nothing.
pub fn store_folder() -> anyhow::Result<TempDir> {
    Ok(TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?)
}

/// The configuration of a gateway with its store in this folder, before this platform.
pub fn configuration(store: &Path, platform: SocketAddr) -> String {
    format!(
        "[grpc]\n\
         listen = '127.0.0.1:0'\n\
         [push]\n\
         listen = '127.0.0.1:0'\n\
         [admin]\n\
         listen = '127.0.0.1:0'\n\
         [platform]\n\
         base_url = 'http://{platform}'\n\
         max_requests_per_second = 0\n\
         max_concurrent_requests = 0\n\
         breaker_failures = 0\n\
         [backfill]\n\
         enabled = false\n\
         [[accounts]]\n\
         name = 'default'\n\
         app_key = 'key'\n\
         app_secret = 'secret'\n\
         push_secret = 'bench-push-secret'\n\
         [store]\n\
         path = '{}'\n",
        store.display()
    )
}

impl Gateway {
    /// Starts it before this platform.
    pub fn start(platform: SocketAddr) -> anyhow::Result<Self> {
        Self::start_with(platform, "")
    }

    /// The same, with more in its configuration.
    pub fn start_with(platform: SocketAddr, more: &str) -> anyhow::Result<Self> {
        let store = store_folder()?;
        let text = configuration(store.path(), platform) + more;
        Self::start_as(store, &text)
    }

    /// Starts it on what a folder holds.
    pub fn start_on(store: TempDir, platform: SocketAddr) -> anyhow::Result<Self> {
        let text = configuration(store.path(), platform);
        Self::start_as(store, &text)
    }

    fn start_as(store: TempDir, text: &str) -> anyhow::Result<Self> {
        let config = Config::parse(text, std::iter::empty())
            .map_err(|faults| anyhow!("the gateway's configuration: {faults:?}"))?;
        let runtime = server_runtime("gateway")?;
        let listeners = runtime.block_on(Listeners::bind(&config))?;
        let (grpc, push) = (address(&listeners.grpc)?, address(&listeners.push)?);
        let stop = CancellationToken::new();
        let task = runtime.spawn(app::run(config, listeners, stop.clone().cancelled_owned()));
        Ok(Self {
            grpc,
            push,
            stop,
            task: Some(task),
            runtime,
            _store: store,
        })
    }

    /// Resolves once its assembler has taken up everything that the log holds.
    pub async fn until_assembled(&self) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.grpc).await?;
        let request: Bytes = ListSubscriptionsRequest::default().encode_to_vec().into();
        loop {
            let reply = connection.call(LIST_SUBSCRIPTIONS, request.clone()).await?;
            let listed = ListSubscriptionsResponse::decode(reply)?.subscriptions;
            let stats = listed
                .into_iter()
                .find(|subscription| subscription.name == calls::SUBSCRIPTION)
                .and_then(|subscription| subscription.stats);
            let is_done = |stats: SubscriptionStats| {
                stats.members > 0 && stats.lag_events + stats.unacked == 0
            };
            if stats.is_some_and(is_done) {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops it, and says how it went.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            self.runtime.block_on(task)??;
        }
        Ok(())
    }
}

fn address(listener: &TcpListener) -> anyhow::Result<SocketAddr> {
    Ok(listener.local_addr()?)
}
