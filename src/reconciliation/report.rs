//! What an account has sent in a day, and what came of it: looked at once more, then logged.

use std::time::{Duration, SystemTime};

use jiff::ToSpan as _;
use jiff::civil::Date;
use prost::Message;
use tokio::time::timeout;

use super::sweep::{Day, Found};
use super::{Reconciliation, days};
use crate::backfill::days::{kept, time_of_day, today};
use crate::store::{End, NoteChange, Survives};

/// Files are not read again for longer than this before a report.
const PATIENCE: Duration = Duration::from_mins(10);
/// Days are remembered for so long.
const DAYS_KEPT: i64 = 35;

/// What has come of the rows that an account has sent in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The day in China.
    pub day: Date,
    /// Rows that the platform accepted on it.
    pub sent: u64,
    /// Those of them of which a call record has come, whether somebody picked up or not.
    pub answered: u64,
    /// Those of which none has come although it should have.
    pub missing: u64,
    /// Those of which none should have come yet.
    pub waiting: u64,
    /// Rows of any day that are overdue.
    pub overdue: u64,
}

impl Report {
    fn log(&self, account: &str) {
        let Self {
            day,
            sent,
            answered,
            missing,
            waiting,
            overdue,
        } = self;
        if *missing > 0 {
            tracing::warn!(account, %day, sent, answered, missing, waiting, overdue, "{WORDS}");
        } else {
            tracing::info!(account, %day, sent, answered, missing, waiting, overdue, "{WORDS}");
        }
    }
}

const WORDS: &str = "rows of a day";

impl Reconciliation {
    /// Reports yesterday, and days before that were not reported, once their time has come.
    /// `found` is what the last look has found.
    pub(super) async fn report_due(
        &self,
        account: &str,
        mut found: Found,
    ) -> Result<Vec<Report>, End> {
        let now = (self.options.clock)();
        let due = self.days_due(account, now).await?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        if self.offer_to_backfill(account, &found).await {
            // What that has brought is no longer overdue.
            match self.look(account).await? {
                Some(after) => found = after,
                None => return Ok(Vec::new()),
            }
        }
        let mut reports = Vec::new();
        for day in due {
            reports.push(self.report(account, day, &found).await?);
        }
        let oldest = today(now).checked_sub(DAYS_KEPT.days()).unwrap_or_default();
        let old = days::forgotten(self.notes.as_ref(), account, oldest).await?;
        if !old.is_empty() {
            self.notes.change(old, Survives::Kill).await?;
        }
        Ok(reports)
    }

    /// The days that are to be reported now.
    async fn days_due(&self, account: &str, now: SystemTime) -> Result<Vec<Date>, End> {
        let is_time = time_of_day(now) >= self.options.report_at;
        let yesterday = today(now).yesterday().unwrap_or_default();
        let mut due = Vec::new();
        for date in kept(now) {
            let known = days::day(self.notes.as_ref(), account, date).await?;
            let is_due = if date == yesterday {
                is_time
            } else {
                known.sent > 0
            };
            if is_due && !known.is_reported {
                due.push(date);
            }
        }
        Ok(due)
    }

    async fn report(&self, account: &str, day: Date, found: &Found) -> Result<Report, End> {
        let mut known = days::day(self.notes.as_ref(), account, day).await?;
        let left = found.days.get(&day).cloned().unwrap_or_default();
        let report = Report {
            day,
            sent: known.sent,
            answered: known.answered,
            missing: left.overdue(),
            waiting: left.awaited,
            overdue: found.overdue(),
        };
        // First: told twice is better than not at all.
        report.log(account);
        known.is_reported = true;
        let change = NoteChange::put(days::key(account, day), known.encode_to_vec());
        self.notes.change(vec![change], Survives::Kill).await?;
        Ok(report)
    }

    /// Has the files of the days looked at again that may hold the records of overdue rows; tells
    /// whether anything may have come of it.
    async fn offer_to_backfill(&self, account: &str, found: &Found) -> bool {
        let is_overdue = |(_, day): &(&Date, &Day)| day.overdue() > 0;
        let oldest = found.days.iter().find(is_overdue).map(|(date, _)| *date);
        let (Some(backfill), Some(oldest)) = (&self.backfill, oldest) else {
            return false;
        };
        // Whatever it is at by then, the next daily run does again.
        match timeout(PATIENCE, backfill.look_again(account, oldest)).await {
            Ok(Ok(progress)) => progress.added > 0,
            // What failed it has told; something may have come before.
            Ok(Err(_)) | Err(_) => true,
        }
    }
}
