//! What the platform is spared, and what callers are told instead.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{net::TcpSocket, task::JoinSet, time::Instant};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use yeta_gateway::{
    platform::{PlatformConfig, PlatformError, Proof},
    proto::{
        CallOutRequest, CreateTaskRequest, InsertTaskDataRequest, QueryConfigRequest,
        QueryTasksRequest, Row, StartTaskRequest,
    },
    sandbox::SandboxConfig,
};

use crate::{
    bridge::{Bridge, reason, settings},
    fake::Fake,
    sandbox::harness::{Sandbox, eventually},
};

const OK: &str = r#"{"code":0,"message":"ok","result":{}}"#;
const BUSY: &str = r#"{"code":10004,"message":"服务忙，请稍后再试"}"#;
const MAINTENANCE: &str = r#"{"code":10020,"message":"接口维护"}"#;

async fn bridge(settings: &PlatformConfig) -> Bridge {
    Bridge::with(settings, &["default"], &[]).await
}

fn task() -> StartTaskRequest {
    StartTaskRequest {
        task_id: "129".into(),
    }
}

/// Starts `count` calls at once.
fn calls(bridge: &Bridge, count: usize) -> JoinSet<Result<(), Status>> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let mut client = bridge.outbound.clone();
        calls.spawn(async move { client.start_task(task()).await.map(|_| ()) });
    }
    calls
}

async fn call(bridge: &Bridge) -> Result<(), Status> {
    calls(bridge, 1).join_all().await.remove(0)
}

fn retry_after(status: &Status) -> Duration {
    let info = status.get_details_retry_info();
    info.and_then(|info| info.retry_delay)
        .unwrap_or_else(|| panic!("no RetryInfo: {status:?}"))
}

fn metadata(status: &Status) -> HashMap<String, String> {
    status.get_details_error_info().unwrap().metadata
}

/// A platform whose first answer is another than the later ones, and when its
/// requests arrived.
async fn answering(first: &'static str) -> (Fake, Arc<Mutex<Vec<Instant>>>) {
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&arrivals);
    let fake = Fake::start(move |_, _, _| {
        let mut arrivals = kept.lock().unwrap();
        arrivals.push(Instant::now());
        let answer = if arrivals.len() == 1 { first } else { OK };
        answer.to_owned()
    })
    .await;
    (fake, arrivals)
}

/// None of the requests came before its turn; how much later is not said.
fn assert_paced(arrivals: &[Instant], began: Instant, burst: f64, rate: f64) {
    for (before, arrival) in (0_u32..).zip(arrivals) {
        let allowed = burst + rate * (*arrival - began).as_secs_f64();
        assert!(f64::from(before + 1) <= allowed, "{before}: {arrivals:?}");
    }
}

#[tokio::test]
async fn the_platform_gets_no_more_requests_than_the_rate_allows() {
    let (fake, arrivals) = answering(OK).await;
    let settings = PlatformConfig {
        max_requests_per_second: 50,
        ..settings(&fake.base_url)
    };
    let began = Instant::now();
    let bridge = bridge(&settings).await;
    for outcome in calls(&bridge, 20).join_all().await {
        outcome.unwrap();
    }
    assert_paced(&arrivals.lock().unwrap(), began, 5.0, 50.0);
}

#[tokio::test]
async fn the_platform_never_has_more_requests_under_way_than_it_may() {
    let (fake, _) = answering(OK).await;
    fake.hold_operations_until(3);
    let settings = PlatformConfig {
        max_concurrent_requests: 3,
        ..settings(&fake.base_url)
    };
    let bridge = bridge(&settings).await;
    for outcome in calls(&bridge, 30).join_all().await {
        outcome.unwrap();
    }
    assert_eq!((fake.operations(), fake.most_under_way()), (30, 3));
}

