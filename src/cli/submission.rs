//! `yeta-gateway submission`: what is known of requests made with a request id.

use clap::{Args, Subcommand, ValueEnum};
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::submission::{Outcome, Request};
use yeta_gateway::proto::{
    GetSubmissionRequest, ListSubmissionsRequest, Row, Submission, SubmissionEvidence,
    SubmissionState,
};

use super::print;
use super::remote::{Connection, UnaryArgs, refused};

/// Shows what became of requests that were made with a request id, and of uploads.
#[derive(Args)]
pub struct SubmissionArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    #[command(subcommand)]
    command: SubmissionCommand,
}

#[derive(Subcommand)]
enum SubmissionCommand {
    /// Shows all that is known of one request (GetSubmission). With --json: phone numbers in full.
    Get {
        /// The id that it was made with.
        request_id: String,
    },
    /// Lists requests, and batches of uploads whose outcome is unknown, the oldest first
    /// (ListSubmissions). With --json: one a line, phone numbers in full.
    List {
        /// Only those in this state; "unknown" are those that somebody may have to look after.
        #[arg(long)]
        state: Option<State>,
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = 1000)]
        limit: usize,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    InFlight,
    Accepted,
    Refused,
    Unknown,
}

impl From<State> for SubmissionState {
    fn from(state: State) -> Self {
        match state {
            State::InFlight => Self::InFlight,
            State::Accepted => Self::Accepted,
            State::Refused => Self::Refused,
            State::Unknown => Self::Unknown,
        }
    }
}

/// The largest page that the gateway gives.
const PAGE_SIZE: usize = 1000;

/// Does what the arguments ask.
pub async fn run(args: SubmissionArgs) -> anyhow::Result<()> {
    let client = OutboundServiceClient::new(args.unary.connect()?);
    let client = client.max_decoding_message_size(usize::MAX);
    let json = args.unary.json;
    match args.command {
        SubmissionCommand::Get { request_id } => get(client, request_id, json).await,
        SubmissionCommand::List { state, limit } => list(client, state, limit, json).await,
    }
}

type Client = OutboundServiceClient<Connection>;

async fn get(mut client: Client, request_id: String, json: bool) -> anyhow::Result<()> {
    let request = GetSubmissionRequest {
        request_id,
        ..GetSubmissionRequest::default()
    };
    let answer = client.get_submission(request).await.map_err(refused)?;
    let submission = answer.into_inner();
    if json {
        print::out(print::json("Submission", &submission)?)?;
        return Ok(());
    }
    let lines = [
        ("request", print::or_dash(given(&submission.request_id))),
        ("upload", print::or_dash(given(&submission.upload_id))),
        ("state", state(&submission)),
        ("operation", operation(&submission)),
        ("account", submission.account.clone()),
        ("written down", print::moment(submission.created_at)),
        ("settled", print::moment(submission.settled_at)),
        ("outcome", outcome(&submission)),
        ("sent", sent(&submission)),
        ("its pushes follow", submission.push_cursor.clone()),
    ];
    let lines = lines.map(|(what, value)| [what.to_owned(), value]);
    print::out(print::table(["", "submission"], lines))?;
    if !rows(&submission).is_empty() {
        let head = ["row", "row key", "phone", "task_data_id"];
        print::out(print::table(head, table(&submission)))?;
    }
    if !submission.evidence.is_empty() {
        let head = ["evidence", "found", "row", "task_data_id or tasks", "call"];
        let lines = submission.evidence.iter().map(evidence);
        print::out(print::table(head, lines))?;
    }
    Ok(())
}

