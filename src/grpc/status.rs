//! Every error as the status that its caller gets.
//!
//! No arm of these mappings stands for "the rest": a new error does not compile
//! before it has its status.

use std::{collections::HashMap, time::Duration};

use http::{HeaderMap, HeaderValue};
use prost_types::Timestamp;
use tonic::{Code as Grpc, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{auth::AuthError, quota::Exceeded, validate::Violations};
use crate::{
    backfill::BackfillError,
    calls::CallsError,
    platform::{Code, DownloadError, Occupation, Outage, PlatformError, refusal_text},
    proto::{Call, Submission, submission},
    push::{Cursor, Position},
    relay::RelayError,
    store::{ReadError, subscriptions::SubscriptionError},
    submissions::{Stopped, SubmissionsError},
    voice::{AddressError, FetchError},
};

/// Domain of errors that the platform answered with a code.
const PLATFORM: &str = "xfyeta.com";
/// Domain of the gateway's own errors.
const GATEWAY: &str = "yeta-gateway";

/// The reason of an address that no recording is fetched from.
const ADDRESS_REFUSED: &str = "VOICE_ADDRESS_REFUSED";

/// When to call again after a refusal that passes by itself.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The most of the platform's message that is handed on, in bytes. Statuses
/// travel in headers, and many clients take no more than 8 KiB of those.
const LONGEST_MESSAGE: usize = 1024;
/// The most that is told of violations, in bytes; room for each of 50 rows.
const LONGEST_VIOLATIONS: usize = 3800;

/// A status under construction.
struct Answer {
    grpc: Grpc,
    reason: &'static str,
    domain: &'static str,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
}

impl Answer {
    fn new(grpc: Grpc, reason: &'static str) -> Self {
        Self {
            grpc,
            reason,
            domain: GATEWAY,
            metadata: HashMap::new(),
            retry_after: None,
        }
    }

    fn retry(self, after: Duration) -> Self {
        Self {
            retry_after: Some(after),
            ..self
        }
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    fn by_platform(self, code: &Code, message: &str) -> Self {
        Self {
            domain: PLATFORM,
            ..self.with("code", code.as_str()).with("message", message)
        }
    }

    /// The task that occupies the line.
    fn occupied(self, known: &Occupation) -> Self {
        let seen_at = humantime::format_rfc3339_seconds(known.seen_at).to_string();
        let status = known.task_status.as_str_name();
        let status = status.trim_start_matches("TASK_STATUS_").to_lowercase();
        let answer = self
            .with("line_num", &known.line_num)
            .with("occupied_by_task", &known.task_id)
            .with("task_status", &status.replace('_', " "))
            .with("seen_at", &seen_at);
        if known.task_name.is_empty() {
            return answer;
        }
        answer.with("task_name", &known.task_name)
    }

    /// How far a recording has come, and when it was announced.
    fn at(self, at: VoiceAt) -> Self {
        let answer = self.with("next_offset", &at.next_offset.to_string());
        match at.announced_at {
            Some(announced_at) => answer.with("announced_at", &announced_at.to_string()),
            None => answer,
        }
    }

    fn into_status(self, message: impl Into<String>) -> Status {
        let mut details = ErrorDetails::with_error_info(self.reason, self.domain, self.metadata);
        if let Some(after) = self.retry_after {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(self.grpc, message, details)
    }
}

/// The status, the reason, and whether a retry can help, of each code.
fn of_code(code: &Code) -> (Grpc, &'static str, bool) {
    match code {
        Code::InvalidToken => (Grpc::Unavailable, "TOKEN_REFUSED", true),
        Code::TokenNotAuthorized => (Grpc::PermissionDenied, "TOKEN_NOT_AUTHORIZED", false),
        Code::WrongAppId => (Grpc::FailedPrecondition, "WRONG_APP_ID", false),
        Code::Busy => (Grpc::Unavailable, "PLATFORM_BUSY", true),
        Code::InvalidParameter => (Grpc::InvalidArgument, "INVALID_PARAMETER", false),
        Code::UnderMaintenance => (Grpc::Unavailable, "UNDER_MAINTENANCE", true),
        Code::OperationDisabled => (Grpc::FailedPrecondition, "OPERATION_DISABLED", false),
        Code::BadCredentials => (Grpc::FailedPrecondition, "BAD_CREDENTIALS", false),
        Code::DataRelation => (Grpc::InvalidArgument, "DATA_RELATION", false),
        Code::WrongBusinessId => (Grpc::FailedPrecondition, "WRONG_BUSINESS_ID", false),
        Code::TaskNotFound => (Grpc::NotFound, "TASK_NOT_FOUND", false),
        Code::BadPhoneNumber => (Grpc::InvalidArgument, "BAD_PHONE_NUMBER", false),
        Code::RobotNotFound => (Grpc::NotFound, "ROBOT_NOT_FOUND", false),
        Code::BadVoice => (Grpc::InvalidArgument, "BAD_VOICE", false),
        Code::BadSpeed => (Grpc::InvalidArgument, "BAD_SPEED", false),
        Code::InsufficientBalance => (Grpc::FailedPrecondition, "INSUFFICIENT_BALANCE", false),
        Code::BadFileFormat => (Grpc::InvalidArgument, "BAD_FILE_FORMAT", false),
        Code::FileTooLarge => (Grpc::InvalidArgument, "FILE_TOO_LARGE", false),
        Code::RowMismatch => (Grpc::InvalidArgument, "ROW_MISMATCH", false),
        Code::TooManyRows => (Grpc::ResourceExhausted, "TOO_MANY_ROWS", false),
        Code::OutsideWorkingHours => (Grpc::FailedPrecondition, "OUTSIDE_WORKING_HOURS", false),
        Code::NumberOccupied => (Grpc::FailedPrecondition, "NUMBER_OCCUPIED", false),
        Code::TaskCompleted => (Grpc::FailedPrecondition, "TASK_COMPLETED", false),
        Code::TaskDeleted => (Grpc::FailedPrecondition, "TASK_DELETED", false),
        Code::Other(_) => (Grpc::Unknown, "PLATFORM_ERROR", false),
    }
}

impl From<PlatformError> for Status {
    fn from(error: PlatformError) -> Self {
        let text = error.to_string();
        let answer = match error {
            PlatformError::UnknownAccount(name) => {
                return AuthError::AccountNotFound(name).into();
            }
            PlatformError::AccountDisabled(account) => {
                Answer::new(Grpc::FailedPrecondition, "ACCOUNT_DISABLED").with("account", &account)
            }
            PlatformError::Refused {
                code,
                message,
                occupation,
                for_token: _,
                proven,
            } => return refused(&code, &message, occupation.as_deref(), proven),
            PlatformError::TokenRefused { message } => {
                return refused(&Code::InvalidToken, &message, None, true);
            }
            PlatformError::Unreachable { retry_after, .. } => {
                Answer::new(Grpc::Unavailable, "PLATFORM_UNREACHABLE").retry(retry_after)
            }
            PlatformError::Unreadable { retry_after, .. } => {
                Answer::new(Grpc::Unavailable, "PLATFORM_UNREADABLE").retry(retry_after)
            }
            PlatformError::OutcomeUnknown { timed_out, .. } => {
                let grpc = if timed_out {
                    Grpc::DeadlineExceeded
                } else {
                    Grpc::Unknown
                };
                Answer::new(grpc, "OUTCOME_UNKNOWN")
            }
            PlatformError::DeadlineExceeded => Answer::new(Grpc::DeadlineExceeded, "DEADLINE"),
            PlatformError::CredentialsUnreadable(_) => {
                // Where the secrets lie is the operator's business; the log tells.
                return Answer::new(Grpc::FailedPrecondition, "CREDENTIALS_UNREADABLE")
                    .into_status("the gateway cannot read the account's key or secret");
            }
            PlatformError::Overloaded { retry_after } => {
                Answer::new(Grpc::ResourceExhausted, "OVERLOADED").retry(retry_after)
            }
            PlatformError::HeldBack {
                outage: Outage::Unreachable { .. },
                retry_after,
                ..
            } => Answer::new(Grpc::Unavailable, "PLATFORM_UNREACHABLE").retry(retry_after),
            PlatformError::HeldBack {
                outage: Outage::Unreadable { .. },
                retry_after,
                ..
            } => Answer::new(Grpc::Unavailable, "PLATFORM_UNREADABLE").retry(retry_after),
            PlatformError::HeldBack {
                outage: Outage::Maintenance { message },
                retry_after,
                ..
            } => {
                let code = Code::UnderMaintenance;
                let (grpc, reason, _) = of_code(&code);
                let message = shortened(&message, LONGEST_MESSAGE);
                Answer::new(grpc, reason)
                    .by_platform(&code, message)
                    .retry(retry_after)
            }
        };
        answer.into_status(text)
    }
}

/// The status of an answer with a code. One that proves nothing asks for no retry: a change could
/// be carried out twice.
fn refused(code: &Code, message: &str, occupation: Option<&Occupation>, proven: bool) -> Status {
    let (grpc, reason, retry) = of_code(code);
    let message = shortened(message, LONGEST_MESSAGE);
    let mut text = refusal_text(code, message, proven);
    let mut answer = Answer::new(grpc, reason).by_platform(code, message);
    if !proven {
        answer = answer.with("proven", "false");
    } else if retry {
        answer = answer.retry(RETRY_AFTER);
    }
    if let Some(known) = occupation {
        let (line, task) = (&known.line_num, &known.task_id);
        text = format!("{text}; line {line} serves task {task}");
        answer = answer.occupied(known);
    }
    answer.into_status(text)
}

/// The reason of a platform's code.
pub(super) fn reason_of(code: &Code) -> &'static str {
    of_code(code).1
}

impl From<SubmissionsError> for Status {
    fn from(error: SubmissionsError) -> Self {
        let text = error.to_string();
        let answer = match error {
            SubmissionsError::Platform(error) => return error.into(),
            SubmissionsError::Reused => Answer::new(Grpc::InvalidArgument, "REQUEST_ID_REUSED"),
            SubmissionsError::UploadReused => {
                Answer::new(Grpc::InvalidArgument, "UPLOAD_ID_REUSED")
            }
            SubmissionsError::RefusedBefore { code, message, at } => {
                // No word of a retry: under this id none can help.
                let (grpc, reason, _) = of_code(&code);
                let message = shortened(&message, LONGEST_MESSAGE);
                let answer = Answer::new(grpc, reason).by_platform(&code, message);
                match at {
                    Some(at) => answer.with("refused_at", &at.to_string()),
                    None => answer,
                }
            }
            SubmissionsError::Unknown(submission) => outcome_unknown(&submission),
            SubmissionsError::TooManyUploads { .. } => {
                Answer::new(Grpc::ResourceExhausted, "OVERLOADED").retry(RETRY_AFTER)
            }
            SubmissionsError::TooManyUnknown => {
                Answer::new(Grpc::ResourceExhausted, "TOO_MANY_UNKNOWN")
            }
            SubmissionsError::NotFound => Answer::new(Grpc::NotFound, "SUBMISSION_NOT_FOUND"),
            SubmissionsError::NotUnknown => {
                Answer::new(Grpc::FailedPrecondition, "SUBMISSION_NOT_UNKNOWN")
            }
            SubmissionsError::Ambiguous => {
                Answer::new(Grpc::FailedPrecondition, "SUBMISSION_AMBIGUOUS")
            }
            SubmissionsError::WrongIds { .. } => Answer::new(Grpc::InvalidArgument, "WRONG_IDS"),
            SubmissionsError::ClaimedId(_) => Answer::new(Grpc::InvalidArgument, "CLAIMED_ID"),
            SubmissionsError::BadPageToken => Answer::new(Grpc::InvalidArgument, "BAD_PAGE_TOKEN"),
            SubmissionsError::Unavailable(_) | SubmissionsError::RecordsLost => {
                Answer::new(Grpc::Unavailable, "STORE_UNAVAILABLE").retry(RETRY_AFTER)
            }
            SubmissionsError::Closed => return draining(),
        };
        answer.into_status(text)
    }
}

/// What was sent, and when, of a submission of which nobody knows what came.
fn outcome_unknown(submission: &Submission) -> Answer {
    let grpc = if submission.timed_out {
        Grpc::DeadlineExceeded
    } else {
        Grpc::Unknown
    };
    let mut answer = Answer::new(grpc, "OUTCOME_UNKNOWN")
        .with("request_id", &submission.request_id)
        .with("operation", submission.operation().as_str_name())
        .with("push_cursor", &submission.push_cursor);
    if let Some(sent_at) = submission.created_at {
        answer = answer.with("sent_at", &sent_at.to_string());
    }
    let rows = match &submission.request {
        Some(submission::Request::CallOut(request)) => &request.call_list,
        Some(submission::Request::InsertTaskData(request)) => &request.call_list,
        Some(submission::Request::CreateTask(request)) => {
            let name = shortened(&request.task_name, LONGEST_MESSAGE);
            return answer.with("task_name", name);
        }
        None => return answer,
    };
    answer.with("rows", &rows.len().to_string())
}

/// The status of a request id that nothing is known of.
pub(super) fn submission_not_found(request_id: &str) -> Status {
    let request_id = shortened(request_id, LONGEST_MESSAGE);
    Answer::new(Grpc::NotFound, "SUBMISSION_NOT_FOUND")
        .with("request_id", request_id)
        .into_status(format!("nothing is known of a request {request_id:?}"))
}

impl From<Stopped> for Status {
    fn from(why: Stopped) -> Self {
        match why {
            Stopped::TakenOver => {
                Answer::new(Grpc::Aborted, "UPLOAD_TAKEN_OVER").into_status(why.to_string())
            }
            Stopped::Draining => draining(),
            Stopped::Idle(_) => {
                Answer::new(Grpc::Aborted, "UPLOAD_IDLE").into_status(why.to_string())
            }
            Stopped::Platform(error) => error.into(),
            Stopped::Submissions(error) => error.into(),
        }
    }
}

/// The status of a file whose sender has fallen silent.
pub(super) fn no_more_came() -> Status {
    Answer::new(Grpc::DeadlineExceeded, "DEADLINE")
        .into_status("no more of the file came in time; nothing was changed")
}

/// The status of what ends because the gateway does.
pub(super) fn draining() -> Status {
    Answer::new(Grpc::Unavailable, "DRAINING")
        .retry(RETRY_AFTER)
        .into_status("the gateway is shutting down")
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        let text = error.to_string();
        let answer = match error {
            AuthError::Unauthenticated | AuthError::Revoked => {
                Answer::new(Grpc::Unauthenticated, "UNAUTHENTICATED")
            }
            AuthError::ClientDisabled { .. } => {
                Answer::new(Grpc::PermissionDenied, "CLIENT_DISABLED")
            }
            AuthError::SubscriptionForbidden { subscription, .. } => {
                Answer::new(Grpc::PermissionDenied, "SUBSCRIPTION_FORBIDDEN")
                    .with("subscription", &subscription)
            }
            AuthError::RpcForbidden { right, .. } => {
                Answer::new(Grpc::PermissionDenied, "RPC_FORBIDDEN").with("group", right)
            }
            AuthError::AccountNotFound(account) => {
                Answer::new(Grpc::NotFound, "ACCOUNT_NOT_FOUND").with("account", &account)
            }
            AuthError::AccountForbidden { account, .. } => {
                Answer::new(Grpc::PermissionDenied, "ACCOUNT_FORBIDDEN").with("account", &account)
            }
        };
        answer.into_status(text)
    }
}

impl From<Exceeded> for Status {
    fn from(error: Exceeded) -> Self {
        Answer::new(Grpc::ResourceExhausted, "OVERLOADED")
            .with("bound", error.bound)
            .retry(error.retry_after)
            .into_status(error.to_string())
    }
}

/// The status of a request beyond the gateway's bounds; `what` there is too much of.
pub(super) fn overloaded(what: &str) -> Status {
    Answer::new(Grpc::ResourceExhausted, "OVERLOADED")
        .retry(RETRY_AFTER)
        .into_status(format!("too many {what} at once"))
}

/// The status of a request message that is larger than its RPC takes.
pub(super) fn message_too_large(max: usize, text: String) -> Status {
    Answer::new(Grpc::ResourceExhausted, "MESSAGE_TOO_LARGE")
        .with("max_bytes", &max.to_string())
        .into_status(text)
}

/// The status of a request message that is far larger once it is decompressed.
pub(super) fn too_dense(text: String) -> Status {
    Answer::new(Grpc::ResourceExhausted, "MESSAGE_TOO_LARGE").into_status(text)
}

/// The status of a request message with too many fields.
pub(super) fn too_many_elements(max: usize) -> Status {
    let mut violations = Violations::default();
    let fault = format!("the message has more than {max} elements in its lists and fields");
    violations.add("", fault);
    violations.into()
}

/// The status of a request whose bytes are no message.
pub(super) fn bad_message(text: &str) -> Status {
    Answer::new(Grpc::InvalidArgument, "BAD_MESSAGE").into_status(text)
}

/// The status of a request message that did not arrive in time.
pub(super) fn message_late(after: Duration) -> Status {
    let after = humantime::format_duration(after);
    Answer::new(Grpc::DeadlineExceeded, "DEADLINE")
        .into_status(format!("the request message did not arrive within {after}"))
}

/// The status of a request whose deadline came before its answer. Nobody knows what was done of one
/// that `may_have_changed` something.
pub(super) fn deadline(may_have_changed: bool) -> Status {
    let reason = if may_have_changed {
        "OUTCOME_UNKNOWN"
    } else {
        "DEADLINE"
    };
    Answer::new(Grpc::DeadlineExceeded, reason).into_status("the deadline came before the answer")
}

/// The trailers that end an answer with an error.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        let code = HeaderValue::from(i32::from(status.code()));
        trailers.insert("grpc-status", code);
    }
    trailers
}

