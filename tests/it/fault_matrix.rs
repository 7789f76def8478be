//! Every operation under every fault of the sandbox: what reaches the platform,
//! and what the client is told.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::{Code, Request, Status};
use yeta_gateway::{
    proto::{
        CallOutRequest, CreateTaskRequest, DeleteTaskRequest, InsertTaskDataRequest,
        PauseTaskRequest, QueryConfigRequest, QueryTasksRequest, Row, StartTaskRequest,
    },
    sandbox::SandboxConfig,
};

use crate::{
    bridge::{Bridge, reason},
    sandbox::harness::Sandbox,
};

const READS: [&str; 2] = ["config", "query"];
const CHANGES: [&str; 6] = ["callout", "create", "insert", "start", "pause", "delete"];

/// A sandbox, a gateway before it, and a task in the state that `operation`
/// needs.
struct Stage {
    sandbox: Sandbox,
    bridge: Bridge,
    operation: &'static str,
    task_id: String,
}

fn rows() -> Vec<Row> {
    vec![Row {
        values: vec!["13000000001".into(), "t2".into(), "t3".into()],
    }]
}

impl Stage {
    async fn set(operation: &'static str) -> Self {
        let sandbox = Sandbox::start(SandboxConfig::default()).await;
        let bridge = Bridge::start(&sandbox.base).await;
        let mut stage = Self {
            sandbox,
            bridge,
            operation,
            task_id: String::new(),
        };
        if matches!(operation, "insert" | "start" | "pause" | "delete") {
            let created = stage.create().await.unwrap();
            stage.task_id = created;
        }
        if matches!(operation, "start" | "pause") {
            stage.perform("insert", None).await.unwrap();
        }
        if operation == "pause" {
            stage.perform("start", None).await.unwrap();
        }
        stage
    }

    async fn create(&self) -> Result<String, Status> {
        let request = CreateTaskRequest {
            task_name: "测试外呼".into(),
            line_num: "055169101407".into(),
            robot_id: "11".into(),
            time_range: vec!["00:00:00-23:59:59".into()],
            // Far off, so that the task stays as it is.
            time_begin: 4_000_000_000_000,
            ..CreateTaskRequest::default()
        };
        let mut client = self.bridge.outbound.clone();
        Ok(client.create_task(request).await?.into_inner().task_id)
    }

    async fn perform(&self, operation: &str, timeout: Option<Duration>) -> Result<(), Status> {
        fn request<T>(message: T, timeout: Option<Duration>) -> Request<T> {
            let mut request = Request::new(message);
            if let Some(timeout) = timeout {
                request.set_timeout(timeout);
            }
            request
        }
        let (mut outbound, mut config) = (self.bridge.outbound.clone(), self.bridge.config.clone());
        let task_id = self.task_id.clone();
        let columns = vec!["客户手机号码".into(), "列2".into(), "列3".into()];
        match operation {
            "config" => {
                let message = QueryConfigRequest::default();
                config.query_config(request(message, timeout)).await?;
            }
            "query" => {
                let message = QueryTasksRequest::default();
                outbound.query_tasks(request(message, timeout)).await?;
            }
            "callout" => {
                let message = CallOutRequest {
                    robot_id: "719".into(),
                    line_num: "69101338".into(),
                    call_column: vec!["客户手机号码".into(), "姓名".into()],
                    call_list: vec![Row {
                        values: vec!["13000000001".into(), "张先生".into()],
                    }],
                    ..CallOutRequest::default()
                };
                outbound.call_out(request(message, timeout)).await?;
            }
            "create" => {
                let message = CreateTaskRequest {
                    task_name: "测试外呼".into(),
                    line_num: "055169101407".into(),
                    robot_id: "11".into(),
                    time_range: vec!["00:00:00-23:59:59".into()],
                    time_begin: 4_000_000_000_000,
                    ..CreateTaskRequest::default()
                };
                outbound.create_task(request(message, timeout)).await?;
            }
            "insert" => {
                let message = InsertTaskDataRequest {
                    task_id,
                    call_column: columns,
                    call_list: rows(),
                    ..InsertTaskDataRequest::default()
                };
                outbound.insert_task_data(request(message, timeout)).await?;
            }
            "start" => {
                let message = StartTaskRequest { task_id };
                outbound.start_task(request(message, timeout)).await?;
            }
            "pause" => {
                let message = PauseTaskRequest { task_id };
                outbound.pause_task(request(message, timeout)).await?;
            }
            "delete" => {
                let message = DeleteTaskRequest { task_id };
                outbound.delete_task(request(message, timeout)).await?;
            }
            other => panic!("{other}"),
        }
        Ok(())
    }

