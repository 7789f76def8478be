//! Every error as the status that its caller gets.
//!
//! No arm of these mappings stands for "the rest": a new error does not compile
//! before it has its status.

use std::{collections::HashMap, time::Duration};

use tonic::{Code as Grpc, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{auth::AuthError, validate::Violations};
use crate::{
    calls::CallsError,
    platform::{Code, PlatformError},
    push::{Cursor, Position},
    relay::RelayError,
    store::{ReadError, subscriptions::SubscriptionError},
};

/// Domain of errors that the platform answered with a code.
const PLATFORM: &str = "xfyeta.com";
/// Domain of the gateway's own errors.
const GATEWAY: &str = "yeta-gateway";

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
            PlatformError::Refused { code, message } => return refused(&code, &message),
            PlatformError::TokenRefused { message } => {
                return refused(&Code::InvalidToken, &message);
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
        };
        answer.into_status(text)
    }
}

fn refused(code: &Code, message: &str) -> Status {
    let (grpc, reason, retry) = of_code(code);
    let message = shortened(message, LONGEST_MESSAGE);
    let answer = Answer::new(grpc, reason).by_platform(code, message);
    let answer = if retry {
        answer.retry(RETRY_AFTER)
    } else {
        answer
    };
    answer.into_status(format!("the platform refused with code {code}: {message}"))
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        let text = error.to_string();
        let answer = match error {
            AuthError::Unauthenticated => Answer::new(Grpc::Unauthenticated, "UNAUTHENTICATED"),
            AuthError::RpcForbidden { group, .. } => {
                Answer::new(Grpc::PermissionDenied, "RPC_FORBIDDEN").with("group", group)
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

/// The status of a request beyond what the gateway serves at once.
pub fn overloaded() -> Status {
    Answer::new(Grpc::ResourceExhausted, "OVERLOADED")
        .retry(RETRY_AFTER)
        .into_status("the gateway serves as many requests as it may")
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
mod tests {
    use super::*;
    use crate::push::{CursorError, StoreId};

    fn known(status: &Status) -> (Grpc, String, String, bool) {
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        (
            status.code(),
            info.reason.clone(),
            info.domain.clone(),
            details.retry_info().is_some(),
        )
    }

    #[test]
    fn every_code_of_the_platform_has_its_status_reason_and_metadata() {
        let table = [
            ("10001", Grpc::Unavailable, "TOKEN_REFUSED", true),
            (
                "10002",
                Grpc::PermissionDenied,
                "TOKEN_NOT_AUTHORIZED",
                false,
            ),
            ("10003", Grpc::FailedPrecondition, "WRONG_APP_ID", false),
            ("10004", Grpc::Unavailable, "PLATFORM_BUSY", true),
            ("10005", Grpc::InvalidArgument, "INVALID_PARAMETER", false),
            ("10020", Grpc::Unavailable, "UNDER_MAINTENANCE", true),
            (
                "10021",
                Grpc::FailedPrecondition,
                "OPERATION_DISABLED",
                false,
            ),
            ("200101", Grpc::FailedPrecondition, "BAD_CREDENTIALS", false),
            ("200200", Grpc::InvalidArgument, "DATA_RELATION", false),
            (
                "200201",
                Grpc::FailedPrecondition,
                "WRONG_BUSINESS_ID",
                false,
            ),
            ("200202", Grpc::NotFound, "TASK_NOT_FOUND", false),
            ("200203", Grpc::InvalidArgument, "BAD_PHONE_NUMBER", false),
            ("200204", Grpc::NotFound, "ROBOT_NOT_FOUND", false),
            ("200205", Grpc::InvalidArgument, "BAD_VOICE", false),
            ("200206", Grpc::InvalidArgument, "BAD_SPEED", false),
            (
                "200209",
                Grpc::FailedPrecondition,
                "INSUFFICIENT_BALANCE",
                false,
            ),
            ("200210", Grpc::InvalidArgument, "BAD_FILE_FORMAT", false),
            ("200211", Grpc::InvalidArgument, "FILE_TOO_LARGE", false),
            ("200212", Grpc::InvalidArgument, "ROW_MISMATCH", false),
            ("200213", Grpc::ResourceExhausted, "TOO_MANY_ROWS", false),
            (
                "200222",
                Grpc::FailedPrecondition,
                "OUTSIDE_WORKING_HOURS",
                false,
            ),
            (
                "3030002",
                Grpc::FailedPrecondition,
                "NUMBER_OCCUPIED",
                false,
            ),
            ("3010101", Grpc::FailedPrecondition, "TASK_COMPLETED", false),
            ("3010102", Grpc::FailedPrecondition, "TASK_DELETED", false),
            ("987654", Grpc::Unknown, "PLATFORM_ERROR", false),
        ];
        assert_eq!(table.len(), Code::KNOWN.len() + 1);
        for (number, grpc, reason, retry) in table {
            let known_code = Code::KNOWN.iter().find(|code| code.as_str() == number);
            let code = known_code.cloned().unwrap_or(Code::Other(number.into()));
            let status = Status::from(PlatformError::Refused {
                code,
                message: "描述".into(),
            });
            assert_eq!(
                known(&status),
                (grpc, reason.into(), "xfyeta.com".into(), retry),
                "{number}"
            );
            let details = status.get_error_details();
            let metadata = &details.error_info().unwrap().metadata;
            assert_eq!(metadata["code"], number);
            assert_eq!(metadata["message"], "描述");
        }
    }

    #[track_caller]
    fn check(error: impl Into<Status>, grpc: Grpc, reason: &str, retry: bool) {
        let status = error.into();
        let expected = (grpc, reason.to_owned(), GATEWAY.to_owned(), retry);
        assert_eq!(known(&status), expected);
        assert!(!status.message().contains("/run/secret"));
    }

    #[test]
    fn every_case_of_the_gateway_has_its_status_and_reason() {
        let (detail, name) = (String::new, || "x".to_owned());
        let retry_after = Duration::from_secs(1);

        let error = PlatformError::Unreachable {
            detail: detail(),
            retry_after,
        };
        check(error, Grpc::Unavailable, "PLATFORM_UNREACHABLE", true);
        let error = PlatformError::Unreadable {
            detail: detail(),
            retry_after,
        };
        check(error, Grpc::Unavailable, "PLATFORM_UNREADABLE", true);
        let error = PlatformError::OutcomeUnknown {
            detail: detail(),
            timed_out: false,
        };
        check(error, Grpc::Unknown, "OUTCOME_UNKNOWN", false);
        let error = PlatformError::OutcomeUnknown {
            detail: detail(),
            timed_out: true,
        };
        check(error, Grpc::DeadlineExceeded, "OUTCOME_UNKNOWN", false);
        let error = PlatformError::DeadlineExceeded;
        check(error, Grpc::DeadlineExceeded, "DEADLINE", false);
        let error = PlatformError::UnknownAccount(name());
        check(error, Grpc::NotFound, "ACCOUNT_NOT_FOUND", false);
        let error = PlatformError::CredentialsUnreadable("/run/secret".to_owned());
        check(
            error,
            Grpc::FailedPrecondition,
            "CREDENTIALS_UNREADABLE",
            false,
        );

        let error = AuthError::Unauthenticated;
        check(error, Grpc::Unauthenticated, "UNAUTHENTICATED", false);
        let error = AuthError::RpcForbidden {
            client: name(),
            group: "voice",
        };
        check(error, Grpc::PermissionDenied, "RPC_FORBIDDEN", false);
        let error = AuthError::AccountNotFound(name());
        check(error, Grpc::NotFound, "ACCOUNT_NOT_FOUND", false);
        let error = AuthError::AccountForbidden {
            client: name(),
            account: name(),
        };
        check(error, Grpc::PermissionDenied, "ACCOUNT_FORBIDDEN", false);

        check(overloaded(), Grpc::ResourceExhausted, "OVERLOADED", true);
        check(
            Violations::default(),
            Grpc::InvalidArgument,
            "INVALID_REQUEST",
            false,
        );
    }

    #[test]
    fn every_case_of_a_reader_has_its_status_and_reason() {
        let cursor = |position| Cursor {
            store: StoreId([7; 8]),
            position,
        };
        let status = |error: RelayError| of_relay(&error, cursor);
        let metadata = |status: &Status, key: &str| {
            let details = status.get_error_details();
            details.error_info().unwrap().metadata[key].clone()
        };

        let expired = status(RelayError::Read(ReadError::Expired {
            earliest: Position(5),
        }));
        assert_eq!(
            metadata(&expired, "earliest_cursor"),
            cursor(Position(5)).to_string()
        );
        check(expired, Grpc::OutOfRange, "CURSOR_EXPIRED", false);
        let damaged = status(RelayError::Read(ReadError::Damaged { lost: 3..5 }));
        assert_eq!(metadata(&damaged, "lost_events"), "2");
        assert_eq!(
            metadata(&damaged, "resume_cursor"),
            cursor(Position(4)).to_string()
        );
        check(damaged, Grpc::DataLoss, "LOG_DAMAGED", false);
        let bad = status(RelayError::BadCursor(CursorError::Foreign));
        check(bad, Grpc::InvalidArgument, "BAD_CURSOR", false);
        let unavailable = status(RelayError::Read(ReadError::Unavailable(String::new())));
        check(unavailable, Grpc::Unavailable, "STORE_UNAVAILABLE", true);
        let closed = status(RelayError::Read(ReadError::Closed));
        check(closed, Grpc::Unavailable, "DRAINING", true);
        let draining = status(RelayError::Draining);
        check(draining, Grpc::Unavailable, "DRAINING", true);
    }

    #[test]
    fn every_case_of_calls_has_its_status_and_reason() {
        let error = CallsError::BadPageToken;
        check(error, Grpc::InvalidArgument, "BAD_PAGE_TOKEN", false);
        let error = CallsError::Unavailable(String::new());
        check(error, Grpc::Unavailable, "STORE_UNAVAILABLE", true);
        check(CallsError::Closed, Grpc::Unavailable, "DRAINING", true);
        check(call_not_found("x"), Grpc::NotFound, "CALL_NOT_FOUND", false);
        check(rows_left(1), Grpc::DeadlineExceeded, "DEADLINE", false);
    }

    #[test]
    fn every_case_of_a_subscription_has_its_status_and_reason() {
        let status = |error: SubscriptionError| {
            of_relay(&error.into(), |position| Cursor {
                store: StoreId([7; 8]),
                position,
            })
        };
        let name = || "results".to_owned();
        for (error, grpc, reason, retry) in [
            (
                SubscriptionError::NotFound(name()),
                Grpc::NotFound,
                "SUBSCRIPTION_NOT_FOUND",
                false,
            ),
            (
                SubscriptionError::AlreadyExists(name()),
                Grpc::AlreadyExists,
                "SUBSCRIPTION_EXISTS",
                false,
            ),
            (
                SubscriptionError::TooMany(9),
                Grpc::ResourceExhausted,
                "TOO_MANY_SUBSCRIPTIONS",
                false,
            ),
            (
                SubscriptionError::Unavailable(String::new()),
                Grpc::Unavailable,
                "STORE_UNAVAILABLE",
                true,
            ),
            (
                SubscriptionError::Closed,
                Grpc::Unavailable,
                "DRAINING",
                true,
            ),
            (
                SubscriptionError::Log(ReadError::Damaged { lost: 3..5 }),
                Grpc::DataLoss,
                "LOG_DAMAGED",
                false,
            ),
        ] {
            check(status(error), grpc, reason, retry);
        }
        let forbidden = RelayError::Forbidden {
            account: "second".into(),
        };
        let forbidden = of_relay(&forbidden, |_| unreachable!("no place is told"));
        check(
            forbidden,
            Grpc::PermissionDenied,
            "ACCOUNT_FORBIDDEN",
            false,
        );
        let reserved = name_reserved("yeta-gateway.calls");
        check(reserved, Grpc::PermissionDenied, "NAME_RESERVED", false);
    }

    #[test]
    fn violations_of_fifty_rows_fit_and_more_are_counted() {
        let told = |count: usize| {
            let mut violations = Violations::default();
            for index in 0..count {
                violations.add(
                    format!("call_list[{index}].values"),
                    "has 2 values, call_column 3",
                );
            }
            let status = Status::from(violations);
            let details = status.get_error_details();
            let told = details.bad_request().unwrap().field_violations.clone();
            assert!(status.details().len() < 5000, "{}", status.details().len());
            told
        };
        assert_eq!(told(50).len(), 50);
        let many = told(5000);
        let last = many.last().unwrap();
        assert_eq!(
            last.description,
            format!("and {} more", 5000 - (many.len() - 1))
        );
    }

    #[test]
    fn a_message_is_shortened_between_characters() {
        assert_eq!(shortened("号码", 4), "号");
        assert_eq!(shortened("号码", 100), "号码");
    }
}
