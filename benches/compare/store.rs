//! A store with its assembler, without the rest of the gateway.

use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use yeta_gateway::calls::metrics::CallsMetrics;
use yeta_gateway::calls::{Assembler, AssemblerOptions, Calls};
use yeta_gateway::push::Position;
use yeta_gateway::store::embedded::subscriptions::EmbeddedSubscriptions;
use yeta_gateway::store::embedded::{EmbeddedLog, Options};
use yeta_gateway::store::subscriptions::Subscriptions as _;
use yeta_gateway::store::{NewEntry, PushLog as _};

/// So many entries are appended at once.
const BATCH: usize = 256;

pub struct Store {
    pub log: Arc<EmbeddedLog>,
    folder: TempDir,
}

impl Store {
    pub async fn open(folder: TempDir) -> anyhow::Result<Self> {
        let log = EmbeddedLog::open(Options::new(folder.path())).await?;
        Ok(Self {
            log: Arc::new(log),
            folder,
        })
    }

    /// Closes it and gives back its folder.
    pub async fn close(self) -> TempDir {
        self.log.close().await;
        self.folder
    }

    pub async fn append(&self, entries: &[NewEntry]) -> anyhow::Result<()> {
        for batch in entries.chunks(BATCH) {
            self.log.append(batch.to_vec()).await?;
        }
        Ok(())
    }

    /// Resolves once the log holds so many entries.
    pub async fn until_it_holds(&self, entries: u64) -> anyhow::Result<()> {
        self.log
            .end()
            .wait_for(|end| *end >= Position(entries))
            .await?;
        Ok(())
    }
}

/// An assembler at work on a store.
pub struct Assembling {
    stop: CancellationToken,
    task: JoinHandle<()>,
    calls: Arc<Calls>,
    subscriptions: Arc<EmbeddedSubscriptions>,
}

impl Assembling {
    /// Starts it on this runtime, with everything that it works with.
    pub async fn start(on: &Runtime, store: &Store) -> anyhow::Result<Self> {
        let (log, path) = (store.log.clone(), store.folder.path().join("calls"));
        on.spawn(Self::work(log, path)).await?
    }

    async fn work(log: Arc<EmbeddedLog>, path: PathBuf) -> anyhow::Result<Self> {
        let subscriptions = Arc::new(EmbeddedSubscriptions::open(log.clone(), 1).await?);
        let calls = Arc::new(Calls::open(&path)?);
        let assembler = Assembler::new(
            calls.clone(),
            log.clone(),
            subscriptions.clone(),
            log,
            AssemblerOptions::default(),
            CallsMetrics::register(&mut Registry::default()),
        );
        let stop = CancellationToken::new();
        Ok(Self {
            task: tokio::spawn(assembler.run(stop.clone())),
            stop,
            calls,
            subscriptions,
        })
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await?;
        self.calls.close().await;
        self.subscriptions.close().await;
        Ok(())
    }
}