/// The status of a stream whose client took nothing of it; `cursor` is where it can go on.
pub(super) fn slow_consumer(after: Duration, cursor: Option<&str>) -> Status {
    let answer = Answer::new(Grpc::ResourceExhausted, "SLOW_CONSUMER");
    let answer = match cursor {
        Some(cursor) => answer.with("cursor", cursor),
        None => answer,
    };
    let after = humantime::format_duration(after);
    answer.into_status(format!("the client took nothing of the answer for {after}"))
}

/// The status of a response that is open when the grace of an old connection ends; `cursor` is where
/// a stream can go on.
pub(super) fn connection_aged(cursor: Option<&str>) -> Status {
    let answer = Answer::new(Grpc::Unavailable, "DRAINING").retry(RETRY_AFTER);
    let answer = match cursor {
        Some(cursor) => answer.with("cursor", cursor),
        None => answer,
    };
    answer.into_status("the connection has reached grpc.max_connection_age; call again")
}

/// The status of a name that only the gateway itself gives.
pub(super) fn name_reserved(name: &str) -> Status {
    Answer::new(Grpc::PermissionDenied, "NAME_RESERVED")
        .with("subscription", name)
        .into_status(format!("{name:?} is one of the gateway's own names"))
}

/// The status of a reader or subscription that cannot start or go on; `cursor` names where it can.
pub fn of_relay(error: &RelayError, cursor: impl Fn(Position) -> Cursor) -> Status {
    let answer = match error {
        RelayError::BadCursor(_) => Answer::new(Grpc::InvalidArgument, "BAD_CURSOR"),
        RelayError::Read(error) | RelayError::Subscription(SubscriptionError::Log(error)) => {
            of_read(error, cursor)
        }
        RelayError::Subscription(SubscriptionError::NotFound(name)) => {
            Answer::new(Grpc::NotFound, "SUBSCRIPTION_NOT_FOUND").with("subscription", name)
        }
        RelayError::Subscription(SubscriptionError::AlreadyExists(name)) => {
            Answer::new(Grpc::AlreadyExists, "SUBSCRIPTION_EXISTS").with("subscription", name)
        }
        RelayError::Subscription(SubscriptionError::TooMany(_)) => {
            Answer::new(Grpc::ResourceExhausted, "TOO_MANY_SUBSCRIPTIONS")
        }
        RelayError::Subscription(SubscriptionError::Unavailable(_)) => {
            Answer::new(Grpc::Unavailable, "STORE_UNAVAILABLE").retry(RETRY_AFTER)
        }
        RelayError::Forbidden { account } => {
            Answer::new(Grpc::PermissionDenied, "ACCOUNT_FORBIDDEN").with("account", account)
        }
        RelayError::Subscription(SubscriptionError::Closed) | RelayError::Draining => {
            Answer::new(Grpc::Unavailable, "DRAINING").retry(RETRY_AFTER)
        }
    };
    answer.into_status(error.to_string())
}

