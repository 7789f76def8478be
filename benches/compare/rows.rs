//! Rows for a task of the sandbox, and the two ways in which a client submits them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use bytes::Bytes;
use prost::Message;
use tonic::Streaming;
use tonic::transport::Endpoint;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::submit_rows_request::Message as Said;
use yeta_gateway::proto::submit_rows_response::Message as Answer;
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::upload_row_result::Outcome;
use yeta_gateway::proto::{
    CallOutRequest, CreateTaskRequest, CreateTaskResponse, InsertTaskDataRequest, Row,
    SubmitRowsRequest, SubmitRowsResponse, UploadHeader, UploadRow, UploadRows,
};

use crate::rpc::Connection;

/// The most rows that the platform takes at once.
pub const BATCH: u64 = 50;

const CREATE_TASK: &str = "/yeta.v1.OutboundService/CreateTask";
const INSERT: &str = "/yeta.v1.OutboundService/InsertTaskData";

/// Numbers of rows that no run of this process has used.
static NEXT: AtomicU64 = AtomicU64::new(0);

fn columns() -> Vec<String> {
    ["客户手机号码", "列2", "列3"].map(str::to_owned).into()
}

/// A row like no other of this process, which the sandbox takes.
fn values(number: u64) -> Vec<String> {
    let phone = format!("13{:05}{:04}", number / 9000 % 100_000, number % 9000);
    vec![phone, format!("name {number}"), "value".to_owned()]
}

fn row(number: u64) -> Row {
    Row {
        values: values(number),
    }
}

/// Makes a task that takes rows.
pub async fn create_task(at: SocketAddr) -> anyhow::Result<String> {
    let request = CreateTaskRequest {
        task_name: "bench".into(),
        line_num: "055169101407".into(),
        robot_id: "11".into(),
        time_range: vec!["00:00:00-23:59:59".into()],
        time_begin: 4_000_000_000_000,
        ..CreateTaskRequest::default()
    };
    let mut connection = Connection::open(at).await?;
    let request = request.encode_to_vec().into();
    let reply = connection.call(CREATE_TASK, request).await?;
    Ok(CreateTaskResponse::decode(reply)?.task_id)
}

/// Gives the next 50 rows to a task, by `InsertTaskData`.
pub async fn insert(connection: &mut Connection, task: &str) -> anyhow::Result<()> {
    let first = NEXT.fetch_add(BATCH, Ordering::Relaxed);
    let request = InsertTaskDataRequest {
        task_id: task.to_owned(),
        call_column: columns(),
        call_list: (first..first + BATCH).map(row).collect(),
        request_id: String::new(),
    };
    let request: Bytes = request.encode_to_vec().into();
    connection.call(INSERT, request).await?;
    Ok(())
}

/// The next 50 rows, to be called at once.
pub fn direct() -> CallOutRequest {
    let first = NEXT.fetch_add(BATCH, Ordering::Relaxed);
    CallOutRequest {
        robot_id: "11".into(),
        line_num: "69101338".into(),
        call_column: columns(),
        call_list: (first..first + BATCH).map(row).collect(),
        ..CallOutRequest::default()
    }
}

/// Begins an upload of the next rows into a task: so many messages of so many rows, or as many as
/// `more` wants.
pub async fn upload(
    at: SocketAddr,
    task: &str,
    rows: u64,
    mut more: impl FnMut() -> bool + Send + 'static,
) -> anyhow::Result<Results> {
    let header = UploadHeader {
        target: Some(Target::TaskId(task.to_owned())),
        call_column: columns(),
        ..UploadHeader::default()
    };
    let header = SubmitRowsRequest {
        message: Some(Said::Header(header)),
    };
    let messages = std::iter::from_fn(move || {
        more().then(|| {
            let first = NEXT.fetch_add(rows, Ordering::Relaxed);
            let row = |number: u64| UploadRow {
                row_key: number.to_string(),
                values: values(number),
            };
            let rows = UploadRows {
                rows: (first..first + rows).map(row).collect(),
            };
            SubmitRowsRequest {
                message: Some(Said::Rows(rows)),
            }
        })
    });
    let messages = tokio_stream::iter(std::iter::once(header).chain(messages));
    let endpoint = Endpoint::from_shared(format!("http://{at}"))?;
    let mut client = OutboundServiceClient::new(endpoint.connect().await?);
    let answers = client.submit_rows(messages).await?.into_inner();
    Ok(Results { answers })
}

/// What comes back of an upload.
pub struct Results {
    answers: Streaming<SubmitRowsResponse>,
}

impl Results {
    /// The next row that was taken, which each must be; nothing at the end.
    pub async fn next(&mut self) -> anyhow::Result<Option<()>> {
        while let Some(answer) = self.answers.message().await? {
            match answer.message.context("an empty message")? {
                Answer::Progress(_) => {}
                Answer::Row(row) => match row.outcome {
                    Some(Outcome::TaskDataId(_)) => return Ok(Some(())),
                    other => bail!("not taken: {other:?}"),
                },
            }
        }
        Ok(None)
    }

    /// How many rows were taken until the end.
    pub async fn count(mut self) -> anyhow::Result<u64> {
        let mut count = 0;
        while self.next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}
