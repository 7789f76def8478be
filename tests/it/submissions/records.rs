//! Call records made by hand, for sandboxes that dial nobody, and lost submissions to hold them
//! against.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use yeta_gateway::proto::{Submission, SubmissionEvidenceKind, SubmissionState};

use super::requests::{CALL_COLUMNS, TASK_COLUMNS, Told, call_out, submission, told};
use super::stage::Stage;
use crate::support::{Http, eventually};

/// The platform's task of all direct calls.
const DIRECT_TASK: &str = "3457986492696704";

pub const HOUR: Duration = Duration::from_secs(3600);

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_millis()).unwrap()
}

/// One call of a row. It has two records: a basic one, and an outbound one with the row's values.
#[derive(Clone)]
pub struct Call {
    values: Vec<String>,
    task_data_id: String,
    task_id: String,
    uuid: String,
    dialled_at: i64,
}

impl Call {
    /// A call that was dialled just now.
    pub fn of(values: &[&str], task_data_id: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            values: values.iter().map(|&value| value.to_owned()).collect(),
            task_data_id: task_data_id.to_owned(),
            task_id: DIRECT_TASK.to_owned(),
            uuid: format!("00000000-0000-0000-0000-{count:012}"),
            dialled_at: now_ms(),
        }
    }

    pub fn in_task(self, task_id: &str) -> Self {
        Self {
            task_id: task_id.to_owned(),
            ..self
        }
    }

    pub fn later(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_millis()).unwrap();
        Self {
            dialled_at: self.dialled_at + by,
            ..self
        }
    }

    pub fn earlier(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_millis()).unwrap();
        Self {
            dialled_at: self.dialled_at - by,
            ..self
        }
    }

    fn basic(&self) -> Value {
        json!({
            "business_id": "10527", "app_id": "123", "robot_id": "719", "direction": 2,
            "caller": "69101338", "callee": self.values[0], "call_uuid": self.uuid,
            "task_id": self.task_id, "task_data_id": self.task_data_id,
            "time_dial": self.dialled_at, "time_ring": self.dialled_at + 500,
            "time_answer": 0, "time_hangup": self.dialled_at + 1_000,
            "duration_ring": 1, "duration_call": 0,
        })
    }

    fn outbound(&self) -> Value {
        let head = match self.values.len() {
            2 => CALL_COLUMNS.to_vec(),
            _ => TASK_COLUMNS.to_vec(),
        };
        let mut record = self.basic();
        record["task_result"] = json!("2");
        record["task_result_desc"] = json!("正在通话中");
        record["task_tries"] = json!(0);
        record["task_row_index"] = json!(7);
        record["task_row_head"] = json!(head);
        record["task_row_value"] = json!(self.values);
        record
    }

    /// Pushes the record without values; it must be stored.
    pub async fn push_basic(&self, stage: &Stage) {
        push(stage, &self.basic()).await;
    }

    /// Pushes the record with values; it must be stored.
    pub async fn push_outbound(&self, stage: &Stage) {
        push(stage, &self.outbound()).await;
    }

    /// Pushes both records, the basic one first.
    pub async fn push(&self, stage: &Stage) {
        self.push_basic(stage).await;
        self.push_outbound(stage).await;
    }
}

async fn push(stage: &Stage, record: &Value) {
    let to = stage.place().borrow().clone().unwrap().push;
    let http = Http::new();
    let answer = http.push(&to, "receiveCallRecord", record.to_string());
    let answer = answer.await.unwrap();
    assert_eq!((answer.status.as_u16(), &*answer.text()), (200, "success"));
}

/// Adds a fault to the sandbox for the next request of an operation.
pub async fn fault(stage: &Stage, operation: &str, fault: &str) {
    let order = json!({ "operation": operation, "fault": fault });
    stage.sandbox.fault(order).await;
}

/// Drops all faults of the sandbox.
pub async fn drop_faults(stage: &Stage) {
    let request = http::Request::delete(format!("{}/sandbox/faults", stage.sandbox.base));
    let request = request.body(<_>::default()).unwrap();
    let dropped = stage.sandbox.exchange(request).await.unwrap();
    assert!(dropped.status.is_success());
}

/// Submits a direct call whose answer is lost: `cut_before_reading` or `cut_after_reading`.
pub async fn lose(stage: &Stage, request_id: &str, rows: &[[&str; 2]], how: &str) {
    fault(stage, "callout", how).await;
    let answer = stage.outbound().call_out(call_out(request_id, rows)).await;
    assert_eq!(told(answer), Told::Unknown, "{request_id}");
}

/// The platform's id of a row that it has accepted once.
pub async fn id_of(stage: &Stage, values: &[&str]) -> String {
    let report = stage.sandbox.get("/sandbox/requests").await;
    let ids = &report["rows"]["ids_by_content"][json!(values).to_string()];
    assert_eq!(ids.as_array().map(Vec::len), Some(1), "{ids}");
    ids[0].as_str().unwrap().to_owned()
}

/// Waits until a submission is in a state.
pub async fn when(stage: &Stage, request_id: &str, state: SubmissionState) -> Submission {
    when_it(stage, request_id, |kept| kept.state() == state).await
}

/// Waits until a submission is as wanted.
pub async fn when_it(
    stage: &Stage,
    request_id: &str,
    is_it: impl Fn(&Submission) -> bool,
) -> Submission {
    let mut client = stage.outbound();
    eventually("a submission as it should become", async || {
        let kept = submission(&mut client, request_id).await.unwrap();
        is_it(&kept).then_some(kept)
    })
    .await
}

/// Waits until the gateway has judged every record pushed so far. It judges records in the order
/// of the log, and the one pushed here settles a submission made for it alone.
pub async fn until_judged(stage: &Stage) {
    static COUNT: AtomicUsize = AtomicUsize::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let number = format!("1390001{count:04}");
    let row = [number.as_str(), "marker"];
    let request_id = format!("marker {count}");
    lose(stage, &request_id, &[row], "cut_after_reading").await;
    let id = id_of(stage, &row).await;
    Call::of(&row, &id).push_outbound(stage).await;
    when(stage, &request_id, SubmissionState::Accepted).await;
}

/// Requires that a submission is unknown to `GetSubmission` and to a repeat, and that no evidence
/// has settled it.
pub async fn assert_unknown(stage: &Stage, request_id: &str, rows: &[[&str; 2]]) {
    let mut client = stage.outbound();
    let kept = submission(&mut client, request_id).await.unwrap();
    assert_eq!(kept.state(), SubmissionState::Unknown, "{kept:?}");
    assert!(kept.evidence.iter().all(|it| !it.settled), "{kept:?}");
    let repeat = client.call_out(call_out(request_id, rows)).await;
    assert_eq!(told(repeat), Told::Unknown, "{request_id}");
}

/// Whether a submission lists evidence of a kind, and whether that has settled it.
pub fn lists(kept: &Submission, kind: SubmissionEvidenceKind, settled: bool) -> bool {
    let mut evidence = kept.evidence.iter();
    evidence.any(|it| it.kind() == kind && it.settled == settled)
}