fn of_read(error: &ReadError, cursor: impl Fn(Position) -> Cursor) -> Answer {
    match error {
        ReadError::Expired { earliest } => Answer::new(Grpc::OutOfRange, "CURSOR_EXPIRED")
            .with("earliest_cursor", &cursor(*earliest).to_string()),
        ReadError::Damaged { lost } => {
            let after = Position(lost.end - 1);
            Answer::new(Grpc::DataLoss, "LOG_DAMAGED")
                .with("lost_events", &(lost.end - lost.start).to_string())
                .with("resume_cursor", &cursor(after).to_string())
        }
        ReadError::Unavailable(_) => {
            Answer::new(Grpc::Unavailable, "STORE_UNAVAILABLE").retry(RETRY_AFTER)
        }
        ReadError::Closed => Answer::new(Grpc::Unavailable, "DRAINING").retry(RETRY_AFTER),
    }
}

impl From<BackfillError> for Status {
    fn from(error: BackfillError) -> Self {
        let text = error.to_string();
        let answer = match error {
            BackfillError::Platform(error) => return error.into(),
            BackfillError::Running => {
                Answer::new(Grpc::Aborted, "BACKFILL_RUNNING").retry(RETRY_AFTER)
            }
            BackfillError::Download(DownloadError::Broken(_) | DownloadError::Io(_)) => {
                Answer::new(Grpc::Unavailable, "DOWNLOAD_FAILED").retry(RETRY_AFTER)
            }
            BackfillError::Download(DownloadError::NotFound(_)) => {
                Answer::new(Grpc::NotFound, "PUSH_FILE_NOT_FOUND")
            }
            BackfillError::Download(
                DownloadError::BadAddress(_)
                | DownloadError::Redirected(_)
                | DownloadError::TooLarge(_),
            )
            | BackfillError::File(_) => Answer::new(Grpc::FailedPrecondition, "BAD_PUSH_FILE"),
            BackfillError::Unavailable(_) => {
                Answer::new(Grpc::Unavailable, "STORE_UNAVAILABLE").retry(RETRY_AFTER)
            }
            BackfillError::Closed => return draining(),
        };
        answer.into_status(text)
    }
}

