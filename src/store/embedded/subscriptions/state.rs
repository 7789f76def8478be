//! What one subscription has handed out, to whom, and what is settled: no disk, no clock, no tasks.
//!
//! Everything up to `read_to` has been looked at: it is either in `open` or settled. Beyond lies
//! what is still to be read, apart from `ahead`, which was settled before a restart, and from
//! single entries of `open` that had failed before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rangemap::RangeInclusiveSet;

use super::ack_id::AckId;
use super::saved::{Exception, Progress};
use crate::store::Entry;
use crate::store::subscriptions::{AckOutcome, Nack, Spec, Window};

/// Milliseconds on a clock that never jumps.
pub(super) type Millis = u64;
/// Names a member for as long as it is there.
pub(super) type MemberId = u64;

/// So many entries may be out or waiting; then nothing new is read until some are settled.
const MAX_OPEN: usize = 32_768;
/// So many entries are handed to a member at a time: others get their turn, and whoever sends them
/// on comes back soon.
pub(super) const HANDFUL: usize = 32;
/// So many entries are loaded at a time to be handed out again.
const LOAD: usize = 64;

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

/// What a member holds and may hold.
struct Holding {
    window: Window,
    numbers: BTreeSet<u64>,
    bytes: usize,
    /// Whether it has asked for more.
    is_hungry: bool,
    /// How many it has been given since it asked.
    given: usize,
    /// When it was last given something, counted in deliveries.
    served: u64,
}

impl Holding {
    fn has_room(&self) -> bool {
        self.is_hungry && self.given < HANDFUL && self.numbers.len() < self.window.events
    }

    fn fits(&self, size: usize) -> bool {
        self.numbers.is_empty() || self.bytes.saturating_add(size) <= self.window.bytes
    }
}

/// An entry handed to a member.
pub(super) struct Given {
    pub member: MemberId,
    pub number: u64,
    pub tag: u64,
    pub attempt: u32,
    pub entry: Arc<Entry>,
}

/// An entry that is given up.
#[derive(Debug, PartialEq)]
pub(super) struct Parked {
    pub number: u64,
    pub attempts: u32,
    pub reason: String,
}

/// What has to be read before anything more can be handed out.
#[derive(Debug, PartialEq)]
pub(super) enum Want {
    /// These entries, which are to be handed out again.
    Entries(Vec<u64>),
    /// What follows this number.
    After(u64),
    /// Nothing: nobody asks, nothing is left, or nobody has room.
    Nothing,
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

