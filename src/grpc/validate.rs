//! What the gateway refuses before anything is sent, all of it at once.

use crate::proto::{
    CallOutRequest, CreateTaskRequest, DeleteTaskRequest, GetSubmissionRequest,
    InsertTaskDataRequest, ListSubmissionsRequest, PauseTaskRequest, QueryConfigRequest,
    QueryTasksRequest, Row, SettleSubmissionRequest, SortOrder, StartTaskRequest, SubmissionState,
    TaskSortName, TaskStatus, settle_submission_request::Which,
};

/// How many rows go into one request. Source: API document, 单次上限50条.
const MAX_ROWS: usize = 50;
/// How many bytes an id may have that a caller chooses.
const MAX_ID: usize = 128;
/// The longest reason for settling a submission, in bytes.
const LONGEST_REASON: usize = 512;

/// What is wrong with a request, field by field. Never holds a value that may be
/// a phone number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(Vec<(String, String)>);

impl Violations {
    /// Adds that `field`, a path such as `call_list[3].values`, is wrong.
    pub fn add(&mut self, field: impl Into<String>, fault: impl Into<String>) {
        self.0.push((field.into(), fault.into()));
    }

    /// Each field with its fault.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(field, fault)| (field.as_str(), fault.as_str()))
    }

    pub(super) fn required(&mut self, field: &str, value: &str) {
        if value.trim().is_empty() {
            self.add(field, "is required");
        }
    }

    pub(super) fn within<N>(&mut self, field: &str, value: Option<N>, least: N, most: N)
    where
        N: PartialOrd + Copy + std::fmt::Display,
    {
        if let Some(value) = value.filter(|value| *value < least || *value > most) {
            self.add(field, format!("is {value}, not within {least} to {most}"));
        }
    }

    pub(super) fn at_least<N: PartialOrd + Copy + std::fmt::Display>(
        &mut self,
        field: &str,
        value: Option<N>,
        least: N,
    ) {
        if let Some(value) = value.filter(|value| *value < least) {
            self.add(field, format!("is {value}, not at least {least}"));
        }
    }

    /// Adds that a page is larger than pages may be.
    pub(super) fn page_size(&mut self, page_size: i32) {
        if !(0..=1000).contains(&page_size) {
            let fault = format!("{page_size} is not between 0 and 1000");
            self.add("page_size", fault);
        }
    }

    fn ends_after(&mut self, begin: Option<i64>, end: Option<i64>) {
        if let (Some(begin), Some(end)) = (begin, end)
            && end <= begin
        {
            self.add(
                "time_end",
                format!("is {end}, not later than time_begin, {begin}"),
            );
        }
    }

    /// Adds that an id of the caller's own is longer than ids may be.
    pub(super) fn id(&mut self, field: &str, id: &str) {
        if id.len() > MAX_ID {
            let fault = format!("has {} bytes, more than {MAX_ID}", id.len());
            self.add(field, fault);
        }
    }

    fn rows(&mut self, columns: &[String], rows: &[Row]) {
        match columns.first() {
            None => self.add("call_column", "is required; the first is the phone number"),
            Some(first) => self.required("call_column[0]", first),
        }
        match rows.len() {
            0 => self.add("call_list", "is required"),
            1..=MAX_ROWS => {}
            many => self.add(
                "call_list",
                format!("has {many} rows, more than {MAX_ROWS}"),
            ),
        }
        for (index, Row { values }) in rows.iter().enumerate() {
            if !columns.is_empty() && values.len() != columns.len() {
                self.add(
                    format!("call_list[{index}].values"),
                    format!("has {} values, call_column {}", values.len(), columns.len()),
                );
            }
            if values.first().is_none_or(|first| first.trim().is_empty()) {
                self.add(format!("call_list[{index}].values[0]"), "is required");
            }
        }
    }
}

/// A request that can be checked before it is sent.
pub trait Validate {
    /// Adds everything that is wrong with it.
    fn validate(&self, violations: &mut Violations);
}

/// Whether `request` may be sent.
pub(super) fn check(request: &impl Validate) -> Result<(), Violations> {
    let mut violations = Violations::default();
    request.validate(&mut violations);
    if violations.0.is_empty() {
        Ok(())
    } else {
        Err(violations)
    }
}