impl From<CallsError> for Status {
    fn from(error: CallsError) -> Self {
        let text = error.to_string();
        let answer = match error {
            CallsError::BadPageToken => Answer::new(Grpc::InvalidArgument, "BAD_PAGE_TOKEN"),
            CallsError::Unavailable(_) => {
                Answer::new(Grpc::Unavailable, "STORE_UNAVAILABLE").retry(RETRY_AFTER)
            }
            CallsError::Closed => Answer::new(Grpc::Unavailable, "DRAINING").retry(RETRY_AFTER),
        };
        answer.into_status(text)
    }
}

/// The status of a request for a call of which nothing is held, or nothing that the caller may see.
pub(super) fn call_not_found(call_uuid: &str) -> Status {
    let call_uuid = shortened(call_uuid, LONGEST_MESSAGE);
    Answer::new(Grpc::NotFound, "CALL_NOT_FOUND")
        .with("call_uuid", call_uuid)
        .into_status(format!("no push of a call {call_uuid:?} is held"))
}

/// The status of a watch whose deadline came while so many rows had no final call.
pub(super) fn rows_left(rows: usize) -> Status {
    Answer::new(Grpc::DeadlineExceeded, "DEADLINE")
        .with("rows_left", &rows.to_string())
        .into_status(format!(
            "the deadline came while {rows} rows had no final call yet"
        ))
}

