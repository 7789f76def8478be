//! Tells from what the platform says later whether it took a request that it did not answer.
//!
//! Everything here would rather find nothing than something wrong: a request that is not shown to
//! have been taken stays unknown, and is looked after by a person.

use std::collections::BTreeSet;

use super::check::digit;
use crate::proto::submission::Request;
use crate::proto::{
    CallDirection, CallRecord, CreateTaskRequest, Row, Submission, SubmissionEvidence,
    SubmissionEvidenceKind, Task,
};

/// A call may seem to have been dialled so many milliseconds before its request was written down:
/// the platform rounds its times, and its clock is not the gateway's.
const SLACK_MS: i64 = 60_000;

/// The rows of a request, and what a call of one of them must be like.
struct Asked<'a> {
    columns: &'a [String],
    rows: &'a [Row],
    /// The task that they were for; empty: none that is known.
    task_id: &'a str,
}

impl<'a> Asked<'a> {
    fn of(submission: &'a Submission) -> Option<Self> {
        match submission.request.as_ref()? {
            Request::CallOut(request) => Some(Self {
                columns: &request.call_column,
                rows: &request.call_list,
                task_id: "",
            }),
            Request::InsertTaskData(request) => Some(Self {
                columns: &request.call_column,
                rows: &request.call_list,
                task_id: &request.task_id,
            }),
            Request::CreateTask(_) => None,
        }
    }

    /// What a row says under which head, in an order that does not depend on the columns'. Empty
    /// values are left out, as the platform may leave them out. Numbers are in one form.
    fn told<'b>(&self, heads: &'b [String], values: &'b [String]) -> Vec<(&'b str, String)> {
        let number_head = self.columns.first().map_or("", |head| head.trim());
        let mut told: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let head = heads.get(at).map_or("", |head| head.trim());
                let number = number_key(value).filter(|_| head == number_head);
                (head, number.unwrap_or_else(|| value.trim().to_owned()))
            })
            .filter(|(_, value)| !value.is_empty())
            .collect();
        told.sort();
        told
    }

    /// The rows that a record can be about: those of its values, or where it has none, the one of
    /// its number.
    fn matching(&self, record: &CallRecord) -> Vec<usize> {
        let values = &record.task_row_value;
        if !values.is_empty() {
            let has_heads = record.task_row_head.len() == values.len();
            let heads = if has_heads {
                &record.task_row_head
            } else {
                self.columns
            };
            let told = self.told(heads, values);
            return self.positions(|row| self.told(self.columns, &row.values) == told);
        }
        let Some(callee) = number_key(&record.callee) else {
            return Vec::new();
        };
        let matching = self.positions(|row| {
            let number = row.values.first().and_then(|value| number_key(value));
            number.as_ref() == Some(&callee)
        });
        // Of several rows with one number, the number alone does not tell which it is.
        if matching.len() == 1 {
            matching
        } else {
            Vec::new()
        }
    }

    fn positions(&self, is_it: impl Fn(&Row) -> bool) -> Vec<usize> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, row)| is_it(row))
            .map(|(at, _)| at)
            .collect()
    }
}

/// Which row of an unanswered CallOut or InsertTaskData a call record is about, if any.
///
/// A record without the platform's id of the row tells nothing: whether the call belongs to
/// another request could not be checked. The other record of the same call has the id.
pub fn row_of(submission: &Submission, record: &CallRecord) -> Option<usize> {
    let asked = Asked::of(submission)?;
    if !is_id(&record.task_data_id) {
        return None;
    }
    // Called again: the same row as before.
    if let Some(evidence) = told_by(submission).find(|it| it.task_data_id == record.task_data_id) {
        return usize::try_from(evidence.row).ok();
    }
    if record.direction() == CallDirection::Inbound && record.task_row_value.is_empty() {
        return None;
    }
    let is_other_task =
        !asked.task_id.is_empty() && is_id(&record.task_id) && record.task_id != asked.task_id;
    if is_other_task || dialled_at(record)?.saturating_add(SLACK_MS) < created_at(submission)? {
        return None;
    }
    let is_told = |row: usize| told_by(submission).any(|it| usize::try_from(it.row) == Ok(row));
    asked
        .matching(record)
        .into_iter()
        .find(|row| !is_told(*row))
}

