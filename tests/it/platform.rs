//! The gRPC services over the client of the platform: requests, answers, limits.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use yeta_gateway::{
    config::{Client, Permission},
    platform::PlatformError,
    proto::{
        CallOutRequest, ConfigType, CreateTaskRequest, LineStatus, QueryConfigRequest,
        QueryTasksRequest, RobotStatus, RobotType, Row, SortOrder, StartTaskRequest, TaskSortName,
        TaskStatus, TaskType,
    },
};

use crate::{
    bridge::{Bridge, reason, settings},
    fake::Fake,
    sandbox::harness::eventually,
};

/// A platform that keeps what it was sent and always answers the same.
async fn answering(answer: impl Into<String>) -> (Fake, Arc<Mutex<Vec<(String, Value)>>>) {
    let (answer, sent) = (answer.into(), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&sent);
    let fake = Fake::start(move |path, _, body| {
        let body = serde_json::from_slice(body).unwrap();
        kept.lock().unwrap().push((path.to_owned(), body));
        answer.clone()
    })
    .await;
    (fake, sent)
}

fn call_out() -> CallOutRequest {
    CallOutRequest {
        robot_id: "719".into(),
        line_num: "69101338".into(),
        call_column: vec!["客户手机号码".into(), "姓名".into()],
        call_list: vec![Row {
            values: vec!["13000000001".into(), "张先生".into()],
        }],
        ..CallOutRequest::default()
    }
}

#[tokio::test]
async fn a_callout_goes_out_as_documented_and_its_ids_come_back_exact() {
    let answer = r#"{"code":"0","message":"ok","result":{"total":"2","task_data_ids":[346252615123869699,"9007199254740993"]}}"#;
    let (fake, sent) = answering(answer).await;
    let bridge = Bridge::start(&fake.base_url).await;
    let request = CallOutRequest {
        robot_speed: Some(-500),
        ..call_out()
    };
    let reply = bridge
        .outbound
        .clone()
        .call_out(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.total, Some(2));
    assert_eq!(
        reply.task_data_ids,
        ["346252615123869699", "9007199254740993"]
    );
    assert_eq!(reply.push_cursor, "end-of-log");
    let expected = json!({
        "robot_id": "719",
        "line_num": "69101338",
        "call_column": ["客户手机号码", "姓名"],
        "call_list": [["13000000001", "张先生"]],
        "robot_speed": -500,
    });
    let path = "/openapi/outbound/v1/task/callout".to_owned();
    assert_eq!(*sent.lock().unwrap(), [(path, expected)]);
}

#[tokio::test]
async fn a_task_query_is_read_as_the_document_prints_it() {
    let printed = r#"{ "code":0, "message":"ok", "result":{ "total_rows":30, "rows":[ {
        "task_id":"1909", "task_name":"task_test1", "status":4, "deleted":0,
        "time_task_start":1533289491345, "time_task_finish":1533820104848,
        "count_total_task":4, "count_tel":4, "count_recalled":0,
        "time_task_estimate_begin":1478157571217, "time_task_estimate_end":0,
        "line_num":"69101338", "robot_id":"719", "robot_name":"测试话术无参数",
        "voice_code":"60030", "voice_speed":400, "count_max_recall":2,
        "status_recall":"[1,1]", "time_recall_wait":2000,
        "time_range":"["07:30:00-23:30:00"]", "intention_push":"["A","B"]",
        "process_count":7, "process_tel_count":7, "process_through_count":4,
        "process_through_rate":1 },
        { "task_id": 1910, "status": "0", "task_type": 2, "remaining": "12",
        "time_range": "[\"09:00:00-12:00:00\"]", "process_through_rate": "0.5" },
        { "task_id": "1911", "status": 42, "task_type": 0, "time_range": "all day" } ] } }"#;
    let (fake, sent) = answering(printed).await;
    let bridge = Bridge::start(&fake.base_url).await;
    let request = QueryTasksRequest {
        time_begin: Some(153_000_000),
        sort_name: TaskSortName::CreateTime.into(),
        sort_order: SortOrder::Desc.into(),
        task_status_list: vec![TaskStatus::New.into(), TaskStatus::Paused.into()],
        task_status_code_list: vec![9],
        show_remaining: Some(true),
        ..QueryTasksRequest::default()
    };
    let reply = bridge
        .outbound
        .clone()
        .query_tasks(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.total_rows, Some(30));
    let [first, second, third] = &reply.rows[..] else {
        panic!("{reply:?}");
    };
    assert_eq!(
        (first.status(), first.status_code),
        (TaskStatus::Completed, Some(4))
    );
    assert_eq!(first.time_range, ["07:30:00-23:30:00"]);
    assert_eq!(first.intention_push, ["A", "B"]);
    assert_eq!(first.status_recall, "[1,1]");
    assert_eq!(first.process_through_rate, Some(1.0));
    assert_eq!((first.deleted, first.remaining), (Some(false), None));
    assert_eq!(
        (second.task_id.as_str(), second.status()),
        ("1910", TaskStatus::New)
    );
    assert_eq!(
        (second.task_type(), second.remaining),
        (TaskType::Pool, Some(12))
    );
    assert_eq!(second.time_range, ["09:00:00-12:00:00"]);
    assert_eq!(second.process_through_rate, Some(0.5));
    assert_eq!(
        (third.status(), third.status_code),
        (TaskStatus::Unspecified, Some(42))
    );
    assert_eq!(third.task_type(), TaskType::Ordinary);
    assert_eq!(third.time_range, ["all day"]);
    let expected = json!({
        "time_begin": 153_000_000,
        "sort_name": "CREATETIME",
        "sort_order": "DESC",
        "task_status_list": [0, 3, 9],
        "show_remaining": true,
    });
    assert_eq!(sent.lock().unwrap()[0].1, expected);
}

