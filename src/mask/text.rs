//! Phone numbers in text: where they are, and what replaces them.

use std::borrow::Cow;

/// The most digits of a phone number, prefixes included (E.164 has 15).
const MAX_DIGITS: usize = 15;
/// The most characters between two digits of one number.
const MAX_GAP: usize = 3;
/// Shorter numbers are replaced as a whole: first and last digits would show nearly all of them.
const MIN_SHOWN: usize = 10;
/// Replaces what must not be seen.
const STARS: &str = "****";

/// Masks a value that is known to be a phone number, whatever it holds.
pub fn number(value: &str) -> String {
    if value.trim().is_empty() || is_masked(value) {
        return value.to_owned();
    }
    if let Some(found) = find(value).first() {
        return found.masked.clone();
    }
    let digits: Vec<char> = value.chars().filter_map(digit).collect();
    let is_digits_only = value
        .chars()
        .all(|c| digit(c).is_some() || is_separator(c) || is_plus(c));
    if is_digits_only && digits.len() <= MAX_DIGITS {
        show_ends(&digits.iter().collect::<String>())
    } else {
        STARS.to_owned()
    }
}

/// Masks every phone number in a text.
pub fn text(value: &str) -> Cow<'_, str> {
    let found = find(value);
    if found.is_empty() {
        return Cow::Borrowed(value);
    }
    let mut masked = String::with_capacity(value.len());
    let mut rest = 0;
    for number in found {
        masked.push_str(&value[rest..number.start]);
        masked.push_str(&number.masked);
        rest = number.end;
    }
    masked.push_str(&value[rest..]);
    Cow::Owned(masked)
}

/// Whether a whole value is a phone number and nothing else.
pub fn is_number(value: &str) -> bool {
    let value = value.trim();
    matches!(find(value).as_slice(), [found] if found.start == 0 && found.end == value.len())
}

/// Whether the platform has masked a value before.
fn is_masked(value: &str) -> bool {
    let digits = value.chars().filter(|&c| digit(c).is_some()).count();
    value.contains(STARS) && digits <= 7
}

/// A phone number within a text.
struct Found {
    start: usize,
    end: usize,
    masked: String,
}

/// Digits that follow each other without a character between them.
struct Run {
    start: usize,
    end: usize,
    digits: String,
    /// Whether a plus sign stands before it.
    has_plus: bool,
    /// Whether the run before can belong to the same number.
    is_joined: bool,
}

/// Finds the phone numbers of a text, in their order. A number is made of whole runs of digits, so
/// that an id with more digits than a number is left alone.
fn find(value: &str) -> Vec<Found> {
    let runs = runs(value);
    let mut found = Vec::new();
    let mut first = 0;
    while first < runs.len() {
        match number_from(&runs[first..]) {
            None => first += 1,
            Some((count, masked)) => {
                let (from, to) = (&runs[first], &runs[first + count - 1]);
                found.push(Found {
                    start: from.start,
                    end: to.end,
                    masked,
                });
                first += count;
            }
        }
    }
    found
}

/// The longest number that begins with the first run: how many runs it has, and its mask.
fn number_from(runs: &[Run]) -> Option<(usize, String)> {
    let head = runs.first()?;
    let mut digits = String::new();
    let mut longest = None;
    for (index, run) in runs.iter().enumerate() {
        let is_part = index == 0 || (run.is_joined && !run.has_plus);
        if !is_part || digits.len() + run.digits.len() > MAX_DIGITS {
            break;
        }
        digits.push_str(&run.digits);
        if let Some(national) = national(&digits, head) {
            longest = Some((index + 1, show_ends(national)));
        }
    }
    longest
}

fn runs(value: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut gap = 0;
    let mut is_gap_open = false;
    let mut plus = None;
    for (at, c) in value.char_indices() {
        let end = at + c.len_utf8();
        if let Some(digit) = digit(c) {
            match runs.last_mut().filter(|run| run.end == at) {
                Some(run) => {
                    run.digits.push(digit);
                    run.end = end;
                }
                None => runs.push(Run {
                    start: plus.unwrap_or(at),
                    end,
                    digits: digit.to_string(),
                    has_plus: plus.is_some(),
                    is_joined: is_gap_open && gap <= MAX_GAP,
                }),
            }
            (gap, is_gap_open, plus) = (0, true, None);
        } else if is_plus(c) {
            plus = Some(at);
        } else {
            is_gap_open &= is_separator(c);
            gap += 1;
            plus = None;
        }
    }
    runs
}

/// The digits to show the ends of, if these are a phone number; `head`: the first run of them.
fn national<'a>(digits: &'a str, head: &Run) -> Option<&'a str> {
    if head.has_plus {
        return match digits.strip_prefix("86") {
            Some(rest) => mobile(rest).or_else(|| (9..=12).contains(&rest.len()).then_some(rest)),
            None => (7..=MAX_DIGITS).contains(&digits.len()).then_some(digits),
        };
    }
    if let Some(foreign) = digits.strip_prefix("00") {
        let rest = foreign.strip_prefix("86");
        return rest
            .and_then(mobile)
            .or_else(|| (9..=13).contains(&foreign.len()).then_some(foreign));
    }
    mobile(digits)
        .or_else(|| digits.strip_prefix("86").and_then(mobile))
        .or_else(|| landline(digits, head))
}

/// A mobile number of China, with or without the zero of a long-distance call before it.
fn mobile(digits: &str) -> Option<&str> {
    let number = digits.strip_prefix('0').unwrap_or(digits);
    let is_mobile = number.len() == 11
        && number.starts_with('1')
        && matches!(number.as_bytes()[1], b'3'..=b'9');
    is_mobile.then_some(number)
}

