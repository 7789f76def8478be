//! Rows that were sent and are not answered.

use std::collections::{HashMap, VecDeque};

use yeta_gateway::proto::UploadRowResult;
use yeta_gateway::proto::upload_row_result::Outcome;

use super::source::Line;

/// The lines under their row keys, the earliest of each first.
#[derive(Default)]
pub struct Flight(HashMap<String, VecDeque<Line>>);

impl Flight {
    /// Notes a line that is sent.
    pub fn add(&mut self, row_key: &str, line: Line) {
        self.0
            .entry(row_key.to_owned())
            .or_default()
            .push_back(line);
    }

    /// The line that a result is of. Of several lines with one key the gateway has the first for
    /// the original, so whatever calls a line a duplicate means a later one.
    pub fn take(&mut self, result: &UploadRowResult) -> Option<Line> {
        let lines = self.0.get_mut(&result.row_key)?;
        let is_later = lines.len() > 1 && is_of_duplicate(result);
        let line = lines.remove(usize::from(is_later));
        if lines.is_empty() {
            self.0.remove(&result.row_key);
        }
        line
    }

    /// How many there are.
    pub fn rows(&self) -> usize {
        self.0.values().map(VecDeque::len).sum()
    }
}

fn is_of_duplicate(result: &UploadRowResult) -> bool {
    let refused = match &result.outcome {
        Some(Outcome::Error(error)) => Some(&error.reason),
        _ => None,
    };
    let mut reasons = refused
        .into_iter()
        .chain(result.warnings.iter().map(|it| &it.reason));
    reasons.any(|reason| reason == "DUPLICATE_ROW_KEY")
}

#[cfg(test)]
mod tests {
    use yeta_gateway::proto::UploadRowError;

    use super::*;

    fn line(number: u64) -> Line {
        Line {
            number,
            values: Vec::new(),
            fault: None,
        }
    }

    fn result(reason: Option<&str>) -> UploadRowResult {
        let outcome = match reason {
            None => Outcome::TaskDataId("1".into()),
            Some(reason) => Outcome::Error(UploadRowError {
                reason: reason.into(),
                ..UploadRowError::default()
            }),
        };
        UploadRowResult {
            row_key: "key".into(),
            outcome: Some(outcome),
            ..UploadRowResult::default()
        }
    }

    #[test]
    fn a_duplicate_refused_before_the_first_is_answered_is_the_later_line() {
        let mut flight = Flight::default();
        flight.add("key", line(2));
        flight.add("key", line(3));
        let duplicate = result(Some("DUPLICATE_ROW_KEY"));
        assert_eq!(flight.take(&duplicate), Some(line(3)));
        assert_eq!(flight.take(&result(None)), Some(line(2)));
        assert_eq!(flight.take(&result(None)), None);
        assert_eq!(flight.rows(), 0);
    }
}
