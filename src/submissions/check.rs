//! Checks rows before anything is sent.
//!
//! The number of a row goes to the platform in the form that was checked: the plain national one.

use rlibphonenumber::enums::Region;
use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumberFormat};

use crate::proto::UploadRow;

/// The longest `row_key`, in bytes.
const MAX_KEY: usize = 256;
/// The maximum sizes of a value, and of all values of a row.
const MAX_VALUE: usize = 4 << 10;
const MAX_ROW: usize = 64 << 10;
/// More digits than any number has, with whatever is dialled before it.
const MAX_DIGITS: usize = 24;

/// Reads phone numbers as they are dialled from one region.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    region: Region,
}

/// A phone number that can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    /// As dialled from abroad (E.164).
    pub international: String,
    /// As dialled within its country, digits alone.
    pub national: String,
    /// The code of its country.
    country: i32,
}

/// Why a text is no phone number that can be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberFault {
    /// There is nothing.
    #[error("there is no phone number")]
    Missing,
    /// No phone has such a number.
    #[error("it is no phone number that can be called")]
    Implausible,
    /// It has a character that no number has. Remove it.
    #[error("it has {0:?} (U+{code:04X}), which no phone number has", code = u32::from(*.0))]
    Character(char),
    /// It is a number of another country than the one that is called.
    #[error("it is a number of country +{0}; only numbers of the gateway's region can be called")]
    Foreign(i32),
}

impl Default for Numbers {
    /// Numbers as they are dialled in China.
    fn default() -> Self {
        Self { region: Region::CN }
    }
}

impl Numbers {
    /// Reads numbers as in the region of this code (ISO 3166-1, two capital letters, such as
    /// "CN"); `None`: there are no phone numbers in such a region.
    pub fn new(region: &str) -> Option<Self> {
        let mut regions = PHONE_NUMBER_UTIL.get_supported_regions();
        regions
            .find(|known| known.as_region_str().as_str() == region)
            .map(|region| Self { region })
    }

    /// The number in one form however it was written (E.164, such as "+8613800138000"), or why
    /// it is none.
    pub fn read(&self, text: &str) -> Result<String, NumberFault> {
        Ok(self.parse(text)?.international)
    }

    /// The form in which rows with the same number are found: that of [`read`](Self::read), or of
    /// what is none, its digits. `None`: there are no digits.
    pub fn key(&self, text: &str) -> Option<String> {
        self.read(text).ok().or_else(|| {
            let digits: String = text.chars().filter_map(digit).collect();
            (!digits.is_empty()).then_some(digits)
        })
    }

    /// The number in the form in which it is sent: digits alone, as dialled within the region.
    pub fn national(&self, text: &str) -> Result<Number, NumberFault> {
        let number = self.parse(text)?;
        let own = PHONE_NUMBER_UTIL.get_country_code_for_region(self.region);
        if own != Some(number.country) {
            return Err(NumberFault::Foreign(number.country));
        }
        Ok(number)
    }

    fn parse(self, text: &str) -> Result<Number, NumberFault> {
        let dialled = dialled(text)?;
        if let Some(mobile) = self.chinese_mobile(&dialled) {
            return Ok(Number {
                international: format!("+86{mobile}"),
                national: mobile.to_owned(),
                country: 86,
            });
        }
        let number = PHONE_NUMBER_UTIL.parse(&dialled, Some(self.region)).ok();
        let number = number.filter(rlibphonenumber::PhoneNumber::is_valid);
        let number = number.ok_or(NumberFault::Implausible)?;
        let national = number.format_as(PhoneNumberFormat::National);
        Ok(Number {
            international: number.format_as(PhoneNumberFormat::E164).into_owned(),
            national: national.chars().filter_map(digit).collect(),
            country: number.country_code,
        })
    }

