//! What is kept on disk, and the one place that knows with which engine.

use std::sync::Arc;

use prometheus_client::registry::Registry;

use super::AppError;
use super::settings::store_options;
use crate::calls::Calls;
use crate::config::Config;
use crate::store::PushLog as _;
use crate::store::embedded::EmbeddedLog;
use crate::store::embedded::metrics::StoreMetrics;
use crate::store::embedded::subscriptions::EmbeddedSubscriptions;
use crate::store::subscriptions::Subscriptions as _;

/// What is kept on disk.
pub(super) struct Store {
    pub log: Arc<EmbeddedLog>,
    pub subscriptions: Arc<EmbeddedSubscriptions>,
    pub calls: Arc<Calls>,
}

impl Store {
    pub async fn open(config: &Config, registry: &mut Registry) -> Result<Self, AppError> {
        let log = Arc::new(EmbeddedLog::open(store_options(config)).await?);
        StoreMetrics::register(registry, log.clone());
        let subscriptions = EmbeddedSubscriptions::open(log.clone(), config.subscriptions.max);
        Ok(Self {
            subscriptions: Arc::new(subscriptions.await?),
            calls: Arc::new(Calls::open(&config.store.path.join("calls"))?),
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