    /// Performs the operation under the fault. Returns its outcome, how many
    /// requests reached the platform, and how many were carried out.
    async fn under(
        &self,
        fault: Value,
        timeout: Option<Duration>,
    ) -> (Result<(), Status>, u64, u64) {
        let before = self.counts().await;
        self.sandbox.fault(fault).await;
        let outcome = self.perform(self.operation, timeout).await;
        let after = self.counts().await;
        (outcome, after.0 - before.0, after.1 - before.1)
    }

    async fn counts(&self) -> (u64, u64) {
        let counts = self.sandbox.counts(self.operation).await;
        let count = |name: &str| counts[name].as_u64().unwrap_or(0);
        (count("received"), count("applied"))
    }
}

fn fault(operation: &str, fault: &str, times: u64) -> Value {
    // The text of a 500 is plain; one in JSON would be a refusal with a code.
    let text = fault == "http_500";
    json!({ "operation": operation, "fault": fault, "times": times, "text": text })
}

/// How long a caller waits for an operation that is made slower than that.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(2));

fn slow(operation: &str) -> Value {
    json!({ "operation": operation, "fault": "latency", "millis": 3000 })
}

fn ours(code: Code, reason: &str) -> (Code, String, String) {
    (code, reason.to_owned(), "yeta-gateway".to_owned())
}

/// Faults after which nobody can know what the platform did.
const UNREADABLE: [&str; 5] = [
    "http_500",
    "html",
    "cut_before_reading",
    "cut_after_reading",
    "cut_mid_answer",
];

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_sent_once_and_its_outcome_is_unknown() {
    for operation in CHANGES {
        for name in UNREADABLE {
            let stage = Stage::set(operation).await;
            let (outcome, received, applied) = stage.under(fault(operation, name, 1), None).await;
            let found = reason(&outcome.unwrap_err());
            assert_eq!(
                found,
                ours(Code::Unknown, "OUTCOME_UNKNOWN"),
                "{operation} {name}"
            );
            assert_eq!(received, 1, "{operation} {name}");
            assert!(applied <= 1, "{operation} {name}");
        }
    }
}

#[tokio::test]
async fn a_change_that_outlasts_the_deadline_is_sent_once_and_its_outcome_is_unknown() {
    let cases = CHANGES.map(async |operation| {
        let stage = Stage::set(operation).await;
        let (outcome, _, _) = stage.under(slow(operation), PATIENCE).await;
        let found = reason(&outcome.unwrap_err());
        let expected = ours(Code::DeadlineExceeded, "OUTCOME_UNKNOWN");
        assert_eq!(found, expected, "{operation}");
        // Followed to its end although its caller is gone.
        stage.bridge.platform.finish().await;
        assert_eq!(stage.counts().await.0, 1, "{operation}");
    });
    join_all(cases).await;
}

#[tokio::test]
async fn a_change_that_was_provably_refused_is_sent_again_and_done_once() {
    for operation in CHANGES {
        let stage = Stage::set(operation).await;
        let (outcome, received, applied) =
            stage.under(fault(operation, "refuse_token", 1), None).await;
        assert!(outcome.is_ok(), "{operation} {outcome:?}");
        assert_eq!((received, applied), (2, 1), "{operation}");
    }
}

#[tokio::test]
async fn a_change_that_was_refused_twice_is_given_up() {
    for operation in CHANGES {
        let stage = Stage::set(operation).await;
        let (outcome, received, applied) =
            stage.under(fault(operation, "refuse_token", 5), None).await;
        let found = reason(&outcome.unwrap_err());
        assert_eq!(
            (found.0, found.1.as_str()),
            (Code::Unavailable, "TOKEN_REFUSED")
        );
        assert_eq!((received, applied), (2, 0), "{operation}");
    }
}

