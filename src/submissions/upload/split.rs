//! Whether a batch that the platform has refused is taken apart to find the rows to blame.

use super::BATCH;
use crate::platform::Code;

/// After so many batches in a row of which nothing was accepted for a cause that all rows share,
/// the rest of the upload is refused without asking again.
const GIVE_UP_AFTER: u32 = 3;
/// The most of the platform's words that is kept, in bytes.
const LONGEST_WORDS: usize = 512;

/// Whether a row of a batch may be what the platform's code is about.
pub fn may_be_a_rows_fault(code: &Code) -> bool {
    *code == Code::BadPhoneNumber || may_be_the_uploads_fault(code)
}

/// Whether the refusal of so many rows stays what it is: of a row alone, unless the amount may be to
/// blame. Sent again, a row that was refused could end as unknown.
pub fn is_a_rows_fault(code: &Code, rows: usize) -> bool {
    rows == 1 && may_be_a_rows_fault(code) && *code != Code::TooManyRows
}

/// Whether what all rows of an upload share may be just as well: its columns, its size.
fn may_be_the_uploads_fault(code: &Code) -> bool {
    matches!(
        code,
        Code::RowMismatch | Code::TooManyRows | Code::InvalidParameter
    )
}

/// Whether a refused batch of so many rows is sent again in halves.
pub fn splits(refusal: &Refusal, rows: usize) -> bool {
    rows > 1 && may_be_a_rows_fault(&refusal.code)
}

/// A refusal in the platform's words.
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
        let message = message[..message.floor_char_boundary(LONGEST_WORDS)].to_owned();
        Self { code, message }
    }
}

/// What an upload's batches have shown so far.
#[derive(Debug, Default)]
pub struct Verdict {
    refused_in_a_row: u32,
    last: Option<Refusal>,
}

impl Verdict {
    /// Some rows have been accepted.
    pub fn accepted(&mut self) {
        self.refused_in_a_row = 0;
    }

    /// A batch was refused for a cause that lies in no row of its own.
    pub fn refused_as_a_whole(&mut self, refusal: &Refusal) {
        // These pass, and there are other ways of waiting for that.
        if !matches!(refusal.code, Code::Busy | Code::UnderMaintenance) {
            self.refused_for_all(refusal);
        }
    }

    /// Each row of a batch of so many was refused on its own, the last one so.
    pub fn refused_one_by_one(&mut self, refusal: &Refusal, rows: usize) {
        // A whole batch of bad rows is less likely than columns that do not fit.
        if rows == BATCH && may_be_the_uploads_fault(&refusal.code) {
            self.refused_for_all(refusal);
        }
    }

    fn refused_for_all(&mut self, refusal: &Refusal) {
        self.refused_in_a_row += 1;
        self.last = Some(refusal.clone());
    }

    /// Why nothing more is sent, if that is so.
    pub fn given_up(&self) -> Option<&Refusal> {
        let is_over = self.refused_in_a_row >= GIVE_UP_AFTER;
        self.last.as_ref().filter(|_| is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: Code) -> Refusal {
        Refusal::new(code, "")
    }

    #[test]
    fn only_codes_that_a_row_can_cause_take_a_batch_apart() {
        for code in Code::KNOWN {
            let expected = matches!(code.as_str(), "200203" | "200212" | "200213" | "10005");
            assert_eq!(splits(&refusal(code.clone()), 50), expected, "{code}");
            assert!(!splits(&refusal(code.clone()), 1), "{code}");
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
    fn what_passes_by_itself_and_what_may_be_the_rows_ends_nothing() {
        let mut verdict = Verdict::default();
        for _ in 0..9 {
            verdict.refused_as_a_whole(&refusal(Code::Busy));
            verdict.refused_as_a_whole(&refusal(Code::UnderMaintenance));
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
