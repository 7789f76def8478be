//! Outcomes that nobody answered stay unknown, under every repeat, until there is evidence.

use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;
use yeta_gateway::proto::{
    ListSubmissionsRequest, Submission, SubmissionEvidence, SubmissionEvidenceKind, SubmissionState,
};

use super::requests::{Told, accepted, call_out, create_task, insert, submission, told, told_by};
use super::stage::{Stage, fast};
use crate::bridge::reason;
use crate::support::eventually;

/// Numbers that nobody answers: two pushes each.
const ROWS: [[&str; 2]; 2] = [["13000000002", "one"], ["13100000002", "two"]];

async fn cut(stage: &Stage, operation: &str, how: &str) {
    stage
        .sandbox
        .fault(json!({ "operation": operation, "fault": how }))
        .await;
}

/// Waits until a submission is in a state.
async fn when(stage: &Stage, id: &str, state: SubmissionState) -> Submission {
    let mut client = stage.outbound();
    eventually("a submission's state", async || {
        let kept = submission(&mut client, id).await.unwrap();
        (kept.state() == state).then_some(kept)
    })
    .await
}

fn kinds(submission: &Submission) -> Vec<SubmissionEvidenceKind> {
    let evidence = submission.evidence.iter();
    evidence.map(SubmissionEvidence::kind).collect()
}

/// The ids under which the sandbox has these rows.
async fn ids(stage: &Stage) -> Vec<String> {
    let report = stage.sandbox.get("/sandbox/requests").await;
    let of = |row: &[&str; 2]| {
        let ids = &report["rows"]["ids_by_content"][json!(row).to_string()];
        assert_eq!(ids.as_array().unwrap().len(), 1, "{ids}");
        ids[0].as_str().unwrap().to_owned()
    };
    ROWS.iter().map(of).collect()
}

#[tokio::test]
async fn a_callout_whose_answer_is_lost_is_unknown_and_says_so_to_every_repeat() {
    let mut stage = Stage::set(fast(), "").await;
    stage.hold_pushes();
    cut(&stage, "callout", "cut_after_reading").await;
    for round in 0..3 {
        let mut client = stage.outbound();
        let status = client.call_out(call_out("a", &ROWS)).await.unwrap_err();
        let (code, reason, domain) = reason(&status);
        assert_eq!(
            (code, &*reason, &*domain),
            (Code::Unknown, "OUTCOME_UNKNOWN", "yeta-gateway")
        );
        // What was sent, and when.
        let details = status.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        let told = |name: &str| metadata.get(name).map_or("", String::as_str);
        assert_eq!(
            (told("request_id"), told("rows")),
            ("a", "2"),
            "{metadata:?}"
        );
        assert!(told("sent_at").starts_with("20"), "{metadata:?}");
        let kept = submission(&mut client, "a").await.unwrap();
        assert_eq!(told_by(&kept), Told::Unknown);
        assert!(!kept.push_cursor.is_empty());
        assert!(kept.evidence.is_empty(), "{kept:?}");
        if round == 1 {
            stage.kill_and_start().await;
        }
    }
    assert_eq!(stage.row(&ROWS[0]).await, (1, 1));
}

#[tokio::test]
async fn call_records_tell_that_a_callout_was_accepted_and_under_which_ids() {
    for is_killed in [false, true] {
        let mut stage = Stage::set(fast(), "").await;
        stage.hold_pushes();
        cut(&stage, "callout", "cut_after_reading").await;
        let answer = stage.outbound().call_out(call_out("a", &ROWS)).await;
        assert_eq!(told(answer), Told::Unknown);
        let held = ids(&stage).await;
        if is_killed {
            stage.kill_and_start().await;
        }
        stage.let_pushes_through();

        when(&stage, "a", SubmissionState::Accepted).await;
        let mut client = stage.outbound();
        let kept = eventually("both rows' records", async || {
            let kept = submission(&mut client, "a").await.unwrap();
            (told_by(&kept) == Told::Accepted(held.clone())).then_some(kept)
        })
        .await;
        for (row, id) in held.iter().enumerate() {
            let evidence = kept.evidence.iter();
            let mut of_row =
                evidence.filter(|evidence| evidence.row == i32::try_from(row).unwrap());
            let found = of_row.next().unwrap();
            assert_eq!(found.kind(), SubmissionEvidenceKind::CallRecord);
            assert_eq!(&found.task_data_id, id);
            assert!(!found.event_id.is_empty() && !found.call_uuid.is_empty());
            assert!(found.found_at.is_some());
        }
        let repeat = client.call_out(call_out("a", &ROWS)).await;
        assert_eq!(told(repeat), Told::Accepted(held.clone()));
        stage.kill_and_start().await;
        let repeat = stage.outbound().call_out(call_out("a", &ROWS)).await;
        assert_eq!(told(repeat), Told::Accepted(held));
        assert_eq!(stage.row(&ROWS[1]).await, (1, 1));
    }
}

