//! A client of `SubmitRows`.

use std::collections::HashMap;

use tonic::Status;
use yeta_gateway::proto::submit_rows_request::Message;
use yeta_gateway::proto::submit_rows_response::Message as Answer;
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::upload_row_result::Outcome;
use yeta_gateway::proto::{
    DirectCall, SubmitRowsRequest, UploadHeader, UploadProgress, UploadRow, UploadRowResult,
    UploadRows,
};

use super::requests::{CALL_COLUMNS, TASK_COLUMNS, columns};
use super::stage::Outbound;
use crate::support::within;

/// Rows to a message of the client.
const MESSAGE: usize = 300;

pub fn into_task(upload_id: &str, task_id: &str) -> UploadHeader {
    UploadHeader {
        target: Some(Target::TaskId(task_id.into())),
        call_column: columns(TASK_COLUMNS),
        upload_id: upload_id.into(),
        ..UploadHeader::default()
    }
}

pub fn direct(upload_id: &str) -> UploadHeader {
    let call = DirectCall {
        robot_id: "719".into(),
        line_num: "69101338".into(),
        ..DirectCall::default()
    };
    UploadHeader {
        target: Some(Target::Direct(call)),
        call_column: columns(CALL_COLUMNS),
        upload_id: upload_id.into(),
        ..UploadHeader::default()
    }
}

pub fn row(row_key: &str, values: &[&str]) -> UploadRow {
    UploadRow {
        row_key: row_key.into(),
        values: values.iter().map(|&value| value.to_owned()).collect(),
    }
}

/// A number that the sandbox takes, and another for every `index` up to 50 million.
pub fn number(index: usize) -> String {
    format!(
        "13{}{:04}{:04}",
        index / 50_000_000,
        index / 5000 % 10_000,
        index % 5000 + 200
    )
}

/// A row for a task, all good; different for every `index`.
pub fn good(index: usize) -> UploadRow {
    let name = format!("name {index}");
    row(&format!("key {index}"), &[&number(index), &name, "t3"])
}

pub fn header(header: UploadHeader) -> SubmitRowsRequest {
    SubmitRowsRequest {
        message: Some(Message::Header(header)),
    }
}

pub fn rows(rows: &[UploadRow]) -> SubmitRowsRequest {
    let rows = UploadRows {
        rows: rows.to_vec(),
    };
    SubmitRowsRequest {
        message: Some(Message::Rows(rows)),
    }
}

/// The header and all rows.
pub fn messages(of: UploadHeader, all: &[UploadRow]) -> Vec<SubmitRowsRequest> {
    let mut messages = vec![header(of)];
    messages.extend(all.chunks(MESSAGE).map(rows));
    messages
}

/// What a client of an upload was told.
#[derive(Debug)]
pub struct Told {
    pub results: Vec<UploadRowResult>,
    pub progress: Vec<UploadProgress>,
    /// How the stream ended.
    pub end: Result<(), Status>,
}

/// Submits rows and reads until the stream ends.
pub async fn submit(client: &Outbound, of: UploadHeader, all: &[UploadRow]) -> Told {
    submit_messages(client, messages(of, all)).await
}

pub async fn submit_messages(client: &Outbound, messages: Vec<SubmitRowsRequest>) -> Told {
    let mut told = Told {
        results: Vec::new(),
        progress: Vec::new(),
        end: Ok(()),
    };
    let stream = tokio_stream::iter(messages);
    let mut client = client.clone();
    let answers = within("an answer", client.submit_rows(stream)).await;
    let mut answers = match answers {
        Ok(answers) => answers.into_inner(),
        Err(status) => {
            told.end = Err(status);
            return told;
        }
    };
    loop {
        match within("an answer", answers.message()).await {
            Ok(Some(answer)) => told.take(answer.message.unwrap()),
            Ok(None) => return told,
            Err(status) => {
                told.end = Err(status);
                return told;
            }
        }
    }
}

impl Told {
    pub fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Row(result) => self.results.push(result),
            Answer::Progress(progress) => self.progress.push(progress),
        }
    }

    /// Each row's result, which is one, after an end without an error.
    pub fn by_key(&self) -> HashMap<&str, &UploadRowResult> {
        self.end.clone().unwrap();
        let mut by_key = HashMap::new();
        for result in &self.results {
            let earlier = by_key.insert(result.row_key.as_str(), result);
            assert!(earlier.is_none(), "two results: {result:?}, {earlier:?}");
        }
        by_key
    }

    /// The last progress, which counts everything that was told.
    pub fn totals(&self) -> Totals {
        let last = self.progress.last().expect("progress at the end");
        let told = self.results.iter().fold(Totals::default(), Totals::and);
        let (received, accepted) = (last.received, last.accepted);
        let said = Totals {
            accepted,
            refused: last.refused,
            unknown: last.unknown,
        };
        assert_eq!(said, told, "progress and results");
        assert_eq!(received, told.accepted + told.refused + told.unknown);
        said
    }
}

/// How many rows ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    pub accepted: i64,
    pub refused: i64,
    pub unknown: i64,
}

impl Totals {
    fn and(mut self, result: &UploadRowResult) -> Self {
        match outcome(result) {
            Row::Taken(_) => self.accepted += 1,
            Row::Not(reason, _) if reason == "OUTCOME_UNKNOWN" => self.unknown += 1,
            Row::Not(..) => self.refused += 1,
        }
        self
    }
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// With its id.
    Taken(String),
    /// With the reason and the platform's code.
    Not(String, String),
}

pub fn not(reason: &str, code: &str) -> Row {
    Row::Not(reason.into(), code.into())
}

pub fn outcome(result: &UploadRowResult) -> Row {
    match result.outcome.as_ref().expect("an outcome") {
        Outcome::TaskDataId(id) => {
            assert!(!id.is_empty(), "{result:?}");
            Row::Taken(id.clone())
        }
        Outcome::Error(error) => {
            assert!(!error.message.is_empty(), "{result:?}");
            Row::Not(error.reason.clone(), error.platform_code.clone())
        }
    }
}