/// The status of a call's recording that was not announced, or not yet.
pub(super) fn voice_not_pushed(call: &Call) -> Status {
    let call_uuid = shortened(&call.call_uuid, LONGEST_MESSAGE);
    Answer::new(Grpc::NotFound, "VOICE_NOT_PUSHED")
        .with("call_uuid", call_uuid)
        .with("state", call.state().as_str_name())
        .into_status(format!(
            "no recording of the call {call_uuid:?} has been pushed"
        ))
}

/// The status of an address that no push to the caller's accounts has announced.
pub(super) fn voice_not_announced() -> Status {
    Answer::new(Grpc::NotFound, "VOICE_NOT_PUSHED")
        .into_status("no push to an account of this client has announced a recording at this url")
}

/// The status of a subscription's name that another client's subscription has.
pub(super) fn name_taken(name: &str) -> Status {
    Answer::new(Grpc::PermissionDenied, "SUBSCRIPTION_FORBIDDEN")
        .with("subscription", name)
        .into_status(format!("this client may not use the name {name:?}"))
}

/// The status of an address in a request that is not one of the voice server's.
pub(super) fn bad_voice_url(error: AddressError) -> Status {
    let mut details = ErrorDetails::with_error_info(ADDRESS_REFUSED, GATEWAY, HashMap::new());
    details.add_bad_request_violation("url", error.to_string());
    let text = format!("the address is not fetched from: {error}");
    Status::with_error_details(Grpc::InvalidArgument, text, details)
}

