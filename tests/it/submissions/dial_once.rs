//! Nobody is dialled twice: submissions under request ids through every fault of the sandbox,
//! kills of the gateway, repeats later and at the same time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Request;
use yeta_gateway::proto::{ListSubmissionsRequest, SubmissionOperation, submission};

use super::requests::{Told, call_out, create_task, insert, submission, told, told_by};
use super::stage::{Outbound, Place, Stage, fast, outbound};
use super::upload::number;
use crate::support::within;

const SUBMISSIONS: usize = 2_100;
const KILLS: usize = 12;
/// Clients at work at a time.
const CLIENTS: usize = 32;
/// Between two kills at most so many submissions come to an end.
const BETWEEN: usize = 150;
/// Among so many submissions the token is refused twice.
const REFUSED_TOKENS: usize = 400;
/// How long some clients wait for their first answer.
const SHORT: Duration = Duration::from_millis(300);
/// How often a client that is told that the outcome is unknown asks again.
const ASKED: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_is_dialled_twice_whatever_breaks_and_each_submission_comes_to_an_end() {
    let seed: u64 =
        std::env::var("YETA_TEST_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    println!("seed {seed} (YETA_TEST_SEED={seed} to run it again)");
    let mut stage = Stage::set(fast(), MORE).await;
    let task = stage.task("rows").await;
    let plans: Vec<_> = (0..SUBMISSIONS)
        .map(|index| Plan::new(seed, index, &task))
        .collect();
    let plans = Arc::new(plans);
    let sandbox = Arc::new(Admin::of(&stage));

    let began = Instant::now();
    let done = watch::Sender::new(0);
    let mut clients = JoinSet::new();
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..CLIENTS {
        let (plans, next, sandbox) = (plans.clone(), next.clone(), sandbox.clone());
        let (place, done) = (stage.place(), done.clone());
        clients.spawn(async move {
            let mut ends = Vec::new();
            while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                ends.push((plan.index, plan.submit(place.clone(), &sandbox).await));
                done.send_modify(|count| *count += 1);
            }
            ends
        });
    }
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..KILLS {
        let more = random.random_range(BETWEEN / 2..=BETWEEN);
        let wanted = *done.borrow() + more;
        let mut done = done.subscribe();
        within("submissions", done.wait_for(|now| *now >= wanted))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_micros(random.random_range(0..5000))).await;
        stage.kill_and_start().await;
    }
    println!(
        "{} submissions at the last kill, {:?}",
        *done.borrow(),
        began.elapsed()
    );
    let mut ends = HashMap::new();
    while let Some(client) = within("a client's end", clients.join_next()).await {
        ends.extend(client.unwrap());
    }
    assert_eq!(ends.len(), SUBMISSIONS);
    println!("submitted in {:?}", began.elapsed());
    stage.kill_and_start().await;
    sandbox.post("DELETE", "faults", &Value::Null).await;

    let report = repeat_all(&stage, &plans, &ends).await;
    println!("{KILLS} kills, {report:?}, {:?}", began.elapsed());
    check_dialled(&stage, &plans, &ends).await;
    check_listed(&stage, &plans).await;
    println!("checked, {:?}", began.elapsed());
}

/// Further keys of the gateway's configuration.
const MORE: &str = "platform.max_requests_per_second = 1000000";

/// The operations that take request ids.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    CallOut,
    Create,
    Insert,
}

/// One submission: what is asked for, and what goes wrong.
struct Plan {
    index: usize,
    id: String,
    operation: Operation,
    task: String,
    rows: Vec<[String; 2]>,
    fault: Option<Value>,
    /// How many clients ask at once.
    at_once: usize,
    /// Whether the first answer is not waited for for long.
    is_hasty: bool,
}

