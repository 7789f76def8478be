//! How often each row reached the sandbox, and how often it was accepted.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;

use serde_json::{Map, Value, json};

use super::task::Row;

/// Of so many different rows the contents are kept; further ones are in the totals alone.
const MAX_KEPT: usize = 200_000;

/// Counts rows, of any number in 8 bytes each and of the first 200,000 by what is in them.
#[derive(Default)]
pub(super) struct RowCounts {
    received: u64,
    accepted: u64,
    accepted_again: u64,
    numbers: HashMap<String, u64>,
    contents: HashMap<String, Count>,
    hasher: RandomState,
    /// Of the contents of all accepted rows.
    hashes: HashSet<u64>,
}

#[derive(Default)]
struct Count {
    received: u64,
    /// The id of each time that it was accepted.
    ids: Vec<i64>,
}

impl RowCounts {
    /// Counts rows of a request that was read, whatever becomes of it.
    pub fn receive(&mut self, rows: &[Vec<String>]) {
        self.received += rows.len() as u64;
        for values in rows {
            if let Some(count) = self.of(content(values)) {
                count.received += 1;
            }
        }
    }

    /// Counts rows that were accepted: each of them will be dialled.
    pub fn accept(&mut self, rows: &[Row]) {
        self.accepted += rows.len() as u64;
        for row in rows {
            let content = content(&row.values);
            if !self.hashes.insert(self.hasher.hash_one(&content)) {
                self.accepted_again += 1;
            }
            let Some(count) = self.of(content) else {
                continue;
            };
            count.ids.push(row.data_id);
            let number = row.values.first().cloned().unwrap_or_default();
            *self.numbers.entry(number).or_default() += 1;
        }
    }

    /// The count of a row, unless it is one too many to be kept.
    fn of(&mut self, content: String) -> Option<&mut Count> {
        if self.contents.len() >= MAX_KEPT && !self.contents.contains_key(&content) {
            return None;
        }
        Some(self.contents.entry(content).or_default())
    }

    /// The totals, exact for any number of rows.
    pub fn totals(&self) -> Value {
        json!({
            "received": self.received,
            "accepted": self.accepted,
            "accepted_again": self.accepted_again,
        })
    }

    /// The totals, and the rows one by one.
    pub fn report(&self) -> Value {
        let mut accepted = Map::new();
        let mut ids = Map::new();
        let mut received = Map::new();
        for (content, count) in &self.contents {
            received.insert(content.clone(), json!(count.received));
            if !count.ids.is_empty() {
                accepted.insert(content.clone(), json!(count.ids.len()));
                let all: Vec<_> = count.ids.iter().map(i64::to_string).collect();
                ids.insert(content.clone(), json!(all));
            }
        }
        let mut report = self.totals();
        report["by_number"] = json!(self.numbers);
        report["by_content"] = Value::Object(accepted);
        report["received_by_content"] = Value::Object(received);
        report["ids_by_content"] = Value::Object(ids);
        report
    }
}

/// A row's values as a JSON array.
fn content(values: &[String]) -> String {
    json!(values).to_string()
}
