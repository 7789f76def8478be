//! The platform's operations: where each goes, what it sends, what it reads.
//!
//! This is the one place that knows the platform's JSON; it reads as a table.
//! Source: API document, Part1, and the fields seen since.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{lines::Seen, resend::Effect};
use crate::lenient::Fields;
use crate::proto::{
    CallOutRequest, CallOutResponse, CallbackUrl, CreateTaskRequest, CreateTaskResponse,
    DeleteTaskRequest, DeleteTaskResponse, FailedPushFile, InsertTaskDataRequest,
    InsertTaskDataResponse, Line, LineStatus, ListFailedPushFilesRequest,
    ListFailedPushFilesResponse, PauseTaskRequest, PauseTaskResponse, QueryConfigRequest,
    QueryConfigResponse, QueryTasksRequest, QueryTasksResponse, Robot, RobotStatus, RobotType, Row,
    SortOrder, SpeakingVoice, StartTaskRequest, StartTaskResponse, Task, TaskSortName, TaskStatus,
    TaskType,
};

/// An operation of the platform, as the request that asks for it.
pub trait Operation: Sync + 'static {
    /// What comes back.
    type Reply: Send + 'static;
    /// Its name in logs and metrics.
    const NAME: &'static str;
    /// Its path after the configured prefix.
    const PATH: &'static str;
    /// What it does, and so whether it may be sent again.
    const EFFECT: Effect;
    /// Whether it makes the platform dial, now or later: not done for a disabled account.
    const PLACES_CALLS: bool = false;

    /// The JSON to send.
    fn body(&self) -> impl Serialize;

    /// Reads the `result` of a successful answer.
    fn read(result: &mut Fields<'_>) -> Self::Reply;

    /// The task or the line that it names, with the task's state once it is done.
    fn named(&self) -> Task {
        Task::default()
    }

    /// What its reply shows of tasks.
    fn seen(_: &Self::Reply) -> Seen<'_> {
        Seen::Nothing
    }
}

fn is_empty(text: &&str) -> bool {
    text.is_empty()
}

/// The values of `rows` as the platform takes them, `string[][]`.
fn values(rows: &[Row]) -> Vec<&[String]> {
    rows.iter().map(|row| row.values.as_slice()).collect()
}

/// The enum value of a platform code whose enum keeps the platform's numbers,
/// but for `zero`, the value of code 0.
fn enum_of<E: TryFrom<i32> + Into<i32>>(code: Option<i32>, zero: Option<E>) -> i32 {
    match code {
        Some(0) => zero.map_or(0, Into::into),
        // Numbers from 100 on are not the platform's.
        Some(code) if code < 100 => E::try_from(code).map_or(0, Into::into),
        _ => 0,
    }
}

impl Operation for QueryConfigRequest {
    type Reply = QueryConfigResponse;
    const NAME: &'static str = "query_config";
    const PATH: &'static str = "/config/v1/query";
    const EFFECT: Effect = Effect::Reads;

    fn body(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Body {
            r#type: i32,
            #[serde(rename = "pageSize", skip_serializing_if = "Option::is_none")]
            page_size: Option<i32>,
            #[serde(rename = "pageIndex", skip_serializing_if = "Option::is_none")]
            page_index: Option<i32>,
        }
        Body {
            r#type: self.r#type,
            page_size: self.page_size,
            page_index: self.page_index,
        }
    }

    fn read(result: &mut Fields<'_>) -> QueryConfigResponse {
        QueryConfigResponse {
            lines: result.objects("lines").iter_mut().map(line).collect(),
            robots: result.objects("robots").iter_mut().map(robot).collect(),
            urls: result
                .objects("urls")
                .iter_mut()
                .map(callback_url)
                .collect(),
            voices: result
                .objects("voices")
                .iter_mut()
                .map(speaking_voice)
                .collect(),
            robot_total: result.int32("robotTotal"),
        }
    }
}

