//! The clients of a world: what each submits, how often it asks again, and what it learns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::book::tagged_column;
use super::gateway::{Gateway, House};
use crate::platform::Proof;
use crate::proto::submission::Outcome;
use crate::proto::upload_header::Target;
use crate::proto::{
    CallOutRequest, CreateTaskRequest, DirectCall, InsertTaskDataRequest, Row, Submission,
    UploadHeader, UploadRow,
};
use crate::submissions::{Caller, RowOutcome, Stopped, SubmissionsError, Submit, UploadEvent};

pub const CALLER: Caller<'static> = Caller {
    account: "a",
    client: "b",
};

/// What a client submits.
#[derive(Clone, Debug)]
pub enum Plan {
    CallOut(CallOutRequest),
    Insert(InsertTaskDataRequest),
    Create(CreateTaskRequest),
    Upload(UploadHeader, Vec<UploadRow>),
}

/// A client's submission, under a number of its own.
#[derive(Clone, Debug)]
pub struct Client {
    pub tag: u32,
    pub plan: Plan,
    /// Whether it has an id, so that it can be repeated.
    pub is_tracked: bool,
    pub start: Duration,
}

/// What a client has learned.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// The ids that it was given; of an upload by row key.
    pub ids: BTreeMap<String, String>,
    /// Whether it was accepted, and refused, at some time.
    pub is_accepted: bool,
    pub is_refused: bool,
    /// How often it asked.
    pub asked: u32,
}

/// How one ask ended.
pub enum End {
    /// Accepted, with these ids.
    Accepted(Vec<String>),
    Refused,
    Unknown,
    /// Each row of an upload has a result.
    Ended,
    /// Nothing was sent; it may be asked for again.
    NotSent,
    /// The gateway died, or its task.
    Lost,
}

/// Numbers and names that many submissions share.
const NUMBERS: u32 = 8;

impl Client {
    /// A client of a world that has this task.
    pub fn draw(tag: u32, task: &str, random: &mut StdRng) -> Self {
        let is_tracked = random.random_ratio(3, 4);
        let plan = match random.random_range(0..25) {
            0..12 => Plan::CallOut(CallOutRequest {
                robot_id: "7".to_owned(),
                line_num: "0551".to_owned(),
                call_column: columns(tag),
                call_list: rows(random),
                request_id: id(is_tracked, tag),
                ..CallOutRequest::default()
            }),
            12..18 => Plan::Insert(InsertTaskDataRequest {
                task_id: task.to_owned(),
                call_column: columns(tag),
                call_list: rows(random),
                request_id: id(is_tracked, tag),
            }),
            18..24 => Plan::Create(CreateTaskRequest {
                task_name: format!("n{}", random.random_range(0..6)),
                robot_id: "7".to_owned(),
                line_num: "0551".to_owned(),
                voice_code: tag.to_string(),
                time_begin: 1_760_000_000_000,
                request_id: id(is_tracked, tag),
                ..CreateTaskRequest::default()
            }),
            _ => upload(tag, task, random),
        };
        let is_tracked = is_tracked || matches!(plan, Plan::Upload(..));
        Self {
            tag,
            plan,
            is_tracked,
            start: Duration::from_millis(random.random_range(0..60_000)),
        }
    }

    /// Asks until there is an outcome, or patience ends.
    pub async fn run(self, house: Arc<House>) -> (Self, Learned) {
        sleep(self.start).await;
        let mut learned = Learned::default();
        let most = if self.is_tracked { 12 } else { 1 };
        let mut left_after_outcome = house.random(|it| it.random_range(0..3));
        while learned.asked < most {
            let gateway = house.gateway().await;
            let deadline = house.random(|it| {
                let is_bounded = it.random_ratio(1, 3);
                is_bounded.then(|| Duration::from_millis(it.random_range(20..6000)))
            });
            let twins = if self.is_tracked && house.random(|it| it.random_ratio(1, 8)) {
                2
            } else {
                1
            };
            let asks: Vec<_> = (0..twins)
                .map(|_| tokio::spawn(self.clone().ask(gateway.clone(), deadline)))
                .collect();
            let mut ends = Vec::new();
            for ask in asks {
                // An error: it panicked.
                ends.push(ask.await.unwrap_or((End::Lost, BTreeMap::new())));
            }
            learned.asked += 1;
            let mut has_outcome = false;
            for (end, ids) in ends {
                has_outcome |= self.learn(&mut learned, end, ids);
            }
            if has_outcome {
                if left_after_outcome == 0 {
                    break;
                }
                left_after_outcome -= 1;
            }
            let pause = house.random(|it| it.random_range(10..8000));
            sleep(Duration::from_millis(pause)).await;
        }
        (self, learned)
    }

