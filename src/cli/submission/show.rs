//! Submissions as tables. Phone numbers are masked.

use std::collections::BTreeMap;

use yeta_gateway::proto::submission::{Outcome, Request};
use yeta_gateway::proto::{
    Row, Settlement, Submission, SubmissionError, SubmissionEvidence, SubmissionEvidenceKind,
    SubmissionState,
};

use crate::cli::print;

/// Prints all that is known of a submission.
pub fn whole(submission: &Submission) -> anyhow::Result<()> {
    let lines = [
        ("request", print::or_dash(given(&submission.request_id))),
        ("upload", print::or_dash(given(&submission.upload_id))),
        ("client", print::or_dash(given(&submission.client))),
        ("state", state(submission)),
        ("operation", operation(submission)),
        ("account", submission.account.clone()),
        ("recorded", print::moment(submission.created_at)),
        ("settled", print::moment(submission.settled_at)),
        ("settled by", settled_by(submission)),
        ("outcome", outcome(submission)),
        ("sent", sent(submission)),
        ("its pushes follow", submission.push_cursor.clone()),
    ];
    let lines = lines.map(|(what, value)| [what.to_owned(), value]);
    print::lines(print::table(["", "submission"], lines))?;
    if !rows(submission).is_empty() {
        let head = ["row", "row key", "phone", "task_data_id"];
        print::lines(print::table(head, table(submission)))?;
    }
    if !submission.evidence.is_empty() {
        let head = [
            "evidence",
            "found",
            "settles",
            "row",
            "task_data_id or tasks",
            "call",
        ];
        let lines = submission.evidence.iter().map(evidence);
        print::lines(print::table(head, lines))?;
    }
    if !submission.settlements.is_empty() {
        let head = ["settled by hand", "client", "row", "outcome", "reason"];
        let lines = submission.settlements.iter().map(settlement);
        print::lines(print::table(head, lines))?;
    }
    Ok(())
}

/// Prints submissions, one a line.
pub fn list(submissions: &[Submission]) -> anyhow::Result<()> {
    let head = [
        "request or upload",
        "client",
        "state",
        "operation",
        "account",
        "rows",
        "recorded",
        "outcome",
        "settled by",
        "evidence",
    ];
    print::lines(print::table(head, submissions.iter().map(line)))
}

fn line(submission: &Submission) -> [String; 10] {
    let name = given(&submission.request_id).map(ToOwned::to_owned);
    let upload = || given(&submission.upload_id).map(|id| format!("upload {id}"));
    [
        print::or_dash(name.or_else(upload)),
        print::or_dash(given(&submission.client)),
        state(submission),
        operation(submission),
        submission.account.clone(),
        rows(submission).len().to_string(),
        print::moment(submission.created_at),
        outcome(submission),
        settled_by(submission),
        kinds(submission),
    ]
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn state(submission: &Submission) -> String {
    // Nothing is left of what a person has settled as not sent but the settlement.
    if submission.state() == SubmissionState::Unspecified {
        return "not sent".to_owned();
    }
    let name = submission.state().as_str_name();
    name.trim_start_matches("SUBMISSION_STATE_").to_lowercase()
}

fn operation(submission: &Submission) -> String {
    let name = submission.operation().as_str_name();
    let name = name.trim_start_matches("SUBMISSION_OPERATION_");
    name.to_lowercase()
}

/// The outcome, or why it is unknown.
fn outcome(submission: &Submission) -> String {
    let outcome = match &submission.outcome {
        Some(Outcome::CallOutResponse(answer)) => accepted(&answer.task_data_ids),
        Some(Outcome::InsertTaskDataResponse(answer)) => accepted(&answer.task_data_ids),
        Some(Outcome::CreateTaskResponse(answer)) => format!("task {}", answer.task_id),
        Some(Outcome::Error(error)) => refusal(error),
        None => print::or_dash(given(&print::without_numbers(&submission.unknown_because))),
    };
    match &submission.contradicted {
        Some(error) => format!("{outcome}, contradicting the answer ({})", refusal(error)),
        None => outcome,
    }
}

fn refusal(error: &SubmissionError) -> String {
    let message = print::without_numbers(&error.message);
    format!("code {}: {message}", error.platform_code)
}

fn accepted(task_data_ids: &[String]) -> String {
    let rows = task_data_ids.len();
    match task_data_ids.iter().filter(|id| !id.is_empty()).count() {
        known if known == rows => format!("{rows} rows accepted"),
        known => format!("{rows} rows accepted, {known} ids known"),
    }
}

/// Where the outcome is from: an answer of the platform, evidence, a person.
fn settled_by(submission: &Submission) -> String {
    let has_evidence = submission.evidence.iter().any(|it| it.settled);
    let has_person = !submission.settlements.is_empty();
    let has_answer = submission.outcome.is_some() && !has_evidence && !has_person;
    let sources = [
        (has_answer, "answer"),
        (has_evidence, "evidence"),
        (has_person, "person"),
    ];
    let sources = sources.into_iter().filter(|(is_one, _)| *is_one);
    let sources: Vec<_> = sources.map(|(_, source)| source).collect();
    print::or_dash(given(&sources.join(", ")))
}

/// How many pieces of evidence there are of each kind.
fn kinds(submission: &Submission) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for found in &submission.evidence {
        *counts.entry(kind(found)).or_default() += 1;
    }
    let counts = counts.iter().map(|(kind, count)| format!("{count} {kind}"));
    print::or_dash(given(&counts.collect::<Vec<_>>().join(", ")))
}

/// What was sent, without its rows.
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
    let line = |(at, row): (usize, &Row)| {
        let phone = row.values.first().map(|phone| print::masked(phone));
        let id = ids.get(at).and_then(|id| given(id));
        let not_sent = || is_not_sent(submission, at).then_some("not sent");
        [
            (at + 1).to_string(),
            print::or_dash(submission.row_keys.get(at)),
            print::or_dash(phone),
            print::or_dash(id.or_else(not_sent)),
        ]
    };
    rows(submission).iter().enumerate().map(line).collect()
}

/// Whether a person has settled the row as not sent.
fn is_not_sent(submission: &Submission, row: usize) -> bool {
    let is_it = |it: &&Settlement| it.row.and_then(|row| usize::try_from(row).ok()) == Some(row);
    let last = submission.settlements.iter().rfind(is_it);
    last.is_some_and(|settlement| !settlement.accepted)
}

fn kind(found: &SubmissionEvidence) -> String {
    let name = found.kind().as_str_name();
    let name = name.trim_start_matches("SUBMISSION_EVIDENCE_KIND_");
    name.to_lowercase().replace('_', " ")
}

fn evidence(found: &SubmissionEvidence) -> [String; 6] {
    let ids = if found.task_ids.is_empty() {
        found.task_data_id.clone()
    } else {
        found.task_ids.join(", ")
    };
    let is_record =
        found.kind() == SubmissionEvidenceKind::CallRecord || !found.event_id.is_empty();
    [
        kind(found),
        print::moment(found.found_at),
        if found.settled { "yes" } else { "no" }.to_owned(),
        print::or_dash(is_record.then_some(found.row + 1)),
        print::or_dash(given(&ids)),
        print::or_dash(given(&found.call_uuid)),
    ]
}

fn settlement(settlement: &Settlement) -> [String; 5] {
    let outcome = if settlement.accepted {
        "accepted"
    } else {
        "not sent"
    };
    [
        print::moment(settlement.at),
        print::or_dash(given(&settlement.client)),
        print::or_dash(settlement.row.map(|row| row + 1)),
        outcome.to_owned(),
        print::without_numbers(&settlement.reason),
    ]
}
