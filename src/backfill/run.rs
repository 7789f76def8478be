//! One backfill of one account.

use std::fs::File;
use std::time::Duration;

use jiff::civil::Date;
use tokio::sync::watch;
use tokio::time::timeout;

use super::coverage::{Coverage, Day, name};
use super::intake::Covered;
use super::{BackfillError, Progress, Shared, days};
use crate::platform::DownloadError;
use crate::proto::ListFailedPushFilesRequest;

/// A file takes no longer than this to be fetched.
const LONGEST_DOWNLOAD: Duration = Duration::from_hours(1);

/// A backfill and how far it has come.
pub(super) struct Job<'a> {
    shared: &'a Shared,
    account: &'a str,
    coverage: Coverage,
    progress: &'a watch::Sender<Progress>,
}

/// A day's files, and what was known of it before.
struct Listed {
    date: Date,
    day: Day,
    urls: Vec<String>,
}

/// What became of several days.
#[derive(Default)]
pub(super) struct Outcome {
    /// Days that could not be listed and read whole.
    pub days_failed: usize,
    /// The first reason for it.
    pub error: Option<BackfillError>,
}

impl Outcome {
    fn failed(&mut self, error: BackfillError) {
        self.error.get_or_insert(error);
    }
}

impl<'a> Job<'a> {
    pub fn new(
        shared: &'a Shared,
        account: &'a str,
        progress: &'a watch::Sender<Progress>,
    ) -> Self {
        Self {
            shared,
            account,
            coverage: shared.coverage(account),
            progress,
        }
    }

    /// Reads all files of these days, also those that were read before.
    pub async fn again(&self, dates: &[Date]) -> Result<(), BackfillError> {
        let outcome = self.cover(dates, true).await?;
        self.log(dates.len(), &outcome);
        outcome.error.map_or(Ok(()), Err)
    }

    /// Reads the files that were not read yet, of the days that are not covered, and of all days
    /// from `again_from` on.
    pub async fn missing(&self, again_from: Option<Date>) -> Result<Outcome, BackfillError> {
        let kept = days::kept((self.shared.options.clock)());
        if let Some(oldest) = kept.first() {
            for day in self.coverage.forget_before(*oldest).await? {
                let account = self.account;
                tracing::error!(
                    account,
                    day,
                    "a day's failed pushes could not be fetched in time"
                );
            }
        }
        let mut open = Vec::new();
        for date in kept {
            let day = self.coverage.day(date).await?;
            if !day.covered {
                // From now on it is known to be open, should nothing ever come of it.
                self.coverage.put(date, &day).await?;
                open.push(date);
            } else if again_from.is_some_and(|first| first <= date) {
                open.push(date);
            }
        }
        let outcome = self.cover(&open, false).await;
        let days_failed = outcome.as_ref().map_or(open.len(), |it| it.days_failed);
        self.shared.metrics.days_failed(self.account, days_failed);
        let outcome = outcome?;
        self.log(open.len(), &outcome);
        Ok(outcome)
    }

    /// Reads a file that came another way than from the platform.
    pub async fn one(&self, file: File) -> Result<(), BackfillError> {
        let covered = self.shared.covered(self.account).await?;
        let read = self.read(file, covered).await;
        self.shared
            .metrics
            .file(self.account, if read.is_ok() { "read" } else { "failed" });
        let outcome = Outcome {
            days_failed: 0,
            error: read.clone().err(),
        };
        self.log(0, &outcome);
        read
    }

