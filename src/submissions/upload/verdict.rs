//! What refusals mean: for a row, for its batch, and for the rest of the upload.

use super::BATCH;
use crate::platform::Code;

/// After this many batches in a row, refused for a cause that all rows share, the rest of the upload
/// is refused without asking.
const GIVE_UP_AFTER: u32 = 3;
/// The bytes of the platform's message that are kept.
const LONGEST_MESSAGE: usize = 512;

/// Whether a row of a batch may be what the platform's code is about.
pub fn may_be_a_rows_fault(code: &Code) -> bool {
    *code == Code::BadPhoneNumber || may_be_the_uploads_fault(code)
}

/// Whether a refused row would be refused again, where it was refused alone. Columns that do not
/// fit are the row's own fault only if another row of its batch was accepted.
pub fn is_rows_fault(code: &Code, is_any_accepted: bool) -> bool {
    match code {
        Code::BadPhoneNumber => true,
        Code::RowMismatch | Code::InvalidParameter => is_any_accepted,
        _ => false,
    }
}

/// Whether a refusal passes by itself, so that the rows can go out again soon.
pub fn passes(code: &Code) -> bool {
    matches!(code, Code::Busy | Code::UnderMaintenance)
}

/// Whether the cause can be what all rows of an upload share: its columns, its size.
fn may_be_the_uploads_fault(code: &Code) -> bool {
    matches!(
        code,
        Code::RowMismatch | Code::TooManyRows | Code::InvalidParameter
    )
}

/// Whether a refused batch of this many rows is to be sent again in halves.
pub fn splits(code: &Code, rows: usize) -> bool {
    rows > 1 && may_be_a_rows_fault(code)
}

/// A refusal by the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its code.
    pub code: Code,
    /// Its message, as far as it is kept.
    pub message: String,
}

impl Refusal {
    /// A refusal with this code and message.
    pub fn new(code: Code, message: &str) -> Self {
        let message = message[..message.floor_char_boundary(LONGEST_MESSAGE)].to_owned();
        Self { code, message }
    }
}

/// What the batches of an upload have shown so far.
#[derive(Debug, Default)]
pub struct Verdict {
    refused_in_a_row: u32,
    last: Option<Refusal>,
}

impl Verdict {
    /// Some rows were accepted.
    pub fn accepted(&mut self) {
        self.refused_in_a_row = 0;
    }

    /// A batch was refused for a cause that lies in no row of its own.
    pub fn refused_as_a_whole(&mut self, refusal: &Refusal) {
        self.refused_in_a_row += 1;
        self.last = Some(refusal.clone());
    }

    /// Each row of a batch of so many was refused on its own, the last one so.
    pub fn refused_one_by_one(&mut self, refusal: &Refusal, rows: usize) {
        // A whole batch of bad rows is less likely than columns that do not fit.
        if rows == BATCH && may_be_the_uploads_fault(&refusal.code) {
            self.refused_as_a_whole(refusal);
        }
    }

    /// Why nothing more is sent, if nothing is.
    pub fn given_up(&self) -> Option<&Refusal> {
        let is_over = self.refused_in_a_row >= GIVE_UP_AFTER;
        self.last.as_ref().filter(|_| is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_all_rows_share_is_never_remembered_as_a_rows_own() {
        for code in Code::KNOWN {
            let expected = match code.as_str() {
                "200203" => [true, true],
                "200212" | "10005" => [false, true],
                _ => [false, false],
            };
            let found = [false, true].map(|accepted| is_rows_fault(code, accepted));
            assert_eq!(found, expected, "{code}");
        }
    }

    fn refusal(code: Code) -> Refusal {
        Refusal::new(code, "")
    }

    #[test]
    fn only_codes_that_a_row_can_cause_take_a_batch_apart() {
        for code in Code::KNOWN {
            let expected = matches!(code.as_str(), "200203" | "200212" | "200213" | "10005");
            assert_eq!(splits(code, 50), expected, "{code}");
            assert!(!splits(code, 1), "{code}");
        }
    }

    #[test]
    fn three_batches_refused_in_a_row_for_a_cause_that_all_rows_share_end_the_asking() {
        let mut verdict = Verdict::default();
        let broke = refusal(Code::InsufficientBalance);
        verdict.refused_as_a_whole(&broke);
        verdict.refused_as_a_whole(&broke);
        verdict.accepted();
        verdict.refused_as_a_whole(&broke);
        verdict.refused_one_by_one(&refusal(Code::RowMismatch), 50);
        assert_eq!(verdict.given_up(), None);
        verdict.refused_as_a_whole(&broke);
        assert_eq!(verdict.given_up(), Some(&broke));
    }

    #[test]
    fn what_can_be_the_rows_fault_ends_nothing() {
        let mut verdict = Verdict::default();
        for _ in 0..9 {
            verdict.refused_one_by_one(&refusal(Code::BadPhoneNumber), 50);
            verdict.refused_one_by_one(&refusal(Code::RowMismatch), 49);
        }
        assert_eq!(verdict.given_up(), None);
    }

    #[test]
    fn long_words_of_the_platform_are_cut() {
        let words = Refusal::new(Code::Busy, &"忙".repeat(500)).message;
        assert_eq!(words.len(), 510);
    }
}