/// The status of an address that was pushed and is not one of the voice server's.
pub(super) fn bad_pushed_url(error: AddressError) -> Status {
    Answer::new(Grpc::FailedPrecondition, ADDRESS_REFUSED)
        .into_status(format!("the pushed address is not fetched from: {error}"))
}

/// How far a recording has come, and when it was announced.
#[derive(Clone, Copy, Debug)]
pub(super) struct VoiceAt {
    /// Where to go on.
    pub next_offset: u64,
    /// When its push was received, if that is known.
    pub announced_at: Option<Timestamp>,
}

/// The status of a recording that cannot be had, or not to its end.
pub(super) fn of_voice(error: &FetchError, at: VoiceAt) -> Status {
    let answer = match error {
        FetchError::NotFound => Answer::new(Grpc::NotFound, error.reason()),
        FetchError::Redirect(_) => Answer::new(Grpc::FailedPrecondition, error.reason()),
        FetchError::Status(status) => Answer::new(Grpc::Unavailable, error.reason())
            .with("http_status", &status.to_string())
            .retry(RETRY_AFTER),
        FetchError::Unreachable(_) | FetchError::Archive(_) => {
            Answer::new(Grpc::Unavailable, error.reason()).retry(RETRY_AFTER)
        }
        FetchError::BeyondEnd { size } => {
            Answer::new(Grpc::OutOfRange, error.reason()).with("size", &size.to_string())
        }
        FetchError::Changed => Answer::new(Grpc::Aborted, error.reason()),
        FetchError::LongerThanPushed { pushed } => {
            Answer::new(Grpc::DataLoss, error.reason()).with("pushed_size", &pushed.to_string())
        }
        FetchError::TooLarge { limit } => Answer::new(Grpc::FailedPrecondition, error.reason())
            .with("max_bytes", &limit.to_string()),
    };
    let announced = at.announced_at.filter(|_| *error == FetchError::NotFound);
    let text = match announced {
        Some(at) => format!("{error}; it was announced at {at}"),
        None => error.to_string(),
    };
    answer.at(at).into_status(text)
}

