//! What a subscription is, from requests and into answers.

use std::time::{Duration, SystemTime};

use crate::grpc::validate::Violations;
use crate::proto::{RedeliveryBackoff, Subscription, SubscriptionStats};
use crate::push::Cursor;
use crate::relay::Backlog;
use crate::store::subscriptions::{Backoff, Change, Info, Spec};

/// The longest name, in bytes.
const LONGEST_NAME: usize = 128;
/// The bounds of durations.
const SHORTEST_DEADLINE: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);
/// The longest wait of a backoff that names none is so many times the first.
const BACKOFF_SPAN: u32 = 10;

/// The fields that an update can name.
pub(super) const FIELDS: [&str; 5] = [
    "filter",
    "ack_deadline",
    "max_delivery_attempts",
    "backoff",
    "paused",
];

/// Adds what is wrong with a subscription's name.
pub(in crate::grpc) fn check_name(field: &str, name: &str, violations: &mut Violations) {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_good = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(is_inner)
        && name.len() <= LONGEST_NAME;
    if name.is_empty() {
        violations.add(field, "is required");
    } else if !is_good {
        let fault = format!(
            "is not made of letters, digits, '.', '_' and '-', the first a letter or digit, at \
             most {LONGEST_NAME}"
        );
        violations.add(field, fault);
    }
}

/// Adds that a duration, where there is one, is not within `least` to 12 h.
pub(in crate::grpc) fn check_duration(
    field: &str,
    duration: Option<prost_types::Duration>,
    least: Duration,
    violations: &mut Violations,
) {
    let Some(duration) = duration else { return };
    let within = Duration::try_from(duration).is_ok_and(|it| it >= least && it <= LONGEST);
    if !within {
        let least = humantime::format_duration(least);
        violations.add(field, format!("is not within {least} to 12h"));
    }
}

/// A valid request's duration.
pub(in crate::grpc) fn std_duration(duration: prost_types::Duration) -> Duration {
    Duration::try_from(duration).unwrap_or_default()
}

/// Adds what is wrong with a subscription that is to be.
pub(super) fn check(subscription: &Subscription, violations: &mut Violations) {
    check_name("subscription.name", &subscription.name, violations);
    violations.filter("subscription.filter", subscription.filter.as_ref());
    let field = "subscription.ack_deadline";
    check_duration(
        field,
        subscription.ack_deadline,
        SHORTEST_DEADLINE,
        violations,
    );
    let Some(backoff) = &subscription.backoff else {
        return;
    };
    for (field, duration) in [
        ("subscription.backoff.minimum", backoff.minimum),
        ("subscription.backoff.maximum", backoff.maximum),
    ] {
        check_duration(field, duration, Duration::ZERO, violations);
    }
    let Backoff { minimum, maximum } = read_backoff(backoff);
    if maximum < minimum {
        violations.add("subscription.backoff.maximum", "is less than minimum");
    }
}

/// What a request changes: the fields that its mask names, or, without one, those that are set. A
/// field that is named and unset goes back to its default.
pub(super) fn change(subscription: Subscription, mask: &[String]) -> Change {
    let changes = |field: &str, is_set: bool| {
        if mask.is_empty() {
            is_set
        } else {
            mask.iter().any(|path| path == field)
        }
    };
    let Subscription {
        filter,
        ack_deadline,
        max_delivery_attempts,
        backoff,
        paused,
        ..
    } = subscription;
    let default = Spec::default();
    Change {
        filter: changes("filter", filter.is_some()).then(|| filter.unwrap_or_default()),
        ack_deadline: changes("ack_deadline", ack_deadline.is_some())
            .then(|| ack_deadline.map_or(default.ack_deadline, std_duration)),
        max_attempts: changes("max_delivery_attempts", max_delivery_attempts.is_some())
            .then(|| max_delivery_attempts.unwrap_or(default.max_attempts)),
        backoff: changes("backoff", backoff.is_some())
            .then(|| backoff.as_ref().map_or(default.backoff, read_backoff)),
        paused: changes("paused", paused.is_some()).then(|| paused.unwrap_or(default.paused)),
    }
}

fn read_backoff(backoff: &RedeliveryBackoff) -> Backoff {
    let minimum = backoff.minimum.map(std_duration).unwrap_or_default();
    let longest = minimum.saturating_mul(BACKOFF_SPAN).min(LONGEST);
    Backoff {
        minimum,
        maximum: backoff.maximum.map_or(longest, std_duration),
    }
}

/// A subscription as an answer has it.
pub(super) fn answer(info: Info, backlog: Backlog, place: Cursor, now: SystemTime) -> Subscription {
    let ago = |at: SystemTime| proto_duration(now.duration_since(at).unwrap_or_default());
    let Info { name, spec, .. } = info;
    let Backoff { minimum, maximum } = spec.backoff;
    Subscription {
        name,
        filter: Some(spec.filter),
        ack_deadline: Some(proto_duration(spec.ack_deadline)),
        max_delivery_attempts: Some(spec.max_attempts),
        backoff: Some(RedeliveryBackoff {
            minimum: Some(proto_duration(minimum)),
            maximum: Some(proto_duration(maximum)),
        }),
        paused: Some(spec.paused),
        create_time: Some(info.created_at.into()),
        cursor: place.to_string(),
        stats: Some(SubscriptionStats {
            lag_events: number(backlog.events),
            lag: backlog.oldest.map(ago),
            unacked: number(info.unacked),
            oldest_unacked: info.oldest_unacked.map(ago),
            members: info.members.try_into().unwrap_or(i32::MAX),
            dead_letters: number(info.dead_letters),
            redelivered: number(info.redelivered),
            lost_events: number(info.lost),
        }),
    }
}

/// A duration; one that the message cannot express is as long as can be.
fn proto_duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

pub(super) fn number(count: u64) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
