//! What one subscription has handed out, to whom, and what is settled: no disk, no clock, no tasks.
//!
//! Everything up to `read_to` has been looked at: it is either in `open` or settled. Beyond lies
//! what is still to be read, apart from `ahead`, which was settled before a restart, and from
//! single entries of `open` that had failed before it.

mod acks;
mod hand_out;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rangemap::RangeInclusiveSet;

pub(super) use self::acks::Parked;
use self::hand_out::Holding;
pub(super) use self::hand_out::{Given, Want};
use super::saved::{Exception, Progress};
use crate::store::Entry;

/// Milliseconds on a clock that never jumps.
pub(super) type Millis = u64;
/// Names a member for as long as it is there.
pub(super) type MemberId = u64;

/// So many entries may be out or waiting; then nothing new is read until some are settled.
const MAX_OPEN: usize = 32_768;
/// A member whose stream breaks within this time of a delivery may have been broken by it: its client
/// cannot decode the event, or crashes on it.
const BREAK_TIME: Millis = 1000;
/// An entry is parked after this many such deliveries in a row. Before the last one it is delivered
/// alone, so that no other entry is parked in its place.
const MAX_BREAKS: u32 = 3;

/// See the module's words.
pub(super) struct State {
    read_to: u64,
    ahead: RangeInclusiveSet<u64>,
    open: BTreeMap<u64, Open>,
    /// Those of `open` that can be handed out now.
    ready: BTreeSet<u64>,
    /// When those of `open` that are out or waiting come back.
    timers: BTreeSet<(Millis, u64)>,
    members: BTreeMap<MemberId, Holding>,
    generation: u32,
    next_tag: u64,
    redelivered: u64,
    lost: u64,
    /// Changes whenever what is being read meanwhile must not be taken.
    epoch: u64,
    served: u64,
    /// Whether there is something to be kept that has not been yet.
    is_changed: bool,
}

/// An entry that has been looked at, matches, and is not settled.
struct Open {
    /// How many attempts have failed.
    failed: u32,
    /// The latest delivery in this process.
    tag: Option<u64>,
    /// Whether that delivery has been counted as failed.
    is_counted: bool,
    /// When that delivery was made.
    given_at: Millis,
    /// How many deliveries in a row broke their member; see [`BREAK_TIME`].
    breaks: u32,
    /// Whether it lies where others are settled: it is kept one by one.
    is_exception: bool,
    held: Held,
    /// Only while it can be handed out, so that what is out costs no memory.
    entry: Option<Arc<Entry>>,
    /// 0: not known since a restart.
    received_at_ms: u64,
    size: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Held {
    Ready,
    Waiting { until: Millis },
    Out { member: MemberId, until: Millis },
}

impl State {
    /// A subscription that has come so far. `tag_seed` should be random.
    pub fn new(progress: Progress, now: Millis, wall_ms: u64, tag_seed: u64) -> Self {
        let mut state = Self {
            read_to: progress.floor,
            ahead: RangeInclusiveSet::new(),
            open: BTreeMap::new(),
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            members: BTreeMap::new(),
            generation: progress.generation,
            next_tag: tag_seed,
            redelivered: progress.redelivered,
            lost: progress.lost,
            epoch: 0,
            served: 0,
            is_changed: false,
        };
        state.ahead.extend(progress.settled_ranges());
        for exception in progress.exceptions {
            let held = match exception.remaining(wall_ms) {
                0 => Held::Ready,
                remaining => Held::Waiting {
                    until: now + remaining,
                },
            };
            let open = Open {
                failed: exception.failed,
                is_exception: true,
                ..Open::unknown()
            };
            state.open.insert(exception.number, open);
            state.hold(exception.number, held);
        }
        state
    }

