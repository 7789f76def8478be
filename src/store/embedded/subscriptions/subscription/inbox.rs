//! What waits for a member to take it.

use std::mem;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::store::subscriptions::{Delivery, Handed};

/// See the module's words.
pub struct Inbox {
    deliveries: Vec<Delivery>,
    caught_up: CaughtUp,
    notify: Arc<Notify>,
}

/// Whether a member knows that it has caught up.
#[derive(Clone, Copy, PartialEq)]
enum CaughtUp {
    NotYet,
    ToBeTold,
    Told,
}

impl Inbox {
    /// An empty one, whose member waits for `notify`.
    pub fn new(notify: Arc<Notify>) -> Self {
        Self {
            deliveries: Vec::new(),
            caught_up: CaughtUp::NotYet,
            notify,
        }
    }

    pub fn put(&mut self, delivery: Delivery) {
        if self.deliveries.is_empty() {
            self.notify.notify_one();
        }
        self.deliveries.push(delivery);
    }

    /// Says that everything has been handed out, unless that has been said before.
    pub fn tell_caught_up(&mut self) {
        if self.caught_up == CaughtUp::NotYet {
            self.caught_up = CaughtUp::ToBeTold;
            self.notify.notify_one();
        }
    }

    /// What there is for the member; `None`: nothing yet.
    pub fn collect(&mut self, is_caught_up: bool) -> Option<Handed> {
        if !self.deliveries.is_empty() {
            return Some(Handed::Deliveries(mem::take(&mut self.deliveries)));
        }
        if self.caught_up != CaughtUp::ToBeTold {
            return None;
        }
        // It may have been so when it was to be told, and be so no more.
        if is_caught_up {
            self.caught_up = CaughtUp::Told;
            Some(Handed::CaughtUp)
        } else {
            self.caught_up = CaughtUp::NotYet;
            None
        }
    }

    /// Forgets what is in it: it counts no more.
    pub fn clear(&mut self) {
        self.deliveries.clear();
    }

    /// Wakes the member, to see that there is nothing more to come.
    pub fn wake(&self) {
        self.notify.notify_one();
    }
}
