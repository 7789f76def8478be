//! What reached the sandbox: the proof of what a client really sent.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::{Value, json};

use super::clock::now_ms;
use super::operation::Operation;
use super::row_counts::RowCounts;

const MAX_LAST: usize = 200;

#[derive(Default)]
pub(super) struct Received {
    operations: BTreeMap<&'static str, Counts>,
    pub rows: RowCounts,
    last: VecDeque<Line>,
}

/// Counts of one operation. `cut` requests were never read.
#[derive(Clone, Copy, Default, Serialize)]
struct Counts {
    received: u64,
    applied: u64,
    refused: u64,
    cut: u64,
}

/// One request, without its body.
#[derive(Clone, Serialize)]
pub(super) struct Line {
    pub time: i64,
    pub operation: &'static str,
    pub applied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<super::faults::Kind>,
}

impl Received {
    /// Notes a request that was cut before it was read.
    pub fn cut(&mut self, operation: Operation, fault: super::faults::Kind) {
        let counts = self.operations.entry(operation.name()).or_default();
        counts.received += 1;
        counts.cut += 1;
        self.note(Line {
            time: now_ms(),
            operation: operation.name(),
            applied: false,
            code: None,
            reason: None,
            fault: Some(fault),
        });
    }

    /// Notes a request that was read, and what became of it.
    pub fn read(&mut self, line: Line) {
        let counts = self.operations.entry(line.operation).or_default();
        counts.received += 1;
        if line.applied {
            counts.applied += 1;
        } else {
            counts.refused += 1;
        }
        self.note(line);
    }

    fn note(&mut self, line: Line) {
        if self.last.len() >= MAX_LAST {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub fn report(&self) -> Value {
        json!({
            "operations": self.operations,
            "rows": self.rows.report(),
            "last": self.last,
        })
    }
}
