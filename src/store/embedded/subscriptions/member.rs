//! A stream's hold on a subscription.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::state::MemberId;
use super::subscription::Subscription;
use crate::push::Position;
use crate::store::subscriptions::{Handed, Member, SubscriptionError};

/// See [`Member`].
pub(super) struct EmbeddedMember {
    pub subscription: Arc<Subscription>,
    pub id: MemberId,
    /// Told when something lies in the inbox.
    pub notify: Arc<Notify>,
    /// Whether its stream broke.
    pub is_broken: bool,
}

#[async_trait]
impl Member for EmbeddedMember {
    async fn next(&mut self) -> Result<Handed, SubscriptionError> {
        loop {
            if let Some(handed) = self.subscription.ask(self.id)? {
                return Ok(handed);
            }
            self.notify.notified().await;
        }
    }

    fn mark_broken(&mut self) {
        self.is_broken = true;
    }

    fn place(&self) -> Position {
        self.subscription.place()
    }

    fn is_caught_up(&self) -> bool {
        self.subscription.is_caught_up()
    }
}

impl Drop for EmbeddedMember {
    fn drop(&mut self) {
        self.subscription.leave(self.id, self.is_broken);
    }
}