    /// The eleven digits of a Chinese mobile number. Ranges of them open faster than the
    /// library's tables learn of it, so that their form alone must do.
    fn chinese_mobile(self, dialled: &str) -> Option<&str> {
        if self.region != Region::CN {
            return None;
        }
        ["", "0", "86", "+86", "0086"]
            .iter()
            .filter_map(|prefix| dialled.strip_prefix(prefix))
            .find(|rest| matches!(rest.as_bytes(), [b'1', b'3'..=b'9', ..] if rest.len() == 11))
    }
}

/// What is dialled for a text: its digits, and a plus sign before them if there is one. What may
/// stand between digits goes; anything else means that the text is no number.
fn dialled(text: &str) -> Result<String, NumberFault> {
    let mut dialled = String::with_capacity(text.len());
    for char in text.chars() {
        if let Some(digit) = digit(char) {
            dialled.push(digit);
            continue;
        }
        match char {
            '+' | '＋' if dialled.is_empty() => dialled.push('+'),
            _ if is_separator(char) => {}
            _ => return Err(NumberFault::Character(char)),
        }
    }
    match dialled.len() {
        0 => Err(NumberFault::Missing),
        1..=MAX_DIGITS => Ok(dialled),
        _ => Err(NumberFault::Implausible),
    }
}

/// The digit that a character is, also one as wide as a Chinese character.
pub(super) fn digit(char: char) -> Option<char> {
    match char {
        '0'..='9' => Some(char),
        '０'..='９' => char::from_u32(u32::from(char) - u32::from('０') + u32::from('0')),
        _ => None,
    }
}

/// Whether a character may stand in a number without meaning anything: spaces, dashes and
/// brackets, and what can't be seen but comes along from spreadsheets and chats.
fn is_separator(char: char) -> bool {
    matches!(
        char,
        '-' | '.' | '/' | '(' | ')' | '（' | '）' | '－' | '．' | '／' | '−' | 'ー'
            | '\u{2010}'..='\u{2015}'
            | '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{2069}' | '\u{FEFF}'
    ) || char.is_whitespace()
}

/// A row that can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its number in one form.
    pub number: String,
    /// Whether its number had to be written in another form.
    pub is_rewritten: bool,
}

/// What is wrong with a row by itself, before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// It has no `row_key`.
    #[error("row_key is missing")]
    KeyMissing,
    /// Its `row_key` is too long.
    #[error("row_key is longer than {MAX_KEY} bytes")]
    KeyTooLong,
    /// It has not one value for each column.
    #[error("the row has {values} values, but there are {columns} columns")]
    Mismatch {
        /// How many values it has.
        values: usize,
        /// How many columns there are.
        columns: usize,
    },
    /// Its values are too long.
    #[error("the row has more than {MAX_ROW} bytes, or a value of more than {MAX_VALUE} bytes")]
    TooLarge,
    /// Its first value, the phone number, is empty.
    #[error("the first value, the phone number, is empty")]
    NumberMissing,
    /// Its first value is no phone number.
    #[error("the first value cannot be called: {0}")]
    ImplausibleNumber(NumberFault),
}

impl RowFault {
    /// The reason as in `UploadRowError`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::KeyMissing => "ROW_KEY_MISSING",
            Self::KeyTooLong => "ROW_KEY_TOO_LONG",
            Self::Mismatch { .. } => "ROW_MISMATCH",
            Self::TooLarge => "ROW_TOO_LARGE",
            Self::NumberMissing => "PHONE_NUMBER_MISSING",
            Self::ImplausibleNumber(_) => "IMPLAUSIBLE_PHONE_NUMBER",
        }
    }
}

impl From<NumberFault> for RowFault {
    fn from(fault: NumberFault) -> Self {
        match fault {
            NumberFault::Missing => Self::NumberMissing,
            fault => Self::ImplausibleNumber(fault),
        }
    }
}

