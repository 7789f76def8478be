//! Applies changes of the configuration file while the gateway runs: clients, and which accounts
//! and clients are enabled.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Fault};
use crate::grpc::auth::Clients;
use crate::platform::Platform;

/// How often the file is read.
const INTERVAL: Duration = Duration::from_millis(500);

/// Watches the configuration file.
pub(super) struct Reload {
    file: PathBuf,
    running: Config,
    clients: Arc<Clients>,
    platform: Arc<Platform>,
}

/// The hash of a file's content; an unreadable file has none.
type Version = Option<[u8; 32]>;

impl Reload {
    /// Watches the file of `config`, if it was read from one.
    pub fn new(config: &Config, clients: Arc<Clients>, platform: Arc<Platform>) -> Option<Self> {
        Some(Self {
            file: config.file.clone()?,
            running: config.clone(),
            clients,
            platform,
        })
    }

    /// Applies changes until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&mut self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The file may have changed since it was read at the start, so the first version counts.
        let (mut applied, mut seen): (Version, Version) = (None, None);
        loop {
            ticks.tick().await;
            let version = version(self.file.clone()).await;
            let is_stable = version == seen;
            seen = version;
            // A file that is being written changes between two looks.
            if version.is_none() || !is_stable || version == applied {
                continue;
            }
            applied = version;
            match load(self.file.clone()).await {
                Ok(config) => self.apply(config),
                Err(faults) => {
                    for fault in faults {
                        tracing::warn!(%fault, "the configuration file has a fault");
                    }
                    tracing::warn!("the configuration stays as it was before the file changed");
                }
            }
        }
    }

    fn apply(&mut self, config: Config) {
        for section in changed_sections(&self.running, &config) {
            tracing::warn!(
                section,
                "a change of this section takes effect at the next start"
            );
        }
        if config.clients.is_empty() != self.running.clients.is_empty() {
            tracing::warn!(
                "clients can be neither introduced nor all removed while the gateway runs"
            );
            return;
        }
        if config.clients != self.running.clients {
            self.clients.replace(&config.clients);
            tracing::info!(
                clients = config.clients.len(),
                "the clients have been read again"
            );
        }
        for account in &config.accounts {
            let Some(running) = self
                .running
                .accounts
                .iter_mut()
                .find(|running| running.name == account.name)
            else {
                continue;
            };
            if running.enabled != account.enabled {
                running.enabled = account.enabled;
                self.platform.set_enabled(&account.name, account.enabled);
                let (account, enabled) = (&account.name, account.enabled);
                tracing::warn!(account, enabled, "an account has been switched");
            }
        }
        self.running.clients = config.clients;
    }
}

/// The sections that differ and cannot change while the gateway runs.
fn changed_sections(running: &Config, new: &Config) -> Vec<&'static str> {
    // Secrets are not compared: those in files are read again by themselves.
    let accounts = |config: &Config| {
        let accounts = config.accounts.iter();
        let visible = accounts.map(|it| (it.name.clone(), it.allow_push_from.clone()));
        visible.collect::<Vec<_>>()
    };
    let voice = |config: &Config| {
        let mut voice = config.voice.clone();
        voice.s3.keys = None;
        format!("{voice:?}")
    };
    let mut changed = Vec::new();
    macro_rules! compare {
        ($($section:ident),+) => {$(
            if format!("{:?}", running.$section) != format!("{:?}", new.$section) {
                changed.push(stringify!($section));
            }
        )+};
    }
    compare!(
        grpc,
        push,
        admin,
        platform,
        store,
        subscriptions,
        calls,
        submissions,
        backfill,
        reconciliation,
        dialog_context,
        kubernetes,
        log,
        shutdown_grace
    );
    if voice(running) != voice(new) {
        changed.push("voice");
    }
    if accounts(running) != accounts(new) {
        changed.push("accounts");
    }
    changed
}

async fn version(file: PathBuf) -> Version {
    let read = tokio::task::spawn_blocking(move || std::fs::read(file).ok());
    let text = read.await.ok().flatten()?;
    Some(Sha256::digest(text).into())
}

async fn load(file: PathBuf) -> Result<Config, Vec<Fault>> {
    let read = tokio::task::spawn_blocking(move || Config::load(Some(Path::new(&file))));
    read.await.unwrap_or_else(|error| {
        Err(vec![Fault {
            key: "file".into(),
            problem: error.to_string(),
        }])
    })
}
