//! Uploads that break off, and go on without losing a row or calling one twice.

use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::fake::{Break, Fake, unavailable};
use super::{CALL, Place, command, good_rows, number};
use crate::support::within;

const ROWS: usize = 1000;

fn numbers() -> Vec<String> {
    (0..ROWS).map(number).collect()
}

#[tokio::test]
async fn a_broken_upload_goes_on_and_every_row_is_called_and_told_once() {
    let aborted = Status::aborted("taken over");
    let breaks = [
        Break::With(300, unavailable()),
        Break::With(0, unavailable()),
        Break::With(600, aborted),
        Break::Early(700),
        Break::With(999, unavailable()),
    ];
    let place = Place::of(Fake::that_breaks(breaks).await);
    let mut rows = good_rows(ROWS);
    rows.push_str("13900000001,bad\n");
    // Rejected at the start of every try, and yet told once.
    let rows = rows.replacen('\n', "\n13900000002,bad\n", 1);
    place.write("rows.csv", rows);
    let (code, told) = place.call_json(&["rows.csv"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(told["accepted"], ROWS);
    assert_eq!(told["knownBefore"], 998);
    assert_eq!(told["refused"], 2);
    assert_eq!(place.fake.called(), numbers());
    let rejected = place.rejected("rows.rejected.csv").unwrap();
    assert_eq!(rejected.matches("139").count(), 4, "{rejected}");
    assert_eq!(place.files(), ["rows.csv", "rows.rejected.csv"]);
    let book = place.fake.book.lock().unwrap();
    assert_eq!(book.headers.len(), 6);
    assert!(book.headers.iter().all(|header| *header == book.headers[0]));
}

#[tokio::test]
async fn the_same_command_again_calls_nobody() {
    let place = Place::new().await;
    place.write("rows.csv", good_rows(ROWS));
    assert_eq!(place.call(&["rows.csv"]).await.code, Some(0));
    let (code, told) = place.call_json(&["rows.csv"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(told["knownBefore"], ROWS);
    assert_eq!(place.fake.called(), numbers());
}

#[tokio::test]
async fn an_upload_survives_its_connection() {
    let place = Place::of(Fake::that_breaks([Break::Silent(500)]).await);
    place.write("rows.csv", good_rows(ROWS));
    let (through, cut) = proxy(&place.fake).await;
    let arguments = [&CALL[..], &["rows.csv"]].concat();
    let child = command(&through, place.folder.path(), &arguments)
        .spawn()
        .unwrap();
    within("silence", place.fake.silent.acquire())
        .await
        .unwrap()
        .forget();
    cut.notify_waiters();
    let ran = within("the command", child.wait_with_output())
        .await
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert_eq!(place.fake.called(), numbers());
}

/// Stands before a gateway; notified, it cuts all of its connections.
async fn proxy(fake: &Fake) -> (String, Arc<tokio::sync::Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let gateway = fake.address.trim_start_matches("http://").to_owned();
    let cut = Arc::new(tokio::sync::Notify::new());
    let when = cut.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&gateway).await.unwrap();
            let when = when.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = when.notified() => {}
                }
            });
        }
    });
    (address, cut)
}

#[tokio::test]
async fn an_interrupted_upload_says_how_to_go_on_and_goes_on() {
    let place = Place::of(Fake::that_breaks([Break::Silent(500)]).await);
    let rows = good_rows(ROWS).replacen('\n', "\n13900000002,bad\n", 1);
    place.write("rows.csv", rows);
    place.write("rows.rejected.csv", "of an earlier run");
    let arguments = [&CALL[..], &["rows.csv"]].concat();
    let child = place.command(&arguments).spawn().unwrap();
    within("silence", place.fake.silent.acquire())
        .await
        .unwrap()
        .forget();
    let pid = child.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().await;
    assert!(sent.unwrap().success());
    let ran = within("the command", child.wait_with_output())
        .await
        .unwrap();
    assert_eq!(ran.status.code(), Some(130));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.contains("run the same command again"), "{said}");
    let named = place.fake.book.lock().unwrap().headers[0].upload_id.clone();
    assert!(said.contains(&format!("--upload-id {named}")), "{said}");
    let earlier = std::fs::read_to_string(place.path("rows.rejected.csv")).unwrap();
    assert_eq!(earlier, "of an earlier run");
    assert_eq!(place.files(), ["rows.csv", "rows.rejected.csv"]);
    let (code, told) = place.call_json(&["rows.csv"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(told["knownBefore"], 499);
    assert_eq!(place.fake.called(), numbers());
}

#[tokio::test]
async fn an_upload_that_comes_no_further_is_given_up_after_its_retries() {
    let breaks = (0..4).map(|_| Break::With(7, unavailable()));
    let place = Place::of(Fake::that_breaks(breaks).await);
    place.write("rows.csv", good_rows(ROWS));
    let (code, told) = place.call_json(&["rows.csv", "--retries", "2"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(told["finished"], false);
    assert_eq!(told["accepted"], 7);
    assert!(
        told["error"].as_str().unwrap().contains("draining"),
        "{told}"
    );
    // The first one came further, then two retries did not.
    assert_eq!(place.fake.book.lock().unwrap().headers.len(), 3);
    assert_eq!(place.fake.called().len(), 7);
}

#[tokio::test]
async fn a_refusal_of_the_upload_is_not_tried_again_and_tells_no_number() {
    let details = ErrorDetails::with_error_info("UPLOAD_ID_REUSED", "yeta-gateway", []);
    let words = "upload of 13800000001 has other columns";
    let refusal = Status::with_error_details(Code::InvalidArgument, words, details);
    let place = Place::of(Fake::that_breaks([Break::With(0, refusal)]).await);
    place.write("rows.csv", good_rows(3));
    let ran = place.call(&["rows.csv"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("UPLOAD_ID_REUSED"), "{}", ran.err);
    super::assert_no_numbers(&ran.err);
    assert_eq!(place.fake.book.lock().unwrap().headers.len(), 1);
}

#[tokio::test]
async fn memory_does_not_grow_with_the_file() {
    let place = Place::new().await;
    place.fake.may_end.forget_permits(usize::MAX);
    let small = peak_memory(&place, 10_000).await;
    let large = peak_memory(&place, 150_000).await;
    println!("at most {small} KiB with 10,000 rows, {large} KiB with 150,000");
    // The larger file alone has 30 MB more.
    assert!(large < small + 16 * 1024, "{small} KiB, then {large} KiB");
}

/// The most memory that the command had in use for so many rows, in KiB.
async fn peak_memory(place: &Place, rows: usize) -> u64 {
    let filler = "填".repeat(70);
    let rows = (0..rows).map(|i| format!("{},{filler}\n", number(i)));
    place.write(
        "rows.csv",
        format!("号码,姓名\n{}", rows.collect::<String>()),
    );
    let arguments = [&CALL[..], &["rows.csv"]].concat();
    let child = place.command(&arguments).spawn().unwrap();
    within("all rows", place.fake.silent.acquire())
        .await
        .unwrap()
        .forget();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().unwrap()));
    place.fake.may_end.add_permits(1);
    let ran = within("the command", child.wait_with_output())
        .await
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let status = status.unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    peak.parse().unwrap()
}
