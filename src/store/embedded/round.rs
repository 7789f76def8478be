//! A round of the writer: the requests that one commit, with at most one sync, serves together.

use tokio::sync::oneshot;

use super::disk::Write;
use super::format::{Placed, State};
use crate::store::{AppendError, Appended, NewEntry, Survives};

pub(super) type Reply = oneshot::Sender<Result<Vec<Appended>, AppendError>>;
pub(super) type Done = oneshot::Sender<Result<(), AppendError>>;

/// A round takes no more requests once it holds this many bytes.
const MAX_BYTES: usize = 8 << 20;

/// Requests in the order in which they queued.
#[derive(Default)]
pub(super) struct Round {
    appends: Vec<(Vec<NewEntry>, Reply)>,
    changes: Vec<(Vec<Write>, Done)>,
    syncs: Vec<Done>,
    bytes: usize,
    /// Whether a change must survive a loss of power.
    has_careful_change: bool,
}

/// Positions assigned to the entries of a round.
pub(super) struct Placement {
    /// Entries that the log does not hold yet.
    pub new: Vec<Placed>,
    /// The log's state with them.
    pub state: State,
    /// The answer for each entry offered.
    pub appended: Vec<Appended>,
}

impl Round {
    pub fn append(&mut self, entries: Vec<NewEntry>, reply: Reply) {
        let bytes = entries
            .iter()
            .map(|entry| entry.event.len() + entry.raw.len());
        self.bytes += bytes.sum::<usize>();
        self.appends.push((entries, reply));
    }

    pub fn change(&mut self, writes: Vec<Write>, survives: Survives, done: Done) {
        let bytes = writes
            .iter()
            .map(|write| write.key.len() + write.value.as_ref().map_or(0, Vec::len));
        self.bytes += bytes.sum::<usize>();
        self.has_careful_change |= survives == Survives::PowerLoss;
        self.changes.push((writes, done));
    }

    pub fn sync(&mut self, done: Done) {
        self.syncs.push(done);
    }

    pub fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.changes.is_empty() && self.syncs.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }

    pub fn entries(&self) -> impl Iterator<Item = &NewEntry> {
        self.appends.iter().flat_map(|(entries, _)| entries)
    }

    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.changes.iter().flat_map(|(writes, _)| writes)
    }

    /// What the commit must survive. Changes that need to survive a kill alone cause no sync. In
    /// a round with a sync they wait for it: an answer before the sync would need a commit of its
    /// own, or would show the other changes of the batch to readers before they are durable.
    pub fn survives(&self, has_new_entries: bool) -> Survives {
        if has_new_entries || self.has_careful_change || !self.syncs.is_empty() {
            Survives::PowerLoss
        } else {
            Survives::Kill
        }
    }

    /// Answers every request. A requester that has gone loses only the answer.
    pub fn answer(
        self,
        appended: Result<Vec<Appended>, AppendError>,
        committed: &Result<(), AppendError>,
    ) {
        let mut appended = appended.map(Vec::into_iter);
        for (entries, reply) in self.appends {
            let answer = match &mut appended {
                Ok(appended) => Ok(appended.take(entries.len()).collect()),
                Err(error) => Err(error.clone()),
            };
            let _: Result<(), _> = reply.send(answer);
        }
        let changed = self.changes.into_iter().map(|(_, done)| done);
        for done in changed.chain(self.syncs) {
            let _: Result<(), _> = done.send(committed.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::push::{EventId, Position};
    use crate::store::Header;

    fn entry(bytes: usize) -> NewEntry {
        NewEntry {
            id: EventId::of_raw("default", "receiveVoice", b"content"),
            header: Header::default(),
            event: Bytes::new(),
            raw: vec![0; bytes].into(),
        }
    }

    fn put(bytes: usize) -> Write {
        Write {
            key: b"key".to_vec(),
            value: Some(vec![0; bytes]),
        }
    }

    fn done() -> Done {
        oneshot::channel().0
    }

    #[test]
    fn a_round_is_synced_for_new_entries_careful_changes_and_explicit_syncs() {
        use Survives::{Kill, PowerLoss};
        // New entries, changes, explicit syncs; what the commit survives.
        for (has_new_entries, changes, syncs, expected) in [
            (false, vec![], 0, Kill),
            (false, vec![Kill], 0, Kill),
            (false, vec![Kill, Kill], 0, Kill),
            (true, vec![], 0, PowerLoss),
            (true, vec![Kill], 0, PowerLoss),
            (false, vec![PowerLoss], 0, PowerLoss),
            (false, vec![PowerLoss, Kill], 0, PowerLoss),
            (false, vec![Kill, PowerLoss], 0, PowerLoss),
            (false, vec![], 1, PowerLoss),
            (false, vec![Kill], 1, PowerLoss),
        ] {
            let mut round = Round::default();
            for survives in &changes {
                round.change(vec![put(1)], *survives, done());
            }
            for _ in 0..syncs {
                round.sync(done());
            }
            let survives = round.survives(has_new_entries);
            assert_eq!(survives, expected, "{has_new_entries} {changes:?} {syncs}");
        }
    }

    #[test]
    fn a_round_is_full_at_its_limit_of_bytes_whether_of_entries_or_of_changes() {
        let mut entries = Round::default();
        let mut changes = Round::default();
        let half = MAX_BYTES / 2;
        for is_full in [false, true] {
            let reply = oneshot::channel().0;
            entries.append(vec![entry(half)], reply);
            assert_eq!(entries.is_full(), is_full);
            changes.change(vec![put(half)], Survives::Kill, done());
            assert_eq!(changes.is_full(), is_full);
        }
    }

    #[test]
    fn each_append_is_answered_with_its_own_entries() {
        let mut round = Round::default();
        let (first, mut first_answer) = oneshot::channel();
        let (second, mut second_answer) = oneshot::channel();
        round.append(vec![entry(1), entry(1)], first);
        round.append(vec![entry(1)], second);
        let appended = [1, 2, 3].map(|number| Appended {
            position: Position(number),
            duplicate: false,
        });
        round.answer(Ok(appended.to_vec()), &Ok(()));
        let first = first_answer.try_recv().unwrap().unwrap();
        let second = second_answer.try_recv().unwrap().unwrap();
        assert_eq!((&*first, &*second), (&appended[..2], &appended[2..]));
    }

    #[test]
    fn a_failed_commit_is_answered_to_every_request_of_the_round() {
        let mut round = Round::default();
        let (append, mut appended) = oneshot::channel();
        let (change, mut changed) = oneshot::channel();
        let (sync, mut synced) = oneshot::channel();
        round.append(vec![entry(1)], append);
        round.change(vec![put(1)], Survives::Kill, change);
        round.sync(sync);
        round.answer(Err(AppendError::Closed), &Err(AppendError::Closed));
        assert!(appended.try_recv().unwrap().is_err());
        assert!(changed.try_recv().unwrap().is_err());
        assert!(synced.try_recv().unwrap().is_err());
    }
}