#[tokio::test]
async fn a_call_that_finds_no_room_in_time_is_told_so_and_not_sent() {
    let (fake, _) = answering(OK).await;
    fake.hold_operations_until(2);
    let settings = PlatformConfig {
        max_concurrent_requests: 1,
        ..settings(&fake.base_url)
    };
    let bridge = bridge(&settings).await;
    let first = calls(&bridge, 1);
    fake.arrived(2).await;
    let mut others = JoinSet::new();
    for _ in 0..10 {
        let platform = Arc::clone(&bridge.platform);
        let deadline = Instant::now() + Duration::from_millis(50);
        others.spawn(async move { platform.call("default", &task(), Some(deadline)).await });
    }
    for outcome in others.join_all().await {
        let status = Status::from(outcome.unwrap_err());
        let expected = (
            Code::ResourceExhausted,
            "OVERLOADED".into(),
            "yeta-gateway".into(),
        );
        assert_eq!(reason(&status), expected);
        assert!(retry_after(&status) > Duration::ZERO);
    }
    fake.hold_operations_until(0);
    first.join_all().await.remove(0).unwrap();
    call(&bridge).await.unwrap();
    assert_eq!(fake.operations(), 2);
    let counted = r#"outcome="overloaded"} 10"#;
    assert!(bridge.metrics().contains(counted), "{}", bridge.metrics());
}

#[tokio::test]
async fn a_platform_that_is_busy_gets_less() {
    let (fake, arrivals) = answering(BUSY).await;
    let bridge = bridge(&settings(&fake.base_url)).await;
    let gauge = |value| format!("platform_slowed{{account=\"default\"}} {value}");
    assert!(bridge.metrics().contains(&gauge(0)));
    let began = Instant::now();
    let status = call(&bridge).await.unwrap_err();
    assert_eq!(reason(&status).1, "PLATFORM_BUSY");
    eventually(async || bridge.metrics().contains(&gauge(1)).then_some(())).await;
    for outcome in calls(&bridge, 4).join_all().await {
        outcome.unwrap();
    }
    let arrivals = arrivals.lock().unwrap();
    assert_eq!(arrivals.len(), 5);
    assert_paced(&arrivals[1..], began, 1.0, 5.0);
}

