//! Days of the platform's calendar, which is China's.

use std::time::{Duration, SystemTime};

use jiff::civil::{Date, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan};

/// How many days back the platform keeps its files; today has none yet.
pub const DAYS_KEPT: usize = 7;

/// China has one time zone, and no summer time since 1991.
fn china() -> TimeZone {
    TimeZone::fixed(Offset::constant(8))
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The day in China.
pub fn today(now: SystemTime) -> Date {
    timestamp(now).to_zoned(china()).date()
}

/// The time of day in China.
pub fn time_of_day(now: SystemTime) -> Time {
    timestamp(now).to_zoned(china()).time()
}

/// The day in China of a time in milliseconds since 1970.
pub fn of_ms(ms: u64) -> Option<Date> {
    let at = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(at.to_zoned(china()).date())
}

/// The days that the platform has files of, oldest first.
pub fn kept(now: SystemTime) -> Vec<Date> {
    let today = today(now);
    let back = (1..=DAYS_KEPT).rev();
    // Fails at the end of all calendars alone.
    back.filter_map(|days| today.checked_sub(i64::try_from(days).ok()?.days()).ok())
        .collect()
}

/// Reads "yyyy-MM-dd", and nothing that only resembles it.
pub fn parse(text: &str) -> Option<Date> {
    let date: Date = text.parse().ok()?;
    (date.to_string() == text).then_some(date)
}

/// Whether so much time has passed since a day's end that a list of its files has all of them:
/// another day has ended since. When the platform makes them, and what it does with a push that
/// it gives up just after midnight, is not documented.
pub fn is_settled(day: Date, now: SystemTime) -> bool {
    day.checked_add(1.day()).is_ok_and(|next| next < today(now))
}

/// How long it is until a time of day comes in China.
pub fn until(at: Time, now: SystemTime) -> Duration {
    const DAY: Duration = Duration::from_hours(24);
    let since = (time_of_day(now) - at).to_duration(jiff::SpanRelativeTo::days_are_24_hours());
    let since = since.unwrap_or_default();
    match Duration::try_from(since) {
        Ok(since) => DAY.saturating_sub(since),
        // Negative: later today.
        Err(_) => since.unsigned_abs(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    #[test]
    fn days_change_at_midnight_in_china() {
        assert_eq!(today(at("2026-11-21T15:59:59Z")).to_string(), "2026-11-21");
        assert_eq!(today(at("2026-11-21T16:00:00Z")).to_string(), "2026-11-22");
        assert_eq!(of_ms(1_543_935_214_693).unwrap().to_string(), "2018-12-04");
        assert_eq!(of_ms(u64::MAX), None);
    }

    #[test]
    fn seven_days_are_kept_and_today_is_not_among_them() {
        let kept = kept(at("2026-03-03T00:00:00Z"));
        let kept: Vec<_> = kept.iter().map(ToString::to_string).collect();
        assert_eq!(kept.len(), DAYS_KEPT);
        assert_eq!((&*kept[0], &*kept[6]), ("2026-02-24", "2026-03-02"));
    }

    #[test]
    fn only_whole_dates_are_dates() {
        assert!(parse("2026-02-28").is_some());
        for text in [
            "",
            "2026-2-28",
            "2026-02-29",
            "20260228",
            "2026-02-28T00:00",
            " 2026-02-28",
            "+002026-02-28",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_list_is_whole_a_day_later() {
        let day = parse("2026-11-20").unwrap();
        assert!(!is_settled(day, at("2026-11-20T16:00:00Z")));
        assert!(!is_settled(day, at("2026-11-21T15:59:00Z")));
        assert!(is_settled(day, at("2026-11-21T16:00:00Z")));
    }

    #[test]
    fn the_next_run_is_today_or_tomorrow() {
        let six = jiff::civil::time(6, 0, 0, 0);
        for (now, hours) in [
            ("2026-11-20T21:00:00Z", 1), // 05:00 in China
            ("2026-11-20T22:00:00Z", 24),
            ("2026-11-20T23:00:00Z", 23),
        ] {
            assert_eq!(until(six, at(now)), Duration::from_hours(hours), "{now}");
        }
    }
}
