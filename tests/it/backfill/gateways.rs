//! Whole gateways: what was missed comes back by itself, or when it is asked for.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use futures_util::stream;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use yeta_gateway::config::{self, Config, Permission};
use yeta_gateway::proto::{
    BackfillFileRequest, BackfillFileResponse, BackfillPushesRequest, ListFailedPushFilesRequest,
    ListPushesRequest, PushEvent, PushOrigin,
};
use yeta_gateway::sandbox::SandboxConfig;

use super::platform::{File, Files, line, zipped};
use crate::bridge::reason;
use crate::sandbox::harness::{Sandbox, callout};
use crate::support::{PUSH_SECRET, TestApp, eventually, pushed, record};

/// Now, in milliseconds since 1970.
fn now_ms() -> u64 {
    let now = jiff::Timestamp::now().as_millisecond();
    u64::try_from(now).unwrap()
}

/// A day of China's calendar, so many days ago.
fn days_ago(days: u64) -> String {
    let at = now_ms() - days * 86_400_000 + 8 * 3_600_000;
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at).unwrap()).unwrap();
    at.to_string()[..10].to_owned()
}

fn before(platform: &str) -> impl FnOnce(&mut Config) + use<> {
    let platform = platform.to_owned();
    move |config| {
        config.platform.base_url = platform.parse().unwrap();
        config.platform.push_download_url = format!("{platform}/push_download/").parse().unwrap();
    }
}

async fn events(app: &TestApp) -> Vec<PushEvent> {
    let request = ListPushesRequest {
        page_size: 1000,
        filter: Some(pushed()),
        include_raw: true,
        ..ListPushesRequest::default()
    };
    let page = app.pushes().list_pushes(request).await.unwrap();
    page.into_inner().events
}

