//! Bounds that clients share: no client can use up what the others need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::auth::Caller;

/// An amount of which all clients together, and each client alone, have a bounded part in use.
#[derive(Debug)]
pub(super) struct Shares {
    max: usize,
    max_each: usize,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    all: usize,
    /// By name; one entry for each configured client at most.
    by_client: HashMap<String, usize>,
}

/// What a client has in use; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Shares>,
    caller: Caller,
    amount: usize,
}

impl Shares {
    /// At most `max` for all clients, and `max_each` for one.
    pub(super) fn new(max: usize, max_each: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            max_each,
            used: Mutex::default(),
        })
    }

    /// At most `max` for all clients, and half of it for one of several clients.
    pub(super) fn halves(max: usize, clients: usize) -> Arc<Self> {
        Self::new(max, if clients > 1 { max.div_ceil(2) } else { max })
    }

    /// Takes an amount for a client; `None`: too much is in use.
    pub(super) fn take(self: &Arc<Self>, caller: &Caller, amount: usize) -> Option<Share> {
        let mut share = Share {
            of: self.clone(),
            caller: caller.clone(),
            amount: 0,
        };
        share.grow(amount).then_some(share)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes more for the same client; false: too much is in use.
    pub(super) fn grow(&mut self, by: usize) -> bool {
        let mut used = self.of.used();
        let name = self.caller.name();
        let own = used.by_client.get(name).copied().unwrap_or(0);
        let (all, own) = (used.all.saturating_add(by), own.saturating_add(by));
        if all > self.of.max || own > self.of.max_each {
            return false;
        }
        used.all = all;
        match used.by_client.get_mut(name) {
            Some(used) => *used = own,
            None => {
                used.by_client.insert(name.to_owned(), own);
            }
        }
        drop(used);
        self.amount += by;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self.of.used();
        used.all -= self.amount;
        if let Some(own) = used.by_client.get_mut(self.caller.name()) {
            *own -= self.amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers() -> [Caller; 2] {
        ["crm", "bi"].map(Caller::nobody)
    }

    #[test]
    fn one_client_has_half_at_most_and_the_other_still_gets_its_own() {
        let [crm, bi] = callers();
        let shares = Shares::halves(10, 2);
        let mut first = shares.take(&crm, 3).unwrap();
        assert!(first.grow(2));
        assert!(!first.grow(1) && shares.take(&crm, 1).is_none());
        let other = shares.take(&bi, 5).unwrap();
        assert!(shares.take(&bi, 1).is_none());
        drop(first);
        assert!(shares.take(&crm, 6).is_none());
        let again = shares.take(&crm, 5).unwrap();
        drop((other, again));
        assert_eq!(shares.used().all, 0);
    }

    #[test]
    fn a_client_alone_has_everything() {
        let [crm, _] = callers();
        let shares = Shares::halves(10, 1);
        let all = shares.take(&crm, 10).unwrap();
        assert!(shares.take(&crm, 1).is_none());
        drop(all);
        assert!(shares.take(&crm, 10).is_some());
    }
}
