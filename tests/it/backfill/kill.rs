//! A backfill killed in the middle, again and again, ends with each push once.

use std::collections::HashSet;

use yeta_gateway::proto::{ListPushesRequest, PushOrigin};

use super::platform::{File, Files, line, zipped};
use crate::support::{Process, Pushes, eventually, pushed, pushes_client, record};

const CALLS: usize = 6_000;
const KILLS: usize = 4;

/// How many events there are, and whether each is there once.
async fn count(client: &mut Pushes) -> usize {
    let mut ids = HashSet::new();
    let mut request = ListPushesRequest {
        page_size: 1000,
        filter: Some(pushed()),
        ..ListPushesRequest::default()
    };
    let mut count = 0;
    loop {
        let page = client.list_pushes(request.clone()).await.unwrap();
        let page = page.into_inner();
        for event in page.events {
            assert_eq!(event.origin(), PushOrigin::Backfill);
            assert!(ids.insert(event.event_id), "an event is there twice");
            count += 1;
        }
        if page.next_page_token.is_empty() {
            return count;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_backfill_killed_again_and_again_ends_with_each_push_once() {
    let files = Files::start().await;
    let now = jiff::Timestamp::now().as_millisecond();
    let yesterday = jiff::Timestamp::from_millisecond(now - 16 * 3_600_000).unwrap();
    let yesterday = yesterday.to_string()[..10].to_owned();
    let now_ms = u64::try_from(now).unwrap();
    for part in 0..3 {
        let lines: String = (0..CALLS / 3)
            .map(|n| record(&format!("call {part} {n}")))
            .map(|push| line("receiveCallRecord", &push, now_ms - 3_600_000))
            .collect();
        let zip = File::Bytes(zipped(&[("a", &lines), ("b/c", &lines)]));
        files.add(&yesterday, &format!("{part}.zip"), zip);
    }
    let folder = tempfile::tempdir().unwrap();
    let download = format!("{}/push_download/", files.base_url);
    let more = format!("backfill.enabled = true\nplatform.push_download_url = '{download}'");
    Process::configure_with_platform(folder.path(), &files.base_url, &more);
    for kill in 1..=KILLS {
        let process = Process::spawn(Process::command(folder.path())).await;
        let mut client = pushes_client(&process.addresses.grpc);
        eventually("some of the pushes", async || {
            (count(&mut client).await >= kill * CALLS / (KILLS + 1)).then_some(())
        })
        .await;
        process.kill();
    }
    let process = Process::spawn(Process::command(folder.path())).await;
    let mut client = pushes_client(&process.addresses.grpc);
    eventually("all pushes", async || {
        (count(&mut client).await == CALLS).then_some(())
    })
    .await;
    // Nothing of the files is left on the disk.
    let left: Vec<_> = std::fs::read_dir(folder.path().join("store"))
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".tmp"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}
