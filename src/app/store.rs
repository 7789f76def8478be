//! What is kept on disk, and the one place that knows with which engine.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use prometheus_client::registry::Registry;

use super::AppError;
use super::settings::store_options;
use crate::calls::Calls;
use crate::config::Config;
use crate::hash_key::HashKey;
use crate::store::PushLog as _;
use crate::store::embedded::metrics::StoreMetrics;
use crate::store::embedded::subscriptions::EmbeddedSubscriptions;
use crate::store::embedded::{EmbeddedLog, OpenError};
use crate::store::subscriptions::Subscriptions as _;

/// What is kept on disk.
pub(super) struct Store {
    pub log: Arc<EmbeddedLog>,
    pub subscriptions: Arc<EmbeddedSubscriptions>,
    pub calls: Arc<Calls>,
    pub hash_key: HashKey,
}

impl Store {
    pub async fn open(config: &Config, registry: &mut Registry) -> Result<Self, AppError> {
        let path = &config.store.path;
        private_folder(path).map_err(|error| OpenError::Io {
            path: path.clone(),
            error,
        })?;
        let log = Arc::new(EmbeddedLog::open(store_options(config)).await?);
        let configured = config.store.hash_key.as_ref();
        let hash_key = HashKey::open(configured, path, log.as_ref()).await?;
        StoreMetrics::register(registry, log.clone());
        let subscriptions = EmbeddedSubscriptions::open(log.clone(), config.subscriptions.max);
        Ok(Self {
            subscriptions: Arc::new(subscriptions.await?),
            calls: Arc::new(Calls::open(&path.join("calls"))?),
            hash_key,
            log,
        })
    }

    /// Closes everything; the log last, as the others write into it.
    pub async fn close(&self) {
        self.calls.close().await;
        self.subscriptions.close().await;
        self.log.close().await;
    }
}

/// Makes a folder for its owner alone, or closes one that is there to others.
fn private_folder(path: &Path) -> io::Result<()> {
    const OWNER_ALONE: u32 = 0o700;
    DirBuilder::new()
        .recursive(true)
        .mode(OWNER_ALONE)
        .create(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode.is_multiple_of(0o100) {
        return Ok(());
    }
    if let Err(error) = fs::set_permissions(path, Permissions::from_mode(OWNER_ALONE)) {
        // It belongs to somebody else, who may have a reason.
        tracing::warn!(%error, path = %path.display(), "others can open the store's folder");
    }
    Ok(())
}
