//! Who gets what: members, how much each may hold, and what must be read for them.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::{BREAK_TIME, Held, MAX_BREAKS, MAX_OPEN, MemberId, Millis, Parked, State, millis};
use crate::store::Entry;
use crate::store::subscriptions::{Spec, Window};

/// So many entries are handed to a member at a time: others get their turn, and whoever sends them
/// on comes back soon.
const HANDFUL: usize = 32;
/// So many entries are loaded at a time to be handed out again.
const LOAD: usize = 64;

/// What a member holds and may hold.
pub(super) struct Holding {
    pub window: Window,
    pub numbers: BTreeSet<u64>,
    pub bytes: usize,
    /// Whether it has asked for more.
    is_hungry: bool,
    /// How many it may still be given before it asks again.
    share: usize,
    /// When it was last given something, counted in deliveries.
    served: u64,
}

impl Holding {
    fn has_room(&self) -> bool {
        self.is_hungry && self.share > 0 && self.numbers.len() < self.window.events
    }

    fn fits(&self, size: usize) -> bool {
        self.numbers.is_empty() || self.bytes.saturating_add(size) <= self.window.bytes
    }
}

/// An entry handed to a member.
pub struct Given {
    pub member: MemberId,
    pub number: u64,
    pub tag: u64,
    pub attempt: u32,
    pub entry: Arc<Entry>,
}

/// What has to be read before anything more can be handed out.
#[derive(Debug, PartialEq)]
pub enum Want {
    /// These entries, which are to be handed out again.
    Entries(Vec<u64>),
    /// What follows this number.
    After(u64),
    /// Nothing: nobody asks, nothing is left, or nobody has room.
    Nothing,
}

impl State {
    pub fn join(&mut self, member: MemberId, window: Window) {
        let holding = Holding {
            window,
            numbers: BTreeSet::new(),
            bytes: 0,
            is_hungry: false,
            share: 0,
            served: 0,
        };
        self.members.insert(member, holding);
    }

    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Takes back what a member holds; that is no failed attempt. `broken_at` is when the member's
    /// stream broke, unless the member left in order. An entry whose deliveries were followed by a
    /// break within [`BREAK_TIME`], [`MAX_BREAKS`] times in a row, is parked.
    pub fn leave(&mut self, member: MemberId, broken_at: Option<Millis>) -> Vec<Parked> {
        let mut parked = Vec::new();
        let Some(holding) = self.members.remove(&member) else {
            return parked;
        };
        for number in holding.numbers {
            let Some(open) = self.open.get_mut(&number) else {
                continue;
            };
            let is_break = |at: Millis| at.saturating_sub(open.given_at) < BREAK_TIME;
            open.breaks = if broken_at.is_some_and(is_break) {
                open.breaks + 1
            } else {
                0
            };
            if open.breaks >= MAX_BREAKS {
                open.failed += open.breaks;
                let reason =
                    "its members' streams broke within a second of three deliveries in a row";
                parked.push(self.park(number, reason));
            } else {
                self.hold(number, Held::Ready);
            }
        }
        parked
    }

    /// A member asks for more, or does not for now.
    pub fn ask(&mut self, member: MemberId, is_hungry: bool) {
        if let Some(holding) = self.members.get_mut(&member) {
            holding.is_hungry = is_hungry;
            holding.share = HANDFUL;
        }
    }

    /// Hands out what can be, each entry to the member with the most room of those who asked.
    pub fn hand_out(&mut self, spec: &Spec, now: Millis) -> Vec<Given> {
        let mut given = Vec::new();
        if spec.paused {
            return given;
        }
        self.share_out();
        while let Some(&number) = self.ready.first()
            && let Some(entry) = self.open.get(&number).and_then(|open| open.entry.clone())
            && let Some(member) = self.roomiest(entry.size(), self.is_suspect(number))
        {
            let until = now + millis(spec.ack_deadline);
            given.push(self.give(number, member, entry, now, until));
        }
        for given in &given {
            self.ask(given.member, false);
        }
        given
    }

    /// Finds out how many each member may be given that asks: what makes it hold its part of all
    /// that is out or ready, by its window. One that holds more already may have little, so that a
    /// member that never asks delays nobody.
    fn share_out(&mut self) {
        let ready = self.ready.len();
        let holdings = || self.members.values();
        let out: usize = holdings().map(|holding| holding.numbers.len()).sum();
        let windows: usize = holdings().map(|holding| holding.window.events).sum();
        let least = ready.div_ceil(2 * self.members.len().max(1));
        for holding in self
            .members
            .values_mut()
            .filter(|holding| holding.is_hungry)
        {
            let part =
                (out + ready) as u128 * holding.window.events as u128 / windows.max(1) as u128;
            let part = usize::try_from(part).unwrap_or(usize::MAX);
            let share = part.saturating_sub(holding.numbers.len());
            holding.share = share.max(least).clamp(1, HANDFUL);
        }
    }

    fn give(
        &mut self,
        number: u64,
        member: MemberId,
        entry: Arc<Entry>,
        now: Millis,
        until: Millis,
    ) -> Given {
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
            open.given_at = now;
            open.entry = None;
        }
        if let Some(holding) = self.members.get_mut(&member) {
            holding.share = holding.share.saturating_sub(1);
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

    /// Whether a member may be given more. One that holds a suspect holds nothing else.
    fn has_room(&self, holding: &Holding) -> bool {
        let holds_suspect = || {
            holding
                .numbers
                .first()
                .is_some_and(|it| self.is_suspect(*it))
        };
        holding.has_room() && !holds_suspect()
    }

    /// The member with the most room for an entry; one that is delivered alone needs a member that
    /// holds nothing.
    fn roomiest(&self, size: usize, is_alone: bool) -> Option<MemberId> {
        let hungry = self
            .members
            .iter()
            .filter(|(_, holding)| self.has_room(holding));
        let (member, _) = hungry
            .filter(|(_, holding)| holding.fits(size))
            .filter(|(_, holding)| !is_alone || holding.numbers.is_empty())
            .max_by_key(
                |(
                    _,
                    Holding {
                        window,
                        numbers,
                        served,
                        ..
                    },
                )| { (window.events - numbers.len(), Reverse(*served)) },
            )?;
        Some(*member)
    }

    /// What must be read for more to be handed out, of a log that ends with the entry `end`.
    pub fn want(&self, spec: &Spec, end: u64) -> Want {
        if spec.paused || !self.members.values().any(|holding| self.has_room(holding)) {
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
}