#[tokio::test]
async fn call_records_tell_that_rows_of_a_task_were_accepted() {
    let stage = Stage::set(fast(), "").await;
    let soon = yeta_gateway::proto::CreateTaskRequest {
        time_begin: 1_527_321_492_000,
        ..create_task("", "soon")
    };
    let made = stage.outbound().create_task(soon).await.unwrap();
    let task = made.into_inner().task_id;
    cut(&stage, "insert", "cut_after_reading").await;
    let answer = stage
        .outbound()
        .insert_task_data(insert("a", &task, &ROWS))
        .await;
    assert_eq!(told(answer), Told::Unknown);
    let start = yeta_gateway::proto::StartTaskRequest {
        task_id: task.clone(),
    };
    stage.outbound().start_task(start).await.unwrap();
    when(&stage, "a", SubmissionState::Accepted).await;
    let repeat = stage
        .outbound()
        .insert_task_data(insert("a", &task, &ROWS))
        .await;
    assert!(matches!(told(repeat), Told::Accepted(ids) if ids.len() == 2));
    assert_eq!(stage.row(&[ROWS[0][0], ROWS[0][1], "t3"]).await, (1, 1));
}

#[tokio::test]
async fn pushes_of_rows_like_those_of_before_are_no_evidence() {
    let stage = Stage::set(fast(), "").await;
    // The very same rows, accepted and called before the others are sent.
    let answer = stage.outbound().call_out(call_out("first", &ROWS)).await;
    assert!(matches!(told(answer), Told::Accepted(_)));
    stage
        .sandbox
        .wait_for("/sandbox/pushes", |pushes| pushes["acknowledged"] == 4)
        .await;
    cut(&stage, "callout", "cut_before_reading").await;
    let answer = stage.outbound().call_out(call_out("second", &ROWS)).await;
    assert_eq!(told(answer), Told::Unknown);
    // Others whose records are taken later than that.
    let others = [["13200000002", "three"]];
    let answer = stage.outbound().call_out(call_out("third", &others)).await;
    assert!(matches!(told(answer), Told::Accepted(_)));
    stage
        .sandbox
        .wait_for("/sandbox/pushes", |pushes| pushes["acknowledged"] == 6)
        .await;
    let kept = submission(&mut stage.outbound(), "second").await.unwrap();
    assert_eq!((told_by(&kept), kept.evidence.len()), (Told::Unknown, 0));
}

#[tokio::test]
async fn records_of_rows_that_another_submission_brought_are_no_evidence() {
    let mut stage = Stage::set(fast(), "").await;
    stage.hold_pushes();
    cut(&stage, "callout", "cut_before_reading").await;
    let answer = stage.outbound().call_out(call_out("lost", &ROWS)).await;
    assert_eq!(told(answer), Told::Unknown);
    // The very same rows, once more and well: the records are of these.
    let answer = stage.outbound().call_out(call_out("well", &ROWS)).await;
    assert!(matches!(told(answer), Told::Accepted(_)));
    stage.let_pushes_through();
    stage
        .sandbox
        .wait_for("/sandbox/pushes", |pushes| pushes["acknowledged"] == 4)
        .await;
    let others = [["13200000002", "three"]];
    let answer = stage.outbound().call_out(call_out("third", &others)).await;
    assert!(matches!(told(answer), Told::Accepted(_)));
    stage
        .sandbox
        .wait_for("/sandbox/pushes", |pushes| pushes["acknowledged"] == 6)
        .await;
    let kept = submission(&mut stage.outbound(), "lost").await.unwrap();
    assert_eq!(told_by(&kept), Told::Unknown, "{kept:?}");
}

#[tokio::test]
async fn a_task_whose_creation_was_not_answered_is_found_by_its_name() {
    for is_killed in [false, true] {
        let mut stage = Stage::set(fast(), "").await;
        // Others that have the name in theirs.
        let other = create_task("other", "my task, too");
        stage.outbound().create_task(other).await.unwrap();
        cut(&stage, "create", "cut_after_reading").await;
        let request = create_task("a", "my task");
        let answer = stage.outbound().create_task(request.clone()).await;
        assert_eq!(told(answer), Told::Unknown);
        if is_killed {
            stage.kill_and_start().await;
        }
        let kept = when(&stage, "a", SubmissionState::Accepted).await;
        let session = stage.sandbox.session().await;
        let found = session
            .result("query", json!({ "task_name": "my task" }))
            .await;
        let rows = found["rows"].as_array().unwrap();
        let mut mine = rows.iter().filter(|task| task["task_name"] == "my task");
        let id = mine.next().unwrap()["task_id"].as_str().unwrap();
        assert!(mine.next().is_none());
        assert_eq!(told_by(&kept), accepted(&[id]));
        let evidence = kept.evidence.iter();
        let mut found = evidence.filter(|it| it.kind() == SubmissionEvidenceKind::Task);
        assert_eq!(found.next().unwrap().task_ids, [id]);
        let repeat = stage.outbound().create_task(request).await;
        assert_eq!(told(repeat), accepted(&[id]));
    }
}

