//! Memory for the bodies of pushes: taken as bytes arrive, never for what is only announced.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound of all bodies together. Where there are several accounts, one of them can hold at most
/// half of it, so that it cannot shut out the others.
pub struct Buffer {
    all: Arc<Semaphore>,
    shares: HashMap<String, Arc<Semaphore>>,
}

/// One permit stands for this many bytes.
const UNIT: usize = 1024;

impl Buffer {
    /// A buffer of `bytes` bytes. Each account's share has room for a body of `max_body` bytes.
    pub fn new(bytes: usize, max_body: usize, accounts: &[&str]) -> Self {
        let share = match accounts.len() {
            0 | 1 => bytes,
            _ => (bytes / 2).max(max_body).min(bytes),
        };
        let semaphore = |bytes| Arc::new(Semaphore::new(units(bytes) as usize));
        let shares = accounts.iter().map(|&it| (it.to_owned(), semaphore(share)));
        Self {
            all: semaphore(bytes),
            shares: shares.collect(),
        }
    }

    /// Room for one body of an account. It holds nothing yet.
    pub fn room(&self, account: &str) -> Room {
        let share = self.shares.get(account);
        Room {
            of: share.into_iter().chain([&self.all]).cloned().collect(),
            held: Vec::new(),
            units: 0,
            is_waiting: false,
        }
    }
}

/// Memory held for one body; given back when dropped.
pub struct Room {
    /// The account's share, then the whole buffer.
    of: Vec<Arc<Semaphore>>,
    held: Vec<OwnedSemaphorePermit>,
    units: u32,
    is_waiting: bool,
}

impl Room {
    /// Waits until there is room for `bytes` bytes in all.
    pub async fn grow_to(&mut self, bytes: usize) {
        let more = units(bytes).saturating_sub(self.units);
        if more == 0 {
            return;
        }
        self.is_waiting = true;
        for semaphore in &self.of {
            // Nobody closes the semaphores.
            if let Ok(permit) = semaphore.clone().acquire_many_owned(more).await {
                self.held.push(permit);
            }
        }
        self.units += more;
        self.is_waiting = false;
        self.merge();
    }

    /// Whether a wait for room was given up.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Keeps one permit of each semaphore.
    fn merge(&mut self) {
        let mut merged: Vec<OwnedSemaphorePermit> = Vec::new();
        for permit in self.held.drain(..) {
            let of_same =
                |it: &&mut OwnedSemaphorePermit| Arc::ptr_eq(it.semaphore(), permit.semaphore());
            match merged.iter_mut().find(of_same) {
                Some(held) => held.merge(permit),
                None => merged.push(permit),
            }
        }
        self.held = merged;
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Takes room, which must be there.
    fn take(room: &mut Room, bytes: usize) {
        assert!(room.grow_to(bytes).now_or_never().is_some());
    }

    fn is_full(room: &mut Room, bytes: usize) -> bool {
        room.grow_to(bytes).now_or_never().is_none() && room.is_waiting()
    }

    #[test]
    fn room_is_taken_for_what_has_arrived_and_given_back_at_the_end() {
        let buffer = Buffer::new(8 * UNIT, UNIT, &["a"]);
        let mut one = buffer.room("a");
        for bytes in [1, UNIT, UNIT + 1, 7 * UNIT] {
            take(&mut one, bytes);
        }
        assert_eq!(one.held.len(), 2);
        let mut other = buffer.room("a");
        take(&mut other, UNIT);
        assert!(is_full(&mut other, UNIT + 1));
        drop(one);
        take(&mut buffer.room("a"), 7 * UNIT);
    }

    #[test]
    fn one_account_of_several_holds_half_at_most() {
        let buffer = Buffer::new(8 * UNIT, UNIT, &["a", "b"]);
        let (mut greedy, mut other) = (buffer.room("a"), buffer.room("b"));
        take(&mut greedy, 4 * UNIT);
        assert!(is_full(&mut greedy, 5 * UNIT));
        take(&mut other, 4 * UNIT);
    }

    #[test]
    fn a_share_holds_a_whole_body_however_small_the_buffer() {
        let buffer = Buffer::new(8 * UNIT, 6 * UNIT, &["a", "b"]);
        take(&mut buffer.room("a"), 6 * UNIT);
    }
}
