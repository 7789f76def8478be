//! Durable subscriptions over the embedded log.
//!
//! ```text
//! member asks ─→ subscription (lock) ─→ state: who gets what          no disk, no clock
//!                    ↑ pump reads the log while there are members
//! ack, nack   ─→ subscription ─→ keeper ─→ the log's writer           one write for all
//! ```

mod ack_id;
mod keeper;
mod member;
mod registry;
mod saved;
mod state;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::registry::Registry;
use super::{EmbeddedLog, OpenError};
use crate::push::{EventId, Position};
use crate::store::subscriptions::{
    AckOutcome, Change, DeadLetter, Info, Member, Nack, Spec, SubscriptionError, Subscriptions,
    Window,
};

/// The subscriptions of a log.
pub struct EmbeddedSubscriptions(Arc<Registry>);

type Result<T> = std::result::Result<T, SubscriptionError>;

impl EmbeddedSubscriptions {
    /// Opens what is kept of the log's subscriptions; there may be `max` of them.
    pub async fn open(log: Arc<EmbeddedLog>, max: usize) -> std::result::Result<Self, OpenError> {
        Ok(Self(Arc::new(Registry::open(log, max).await?)))
    }
}

/// Runs a change to its end, also when whoever asked for it has left: what is on disk and what is
/// in memory must not part.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(change).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(SubscriptionError::Closed),
        },
    }
}

#[async_trait]
impl Subscriptions for EmbeddedSubscriptions {
    async fn create(&self, name: &str, spec: Spec, after: Position) -> Result<()> {
        let (registry, name) = (self.0.clone(), name.to_owned());
        to_the_end(async move { registry.create(&name, spec, after).await }).await
    }

    async fn get(&self, name: &str) -> Result<Info> {
        self.0.get(name).await
    }

    async fn list(&self, after: &str, limit: usize) -> Result<Vec<Info>> {
        self.0.list(after, limit).await
    }

    async fn update(&self, name: &str, change: Change) -> Result<Info> {
        let (registry, name) = (self.0.clone(), name.to_owned());
        to_the_end(async move { registry.update(&name, change).await }).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let (registry, name) = (self.0.clone(), name.to_owned());
        to_the_end(async move { registry.delete(&name).await }).await
    }

    async fn seek(&self, name: &str, after: Position) -> Result<()> {
        let (registry, name) = (self.0.clone(), name.to_owned());
        to_the_end(async move { registry.seek(&name, after).await }).await
    }

    async fn join(&self, name: &str, window: Window) -> Result<Box<dyn Member>> {
        Ok(Box::new(self.0.join(name, window)?))
    }

    async fn ack(&self, name: &str, ids: &[String]) -> Result<Vec<AckOutcome>> {
        self.0.ack(name, ids).await
    }

    async fn nack(&self, name: &str, ids: &[String], how: Nack) -> Result<Vec<AckOutcome>> {
        self.0.nack(name, ids, how).await
    }

    async fn extend(
        &self,
        name: &str,
        ids: &[String],
        by: Option<Duration>,
    ) -> Result<Vec<AckOutcome>> {
        self.0.extend(name, ids, by)
    }

    async fn dead_letters(
        &self,
        name: &str,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.0.dead_letters(name, after, limit).await
    }

    async fn redrive(&self, name: &str, ids: Option<&[EventId]>) -> Result<u64> {
        let (registry, name) = (self.0.clone(), name.to_owned());
        let ids = ids.map(<[EventId]>::to_vec);
        to_the_end(async move { registry.redrive(&name, ids.as_deref()).await }).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