    /// What has to be kept of it.
    pub fn progress(&self, now: Millis, wall_ms: u64) -> Progress {
        let floor = self.place();
        let mut progress = Progress {
            generation: self.generation,
            floor,
            redelivered: self.redelivered,
            lost: self.lost,
            ..Progress::default()
        };
        let mut settled_from = floor + 1;
        let mut settled = Vec::new();
        for (&number, open) in &self.open {
            if open.is_exception {
                let wait = match open.held {
                    Held::Waiting { until } => until.saturating_sub(now),
                    Held::Ready | Held::Out { .. } => 0,
                };
                let exception = Exception::new(number, open.failed, wait, wall_ms);
                progress.exceptions.push(exception);
            } else {
                settled.push(settled_from..number);
                settled_from = number + 1;
            }
        }
        settled.push(settled_from..self.read_to + 1);
        settled.extend(
            self.ahead
                .iter()
                .map(|range| *range.start()..range.end() + 1),
        );
        progress.set_settled(settled);
        progress
    }

    /// Whether there is something to be kept since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// Everything up to here is settled, or kept one by one.
    pub fn place(&self) -> u64 {
        let first = self.open.iter().find(|(_, open)| !open.is_exception);
        first.map_or(self.read_to, |(number, _)| number - 1)
    }

    /// Everything up to here has been handed out or left out; what was only read has not.
    pub fn handed_out(&self) -> u64 {
        let is_fresh = |open: &Open| open.tag.is_none() && !open.is_exception;
        let mut ready = self.ready.iter();
        let fresh = ready.find(|&number| self.open.get(number).is_some_and(is_fresh));
        fresh.map_or(self.read_to, |number| number - 1)
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    pub fn redelivered(&self) -> u64 {
        self.redelivered
    }

    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// How many entries have been handed out and are not settled, and when the oldest of them was
    /// received, in milliseconds since 1970.
    pub fn unacked(&self) -> (u64, Option<u64>) {
        let handed_out = self
            .open
            .values()
            .filter(|open| open.is_exception || open.tag.is_some());
        let oldest = handed_out
            .clone()
            .map(|open| open.received_at_ms)
            .filter(|ms| *ms > 0)
            .min();
        (handed_out.count() as u64, oldest)
    }

    pub fn is_caught_up(&self, end: u64) -> bool {
        self.ready.is_empty() && self.read_to >= end
    }

    /// Takes what was read after `read_to`, up to `up_to`: the entries that match.
    pub fn take(&mut self, up_to: u64, matching: impl IntoIterator<Item = Arc<Entry>>) {
        for entry in matching {
            let number = entry.cursor.position.0;
            if number <= self.read_to || self.ahead.contains(&number) {
                continue;
            }
            let open = self.open.entry(number).or_insert_with(Open::unknown);
            if open.held == Held::Ready {
                self.ready.insert(number);
            }
            self.load(entry);
        }
        self.pass(up_to);
    }

    /// Takes an entry that is to be handed out again.
    pub fn load(&mut self, entry: Arc<Entry>) {
        if let Some(open) = self.open.get_mut(&entry.cursor.position.0)
            && !matches!(open.held, Held::Out { .. })
        {
            open.received_at_ms = entry.received_at_ms;
            open.size = entry.size();
            open.entry = (open.held == Held::Ready).then_some(entry);
        }
    }

    /// Lets go of an entry that waits to be handed out again and matches no more.
    pub fn leave_out(&mut self, number: u64) {
        if self.held(number) == Some(Held::Ready) {
            if number > self.read_to {
                self.ahead.insert(number..=number);
            }
            self.settle(number);
        }
    }

    fn pass(&mut self, up_to: u64) {
        self.read_to = self.read_to.max(up_to);
        self.is_changed = true;
        if !self.ahead.is_empty() {
            self.ahead.remove(0..=self.read_to);
        }
    }

    /// Leaves out what nobody has been given yet and does not match any more.
    pub fn reconsider(&mut self, matches: impl Fn(&Entry) -> bool) {
        self.epoch += 1;
        let left_out = self.ready.iter().copied().filter(|number| {
            let open = self.open.get(number);
            let fresh = open.filter(|open| open.tag.is_none() && !open.is_exception);
            let entry = fresh.and_then(|open| open.entry.as_deref());
            entry.is_some_and(|entry| !matches(entry))
        });
        for number in left_out.collect::<Vec<_>>() {
            self.settle(number);
        }
    }

    /// How many more entries may be open.
    pub fn room(&self) -> usize {
        MAX_OPEN.saturating_sub(self.open.len())
    }

    /// Hands out a parked entry again.
    pub fn redrive(&mut self, number: u64) {
        // A tag that no delivery has: those of before the parking do not count for this one.
        self.next_tag = self.next_tag.wrapping_add(1);
        let open = Open {
            is_exception: true,
            tag: Some(self.next_tag),
            ..Open::unknown()
        };
        self.open.insert(number, open);
        self.ahead.remove(number..=number);
        self.hold(number, Held::Ready);
    }

    /// Goes on after this entry, as if nothing had been handed out before.
    pub fn seek(&mut self, after: u64) {
        self.generation = self.generation.wrapping_add(1);
        self.epoch += 1;
        self.read_to = after;
        self.ahead.clear();
        self.open.clear();
        self.ready.clear();
        self.timers.clear();
        for holding in self.members.values_mut() {
            holding.numbers.clear();
            holding.bytes = 0;
        }
    }

    /// The entries of these numbers are gone; tells how many of them were still to be handed out.
    pub fn lose(&mut self, gone: RangeInclusive<u64>) -> u64 {
        let mut lost = 0;
        let unread = (*gone.start()).max(self.read_to + 1)..=*gone.end();
        if !unread.is_empty() {
            let known = |number: &u64| self.ahead.contains(number);
            let open = self.open.range(unread.clone());
            let open = open.filter(|(number, _)| !known(number)).count();
            let settled: u64 = self
                .ahead
                .overlapping(&unread)
                .map(|range| range.end().min(unread.end()) + 1 - range.start().max(unread.start()))
                .sum();
            lost += unread.end() + 1 - unread.start() - settled - open as u64;
            if *unread.start() == self.read_to + 1 {
                self.pass(*unread.end());
            } else {
                // What lies before it is still to be read.
                self.ahead.insert(unread);
                self.is_changed = true;
            }
        }
        // What is out may still be acknowledged.
        let open = self.open.range(gone);
        let waiting = open.filter(|(_, open)| !matches!(open.held, Held::Out { .. }));
        for number in waiting.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.settle(number);
            lost += 1;
        }
        self.lost += lost;
        lost
    }

