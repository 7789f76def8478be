//! The connections to a service: two, so that a second try need not go where the first got stuck.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use super::lane::{Lane, State};
use super::wire::Wire;

/// Two lanes, used in turns as long as both answer.
pub(super) struct Lanes {
    lanes: [Lane; 2],
    turn: AtomicUsize,
}

/// A connection to try, and the lane that it is of.
pub(super) struct Picked<'a> {
    pub wire: Wire,
    pub at: usize,
    lane: &'a Lane,
    heard: bool,
}

impl Picked<'_> {
    /// It answered.
    pub fn heard(&mut self) {
        self.heard = true;
        self.lane.silent.store(0, Ordering::Relaxed);
    }
}

impl Drop for Picked<'_> {
    /// A try that was given up: the other lane goes first from now on.
    fn drop(&mut self) {
        if !self.heard {
            self.lane.silent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Lanes {
    pub fn new(lanes: [Lane; 2]) -> Self {
        Self {
            lanes,
            turn: AtomicUsize::new(0),
        }
    }

    /// A connection, the one that answers best; `not` only if there is no other. Waits while one
    /// is being made; `None` if that has just failed.
    pub async fn pick(&self, not: Option<usize>) -> Option<Picked<'_>> {
        let [mut a, mut b] = [0, 1].map(|i: usize| self.lanes[i].state.clone());
        loop {
            // Marks what it sees as seen, before it is looked at.
            let hope = [&mut a, &mut b].map(is_hopeful);
            if let Some(picked) = self.pick_now(not) {
                return Some(picked);
            }
            if hope == [false, false] {
                return None;
            }
            tokio::select! {
                changed = a.changed() => changed.ok()?,
                changed = b.changed() => changed.ok()?,
            }
        }
    }

    /// The same, from the connections that are there.
    fn pick_now(&self, not: Option<usize>) -> Option<Picked<'_>> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % 2;
        let best_first = |at: &usize| (not == Some(*at), self.lanes[*at].silence());
        let mut order = [first, 1 - first];
        order.sort_by_key(best_first);
        order.into_iter().find_map(|at| self.pick_lane(at))
    }

    /// Whether the other lane has a connection.
    pub fn has_other(&self, than: usize) -> bool {
        up(&self.lanes[1 - than].state).is_some()
    }

    /// The other lane's connection, if there is one.
    pub fn pick_other(&self, than: usize) -> Option<Picked<'_>> {
        self.pick_lane(1 - than)
    }

    fn pick_lane(&self, at: usize) -> Option<Picked<'_>> {
        let lane = &self.lanes[at];
        Some(Picked {
            wire: up(&lane.state)?,
            at,
            lane,
            heard: false,
        })
    }

    /// Has both connections made anew: they may lead to somebody who answers.
    pub fn renew(&self) {
        self.lanes.iter().for_each(Lane::renew);
    }
}

fn up(state: &watch::Receiver<State>) -> Option<Wire> {
    match &*state.borrow() {
        State::Up(wire) if !wire.is_closed() => Some(wire.clone()),
        State::Up(_) | State::Connecting | State::Down => None,
    }
}

/// Whether a connection is there or may be there soon.
fn is_hopeful(state: &mut watch::Receiver<State>) -> bool {
    match &*state.borrow_and_update() {
        State::Up(_) | State::Connecting => true,
        State::Down => false,
    }
}
