//! The requests that are made here, and what came of them.

use serde_json::json;
use tonic::{Response, Status};
use tonic_types::StatusExt;
use yeta_gateway::proto::submission::Outcome;
use yeta_gateway::proto::{
    CallOutRequest, CallOutResponse, CreateTaskRequest, CreateTaskResponse, GetSubmissionRequest,
    InsertTaskDataRequest, InsertTaskDataResponse, Row, Submission, SubmissionState,
};

use super::stage::{Outbound, Stage};

/// Columns of robot 719.
pub const CALL_COLUMNS: [&str; 2] = ["客户手机号码", "姓名"];
/// Columns of robot 11.
pub const TASK_COLUMNS: [&str; 3] = ["客户手机号码", "列2", "列3"];

pub fn columns<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).into()
}

pub fn call_out(request_id: &str, rows: &[[&str; 2]]) -> CallOutRequest {
    let row = |values: &[&str; 2]| Row {
        values: values.map(str::to_owned).into(),
    };
    CallOutRequest {
        robot_id: "719".into(),
        line_num: "69101338".into(),
        call_column: columns(CALL_COLUMNS),
        call_list: rows.iter().map(row).collect(),
        request_id: request_id.into(),
        ..CallOutRequest::default()
    }
}

/// A task that begins in years.
pub fn create_task(request_id: &str, name: &str) -> CreateTaskRequest {
    CreateTaskRequest {
        task_name: name.into(),
        line_num: "055169101407".into(),
        robot_id: "11".into(),
        time_range: vec!["00:00:00-23:59:59".into()],
        time_begin: 4_000_000_000_000,
        request_id: request_id.into(),
        ..CreateTaskRequest::default()
    }
}

pub fn insert(request_id: &str, task_id: &str, rows: &[[&str; 2]]) -> InsertTaskDataRequest {
    let row = |[number, text]: &[&str; 2]| Row {
        values: vec![(*number).into(), (*text).into(), "t3".into()],
    };
    InsertTaskDataRequest {
        task_id: task_id.into(),
        call_column: columns(TASK_COLUMNS),
        call_list: rows.iter().map(row).collect(),
        request_id: request_id.into(),
    }
}

/// What the sandbox calls a row.
pub fn content(values: &[String]) -> String {
    json!(values).to_string()
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// With the ids of the rows, or of the task.
    Accepted(Vec<String>),
    /// With the platform's code.
    Refused(String),
    Unknown,
    /// Nothing was done, or nobody said: to be asked again.
    Again(String),
}

pub trait Reply {
    fn ids(self) -> Vec<String>;
}

impl Reply for CallOutResponse {
    fn ids(self) -> Vec<String> {
        self.task_data_ids
    }
}

impl Reply for InsertTaskDataResponse {
    fn ids(self) -> Vec<String> {
        self.task_data_ids
    }
}

impl Reply for CreateTaskResponse {
    fn ids(self) -> Vec<String> {
        vec![self.task_id]
    }
}

/// Reads an outcome as the comment at `OutboundService` says that it is to be read.
pub fn told<R: Reply>(outcome: Result<Response<R>, Status>) -> Told {
    let status = match outcome {
        Ok(reply) => return Told::Accepted(reply.into_inner().ids()),
        Err(status) => status,
    };
    let details = status.get_error_details();
    let Some(info) = details.error_info() else {
        return Told::Again(status.to_string());
    };
    let nothing_done = [
        "TOKEN_REFUSED",
        "PLATFORM_UNREACHABLE",
        "PLATFORM_UNREADABLE",
        "DEADLINE",
        "OVERLOADED",
        "DRAINING",
        "STORE_UNAVAILABLE",
    ];
    match (info.reason.as_str(), info.domain.as_str()) {
        ("OUTCOME_UNKNOWN", "yeta-gateway") => Told::Unknown,
        (reason, _) if nothing_done.contains(&reason) => Told::Again(reason.into()),
        (_, "xfyeta.com") => Told::Refused(info.metadata["code"].clone()),
        _ => panic!("{status:?}: {info:?}"),
    }
}

pub fn accepted(ids: &[&str]) -> Told {
    Told::Accepted(ids.iter().map(|&id| id.to_owned()).collect())
}

pub async fn submission(client: &mut Outbound, request_id: &str) -> Result<Submission, Status> {
    let request = GetSubmissionRequest {
        request_id: request_id.into(),
        ..GetSubmissionRequest::default()
    };
    let answer = client.get_submission(request).await?;
    Ok(answer.into_inner())
}

/// What a submission says came of it.
pub fn told_by(submission: &Submission) -> Told {
    let outcome = match submission.outcome.clone() {
        Some(Outcome::CallOutResponse(reply)) => Told::Accepted(reply.ids()),
        Some(Outcome::CreateTaskResponse(reply)) => Told::Accepted(reply.ids()),
        Some(Outcome::InsertTaskDataResponse(reply)) => Told::Accepted(reply.ids()),
        Some(Outcome::Error(error)) => Told::Refused(error.platform_code),
        None => Told::Unknown,
    };
    let state = match outcome {
        Told::Accepted(_) => SubmissionState::Accepted,
        Told::Refused(_) => SubmissionState::Refused,
        _ => SubmissionState::Unknown,
    };
    assert_eq!(submission.state(), state, "{submission:?}");
    assert_eq!(
        submission.settled_at.is_some(),
        outcome != Told::Unknown,
        "{submission:?}"
    );
    assert_eq!(
        submission.unknown_because.is_empty(),
        outcome != Told::Unknown,
        "{submission:?}"
    );
    outcome
}

impl Stage {
    /// A new task that takes rows.
    pub async fn task(&self, name: &str) -> String {
        let made = self.outbound().create_task(create_task("", name)).await;
        made.unwrap().into_inner().task_id
    }

    /// How often the sandbox has received and accepted a row.
    pub async fn row(&self, values: &[&str]) -> (u64, u64) {
        let report = self.sandbox.get("/sandbox/requests").await;
        let content = json!(values).to_string();
        let count = |name: &str| report["rows"][name][&content].as_u64().unwrap_or(0);
        (count("received_by_content"), count("by_content"))
    }
}