#[tokio::test]
async fn during_maintenance_nothing_is_sent_and_callers_are_told_what_the_platform_said() {
    let (fake, _) = answering(MAINTENANCE).await;
    let bridge = bridge(&settings(&fake.base_url)).await;
    let expected = (
        Code::Unavailable,
        "UNDER_MAINTENANCE".to_owned(),
        "xfyeta.com".to_owned(),
    );
    let status = call(&bridge).await.unwrap_err();
    assert_eq!(reason(&status), expected);
    assert!(!status.message().contains("held back"));
    for outcome in calls(&bridge, 20).join_all().await {
        let status = outcome.unwrap_err();
        assert_eq!(reason(&status), expected);
        let metadata = metadata(&status);
        assert_eq!(
            (&*metadata["code"], &*metadata["message"]),
            ("10020", "接口维护")
        );
        assert!(status.message().contains("held back since 20"), "{status}");
        let retry_after = retry_after(&status);
        assert!(retry_after <= Duration::from_secs(10), "{retry_after:?}");
    }
    // Another operation of the account is held back as well.
    let request = QueryConfigRequest::default();
    let status = bridge.config.clone().query_config(request).await;
    assert_eq!(reason(&status.unwrap_err()), expected);
    assert_eq!((fake.tokens(), fake.operations()), (1, 1));
    let metrics = bridge.metrics();
    for line in [
        "platform_breaker_open{account=\"default\"} 1",
        "operation=\"start_task\",outcome=\"held_back\"} 20",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn calls_that_wait_for_their_turn_when_maintenance_begins_are_not_sent() {
    let (fake, _) = answering(MAINTENANCE).await;
    fake.hold_operations_until(2);
    let settings = PlatformConfig {
        max_concurrent_requests: 1,
        ..settings(&fake.base_url)
    };
    let bridge = bridge(&settings).await;
    let first = calls(&bridge, 1);
    fake.arrived(2).await;
    let task = task();
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut call = Box::pin(bridge.platform.call("default", &task, None));
        assert!(futures_util::poll!(&mut call).is_pending());
        waiting.push(call);
    }
    fake.hold_operations_until(0);
    first.join_all().await.remove(0).unwrap_err();
    for outcome in join_all(waiting).await {
        let error = outcome.unwrap_err();
        assert!(matches!(error, PlatformError::HeldBack { .. }), "{error}");
        assert_eq!(error.proof(), Proof::NothingSent);
    }
    assert_eq!(fake.operations(), 1);
}

#[tokio::test]
async fn one_account_under_maintenance_holds_back_no_other() {
    let (fake, _) = answering(MAINTENANCE).await;
    let settings = settings(&fake.base_url);
    let bridge = Bridge::with(&settings, &["first", "second"], &[]).await;
    for (account, is_ok) in [("first", false), ("first", false), ("second", true)] {
        let outcome = bridge.platform.call(account, &task(), None).await;
        assert_eq!(outcome.is_ok(), is_ok, "{account}: {outcome:?}");
    }
    assert_eq!(fake.operations(), 2);
}

#[tokio::test]
async fn one_of_fifty_callers_tries_how_the_platform_is_and_its_success_lets_all_go_on() {
    let (fake, _) = answering(MAINTENANCE).await;
    let settings = PlatformConfig {
        maintenance_wait: Duration::from_millis(10),
        ..settings(&fake.base_url)
    };
    let bridge = bridge(&settings).await;
    call(&bridge).await.unwrap_err();
    // The probe goes out, and stays out until the others have been told.
    fake.hold_operations_until(3);
    tokio::time::sleep(settings.maintenance_wait).await;
    let mut callers = calls(&bridge, 50);
    for _ in 0..49 {
        let outcome = callers.join_next().await.unwrap().unwrap();
        assert_eq!(reason(&outcome.unwrap_err()).1, "UNDER_MAINTENANCE");
    }
    fake.arrived(3).await;
    assert_eq!((fake.tokens(), fake.operations()), (1, 2));
    fake.hold_operations_until(0);
    callers.join_all().await.remove(0).unwrap();
    for outcome in calls(&bridge, 50).join_all().await {
        outcome.unwrap();
    }
    assert_eq!(fake.operations(), 52);
    let closed = "platform_breaker_open{account=\"default\"} 0";
    assert!(bridge.metrics().contains(closed));
}

#[tokio::test]
async fn a_probe_whose_caller_leaves_is_followed_by_another() {
    let (fake, _) = answering(MAINTENANCE).await;
    let settings = PlatformConfig {
        maintenance_wait: Duration::from_millis(1),
        ..settings(&fake.base_url)
    };
    let bridge = bridge(&settings).await;
    call(&bridge).await.unwrap_err();
    // A read that is given up: nobody waits for its answer any more.
    fake.hold_operations_until(3);
    tokio::time::sleep(settings.maintenance_wait).await;
    let platform = Arc::clone(&bridge.platform);
    let caller = tokio::spawn(async move {
        let request = QueryConfigRequest::default();
        platform.call("default", &request, None).await
    });
    fake.arrived(3).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    fake.hold_operations_until(0);
    call(&bridge).await.unwrap();
}

/// A port at which nobody listens yet, and which nobody else can take.
fn deaf() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let base_url = format!("http://{}", socket.local_addr().unwrap());
    (socket, base_url)
}

async fn five_calls_in_vain(bridge: &Bridge) {
    for _ in 0..5 {
        let status = call(bridge).await.unwrap_err();
        assert_eq!(reason(&status).1, "PLATFORM_UNREACHABLE");
        assert!(!status.message().contains("held back"), "{status}");
    }
}

