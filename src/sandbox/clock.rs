//! Wall-clock milliseconds, and the platform's daily time ranges.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::{Offset, TimeZone};

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The platform keeps Beijing time.
fn beijing() -> TimeZone {
    TimeZone::fixed(Offset::constant(8))
}

/// `yyyy/MM/dd` in Beijing, as recordings are filed.
pub(super) fn date_path(ms: i64) -> String {
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    at.to_zoned(beijing()).strftime("%Y/%m/%d").to_string()
}

/// `yyyy-MM-dd` in Beijing.
pub(super) fn day(ms: i64) -> String {
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    at.to_zoned(beijing()).date().to_string()
}

/// Reads `HH:MM:SS-HH:MM:SS`.
pub(super) fn time_range(text: &str) -> Option<(Time, Time)> {
    let (from, to) = text.split_once('-')?;
    let time = |text: &str| Time::strptime("%H:%M:%S", text).ok();
    Some((time(from)?, time(to)?)).filter(|(from, to)| from < to)
}

/// Whether the moment lies in one of the ranges. No ranges: always.
pub(super) fn within<S: AsRef<str>>(ranges: &[S], ms: i64) -> bool {
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let now = at.to_zoned(beijing()).time();
    ranges.is_empty()
        || ranges
            .iter()
            .filter_map(|range| time_range(range.as_ref()))
            .any(|(from, to)| from <= now && now <= to)
}

#[cfg(test)]
mod tests {
    use super::{date_path, time_range, within};

    #[test]
    fn time_ranges_are_kept_in_beijing() {
        let noon_utc = 1_527_336_000_000; // 2018-05-26 20:00 in Beijing
        assert_eq!(date_path(noon_utc), "2018/05/26");
        assert!(within(&["19:00:00-20:00:00"], noon_utc));
        assert!(!within(
            &["09:00:00-12:00:00", "13:00:00-17:59:59"],
            noon_utc
        ));
        assert!(within::<&str>(&[], noon_utc));
        assert!(time_range("12:00:00-09:00:00").is_none());
        assert!(time_range("9-12").is_none());
    }
}
