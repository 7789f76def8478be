//! Turns at what only a few requests may do at once: no client keeps the others from theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::Status;

use super::auth::Caller;
use super::status;

/// A request whose turn does not come within this time is refused.
const WAIT: Duration = Duration::from_secs(10);

/// The turns of all clients. Each client waits for one of its own first, and then for one of all.
#[derive(Debug)]
pub(super) struct Turns {
    of: &'static str,
    all: Arc<Semaphore>,
    each: usize,
    /// By name; one entry for each configured client at most.
    by_client: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A request's turn; ends when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    /// At most `max` turns at once, and `each` of one client. Refusals say what they are `of`.
    pub(super) fn new(of: &'static str, max: usize, each: usize) -> Self {
        Self {
            of,
            all: Arc::new(Semaphore::new(max)),
            each,
            by_client: Mutex::default(),
        }
    }

    /// Waits for the client's turn.
    pub(super) async fn take(&self, caller: &Caller) -> Result<Turn, Status> {
        let own = self.of_client(caller);
        let turn = async {
            // Nobody closes the semaphores.
            Some(Turn {
                _own: own.acquire_owned().await.ok()?,
                _of_all: self.all.clone().acquire_owned().await.ok()?,
            })
        };
        let turn = timeout(WAIT, turn).await;
        turn.ok()
            .flatten()
            .ok_or_else(|| status::overloaded(self.of))
    }

    fn of_client(&self, caller: &Caller) -> Arc<Semaphore> {
        let clients = self.by_client.lock();
        let mut clients = clients.unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = clients.get(caller.name()) {
            return own.clone();
        }
        let own = Arc::new(Semaphore::new(self.each));
        clients.insert(caller.name().to_owned(), own.clone());
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_for_its_own_turns_and_is_refused_when_none_comes() {
        let turns = Turns::new("pages", 4, 2);
        let (crm, bi) = (Caller::nobody("crm"), Caller::nobody("bi"));
        let held = [
            turns.take(&crm).await.unwrap(),
            turns.take(&crm).await.unwrap(),
        ];
        assert!(turns.take(&crm).await.is_err());
        let other = turns.take(&bi).await.unwrap();
        let (waited, ()) = tokio::join!(turns.take(&crm), async { drop(held) });
        assert!(waited.is_ok());
        drop(other);
    }
}