    /// Takes what an ask has brought; says whether that is an outcome.
    pub fn learn(&self, learned: &mut Learned, end: End, rows: BTreeMap<String, String>) -> bool {
        for (key, id) in rows {
            learn_id(learned, self.tag, &key, &id);
        }
        match end {
            End::Accepted(ids) => {
                learned.is_accepted = true;
                for (row, id) in ids.into_iter().enumerate() {
                    if !id.is_empty() {
                        learn_id(learned, self.tag, &row.to_string(), &id);
                    }
                }
                true
            }
            End::Refused => {
                learned.is_refused = true;
                true
            }
            End::Ended => true,
            End::Unknown | End::NotSent | End::Lost => false,
        }
    }

    /// Asks a gateway once.
    pub async fn ask(
        self,
        gateway: Gateway,
        timeout: Option<Duration>,
    ) -> (End, BTreeMap<String, String>) {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let dead = gateway.dead.clone();
        let none = BTreeMap::new;
        let asked = async {
            match &self.plan {
                Plan::CallOut(request) => {
                    let reply = submit(&gateway, request, deadline).await;
                    (
                        reply.map_or_else(|end| end, |it| End::Accepted(it.task_data_ids)),
                        none(),
                    )
                }
                Plan::Insert(request) => {
                    let reply = submit(&gateway, request, deadline).await;
                    (
                        reply.map_or_else(|end| end, |it| End::Accepted(it.task_data_ids)),
                        none(),
                    )
                }
                Plan::Create(request) => {
                    let reply = submit(&gateway, request, deadline).await;
                    (
                        reply.map_or_else(|end| end, |it| End::Accepted(vec![it.task_id])),
                        none(),
                    )
                }
                Plan::Upload(header, rows) => send(&gateway, header, rows).await,
            }
        };
        tokio::select! {
            biased;
            () = dead.cancelled() => (End::Lost, none()),
            end = asked => end,
        }
    }

    /// The rows that the platform should have, by the key that `Learned::ids` has.
    pub fn contents(&self) -> Vec<(String, Vec<String>)> {
        let rows = match &self.plan {
            Plan::CallOut(request) => &request.call_list,
            Plan::Insert(request) => &request.call_list,
            Plan::Create(_) => return Vec::new(),
            Plan::Upload(_, rows) => {
                let rows = rows.iter();
                return rows
                    .map(|row| (row.row_key.clone(), row.values.clone()))
                    .collect();
            }
        };
        let rows = rows.iter().enumerate();
        rows.map(|(at, row)| (at.to_string(), row.values.clone()))
            .collect()
    }

    pub fn request_id(&self) -> String {
        id(self.is_tracked, self.tag)
    }
}

fn learn_id(learned: &mut Learned, tag: u32, key: &str, id: &str) {
    if let Some(before) = learned.ids.insert(key.to_owned(), id.to_owned()) {
        assert_eq!(before, id, "submission {tag}, row {key} got two ids");
    }
}

async fn submit<S: Submit>(
    gateway: &Gateway,
    request: &S,
    deadline: Option<Instant>,
) -> Result<S::Reply, End> {
    let reply = gateway.submissions.submit(CALLER, request, deadline).await;
    reply.map_err(|error| match error {
        SubmissionsError::RefusedBefore { .. } => End::Refused,
        SubmissionsError::Unknown(_) => End::Unknown,
        SubmissionsError::Platform(error) => match error.proof() {
            Proof::NothingSent => End::NotSent,
            Proof::Refused => End::Refused,
            Proof::Nothing => End::Unknown,
        },
        SubmissionsError::Unavailable(_) | SubmissionsError::Closed => End::NotSent,
        other => panic!("unexpected: {other}"),
    })
}