/// Checks a row for `columns` columns, and puts its number into the form in which it is sent.
pub fn check(row: &mut UploadRow, columns: usize, numbers: &Numbers) -> Result<Checked, RowFault> {
    if row.row_key.is_empty() {
        return Err(RowFault::KeyMissing);
    }
    if row.row_key.len() > MAX_KEY {
        return Err(RowFault::KeyTooLong);
    }
    if row.values.len() != columns {
        return Err(RowFault::Mismatch {
            values: row.values.len(),
            columns,
        });
    }
    let sizes = || row.values.iter().map(String::len);
    if sizes().any(|size| size > MAX_VALUE) || sizes().sum::<usize>() > MAX_ROW {
        return Err(RowFault::TooLarge);
    }
    let first = row.values.first_mut().ok_or(RowFault::NumberMissing)?;
    let number = numbers.national(first)?;
    let is_rewritten = *first != number.national;
    *first = number.national;
    Ok(Checked {
        number: number.international,
        is_rewritten,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn china() -> Numbers {
        Numbers::new("CN").unwrap()
    }

    #[test]
    fn numbers_that_can_be_called_have_one_form() {
        let table = [
            ("13800138000", "+8613800138000"),
            ("19912345678", "+8619912345678"),
            // A range that the library does not know.
            ("16012345678", "+8616012345678"),
            ("+86 138-0013-8000", "+8613800138000"),
            ("0086 138 0013 8000", "+8613800138000"),
            ("86-13800138000", "+8613800138000"),
            ("8616012345678", "+8616012345678"),
            ("013800138000", "+8613800138000"),
            ("１３８００１３８０００", "+8613800138000"),
            ("＋８６（138）0013．8000", "+8613800138000"),
            // As copied out of an address book.
            (
                "\u{202d}138\u{a0}0013\u{200b}8000\u{202c}\t",
                "+8613800138000",
            ),
            // Landlines and numbers of companies.
            ("010-62345678", "+861062345678"),
            ("(0755) 2345 6789", "+8675523456789"),
            ("+86 21 6234 5678", "+862162345678"),
            ("4008001234", "+864008001234"),
            // Abroad.
            ("+1 650 253 0000", "+16502530000"),
            ("00 1 650 253 0000", "+16502530000"),
        ];
        for (text, number) in table {
            assert_eq!(china().read(text).as_deref(), Ok(number), "{text:?}");
        }
    }

    #[test]
    fn what_nobody_can_be_called_by_is_refused() {
        for text in ["", " ", "--", "\u{feff}"] {
            assert_eq!(china().read(text), Err(NumberFault::Missing), "{text:?}");
        }
        let implausible = [
            "12345",
            "1380013800",
            "138001380001",
            "12800138000",
            "00138001380000",
            "86138001380001",
            "+",
            "+86",
            "++8613800138000",
            "138+00138000",
            "phone",
            "电话号码",
            "138OO138OOO",
            "A13800138000",
            "1.38E+10",
            "13800138000.0",
            "62345678",
            "13800138000/13900139000",
            "021-62345678 ext. 12",
            "tel:+8613800138000",
            "0",
            "00000000000",
            "999999999999999999999999999999",
        ];
        for text in implausible {
            let fault = china().read(text).unwrap_err();
            assert_ne!(fault, NumberFault::Missing, "{text:?}");
        }
        for (text, char) in [("138OO138OOO", 'O'), ("138+00138000", '+'), ("电话", '电')] {
            let fault = china().read(text);
            assert_eq!(fault, Err(NumberFault::Character(char)), "{text:?}");
        }
    }

    #[test]
    fn a_number_is_sent_as_it_is_dialled_within_the_country() {
        for (text, national) in [
            ("+86 138-0013-8000", "13800138000"),
            ("\u{202d}138\u{a0}0013\u{200b}8000\u{202c}", "13800138000"),
            ("013800138000", "13800138000"),
            ("+86 10 6234 5678", "01062345678"),
            ("400-800-1234", "4008001234"),
        ] {
            let number = china().national(text).unwrap();
            assert_eq!(number.national, national, "{text:?}");
        }
        let abroad = china().national("+1 650 253 0000");
        assert_eq!(abroad, Err(NumberFault::Foreign(1)));
    }

    #[test]
    fn what_is_no_number_is_found_by_its_digits() {
        assert_eq!(china().key("+86 138 0013 8000"), china().key("13800138000"));
        assert_ne!(china().key("+1 650 253 0000"), china().key("16502530000"));
        assert_eq!(china().key("line 7"), Some("7".to_owned()));
        assert_eq!(china().key("nobody"), None);
    }

    #[test]
    fn a_region_is_known_by_its_code() {
        let hong_kong = Numbers::new("HK").unwrap();
        assert_eq!(hong_kong.read("2123 4567").as_deref(), Ok("+85221234567"));
        let mobile = "+86 138 0013 8000";
        assert_eq!(hong_kong.read(mobile).as_deref(), Ok("+8613800138000"));
        let as_in_china = hong_kong.read("13800138000");
        assert_eq!(as_in_china, Err(NumberFault::Implausible));
        for unknown in ["", "cn", "XX", "China", "001"] {
            assert!(Numbers::new(unknown).is_none(), "{unknown:?}");
        }
    }

    fn row(key: &str, values: &[&str]) -> UploadRow {
        UploadRow {
            row_key: key.to_owned(),
            values: values.iter().map(|&value| value.to_owned()).collect(),
        }
    }

    #[test]
    fn a_row_is_refused_for_its_first_fault() {
        let long = "k".repeat(MAX_KEY + 1);
        let table = [
            (row("", &["13800138000", "Li"]), "ROW_KEY_MISSING"),
            (row(&long, &["13800138000", "Li"]), "ROW_KEY_TOO_LONG"),
            (row("a", &["13800138000"]), "ROW_MISMATCH"),
            (row("a", &[]), "ROW_MISMATCH"),
            (row("a", &["13800138000", "Li", ""]), "ROW_MISMATCH"),
            (row("a", &["", "Li"]), "PHONE_NUMBER_MISSING"),
            (row("a", &["Li", "13800138000"]), "IMPLAUSIBLE_PHONE_NUMBER"),
        ];
        for (row, reason) in table {
            let fault = check(&mut row.clone(), 2, &china()).unwrap_err();
            assert_eq!(fault.reason(), reason);
            assert!(!fault.to_string().contains("Li"), "{fault}");
        }
        let mut good = row(&long[1..], &["138 0013 8000", ""]);
        let checked = check(&mut good, 2, &china()).unwrap();
        assert_eq!(checked.number, "+8613800138000");
        assert!(checked.is_rewritten);
        assert_eq!(good.values, ["13800138000", ""]);
        assert!(!check(&mut good, 2, &china()).unwrap().is_rewritten);
    }

    proptest! {
        #[test]
        fn reading_any_text_gives_a_number_or_a_fault(text in ".{0,40}") {
            if let Ok(number) = china().read(&text) {
                prop_assert!(number.len() > 4 && number.starts_with('+'));
                prop_assert!(number[1..].bytes().all(|byte| byte.is_ascii_digit()));
            }
        }

        #[test]
        fn reading_digits_twice_changes_nothing(text in r"\+?[0-9]{1,16}") {
            if let Ok(number) = china().read(&text) {
                prop_assert_eq!(china().read(&number), Ok(number));
            }
        }

        #[test]
        fn a_mobile_number_has_one_form_however_it_is_written(
            number in "1[3-9][0-9]{9}",
            prefix in "|0|86|\\+86|0086|＋86",
            between in prop::collection::vec("[ -]{0,2}|\u{a0}|（|）|\u{200b}", 12),
            wide in prop::collection::vec(any::<bool>(), 11),
        ) {
            let mut text = format!("{}{prefix}", between[11]);
            for (at, digit) in number.chars().enumerate() {
                text.push_str(&between[at]);
                let offset = if wide[at] { 0xFEE0 } else { 0 };
                text.extend(char::from_u32(u32::from(digit) + offset));
            }
            prop_assert_eq!(china().read(&text), Ok(format!("+86{number}")));
        }
    }
}