fn line(f: &mut Fields<'_>) -> Line {
    let status_code = f.int32("status");
    Line {
        line_num: f.text("line_num"),
        concurrents: f.int32("concurrents"),
        time_work: f.texts("time_work"),
        status: enum_of(status_code, Some(LineStatus::Idle)),
        status_code,
        time_apply: f.int64("time_apply"),
        time_expire: f.int64("time_expire"),
    }
}

fn robot(f: &mut Fields<'_>) -> Robot {
    let (status_code, type_code) = (f.int32("status"), f.int32("type"));
    Robot {
        robot_id: f.text("robot_id"),
        robot_name: f.text("robot_name"),
        call_column: f.texts("call_column"),
        status: enum_of(status_code, None::<RobotStatus>),
        status_code,
        r#type: enum_of(type_code, None::<RobotType>),
        type_code,
        deleted: f.bool("deleted"),
        time_create: f.int64("time_create"),
        time_update: f.int64("time_update"),
    }
}

fn callback_url(f: &mut Fields<'_>) -> CallbackUrl {
    CallbackUrl {
        url: f.text("url"),
        url_module: f.text("url_module"),
    }
}

fn speaking_voice(f: &mut Fields<'_>) -> SpeakingVoice {
    SpeakingVoice {
        voice_code: f.text("voice_code"),
        voice_name: f.text("voice_name"),
    }
}

impl Operation for CallOutRequest {
    type Reply = CallOutResponse;
    const NAME: &'static str = "call_out";
    const PATH: &'static str = "/outbound/v1/task/callout";
    const EFFECT: Effect = Effect::Changes;
    const PLACES_CALLS: bool = true;

    fn body(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Body<'a> {
            robot_id: &'a str,
            line_num: &'a str,
            call_column: &'a [String],
            call_list: Vec<&'a [String]>,
            #[serde(skip_serializing_if = "is_empty")]
            voice_code: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            robot_speed: Option<i32>,
        }
        Body {
            robot_id: &self.robot_id,
            line_num: &self.line_num,
            call_column: &self.call_column,
            call_list: values(&self.call_list),
            voice_code: &self.voice_code,
            robot_speed: self.robot_speed,
        }
    }

    fn read(result: &mut Fields<'_>) -> CallOutResponse {
        CallOutResponse {
            total: result.int32("total"),
            task_data_ids: result.texts("task_data_ids"),
            push_cursor: String::new(),
        }
    }

    fn named(&self) -> Task {
        Task {
            line_num: self.line_num.clone(),
            ..Task::default()
        }
    }
}

impl Operation for CreateTaskRequest {
    type Reply = CreateTaskResponse;
    const NAME: &'static str = "create_task";
    const PATH: &'static str = "/outbound/v1/task/create";
    const EFFECT: Effect = Effect::Changes;
    const PLACES_CALLS: bool = true;

    fn body(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Body<'a> {
            task_name: &'a str,
            line_num: &'a str,
            robot_id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            recall_count: Option<i32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            time_recall_wait: Option<i64>,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            time_range: &'a [String],
            time_begin: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            time_end: Option<i64>,
            #[serde(skip_serializing_if = "is_empty")]
            voice_code: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            trubo_mode: Option<bool>,
        }
        Body {
            task_name: &self.task_name,
            line_num: &self.line_num,
            robot_id: &self.robot_id,
            recall_count: self.recall_count,
            time_recall_wait: self.time_recall_wait,
            time_range: &self.time_range,
            time_begin: self.time_begin,
            time_end: self.time_end,
            voice_code: &self.voice_code,
            trubo_mode: self.trubo_mode,
        }
    }

    fn read(result: &mut Fields<'_>) -> CreateTaskResponse {
        CreateTaskResponse {
            task_id: result.text("task_id"),
        }
    }

    fn named(&self) -> Task {
        Task {
            line_num: self.line_num.clone(),
            task_name: self.task_name.clone(),
            status: TaskStatus::New.into(),
            ..Task::default()
        }
    }

    fn seen(reply: &CreateTaskResponse) -> Seen<'_> {
        Seen::Created(&reply.task_id)
    }
}

