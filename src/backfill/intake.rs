//! From lines to entries of the log.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::Date;
use tokio::sync::mpsc;

use super::file::{self, FileError, Limits};
use super::lines::Line;
use super::record::Record;
use super::{BackfillError, Progress, days};
use crate::edge::entries::entries;
use crate::edge::readers::Readers;
use crate::edge::reading::Received;
use crate::panics;
use crate::proto::{PushEvent, PushOrigin};
use crate::store::{PushLog, ReadError, ReadLimit};
use crate::submissions::RowKeys;

/// The way into the log.
pub(super) struct Intake {
    pub log: Arc<dyn PushLog>,
    pub row_keys: Arc<RowKeys>,
    pub readers: Readers,
    pub voice_base_url: String,
    pub limits: Limits,
}

/// Lines are taken in batches: so many, or so many bytes.
const BATCH_LINES: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// How long the ids of a batch's rows are waited for.
const KEYS_TIMEOUT: Duration = Duration::from_secs(2);
/// A push may have been received so long before the platform gave it up.
const RETRIES_TAKE: u64 = 10 * 60 * 1000;

/// Which lines may be of events that retention has removed.
///
/// The log knows what it holds, and not what it held once. So a line is left out when it was read
/// before, and is older than everything that the log holds: then it was in the log. However old a
/// line is that was never read, it is taken: it is a push that nobody got.
pub(super) struct Horizon {
    /// Lines given up before are older than what the log holds; 0: nothing was ever removed.
    held_ms: u64,
    covered: Covered,
}

/// Which lines were read before.
pub(super) enum Covered {
    /// All, or none that is known.
    Day(bool),
    /// Each is of the day that it was given up on; these are covered.
    Days(Vec<Date>),
}

impl Horizon {
    fn leaves_out(&self, given_up_ms: Option<u64>) -> bool {
        let Some(ms) = given_up_ms else {
            return false;
        };
        let is_covered = || match &self.covered {
            Covered::Day(covered) => *covered,
            Covered::Days(days) => days::of_ms(ms).is_some_and(|day| days.contains(&day)),
        };
        ms < self.held_ms && is_covered()
    }
}

impl Intake {
    pub async fn horizon(
        &self,
        covered: Covered,
        now: SystemTime,
    ) -> Result<Horizon, BackfillError> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now_ms = ms(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        Ok(Horizon {
            held_ms: self.held_since(now_ms).await?,
            covered,
        })
    }

    /// Since when the log holds everything that it was ever given.
    async fn held_since(&self, now_ms: u64) -> Result<u64, BackfillError> {
        const ONE: ReadLimit = ReadLimit {
            entries: 1,
            bytes: 1,
        };
        let mut after = self.log.earliest();
        if after.0 == 0 {
            return Ok(0);
        }
        loop {
            let oldest = match self.log.read(after, ONE).await {
                Ok(batch) => batch.entries.first().map(|entry| entry.received_at_ms),
                // Retention went on meanwhile.
                Err(ReadError::Expired { earliest }) => {
                    after = earliest;
                    continue;
                }
                // Unknown: what was lost to damage should rather come back.
                Err(ReadError::Damaged { .. }) => return Ok(0),
                Err(error) => return Err(error.into()),
            };
            return Ok(oldest.unwrap_or(now_ms).saturating_add(RETRIES_TAKE));
        }
    }

    /// Takes a file in, line by line; tells after each batch how far it has come.
    pub async fn take(
        &self,
        account: &str,
        file: File,
        horizon: &Horizon,
        mut tell: impl FnMut(&Progress),
    ) -> Result<Progress, BackfillError> {
        // Two batches wait at most, so that a file cannot be read faster than it is stored.
        let (batches, mut waiting) = mpsc::channel(1);
        let limits = self.limits;
        let reading = tokio::task::spawn_blocking(move || read(file, &limits, &batches));
        let mut progress = Progress::default();
        while let Some(lines) = waiting.recv().await {
            self.take_batch(account, lines, horizon, &mut progress)
                .await?;
            tell(&progress);
        }
        reading.await.map_err(|_| BackfillError::Closed)??;
        Ok(progress)
    }

    async fn take_batch(
        &self,
        account: &str,
        lines: Vec<Line>,
        horizon: &Horizon,
        progress: &mut Progress,
    ) -> Result<(), BackfillError> {
        let mut new = Vec::with_capacity(lines.len());
        for line in lines {
            progress.lines += 1;
            let Line::Whole(line) = line else {
                progress.unreadable += 1;
                let line = progress.lines;
                tracing::warn!(account, line, "a line of a failed-push file is too long");
                continue;
            };
            let record = Record::read(&line);
            if horizon.leaves_out(record.given_up_ms) {
                progress.outdated += 1;
                continue;
            }
            progress.unreadable += u64::from(!record.is_record);
            let received = Received {
                account,
                module: &record.module,
                content_type: None,
                voice_base_url: &self.voice_base_url,
            };
            let read = self.readers.read(received, record.body).await;
            let mut pushes = read.ok_or(FileError::Panic)?;
            for push in &mut pushes {
                push.entry.amend(&PushEvent {
                    origin: PushOrigin::Backfill.into(),
                    ..PushEvent::default()
                });
            }
            new.extend(pushes);
        }
        if new.is_empty() {
            return Ok(());
        }
        // All at once: where uploads are under way this may wait for them.
        let deadline = tokio::time::Instant::now() + KEYS_TIMEOUT;
        let new = entries(&self.row_keys, account, new, deadline).await;
        let appended = self.log.append(new).await?;
        for entry in appended {
            if entry.duplicate {
                progress.already_held += 1;
            } else {
                progress.added += 1;
            }
        }
        Ok(())
    }
}

/// Hands on a file's lines in batches, until nobody waits for them.
fn read(
    file: File,
    limits: &Limits,
    batches: &mpsc::Sender<Vec<Line>>,
) -> Result<(), BackfillError> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let end = contain(|| {
        file::read(file, limits, |line| {
            bytes += match &line {
                Line::Whole(line) => line.len(),
                Line::TooLong => 0,
            };
            batch.push(line);
            if batch.len() < BATCH_LINES && bytes < BATCH_BYTES {
                return true;
            }
            bytes = 0;
            batches.blocking_send(std::mem::take(&mut batch)).is_ok()
        })
    });
    // What was read before an error counts.
    if !batch.is_empty() {
        // Whoever waited may have gone.
        let _ = batches.blocking_send(batch);
    }
    Ok(end?)
}

/// Turns a panic of the zip reader into a failure of this file alone: the other files, and the days
/// to come, are read all the same.
fn contain(read: impl FnOnce() -> Result<(), FileError>) -> Result<(), FileError> {
    panics::contained(read).unwrap_or_else(|panic| {
        let location = panic.location;
        tracing::error!(location, "the reader of failed-push files panicked");
        Err(FileError::Panic)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_panics_fails_its_file_alone_and_quotes_nothing() {
        let failed = contain(|| panic!("13000000001")).unwrap_err();
        assert_eq!(failed, FileError::Panic);
        assert!(!failed.to_string().contains("13000000001"), "{failed}");
    }
}
