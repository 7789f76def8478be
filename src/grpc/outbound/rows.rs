//! `SubmitRows`: a stream of rows in, a stream of their results out.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::audit::Details;
use crate::grpc::auth::Caller;
use crate::grpc::quota::{Exceeded, Usage};
use crate::grpc::status;
use crate::grpc::validate::{Validate, Violations};
use crate::proto::submit_rows_request::Message;
use crate::proto::submit_rows_response::Message as Answer;
use crate::proto::upload_header::Target;
use crate::proto::upload_row_result::Outcome;
use crate::proto::{
    DuplicateRule, SubmitRowsRequest, SubmitRowsResponse, UploadHeader, UploadRow, UploadRowError,
    UploadRowResult, UploadRowWarning,
};
use crate::submissions::{RowFault, RowOutcome, RowResult, Session, Stopped, UploadEvent};

pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<SubmitRowsResponse, Status>> + Send>>;

/// A stream that has not begun by then is ended.
const HEADER: Duration = Duration::from_secs(30);
/// Rows wait for more, to go out together, until none comes for so long.
const LINGER: Duration = Duration::from_millis(20);

/// The header that a stream must begin with, and soon.
pub(super) async fn header(
    rows: &mut Streaming<SubmitRowsRequest>,
    drain: &CancellationToken,
) -> Result<UploadHeader, Status> {
    let first = tokio::select! {
        first = timeout(HEADER, rows.message()) => first,
        () = drain.cancelled() => return Err(status::draining()),
    };
    let first = first.map_err(|_| fault("did not come in time"))??;
    match first.and_then(|first| first.message) {
        Some(Message::Header(header)) => Ok(header),
        Some(Message::Rows(_)) | None => Err(fault("must be the first message")),
    }
}

fn fault(fault: &str) -> Status {
    let mut violations = Violations::default();
    violations.add("header", fault);
    violations.into()
}

/// Counts the rows of an upload against the client's bound, and for the audit log.
#[derive(Clone)]
pub(super) struct Count {
    usage: Arc<Usage>,
    bound: u64,
    details: Details,
}

impl Count {
    pub(super) fn new(caller: &Caller, details: Details) -> Self {
        Self {
            usage: caller.usage().clone(),
            bound: caller.bounds().max_rows_per_day,
            details,
        }
    }

    fn received(&self, rows: usize) -> Result<(), Exceeded> {
        self.details.rows(rows);
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        self.usage.rows(self.bound, rows, SystemTime::now())
    }

    /// Rows for which nothing is sent do not count.
    fn answered(&self, event: &UploadEvent) {
        if let UploadEvent::Row(result) = event
            && (result.known_before || matches!(result.outcome, RowOutcome::Faulty(_)))
        {
            self.usage.give_back_row();
        }
    }
}

/// Takes rows until there are no more, and answers each.
pub(super) fn answers(
    mut session: Session,
    rows: Streaming<SubmitRowsRequest>,
    count: Count,
) -> Answers {
    let events = session.events();
    let answered = count.clone();
    let (end, ended) = oneshot::channel();
    tokio::spawn(async move {
        // Whoever asked may have gone.
        let _: Result<(), _> = end.send(take(session, rows, count).await);
    });
    // Results go out before the end does.
    let events = stream::unfold((events, answered), |(events, answered)| async {
        let mut events: mpsc::Receiver<UploadEvent> = events?;
        let next = events.recv().await?;
        answered.answered(&next);
        Some((Ok(answer(next)), (Some(events), answered)))
    });
    let end = stream::once(ended).filter_map(|ended| async {
        match ended {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some(Err(status)),
            Err(_) => Some(Err(Status::internal(
                "a fault of the gateway; its log has more",
            ))),
        }
    });
    Box::pin(events.chain(end))
}

async fn take(
    mut session: Session,
    mut rows: Streaming<SubmitRowsRequest>,
    count: Count,
) -> Result<(), Status> {
    let stopped = session.stopped();
    tokio::pin!(stopped);
    loop {
        let (is_lingering, idle) = (session.has_ready(), session.idle_timeout());
        let next = timeout(if is_lingering { LINGER } else { idle }, rows.message());
        let next = tokio::select! {
            biased;
            why = &mut stopped => {
                // What is in flight is still answered, as far as the client reads.
                session.wait_for_batches().await;
                return Err(why.into());
            }
            next = next => next,
        };
        match next {
            Err(_) if is_lingering => session.flush().await?,
            Err(_) => {
                session.wait_for_batches().await;
                return Err(Stopped::Idle(idle).into());
            }
            Ok(message) => match message? {
                None => return Ok(session.finish().await?),
                Some(message) => {
                    let rows = of_message(message)?;
                    if let Err(exceeded) = count.received(rows.len()) {
                        session.wait_for_batches().await;
                        return Err(exceeded.into());
                    }
                    session.take(rows).await?;
                }
            },
        }
    }
}

fn of_message(message: SubmitRowsRequest) -> Result<Vec<UploadRow>, Status> {
    match message.message {
        Some(Message::Rows(rows)) => Ok(rows.rows),
        Some(Message::Header(_)) => Err(fault("must come once")),
        None => Ok(Vec::new()),
    }
}

fn answer(event: UploadEvent) -> SubmitRowsResponse {
    let message = match event {
        UploadEvent::Row(result) => Answer::Row(of_result(result)),
        UploadEvent::Progress(progress) => Answer::Progress(progress),
    };
    SubmitRowsResponse {
        message: Some(message),
    }
}

fn of_result(result: RowResult) -> UploadRowResult {
    let error = |reason: &str, message: String| UploadRowError {
        reason: reason.to_owned(),
        message,
        platform_code: String::new(),
    };
    let outcome = match result.outcome {
        RowOutcome::Accepted(id) => Outcome::TaskDataId(id),
        RowOutcome::Faulty(fault) => Outcome::Error(error(fault.reason, fault.message)),
        RowOutcome::Unknown(because) => Outcome::Error(error("OUTCOME_UNKNOWN", because)),
        RowOutcome::Refused(refusal) => Outcome::Error(UploadRowError {
            platform_code: refusal.code.as_str().to_owned(),
            ..error(status::reason_of(&refusal.code), refusal.message)
        }),
    };
    let warning = |fault: RowFault| UploadRowWarning {
        reason: fault.reason.to_owned(),
        message: fault.message,
    };
    UploadRowResult {
        row_key: result.row_key,
        outcome: Some(outcome),
        warnings: result.warnings.into_iter().map(warning).collect(),
        known_before: result.known_before,
    }
}

impl Validate for UploadHeader {
    fn validate(&self, v: &mut Violations) {
        match &self.target {
            None => v.add("header.target", "is required: task_id or direct"),
            Some(Target::TaskId(task_id)) => v.required("header.task_id", task_id),
            Some(Target::Direct(direct)) => {
                v.required("header.direct.robot_id", &direct.robot_id);
                v.required("header.direct.line_num", &direct.line_num);
                v.within("header.direct.robot_speed", direct.robot_speed, -500, 500);
            }
        }
        match self.call_column.first() {
            None => v.add(
                "header.call_column",
                "is required; the first is the phone number",
            ),
            Some(first) => v.required("header.call_column[0]", first),
        }
        v.columns("header.call_column", &self.call_column);
        v.id("header.upload_id", &self.upload_id);
        for (field, rule) in [
            ("header.duplicate_numbers", self.duplicate_numbers),
            ("header.duplicate_row_keys", self.duplicate_row_keys),
        ] {
            if DuplicateRule::try_from(rule).is_err() {
                v.add(field, format!("{rule} is no DuplicateRule"));
            }
        }
    }
}
