//! The one thread that writes. It takes the requests that have queued as a [`Round`], commits them
//! as one batch with at most one sync, then answers them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;

use super::disk::{Disk, Write};
use super::format::{Placed, State, Taken};
use super::round::{Done, Placement, Reply, Round};
use super::watermark::{Durable, Watermark};
use super::{LOG, Shared, journal, read, write};
use crate::push::{Cursor, EventId, Position};
use crate::store::{AppendError, Appended, NewEntry, Survives};

/// What the writer can be asked to do.
pub(super) enum Command {
    Append(Vec<NewEntry>, Reply),
    Keep(Vec<Write>, Survives, Done),
    Sync(Done),
    Retire(Position, Done),
    Close(oneshot::Sender<()>),
}

/// After a failure the disk is tried again no sooner than this.
const REOPEN_AFTER: Duration = Duration::from_millis(250);
/// A commit waits no longer than this for the database's background work.
const PATIENCE: Duration = Duration::from_secs(2);
/// That work is looked at so often meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// No entry is stamped further ahead of the clock.
const MOST_AHEAD_MS: u64 = 60_000;
/// The log's age is noted this often where nothing else is written.
const NOTE_AGE_AFTER_MS: u64 = 60_000;
/// Damaged entries passed over in search of the oldest that is retained.
const LOOK_AHEAD: usize = 4096;
/// Before the database is opened anew, so many bytes must fit on the disk.
const PROBE_BYTES: usize = 1 << 20;

