//! Takes an upload up again where its stream breaks, until it is at its end.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::progress::Progress;
use super::report::{Counts, Report};
use super::sender::{Broken, Upload};
use crate::cli::print;
use crate::cli::remote::refused;

/// The first wait after a break that names none; doubled each time up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LAST_WAIT: Duration = Duration::from_secs(10);

/// How an upload ended.
pub struct Ended {
    /// What is known of the rows; where it broke off, what the stream told that came furthest.
    pub counts: Counts,
    /// Where the rejected rows are, if there are any and it came to its end.
    pub rejected: Option<PathBuf>,
    /// Why it did not come to its end.
    pub broken: Option<anyhow::Error>,
    /// Whether somebody ended it.
    pub is_interrupted: bool,
}

/// How an upload is going.
struct Course<'a> {
    upload: &'a Upload,
    rejected: &'a Path,
    retries: u32,
    /// The report of the stream at hand. Each stream tells of every row, so each begins anew, and
    /// no row is counted or written twice.
    report: RefCell<Report>,
    progress: RefCell<Progress>,
    furthest: Counts,
}

/// Runs an upload to its end, or until `stop`; breaks are tried again so many times in a row.
pub async fn to_the_end(
    upload: &Upload,
    rejected: &Path,
    retries: u32,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Ended> {
    let mut course = Course {
        upload,
        rejected,
        retries,
        report: RefCell::new(Report::new(rejected, &upload.columns.names)),
        progress: RefCell::new(Progress::of(upload.source.rows)),
        furthest: Counts::default(),
    };
    let (broken, is_interrupted) = tokio::select! {
        ended = course.follow() => (ended.err(), false),
        () = stop => (Some(anyhow::anyhow!("interrupted")), true),
    };
    course.progress.borrow().finish();
    if broken.is_none() {
        let (counts, rejected) = course.report.into_inner().finish()?;
        return Ok(Ended {
            counts,
            rejected,
            broken,
            is_interrupted,
        });
    }
    course.note_furthest();
    Ok(Ended {
        counts: course.furthest,
        rejected: None,
        broken,
        is_interrupted,
    })
}

impl Course<'_> {
    async fn follow(&mut self) -> anyhow::Result<()> {
        let (mut tries, mut wait) = (0, FIRST_WAIT);
        loop {
            let status = match self.upload.run(&self.report, &self.progress).await {
                Ok(()) => return Ok(()),
                Err(Broken::Here(error)) => return Err(error),
                Err(Broken::Stream(status)) => status,
            };
            // Two that take one upload from each other would both come further for ever.
            if self.note_furthest() && status.code() != Code::Aborted {
                (tries, wait) = (0, FIRST_WAIT);
            }
            if !can_pass(&status) || tries == self.retries {
                let words = refused(status).to_string();
                return Err(anyhow::anyhow!(print::without_numbers(&words)));
            }
            tries += 1;
            let pause = status.get_details_retry_info();
            let pause = pause.and_then(|info| info.retry_delay).unwrap_or(wait);
            wait = (wait * 2).min(LAST_WAIT);
            let words = print::without_numbers(status.message());
            let words = format!("{words}, trying again ({tries} of {})", self.retries);
            self.progress.borrow().say(&words);
            tokio::time::sleep(pause).await;
            self.report = RefCell::new(Report::new(self.rejected, &self.upload.columns.names));
        }
    }

    /// Keeps the counts of the stream at hand if it came further than all before it, and tells
    /// whether it did.
    fn note_furthest(&mut self) -> bool {
        let counts = &self.report.borrow().counts;
        let is_further = counts.settled() > self.furthest.settled();
        if is_further {
            self.furthest = counts.clone();
        }
        is_further
    }
}

/// Whether the upload may go on after this. To take it up again is always safe; the question is
/// whether it can help. A status without details is not the gateway's, but tells of the way there.
fn can_pass(status: &Status) -> bool {
    let details = status.get_error_details();
    let is_of_the_way = details.error_info().is_none();
    details.retry_info().is_some()
        || match status.code() {
            Code::Unavailable | Code::Aborted => true,
            Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded => {
                is_of_the_way
            }
            _ => false,
        }
}