#[tokio::test]
async fn the_configuration_is_read_and_keeps_the_push_secret_to_itself() {
    let answer = json!({ "code": 0, "message": "ok", "result": {
        "lines": [{ "line_num": "055169101407", "concurrents": 10, "status": 0,
            "time_work": ["09:00:00-12:00:00"], "time_expire": -1 }],
        "robots": [{ "robot_id": 111_111, "status": 4, "type": 1, "deleted": 1,
            "call_column": ["客户手机号码"] }],
        "urls": [{ "url": "http://gw/v1/push/default/push-secret/receiveDialog",
            "url_module": "receiveDialog|AppX" }],
        "voices": null,
        "robotTotal": "7",
    }});
    let (fake, sent) = answering(answer.to_string()).await;
    let bridge = Bridge::start(&fake.base_url).await;
    let request = QueryConfigRequest {
        r#type: ConfigType::Line.into(),
        page_size: Some(5),
        page_index: Some(1),
    };
    let reply = bridge
        .config
        .clone()
        .query_config(request)
        .await
        .unwrap()
        .into_inner();
    let (line, robot) = (&reply.lines[0], &reply.robots[0]);
    assert_eq!(
        (line.status(), line.status_code),
        (LineStatus::Idle, Some(0))
    );
    assert_eq!((line.time_expire, line.time_apply), (Some(-1), None));
    assert_eq!(
        (robot.status(), robot.r#type()),
        (RobotStatus::Published, RobotType::Ordinary)
    );
    assert_eq!(
        (robot.robot_id.as_str(), robot.deleted),
        ("111111", Some(true))
    );
    assert_eq!(
        reply.urls[0].url,
        "http://gw/v1/push/default/***/receiveDialog"
    );
    assert_eq!(reply.urls[0].url_module, "receiveDialog|AppX");
    assert_eq!((reply.voices.len(), reply.robot_total), (0, Some(7)));
    let expected = json!({ "type": 2, "pageSize": 5, "pageIndex": 1 });
    assert_eq!(sent.lock().unwrap()[0].1, expected);
}

#[tokio::test]
async fn a_task_is_created_with_the_fields_that_were_set_and_no_others() {
    let (fake, sent) = answering(r#"{"code":0,"message":"ok","result":{"task_id":129}}"#).await;
    let bridge = Bridge::start(&fake.base_url).await;
    let mut request = CreateTaskRequest {
        task_name: "测试外呼".into(),
        line_num: "055169101407;055169101408".into(),
        robot_id: "11".into(),
        time_begin: 1_527_321_492_000,
        ..CreateTaskRequest::default()
    };
    let mut client = bridge.outbound.clone();
    let reply = client
        .create_task(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.task_id, "129");
    request.recall_count = Some(0);
    request.trubo_mode = Some(false);
    client.create_task(request).await.unwrap();
    let sent = sent.lock().unwrap();
    let mut expected = json!({
        "task_name": "测试外呼",
        "line_num": "055169101407;055169101408",
        "robot_id": "11",
        "time_begin": 1_527_321_492_000_i64,
    });
    assert_eq!(sent[0].1, expected);
    expected["recall_count"] = json!(0);
    expected["trubo_mode"] = json!(false);
    assert_eq!(sent[1].1, expected);
}

#[tokio::test]
async fn an_invalid_request_is_refused_with_every_violation_and_never_sent() {
    let (fake, _) = answering("{}").await;
    let bridge = Bridge::start(&fake.base_url).await;
    let request = CallOutRequest {
        robot_id: String::new(),
        call_list: vec![call_out().call_list[0].clone(); 51],
        ..call_out()
    };
    let status = bridge.outbound.clone().call_out(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["robot_id", "call_list"]);
    assert_eq!(fake.operations(), 0);
}

#[tokio::test]
async fn clients_are_held_to_what_they_are_allowed() {
    let (fake, _) = answering(r#"{"code":0,"result":{}}"#).await;
    let client = Client {
        name: "crm".into(),
        token_sha256: vec![Sha256::digest("crm-token").into()],
        allow: vec![Permission::Outbound],
        accounts: vec!["second".into()],
        ..Client::default()
    };
    let settings = settings(&fake.base_url);
    let bridge = Bridge::with(&settings, &["first", "second"], &[client]).await;
    let known = [("authorization", "Bearer crm-token")];
    let second = [known[0], ("yeta-account", "second")];
    let third = [known[0], ("yeta-account", "third")];
    let refused = |status: Status| (reason(&status).0, reason(&status).1);
    let table = [
        (&[][..], Some((Code::Unauthenticated, "UNAUTHENTICATED"))),
        (
            &[("authorization", "Bearer other")],
            Some((Code::Unauthenticated, "UNAUTHENTICATED")),
        ),
        (&known, Some((Code::PermissionDenied, "ACCOUNT_FORBIDDEN"))),
        (&third, Some((Code::NotFound, "ACCOUNT_NOT_FOUND"))),
        (&second, None),
    ];
    for (metadata, expected) in table {
        let request = with_metadata(call_out(), metadata);
        let outcome = bridge.outbound.clone().call_out(request).await;
        let expected = expected.map(|(code, reason)| (code, reason.to_owned()));
        assert_eq!(outcome.err().map(refused), expected, "{metadata:?}");
    }
    let request = with_metadata(QueryConfigRequest::default(), &second);
    let status = bridge.config.clone().query_config(request).await;
    let expected = (Code::PermissionDenied, "RPC_FORBIDDEN".to_owned());
    assert_eq!(refused(status.unwrap_err()), expected);
    assert_eq!(fake.operations(), 1);
}

fn with_metadata<T>(message: T, pairs: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (key, value) in pairs {
        request.metadata_mut().insert(*key, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_take_its_sent_submission_along() {
    let (fake, sent) = answering(r#"{"code":0,"result":{}}"#).await;
    fake.hold_operations_until(2);
    let bridge = Bridge::start(&fake.base_url).await;
    let platform = Arc::clone(&bridge.platform);
    let caller = tokio::spawn(async move {
        let request = StartTaskRequest {
            task_id: "1".into(),
        };
        platform.call("default", &request, None).await
    });
    fake.arrived(2).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    fake.hold_operations_until(0);
    bridge.platform.finish().await;
    assert_eq!(sent.lock().unwrap().len(), 1);
    let outcome =
        r#"platform_requests_total{account="default",operation="start_task",outcome="ok"} 1"#;
    assert!(bridge.metrics().contains(outcome), "{}", bridge.metrics());
}

#[tokio::test]
async fn a_caller_that_leaves_before_anything_was_sent_takes_its_submission_along() {
    let (fake, _) = answering(r#"{"code":0,"result":{}}"#).await;
    fake.hold_tokens(true);
    let bridge = Bridge::start(&fake.base_url).await;
    let platform = Arc::clone(&bridge.platform);
    let caller = tokio::spawn(async move {
        let request = StartTaskRequest {
            task_id: "1".into(),
        };
        platform.call("default", &request, None).await
    });
    fake.arrived(1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    fake.hold_tokens(false);
    bridge.platform.finish().await;
    let request = StartTaskRequest {
        task_id: "2".into(),
    };
    bridge
        .platform
        .call("default", &request, None)
        .await
        .unwrap();
    assert_eq!(fake.operations(), 1);
}

#[tokio::test]
async fn a_connection_that_never_comes_about_is_given_up_in_time() {
    let (fake, _) = answering(r#"{"code":0,"result":{}}"#).await;
    // A listener that completes no TLS handshake: connected, and yet unsent.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(&format!("https://{}", silent.local_addr().unwrap()));
    settings.connect_timeout = Duration::from_millis(50);
    let bridge = Bridge::with(&settings, &["default"], &[]).await;
    let request = StartTaskRequest {
        task_id: "1".into(),
    };
    let error = bridge
        .platform
        .call("default", &request, None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, PlatformError::Unreachable { .. }),
        "{error:?}"
    );
    assert_eq!(fake.operations(), 0);
}

#[tokio::test]
async fn an_oversized_answer_is_not_read_to_its_end() {
    let (fake, _) = answering("x".repeat(9 * 1024 * 1024)).await;
    let bridge = Bridge::start(&fake.base_url).await;
    let status = bridge
        .outbound
        .clone()
        .call_out(call_out())
        .await
        .unwrap_err();
    assert_eq!(reason(&status).1, "OUTCOME_UNKNOWN");
}

#[tokio::test]
async fn no_error_tells_the_token() {
    for answer in [
        "<html>",
        r#"{"code":1,"message":"m"}"#,
        r#"{"code":10001,"message":"m"}"#,
    ] {
        let (fake, _) = answering(answer).await;
        let bridge = Bridge::start(&fake.base_url).await;
        let status =
            eventually(async || bridge.outbound.clone().call_out(call_out()).await.err()).await;
        let everything = format!("{status:?} {:?}", status.get_error_details());
        assert!(!everything.contains("token-"), "{everything}");
    }
}
