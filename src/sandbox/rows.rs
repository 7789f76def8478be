//! A batch of rows, as callout and insert take them.

use std::sync::Arc;

use super::catalog::Robot;
use super::code::{BAD_NUMBER, BAD_PARAMETER, ROW_MISMATCH, Refusal, TOO_MANY_ROWS};
use super::params::Params;

/// The most rows that one request may bring.
pub(super) const MAX_ROWS: usize = 50;

/// Rows that passed every check.
pub(super) struct Batch {
    pub head: Arc<[String]>,
    pub rows: Vec<Vec<String>>,
}

impl Batch {
    /// Reads `call_column` and `call_list` for a robot. One bad row fails the
    /// whole batch.
    pub fn read(params: &Params, robot: &Robot) -> Result<Self, Refusal> {
        match Self::sift(params, robot)? {
            (batch, None) => Ok(batch),
            (_, Some(refusal)) => Err(refusal),
        }
    }

    /// Reads the same, and returns the good rows and the refusal of the first
    /// bad one.
    pub fn sift(params: &Params, robot: &Robot) -> Result<(Self, Option<Refusal>), Refusal> {
        let head = params.texts("call_column")?;
        let rows = params.grid("call_list")?;
        if rows.is_empty() {
            return Err(BAD_PARAMETER.because("call_list is empty"));
        }
        if rows.len() > MAX_ROWS {
            return Err(TOO_MANY_ROWS.because(format!(
                "call_list has {} rows, over {MAX_ROWS}",
                rows.len()
            )));
        }
        check_columns(&head, robot)?;
        let mut good = Vec::with_capacity(rows.len());
        let mut refusal = None;
        for (index, row) in rows.into_iter().enumerate() {
            match check_row(index, &row, head.len()) {
                Ok(()) => good.push(row),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        let batch = Self {
            head: head.into(),
            rows: good,
        };
        Ok((batch, refusal))
    }
}

fn check_row(index: usize, row: &[String], columns: usize) -> Result<(), Refusal> {
    if row.len() != columns {
        return Err(ROW_MISMATCH.because(format!(
            "row {index} has {} values for {columns} columns",
            row.len(),
        )));
    }
    if row.iter().any(|value| value.contains(char::is_control)) {
        return Err(
            BAD_PARAMETER.because(format!("row {index} has a control character in a value"))
        );
    }
    if !dialable(&row[0]) {
        return Err(BAD_NUMBER.because(format!("row {index} has no dialable mobile number")));
    }
    Ok(())
}

/// The first column is the number's; the others are the robot's, in any order.
fn check_columns(head: &[String], robot: &Robot) -> Result<(), Refusal> {
    if head.first().map(String::as_str) != robot.call_column.first().copied() {
        return Err(ROW_MISMATCH.because("the first column is not the robot's number column"));
    }
    let mut given: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut wanted = robot.call_column.to_vec();
    given.sort_unstable();
    wanted.sort_unstable();
    if given == wanted {
        return Ok(());
    }
    Err(ROW_MISMATCH.because(format!("the columns are not those of robot {}", robot.id)))
}

/// A mobile number of mainland China that is not sensitive. Numbers that end
/// in 9999 play the sensitive ones.
fn dialable(number: &str) -> bool {
    let digits = number.as_bytes();
    digits.len() == 11
        && digits.iter().all(u8::is_ascii_digit)
        && digits[0] == b'1'
        && digits[1] >= b'3'
        && !number.ends_with("9999")
}

#[cfg(test)]
mod tests {
    use super::dialable;

    #[test]
    fn only_mobile_numbers_are_dialable() {
        assert!(dialable("13000000001"));
        assert!(dialable("15556985227"));
        assert!(!dialable("0271111111"), "a landline");
        assert!(!dialable("69102939"), "too short");
        assert!(!dialable("1300000000x"));
        assert!(!dialable(""));
    }
}