    pub fn read_to(&self) -> u64 {
        self.read_to
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

    pub fn join(&mut self, member: MemberId, window: Window) {
        let holding = Holding {
            window,
            numbers: BTreeSet::new(),
            bytes: 0,
            is_hungry: false,
            given: 0,
            served: 0,
        };
        self.members.insert(member, holding);
    }

    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Takes back what a member holds; that is no failed attempt.
    pub fn leave(&mut self, member: MemberId) {
        let Some(holding) = self.members.remove(&member) else {
            return;
        };
        for number in holding.numbers {
            self.hold(number, Held::Ready);
        }
    }

    /// A member asks for more.
    pub fn ask(&mut self, member: MemberId) {
        if let Some(holding) = self.members.get_mut(&member) {
            holding.is_hungry = true;
        }
    }

    /// Hands out what can be, each entry to the member with the most room of those who asked.
    pub fn hand_out(&mut self, spec: &Spec, now: Millis) -> Vec<Given> {
        let mut given = Vec::new();
        if spec.paused {
            return given;
        }
        while let Some(&number) = self.ready.first()
            && let Some(entry) = self.open.get(&number).and_then(|open| open.entry.clone())
            && let Some(member) = self.roomiest(entry.size())
        {
            given.push(self.give(number, member, entry, now + millis(spec.ack_deadline)));
        }
        for given in &given {
            if let Some(holding) = self.members.get_mut(&given.member) {
                (holding.is_hungry, holding.given) = (false, 0);
            }
        }
        given
    }

    fn give(&mut self, number: u64, member: MemberId, entry: Arc<Entry>, until: Millis) -> Given {
        self.next_tag = self.next_tag.wrapping_add(1);
        self.served += 1;
        let tag = self.next_tag;
        self.hold(number, Held::Out { member, until });
        let mut attempt = 1;
        if let Some(open) = self.open.get_mut(&number) {
            attempt += open.failed;
            let again = open.tag.replace(tag).is_some() || open.is_exception;
            self.redelivered += u64::from(again);
            open.is_counted = false;
            open.entry = None;
        }
        if let Some(holding) = self.members.get_mut(&member) {
            holding.given += 1;
            holding.served = self.served;
        }
        Given {
            member,
            number,
            tag,
            attempt,
            entry,
        }
    }

    fn roomiest(&self, size: usize) -> Option<MemberId> {
        let hungry = self
            .members
            .iter()
            .filter(|(_, holding)| holding.has_room());
        let (member, _) = hungry
            .filter(|(_, holding)| holding.fits(size))
            .max_by_key(
                |(
                    _,
                    Holding {
                        window,
                        numbers,
                        served,
                        ..
                    },
                )| { (window.events - numbers.len(), std::cmp::Reverse(*served)) },
            )?;
        Some(*member)
    }

    /// What must be read for more to be handed out, of a log that ends with the entry `end`.
    pub fn want(&self, spec: &Spec, end: u64) -> Want {
        if spec.paused || !self.members.values().any(Holding::has_room) {
            return Want::Nothing;
        }
        let is_missing = |number: &&u64| self.open.get(number).is_some_and(|o| o.entry.is_none());
        match self.ready.first() {
            Some(first) if is_missing(&first) => {
                let missing = self.ready.iter().take(LOAD).filter(is_missing);
                Want::Entries(missing.copied().collect())
            }
            None if self.read_to < end && self.open.len() < MAX_OPEN => Want::After(self.read_to),
            Some(_) | None => Want::Nothing,
        }
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
        if let Some(open) = self.open.get_mut(&entry.cursor.position.0) {
            open.received_at_ms = entry.received_at_ms;
            open.size = entry.size();
            open.entry = (open.held == Held::Ready).then_some(entry);
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

    pub fn ack(&mut self, id: &AckId, end: u64) -> AckOutcome {
        let outcome = self.judge(id, end);
        if outcome == AckOutcome::Ok {
            if id.number > self.read_to {
                self.ahead.insert(id.number..=id.number);
            }
            self.settle(id.number);
        }
        outcome
    }

    pub fn nack(
        &mut self,
        id: &AckId,
        end: u64,
        how: &Nack,
        spec: &Spec,
        now: Millis,
    ) -> (AckOutcome, Option<Parked>) {
        let outcome = self.judge(id, end);
        if outcome != AckOutcome::Ok {
            return (outcome, None);
        }
        // Out before a restart, and not read again since: from now on it is kept one by one.
        let open = self.open.entry(id.number).or_insert_with(Open::unknown);
        let parked = match how {
            // The deadline has passed already, or it was refused before.
            Nack::Retry { .. } if open.is_counted => return (AckOutcome::Unknown, None),
            Nack::Retry { delay, reason } => self.fail(id.number, *delay, reason, spec, now),
            Nack::Park { reason } => {
                open.failed += u32::from(!open.is_counted);
                Some(self.park(id.number, reason))
            }
        };
        (outcome, parked)
    }

    pub fn extend(&mut self, id: &AckId, by: Duration, now: Millis) -> AckOutcome {
        let end = self.read_to;
        match self.judge(id, end) {
            AckOutcome::Ok => {}
            other => return other,
        }
        let Some(Held::Out { member, .. }) = self.held(id.number) else {
            return AckOutcome::Unknown;
        };
        let until = now + millis(by);
        self.hold(id.number, Held::Out { member, until });
        AckOutcome::Ok
    }

    /// What an id names, in a log that ends with the entry `end`.
    fn judge(&self, id: &AckId, end: u64) -> AckOutcome {
        if id.generation != self.generation {
            return AckOutcome::Superseded;
        }
        if let Some(open) = self.open.get(&id.number) {
            return match open.tag {
                Some(tag) if tag != id.tag => AckOutcome::Superseded,
                Some(_) | None => AckOutcome::Ok,
            };
        }
        // It may have been handed out before a restart, and not been read again since.
        let is_ahead = id.number > self.read_to && id.number <= end;
        if is_ahead && !self.ahead.contains(&id.number) {
            AckOutcome::Ok
        } else {
            AckOutcome::Unknown
        }
    }

    /// Takes back what has been out for too long, and what has waited long enough.
    pub fn expire(&mut self, spec: &Spec, now: Millis) -> Vec<Parked> {
        let mut parked = Vec::new();
        while let Some(&(until, number)) = self.timers.first()
            && until <= now
        {
            match self.held(number) {
                Some(Held::Out { .. }) => {
                    parked.extend(self.fail(number, None, "the ack deadline passed", spec, now));
                }
                Some(Held::Waiting { .. }) => self.hold(number, Held::Ready),
                Some(Held::Ready) | None => {
                    self.timers.remove(&(until, number));
                }
            }
        }
        parked
    }

    /// When something comes back next.
    pub fn next_timer(&self) -> Option<Millis> {
        self.timers.first().map(|(until, _)| *until)
    }

    /// A failed attempt: the entry waits, or is parked if it was the last one.
    fn fail(
        &mut self,
        number: u64,
        delay: Option<Duration>,
        reason: &str,
        spec: &Spec,
        now: Millis,
    ) -> Option<Parked> {
        let open = self.open.get_mut(&number)?;
        self.is_changed = true;
        open.failed += 1;
        open.is_counted = true;
        open.is_exception = true;
        if spec.max_attempts > 0 && open.failed >= spec.max_attempts {
            return Some(self.park(number, reason));
        }
        let delay = millis(delay.unwrap_or_else(|| spec.backoff.after(open.failed)));
        let held = match delay {
            0 => Held::Ready,
            delay => Held::Waiting { until: now + delay },
        };
        self.hold(number, held);
        None
    }

    fn park(&mut self, number: u64, reason: &str) -> Parked {
        let attempts = self.open.get(&number).map_or(0, |open| open.failed);
        if number > self.read_to {
            self.ahead.insert(number..=number);
        }
        self.settle(number);
        Parked {
            number,
            attempts,
            reason: reason.to_owned(),
        }
    }

    /// How many more entries may be open.
    pub fn room(&self) -> usize {
        MAX_OPEN.saturating_sub(self.open.len())
    }

    /// Hands out a parked entry again.
    pub fn redrive(&mut self, number: u64) {
        let open = Open {
            is_exception: true,
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
    pub fn lose(&mut self, gone: std::ops::RangeInclusive<u64>) -> u64 {
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
            self.pass(*unread.end());
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