impl Validate for CallOutRequest {
    fn validate(&self, v: &mut Violations) {
        v.required("robot_id", &self.robot_id);
        v.required("line_num", &self.line_num);
        v.rows(&self.call_column, &self.call_list);
        v.within("robot_speed", self.robot_speed, -500, 500);
        v.id("request_id", &self.request_id);
    }
}

impl Validate for CreateTaskRequest {
    fn validate(&self, v: &mut Violations) {
        v.required("task_name", &self.task_name);
        v.required("line_num", &self.line_num);
        v.required("robot_id", &self.robot_id);
        v.within("recall_count", self.recall_count, 0, 3);
        v.at_least("time_recall_wait", self.time_recall_wait, 0);
        for (index, range) in self.time_range.iter().enumerate() {
            if !is_time_range(range) {
                let fault = "is not of the form HH:mm:ss-HH:mm:ss";
                v.add(format!("time_range[{index}]"), fault);
            }
        }
        if self.time_begin <= 0 {
            v.add("time_begin", "is required, in milliseconds since 1970");
        }
        v.ends_after(Some(self.time_begin), self.time_end);
        v.id("request_id", &self.request_id);
    }
}

impl Validate for InsertTaskDataRequest {
    fn validate(&self, v: &mut Violations) {
        v.required("task_id", &self.task_id);
        v.rows(&self.call_column, &self.call_list);
        v.id("request_id", &self.request_id);
    }
}

impl Validate for StartTaskRequest {
    fn validate(&self, v: &mut Violations) {
        v.required("task_id", &self.task_id);
    }
}

impl Validate for PauseTaskRequest {
    fn validate(&self, v: &mut Violations) {
        v.required("task_id", &self.task_id);
    }
}

impl Validate for DeleteTaskRequest {
    fn validate(&self, v: &mut Violations) {
        v.required("task_id", &self.task_id);
    }
}

impl Validate for QueryTasksRequest {
    fn validate(&self, v: &mut Violations) {
        v.ends_after(self.time_begin, self.time_end);
        v.within("page_size", self.page_size, 1, 50);
        v.at_least("page_index", self.page_index, 1);
        if TaskSortName::try_from(self.sort_name).is_err() {
            v.add(
                "sort_name",
                format!("{} is no TaskSortName", self.sort_name),
            );
        }
        if SortOrder::try_from(self.sort_order).is_err() {
            v.add("sort_order", format!("{} is no SortOrder", self.sort_order));
        }
        for (index, &status) in self.task_status_list.iter().enumerate() {
            match TaskStatus::try_from(status) {
                Ok(TaskStatus::Unspecified) | Err(_) => v.add(
                    format!("task_status_list[{index}]"),
                    format!("{status} names no status; codes go into task_status_code_list"),
                ),
                Ok(_) => {}
            }
        }
    }
}

impl Validate for GetSubmissionRequest {
    fn validate(&self, v: &mut Violations) {
        v.required("request_id", &self.request_id);
    }
}

impl Validate for SettleSubmissionRequest {
    fn validate(&self, v: &mut Violations) {
        match &self.which {
            Some(Which::RequestId(id)) => v.required("request_id", id),
            Some(Which::UploadRow(row)) => {
                v.required("upload_row.upload_id", &row.upload_id);
                v.required("upload_row.row_key", &row.row_key);
            }
            None => v.add("which", "is required: request_id or upload_row"),
        }
        if self.outcome.is_none() {
            v.add("outcome", "is required: accepted or not_sent");
        }
        v.required("reason", &self.reason);
        if self.reason.len() > LONGEST_REASON {
            v.add("reason", format!("is longer than {LONGEST_REASON} bytes"));
        }
    }
}

impl Validate for ListSubmissionsRequest {
    fn validate(&self, v: &mut Violations) {
        v.page_size(self.page_size);
        if SubmissionState::try_from(self.state).is_err() {
            v.add("state", format!("{} is no SubmissionState", self.state));
        }
    }
}

