//! Why work with the store ended.

use super::subscriptions::SubscriptionError;
use super::{AppendError, ReadError};

/// Why a task that works with the store could not go on.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The store is closed: the gateway is shutting down.
    #[error("the store is closed")]
    Closed,
    /// Something failed; trying again later is right.
    #[error("{0}")]
    Failed(String),
}

impl From<SubscriptionError> for End {
    fn from(error: SubscriptionError) -> Self {
        match error {
            SubscriptionError::Closed | SubscriptionError::Log(ReadError::Closed) => Self::Closed,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<AppendError> for End {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Closed => Self::Closed,
            AppendError::Unavailable(error) => Self::Failed(error),
        }
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => Self::Closed,
            other => Self::Failed(other.to_string()),
        }
    }
}
