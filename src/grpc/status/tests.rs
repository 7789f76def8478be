//! A row for each error, as its caller sees it.

use std::time::SystemTime;

use super::*;
use crate::proto::TaskStatus;
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
            occupation: None,
            for_token: false,
            proven: true,
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
        assert!(!metadata.contains_key("proven"), "{number}");
    }
}

#[test]
fn a_code_that_proves_nothing_keeps_its_status_says_so_and_asks_for_no_retry() {
    for (code, grpc, reason) in [
        (Code::Other("504".into()), Grpc::Unknown, "PLATFORM_ERROR"),
        (Code::Busy, Grpc::Unavailable, "PLATFORM_BUSY"),
        (Code::InvalidToken, Grpc::Unavailable, "TOKEN_REFUSED"),
    ] {
        let status = Status::from(PlatformError::Refused {
            code: code.clone(),
            message: "描述".into(),
            occupation: None,
            for_token: false,
            proven: false,
        });
        let expected = (grpc, reason.to_owned(), "xfyeta.com".to_owned(), false);
        assert_eq!(known(&status), expected);
        let details = status.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!(metadata["proven"], "false", "{code}");
        assert_eq!(metadata["code"], code.as_str());
        assert!(status.message().contains("does not prove"), "{status}");
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
    let error = PlatformError::Overloaded { retry_after };
    check(error, Grpc::ResourceExhausted, "OVERLOADED", true);
    let error = PlatformError::HeldBack {
        outage: Outage::Unreachable { detail: detail() },
        since: SystemTime::UNIX_EPOCH,
        retry_after,
    };
    check(error, Grpc::Unavailable, "PLATFORM_UNREACHABLE", true);
    let error = PlatformError::HeldBack {
        outage: Outage::Unreadable { detail: detail() },
        since: SystemTime::UNIX_EPOCH,
        retry_after,
    };
    check(error, Grpc::Unavailable, "PLATFORM_UNREADABLE", true);

    let error = AuthError::Unauthenticated;
    check(error, Grpc::Unauthenticated, "UNAUTHENTICATED", false);
    let error = AuthError::RpcForbidden {
        client: name(),
        right: "voice",
    };
    check(error, Grpc::PermissionDenied, "RPC_FORBIDDEN", false);
    let error = AuthError::AccountNotFound(name());
    check(error, Grpc::NotFound, "ACCOUNT_NOT_FOUND", false);
    let error = AuthError::AccountForbidden {
        client: name(),
        account: name(),
    };
    check(error, Grpc::PermissionDenied, "ACCOUNT_FORBIDDEN", false);

    check(
        overloaded("requests"),
        Grpc::ResourceExhausted,
        "OVERLOADED",
        true,
    );
    check(
        Violations::default(),
        Grpc::InvalidArgument,
        "INVALID_REQUEST",
        false,
    );
}

#[test]
fn a_call_held_back_during_maintenance_looks_like_the_refusal_that_began_it() {
    let outage = Outage::Maintenance {
        message: "接口维护".into(),
    };
    let status = Status::from(PlatformError::HeldBack {
        outage,
        since: SystemTime::UNIX_EPOCH,
        retry_after: Duration::from_secs(7),
    });
    let expected = (
        Grpc::Unavailable,
        "UNDER_MAINTENANCE".into(),
        "xfyeta.com".into(),
        true,
    );
    assert_eq!(known(&status), expected);
    let details = status.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!(
        (&*metadata["code"], &*metadata["message"]),
        ("10020", "接口维护")
    );
    let retry = details.retry_info().unwrap().retry_delay;
    assert_eq!(retry, Some(Duration::from_secs(7)));
    assert!(
        status
            .message()
            .contains("held back since 1970-01-01T00:00:00Z")
    );
}

#[test]
fn the_task_that_occupies_a_line_is_named_as_far_as_it_is_known() {
    let told = |task_name: &str| {
        let occupation = Occupation {
            line_num: "055169101407".into(),
            task_id: "1909".into(),
            task_name: task_name.into(),
            task_status: TaskStatus::Running,
            seen_at: SystemTime::UNIX_EPOCH,
        };
        Status::from(PlatformError::Refused {
            code: Code::NumberOccupied,
            message: "号码被占用".into(),
            occupation: Some(Box::new(occupation)),
            for_token: false,
            proven: true,
        })
    };
    let status = told("回访");
    let details = status.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    for (key, expected) in [
        ("code", "3030002"),
        ("line_num", "055169101407"),
        ("occupied_by_task", "1909"),
        ("task_name", "回访"),
        ("task_status", "running"),
        ("seen_at", "1970-01-01T00:00:00Z"),
    ] {
        assert_eq!(metadata[key], expected, "{key}");
    }
    assert_eq!(
        status.message(),
        "the platform refused with code 3030002: 号码被占用; line 055169101407 serves task 1909"
    );
    let details = told("").get_error_details();
    assert!(
        !details
            .error_info()
            .unwrap()
            .metadata
            .contains_key("task_name")
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
fn every_case_of_a_backfill_has_its_status_and_reason() {
    use crate::backfill::file::FileError;
    let refused = [
        BackfillError::Download(DownloadError::BadAddress("why")),
        BackfillError::Download(DownloadError::Redirected(302)),
        BackfillError::Download(DownloadError::TooLarge(1)),
        BackfillError::File(FileError::NoPushes),
    ];
    for error in refused {
        check(error, Grpc::FailedPrecondition, "BAD_PUSH_FILE", false);
    }
    let detail = || "why".to_owned();
    for error in [DownloadError::Broken(detail()), DownloadError::Io(detail())] {
        let error = BackfillError::Download(error);
        check(error, Grpc::Unavailable, "DOWNLOAD_FAILED", true);
    }
    let error = BackfillError::Download(DownloadError::NotFound(404));
    check(error, Grpc::NotFound, "PUSH_FILE_NOT_FOUND", false);
    let error = BackfillError::Running;
    check(error, Grpc::Aborted, "BACKFILL_RUNNING", true);
    let error = BackfillError::Unavailable(detail());
    check(error, Grpc::Unavailable, "STORE_UNAVAILABLE", true);
    check(BackfillError::Closed, Grpc::Unavailable, "DRAINING", true);
    let error = BackfillError::Platform(PlatformError::DeadlineExceeded);
    check(error, Grpc::DeadlineExceeded, "DEADLINE", false);
    check(no_more_came(), Grpc::DeadlineExceeded, "DEADLINE", false);
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
    // No more than a hundred are gathered.
    let many = told(5000);
    let last = many.last().unwrap();
    assert_eq!(
        last.description,
        format!("and {} more", 100 - (many.len() - 1))
    );
}

#[test]
fn a_message_is_shortened_between_characters() {
    assert_eq!(shortened("号码", 4), "号");
    assert_eq!(shortened("号码", 100), "号码");
}