impl Validate for QueryConfigRequest {
    fn validate(&self, v: &mut Violations) {
        v.at_least("type", Some(self.r#type), 0);
        v.at_least("page_size", self.page_size, 1);
        v.at_least("page_index", self.page_index, 1);
    }
}

fn is_time_range(text: &str) -> bool {
    text.split_once('-')
        .is_some_and(|(from, to)| is_time(from) && is_time(to))
}

/// "HH:mm:ss", up to "24:00:00", which ends a day.
fn is_time(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').map(two_digits).collect();
    match parts.as_slice() {
        [Some(24), Some(0), Some(0)] => true,
        [Some(hours), Some(minutes), Some(seconds)] => {
            *hours < 24 && *minutes < 60 && *seconds < 60
        }
        _ => false,
    }
}

fn two_digits(text: &str) -> Option<u8> {
    let two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    two.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(request: &impl Validate) -> Vec<String> {
        let violations = check(request).err().unwrap_or_default();
        violations
            .iter()
            .map(|(field, _)| field.to_owned())
            .collect()
    }

    fn row(values: &[&str]) -> Row {
        Row {
            values: values.iter().map(|&value| value.to_owned()).collect(),
        }
    }

    fn call_out(rows: Vec<Row>) -> CallOutRequest {
        CallOutRequest {
            robot_id: "719".into(),
            line_num: "69101338".into(),
            call_column: vec!["客户手机号码".into(), "姓名".into()],
            call_list: rows,
            ..CallOutRequest::default()
        }
    }

    #[test]
    fn fifty_rows_pass_and_none_or_fifty_one_do_not() {
        let rows = |count| vec![row(&["13000000001", "张先生"]); count];
        assert_eq!(fields(&call_out(rows(50))), [""; 0]);
        assert_eq!(fields(&call_out(rows(51))), ["call_list"]);
        assert_eq!(fields(&call_out(rows(0))), ["call_list"]);
    }

    #[test]
    fn every_violation_is_told_at_once_without_the_phone_number() {
        let request = CallOutRequest {
            robot_speed: Some(501),
            request_id: "x".repeat(129),
            line_num: " ".into(),
            ..call_out(vec![
                row(&["13000000001", "张先生"]),
                row(&["13000000002"]),
                row(&["", "王女士"]),
                row(&[]),
            ])
        };
        let violations = check(&request).unwrap_err();
        let fields: Vec<_> = violations.iter().map(|(field, _)| field).collect();
        assert_eq!(
            fields,
            [
                "line_num",
                "call_list[1].values",
                "call_list[2].values[0]",
                "call_list[3].values",
                "call_list[3].values[0]",
                "robot_speed",
                "request_id",
            ]
        );
        assert!(!format!("{violations:?}").contains("13000000002"));
    }

    #[test]
    fn an_empty_callout_names_every_required_field() {
        assert_eq!(
            fields(&CallOutRequest::default()),
            ["robot_id", "line_num", "call_column", "call_list"]
        );
        assert_eq!(fields(&StartTaskRequest::default()), ["task_id"]);
        assert_eq!(fields(&PauseTaskRequest::default()), ["task_id"]);
        assert_eq!(fields(&DeleteTaskRequest::default()), ["task_id"]);
    }

    #[test]
    fn a_task_is_checked_by_the_documented_ranges() {
        let good = CreateTaskRequest {
            task_name: "测试外呼".into(),
            line_num: "055169101407".into(),
            robot_id: "11".into(),
            recall_count: Some(3),
            time_range: vec!["09:00:00-12:00:00".into(), "13:00:00-24:00:00".into()],
            time_begin: 1_527_321_492_000,
            time_end: Some(1_527_325_092_000),
            ..CreateTaskRequest::default()
        };
        assert_eq!(fields(&good), [""; 0]);
        let bad = CreateTaskRequest {
            recall_count: Some(4),
            time_recall_wait: Some(-1),
            time_range: vec!["9:00-12:00".into(), "09:00:00-12:60:00".into()],
            time_end: Some(good.time_begin),
            ..good
        };
        assert_eq!(
            fields(&bad),
            [
                "recall_count",
                "time_recall_wait",
                "time_range[0]",
                "time_range[1]",
                "time_end"
            ]
        );
    }

    #[test]
    fn a_query_is_checked_by_the_documented_ranges_and_sets() {
        assert_eq!(fields(&QueryTasksRequest::default()), [""; 0]);
        let bad = QueryTasksRequest {
            time_begin: Some(2),
            time_end: Some(1),
            page_size: Some(51),
            page_index: Some(0),
            sort_name: 9,
            sort_order: 9,
            task_status_list: vec![TaskStatus::New.into(), 0, 55],
            ..QueryTasksRequest::default()
        };
        assert_eq!(
            fields(&bad),
            [
                "time_end",
                "page_size",
                "page_index",
                "sort_name",
                "sort_order",
                "task_status_list[1]",
                "task_status_list[2]",
            ]
        );
    }
}