    /// Reads the files of days, oldest first. What fails keeps nothing else from being read, but
    /// for the log, without which nothing can be done.
    async fn cover(&self, dates: &[Date], again: bool) -> Result<Outcome, BackfillError> {
        let mut outcome = Outcome::default();
        let mut listed = Vec::new();
        for date in dates {
            match self.list(*date, again).await {
                Ok(day) => listed.push(day),
                Err(error @ (BackfillError::Closed | BackfillError::Unavailable(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    outcome.days_failed += 1;
                    outcome.failed(error);
                }
            }
        }
        for day in listed {
            if let Some(error) = self.day(day).await? {
                outcome.days_failed += 1;
                outcome.failed(error);
            }
        }
        Ok(outcome)
    }

    async fn list(&self, date: Date, again: bool) -> Result<Listed, BackfillError> {
        let mut day = self.coverage.day(date).await?;
        // Before it is asked for: what is made meanwhile may not be on the list.
        let now = (self.shared.options.clock)();
        let request = ListFailedPushFilesRequest {
            date: date.to_string(),
        };
        let platform = &self.shared.platform;
        let files = platform.call(self.account, &request, None).await?.files;
        let mut urls: Vec<_> = files.into_iter().map(|file| file.url).collect();
        if days::is_settled(date, now) {
            day.settle();
        }
        if again {
            day.read_again();
        } else {
            urls.retain(|url| !day.read.contains(&name(url)));
            if !urls.is_empty() && std::mem::take(&mut day.covered) {
                // Should one of them not be read now, it is tried again like any other.
                self.coverage.put(date, &day).await?;
            }
        }
        let count = u32::try_from(urls.len()).unwrap_or(u32::MAX);
        self.progress
            .send_modify(|progress| progress.files_total += count);
        Ok(Listed { date, day, urls })
    }

    /// Reads a day's files; gives the first error of one of them.
    async fn day(&self, listed: Listed) -> Result<Option<BackfillError>, BackfillError> {
        let Listed {
            date,
            mut day,
            urls,
        } = listed;
        let mut failed = None;
        for (index, url) in urls.iter().enumerate() {
            let name = name(url);
            let covered = Covered::Day(day.was_read(&name));
            match self.fetch(url, covered).await {
                Ok(()) => {
                    self.shared.metrics.file(self.account, "read");
                    self.progress.send_modify(|it| it.files_done += 1);
                    day.read.insert(name);
                    self.coverage.put(date, &day).await?;
                }
                Err(error @ (BackfillError::Closed | BackfillError::Unavailable(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    self.shared.metrics.file(self.account, "failed");
                    self.progress.send_modify(|it| it.files_failed += 1);
                    let (account, file, files) = (self.account, index + 1, urls.len());
                    let told = error.for_log();
                    tracing::warn!(account, day = %date, file, files, error = told, "failed pushes were not read");
                    failed.get_or_insert(error);
                }
            }
        }
        if failed.is_none() {
            day.covered |= day.is_settled;
            self.coverage.put(date, &day).await?;
        }
        Ok(failed)
    }

    async fn fetch(&self, url: &str, covered: Covered) -> Result<(), BackfillError> {
        let mut file = self.shared.spool().await?;
        let most = self.shared.options.limits.file_bytes;
        let fetched = self.shared.downloads.fetch(url, &mut file, most);
        let in_time = timeout(LONGEST_DOWNLOAD, fetched).await;
        in_time.map_err(|_| DownloadError::Broken("it took too long".to_owned()))??;
        self.read(file.into_std().await, covered).await
    }

    async fn read(&self, file: File, covered: Covered) -> Result<(), BackfillError> {
        let now = (self.shared.options.clock)();
        let intake = &self.shared.intake;
        let horizon = intake.horizon(covered, now).await?;
        let mut before = Progress::default();
        let tell = |now: &Progress| {
            self.shared.metrics.lines(self.account, now, &before);
            self.progress.send_modify(|sum| sum.add(now, &before));
            before = *now;
        };
        intake.take(self.account, file, &horizon, tell).await?;
        Ok(())
    }

    fn log(&self, days: usize, outcome: &Outcome) {
        let account = self.account;
        let progress = *self.progress.borrow();
        let Progress {
            files_done,
            files_failed,
            lines,
            added,
            already_held,
            unreadable,
            outdated,
            ..
        } = progress;
        if let Some(error) = &outcome.error {
            let (days_failed, error) = (outcome.days_failed, error.for_log());
            tracing::warn!(
                account,
                days,
                days_failed,
                files_done,
                files_failed,
                lines,
                added,
                error,
                "failed pushes could not all be fetched"
            );
        } else if progress == Progress::default() {
            tracing::debug!(account, days, "there are no failed pushes to fetch");
        } else {
            tracing::info!(
                account,
                days,
                files_done,
                lines,
                added,
                already_held,
                unreadable,
                outdated,
                "failed pushes were fetched"
            );
        }
    }
}

impl Progress {
    /// Adds what has been done of a file since `before`.
    fn add(&mut self, now: &Self, before: &Self) {
        self.lines += now.lines - before.lines;
        self.added += now.added - before.added;
        self.already_held += now.already_held - before.already_held;
        self.unreadable += now.unreadable - before.unreadable;
        self.outdated += now.outdated - before.outdated;
    }
}