/// Under what a number is looked for, however it is written: its digits, without what is dialled
/// before them within China or from abroad. `None`: there are no digits.
pub fn number_key(text: &str) -> Option<String> {
    let digits: String = text.chars().filter_map(digit).collect();
    let digits = digits.trim_start_matches('0');
    // No number within China has twelve digits.
    let national = match digits.strip_prefix("86") {
        Some(rest) if digits.len() >= 12 => rest.trim_start_matches('0'),
        _ => digits,
    };
    (!national.is_empty()).then(|| national.to_owned())
}

/// What call records have told of a submission already.
pub(super) fn told_by(submission: &Submission) -> impl Iterator<Item = &SubmissionEvidence> {
    let evidence = submission.evidence.iter();
    evidence.filter(|it| it.kind() == SubmissionEvidenceKind::CallRecord)
}

/// Whether an id is one: the platform sends "0" for none.
fn is_id(id: &str) -> bool {
    !matches!(id, "" | "0")
}

/// When the call was dialled at the earliest, in milliseconds since 1970. A record that does not
/// say it is asked for what came later, and how long that had taken.
fn dialled_at(record: &CallRecord) -> Option<i64> {
    let there = |time: Option<i64>| time.filter(|time| *time > 0);
    let ms = |seconds: Option<i32>| i64::from(seconds.unwrap_or_default().max(0)) * 1000;
    let ring = ms(record.duration_ring);
    let lasted = ring + ms(record.duration_call);
    there(record.time_dial)
        .or_else(|| there(record.time_ring))
        .or_else(|| Some(there(record.time_answer)?.saturating_sub(ring)))
        .or_else(|| Some(there(record.time_hangup)?.saturating_sub(lasted)))
}

/// When a submission was written down, in milliseconds since 1970.
fn created_at(submission: &Submission) -> Option<i64> {
    let time = submission.created_at?;
    Some(time.seconds * 1000 + i64::from(time.nanos) / 1_000_000)
}

/// What the platform's tasks tell of an unanswered CreateTask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tasks {
    /// There is none that it can have made.
    None,
    /// It made this one.
    One(String),
    /// It can have made any of these.
    Several(Vec<String>),
}

/// What the platform's tasks tell of an unanswered CreateTask: those of its very name, robot,
/// lines and time (to the second) that were not deleted and are not another submission's.
pub fn tasks_of(
    request: &CreateTaskRequest,
    tasks: &[Task],
    is_claimed: impl Fn(&str) -> bool,
) -> Tasks {
    let lines = lines(&request.line_num);
    let mut found: Vec<String> = Vec::new();
    for task in tasks {
        let is_it = !task.task_id.is_empty()
            && task.task_name == request.task_name
            && task.robot_id == request.robot_id
            && self::lines(&task.line_num) == lines
            && is_same_second(task.time_task_estimate_begin, request.time_begin)
            && task.deleted != Some(true)
            && !is_claimed(&task.task_id);
        // A task may stand on two pages when one was made between their reading.
        if is_it && !found.contains(&task.task_id) {
            found.push(task.task_id.clone());
        }
    }
    if found.len() > 1 {
        return Tasks::Several(found);
    }
    found.pop().map_or(Tasks::None, Tasks::One)
}

/// The lines in a text that joins several.
fn lines(text: &str) -> BTreeSet<&str> {
    let lines = text.split([';', ',', '；', '，']).map(str::trim);
    lines.filter(|line| !line.is_empty()).collect()
}

/// Whether two times in milliseconds are the same but for rounding to whole seconds, either way.
fn is_same_second(time: Option<i64>, other: i64) -> bool {
    time.is_some_and(|time| time.abs_diff(other) < 1000)
}

#[cfg(test)]
mod tests;