pub(super) struct Writer {
    shared: Arc<Shared>,
    state: State,
    /// Where the log ended on disk when that was last read or written; less than `state.end` where
    /// entries have been lost and nothing has been written since.
    end_on_disk: Position,
    watermark: Watermark,
    queue: Receiver<Command>,
    /// When the last attempt to write failed, if it did.
    failed_at: Option<Instant>,
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        state: State,
        end_on_disk: Position,
        watermark: Watermark,
        queue: Receiver<Command>,
    ) -> Self {
        Self {
            shared,
            state,
            end_on_disk,
            watermark,
            queue,
            failed_at: None,
        }
    }

    /// Serves commands until one of them is `Close`, or nobody is left to give any.
    pub fn run(mut self) {
        let mut closing = None;
        while closing.is_none()
            && let Some(first) = self.queue.blocking_recv()
        {
            closing = self.serve(first);
        }
        // Later commands find the queue closed; those already in it find their reply dropped.
        self.queue.close();
        self.shared.closed.store(true, Ordering::Release);
        self.close_disk();
        if let Some(done) = closing {
            // Whoever asked may have gone; the log is closed all the same.
            let _: Result<(), ()> = done.send(());
        }
    }

    /// Serves a command and those that have queued behind it; returns who asked to close.
    fn serve(&mut self, first: Command) -> Option<oneshot::Sender<()>> {
        let mut round = Round::default();
        let mut command = Some(first);
        let mut closing = None;
        while let Some(next) = command {
            match next {
                Command::Append(entries, reply) => round.append(entries, reply),
                Command::Keep(writes, survives, done) => round.change(writes, survives, done),
                Command::Sync(done) => round.sync(done),
                Command::Retire(up_to, done) => {
                    let retired = self.retire(up_to);
                    // The requester may have gone.
                    let _: Result<(), _> = done.send(retired);
                }
                Command::Close(done) => {
                    closing = Some(done);
                    break;
                }
            }
            command = if round.is_full() {
                None
            } else {
                self.queue.try_recv().ok()
            };
        }
        if !round.is_empty() {
            self.commit(round);
        }
        closing
    }

    /// Commits a round and answers it. Appends that find no position fail by themselves; a failed
    /// commit fails every request.
    fn commit(&mut self, round: Round) {
        let writable = self.make_writable();
        let placed = writable.clone().and_then(|()| self.place(round.entries()));
        let (new, state) = match &placed {
            Ok(placement) => (&*placement.new, placement.state),
            Err(_) => (&[][..], self.state),
        };
        let committed = writable.and_then(|()| self.write(new, &round, state));
        let appended = placed.and_then(|placement| {
            committed.clone()?;
            self.publish(placement.new);
            Ok(placement.appended)
        });
        round.answer(appended, &committed);
    }

    /// Assigns positions to entries; one that the log holds keeps its own.
    fn place<'a>(
        &self,
        entries: impl Iterator<Item = &'a NewEntry>,
    ) -> Result<Placement, AppendError> {
        let shared = &self.shared;
        let guard = read(&shared.disk);
        let disk = guard.as_ref().ok_or(AppendError::Closed)?;
        let received_at_ms = received_at(shared.options.now_ms(), self.state.last_received_ms);
        let age_ms = shared.age_ms();
        let mut state = State {
            last_received_ms: received_at_ms,
            ..self.state
        };
        let mut new: Vec<Placed> = Vec::new();
        let mut here: HashMap<EventId, u64> = HashMap::new();
        let mut appended = Vec::new();
        for entry in entries {
            let held = match here.get(&entry.id) {
                Some(number) => Some(*number),
                None => disk.find(&entry.id).map_err(unavailable)?,
            };
            let number = held.unwrap_or_else(|| {
                state.end = state.end.next();
                let cursor = Cursor {
                    store: shared.id,
                    position: state.end,
                };
                let taken = Taken {
                    received_at_ms,
                    age_ms,
                    bytes_before: state.total_bytes,
                };
                let placed = Placed::new(cursor, taken, entry);
                state.total_bytes += placed.size();
                here.insert(entry.id, state.end.0);
                new.push(placed);
                state.end.0
            });
            appended.push(Appended {
                position: Position(number),
                duplicate: held.is_some(),
            });
        }
        Ok(Placement {
            new,
            state,
            appended,
        })
    }

    /// Writes the new entries and the changes of a round as one batch, and goes on from its state.
    fn write(&mut self, new: &[Placed], round: &Round, state: State) -> Result<(), AppendError> {
        let survives = round.survives(!new.is_empty());
        let wrote = !new.is_empty() || round.writes().next().is_some();
        let state = State {
            age_ms: self.shared.age_ms(),
            commits: state.commits + u64::from(wrote),
            ..state
        };
        let shared = self.shared.clone();
        let guard = read(&shared.disk);
        let disk = guard.as_ref().ok_or(AppendError::Closed)?;
        disk.commit(new, round.writes(), &state, survives)
            .map_err(|error| self.failed(unavailable(error)))?;
        self.go_on_from(state, survives);
        if wrote && self.failed_at.take().is_some() {
            tracing::info!("the store accepts writes again");
        }
        Ok(())
    }

    /// Goes on from a state that a commit has written.
    fn go_on_from(&mut self, state: State, survives: Survives) {
        self.state = state;
        self.end_on_disk = state.end;
        self.shared
            .total_bytes
            .store(state.total_bytes, Ordering::Relaxed);
        self.shared.bytes.store(state.bytes(), Ordering::Relaxed);
        if survives == Survives::PowerLoss
            && let Err(error) = self.watermark.write(Durable::from(&state))
        {
            tracing::warn!(%error, "the record of what is durable could not be written");
        }
    }

    /// Lets readers see entries that have become durable.
    fn publish(&self, new: Vec<Placed>) {
        if new.is_empty() {
            return;
        }
        let mut tail = write(&self.shared.tail);
        for placed in new {
            tail.push(placed.entry);
        }
        drop(tail);
        self.shared.end.send_replace(self.state.end);
    }

    /// Sees to it that a commit can begin, and will not wait inside the database.
    fn make_writable(&mut self) -> Result<(), AppendError> {
        self.ensure_open()?;
        self.wait_for_database()
    }

    /// Opens the database anew if an earlier failure has closed it to writes.
    fn ensure_open(&mut self) -> Result<(), AppendError> {
        let broken = read(&self.shared.disk).as_ref().is_none_or(Disk::is_broken);
        if !broken {
            return Ok(());
        }
        if self.failed_at.is_some_and(|at| at.elapsed() < REOPEN_AFTER) {
            return Err(AppendError::Unavailable("waiting for the disk".into()));
        }
        let (disk, state) = self.reopen().map_err(|error| self.failed(error))?;
        *write(&self.shared.disk) = Some(disk);
        self.adopt(state);
        Ok(())
    }

    /// Waits until a commit need not wait inside the database.
    fn wait_for_database(&mut self) -> Result<(), AppendError> {
        let since = Instant::now();
        loop {
            let (behind, broken) = match read(&self.shared.disk).as_ref() {
                Some(disk) => (disk.is_behind(), disk.is_broken()),
                None => return Err(AppendError::Closed),
            };
            if !behind {
                return Ok(());
            }
            if broken || since.elapsed() >= PATIENCE {
                let error = AppendError::Unavailable("the database cannot keep up".into());
                return Err(self.failed(error));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn reopen(&self) -> Result<(Disk, State), AppendError> {
        self.probe().map_err(unavailable)?;
        // The old one must be gone before the folder's lock is free.
        self.close_disk();
        let options = &self.shared.options;
        let folder = options.path.join(LOG);
        journal::write_again(&folder).map_err(unavailable)?;
        let (disk, id, state) =
            Disk::open(&folder, options.retention_bytes).map_err(unavailable)?;
        if id != self.shared.id || state.end < self.end_on_disk {
            return Err(AppendError::Unavailable(
                "the store's files have been replaced".into(),
            ));
        }
        Ok((disk, state))
    }

    /// Closes the database. That waits for its background work; nobody is kept waiting for the
    /// lock meanwhile.
    fn close_disk(&self) {
        let disk = write(&self.shared.disk).take();
        drop(disk);
    }

    /// Notes that an attempt to write has failed. Each refused push is logged by whoever offered
    /// it; here, only that it has begun.
    fn failed(&mut self, error: AppendError) -> AppendError {
        if self.failed_at.replace(Instant::now()).is_none() {
            tracing::error!(%error, "the store accepts no writes");
        }
        error
    }

    /// Takes over a state read from disk: it may hold a batch whose commit was reported as failed.
    /// All of it has been synced anew.
    fn adopt(&mut self, on_disk: State) {
        let state = State {
            // The numbers of lost entries are not given out again.
            end: on_disk.end.max(self.state.end),
            commits: on_disk.commits.max(self.state.commits),
            ..on_disk
        };
        let has_grown = state.end > self.state.end;
        self.go_on_from(state, Survives::PowerLoss);
        self.end_on_disk = on_disk.end;
        if has_grown {
            // Those entries are not in the tail, which must stay consecutive.
            *write(&self.shared.tail) = super::Tail::new(self.shared.options.tail_bytes);
            self.shared.end.send_replace(state.end);
        }
    }

    /// Checks that the disk takes data, without touching the database.
    fn probe(&self) -> std::io::Result<()> {
        let path = self.shared.options.path.join("probe");
        let wrote = std::fs::write(&path, vec![1; PROBE_BYTES])
            .and_then(|()| std::fs::File::open(&path)?.sync_all());
        let removed = std::fs::remove_file(&path);
        wrote.and(removed)
    }

    /// Retires the entries up to a position. Where nothing is to be retired, notes the log's age
    /// now and then.
    fn retire(&mut self, up_to: Position) -> Result<(), AppendError> {
        let age_ms = self.shared.age_ms();
        let is_due = age_ms.saturating_sub(self.state.age_ms) >= NOTE_AGE_AFTER_MS;
        if up_to <= self.state.earliest && !is_due {
            return Ok(());
        }
        self.make_writable()?;
        let shared = self.shared.clone();
        let guard = read(&shared.disk);
        let disk = guard.as_ref().ok_or(AppendError::Closed)?;
        let earliest = up_to.clamp(self.state.earliest, self.state.end.max(self.state.earliest));
        let first = disk.first_from(earliest.next().0, LOOK_AHEAD);
        let retired_bytes = match first.map_err(unavailable)? {
            Some((_, prefix)) => prefix.taken.bytes_before,
            None => self.state.total_bytes,
        };
        let state = State {
            earliest,
            retired_bytes: retired_bytes.max(self.state.retired_bytes),
            age_ms,
            commits: self.state.commits + 1,
            ..self.state
        };
        // First, so that no reader takes what is dropped for damage.
        shared.earliest.store(earliest.0, Ordering::Release);
        disk.retire(&state)
            .map_err(|error| self.failed(unavailable(error)))?;
        self.go_on_from(state, Survives::PowerLoss);
        Ok(())
    }
}

/// When an entry counts as received. It is no earlier than the one before, unless the clock has
/// been set back so far that this one would be more than a minute ahead of it.
fn received_at(now_ms: u64, last_ms: u64) -> u64 {
    now_ms.max(last_ms.min(now_ms.saturating_add(MOST_AHEAD_MS)))
}

/// Any failure of the disk may pass.
fn unavailable(error: impl std::error::Error) -> AppendError {
    AppendError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_stamped_in_order_and_at_most_a_minute_ahead_of_the_clock() {
        const NOW: u64 = 1_600_000_000_000;
        for (last, expected) in [
            (NOW - 1000, NOW),
            (NOW, NOW),
            (NOW + 1000, NOW + 1000),
            (NOW + 60_000, NOW + 60_000),
            (NOW + 3_600_000, NOW + 60_000),
        ] {
            assert_eq!(received_at(NOW, last), expected, "{last}");
        }
    }
}
