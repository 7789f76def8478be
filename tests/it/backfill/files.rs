//! Files as they come: broken on the way, in odd forms, beside live pushes.

use std::collections::HashSet;

use yeta_gateway::backfill::BackfillError;
use yeta_gateway::backfill::file::Limits;
use yeta_gateway::platform::DownloadError;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::{PushEvent, PushKind, PushOrigin};

use super::platform::{File, Files, line, zipped};
use super::world::{HOUR, World, YESTERDAY};
use crate::support::record;

#[tokio::test]
async fn a_push_has_the_same_id_whichever_way_it_comes() {
    let world = World::start().await;
    // Numbers that a double cannot hold, an order of keys and escapes of its own.
    let push =
        r#"{"task_data_id": 346252615123869699, "size":1.0,"call_uuid":"\u4f60","url":"a.wav"}"#;
    world.push("receiveVoice", push).await;
    let other =
        r#"{"task_data_id": 346252615123869700, "size":1.0,"call_uuid":"\u4f60","url":"a.wav"}"#;
    let lines = [push, other].map(|push| line("receiveVoice", push, world.ago(HOUR)));
    world.platform.add(
        YESTERDAY,
        "a.zip",
        File::Bytes(zipped(&[("a", &lines.concat())])),
    );
    let sum = world.catch_up().await.unwrap();
    assert_eq!((sum.added, sum.already_held), (1, 1));
    // And live again, after the platform had given it up.
    world.push("receiveVoice", other).await;
    let events = world.events().await;
    let origins: Vec<_> = events.iter().map(PushEvent::origin).collect();
    assert_eq!(origins, [PushOrigin::Live, PushOrigin::Backfill]);
    assert_eq!(events[1].raw_json, other);
    assert_eq!(events[1].kind(), PushKind::Voice);
    assert_eq!(events[1].account, "default");
    assert!(events[1].received_at.is_some());
    let Some(Payload::Voice(voice)) = &events[1].payload else {
        panic!("{events:?}")
    };
    assert_eq!(voice.task_data_id, "346252615123869700");
    assert_eq!(voice.absolute_url, "http://voice.example/a.wav");
}

