//! What the gateway refuses before anything is sent, all of it at once.

use crate::proto::{
    CallOutRequest, CreateTaskRequest, DeleteTaskRequest, GetSubmissionRequest,
    InsertTaskDataRequest, ListSubmissionsRequest, PauseTaskRequest, PushFilter,
    QueryConfigRequest, QueryTasksRequest, Row, SettleSubmissionRequest, SortOrder,
    StartTaskRequest, SubmissionState, TaskSortName, TaskStatus,
    settle_submission_request::{Outcome, Which},
};

/// The maximum number of faults that are gathered.
const MAX_FAULTS: usize = 100;
/// The maximum number of columns of rows.
const MAX_COLUMNS: usize = 200;
/// The maximum sizes of a row's value, and of all values of a row.
const MAX_VALUE: usize = 4 << 10;
const MAX_ROW: usize = 64 << 10;
/// The maximum number of elements of a short list, such as times of a day.
const MAX_SHORT_LIST: usize = 100;
/// The maximum size of all values of a filter; the number of each list's values.
const MAX_FILTER_BYTES: usize = 64 << 10;
const MAX_FILTER_VALUES: usize = 1000;
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
    /// Adds that `field`, a path such as `call_list[3].values`, is wrong. Further faults than
    /// there is room for are left out.
    pub fn add(&mut self, field: impl Into<String>, fault: impl Into<String>) {
        if self.0.len() < MAX_FAULTS {
            self.0.push((field.into(), fault.into()));
        }
    }

    /// Adds that a list is too long; whether its elements are worth a look.
    pub(super) fn at_most<T>(&mut self, field: &str, list: &[T], max: usize) -> bool {
        let is_short = list.len() <= max;
        if !is_short {
            self.add(
                field,
                format!("has {} elements, more than {max}", list.len()),
            );
        }
        is_short
    }

    /// The same for a list that has a few elements.
    pub(super) fn few<T>(&mut self, field: &str, list: &[T]) -> bool {
        self.at_most(field, list, MAX_SHORT_LIST)
    }

    /// Adds that a filter is larger than filters may be.
    pub(super) fn filter(&mut self, field: &str, filter: Option<&PushFilter>) {
        let Some(filter) = filter else { return };
        self.few(&format!("{field}.kinds"), &filter.kinds);
        let mut bytes = 0;
        for (name, values) in [
            ("accounts", &filter.accounts),
            ("app_ids", &filter.app_ids),
            ("robot_ids", &filter.robot_ids),
            ("task_ids", &filter.task_ids),
            ("task_data_ids", &filter.task_data_ids),
            ("call_relation_ids", &filter.call_relation_ids),
            ("call_uuids", &filter.call_uuids),
        ] {
            self.at_most(&format!("{field}.{name}"), values, MAX_FILTER_VALUES);
            bytes += values.iter().map(String::len).sum::<usize>();
        }
        if bytes > MAX_FILTER_BYTES {
            self.add(
                field,
                format!("has {bytes} bytes, more than {MAX_FILTER_BYTES}"),
            );
        }
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

    /// Adds that there are more columns, or longer names, than there may be.
    pub(super) fn columns(&mut self, field: &str, columns: &[String]) {
        self.at_most(field, columns, MAX_COLUMNS);
        if let Some(fault) = oversize(columns) {
            self.add(field, fault);
        }
    }

    fn rows(&mut self, columns: &[String], rows: &[Row]) {
        match columns.first() {
            None => self.add("call_column", "is required; the first is the phone number"),
            Some(first) => self.required("call_column[0]", first),
        }
        self.columns("call_column", columns);
        match rows.len() {
            0 => self.add("call_list", "is required"),
            1..=MAX_ROWS => {}
            many => {
                let fault = format!("has {many} rows, more than {MAX_ROWS}");
                return self.add("call_list", fault);
            }
        }
        for (index, Row { values }) in rows.iter().enumerate() {
            if !columns.is_empty() && values.len() != columns.len() {
                self.add(
                    format!("call_list[{index}].values"),
                    format!("has {} values, call_column {}", values.len(), columns.len()),
                );
            }
            if let Some(fault) = oversize(values) {
                self.add(format!("call_list[{index}].values"), fault);
            }
            if values.first().is_none_or(|first| first.trim().is_empty()) {
                self.add(format!("call_list[{index}].values[0]"), "is required");
            }
        }
    }
}