    /// Counts what was lost elsewhere.
    pub fn count_lost(&mut self, lost: u64) {
        self.lost += lost;
    }

    /// Whether an entry is to be delivered alone.
    fn is_suspect(&self, number: u64) -> bool {
        let open = self.open.get(&number);
        open.is_some_and(|open| open.breaks + 1 >= MAX_BREAKS)
    }

    fn held(&self, number: u64) -> Option<Held> {
        self.open.get(&number).map(|open| open.held)
    }

    fn settle(&mut self, number: u64) {
        self.is_changed = true;
        self.let_go(number);
        self.ready.remove(&number);
        self.open.remove(&number);
    }

    fn hold(&mut self, number: u64, held: Held) {
        self.let_go(number);
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        open.held = held;
        match held {
            Held::Ready => {
                self.ready.insert(number);
            }
            Held::Waiting { until } => {
                self.ready.remove(&number);
                self.timers.insert((until, number));
            }
            Held::Out { member, until } => {
                self.ready.remove(&number);
                self.timers.insert((until, number));
                if let Some(holding) = self.members.get_mut(&member)
                    && holding.numbers.insert(number)
                {
                    holding.bytes += open.size;
                }
            }
        }
    }

    /// Undoes what the present hold on an entry means elsewhere.
    fn let_go(&mut self, number: u64) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        match open.held {
            Held::Ready => {}
            Held::Waiting { until } => {
                self.timers.remove(&(until, number));
            }
            Held::Out { member, until } => {
                self.timers.remove(&(until, number));
                if let Some(holding) = self.members.get_mut(&member)
                    && holding.numbers.remove(&number)
                {
                    holding.bytes = holding.bytes.saturating_sub(open.size);
                }
            }
        }
    }
}

impl Open {
    /// An entry of which nothing is known but its number.
    fn unknown() -> Self {
        Self {
            failed: 0,
            tag: None,
            is_counted: false,
            given_at: 0,
            breaks: 0,
            is_exception: false,
            held: Held::Ready,
            entry: None,
            received_at_ms: 0,
            size: 0,
        }
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests;