#[tokio::test]
async fn a_push_of_a_scoped_module_has_the_same_id_whichever_way_it_comes() {
    let world = World::start().await;
    let push = |n: u8| format!(r#"{{"call_uuid":"{n}","dialog":[]}}"#);
    world.push("receiveDialog|AppX", &push(1)).await;
    world.push("receiveDialog", &push(2)).await;
    world.push("receiveVoice||4567", "no JSON").await;
    // Which of both the platform writes is not documented.
    let lines = ["receiveDialog", "receiveDialog|AppX|4567"].map(|module| {
        [1, 2, 3]
            .map(|n| line(module, &push(n), world.ago(HOUR)))
            .concat()
    });
    let zip = zipped(&[("a", &lines.concat())]);
    world.platform.add(YESTERDAY, "a.zip", File::Bytes(zip));
    let sum = world.catch_up().await.unwrap();
    assert_eq!((sum.lines, sum.added, sum.already_held), (6, 1, 5));
    world.push("receiveVoice", "no JSON").await;
    // Another module is another push, and what has no name before its scope is none of these.
    world.push("receiveVoice", &push(1)).await;
    world.push("|AppX", &push(1)).await;
    world.push("|AppY", &push(1)).await;
    // Nor is it known what a scope means elsewhere.
    world.push("another|AppX", &push(1)).await;
    world.push("another|AppY", &push(1)).await;
    let kinds: Vec<_> = world.events().await.iter().map(PushEvent::kind).collect();
    assert_eq!(
        kinds,
        [
            PushKind::Dialog,
            PushKind::Dialog,
            PushKind::Unrecognized,
            PushKind::Dialog,
            PushKind::Voice,
            PushKind::Unrecognized,
            PushKind::Unrecognized,
            PushKind::Unrecognized,
            PushKind::Unrecognized,
        ]
    );
}

#[tokio::test]
async fn lines_in_odd_forms_are_kept_and_counted() {
    let limits = Limits {
        line_bytes: 1000,
        ..Limits::default()
    };
    let world = World::with(std::time::Duration::from_hours(240), limits).await;
    let at = world.ago(HOUR);
    let good = line("receiveCallRecord", &record("good"), at);
    let unknown = line("receiveNews", r#"{"news":1}"#, at);
    let huge = line("receiveCallRecord", &record(&"x".repeat(2000)), at);
    let text = format!(
        "\u{feff}{}\r\n\r\n   \nrubbish\n{{\"no\":\"envelope\"}}\n{huge}{unknown}",
        good.trim_end()
    );
    world.platform.add(
        YESTERDAY,
        "a.zip",
        File::Bytes(zipped(&[("../../a", &text)])),
    );
    let sum = world.catch_up().await.unwrap();
    assert_eq!((sum.lines, sum.added, sum.unreadable), (5, 4, 3));
    let events = world.events().await;
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.kind(), String::from_utf8_lossy(&event.raw_json)))
        .collect();
    assert_eq!(seen[0], (PushKind::CallRecord, record("good").into()));
    assert_eq!(seen[1], (PushKind::Unrecognized, "rubbish".into()));
    assert_eq!(
        seen[2],
        (PushKind::Unrecognized, r#"{"no":"envelope"}"#.into())
    );
    assert_eq!(seen[3], (PushKind::Unrecognized, r#"{"news":1}"#.into()));
    let Some(Payload::Unrecognized(push)) = &events[3].payload else {
        panic!("{events:?}")
    };
    assert_eq!(push.module, "receiveNews");
    for counted in [
        r#"backfill_lines_total{account="default",result="added"} 4"#,
        r#"backfill_lines_total{account="default",result="unreadable"} 3"#,
        r#"backfill_files_total{account="default",result="read"} 1"#,
    ] {
        assert!(world.metrics().contains(counted), "{}", world.metrics());
    }
}

/// A zip that does not compress to almost nothing.
fn large_zip(world: &World) -> Vec<u8> {
    let lines: String = (0..2000)
        .map(|n| {
            line(
                "receiveCallRecord",
                &record(&format!("call {n}")),
                world.ago(HOUR),
            )
        })
        .collect();
    zipped(&[("a", &lines)])
}

#[tokio::test]
async fn a_download_cut_in_the_middle_goes_on_where_it_broke() {
    let world = World::start().await;
    let zip = large_zip(&world);
    let middle = zip.len() / 2;
    world
        .platform
        .add(YESTERDAY, "a.zip", File::CutOnce(zip, middle));
    let sum = world.catch_up().await.unwrap();
    assert_eq!((sum.lines, sum.added), (2000, 2000));
    let ranges: Vec<_> = world
        .platform
        .fetched()
        .into_iter()
        .map(|it| it.1)
        .collect();
    assert_eq!(ranges, [None, Some(format!("bytes={middle}-"))]);
}

#[tokio::test]
async fn a_download_that_never_comes_whole_adds_nothing_and_is_told() {
    let world = World::start().await;
    let zip = large_zip(&world);
    let middle = zip.len() / 2;
    world
        .platform
        .add(YESTERDAY, "a.zip", File::CutAlways(zip, middle));
    let failed = world.catch_up().await.unwrap_err();
    assert!(
        matches!(failed, BackfillError::Download(DownloadError::Broken(_))),
        "{failed}"
    );
    assert_eq!(world.end().0, 0);
    assert_eq!(world.platform.fetched().len(), 5);
}

#[tokio::test]
async fn no_other_host_is_asked_whatever_the_platform_lists() {
    let world = World::start().await;
    let elsewhere = Files::start().await;
    let zip = File::Bytes(zipped(&[("a", "{}")]));
    elsewhere.add(YESTERDAY, "a.zip", zip.clone());
    let other = format!("{}/push_download/a.zip", elsewhere.base_url);
    let host = elsewhere.base_url.trim_start_matches("http:").to_owned();
    for url in [
        &other,
        &format!("{host}/push_download/a.zip"),
        "../openapi",
        "a/..%2fb",
    ] {
        world.platform.list(YESTERDAY, url);
    }
    let to = File::Redirect(other);
    world.platform.add(YESTERDAY, "moved.zip", to);
    let failed = world.catch_up().await.unwrap_err();
    assert!(
        matches!(
            failed,
            BackfillError::Download(DownloadError::BadAddress(_))
        ),
        "{failed}"
    );
    assert_eq!(elsewhere.fetched(), []);
    assert_eq!(world.platform.fetched(), [("moved.zip".to_owned(), None)]);
    assert_eq!(world.end().0, 0);
}

#[tokio::test]
async fn live_pushes_that_arrive_meanwhile_are_held_once() {
    let world = World::start().await;
    world
        .platform
        .add(YESTERDAY, "a.zip", File::Bytes(large_zip(&world)));
    let live = async {
        for n in (0..2000).step_by(7) {
            world.push_call(&format!("call {n}")).await;
        }
    };
    let (sum, ()) = tokio::join!(world.catch_up(), live);
    let sum = sum.unwrap();
    assert_eq!(sum.added + sum.already_held, 2000);
    let events = world.events().await;
    let ids: HashSet<_> = events.iter().map(|event| &event.event_id).collect();
    assert_eq!((events.len(), ids.len()), (2000, 2000));
}