impl Plan {
    fn new(seed: u64, index: usize, task: &str) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9));
        let operation = match random.random_range(0..20) {
            0 | 1 => Operation::Create,
            2..11 => Operation::CallOut,
            _ => Operation::Insert,
        };
        let rows = random.random_range(1..=5);
        let rows = (0..rows)
            .map(|row| [number(index * 5 + row), format!("s{index} r{row}")])
            .collect();
        let is_hasty = random.random_ratio(1, 15);
        let fault = if is_hasty {
            Some(json!({ "fault": "latency", "millis": 700 }))
        } else {
            random.random_ratio(2, 5).then(|| faults(&mut random))
        };
        // Few: tokens that are refused again and again are asked for ever more slowly.
        let fault = match index % REFUSED_TOKENS {
            0 => Some(json!({ "fault": "refuse_token" })),
            1 => Some(json!({ "fault": "refuse_token", "kill": true })),
            _ => fault,
        };
        let at_once = if random.random_ratio(1, 4) {
            random.random_range(2..=4)
        } else {
            1
        };
        Self {
            index,
            id: format!("submission-{index}"),
            operation,
            task: task.to_owned(),
            rows,
            fault: fault.map(|mut fault| {
                fault["operation"] = json!(operation.name());
                fault
            }),
            at_once,
            is_hasty,
        }
    }

    /// Asks until there is an end.
    async fn submit(&self, mut place: Place, sandbox: &Admin) -> Told {
        if let Some(fault) = &self.fault {
            sandbox.post("POST", "faults", fault).await;
        }
        let mut unknown = 0;
        let mut hasty = self.is_hasty;
        for _ in 0..10_000 {
            let now = place.wait_for(Option::is_some).await.unwrap().clone();
            let client = outbound(&now.unwrap().grpc);
            let timeout = hasty.then_some(SHORT);
            hasty = false;
            let all = (0..self.at_once).map(|_| self.ask(client.clone(), timeout));
            let all = within("answers", join_all(all)).await;
            match agreed(&all) {
                Told::Again(_) => tokio::task::yield_now().await,
                Told::Unknown if unknown < ASKED => unknown += 1,
                end => return end,
            }
        }
        panic!("{} comes to no end", self.id)
    }

    async fn ask(&self, mut client: Outbound, timeout: Option<Duration>) -> Told {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| row.each_ref().map(|it| &**it))
            .collect();
        match self.operation {
            Operation::CallOut => {
                let request = hurried(call_out(&self.id, &rows), timeout);
                told(client.call_out(request).await)
            }
            Operation::Create => {
                let request = hurried(create_task(&self.id, &self.id), timeout);
                told(client.create_task(request).await)
            }
            Operation::Insert => {
                let request = hurried(insert(&self.id, &self.task, &rows), timeout);
                told(client.insert_task_data(request).await)
            }
        }
    }

    /// What the sandbox calls its rows.
    fn contents(&self) -> Vec<String> {
        let content = |[number, text]: &[String; 2]| match self.operation {
            Operation::Insert => json!([number, text, "t3"]).to_string(),
            _ => json!([number, text]).to_string(),
        };
        self.rows.iter().map(content).collect()
    }
}

fn hurried<T>(message: T, timeout: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    request
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::CallOut => "callout",
            Self::Create => "create",
            Self::Insert => "insert",
        }
    }
}

/// Something that goes wrong, or only oddly. An answer with a code is the platform's word, so that
/// nothing is applied behind it.
fn faults(random: &mut StdRng) -> Value {
    let all = [
        json!({ "fault": "code", "code": 200_209 }),
        json!({ "fault": "code", "code": 77 }),
        json!({ "fault": "busy" }),
        json!({ "fault": "http_500" }),
        json!({ "fault": "http_500", "text": true }),
        json!({ "fault": "http_500", "text": true, "applied": true }),
        json!({ "fault": "html" }),
        json!({ "fault": "html", "applied": true }),
        json!({ "fault": "latency", "millis": 100 }),
        json!({ "fault": "wrong_content_type" }),
        json!({ "fault": "numbers_as_strings" }),
        json!({ "fault": "strings_as_numbers" }),
        json!({ "fault": "null_fields" }),
        json!({ "fault": "unknown_fields" }),
        json!({ "fault": "invalid_json_strings" }),
        json!({ "fault": "cut_before_reading" }),
        json!({ "fault": "cut_after_reading" }),
        json!({ "fault": "cut_mid_answer" }),
        json!({ "fault": "close_after_answer" }),
    ];
    all[random.random_range(0..all.len())].clone()
}

/// What several who asked at once were told, which must be one thing or nothing yet.
fn agreed(all: &[Told]) -> Told {
    let settled: Vec<_> = all
        .iter()
        .filter(|told| matches!(told, Told::Accepted(_) | Told::Refused(_)))
        .collect();
    if let Some(first) = settled.first() {
        assert!(settled.iter().all(|told| same(first, told)), "{all:?}");
        return (*first).clone();
    }
    let unknown = all.contains(&Told::Unknown);
    if unknown {
        Told::Unknown
    } else {
        all[0].clone()
    }
}

/// Whether two outcomes are one. Ids that only a call record tells may have come since.
fn same(earlier: &Told, later: &Told) -> bool {
    match (earlier, later) {
        (Told::Accepted(a), Told::Accepted(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(a, b)| a == b || a.is_empty() || b.is_empty())
        }
        (Told::Unknown, Told::Accepted(_)) => true,
        (earlier, later) => earlier == later,
    }
}

/// How many ended how.
#[derive(Debug, Default)]
struct Ends {
    accepted: usize,
    refused: usize,
    unknown: usize,
    /// Were unknown to their client, and have been found by evidence since.
    found: usize,
}

