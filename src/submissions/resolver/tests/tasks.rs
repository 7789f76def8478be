use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::world::{World, key, unknown};
use crate::proto::submission::{Outcome, Request};
use crate::proto::{
    CreateTaskRequest, Submission, SubmissionEvidenceKind, SubmissionOperation, SubmissionState,
};

const BEGIN: i64 = 1_700_000_000_000;

/// A CreateTask that was not answered.
fn create() -> Submission {
    let request = CreateTaskRequest {
        task_name: "七月回访".to_owned(),
        line_num: "055112345678".to_owned(),
        robot_id: "2745001".to_owned(),
        time_begin: BEGIN,
        ..CreateTaskRequest::default()
    };
    Submission {
        operation: SubmissionOperation::CreateTask.into(),
        request: Some(Request::CreateTask(request)),
        ..unknown()
    }
}

/// The task that it makes.
fn task(id: &str) -> Value {
    json!({
        "task_id": id,
        "task_name": "七月回访",
        "line_num": "055112345678",
        "robot_id": "2745001",
        "time_task_estimate_begin": BEGIN,
        "deleted": 0,
    })
}

impl World {
    fn has_task(&self, task: Value) {
        self.desk.tasks.lock().unwrap().push(task);
    }

    async fn look(&self, name: &str) -> Submission {
        let deadline = Instant::now() + Duration::from_secs(60);
        self.resolver
            .look_for_task(&key(name), Some(deadline))
            .await;
        self.stub.get(name)
    }
}

/// What was found, and the tasks that it names.
fn evidence(submission: &Submission) -> (SubmissionEvidenceKind, Vec<&str>) {
    let [evidence] = &submission.evidence[..] else {
        panic!("{:?}", submission.evidence);
    };
    let ids = evidence.task_ids.iter().map(String::as_str).collect();
    (evidence.kind(), ids)
}

#[tokio::test]
async fn a_task_that_is_there_shows_that_it_was_made() {
    let world = World::new().await;
    world.stub.open("a", create());
    let looked = world.look("a").await;
    assert_eq!(looked.state(), SubmissionState::Unknown);
    assert_eq!(evidence(&looked), (SubmissionEvidenceKind::NoTask, vec![]));

    world.has_task(task("7"));
    let looked = world.look("a").await;
    assert_eq!(looked.state(), SubmissionState::Accepted);
    assert_eq!(evidence(&looked), (SubmissionEvidenceKind::Task, vec!["7"]));
    assert!(looked.settled_at.is_some() && looked.unknown_because.is_empty());
    let Some(Outcome::CreateTaskResponse(response)) = &looked.outcome else {
        panic!("{:?}", looked.outcome);
    };
    assert_eq!(response.task_id, "7");

    // What has an outcome is not looked for any more.
    let asked = world.desk.asked.load(Ordering::SeqCst);
    world.look("a").await;
    assert_eq!(world.desk.asked.load(Ordering::SeqCst), asked);
    assert_eq!(world.stub.inner().writes, 2);
}

#[tokio::test]
async fn of_several_tasks_on_any_page_none_is_chosen() {
    let world = World::new().await;
    world.stub.open("a", create());
    world.has_task(task("1"));
    for number in 0..120 {
        let mut other = task(&format!("other {number}"));
        other["task_name"] = json!(format!("七月回访{number}"));
        world.has_task(other);
    }
    world.has_task(task("2"));
    for _ in 0..2 {
        let looked = world.look("a").await;
        assert_eq!(looked.state(), SubmissionState::Unknown);
        let several = (SubmissionEvidenceKind::SeveralTasks, vec!["1", "2"]);
        assert_eq!(evidence(&looked), several);
    }
    // Once one of them turns out to be another submission's, the other is left.
    world.stub.inner().claimed.insert("1".to_owned());
    let looked = world.look("a").await;
    assert_eq!(evidence(&looked), (SubmissionEvidenceKind::Task, vec!["2"]));
}

#[tokio::test]
async fn no_two_submissions_get_the_same_task() {
    let world = World::new().await;
    world.stub.open("a", create());
    world.stub.open("b", create());
    world.has_task(task("7"));
    let (one, other) = tokio::join!(world.look("a"), world.look("b"));
    let mut found = [evidence(&one), evidence(&other)].map(|(kind, _)| kind);
    found.sort();
    let (task, none) = (SubmissionEvidenceKind::Task, SubmissionEvidenceKind::NoTask);
    assert_eq!(found, [task, none]);
}

#[tokio::test]
async fn nothing_is_said_of_a_task_when_the_platform_cannot_be_asked_in_time() {
    let world = World::new().await;
    world.stub.open("a", create());
    world.has_task(task("7"));
    let past = Instant::now();
    world.resolver.look_for_task(&key("a"), Some(past)).await;
    assert_eq!(world.stub.get("a").evidence, []);
    assert_eq!(world.stub.inner().writes, 0);
}

#[tokio::test]
async fn a_task_is_looked_for_until_it_is_there() {
    let world = World::new().await;
    let running = world.run();
    world.stub.open("a", create());
    world.stub.until(|inner| inner.writes >= 2).await;
    world.has_task(task("7"));
    world.stub.accepted("a").await;
    world.stub.open("b", create());
    world
        .stub
        .until(|inner| !inner.submissions["b"].evidence.is_empty())
        .await;
    assert_eq!(
        evidence(&world.stub.get("b")).0,
        SubmissionEvidenceKind::NoTask
    );
    world.stop.cancel();
    running.await.unwrap();
}
