//! What is kept of subscriptions beside the log, and under which keys.
//!
//! | key | value |
//! |---|---|
//! | `subscription/config/` name | [`Config`] |
//! | `subscription/progress/` key | [`Progress`] |
//! | `subscription/dead/` key, number of the entry | [`Dead`] |
//!
//! `key` is the subscription's own, random, so that a later one of the same name shares nothing
//! with it.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use prost::Message;

use crate::proto::PushFilter;
use crate::store::embedded::disk::Write;
use crate::store::subscriptions::{Backoff, Spec};

const CONFIG: &[u8] = b"subscription/config/";
const PROGRESS: &[u8] = b"subscription/progress/";
const DEAD: &[u8] = b"subscription/dead/";

/// Nothing waits longer than this after a restart, whatever the clock says then.
const LONGEST_WAIT_MS: u64 = 12 * 60 * 60 * 1000;

/// A subscription apart from how far it has come.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Config {
    #[prost(fixed64, tag = "1")]
    pub key: u64,
    #[prost(uint64, tag = "2")]
    pub created_at_ms: u64,
    #[prost(message, optional, tag = "3")]
    pub filter: Option<PushFilter>,
    #[prost(uint64, tag = "4")]
    pub ack_deadline_ms: u64,
    #[prost(uint32, tag = "5")]
    pub max_attempts: u32,
    #[prost(uint64, tag = "6")]
    pub backoff_minimum_ms: u64,
    #[prost(uint64, tag = "7")]
    pub backoff_maximum_ms: u64,
    #[prost(bool, tag = "8")]
    pub paused: bool,
}

impl Config {
    pub fn new(key: u64, created_at_ms: u64, spec: &Spec) -> Self {
        Self {
            key,
            created_at_ms,
            filter: Some(spec.filter.clone()),
            ack_deadline_ms: millis(spec.ack_deadline),
            max_attempts: spec.max_attempts,
            backoff_minimum_ms: millis(spec.backoff.minimum),
            backoff_maximum_ms: millis(spec.backoff.maximum),
            paused: spec.paused,
        }
    }

    pub fn spec(&self) -> Spec {
        Spec {
            filter: self.filter.clone().unwrap_or_default(),
            ack_deadline: Duration::from_millis(self.ack_deadline_ms),
            max_attempts: self.max_attempts,
            backoff: Backoff {
                minimum: Duration::from_millis(self.backoff_minimum_ms),
                maximum: Duration::from_millis(self.backoff_maximum_ms),
            },
            paused: self.paused,
        }
    }
}

/// How far a subscription has come. Everything up to `floor` is settled, and so is what `settled`
/// says of the entries beyond it; the exceptions are not, wherever they lie.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Progress {
    #[prost(uint32, tag = "1")]
    pub generation: u32,
    #[prost(uint64, tag = "2")]
    pub floor: u64,
    /// In turn: how many entries to pass over, how many settled ones follow.
    #[prost(uint64, repeated, tag = "3")]
    pub settled: Vec<u64>,
    #[prost(message, repeated, tag = "4")]
    pub exceptions: Vec<Exception>,
    #[prost(uint64, tag = "5")]
    pub redelivered: u64,
    #[prost(uint64, tag = "6")]
    pub lost: u64,
}

impl Progress {
    /// Says what is settled beyond the floor: ranges in order that don't overlap.
    pub fn set_settled(&mut self, ranges: impl IntoIterator<Item = Range<u64>>) {
        let mut next = self.floor + 1;
        for range in ranges {
            if !range.is_empty() {
                self.settled
                    .extend([range.start - next, range.end - range.start]);
                next = range.end;
            }
        }
    }

    /// What is settled beyond the floor.
    pub fn settled_ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + use<> {
        let mut next = self.floor + 1;
        let (pairs, _) = self.settled.as_chunks::<2>();
        let ranges: Vec<_> = pairs
            .iter()
            .map(|[pass, settled]| {
                let from = next + pass;
                next = from + settled;
                from..=next - 1
            })
            .collect();
        ranges.into_iter()
    }
}

/// An entry that is kept one by one: it failed before, or was parked once.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Exception {
    #[prost(uint64, tag = "1")]
    pub number: u64,
    #[prost(uint32, tag = "2")]
    pub failed: u32,
    /// Until when it waits, in milliseconds since 1970; 0: it does not.
    #[prost(uint64, tag = "3")]
    until_ms: u64,
    /// How long that was when it was written down: a clock that jumps makes it no longer.
    #[prost(uint64, tag = "4")]
    wait_ms: u64,
}

impl Exception {
    pub fn new(number: u64, failed: u32, wait_ms: u64, wall_ms: u64) -> Self {
        Self {
            number,
            failed,
            until_ms: if wait_ms == 0 { 0 } else { wall_ms + wait_ms },
            wait_ms,
        }
    }

    /// How long it still waits.
    pub fn remaining(&self, wall_ms: u64) -> u64 {
        let longest = self.wait_ms.min(LONGEST_WAIT_MS);
        self.until_ms.saturating_sub(wall_ms).min(longest)
    }
}

/// What is kept of a dead letter beside its entry.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Dead {
    #[prost(uint32, tag = "1")]
    pub attempts: u32,
    #[prost(string, tag = "2")]
    pub reason: String,
    #[prost(uint64, tag = "3")]
    pub parked_at_ms: u64,
}

pub(super) fn config_key(name: &str) -> Vec<u8> {
    [CONFIG, name.as_bytes()].concat()
}

pub(super) fn progress_key(key: u64) -> Vec<u8> {
    [PROGRESS, &key.to_be_bytes()].concat()
}

pub(super) fn dead_key(key: u64, number: u64) -> Vec<u8> {
    [DEAD, &key.to_be_bytes(), &number.to_be_bytes()].concat()
}

/// The keys of a subscription's dead letters from one entry on.
pub(super) fn dead_range(key: u64, from: u64) -> Range<Vec<u8>> {
    let mut end = dead_key(key, u64::MAX);
    end.push(0);
    dead_key(key, from)..end
}

/// The keys of all subscriptions' configurations.
pub(super) fn config_range() -> Range<Vec<u8>> {
    CONFIG.to_vec()..[CONFIG, &[0xff]].concat()
}

/// The name in a configuration's key.
pub(super) fn name(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.strip_prefix(CONFIG)?).ok()
}

/// The entry's number in a dead letter's key.
pub(super) fn dead_number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.last_chunk()?))
}

pub(super) fn set(key: Vec<u8>, value: &impl Message) -> Write {
    Write {
        key,
        value: Some(value.encode_to_vec()),
    }
}

pub(super) fn unset(key: Vec<u8>) -> Write {
    Write { key, value: None }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