/// Each asked for once more tells what it told before, and so does `GetSubmission`.
async fn repeat_all(stage: &Stage, plans: &[Plan], ends: &HashMap<usize, Told>) -> Ends {
    let mut report = Ends::default();
    let mut client = stage.outbound();
    for plans in plans.chunks(64) {
        let repeats = plans.iter().map(|plan| plan.ask(client.clone(), None));
        for (plan, again) in plans.iter().zip(join_all(repeats).await) {
            let end = &ends[&plan.index];
            assert!(same(end, &again), "{}: {end:?}, then {again:?}", plan.id);
            match (end, &again) {
                (Told::Unknown, Told::Accepted(_)) => report.found += 1,
                (Told::Accepted(_), _) => report.accepted += 1,
                (Told::Refused(_), _) => report.refused += 1,
                _ => report.unknown += 1,
            }
            let kept = submission(&mut client, &plan.id).await.unwrap();
            assert!(same(&again, &told_by(&kept)), "{again:?}, {kept:?}");
            assert_eq!((&*kept.request_id, &*kept.account), (&*plan.id, "default"));
            assert!(kept.created_at.is_some());
            let operation = match (plan.operation, kept.request.as_ref().unwrap()) {
                (Operation::CallOut, submission::Request::CallOut(_)) => {
                    SubmissionOperation::CallOut
                }
                (Operation::Create, submission::Request::CreateTask(_)) => {
                    SubmissionOperation::CreateTask
                }
                (Operation::Insert, submission::Request::InsertTaskData(_)) => {
                    SubmissionOperation::InsertTaskData
                }
                _ => panic!("{kept:?}"),
            };
            assert_eq!(kept.operation(), operation);
        }
    }
    report
}

/// Nothing was accepted twice; what was told to be accepted was, under these ids, and what was
/// told to be refused was not.
async fn check_dialled(stage: &Stage, plans: &[Plan], ends: &HashMap<usize, Told>) {
    let report = stage.sandbox.get("/sandbox/requests").await;
    let rows = &report["rows"];
    assert_eq!(rows["accepted_again"], 0);
    let session = stage.sandbox.session().await;
    for plan in plans {
        let end = &ends[&plan.index];
        if plan.operation == Operation::Create {
            let by_name = json!({ "task_name": plan.id, "page_size": 50 });
            let found = session.result("query", by_name).await;
            // The name may be a part of another's.
            let tasks = found["rows"].as_array().unwrap().iter();
            let tasks: Vec<_> = tasks
                .filter(|task| task["task_name"] == *plan.id)
                .map(|task| task["task_id"].as_str().unwrap().to_owned())
                .collect();
            assert!(tasks.len() <= 1, "{} was made twice", plan.id);
            check_held(plan, end, &tasks);
            continue;
        }
        for (place, content) in plan.contents().iter().enumerate() {
            let ids: Vec<String> =
                serde_json::from_value(rows["ids_by_content"][content].clone()).unwrap_or_default();
            assert!(ids.len() <= 1, "{} is dialled twice: {ids:?}", plan.id);
            let end = match end {
                Told::Accepted(told) if told[place].is_empty() => Told::Accepted(ids.clone()),
                Told::Accepted(told) => Told::Accepted(vec![told[place].clone()]),
                end => end.clone(),
            };
            check_held(plan, &end, &ids);
        }
    }
}

fn check_held(plan: &Plan, end: &Told, held: &[String]) {
    match end {
        Told::Accepted(told) => {
            assert_eq!((told.as_slice(), held.len()), (held, 1), "{}", plan.id);
        }
        Told::Refused(_) => assert_eq!(held, [""; 0], "{} was refused", plan.id),
        _ => {}
    }
}

/// All are listed, page by page.
async fn check_listed(stage: &Stage, plans: &[Plan]) {
    let mut client = stage.outbound();
    let mut request = ListSubmissionsRequest {
        page_size: 500,
        ..ListSubmissionsRequest::default()
    };
    let mut listed = HashSet::new();
    loop {
        let page = client
            .list_submissions(request.clone())
            .await
            .unwrap()
            .into_inner();
        for submission in page.submissions {
            let id = submission.request_id;
            assert!(listed.insert(id.clone()), "{id} is listed twice");
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let all: HashSet<_> = plans.iter().map(|plan| plan.id.clone()).collect();
    assert_eq!(listed, all);
}

/// Orders faults while the stage is at work.
struct Admin {
    http: reqwest::Client,
    base: String,
}

impl Admin {
    fn of(stage: &Stage) -> Self {
        // The client needs a provider although it speaks no TLS here; another test may have set it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            http: reqwest::Client::new(),
            base: stage.sandbox.base.clone(),
        }
    }

    async fn post(&self, method: &str, path: &str, body: &Value) {
        let url = format!("{}/sandbox/{path}", self.base);
        let request = self
            .http
            .request(method.parse().unwrap(), url)
            .body(body.to_string());
        assert!(request.send().await.unwrap().status().is_success());
    }
}