#[tokio::test]
async fn a_task_that_cannot_be_found_proves_nothing() {
    let stage = Stage::set(fast(), "").await;
    cut(&stage, "create", "cut_before_reading").await;
    let answer = stage.outbound().create_task(create_task("a", "mine")).await;
    assert_eq!(told(answer), Told::Unknown);
    let mut client = stage.outbound();
    let kept = eventually("a look", async || {
        let kept = submission(&mut client, "a").await.unwrap();
        (!kept.evidence.is_empty()).then_some(kept)
    })
    .await;
    assert_eq!(told_by(&kept), Told::Unknown);
    assert!(
        kinds(&kept)
            .iter()
            .all(|kind| *kind == SubmissionEvidenceKind::NoTask)
    );
    let repeat = stage.outbound().create_task(create_task("a", "mine")).await;
    assert_eq!(told(repeat), Told::Unknown);
    assert_eq!(stage.sandbox.counts("create").await["received"], 1);
}

#[tokio::test]
async fn a_task_that_another_submission_made_is_no_evidence() {
    let stage = Stage::set(fast(), "").await;
    let answer = stage
        .outbound()
        .create_task(create_task("well", "mine"))
        .await;
    let Told::Accepted(made) = told(answer) else {
        panic!("refused")
    };
    cut(&stage, "create", "cut_before_reading").await;
    let answer = stage
        .outbound()
        .create_task(create_task("lost", "mine"))
        .await;
    assert_eq!(told(answer), Told::Unknown);
    let mut client = stage.outbound();
    let kept = eventually("a look", async || {
        let kept = submission(&mut client, "lost").await.unwrap();
        (!kept.evidence.is_empty()).then_some(kept)
    })
    .await;
    assert_eq!(told_by(&kept), Told::Unknown, "{made:?}: {kept:?}");
}

#[tokio::test]
async fn several_tasks_that_may_be_the_one_leave_it_unknown() {
    let stage = Stage::set(fast(), "").await;
    for id in ["a", "b"] {
        cut(&stage, "create", "cut_after_reading").await;
        let answer = stage.outbound().create_task(create_task(id, "mine")).await;
        assert!(!matches!(told(answer), Told::Refused(_)));
    }
    // The first may have been found before the second was made.
    let mut client = stage.outbound();
    let kept = eventually("a look", async || {
        let kept = submission(&mut client, "b").await.unwrap();
        (!kept.evidence.is_empty()).then_some(kept)
    })
    .await;
    let first = submission(&mut client, "a").await.unwrap();
    let (first, second) = (told_by(&first), told_by(&kept));
    assert!(
        first == Told::Unknown || first != second,
        "one task for two: {first:?}"
    );
}

#[tokio::test]
async fn what_is_unknown_is_listed_until_it_is_known() {
    let mut stage = Stage::set(fast(), "").await;
    stage.hold_pushes();
    let mut client = stage.outbound();
    for (id, row) in [("a", ROWS[0]), ("b", ROWS[1])] {
        cut(&stage, "callout", "cut_mid_answer").await;
        assert_eq!(
            told(client.call_out(call_out(id, &[row])).await),
            Told::Unknown
        );
    }
    let answer = client
        .call_out(call_out("c", &[["13300000002", "c"]]))
        .await;
    assert!(matches!(told(answer), Told::Accepted(_)));
    let refused = client
        .call_out(call_out("d", &[["13300009999", "d"]]))
        .await;
    assert_eq!(told(refused), Told::Refused("200203".into()));
    let mut listed = async |state: SubmissionState| {
        let mut ids = Vec::new();
        let mut request = ListSubmissionsRequest {
            state: state.into(),
            page_size: 1,
            ..ListSubmissionsRequest::default()
        };
        loop {
            let page = client
                .list_submissions(request.clone())
                .await
                .unwrap()
                .into_inner();
            assert!(page.submissions.len() <= 1);
            ids.extend(page.submissions.into_iter().map(|it| it.request_id));
            if page.next_page_token.is_empty() {
                return ids;
            }
            request.page_token = page.next_page_token;
        }
    };
    assert_eq!(listed(SubmissionState::Unknown).await, ["a", "b"]);
    assert_eq!(listed(SubmissionState::Accepted).await, ["c"]);
    assert_eq!(listed(SubmissionState::Refused).await, ["d"]);
    assert_eq!(listed(SubmissionState::InFlight).await, [""; 0]);
    assert_eq!(
        listed(SubmissionState::Unspecified).await,
        ["a", "b", "c", "d"]
    );
    stage.let_pushes_through();
    when(&stage, "a", SubmissionState::Accepted).await;
    when(&stage, "b", SubmissionState::Accepted).await;
    assert_eq!(listed(SubmissionState::Unknown).await, [""; 0]);
    assert_eq!(listed(SubmissionState::Accepted).await, ["a", "b", "c"]);
}