/// The status of a recording whose caller has no more time.
pub(super) fn voice_late(at: VoiceAt) -> Status {
    Answer::new(Grpc::DeadlineExceeded, "DEADLINE")
        .at(at)
        .into_status(format!("the deadline came at byte {}", at.next_offset))
}

/// The status of a recording that is cut off because the gateway ends.
pub(super) fn voice_draining(at: VoiceAt) -> Status {
    Answer::new(Grpc::Unavailable, "DRAINING")
        .retry(RETRY_AFTER)
        .at(at)
        .into_status("the gateway is shutting down")
}

/// The status after a recording's last byte that says what could not be said before its first.
pub(super) fn voice_size_mismatch(size: u64, pushed: i64) -> Status {
    Answer::new(Grpc::DataLoss, "SIZE_MISMATCH")
        .with("size", &size.to_string())
        .with("pushed_size", &pushed.to_string())
        .into_status(format!(
            "the recording has {size} bytes, its push told {pushed}"
        ))
}

impl From<Violations> for Status {
    fn from(violations: Violations) -> Self {
        let mut details = ErrorDetails::with_error_info("INVALID_REQUEST", GATEWAY, HashMap::new());
        let mut room = LONGEST_VIOLATIONS;
        let mut left = violations.iter().len();
        let first = violations
            .iter()
            .next()
            .map(|(field, fault)| format!("{field}: {fault}"))
            .unwrap_or_default();
        let text = match left {
            1 => format!("the request is not valid: {first}"),
            many => format!("the request has {many} faults, the first: {first}"),
        };
        for (field, fault) in violations.iter() {
            // Field, fault, and the lengths that stand before them.
            let size = field.len() + fault.len() + 8;
            if size > room {
                details.add_bad_request_violation("", format!("and {left} more"));
                break;
            }
            room -= size;
            left -= 1;
            details.add_bad_request_violation(field, fault);
        }
        Status::with_error_details(Grpc::InvalidArgument, text, details)
    }
}

/// The start of a text, of so many bytes at most.
pub(super) fn shortened(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev();
    let end = end.into_iter().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests;