impl Operation for InsertTaskDataRequest {
    type Reply = InsertTaskDataResponse;
    const NAME: &'static str = "insert_task_data";
    const PATH: &'static str = "/outbound/v1/task/insert";
    const EFFECT: Effect = Effect::Changes;
    const PLACES_CALLS: bool = true;

    fn body(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Body<'a> {
            task_id: &'a str,
            call_column: &'a [String],
            call_list: Vec<&'a [String]>,
        }
        Body {
            task_id: &self.task_id,
            call_column: &self.call_column,
            call_list: values(&self.call_list),
        }
    }

    fn read(result: &mut Fields<'_>) -> InsertTaskDataResponse {
        InsertTaskDataResponse {
            total: result.int32("total"),
            task_data_ids: result.texts("task_data_ids"),
            push_cursor: String::new(),
        }
    }

    fn named(&self) -> Task {
        Task {
            task_id: self.task_id.clone(),
            ..Task::default()
        }
    }
}

/// The three operations that name a task and bring back nothing.
#[derive(Serialize)]
struct TaskId<'a> {
    task_id: &'a str,
}

impl Operation for StartTaskRequest {
    type Reply = StartTaskResponse;
    const NAME: &'static str = "start_task";
    const PATH: &'static str = "/outbound/v1/task/start";
    const EFFECT: Effect = Effect::Changes;
    const PLACES_CALLS: bool = true;

    fn body(&self) -> impl Serialize {
        TaskId {
            task_id: &self.task_id,
        }
    }

    fn read(_: &mut Fields<'_>) -> StartTaskResponse {
        StartTaskResponse::default()
    }

    fn named(&self) -> Task {
        Task {
            task_id: self.task_id.clone(),
            status: TaskStatus::Started.into(),
            ..Task::default()
        }
    }
}

impl Operation for PauseTaskRequest {
    type Reply = PauseTaskResponse;
    const NAME: &'static str = "pause_task";
    const PATH: &'static str = "/outbound/v1/task/pause";
    const EFFECT: Effect = Effect::Changes;

    fn body(&self) -> impl Serialize {
        TaskId {
            task_id: &self.task_id,
        }
    }

    fn read(_: &mut Fields<'_>) -> PauseTaskResponse {
        PauseTaskResponse {}
    }

    fn named(&self) -> Task {
        Task {
            task_id: self.task_id.clone(),
            status: TaskStatus::Paused.into(),
            ..Task::default()
        }
    }
}

impl Operation for DeleteTaskRequest {
    type Reply = DeleteTaskResponse;
    const NAME: &'static str = "delete_task";
    const PATH: &'static str = "/outbound/v1/task/delete";
    const EFFECT: Effect = Effect::Changes;

    fn body(&self) -> impl Serialize {
        TaskId {
            task_id: &self.task_id,
        }
    }

    fn read(_: &mut Fields<'_>) -> DeleteTaskResponse {
        DeleteTaskResponse {}
    }

    fn named(&self) -> Task {
        Task {
            task_id: self.task_id.clone(),
            status: TaskStatus::Completed.into(),
            ..Task::default()
        }
    }
}

impl Operation for QueryTasksRequest {
    type Reply = QueryTasksResponse;
    const NAME: &'static str = "query_tasks";
    const PATH: &'static str = "/outbound/v1/task/query";
    const EFFECT: Effect = Effect::Reads;

