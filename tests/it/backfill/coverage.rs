//! Which days are covered, and that they are not covered twice.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use yeta_gateway::backfill::file::{FileError, Limits};
use yeta_gateway::backfill::{BackfillError, Progress};
use yeta_gateway::platform::DownloadError;

use super::platform::{File, line, zipped};
use super::world::{DAY, HOUR, World, YESTERDAY, ended};
use crate::support::{PATIENCE, eventually, record};

/// A zip with one record of each of these calls.
fn calls(world: &World, calls: &[&str]) -> File {
    let line = |call: &&str| line("receiveCallRecord", &record(call), world.ago(DAY));
    let lines: Vec<_> = calls.iter().map(line).collect();
    File::Bytes(zipped(&[("a/b/c.txt", &lines.concat())]))
}

fn read(files: u32, lines: u64, added: u64) -> Progress {
    Progress {
        files_done: files,
        files_total: files,
        lines,
        added,
        already_held: lines - added,
        ..Progress::default()
    }
}

#[tokio::test]
async fn the_seven_days_before_today_are_covered_and_none_of_them_again() {
    let world = World::start().await;
    for (n, day) in ["13", "14", "17", "20", "21"].into_iter().enumerate() {
        let path = format!("{day}.zip");
        let file = calls(&world, &[&format!("call {n}"), &format!("other {n}")]);
        world.platform.add(&format!("2026-11-{day}"), &path, file);
    }
    assert_eq!(world.catch_up().await.unwrap(), read(3, 6, 6));
    let days: Vec<_> = (14..=20).map(|day| format!("2026-11-{day}")).collect();
    assert_eq!(world.platform.asked(), days);
    assert_eq!(world.platform.fetched().len(), 3);

    // Of yesterday there may be more files tomorrow; what was read is not read again, also after
    // a restart.
    for _ in 0..2 {
        assert_eq!(world.catch_up().await.unwrap(), Progress::default());
        assert_eq!(world.platform.asked(), [YESTERDAY]);
    }
    let world = world.reopen().await;
    assert_eq!(world.catch_up().await.unwrap(), Progress::default());
    assert_eq!(world.platform.asked(), [YESTERDAY]);
    let late = calls(&world, &["late"]);
    world.platform.add(YESTERDAY, "late.zip", late);
    world.pass(DAY);
    // What was read on the first day after is read once more: it may have grown.
    let grown = calls(&world, &["call 3", "other 3", "grown"]);
    world.platform.change("20.zip", grown);
    assert_eq!(world.catch_up().await.unwrap(), read(3, 6, 4));
    assert_eq!(world.platform.asked(), [YESTERDAY, "2026-11-21"]);
    let fetched: Vec<_> = world
        .platform
        .fetched()
        .into_iter()
        .map(|it| it.0)
        .collect();
    assert_eq!(fetched, ["20.zip", "late.zip", "21.zip"]);
    world.pass(DAY);
    assert_eq!(world.catch_up().await.unwrap(), read(1, 2, 0));
    assert_eq!(world.platform.asked(), ["2026-11-21", "2026-11-22"]);
    world.pass(DAY);
    world.platform.fetched();
    assert_eq!(world.catch_up().await.unwrap(), Progress::default());
    assert_eq!(world.platform.asked(), ["2026-11-22", "2026-11-23"]);
    assert_eq!(world.platform.fetched(), []);
    assert_eq!(world.events().await.len(), 10);
}

