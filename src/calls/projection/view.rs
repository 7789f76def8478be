//! Reads the database as it is at one moment.

use std::collections::BTreeSet;

use bytes::Bytes;
use fjall::{Readable, Snapshot};
use prost::Message;

use super::super::stored::{CallKey, Index, Parts, Summary};
use super::Disk;
use crate::proto::Call;
use crate::push::Position;

/// Calls of which the log holds nothing any more.
#[derive(Default)]
pub(in crate::calls) struct Old {
    pub calls: Vec<(CallKey, Summary)>,
    /// Where the first call stands that was looked at and is not old.
    pub first_kept: Option<Vec<u8>>,
    /// Where to look further, if there is more to be looked at.
    pub next: Option<Vec<u8>>,
}

/// The database at one moment.
pub(in crate::calls) struct View<'a> {
    disk: &'a Disk,
    snapshot: Snapshot,
}

impl<'a> View<'a> {
    pub fn new(disk: &'a Disk, snapshot: Snapshot) -> Self {
        Self { disk, snapshot }
    }

    pub fn summary(&self, key: &CallKey) -> fjall::Result<Option<Summary>> {
        let value = self.snapshot.get(&self.disk.summaries, key.as_bytes())?;
        Ok(value.and_then(|value| Summary::decode(value.as_ref()).ok()))
    }

    pub fn parts(&self, key: &CallKey) -> fjall::Result<Parts> {
        let value = self.snapshot.get(&self.disk.parts, key.as_bytes())?;
        let parts = value.and_then(|value| Parts::decode(Bytes::from_owner(value)).ok());
        Ok(parts.unwrap_or_default())
    }

    /// The call's bytes.
    pub fn call(&self, key: &CallKey) -> fjall::Result<Option<fjall::Slice>> {
        self.snapshot.get(&self.disk.calls, key.as_bytes())
    }

    /// The first of these calls that is of one of these accounts; `None`: of any.
    pub fn first(
        &self,
        keys: impl Iterator<Item = fjall::Result<CallKey>>,
        accounts: Option<&BTreeSet<String>>,
    ) -> fjall::Result<Option<Call>> {
        for key in keys {
            let key = key?;
            if key.is_of(accounts) {
                let call = self.call(&key)?;
                return Ok(call.and_then(|call| Call::decode(call.as_ref()).ok()));
            }
        }
        Ok(None)
    }

    /// Whether there is a call of a row with its record.
    pub fn has_record(&self, account: &str, task_data_id: &str) -> fjall::Result<bool> {
        let (from, to) = Index::TaskData(task_data_id).whole();
        for item in self.list(from, to) {
            let (_, key) = item?;
            if key.account() != account.as_bytes() {
                continue;
            }
            let call = self.call(&key)?;
            let call = call.and_then(|call| Call::decode(call.as_ref()).ok());
            if call.is_some_and(|call| call.call_record.is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The keys of every call of a `call_uuid`: one for each account that has it.
    pub fn keys(&self, call_uuid: &str) -> impl Iterator<Item = fjall::Result<CallKey>> + use<> {
        let prefix = CallKey::prefix(call_uuid);
        let found = self.snapshot.prefix(&self.disk.calls, prefix);
        found.map(|item| Ok(CallKey::from_bytes(&item.key()?)))
    }

    /// The calls of a list with their keys there, within bounds, in order.
    pub fn list(
        &self,
        from: Vec<u8>,
        to: Vec<u8>,
    ) -> impl DoubleEndedIterator<Item = fjall::Result<(Vec<u8>, CallKey)>> + use<> {
        self.snapshot.range(&self.disk.index, from..to).map(|item| {
            let (key, call) = item.into_inner()?;
            Ok((key.to_vec(), CallKey::from_bytes(&call)))
        })
    }

    /// Calls that wait for something until a time within these bounds, `limit` at most.
    pub fn due(&self, from_ms: u64, before_ms: u64, limit: usize) -> fjall::Result<Vec<CallKey>> {
        let bounds = (Index::Due(from_ms).prefix(), Index::Due(before_ms).prefix());
        self.first_of(bounds, limit)
    }

    /// Calls whose last content is not in the log yet, `limit` at most.
    pub fn pending(&self, limit: usize) -> fjall::Result<Vec<CallKey>> {
        self.first_of(Index::Pending.whole(), limit)
    }

    /// Of the calls from a key of the list of all on, `limit` at most: those of which a log that
    /// begins after `earliest` holds nothing.
    pub fn old(&self, from: Vec<u8>, earliest: Position, limit: usize) -> fjall::Result<Old> {
        let mut old = Old::default();
        let mut looked_at = 0;
        for item in self.list(from, Index::All.whole().1) {
            let (index_key, key) = item?;
            let Some(summary) = self.summary(&key)? else {
                continue;
            };
            let is_kept = summary.last_position > earliest.0;
            if is_kept && old.first_kept.is_none() {
                old.first_kept = Some(index_key.clone());
            }
            if summary.first_position > earliest.0 {
                // So are all that follow.
                break;
            }
            if looked_at == limit {
                old.next = Some(index_key);
                break;
            }
            looked_at += 1;
            if !is_kept {
                old.calls.push((key, summary));
            }
        }
        Ok(old)
    }

    fn first_of(
        &self,
        (from, to): (Vec<u8>, Vec<u8>),
        limit: usize,
    ) -> fjall::Result<Vec<CallKey>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let found = self.list(from, to).take(limit);
        found.map(|item| item.map(|(_, call)| call)).collect()
    }
}