async fn list(
    mut client: Client,
    state: Option<State>,
    limit: usize,
    json: bool,
) -> anyhow::Result<()> {
    let state = state.map_or(SubmissionState::Unspecified, Into::into);
    let mut request = ListSubmissionsRequest {
        state: state.into(),
        ..ListSubmissionsRequest::default()
    };
    let mut all = Vec::new();
    while all.len() < limit {
        request.page_size = i32::try_from((limit - all.len()).min(PAGE_SIZE))?;
        let page = client.list_submissions(request.clone()).await;
        let page = page.map_err(refused)?.into_inner();
        all.extend(page.submissions);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if json {
        for submission in &all {
            print::out(print::json("Submission", submission)?)?;
        }
        return Ok(());
    }
    let head = [
        "request or upload",
        "state",
        "operation",
        "account",
        "rows",
        "written down",
        "outcome",
    ];
    print::out(print::table(head, all.iter().map(line)))?;
    if !request.page_token.is_empty() {
        print::out(format_args!(
            "there may be more than these {limit}: see --limit"
        ))?;
    }
    Ok(())
}

fn line(submission: &Submission) -> [String; 7] {
    let name = given(&submission.request_id).map(ToOwned::to_owned);
    let upload = || given(&submission.upload_id).map(|id| format!("upload {id}"));
    [
        print::or_dash(name.or_else(upload)),
        state(submission),
        operation(submission),
        submission.account.clone(),
        rows(submission).len().to_string(),
        print::moment(submission.created_at),
        outcome(submission),
    ]
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn state(submission: &Submission) -> String {
    let name = submission.state().as_str_name();
    name.trim_start_matches("SUBMISSION_STATE_").to_lowercase()
}

fn operation(submission: &Submission) -> String {
    let name = submission.operation().as_str_name();
    let name = name.trim_start_matches("SUBMISSION_OPERATION_");
    name.to_lowercase()
}

/// What came of it, or why nobody knows.
fn outcome(submission: &Submission) -> String {
    match &submission.outcome {
        Some(Outcome::CallOutResponse(answer)) => rows_taken(&answer.task_data_ids),
        Some(Outcome::InsertTaskDataResponse(answer)) => rows_taken(&answer.task_data_ids),
        Some(Outcome::CreateTaskResponse(answer)) => format!("task {}", answer.task_id),
        Some(Outcome::Error(error)) => {
            let message = print::without_numbers(&error.message);
            format!("code {}: {message}", error.platform_code)
        }
        None => print::or_dash(given(&print::without_numbers(&submission.unknown_because))),
    }
}

fn rows_taken(task_data_ids: &[String]) -> String {
    format!("{} rows taken", task_data_ids.len())
}

/// What was sent but for its rows.
fn sent(submission: &Submission) -> String {
    match &submission.request {
        Some(Request::CallOut(it)) => {
            format!(
                "{} rows, robot {}, line {}",
                it.call_list.len(),
                it.robot_id,
                it.line_num
            )
        }
        Some(Request::InsertTaskData(it)) => {
            format!("{} rows, task {}", it.call_list.len(), it.task_id)
        }
        Some(Request::CreateTask(it)) => {
            format!(
                "task {:?}, robot {}, line {}",
                it.task_name, it.robot_id, it.line_num
            )
        }
        None => print::or_dash(None::<String>),
    }
}

fn rows(submission: &Submission) -> &[Row] {
    match &submission.request {
        Some(Request::CallOut(request)) => &request.call_list,
        Some(Request::InsertTaskData(request)) => &request.call_list,
        Some(Request::CreateTask(_)) | None => &[],
    }
}

fn task_data_ids(submission: &Submission) -> &[String] {
    match &submission.outcome {
        Some(Outcome::CallOutResponse(answer)) => &answer.task_data_ids,
        Some(Outcome::InsertTaskDataResponse(answer)) => &answer.task_data_ids,
        Some(Outcome::CreateTaskResponse(_) | Outcome::Error(_)) | None => &[],
    }
}

fn table(submission: &Submission) -> Vec<[String; 4]> {
    let ids = task_data_ids(submission);
    let line = |(i, row): (usize, &Row)| {
        let key = submission.row_keys.get(i);
        let phone = row.values.first().map(|phone| print::masked(phone));
        let id = ids.get(i).and_then(|id| given(id));
        [
            (i + 1).to_string(),
            print::or_dash(key),
            print::or_dash(phone),
            print::or_dash(id),
        ]
    };
    rows(submission).iter().enumerate().map(line).collect()
}

fn evidence(found: &SubmissionEvidence) -> [String; 5] {
    use yeta_gateway::proto::SubmissionEvidenceKind::CallRecord;
    let kind = found.kind();
    let name = kind.as_str_name();
    let name = name.trim_start_matches("SUBMISSION_EVIDENCE_KIND_");
    let ids = if found.task_ids.is_empty() {
        found.task_data_id.clone()
    } else {
        found.task_ids.join(", ")
    };
    [
        name.to_lowercase().replace('_', " "),
        print::moment(found.found_at),
        print::or_dash((kind == CallRecord).then_some(found.row + 1)),
        print::or_dash(given(&ids)),
        print::or_dash(given(&found.call_uuid)),
    ]
}