#[tokio::test]
async fn a_day_with_a_file_that_fails_stays_open_and_the_rest_of_it_is_read_once() {
    let world = World::start().await;
    world
        .platform
        .add("2026-11-18", "good.zip", calls(&world, &["a"]));
    world
        .platform
        .add("2026-11-18", "bad.zip", File::Status(404));
    world
        .platform
        .add("2026-11-19", "next.zip", calls(&world, &["b"]));
    let failed = world.catch_up().await.unwrap_err();
    assert!(
        matches!(
            failed,
            BackfillError::Download(DownloadError::NotFound(404))
        ),
        "{failed}"
    );
    assert_eq!(world.events().await.len(), 2);
    assert!(
        world
            .metrics()
            .contains(r#"backfill_days_failed{account="default"} 1"#),
        "{}",
        world.metrics()
    );
    world.platform.asked();
    world.platform.fetched();
    world.platform.change("bad.zip", calls(&world, &["c"]));
    let world = world.reopen().await;
    assert_eq!(world.catch_up().await.unwrap(), read(1, 1, 1));
    assert_eq!(world.platform.asked(), ["2026-11-18", YESTERDAY]);
    assert_eq!(world.platform.fetched(), [("bad.zip".to_owned(), None)]);
    assert!(
        world
            .metrics()
            .contains(r#"backfill_days_failed{account="default"} 0"#)
    );
}

#[tokio::test]
async fn a_list_in_another_form_is_not_taken_for_an_empty_one() {
    let world = World::start().await;
    let odd = serde_json::json!({ "path": "a.zip" });
    world.platform.list_oddly(YESTERDAY, odd);
    let failed = world.catch_up().await.unwrap_err();
    assert!(matches!(failed, BackfillError::Download(_)), "{failed}");
    world.platform.asked();
    world.catch_up().await.unwrap_err();
    assert!(world.platform.asked().contains(&YESTERDAY.to_owned()));
}

#[tokio::test]
async fn a_day_asked_for_is_read_again_and_nothing_is_added_twice() {
    let world = World::start().await;
    world
        .platform
        .add("2026-11-18", "a.zip", calls(&world, &["a", "b"]));
    world.catch_up().await.unwrap();
    let days = vec!["2026-11-18".parse().unwrap()];
    let turn = world.turn("default").await.unwrap();
    let (sum, end) = ended(world.backfill.days(turn, days)).await;
    end.unwrap();
    assert_eq!(sum, read(1, 2, 0));
    assert_eq!(world.events().await.len(), 2);
}

#[tokio::test]
async fn accounts_have_days_and_turns_of_their_own() {
    let world = World::start().await;
    world
        .platform
        .add(YESTERDAY, "a.zip", calls(&world, &["a"]));
    let turn = world.turn("default").await.unwrap();
    assert!(matches!(
        world.turn("default").await,
        Err(BackfillError::Running)
    ));
    // The other account waits for nobody.
    let sum = world.backfill.catch_up("second").await.unwrap();
    assert_eq!(sum, read(1, 1, 1));
    let waiting = tokio::spawn({
        let backfill = world.backfill.clone();
        async move { backfill.catch_up("default").await }
    });
    drop(turn);
    assert_eq!(waiting.await.unwrap().unwrap(), read(1, 1, 1));
    let accounts: Vec<_> = world
        .events()
        .await
        .into_iter()
        .map(|it| it.account)
        .collect();
    assert_eq!(accounts, ["second", "default"]);
    assert!(world.turn("nobody").await.is_err());
}

#[tokio::test]
async fn who_asks_while_files_are_read_has_the_next_turn() {
    let world = World::start().await;
    let held = world.turn("default").await.unwrap();
    let refused = world.backfill.turn_by("default", Instant::now()).await;
    assert!(matches!(refused, Err(BackfillError::Running)));
    let waiting = tokio::spawn({
        let backfill = world.backfill.clone();
        let deadline = Instant::now() + PATIENCE;
        async move { backfill.turn_by("default", deadline).await.map(drop) }
    });
    drop(held);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_backfill_that_nobody_follows_ends_and_frees_its_account() {
    let world = World::start().await;
    world.platform.add(YESTERDAY, "never.zip", File::Never);
    let turn = world.turn("default").await.unwrap();
    let mut run = world.backfill.days(turn, vec![YESTERDAY.parse().unwrap()]);
    assert_eq!(run.next().await.unwrap().unwrap().files_total, 1);
    let taken = world.turn("default").await;
    assert!(matches!(taken, Err(BackfillError::Running)));
    drop(run);
    eventually("the account's turn", async || {
        world.turn("default").await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_push_is_taken_whatever_its_line_says_of_when_it_was_given_up() {
    let world = World::with(Duration::from_hours(7 * 24), Limits::default()).await;
    // Beyond retention by a little, as on the oldest day, and the time of the vendor's sample.
    let times = [world.ago(7 * DAY + 1), 1_543_935_214_693];
    let lines = times.map(|at| line("receiveCallRecord", &record(&at.to_string()), at));
    let file = File::Bytes(zipped(&[("a", &lines.concat())]));
    world.platform.add("2026-11-14", "a.zip", file);
    assert_eq!(world.catch_up().await.unwrap(), read(1, 2, 2));
    let turn = world.turn("default").await.unwrap();
    let days = vec!["2026-11-14".parse().unwrap()];
    let (sum, end) = ended(world.backfill.days(turn, days)).await;
    end.unwrap();
    assert_eq!(sum, read(1, 2, 0));
}

#[tokio::test]
async fn what_retention_has_removed_does_not_come_back() {
    let world = World::with(Duration::from_hours(48), Limits::default()).await;
    let old = line("receiveCallRecord", &record("old"), world.ago(50 * HOUR));
    let held = line("receiveCallRecord", &record("held"), world.ago(30 * HOUR));
    let file = File::Bytes(zipped(&[("a", &format!("{old}{held}"))]));
    world.platform.add("2026-11-19", "a.zip", file);
    let sum = world.catch_up().await.unwrap();
    // Nobody got them, however old they are.
    assert_eq!((sum.added, sum.outdated), (2, 0));
    // The day is covered; what was added is retired, as it is older than 48 h now.
    world.pass(47 * HOUR);
    world.push_call("young").await;
    world.pass(2 * HOUR);
    world.log.retire(0).await;
    let days = vec!["2026-11-19".parse().unwrap()];
    let turn = world.turn("default").await.unwrap();
    let (sum, end) = ended(world.backfill.days(turn, days)).await;
    end.unwrap();
    assert_eq!((sum.lines, sum.added, sum.outdated), (2, 0, 2));
}

#[tokio::test]
async fn a_covered_day_brings_nothing_back_that_the_log_no_longer_holds() {
    let world = World::with(Duration::from_hours(1), Limits::default()).await;
    let days = ["2026-11-19", YESTERDAY];
    for (day, hours) in days.into_iter().zip([60, 30]) {
        let missed = line("receiveCallRecord", &record(day), world.ago(hours * HOUR));
        world
            .platform
            .add(day, day, File::Bytes(zipped(&[("a", &missed)])));
    }
    world.push_call("live").await;
    assert_eq!(world.catch_up().await.unwrap().added, 2);
    world.pass(2 * HOUR);
    world.push_call("young").await;
    world.log.retire(0).await;
    assert_eq!(world.events().await.len(), 1);
    let turn = world.turn("default").await.unwrap();
    let days = days.map(|day| day.parse().unwrap()).to_vec();
    let (sum, end) = ended(world.backfill.days(turn, days)).await;
    end.unwrap();
    assert_eq!((sum.outdated, sum.added), (2, 0));
    // What was never read was never held, however old it is.
    let late = line("receiveCallRecord", &record("late"), world.ago(32 * HOUR));
    let late = File::Bytes(zipped(&[("a", &late)]));
    world.platform.add(YESTERDAY, "late.zip", late);
    let sum = world.catch_up().await.unwrap();
    assert_eq!((sum.outdated, sum.added), (0, 1));
}

#[tokio::test]
async fn a_zip_that_is_too_large_or_unpacks_too_far_fails_its_day_alone() {
    let limits = Limits {
        file_bytes: 3_000,
        unpacked_bytes: 20_000,
        entries: 2,
        line_bytes: 500,
        ratio: 200,
    };
    let world = World::with(Duration::from_hours(30 * 24), limits).await;
    for (day, file) in [
        ("2026-11-16", vec![b'{'; 3_001]),
        ("2026-11-17", zipped(&[("a", &"{}\n".repeat(10_000))])),
        (
            "2026-11-18",
            zipped(&[("a", "{}"), ("b", "{}"), ("c", "{}")]),
        ),
    ] {
        world.platform.add(day, day, File::Bytes(file));
    }
    world
        .platform
        .add("2026-11-19", "good", calls(&world, &["good"]));
    let failed = world.catch_up().await.unwrap_err();
    assert!(
        matches!(
            failed,
            BackfillError::Download(DownloadError::TooLarge(3_000))
        ),
        "{failed}"
    );
    let days = vec!["2026-11-17".parse().unwrap(), "2026-11-18".parse().unwrap()];
    for (day, expected) in days.into_iter().zip([
        FileError::UnpacksTooFar(20_000),
        FileError::TooManyEntries(2),
    ]) {
        let turn = world.turn("default").await.unwrap();
        let (sum, end) = ended(world.backfill.days(turn, vec![day])).await;
        assert_eq!((sum.files_failed, sum.added), (1, 0));
        let failed = end.unwrap_err();
        assert!(
            matches!(&failed, BackfillError::File(error) if *error == expected),
            "{failed}"
        );
    }
    let good = world.events().await;
    assert!(good.iter().any(|event| event.raw_json == record("good")));
    let metrics = world.metrics();
    assert!(
        metrics.contains(r#"backfill_days_failed{account="default"} 3"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn what_failed_is_tried_again_by_itself() {
    let world = World::start().await;
    world.platform.add(YESTERDAY, "a.zip", File::Status(503));
    let end = CancellationToken::new();
    let running = tokio::spawn({
        let (backfill, end) = (world.backfill.clone(), end.clone());
        async move { backfill.run(end).await }
    });
    let failed = r#"backfill_days_failed{account="default"} 1"#;
    eventually("the first failure", async || {
        world.metrics().contains(failed).then_some(())
    })
    .await;
    world.platform.change("a.zip", calls(&world, &["a"]));
    eventually("the file of both accounts", async || {
        world.pass(1);
        (world.end().0 == 2).then_some(())
    })
    .await;
    end.cancel();
    running.await.unwrap();
}
