//! The caller's deadline.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// The most that is taken off a caller's timeout.
const LONGEST_MARGIN: Duration = Duration::from_millis(200);

/// When an answer must be given for the caller to get it in time.
///
/// A little before the caller's own deadline: a tenth of its timeout, 200 ms at
/// most. The layer that receives requests answers a bare `DEADLINE_EXCEEDED` at
/// the deadline, and the caller's own library answers without details; both would
/// hide whether the operation went out.
pub(super) fn of(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = parse(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    Instant::now().checked_add(timeout.saturating_sub((timeout / 10).min(LONGEST_MARGIN)))
}

/// The time that the caller allows.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get("grpc-timeout")?.to_str().ok()?)
}

/// Reads the header's form: up to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_nonsense_is_no_deadline() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("2M", Some(Duration::from_secs(120))),
            ("2S", Some(Duration::from_secs(2))),
            ("999m", Some(Duration::from_millis(999))),
            ("2u", Some(Duration::from_micros(2))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("", None),
            ("S", None),
            ("2", None),
            ("2é", None),
            ("+2S", None),
            ("123456789S", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