    fn body(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(skip_serializing_if = "is_empty")]
            task_id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            time_begin: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            time_end: Option<i64>,
            #[serde(skip_serializing_if = "is_empty")]
            task_name: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            page_size: Option<i32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            page_index: Option<i32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            sort_name: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            sort_order: Option<&'static str>,
            #[serde(skip_serializing_if = "BTreeSet::is_empty")]
            task_status_list: BTreeSet<i32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            show_remaining: Option<bool>,
        }
        Body {
            task_id: &self.task_id,
            time_begin: self.time_begin,
            time_end: self.time_end,
            task_name: &self.task_name,
            page_size: self.page_size,
            page_index: self.page_index,
            sort_name: sort_name(self.sort_name()),
            sort_order: sort_order(self.sort_order()),
            task_status_list: self
                .task_status_list()
                .map(task_status_code)
                .chain(self.task_status_code_list.iter().copied())
                .collect(),
            show_remaining: self.show_remaining,
        }
    }

    fn read(result: &mut Fields<'_>) -> QueryTasksResponse {
        QueryTasksResponse {
            total_rows: result.int32("total_rows"),
            rows: result.objects("rows").iter_mut().map(task).collect(),
        }
    }

    fn seen(reply: &QueryTasksResponse) -> Seen<'_> {
        Seen::Tasks(&reply.rows)
    }
}

fn sort_name(name: TaskSortName) -> Option<&'static str> {
    match name {
        TaskSortName::Unspecified => None,
        TaskSortName::Id => Some("ID"),
        TaskSortName::Name => Some("NAME"),
        TaskSortName::CreateTime => Some("CREATETIME"),
        TaskSortName::StartTime => Some("STARTTIME"),
        TaskSortName::EndTime => Some("ENDTIME"),
    }
}

fn sort_order(order: SortOrder) -> Option<&'static str> {
    match order {
        SortOrder::Unspecified => None,
        SortOrder::Asc => Some("ASC"),
        SortOrder::Desc => Some("DESC"),
    }
}

fn task_status_code(status: TaskStatus) -> i32 {
    match status {
        TaskStatus::New => 0,
        other => other.into(),
    }
}

fn task(f: &mut Fields<'_>) -> Task {
    let (status_code, task_type_code) = (f.int32("status"), f.int32("task_type"));
    Task {
        task_id: f.text("task_id"),
        task_name: f.text("task_name"),
        status: enum_of(status_code, Some(TaskStatus::New)),
        status_code,
        deleted: f.bool("deleted"),
        time_task_start: f.int64("time_task_start"),
        time_task_finish: f.int64("time_task_finish"),
        process_count: f.int32("process_count"),
        process_tel_count: f.int32("process_tel_count"),
        process_through_count: f.int32("process_through_count"),
        process_through_rate: f.double("process_through_rate"),
        count_tel: f.int32("count_tel"),
        count_recalled: f.int32("count_recalled"),
        time_task_estimate_begin: f.int64("time_task_estimate_begin"),
        time_task_estimate_end: f.int64("time_task_estimate_end"),
        line_num: f.text("line_num"),
        robot_id: f.text("robot_id"),
        robot_name: f.text("robot_name"),
        voice_code: f.text("voice_code"),
        voice_speed: f.int32("voice_speed"),
        count_max_recall: f.int32("count_max_recall"),
        time_recall_wait: f.int64("time_recall_wait"),
        time_range: f.texts("time_range"),
        intention_push: f.texts("intention_push"),
        status_recall: f.text_or_json("status_recall"),
        count_total_task: f.int32("count_total_task"),
        task_type: enum_of(task_type_code, Some(TaskType::Ordinary)),
        task_type_code,
        remaining: f.int64("remaining"),
    }
}

impl Operation for ListFailedPushFilesRequest {
    type Reply = ListFailedPushFilesResponse;
    const NAME: &'static str = "list_failed_push_files";
    const PATH: &'static str = "/download/v1/push/failed";
    const EFFECT: Effect = Effect::Reads;

    fn body(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(skip_serializing_if = "is_empty")]
            date: &'a str,
        }
        Body { date: &self.date }
    }

    fn read(result: &mut Fields<'_>) -> ListFailedPushFilesResponse {
        let mut urls = result.texts("url");
        // A list in another form is shown as it is, and not as none: nothing can be fetched from
        // there, which is told.
        urls.push(result.text_or_json("url"));
        let files = urls.into_iter().filter(|url| !url.is_empty());
        ListFailedPushFilesResponse {
            files: files
                .map(|url| FailedPushFile {
                    url,
                    absolute_url: String::new(),
                })
                .collect(),
        }
    }
}