/// A gateway on a folder and push address of its own, so that it can be started again.
async fn gateway(platform: &str, folder: &Path, push: &str) -> TestApp {
    TestApp::with(|config| {
        before(platform)(config);
        folder.clone_into(&mut config.store.path);
        config.push.listen = push.parse().unwrap();
        config.backfill.enabled = true;
    })
    .await
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_gateway_stopped_for_a_day_ends_with_the_events_of_one_that_never_stopped() {
    let addresses = [free_address(), free_address()];
    let push_to = addresses.each_ref();
    let push_to = push_to.map(|it| format!("http://{it}/v1/push/default/{PUSH_SECRET}"));
    let sandbox = Sandbox::start(SandboxConfig {
        push_to: push_to.to_vec(),
        speed: 1000.0,
        kill_old_tokens: false,
        ..SandboxConfig::default()
    })
    .await;
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let steady = gateway(&sandbox.base, folders[0].path(), &addresses[0]).await;
    let stopped = gateway(&sandbox.base, folders[1].path(), &addresses[1]).await;
    let session = sandbox.session().await;
    let settled = async || {
        let all_done = |pushes: &Value| pushes["in_flight"] == 0 && pushes["sent"] != 0;
        sandbox.wait_for("/sandbox/pushes", all_done).await
    };
    let calls = |first: u32| {
        let numbers: Vec<_> = (first..first + 10)
            .map(|n| format!("138{n:04}{}", if n % 3 == 0 { "0006" } else { "0001" }))
            .collect();
        callout(&numbers.iter().map(String::as_str).collect::<Vec<_>>())
    };
    session.result("callout", calls(0)).await;
    eventually("the calls of the morning", async || {
        let both = [events(&steady).await.len(), events(&stopped).await.len()];
        (both[0] >= 20 && both[0] == both[1]).then_some(())
    })
    .await;
    settled().await;

    // The day on which one of them does not run.
    let before = events(&stopped).await.len();
    stopped.stop().await.unwrap();
    session.result("callout", calls(100)).await;
    eventually("the calls of the day", async || {
        let pushes = sandbox.get("/sandbox/pushes").await;
        (pushes["failed"].as_u64() >= Some(20)).then_some(())
    })
    .await;
    settled().await;
    sandbox.admin("calendar", json!({ "days": 1 })).await;
    let stopped = gateway(&sandbox.base, folders[1].path(), &addresses[1]).await;
    // The next day's calls arrive while the missed ones are fetched.
    session.result("callout", calls(200)).await;

    let all = eventually("the same events in both", async || {
        settled().await;
        let [one, other] = [events(&steady).await, events(&stopped).await];
        let ids = |events: &[PushEvent]| -> BTreeSet<_> {
            events.iter().map(|event| event.event_id.clone()).collect()
        };
        let is_same = one.len() >= 60 && ids(&one) == ids(&other);
        is_same.then_some([one, other])
    })
    .await;
    for events in &all {
        let ids: BTreeSet<_> = events.iter().map(|event| &event.event_id).collect();
        assert_eq!(ids.len(), events.len(), "an event is there twice");
        let raw: BTreeSet<_> = events.iter().map(|event| &event.raw_json).collect();
        assert_eq!(raw.len(), events.len(), "a push is there twice");
    }
    let fetched = |events: &[PushEvent]| {
        let backfilled = |event: &&PushEvent| event.origin() == PushOrigin::Backfill;
        events.iter().filter(backfilled).count()
    };
    assert_eq!(fetched(&all[0]), 0);
    assert!(fetched(&all[1]) >= 20, "{before} {}", fetched(&all[1]));
    let lists = sandbox.counts("failed").await["received"].clone();

    // Started once more, it asks for yesterday alone, and adds nothing.
    stopped.stop().await.unwrap();
    let stopped = gateway(&sandbox.base, folders[1].path(), &addresses[1]).await;
    eventually("the list of yesterday", async || {
        let now = sandbox.counts("failed").await["received"].clone();
        (now.as_u64() > lists.as_u64()).then_some(())
    })
    .await;
    assert_eq!(events(&stopped).await.len(), all[1].len());
}

/// A platform with one file of yesterday, with these calls.
async fn platform_with(calls: &[&str]) -> Files {
    let files = Files::start().await;
    let line = |call: &&str| line("receiveCallRecord", &record(call), now_ms() - 3_600_000);
    let lines: Vec<_> = calls.iter().map(line).collect();
    let zip = zipped(&[("a/b.txt", &lines.concat())]);
    files.add(&days_ago(1), "a.zip", File::Bytes(zip));
    files
}

#[tokio::test]
async fn files_are_listed_and_fetched_when_asked_for() {
    let files = platform_with(&["a", "b"]).await;
    files.list(&days_ago(1), "http://elsewhere.example/b.zip");
    let app = TestApp::with(before(&files.base_url)).await;
    let request = ListFailedPushFilesRequest { date: days_ago(1) };
    let listed = app.pushes().list_failed_push_files(request).await.unwrap();
    let listed = listed.into_inner().files;
    assert_eq!(listed[0].url, "a.zip");
    assert_eq!(
        listed[0].absolute_url,
        format!("{}/push_download/a.zip", files.base_url)
    );
    assert_eq!(
        (&*listed[1].url, &*listed[1].absolute_url),
        ("http://elsewhere.example/b.zip", "")
    );

    let request = BackfillPushesRequest {
        from_date: days_ago(2),
        to_date: days_ago(1),
    };
    let mut told = app
        .pushes()
        .backfill_pushes(request)
        .await
        .unwrap()
        .into_inner();
    let mut sum = None;
    let end = loop {
        match told.message().await {
            Ok(Some(progress)) => sum = Some(progress),
            end => break end.unwrap_err(),
        }
    };
    let sum = sum.unwrap();
    assert_eq!(
        (sum.files_done, sum.files_failed, sum.files_total),
        (1, 1, 2)
    );
    assert_eq!((sum.lines, sum.added), (2, 2));
    assert_eq!(end.code(), Code::FailedPrecondition);
    assert_eq!(reason(&end).1, "BAD_PUSH_FILE");
    assert!(!end.message().contains("elsewhere"), "{}", end.message());
    assert_eq!(events(&app).await.len(), 2);
}

#[tokio::test]
async fn wrong_dates_are_refused_field_by_field_and_nothing_is_asked() {
    let files = Files::start().await;
    let app = TestApp::with(before(&files.base_url)).await;
    let fields = |status: &Status| -> Vec<String> {
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        violations.iter().map(|it| it.field.clone()).collect()
    };
    for (from, to, expected) in [
        ("yesterday".to_owned(), String::new(), &["from_date"][..]),
        (
            "2026-2-1".to_owned(),
            "20260201".to_owned(),
            &["from_date", "to_date"],
        ),
        (days_ago(8), String::new(), &["from_date"]),
        (String::new(), days_ago(0), &["to_date"]),
        (days_ago(1), days_ago(2), &["to_date"]),
    ] {
        let request = BackfillPushesRequest {
            from_date: from,
            to_date: to,
        };
        let refused = app.pushes().backfill_pushes(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(fields(&refused), expected);
    }
    let request = ListFailedPushFilesRequest {
        date: "2026-13-01".into(),
    };
    let refused = app
        .pushes()
        .list_failed_push_files(request)
        .await
        .unwrap_err();
    assert_eq!(fields(&refused), ["date"]);
    assert_eq!(files.asked(), Vec::<String>::new());
}

async fn send(
    app: &TestApp,
    parts: Vec<BackfillFileRequest>,
) -> Result<BackfillFileResponse, Status> {
    let told = app.pushes().backfill_file(stream::iter(parts)).await?;
    let mut told = told.into_inner();
    let mut sum = BackfillFileResponse::default();
    while let Some(progress) = told.message().await? {
        sum = progress;
    }
    Ok(sum)
}

fn parts(file: &[u8], size: u64) -> Vec<BackfillFileRequest> {
    let mut parts: Vec<_> = file
        .chunks(100)
        .map(|chunk| BackfillFileRequest {
            chunk: chunk.to_vec().into(),
            size: None,
        })
        .collect();
    let first = BackfillFileRequest {
        size: Some(size),
        ..BackfillFileRequest::default()
    };
    parts.insert(0, first);
    parts
}

#[tokio::test]
async fn a_callers_file_is_taken_whole_or_not_at_all() {
    let app = TestApp::start().await;
    let lines: String = (0..50)
        .map(|n| line("receiveCallRecord", &record(&format!("call {n}")), now_ms()))
        .collect();
    let zip = zipped(&[("a", &lines)]);
    let size = zip.len() as u64;
    let cut = send(&app, parts(&zip[..zip.len() - 1], size))
        .await
        .unwrap_err();
    assert_eq!(cut.code(), Code::InvalidArgument);
    let large = send(&app, parts(&zip, 1 << 40)).await.unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument);
    let rubbish = send(&app, parts(b"rubbish", 7)).await.unwrap_err();
    assert_eq!(reason(&rubbish).1, "BAD_PUSH_FILE");
    assert_eq!(events(&app).await.len(), 0);

    let sum = send(&app, parts(&zip, size)).await.unwrap();
    assert_eq!((sum.lines, sum.added, sum.already_held), (50, 50, 0));
    let sum = send(&app, parts(lines.as_bytes(), lines.len() as u64))
        .await
        .unwrap();
    assert_eq!((sum.lines, sum.added, sum.already_held), (50, 0, 50));
    assert_eq!(events(&app).await.len(), 50);
}

#[tokio::test]
async fn only_who_may_administer_an_account_brings_back_its_pushes() {
    let files = platform_with(&["a"]).await;
    let client = |name: &str, allow: &[Permission], accounts: &[&str]| config::Client {
        name: name.to_owned(),
        token_sha256: vec![Sha256::digest(name).into()],
        allow: allow.to_vec(),
        accounts: accounts.iter().map(|&it| it.to_owned()).collect(),
        ..config::Client::default()
    };
    let app = TestApp::with(|config| {
        before(&files.base_url)(config);
        config.clients = vec![
            client("admin", &[Permission::Admin], &["*"]),
            client("reader", &[Permission::Subscribe], &["*"]),
            client("caller", &[Permission::Outbound], &["*"]),
            client("stranger", &[Permission::Admin], &[]),
        ];
    })
    .await;
    let by = |client: &str| -> tonic::metadata::MetadataValue<_> {
        format!("Bearer {client}").parse().unwrap()
    };
    for (name, lists, fetches) in [
        ("admin", Ok(()), Ok(())),
        ("reader", Ok(()), Err("RPC_FORBIDDEN")),
        ("caller", Err("RPC_FORBIDDEN"), Err("RPC_FORBIDDEN")),
        (
            "stranger",
            Err("ACCOUNT_FORBIDDEN"),
            Err("ACCOUNT_FORBIDDEN"),
        ),
        ("nobody", Err("UNAUTHENTICATED"), Err("UNAUTHENTICATED")),
    ] {
        let mut list = Request::new(ListFailedPushFilesRequest { date: days_ago(1) });
        list.metadata_mut().insert("authorization", by(name));
        let listed = app.pushes().list_failed_push_files(list).await;
        let lists = lists.map_err(str::to_owned);
        assert_eq!(
            listed.map(drop).map_err(|it| reason(&it).1),
            lists,
            "{name}"
        );
        let mut fetch = Request::new(BackfillPushesRequest::default());
        fetch.metadata_mut().insert("authorization", by(name));
        let fetched = app.pushes().backfill_pushes(fetch).await;
        let fetches = fetches.map_err(str::to_owned);
        let is_let_in = fetched.as_ref().map(drop).map_err(|it| reason(it).1);
        assert_eq!(is_let_in, fetches, "{name}");
        if let Ok(told) = fetched {
            let mut told = told.into_inner();
            while told.message().await.unwrap().is_some() {}
        }
        let mut file = Request::new(stream::iter(parts(b"{}", 2)));
        file.metadata_mut().insert("authorization", by(name));
        let taken = app.pushes().backfill_file(file).await;
        assert_eq!(taken.is_ok(), fetches.is_ok(), "{name}");
        if let Ok(told) = taken {
            let mut told = told.into_inner();
            while told.message().await.unwrap().is_some() {}
        }
    }
}

#[tokio::test]
async fn the_command_line_fetches_days_and_sends_files() {
    let files = platform_with(&["a", "b", "c"]).await;
    let app = TestApp::with(before(&files.base_url)).await;
    let run = async |more: &[&str]| -> (bool, String) {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_yeta-gateway"))
            .args(["backfill", "--address", &app.grpc])
            .args(more)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (done, text) = run(&["--from", &days_ago(3), "--json"]).await;
    let sum: Value = serde_json::from_str(&text).unwrap();
    assert!(
        done && sum["added"] == "3" && sum["filesDone"] == 1,
        "{text}"
    );

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("failed.jsonl");
    let lines = ["c", "d"].map(|call| line("receiveCallRecord", &record(call), now_ms()));
    std::fs::write(&path, lines.concat()).unwrap();
    let (done, text) = run(&["--file", path.to_str().unwrap()]).await;
    assert!(
        done && text.contains("held already") && !text.contains("files read"),
        "{text}"
    );
    assert_eq!(events(&app).await.len(), 4);

    let (done, text) = run(&["--from", "tomorrow"]).await;
    assert!(!done && text.contains("from_date"), "{text}");
    let (done, text) = run(&["--file", "/nowhere/a.zip"]).await;
    assert!(!done && text.contains("cannot be read"), "{text}");
}