#[tokio::test]
async fn after_five_calls_that_reached_nobody_the_next_are_held_back_and_the_token_is_fetched_still()
 {
    let (socket, base_url) = deaf();
    let settings = PlatformConfig {
        unreachable_wait: Duration::from_secs(60),
        ..settings(&base_url)
    };
    let bridge = bridge(&settings).await;
    five_calls_in_vain(&bridge).await;
    // It is there again, which the gateway may find out by the token alone.
    let fake = Fake::start_on(socket.listen(16).unwrap(), |_, _, _| OK.to_owned());
    fake.arrived(1).await;
    for outcome in calls(&bridge, 20).join_all().await {
        let status = outcome.unwrap_err();
        let expected = (
            Code::Unavailable,
            "PLATFORM_UNREACHABLE".into(),
            "yeta-gateway".into(),
        );
        assert_eq!(reason(&status), expected);
        assert!(status.message().contains("held back since 20"), "{status}");
        assert!(retry_after(&status) <= Duration::from_secs(60));
    }
    assert_eq!((fake.tokens(), fake.operations()), (1, 0));
}

#[tokio::test]
async fn a_platform_that_can_be_reached_again_gets_its_calls_again() {
    let (socket, base_url) = deaf();
    let settings = PlatformConfig {
        unreachable_wait: Duration::from_millis(20),
        ..settings(&base_url)
    };
    let bridge = bridge(&settings).await;
    five_calls_in_vain(&bridge).await;
    let fake = Fake::start_on(socket.listen(16).unwrap(), |_, _, _| OK.to_owned());
    eventually(async || call(&bridge).await.ok()).await;
    for outcome in calls(&bridge, 20).join_all().await {
        outcome.unwrap();
    }
    assert_eq!(fake.operations(), 21);
}