#[tokio::test]
async fn an_operation_that_finds_the_platform_busy_is_not_sent_again() {
    for operation in CHANGES.into_iter().chain(READS) {
        let stage = Stage::set(operation).await;
        let (outcome, received, applied) = stage.under(fault(operation, "busy", 1), None).await;
        let found = reason(&outcome.unwrap_err());
        assert_eq!(
            (found.0, found.1.as_str()),
            (Code::Unavailable, "PLATFORM_BUSY")
        );
        assert_eq!((received, applied), (1, 0), "{operation}");
    }
}

#[tokio::test]
async fn oddly_written_answers_are_read() {
    let odd = [
        "latency",
        "wrong_content_type",
        "numbers_as_strings",
        "strings_as_numbers",
        "null_fields",
        "unknown_fields",
        "invalid_json_strings",
        "close_after_answer",
    ];
    for operation in CHANGES.into_iter().chain(READS) {
        for name in odd {
            let stage = Stage::set(operation).await;
            let (outcome, received, applied) = stage.under(fault(operation, name, 1), None).await;
            assert!(outcome.is_ok(), "{operation} {name} {outcome:?}");
            assert_eq!((received, applied), (1, 1), "{operation} {name}");
        }
    }
}

#[tokio::test]
async fn a_read_is_repeated_until_it_can_be_read() {
    for operation in READS {
        for name in UNREADABLE {
            let stage = Stage::set(operation).await;
            let (outcome, received, _) = stage.under(fault(operation, name, 2), None).await;
            assert!(outcome.is_ok(), "{operation} {name} {outcome:?}");
            assert_eq!(received, 3, "{operation} {name}");
        }
    }
}

#[tokio::test]
async fn a_read_that_stays_unreadable_is_given_up() {
    for operation in READS {
        for name in UNREADABLE {
            let stage = Stage::set(operation).await;
            let (outcome, received, _) = stage.under(fault(operation, name, 9), None).await;
            let found = reason(&outcome.unwrap_err());
            assert_eq!(
                found,
                ours(Code::Unavailable, "PLATFORM_UNREADABLE"),
                "{operation} {name}"
            );
            assert_eq!(received, 3, "{operation} {name}");
        }
    }
}

#[tokio::test]
async fn a_read_that_outlasts_the_deadline_is_told_so() {
    let cases = READS.map(async |operation| {
        let stage = Stage::set(operation).await;
        let (outcome, _, _) = stage.under(slow(operation), PATIENCE).await;
        let found = reason(&outcome.unwrap_err());
        assert_eq!(
            found,
            ours(Code::DeadlineExceeded, "DEADLINE"),
            "{operation}"
        );
    });
    join_all(cases).await;
}

#[tokio::test]
async fn nothing_reaches_a_platform_that_cannot_be_connected_to() {
    for operation in CHANGES.into_iter().chain(READS) {
        let stage = Stage::set(operation).await;
        let Stage {
            sandbox,
            bridge,
            task_id,
            ..
        } = stage;
        // A token is there; the sandbox goes, and its port with it.
        drop(sandbox);
        let stage = Stage {
            sandbox: Sandbox::start(SandboxConfig::default()).await,
            bridge,
            operation,
            task_id,
        };
        let status = crate::sandbox::harness::eventually(async || {
            let status = stage.perform(operation, None).await.err()?;
            // The sandbox may take a moment to close its connections.
            (reason(&status).1 == "PLATFORM_UNREACHABLE").then_some(status)
        })
        .await;
        assert_eq!(
            reason(&status),
            ours(Code::Unavailable, "PLATFORM_UNREACHABLE")
        );
    }
}

#[tokio::test]
async fn a_connection_closed_after_its_answer_does_no_harm_to_the_next_submission() {
    let stage = Stage::set("callout").await;
    for round in 0..20 {
        let (outcome, received, applied) = stage
            .under(fault("callout", "close_after_answer", 1), None)
            .await;
        assert!(outcome.is_ok(), "{round} {outcome:?}");
        assert_eq!((received, applied), (1, 1), "{round}");
    }
}
