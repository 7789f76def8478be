//! When rows become overdue, and for how long they are, by a clock that the test sets.

use serde_json::json;
use yeta_gateway::proto::OverdueReason::{CallOver, TaskDeleted, TaskFinished};
use yeta_gateway::proto::{CreateTaskRequest, DeleteTaskRequest, OverdueReason, StartTaskRequest};

use yeta_gateway::reconciliation::{OverdueQuery, Report};

use super::world::{DAY, HOUR, MINUTE, World, about};
use crate::backfill::platform::{File, line, zipped};
use crate::submissions::requests::{call_out, create_task, insert};
use crate::support::eventually;

const ANNE: [&str; 2] = ["13000000001", "Anne"];
const BEN: [&str; 2] = ["13000000002", "Ben"];

fn all_of(rows: &[String], reason: OverdueReason) -> Vec<(String, OverdueReason)> {
    let mut rows: Vec<_> = rows.iter().map(|row| (row.clone(), reason)).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn a_direct_call_without_a_record_is_overdue_when_its_time_is_up_and_not_before() {
    let world = World::start(10).await;
    let rows = world.call_out(&call_out("order 1", &[ANNE, BEN])).await;
    assert_eq!(world.overdue_now().await, []);
    assert_eq!(
        world.metric(r#"rows_awaited{account="default"}"#).unwrap(),
        "2"
    );
    world.record(&rows[0]).await;
    world.pass(2 * HOUR - 1);
    assert_eq!(world.overdue_now().await, []);
    assert_eq!(
        world.metric(r#"rows_awaited{account="default"}"#).unwrap(),
        "1"
    );
    world.pass(1);
    assert_eq!(world.overdue_now().await, all_of(&rows[1..], CallOver));
    let row = world.overdue().await.remove(0);
    assert_eq!(
        (&*row.account, &*row.request_id, &*row.task_id),
        ("default", "order 1", "")
    );
    let [submitted, since] = [row.submitted_at, row.overdue_since].map(Option::unwrap);
    assert_eq!(since.seconds - submitted.seconds, 2 * 3600);
    let overdue = r#"rows_overdue{account="default",reason="call_over"}"#;
    assert_eq!(world.metric(overdue).unwrap(), "1");

    // Late, and yet.
    world.record(&rows[1]).await;
    assert_eq!(world.overdue_now().await, []);
    assert_eq!(world.metric(overdue).unwrap(), "0");
}

#[tokio::test]
async fn rows_submitted_without_a_request_id_are_awaited_as_well() {
    let world = World::start(10).await;
    let rows = world.plain(&call_out("", &[ANNE])).await;
    world.pass(2 * HOUR);
    // Nobody waits for their note to be written.
    let overdue = eventually("the overdue row", async || {
        let overdue = world.overdue_now().await;
        (!overdue.is_empty()).then_some(overdue)
    });
    assert_eq!(overdue.await, all_of(&rows, CallOver));
}

#[tokio::test]
async fn pushes_of_a_call_without_its_record_are_no_record() {
    let world = World::start(10).await;
    let rows = world.call_out(&call_out("order", &[ANNE])).await;
    world.push("receiveVoice", &rows[0]).await;
    world.pass(2 * HOUR);
    assert_eq!(world.overdue_now().await, all_of(&rows, CallOver));
}

#[tokio::test]
async fn nothing_is_overdue_whose_record_only_waits_to_be_put_together() {
    let mut world = World::without_assembler(10).await;
    let rows = world.call_out(&call_out("order", &[ANNE, BEN])).await;
    world.pass(2 * HOUR);
    world.record(&rows[0]).await;
    let reconciliation = world.reconciliation.clone();
    let looking = tokio::spawn(async move { reconciliation.round("default").await });
    world.assemble();
    looking.await.unwrap().unwrap();
    let overdue = world.overdue().await;
    assert_eq!(overdue.len(), 1, "{overdue:?}");
    assert_eq!(overdue[0].task_data_id, rows[1]);
}

async fn with_task(world: &World) -> (String, Vec<String>) {
    let begins_now = CreateTaskRequest {
        time_begin: 0,
        ..create_task("task", "task")
    };
    let task = world.create(&begins_now).await;
    let rows = world.insert(&insert("rows", &task, &[ANNE, BEN])).await;
    (task, rows)
}

/// A task runs to its end.
async fn run(world: &World, task: &str) {
    let task_id = task.to_owned();
    world.ask(&StartTaskRequest { task_id }).await;
    world.sandbox.session().await.wait_for_status(task, 4).await;
}

/// Looks so many times, a minute apart.
async fn minutes(world: &World, count: usize) {
    for _ in 0..count {
        world.pass(MINUTE);
        world.look().await;
    }
}

#[tokio::test]
async fn a_row_of_a_task_is_overdue_once_its_task_has_ended_for_a_while() {
    let world = World::start(10).await;
    let (task, rows) = with_task(&world).await;
    // However long it takes.
    for _ in 0..3 {
        world.pass(DAY);
        minutes(&world, 20).await;
        assert_eq!(world.overdue().await, []);
    }
    run(&world, &task).await;
    minutes(&world, 10).await;
    // It was seen by now; ten minutes of that have not passed.
    assert_eq!(world.overdue().await, []);
    world.record(&rows[0]).await;
    minutes(&world, 15).await;
    assert_eq!(world.overdue_now().await, all_of(&rows[1..], TaskFinished));
    let row = world.overdue().await.remove(0);
    assert_eq!((&*row.task_id, &*row.request_id), (&*task, "rows"));
}

#[tokio::test]
async fn a_row_of_a_task_that_was_deleted_is_overdue_for_that_reason() {
    let world = World::start(10).await;
    let (task, rows) = with_task(&world).await;
    minutes(&world, 2).await;
    let task_id = task.clone();
    world.ask(&DeleteTaskRequest { task_id }).await;
    minutes(&world, 10).await;
    assert_eq!(world.overdue().await, []);
    minutes(&world, 15).await;
    assert_eq!(world.overdue_now().await, all_of(&rows, TaskDeleted));
}

#[tokio::test]
async fn while_a_task_cannot_be_asked_about_no_row_of_it_becomes_overdue() {
    let world = World::start(10).await;
    let (task, rows) = with_task(&world).await;
    minutes(&world, 2).await;
    let refused = json!({ "operation": "query", "fault": "code", "code": 10021, "times": 12 });
    world.sandbox.fault(refused).await;
    let task_id = task.clone();
    world.ask(&DeleteTaskRequest { task_id }).await;
    minutes(&world, 100).await;
    assert_eq!(world.overdue().await, []);
    let asked = world.sandbox.counts("query").await;
    assert!(asked["refused"].as_u64() > Some(8), "{asked}");
    // And then it can.
    minutes(&world, 60).await;
    assert_eq!(world.overdue_now().await, all_of(&rows, TaskDeleted));
}

#[tokio::test]
async fn tasks_that_go_on_are_asked_about_less_and_less_often() {
    let world = World::start(10).await;
    let (_, _) = with_task(&world).await;
    minutes(&world, 60).await;
    // Once before the task was created. Met at the first look that is a minute later; then after 1,
    // 2, 4, 8 and every 10 minutes.
    let asked = world.sandbox.counts("query").await["received"].clone();
    assert_eq!(asked, 10);
}

#[tokio::test]
async fn an_overdue_row_is_told_for_as_long_as_configured_and_then_given_up() {
    let world = World::start(10).await;
    let rows = world.call_out(&call_out("order", &[ANNE, BEN])).await;
    world.pass(2 * HOUR);
    assert_eq!(world.overdue_now().await, all_of(&rows, CallOver));
    let world = world.reopen().await;
    world.pass(7 * DAY - 1);
    assert_eq!(world.overdue_now().await, all_of(&rows, CallOver));
    world.pass(1);
    assert_eq!(world.overdue_now().await, []);
    let metric = world.metric(r#"rows_given_up_total{account="default"}"#);
    assert_eq!(metric.unwrap(), "2");
}

#[tokio::test]
async fn each_day_is_reported_once_with_what_was_sent_answered_and_is_missing() {
    let world = World::start(14).await;
    let told = async |world: &World| {
        let told = |of: Report| {
            let numbers = [of.sent, of.answered, of.missing, of.waiting, of.overdue];
            (of.day.to_string(), numbers)
        };
        let reports = world.look().await.into_iter();
        reports.map(told).collect::<Vec<_>>()
    };
    let day = |day: &str, numbers: [u64; 5]| (day.to_owned(), numbers);
    let rows = world.call_out(&call_out("order", &[ANNE, BEN])).await;
    // Yesterday, of which nothing is known, is told to show that somebody counts.
    assert_eq!(told(&world).await, [day("2026-01-14", [0, 0, 0, 0, 0])]);
    world.record(&rows[0]).await;
    world.pass(18 * HOUR);
    assert_eq!(told(&world).await, [], "it is 08:00 of the next day");
    world.pass(HOUR);
    assert_eq!(told(&world).await, [day("2026-01-15", [2, 1, 1, 0, 1])]);

    let world = world.reopen().await;
    assert_eq!(told(&world).await, [], "it was told before");
    // A gateway that was away tells what it has missed telling.
    let more = world.call_out(&call_out("another", &[ANNE, BEN])).await;
    assert_eq!(told(&world).await, []);
    world.record(&more[0]).await;
    world.pass(3 * DAY);
    let missed = [
        day("2026-01-16", [2, 1, 1, 0, 2]),
        day("2026-01-18", [0, 0, 0, 0, 2]),
    ];
    assert_eq!(told(&world).await, missed);
}

#[tokio::test]
async fn files_are_looked_at_again_for_what_is_missing_before_a_day_is_reported() {
    let world = World::start(14).await;
    let rows = world.call_out(&call_out("order", &[ANNE, BEN])).await;
    world.pass(3 * DAY);
    world.backfill.catch_up("default").await.unwrap();
    // The day is covered when a file of it comes.
    let line = |row: &str| line("receiveCallRecord", &about(row), 1_768_464_000_000);
    let file = |row: &str| File::Bytes(zipped(&[("a.txt", &line(row))]));
    world.files.add("2026-01-15", "late.zip", file(&rows[0]));
    let reports = world.look().await;
    assert_eq!(reports.last().unwrap().overdue, 1, "{reports:?}");
    let fetched = world.files.fetched();
    assert_eq!(fetched.len(), 1, "{fetched:?}");

    // The next day: another file, and the first is not read again.
    world.files.add("2026-01-15", "later.zip", file(&rows[1]));
    world.pass(DAY);
    assert_eq!(world.look().await.last().unwrap().overdue, 0);
    assert_eq!(world.files.fetched().len(), 1);
    // While nothing is missing, nothing is looked at again.
    world.files.asked();
    world.pass(DAY);
    assert_eq!(world.look().await.len(), 1);
    assert_eq!(world.files.asked(), [] as [String; 0]);
}

#[tokio::test]
async fn who_may_see_no_account_sees_no_row() {
    let world = World::start(10).await;
    world.call_out(&call_out("order", &[ANNE])).await;
    world.pass(2 * HOUR);
    world.look().await;
    let count = async |accounts: &[&str]| {
        let query = OverdueQuery {
            accounts: Some(accounts.iter().map(|&name| name.to_owned()).collect()),
            size: 10,
            ..OverdueQuery::default()
        };
        world.reconciliation.list(&query).await.unwrap().rows.len()
    };
    assert_eq!(count(&["another", "default"]).await, 1);
    assert_eq!(count(&["another"]).await, 0);
    assert_eq!(count(&[]).await, 0);
}

#[tokio::test]
async fn a_page_names_the_days_that_files_may_be_of() {
    let world = World::start(10).await;
    world.call_out(&call_out("order", &[ANNE])).await;
    let days = async |pass| {
        world.pass(pass);
        world.look().await;
        let query = OverdueQuery {
            size: 10,
            ..OverdueQuery::default()
        };
        let page = world.reconciliation.list(&query).await.unwrap();
        assert_eq!(page.rows.len(), 1);
        let days = page.days;
        days.map(|(from, to)| [from.to_string(), to.to_string()])
    };
    assert_eq!(
        days(2 * HOUR).await,
        None,
        "the platform has no files of today"
    );
    let some = |from: &str, to: &str| Some([from.to_owned(), to.to_owned()]);
    assert_eq!(days(DAY).await, some("2026-01-15", "2026-01-15"));
    assert_eq!(days(3 * DAY).await, some("2026-01-15", "2026-01-18"));
}

#[tokio::test]
async fn many_requests_are_looked_at_and_listed_each_once() {
    let world = World::start(10).await;
    let mut all = Vec::new();
    for index in 0..150 {
        let order = call_out(&format!("order {index}"), &[ANNE]);
        all.extend(world.call_out(&order).await);
    }
    all.sort();
    world.pass(2 * HOUR);
    world.look().await;
    for size in [1, 63, 64, 65, 149, 150, 1000] {
        let mut query = OverdueQuery {
            size,
            ..OverdueQuery::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = world.reconciliation.list(&query).await.unwrap();
            seen.extend(page.rows.into_iter().map(|row| row.task_data_id));
            let Some(next) = page.next else { break };
            query.page_token = next;
        }
        seen.sort();
        assert_eq!(seen, all, "{size}");
    }
}

#[tokio::test]
async fn a_late_file_that_cannot_be_fetched_is_tried_again_by_itself() {
    let world = World::start(14).await;
    let rows = world.call_out(&call_out("order", &[ANNE])).await;
    world.pass(3 * DAY);
    world.backfill.catch_up("default").await.unwrap();
    let line = line("receiveCallRecord", &about(&rows[0]), 1_768_464_000_000);
    world.files.add("2026-01-15", "late.zip", File::Status(503));
    assert_eq!(world.look().await.last().unwrap().overdue, 1);
    let file = File::Bytes(zipped(&[("a.txt", &line)]));
    world.files.change("late.zip", file);
    world.backfill.catch_up("default").await.unwrap();
    assert_eq!(world.overdue_now().await, []);
}