#[tokio::test]
async fn changes_with_unreadable_answers_are_held_back_until_a_read_can_be_read() {
    let is_well = Arc::new(AtomicBool::new(false));
    let (switch, changes) = (Arc::clone(&is_well), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&changes);
    let fake = Fake::start(move |path, _, _| {
        if path.ends_with("/start") {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        let answer = if switch.load(Ordering::SeqCst) {
            OK
        } else {
            "<html>"
        };
        answer.to_owned()
    })
    .await;
    fake.http_status(502);
    let settings = PlatformConfig {
        unreachable_wait: Duration::from_millis(20),
        ..settings(&fake.base_url)
    };
    let bridge = bridge(&settings).await;
    for _ in 0..3 {
        let status = call(&bridge).await.unwrap_err();
        assert_eq!(reason(&status).1, "OUTCOME_UNKNOWN");
    }
    for outcome in calls(&bridge, 50).join_all().await {
        let status = outcome.unwrap_err();
        let expected = (
            Code::Unavailable,
            "PLATFORM_UNREADABLE".into(),
            "yeta-gateway".into(),
        );
        assert_eq!(reason(&status), expected);
        assert!(status.message().contains("held back since 20"), "{status}");
        assert!(retry_after(&status) <= Duration::from_secs(60));
    }
    assert_eq!(changes.load(Ordering::SeqCst), 3);
    let gauge = |value| format!("platform_changes_held_back{{account=\"default\"}} {value}");
    assert!(bridge.metrics().contains(&gauge(1)), "{}", bridge.metrics());
    is_well.store(true, Ordering::SeqCst);
    fake.http_status(200);
    eventually(async || call(&bridge).await.ok()).await;
    assert_eq!(changes.load(Ordering::SeqCst), 4);
    assert!(bridge.metrics().contains(&gauge(0)), "{}", bridge.metrics());
}

const LINE: &str = "055169101407";

async fn create_task(bridge: &Bridge, task_name: &str) -> String {
    let request = CreateTaskRequest {
        task_name: task_name.into(),
        line_num: LINE.into(),
        robot_id: "11".into(),
        time_range: vec!["00:00:00-23:59:59".into()],
        // Far off, so that the task stays as it is.
        time_begin: 4_000_000_000_000,
        ..CreateTaskRequest::default()
    };
    let mut client = bridge.outbound.clone();
    let task_id = client.create_task(request).await.unwrap();
    let task_id = task_id.into_inner().task_id;
    let request = InsertTaskDataRequest {
        task_id: task_id.clone(),
        call_column: vec!["客户手机号码".into(), "列2".into(), "列3".into()],
        call_list: vec![Row {
            values: vec!["13000000001".into(), "t2".into(), "t3".into()],
        }],
        ..InsertTaskDataRequest::default()
    };
    client.insert_task_data(request).await.unwrap();
    task_id
}

async fn start(bridge: &Bridge, task_id: &str) -> Result<(), Status> {
    let request = StartTaskRequest {
        task_id: task_id.into(),
    };
    bridge
        .outbound
        .clone()
        .start_task(request)
        .await
        .map(|_| ())
}

async fn call_out(bridge: &Bridge) -> Status {
    let request = CallOutRequest {
        robot_id: "719".into(),
        line_num: LINE.into(),
        call_column: vec!["客户手机号码".into(), "姓名".into()],
        call_list: vec![Row {
            values: vec!["13000000001".into(), "张先生".into()],
        }],
        ..CallOutRequest::default()
    };
    bridge.outbound.clone().call_out(request).await.unwrap_err()
}

#[track_caller]
fn assert_occupied(status: &Status, task_id: &str, task_name: &str) {
    let expected = (
        Code::FailedPrecondition,
        "NUMBER_OCCUPIED".into(),
        "xfyeta.com".into(),
    );
    assert_eq!(reason(status), expected);
    let metadata = metadata(status);
    for (key, expected) in [
        ("code", "3030002"),
        ("line_num", LINE),
        ("occupied_by_task", task_id),
        ("task_name", task_name),
    ] {
        assert_eq!(
            metadata.get(key).map(String::as_str),
            Some(expected),
            "{key}"
        );
    }
    assert!(metadata.contains_key("task_status"), "{metadata:?}");
    humantime::parse_rfc3339(&metadata["seen_at"]).unwrap();
    let words = format!("line {LINE} serves task {task_id}");
    assert!(status.message().contains(&words), "{status}");
}

async fn queries(sandbox: &Sandbox) -> u64 {
    let counts = sandbox.counts("query").await;
    counts["received"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn the_error_of_an_occupied_line_names_the_task_that_the_gateway_started() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let bridge = Bridge::start(&sandbox.base).await;
    let first = create_task(&bridge, "回访").await;
    let second = create_task(&bridge, "通知").await;
    start(&bridge, &first).await.unwrap();
    assert_occupied(&call_out(&bridge).await, &first, "回访");
    let status = start(&bridge, &second).await.unwrap_err();
    assert_occupied(&status, &first, "回访");
    assert_eq!(queries(&sandbox).await, 0, "what is known is not asked for");
}

#[tokio::test]
async fn a_task_query_that_passed_by_names_the_occupying_task_and_none_is_sent_for_it() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let (other, own) = (
        Bridge::start(&sandbox.base).await,
        Bridge::start(&sandbox.base).await,
    );
    let holder = create_task(&other, "13000000001 回访").await;
    start(&other, &holder).await.unwrap();
    let status = call_out(&own).await;
    assert_eq!(reason(&status).1, "NUMBER_OCCUPIED");
    let metadata = metadata(&status);
    assert!(!metadata.contains_key("occupied_by_task"), "{metadata:?}");
    assert_eq!(queries(&sandbox).await, 0);
    let request = QueryTasksRequest::default();
    own.outbound.clone().query_tasks(request).await.unwrap();
    for _ in 0..3 {
        assert_occupied(&call_out(&own).await, &holder, "*********01 回访");
    }
    assert_eq!(queries(&sandbox).await, 1);
}
