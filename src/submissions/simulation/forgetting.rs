//! How long submissions are kept, on simulated time, and what cannot be read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::book::{Weather, World};
use super::clients::{CALLER, Client, End, Plan};
use super::gateway::{Gateway, House};
use crate::proto::{
    CallOutRequest, DirectCall, Row, Submission, SubmissionState, UploadHeader, UploadRow,
    upload_header,
};
use crate::store::{NoteChange, Notes, Survives};
use crate::submissions::SubmissionsError;
use crate::submissions::record::Key;

const DAY: Duration = Duration::from_secs(24 * 3600);
const GOOD: Weather = Weather {
    faults: 0,
    storm: false,
    keeps_good_rows: false,
};

async fn house() -> Arc<House> {
    let house = House::new(1, Arc::new(World::new(1, GOOD)));
    house.start().await;
    house
}

fn request(id: &str) -> CallOutRequest {
    CallOutRequest {
        robot_id: "7".to_owned(),
        line_num: "0551".to_owned(),
        call_column: vec!["phone".to_owned()],
        call_list: vec![Row {
            values: vec!["13800138000".to_owned()],
        }],
        request_id: id.to_owned(),
        ..CallOutRequest::default()
    }
}

async fn submit(house: &House, id: &str) -> Result<String, SubmissionsError> {
    let gateway = house.gateway().await;
    let reply = gateway.submissions.submit(CALLER, &request(id), None).await;
    reply.map(|reply| reply.task_data_ids.concat())
}

async fn upload(house: &House) -> End {
    let client = Client {
        tag: 0,
        plan: Plan::Upload(
            UploadHeader {
                target: Some(upload_header::Target::Direct(DirectCall {
                    robot_id: "7".to_owned(),
                    line_num: "0551".to_owned(),
                    ..DirectCall::default()
                })),
                call_column: vec!["phone".to_owned()],
                upload_id: "u".to_owned(),
                ..UploadHeader::default()
            },
            vec![UploadRow {
                row_key: "k".to_owned(),
                values: vec!["13900139000".to_owned()],
            }],
        ),
        is_tracked: true,
        start: Duration::ZERO,
    };
    client.ask(house.gateway().await, None).await.0
}

fn dialled(house: &House) -> usize {
    house.world.book().rows.len()
}

async fn restart(house: &House) {
    house.kill(false);
    house.start().await;
}

#[tokio::test(start_paused = true)]
async fn no_step_of_the_wall_clock_makes_anything_forgotten() {
    let house = house().await;
    let id = submit(&house, "r").await.unwrap();
    upload(&house).await;
    for days in [31, 400, -31] {
        house.clock_off.store(days * 86_400_000, Ordering::SeqCst);
        // Through sweeps of the running gateway, and of one that was started meanwhile.
        sleep(Duration::from_secs(600)).await;
        restart(&house).await;
        sleep(Duration::from_secs(600)).await;
        assert_eq!(submit(&house, "r").await.unwrap(), id);
        upload(&house).await;
        assert_eq!(dialled(&house), 2, "{days} days");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_forgotten_after_the_time_that_the_store_has_seen() {
    let house = house().await;
    submit(&house, "r").await.unwrap();
    sleep(DAY / 2).await;
    // What no gateway sees does not count.
    house.kill(false);
    sleep(10 * DAY).await;
    house.start().await;
    sleep(Duration::from_secs(12 * 3600 - 120)).await;
    submit(&house, "r").await.unwrap();
    assert_eq!(dialled(&house), 1);
    sleep(Duration::from_secs(300)).await;
    submit(&house, "r").await.unwrap();
    assert_eq!(dialled(&house), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_forgotten_in_the_first_minute_after_a_start() {
    let house = house().await;
    submit(&house, "r").await.unwrap();
    sleep(Duration::from_secs(24 * 3600 - 30)).await;
    // Old by now, if the sweep ran.
    for _ in 0..20 {
        restart(&house).await;
        sleep(Duration::from_secs(55)).await;
        submit(&house, "r").await.unwrap();
    }
    assert_eq!(dialled(&house), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_kept_after_it_was_last_begun_and_its_claims_with_it() {
    let house = house().await;
    upload(&house).await;
    for _ in 0..3 {
        sleep(29 * DAY).await;
        upload(&house).await;
    }
    assert_eq!(dialled(&house), 1);
    sleep(30 * DAY + Duration::from_secs(300)).await;
    let gateway = house.gateway().await;
    for prefix in ["upload", "submission", "row/", "claims/"] {
        let kept = gateway
            .store
            .list(prefix, "submissions-z", 10)
            .await
            .unwrap();
        let kept: Vec<_> = kept.into_iter().map(|(key, _)| key).collect();
        assert_eq!(kept, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_unknown_and_stops_neither_start_nor_sweep() {
    let house = house().await;
    let gateway: Gateway = house.gateway().await;
    let key = Key::of_request("a", "b", "r");
    let open = key.at("submission-open/a/", 5);
    let changes = vec![
        NoteChange::put(key.note(), vec![0xff; 9]),
        NoteChange::put(open, Vec::new()),
    ];
    gateway.store.change(changes, Survives::Kill).await.unwrap();
    restart(&house).await;
    submit(&house, "other").await.unwrap();
    let answer = submit(&house, "r").await;
    assert!(
        matches!(answer, Err(SubmissionsError::Unknown(_))),
        "{answer:?}"
    );
    let gateway = house.gateway().await;
    let kept: Option<Submission> = gateway.submissions.get(CALLER, "r").await.unwrap();
    assert_eq!(kept.unwrap().state(), SubmissionState::Unknown);
    sleep(DAY + Duration::from_secs(300)).await;
    // The sweep has come past it.
    let other = house.gateway().await.submissions.get(CALLER, "other").await;
    assert_eq!(other.unwrap(), None);
    assert_eq!(dialled(&house), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_gateway_ends_when_it_is_told_to() {
    let house = house().await;
    let gateway = house.gateway().await;
    let end = CancellationToken::new();
    end.cancel();
    gateway.submissions.run(end).await;
    gateway.submissions.finish().await;
}
