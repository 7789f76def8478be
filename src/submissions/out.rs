//! What is out: sent, and without an outcome that has been written down.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What is out, by account, each with a number in the order in which it went.
pub(super) struct Out {
    inner: Mutex<Inner>,
    /// Changes when something comes back.
    back: watch::Sender<()>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    by_account: HashMap<String, BTreeSet<u64>>,
}

/// Something is out as long as this is held.
pub(super) struct IsOut {
    out: Arc<Out>,
    account: String,
    number: u64,
}

/// A moment, before which something went out or not.
#[derive(Clone, Copy)]
pub(super) struct Moment(u64);

impl Default for Out {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            back: watch::Sender::new(()),
        }
    }
}

impl Out {
    /// Something of an account goes out.
    pub fn go(self: &Arc<Self>, account: &str) -> IsOut {
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        let numbers = inner.by_account.entry(account.to_owned()).or_default();
        numbers.insert(number);
        IsOut {
            out: self.clone(),
            account: account.to_owned(),
            number,
        }
    }

    /// This moment.
    pub fn now(&self) -> Moment {
        Moment(self.inner().next)
    }

    /// Whether something of an account is out.
    pub fn is_any(&self, account: &str) -> bool {
        self.inner().by_account.contains_key(account)
    }

    /// Whether something of an account is out that went before a moment.
    fn is_any_since_before(&self, account: &str, moment: Moment) -> bool {
        let inner = self.inner();
        let first = inner.by_account.get(account).and_then(BTreeSet::first);
        first.is_some_and(|first| *first < moment.0)
    }

    /// Waits until everything of an account is back that went before a moment.
    pub async fn until_back(&self, account: &str, moment: Moment) {
        let mut back = self.back.subscribe();
        while self.is_any_since_before(account, moment) {
            // An error cannot be: the sender is this very one's.
            let _ = back.changed().await;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whole after a panic: each change is one step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IsOut {
    fn drop(&mut self) {
        {
            let mut inner = self.out.inner();
            if let Some(numbers) = inner.by_account.get_mut(&self.account) {
                numbers.remove(&self.number);
                if numbers.is_empty() {
                    inner.by_account.remove(&self.account);
                }
            }
        }
        self.out.back.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn only_what_went_before_the_moment_is_waited_for() {
        let out = Arc::new(Out::default());
        let first = out.go("a");
        let moment = out.now();
        let _later = out.go("a");
        assert!(out.is_any_since_before("a", moment));
        assert!(!out.is_any_since_before("b", moment));
        assert!(out.until_back("a", moment).now_or_never().is_none());
        drop(first);
        assert!(out.until_back("a", moment).now_or_never().is_some());
    }
}