/// Sends an upload's rows once; gives the ids of those that were accepted.
async fn send(
    gateway: &Gateway,
    header: &UploadHeader,
    rows: &[UploadRow],
) -> (End, BTreeMap<String, String>) {
    let mut accepted = BTreeMap::new();
    let drain = CancellationToken::new();
    let session = gateway.submissions.upload(CALLER, header.clone(), drain);
    let Ok(mut session) = session.await else {
        return (End::NotSent, accepted);
    };
    let mut events = session.events().unwrap();
    let rows = rows.to_vec();
    let count = rows.len();
    let sending = tokio::spawn(async move {
        for chunk in rows.chunks(30) {
            session.take(chunk.to_vec()).await?;
        }
        session.finish().await
    });
    let mut results = 0;
    while let Some(event) = events.recv().await {
        let UploadEvent::Row(row) = event else {
            continue;
        };
        results += 1;
        match row.outcome {
            RowOutcome::Accepted(id) => {
                accepted.insert(row.row_key, id);
            }
            RowOutcome::Faulty(fault) => panic!("{fault:?}"),
            outcome @ (RowOutcome::Refused(_) | RowOutcome::Unknown(_)) => {
                if std::env::var("YETA_SIMULATION_SEED").is_ok() {
                    println!("{}: {outcome:?} {}", row.row_key, row.known_before);
                }
            }
        }
    }
    match sending.await {
        Ok(Ok(())) => {
            assert_eq!(
                results, count,
                "each row has a result in a stream that ends well"
            );
            (End::Ended, accepted)
        }
        Ok(Err(Stopped::Idle(_))) => panic!("no stream is idle here"),
        Ok(Err(why)) => {
            if std::env::var("YETA_SIMULATION_SEED").is_ok() {
                println!("upload {} ends early: {why}", header.upload_id);
            }
            (End::Lost, accepted)
        }
        Err(_) => (End::Lost, accepted),
    }
}

fn id(is_tracked: bool, tag: u32) -> String {
    if is_tracked {
        format!("id-{tag}")
    } else {
        String::new()
    }
}

fn columns(tag: u32) -> Vec<String> {
    vec!["phone".to_owned(), tagged_column(tag)]
}

/// Few numbers and fewer values, so that submissions have rows in common; no two rows of one
/// request are the same.
fn rows(random: &mut StdRng) -> Vec<Row> {
    let count = random.random_range(1..4);
    let first = random.random_range(0..NUMBERS);
    let rows = (0..count).map(|at| {
        let number = number(first + at);
        let value = format!("v{}", random.random_range(0..3));
        Row {
            values: vec![number, value],
        }
    });
    rows.collect()
}

fn number(at: u32) -> String {
    format!("1380000{at:04}")
}

/// An upload: mostly numbers of its own, some that others have, and some that the platform refuses.
fn upload(tag: u32, task: &str, random: &mut StdRng) -> Plan {
    let target = if random.random_ratio(1, 2) {
        Target::TaskId(task.to_owned())
    } else {
        Target::Direct(DirectCall {
            robot_id: "7".to_owned(),
            line_num: "0551".to_owned(),
            ..DirectCall::default()
        })
    };
    let header = UploadHeader {
        target: Some(target),
        call_column: columns(tag),
        upload_id: format!("upload-{tag}"),
        ..UploadHeader::default()
    };
    let count = random.random_range(5..110);
    let rows = (0..count).map(|at| {
        let number = match random.random_range(0..60) {
            0 => format!("1990{:03}{at:04}", tag % 1000),
            1..4 if at < NUMBERS => number(at),
            _ => format!("137{:04}{at:04}", tag % 10_000),
        };
        UploadRow {
            row_key: format!("{tag}-{at}"),
            values: vec![number, format!("v{}", random.random_range(0..3))],
        }
    });
    Plan::Upload(header, rows.collect())
}

/// The ids of a submission, by row.
pub fn ids_of(submission: &Submission) -> Vec<String> {
    match &submission.outcome {
        Some(Outcome::CallOutResponse(reply)) => reply.task_data_ids.clone(),
        Some(Outcome::InsertTaskDataResponse(reply)) => reply.task_data_ids.clone(),
        Some(Outcome::CreateTaskResponse(reply)) => vec![reply.task_id.clone()],
        Some(Outcome::Error(_)) | None => Vec::new(),
    }
}
