//! What becomes of a delivery: acknowledged, refused, late, given up.

use std::time::Duration;

use super::super::ack_id::AckId;
use super::{Held, Millis, Open, State, millis};
use crate::store::subscriptions::{AckOutcome, Nack, Spec};

/// An entry that is given up.
#[derive(Debug, PartialEq)]
pub struct Parked {
    pub number: u64,
    pub attempts: u32,
    pub reason: String,
}

impl State {
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
        open.breaks = 0;
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

    pub(super) fn park(&mut self, number: u64, reason: &str) -> Parked {
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
}
