//! Where requests say that reading starts.

use std::time::SystemTime;

use super::validate::Violations;
use crate::proto::{
    Position, create_subscription_request, list_pushes_request, seek_subscription_request,
    subscribe_pushes_request,
};
use crate::relay::Start;

/// The messages that offer a cursor, a time or an end of the log share no type, and have the same
/// three variants.
macro_rules! start_of {
    ($($request:ident),+) => {$(
        impl From<$request::Start> for Start {
            fn from(asked: $request::Start) -> Self {
                use $request::Start as Asked;
                match asked {
                    Asked::Cursor(cursor) => Self::Cursor(cursor),
                    Asked::Since(time) => Self::Since(system_time(time)),
                    Asked::Position(end) if end == Position::Earliest as i32 => Self::Earliest,
                    Asked::Position(_) => Self::Latest,
                }
            }
        }

        impl Ends for $request::Start {
            fn end(&self) -> Option<i32> {
                match self {
                    Self::Cursor(_) | Self::Since(_) => None,
                    Self::Position(end) => Some(*end),
                }
            }
        }
    )+};
}

/// A start that can be an end of the log.
trait Ends {
    fn end(&self) -> Option<i32>;
}

start_of!(
    subscribe_pushes_request,
    create_subscription_request,
    seek_subscription_request
);

/// The start of a stream or subscription.
pub(super) fn of_stream(start: Option<impl Into<Start>>) -> Start {
    start.map_or(Start::Latest, Into::into)
}

/// The start of a page.
pub(super) fn of_page(start: Option<list_pushes_request::Start>, page_token: String) -> Start {
    use list_pushes_request::Start as Asked;
    match start {
        _ if !page_token.is_empty() => Start::Cursor(page_token),
        Some(Asked::Cursor(cursor)) => Start::Cursor(cursor),
        Some(Asked::Since(time)) => Start::Since(system_time(time)),
        None => Start::Earliest,
    }
}

/// Adds what is wrong with a start.
#[expect(private_bounds, reason = "the three that there are stand here")]
pub(super) fn check(start: Option<&impl Ends>, violations: &mut Violations) {
    if let Some(end) = start.and_then(Ends::end)
        && Position::try_from(end).is_err()
    {
        violations.add("position", format!("{end} is no Position"));
    }
}

/// Adds what is wrong with a place to move to: unlike a start, it has no default, which would pass
/// over everything by mistake.
pub(super) fn check_place(
    start: Option<&seek_subscription_request::Start>,
    violations: &mut Violations,
) {
    check(start, violations);
    let end = start.and_then(Ends::end);
    if start.is_none() || end == Some(Position::Unspecified as i32) {
        violations.add(
            "start",
            "is required: a cursor, a time, or an end of the log",
        );
    }
}

/// A time as the system has it; one that it cannot express is as early as can be.
pub(super) fn system_time(time: prost_types::Timestamp) -> SystemTime {
    SystemTime::try_from(time).unwrap_or(SystemTime::UNIX_EPOCH)
}
