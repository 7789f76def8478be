//! The one thread that writes. It takes the requests that have queued as a [`Round`], commits them
//! as one batch with at most one sync, then answers them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, error::TryRecvError};
use tokio::sync::oneshot;

use super::disk::{Disk, Placed, State, Write};
use super::round::{Done, Placement, Reply, Round};
use super::watermark::Watermark;
use super::{Shared, read, write};
use crate::push::{Cursor, EventId, Position};
use crate::store::{AppendError, Appended, NewEntry, Survives};

/// What the writer can be asked to do.
pub(super) enum Command {
    Append(Vec<NewEntry>, Reply),
    Keep(Vec<Write>, Survives, Done),
    Sync(Done),
    Retire(oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// What the queue has for the writer.
enum Next {
    Command(Command),
    Idle,
    Abandoned,
}

/// Retention removes so many entries at a time, so that appends need not wait for it.
const RETIRE_SLICE: usize = 512;
/// After a failure the disk is tried again no sooner than this.
const REOPEN_AFTER: Duration = Duration::from_millis(250);
/// A commit waits no longer than this for the database's background work.
const PATIENCE: Duration = Duration::from_secs(2);
/// That work is looked at so often meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);
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
    /// Those who wait for retention to finish; empty when none is under way.
    retiring: Vec<oneshot::Sender<()>>,
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
            retiring: Vec::new(),
            failed_at: None,
        }
    }

    /// Serves commands until one of them is `Close`, or nobody is left to give any.
    pub fn run(mut self) {
        let mut closing = None;
        while closing.is_none() {
            match self.next() {
                Next::Command(first) => closing = self.serve(first),
                Next::Idle => {}
                Next::Abandoned => break,
            }
            self.retire_slice();
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

    /// Waits for a command; while retention is under way, only looks whether there is one.
    fn next(&mut self) -> Next {
        if self.retiring.is_empty() {
            return self
                .queue
                .blocking_recv()
                .map_or(Next::Abandoned, Next::Command);
        }
        match self.queue.try_recv() {
            Ok(command) => Next::Command(command),
            Err(TryRecvError::Empty) => Next::Idle,
            Err(TryRecvError::Disconnected) => Next::Abandoned,
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
                Command::Retire(done) => self.retiring.push(done),
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
        let committed = writable.and_then(|()| self.write(placed.as_ref().ok(), &round));
        let appended = placed.and_then(|placement| {
            committed.clone()?;
            self.adopt_placement(placement.state, placement.new);
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
        let received_at_ms = shared.options.now_ms().max(self.state.last_received_ms);
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
                let placed = Placed::new(cursor, received_at_ms, entry);
                state.bytes += placed.size();
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

    /// Writes the new entries and the changes of a round as one batch.
    fn write(&mut self, placement: Option<&Placement>, round: &Round) -> Result<(), AppendError> {
        let new = placement.filter(|placement| !placement.new.is_empty());
        let entries = new.map(|placement| (&*placement.new, &placement.state));
        let survives = round.survives(new.is_some());
        let shared = self.shared.clone();
        let guard = read(&shared.disk);
        let disk = guard.as_ref().ok_or(AppendError::Closed)?;
        disk.commit(entries, round.writes(), survives)
            .map_err(|error| self.failed(unavailable(error)))?;
        let wrote = new.is_some() || round.writes().next().is_some();
        if wrote && self.failed_at.take().is_some() {
            tracing::info!("the store accepts writes again");
        }
        Ok(())
    }

    /// Goes on from the state that a commit has made durable.
    fn adopt_placement(&mut self, state: State, new: Vec<Placed>) {
        if new.is_empty() {
            return;
        }
        self.state = state;
        self.end_on_disk = state.end;
        self.publish(new);
    }

    /// Lets readers see entries that have become durable.
    fn publish(&self, new: Vec<Placed>) {
        if let Err(error) = self.watermark.write(self.state.end) {
            tracing::warn!(%error, "the record of the log's durable end could not be written");
        }
        let mut tail = write(&self.shared.tail);
        for placed in new {
            tail.push(placed.entry);
        }
        drop(tail);
        self.shared.bytes.store(self.state.bytes, Ordering::Relaxed);
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
        let (disk, id, state) =
            Disk::open(&self.shared.options.path.join("log")).map_err(unavailable)?;
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
    fn adopt(&mut self, mut state: State) {
        self.end_on_disk = state.end;
        // The numbers of lost entries are not given out again.
        state.end = state.end.max(self.state.end);
        if state.end > self.state.end {
            // Those entries are not in the tail, which must stay consecutive.
            *write(&self.shared.tail) = super::Tail::new(self.shared.options.tail_bytes);
        }
        self.state = state;
        self.publish(Vec::new());
    }

    /// Checks that the disk takes data, without touching the database.
    fn probe(&self) -> std::io::Result<()> {
        let path = self.shared.options.path.join("probe");
        let wrote = std::fs::write(&path, vec![1; PROBE_BYTES])
            .and_then(|()| std::fs::File::open(&path)?.sync_all());
        let removed = std::fs::remove_file(&path);
        wrote.and(removed)
    }

    /// Removes some of what retention no longer holds; tells those who wait when nothing is left.
    fn retire_slice(&mut self) {
        if self.retiring.is_empty() {
            return;
        }
        let retired = self.make_writable().and_then(|()| self.try_retire_slice());
        let more = retired.unwrap_or_else(|error| {
            tracing::warn!(%error, "retention could not remove old pushes; trying again later");
            false
        });
        if !more {
            for done in self.retiring.drain(..) {
                // Whoever asked may have gone.
                let _: Result<(), ()> = done.send(());
            }
        }
    }

    fn try_retire_slice(&mut self) -> Result<bool, AppendError> {
        let shared = self.shared.clone();
        let options = &shared.options;
        let age_ms = u64::try_from(options.retention.as_millis()).unwrap_or(u64::MAX);
        let oldest_ms = options.now_ms().saturating_sub(age_ms);
        let max_bytes = options.retention_bytes;
        let guard = read(&shared.disk);
        let Some(disk) = guard.as_ref() else {
            return Ok(false);
        };
        let expired = disk.expired(&self.state, RETIRE_SLICE, |received_ms, held| {
            received_ms < oldest_ms || (max_bytes > 0 && held > max_bytes)
        });
        if expired.up_to == self.state.earliest {
            return Ok(false);
        }
        let state = State {
            earliest: expired.up_to,
            bytes: self.state.bytes.saturating_sub(expired.bytes),
            ..self.state
        };
        // Told first, so that no reader takes what is being removed for damage.
        self.shared
            .earliest
            .store(state.earliest.0, Ordering::Release);
        disk.remove(&expired, &state)
            .map_err(|error| self.failed(unavailable(error)))?;
        self.state = state;
        self.end_on_disk = state.end;
        self.shared.bytes.store(state.bytes, Ordering::Relaxed);
        Ok(true)
    }
}

/// Any failure of the disk may pass.
fn unavailable(error: impl std::error::Error) -> AppendError {
    AppendError::Unavailable(error.to_string())
}