/// A landline of China with its area code, which is not split.
fn landline<'a>(digits: &'a str, head: &Run) -> Option<&'a str> {
    let is_landline = (10..=12).contains(&digits.len())
        && digits.starts_with('0')
        && matches!(digits.as_bytes()[1], b'1'..=b'9')
        && head.digits.len() >= 3;
    is_landline.then_some(digits)
}

/// First three and last four digits.
fn show_ends(digits: &str) -> String {
    if digits.len() < MIN_SHOWN {
        return STARS.to_owned();
    }
    format!("{}{STARS}{}", &digits[..3], &digits[digits.len() - 4..])
}

/// A digit as ASCII: also full-width ones, and those that speech recognition writes in Chinese.
fn digit(c: char) -> Option<char> {
    Some(match c {
        '0'..='9' => c,
        '０'..='９' => char::from(b'0' + u8::try_from(u32::from(c) - 0xFF10).ok()?),
        '零' | '〇' => '0',
        '一' | '幺' | '壹' => '1',
        '二' | '两' | '贰' => '2',
        '三' | '叁' => '3',
        '四' | '肆' => '4',
        '五' | '伍' => '5',
        '六' | '陆' => '6',
        '七' | '柒' => '7',
        '八' | '捌' => '8',
        '九' | '玖' => '9',
        _ => return None,
    })
}

fn is_plus(c: char) -> bool {
    matches!(c, '+' | '＋')
}

/// Characters that people write, or speech recognition puts, between the digits of a number.
fn is_separator(c: char) -> bool {
    c.is_whitespace()
        || matches!(
            c,
            '-' | '.'
                | '('
                | ')'
                | '/'
                | ','
                | '_'
                | '·'
                | '、'
                | '，'
                | '。'
                | '（'
                | '）'
                | '－'
                | '\u{2010}'..='\u{2015}' | '\u{200B}' | '\u{FEFF}' | '\u{2212}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_a_text_keeps_its_first_three_and_last_four_digits() {
        for (written, masked) in [
            ("13800000000", "138****0000"),
            ("call 13812345678 now", "call 138****5678 now"),
            ("我的号码是13812345678，谢谢", "我的号码是138****5678，谢谢"),
            ("138 1234 5678", "138****5678"),
            ("138-1234-5678", "138****5678"),
            ("1 3 8 1 2 3 4 5 6 7 8", "138****5678"),
            ("138，1234，5678", "138****5678"),
            ("+8613812345678", "138****5678"),
            ("+86 138 1234 5678", "138****5678"),
            ("(+86)13812345678", "(138****5678"),
            ("8613812345678", "138****5678"),
            ("008613812345678", "138****5678"),
            ("013812345678", "138****5678"),
            ("010-12345678", "010****5678"),
            ("(0571) 8765 4321", "(057****4321"),
            ("+86 10 1234 5678", "101****5678"),
            ("+852 9123 4567", "852****4567"),
            ("１３８１２３４５６７８", "138****5678"),
            ("一三八一二三四五六七八", "138****5678"),
            ("幺三八零零零零幺二三四", "138****1234"),
            (
                "sip:13812345678@10.0.0.1:5060",
                "sip:138****5678@10.0.0.1:5060",
            ),
            ("20261128 13812345678", "20261128 138****5678"),
            ("13812345678 13987654321", "138****5678 139****4321"),
            ("13812345678/13987654321", "138****5678/139****4321"),
            ("tel=%2B8613812345678", "tel=%2B138****5678"),
        ] {
            let found = text(written);
            assert_eq!(found.trim_end_matches(')'), masked, "{written}");
        }
    }

    #[test]
    fn what_is_no_number_stays() {
        for written in [
            "",
            "2026-11-28 02:26:48",
            "1764300000000",
            "1764300000",
            "163813800000001234567",
            "0.8333333333",
            "127.0.0.1:50051",
            "550e8400-e29b-41d4-a716-446655440000",
            "12 of 50 rows",
            "10086",
            "12345678901",
            "95588 and 4008",
        ] {
            assert_eq!(text(written), written);
        }
    }

    #[test]
    fn a_field_that_is_a_number_shows_no_more_whatever_it_holds() {
        for (written, masked) in [
            ("", ""),
            ("13812345678", "138****5678"),
            ("+86 138-1234-5678", "138****5678"),
            ("12345678901", "123****8901"),
            ("87654321", "****"),
            ("10086", "****"),
            ("张三", "****"),
            ("sip:agent@example.com", "****"),
            ("sip:13812345678@host", "138****5678"),
            ("138****5678", "138****5678"),
            ("163813800000001234567", "****"),
        ] {
            assert_eq!(number(written), masked, "{written}");
        }
    }

    #[test]
    fn masking_twice_changes_nothing_more() {
        for written in ["13812345678", "010-12345678", "+852 9123 4567", "10086"] {
            let once = number(written);
            assert_eq!(number(&once), once);
            assert_eq!(text(&once), once);
        }
    }

    #[test]
    fn a_value_is_a_number_only_as_a_whole() {
        assert!(is_number("13812345678"));
        assert!(is_number(" +86 138 1234 5678"));
        assert!(!is_number("row-13812345678"));
        assert!(!is_number("1381234567890123"));
    }

    proptest::proptest! {
        #[test]
        fn no_mobile_number_is_left_wherever_it_stands(
            before in "[a-z ：]{0,8}",
            number in "1[3-9][0-9]{9}",
            after in "[a-z 。]{0,8}",
        ) {
            let masked = text(&format!("{before}{number}{after}")).into_owned();
            proptest::prop_assert!(!masked.contains(&number), "{masked}");
        }

        #[test]
        fn any_text_can_be_masked(value in ".{0,200}") {
            let _ = text(&value);
            let _ = super::number(&value);
        }
    }
}
