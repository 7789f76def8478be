//! The part of `yeta.v1.PushService` that brings back what the platform could not deliver.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use jiff::civil::Date;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::admission::admitted;
use super::validate::{self, Validate, Violations};
use super::{deadline, status};
use crate::backfill::file::FileError;
use crate::backfill::{Backfill, BackfillError, Progress, Run, Turn, days};
use crate::proto::{
    BackfillFileRequest, BackfillFileResponse, BackfillPushesRequest, BackfillPushesResponse,
    ListFailedPushFilesRequest, ListFailedPushFilesResponse,
};

type Told<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
pub(super) type Added = Told<BackfillPushesResponse>;
pub(super) type FileAdded = Told<BackfillFileResponse>;

/// A caller that sends no more of its file for so long is given up: it keeps others waiting.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// So long a caller waits at most for the end of what is being read already.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What the platform lists for a day.
pub(super) async fn list(
    backfill: &Backfill,
    request: Request<ListFailedPushFilesRequest>,
) -> Result<Response<ListFailedPushFilesResponse>, Status> {
    let deadline = deadline::of(request.metadata());
    let account = admitted(&request)?.account()?;
    validate::check(request.get_ref())?;
    let listed = backfill.list(account, request.get_ref(), deadline).await?;
    Ok(Response::new(listed))
}

/// Waits for the right to read files of an account.
async fn turn(
    backfill: &Backfill,
    account: &str,
    deadline: Option<Instant>,
    drain: &CancellationToken,
) -> Result<Turn, Status> {
    let latest = Instant::now() + LONGEST_WAIT;
    let deadline = deadline.map_or(latest, |deadline| deadline.min(latest));
    tokio::select! {
        turn = backfill.turn_by(account, deadline) => Ok(turn?),
        () = drain.cancelled() => Err(status::draining()),
    }
}

/// Fetches the files of some days.
pub(super) async fn days(
    backfill: &Backfill,
    drain: CancellationToken,
    request: Request<BackfillPushesRequest>,
) -> Result<Response<Added>, Status> {
    let deadline = deadline::of(request.metadata());
    let admitted = admitted(&request)?;
    let account = admitted.account()?;
    let days = chosen(request.get_ref(), &days::kept(backfill.now()))?;
    let turn = turn(backfill, account, deadline, &drain).await?;
    let (client, first, last) = (admitted.caller.name(), days.first(), days.last());
    tracing::info!(client, account, ?first, ?last, "a backfill was asked for");
    let run = backfill.days(turn, days);
    Ok(Response::new(told(run, drain, of_days)))
}

/// Takes a file in, and reads it.
pub(super) async fn file(
    backfill: &Backfill,
    drain: CancellationToken,
    request: Request<Streaming<BackfillFileRequest>>,
) -> Result<Response<FileAdded>, Status> {
    let deadline = deadline::of(request.metadata());
    let admitted = admitted(&request)?.clone();
    let account = admitted.account()?;
    let turn = turn(backfill, account, deadline, &drain).await?;
    let client = admitted.caller.name();
    tracing::info!(client, account, "a backfill from a file was asked for");
    let mut spool = backfill.spool().await?;
    let most = backfill.limits().file_bytes;
    let received = receive(request.into_inner(), &mut spool, most);
    tokio::select! {
        received = received => received?,
        () = drain.cancelled() => return Err(status::draining()),
    }
    let run = backfill.file(turn, spool.into_std().await);
    Ok(Response::new(told(run, drain, of_file)))
}

/// Writes down what comes, and makes sure that it is the whole file.
async fn receive(
    mut parts: Streaming<BackfillFileRequest>,
    spool: &mut tokio::fs::File,
    most: u64,
) -> Result<(), Status> {
    let io = |error: std::io::Error| BackfillError::File(FileError::Io(error.to_string()));
    let fault = |field: &str, fault: String| {
        let mut violations = Violations::default();
        violations.add(field, fault);
        Status::from(violations)
    };
    let (mut size, mut received) = (None, 0_u64);
    loop {
        let next = timeout(LONGEST_SILENCE, parts.message()).await;
        let Some(part) = next.map_err(|_| status::no_more_came())?? else {
            break;
        };
        if received == 0 {
            size = part.size.or(size);
        }
        received += part.chunk.len() as u64;
        if received.max(size.unwrap_or(0)) > most {
            return Err(fault(
                "chunk",
                format!("the file has more than {most} bytes"),
            ));
        }
        spool.write_all(&part.chunk).await.map_err(io)?;
    }
    if let Some(size) = size.filter(|size| *size != received) {
        return Err(fault(
            "size",
            format!("is {size}, and {received} bytes came"),
        ));
    }
    Ok(spool.flush().await.map_err(io)?)
}

/// The days that a request means, of those that the platform has.
fn chosen(request: &BackfillPushesRequest, kept: &[Date]) -> Result<Vec<Date>, Status> {
    let mut violations = Violations::default();
    let (Some(oldest), Some(newest)) = (kept.first().copied(), kept.last().copied()) else {
        return Ok(Vec::new());
    };
    let mut read = |field: &str, text: &str, default| {
        let date = if text.is_empty() {
            Some(default)
        } else {
            days::parse(text)
        };
        match date {
            None => violations.add(field, "is no date of the form yyyy-MM-dd"),
            Some(date) if date < oldest || date > newest => {
                let fault = format!("is not within {oldest} to {newest}, days of China's calendar");
                violations.add(field, fault);
            }
            Some(_) => {}
        }
        date.unwrap_or(default)
    };
    let from = read("from_date", &request.from_date, oldest);
    let to = read("to_date", &request.to_date, newest);
    if violations.iter().len() == 0 && from > to {
        violations.add("to_date", "is before from_date");
    }
    if violations.iter().len() > 0 {
        return Err(violations.into());
    }
    let is_chosen = |day: &&Date| (from..=to).contains(*day);
    Ok(kept.iter().filter(is_chosen).copied().collect())
}

/// What a backfill tells as it goes on, until it or the gateway ends.
fn told<T: Send + 'static>(
    run: Run,
    drain: CancellationToken,
    message: impl Fn(&Progress) -> T + Send + Copy + 'static,
) -> Told<T> {
    let drain = Arc::new(drain);
    Box::pin(stream::unfold(Some(run), move |run| {
        let drain = drain.clone();
        async move {
            let mut run = run?;
            let next = tokio::select! {
                next = run.next() => next?,
                () = drain.cancelled() => return Some((Err(status::draining()), None)),
            };
            match next {
                Ok(progress) => Some((Ok(message(&progress)), Some(run))),
                Err(error) => Some((Err(error.into()), None)),
            }
        }
    }))
}

fn of_days(progress: &Progress) -> BackfillPushesResponse {
    BackfillPushesResponse {
        files_done: progress.files_done,
        files_total: progress.files_total,
        lines: progress.lines,
        added: progress.added,
        already_held: progress.already_held,
        unreadable: progress.unreadable,
        outdated: progress.outdated,
        files_failed: progress.files_failed,
    }
}

fn of_file(progress: &Progress) -> BackfillFileResponse {
    BackfillFileResponse {
        lines: progress.lines,
        added: progress.added,
        already_held: progress.already_held,
        unreadable: progress.unreadable,
        outdated: progress.outdated,
    }
}

impl Validate for ListFailedPushFilesRequest {
    fn validate(&self, violations: &mut Violations) {
        if !self.date.is_empty() && days::parse(&self.date).is_none() {
            violations.add("date", "is no date of the form yyyy-MM-dd");
        }
    }
}