/// What is wrong with the size of a row's values.
fn oversize(values: &[String]) -> Option<String> {
    if let Some(value) = values.iter().find(|value| value.len() > MAX_VALUE) {
        let bytes = value.len();
        return Some(format!(
            "has a value of {bytes} bytes, more than {MAX_VALUE}"
        ));
    }
    let bytes: usize = values.iter().map(String::len).sum();
    (bytes > MAX_ROW).then(|| format!("has {bytes} bytes, more than {MAX_ROW}"))
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
        let ranges = if v.few("time_range", &self.time_range) {
            self.time_range.as_slice()
        } else {
            &[]
        };
        for (index, range) in ranges.iter().enumerate() {
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
        v.few("task_status_code_list", &self.task_status_code_list);
        let statuses = if v.few("task_status_list", &self.task_status_list) {
            self.task_status_list.as_slice()
        } else {
            &[]
        };
        for (index, &status) in statuses.iter().enumerate() {
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
        if let Some(Outcome::Accepted(accepted)) = &self.outcome {
            v.at_most("accepted.task_data_ids", &accepted.task_data_ids, MAX_ROWS);
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
    fn a_list_that_is_too_long_is_one_fault_however_many_elements_are_wrong() {
        let rows = call_out(vec![Row::default(); 60_000]);
        assert_eq!(fields(&rows), ["call_list"]);
        let ranges = CreateTaskRequest {
            time_range: vec![String::new(); 101],
            ..CreateTaskRequest::default()
        };
        let time_ranges = fields(&ranges).into_iter();
        assert_eq!(
            time_ranges
                .filter(|it| it.starts_with("time_range"))
                .count(),
            1
        );
        let statuses = QueryTasksRequest {
            task_status_list: vec![77; 101],
            task_status_code_list: vec![77; 101],
            ..QueryTasksRequest::default()
        };
        assert_eq!(
            fields(&statuses),
            ["task_status_code_list", "task_status_list"]
        );
    }

    #[test]
    fn no_more_than_a_hundred_faults_are_gathered() {
        let mut violations = Violations::default();
        for _ in 0..1000 {
            violations.add("field", "fault");
        }
        assert_eq!(violations.iter().len(), 100);
    }

    #[test]
    fn a_value_and_a_row_have_a_bounded_size() {
        let with = |value: String, count: usize| {
            let mut values = vec![value; count];
            values[0] = "13000000001".into();
            let columns = vec!["column".into(); count];
            fields(&CallOutRequest {
                call_column: columns,
                ..call_out(vec![Row { values }])
            })
        };
        assert_eq!(with("x".repeat(4096), 2), [""; 0]);
        assert_eq!(with("x".repeat(4097), 2), ["call_list[0].values"]);
        assert_eq!(with("x".repeat(4000), 17), [""; 0]);
        assert_eq!(with("x".repeat(4000), 18), ["call_list[0].values"]);
        assert_eq!(with("x".into(), 200), [""; 0]);
        assert_eq!(with("x".into(), 201), ["call_column"]);
    }

    #[test]
    fn a_filter_has_a_bounded_number_of_values_and_bytes() {
        let faults = |filter: PushFilter| {
            let mut violations = Violations::default();
            violations.filter("filter", Some(&filter));
            let fields = violations.iter().map(|(field, _)| field.to_owned());
            fields.collect::<Vec<_>>()
        };
        let ids = |count, length| vec!["x".repeat(length); count];
        let calls = |call_uuids| PushFilter {
            call_uuids,
            ..PushFilter::default()
        };
        assert_eq!(faults(calls(ids(1000, 65))), [""; 0]);
        assert_eq!(faults(calls(ids(1000, 66))), ["filter"]);
        assert_eq!(faults(calls(ids(1001, 1))), ["filter.call_uuids"]);
        let spread = PushFilter {
            task_ids: ids(1000, 40),
            ..calls(ids(1000, 40))
        };
        assert_eq!(faults(spread), ["filter"]);
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
