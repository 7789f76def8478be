//! Finds one phone number in bytes, however it is written, and masks it.

use crate::submissions::check::Numbers;

/// One phone number.
pub struct Person {
    /// The digits in each form that the number is dialled in.
    forms: Vec<Vec<u8>>,
}

/// The least number of digits: a shorter number would be found in much that is none.
const LEAST_DIGITS: usize = 7;
/// The most digits that stand before a number: a country's code and what is dialled before it.
const MOST_BEFORE: usize = 5;
/// The most characters between two digits of a number.
const MOST_BETWEEN: usize = 2;

impl Person {
    /// Reads a number; `None`: it has too few digits.
    pub fn new(numbers: Numbers, phone: &str) -> Option<Self> {
        let digits = |text: &str| -> Vec<u8> {
            let digits = text.bytes().filter(u8::is_ascii_digit);
            digits.collect()
        };
        let mut forms = vec![digits(phone)];
        if let Ok(number) = numbers.national(phone) {
            forms.push(digits(&number.national));
            forms.push(digits(&number.international));
        }
        // The longest first, so that a whole number is masked.
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
        let shortest = forms.last().map_or(0, Vec::len);
        (shortest >= LEAST_DIGITS).then_some(Self { forms })
    }

    /// Whether the number stands in these bytes.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        (0..bytes.len()).any(|at| self.at(bytes, at).is_some())
    }

    /// Masks the number wherever it stands in these bytes. Their length stays, so that lengths
    /// that are encoded beside them stay right.
    pub fn mask(&self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let Some(found) = self.at(bytes, at) else {
                at += 1;
                continue;
            };
            let end = match found {
                Found::Text(end) => {
                    let digits = bytes[at..end].iter_mut().filter(|it| it.is_ascii_digit());
                    digits.for_each(|digit| *digit = b'*');
                    end
                }
                Found::Double(end) => {
                    bytes[at..end].fill(0);
                    end
                }
            };
            at = end;
        }
    }

    fn at(&self, bytes: &[u8], at: usize) -> Option<Found> {
        let text = self.forms.iter().find_map(|form| text_at(form, bytes, at));
        let text = text.map(Found::Text);
        text.or_else(|| {
            let doubles = self.forms.iter().filter_map(|form| double(form));
            let mut doubles = doubles.filter(|double| bytes[at..].starts_with(double));
            doubles
                .next()
                .map(|double| Found::Double(at + double.len()))
        })
    }
}

enum Found {
    /// In digits, up to here.
    Text(usize),
    /// As a number of JSON, which protobuf keeps as a double.
    Double(usize),
}

/// The number as protobuf encodes a double.
fn double(form: &[u8]) -> Option<[u8; 8]> {
    let text = std::str::from_utf8(form).ok()?;
    let number: f64 = text.parse().ok()?;
    Some(number.to_le_bytes())
}

/// Where a number ends whose first digit stands at `at`. A longer run of digits is another number,
/// or an id.
fn text_at(form: &[u8], bytes: &[u8], at: usize) -> Option<usize> {
    let first = *form.first()?;
    if bytes.get(at) != Some(&first) {
        return None;
    }
    let before = bytes[..at].iter().rev();
    if before.take_while(|it| it.is_ascii_digit()).count() > MOST_BEFORE {
        return None;
    }
    let mut end = at;
    for (number, digit) in form.iter().enumerate() {
        let rest = bytes.get(end..)?;
        let between = rest.iter().take_while(|it| is_separator(**it)).count();
        let allowed = if number == 0 { 0 } else { MOST_BETWEEN };
        if between > allowed || rest.get(between) != Some(digit) {
            return None;
        }
        end += between + 1;
    }
    let is_longer = bytes.get(end).is_some_and(u8::is_ascii_digit);
    (!is_longer).then_some(end)
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'-' | b'.' | b'(' | b')' | b'/')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn person() -> Person {
        Person::new(Numbers::default(), "+86 138 0013 8000").unwrap()
    }

    fn masked(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        person().mask(&mut bytes);
        assert!(!person().is_in(&bytes), "{text}");
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_number_is_masked_however_it_is_written_and_ids_stay() {
        for (text, expected) in [
            ("13800138000", "***********"),
            ("+8613800138000!", "+*************!"),
            ("call 138-0013-8000 now", "call ***-****-**** now"),
            ("(138) 0013 8000", "(***) **** ****"),
            ("008613800138000", "00*************"),
            (r#"{"callee":13800138000}"#, r#"{"callee":***********}"#),
            ("13800138001", "13800138001"),
            ("138001380001", "138001380001"),
            ("34625213800138000", "34625213800138000"),
            ("", ""),
        ] {
            assert_eq!(masked(text), expected);
        }
        let mut double = 13_800_138_000_f64.to_le_bytes();
        assert!(person().is_in(&double));
        person().mask(&mut double);
        assert!(!person().is_in(&double));
    }

    #[test]
    fn a_short_number_is_refused() {
        assert!(Person::new(Numbers::default(), "10086").is_none());
        assert!(Person::new(Numbers::default(), "").is_none());
    }

    proptest! {
        #[test]
        fn masking_leaves_no_number_and_keeps_the_length(
            before in "[^0-9]{0,9}", after in "[^0-9]{0,9}", separators in "[ -]{0,2}",
        ) {
            let number = format!("138{separators}0013{separators}8000");
            let text = format!("{before}{number}{after}{number}");
            let mut bytes = text.clone().into_bytes();
            prop_assert!(person().is_in(&bytes));
            person().mask(&mut bytes);
            prop_assert!(!person().is_in(&bytes));
            prop_assert_eq!(bytes.len(), text.len());
        }

        #[test]
        fn masking_fails_on_no_bytes(mut bytes: Vec<u8>) {
            person().mask(&mut bytes);
            prop_assert!(!person().is_in(&bytes));
        }
    }
}
