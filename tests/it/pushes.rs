//! Pushes from POST to subscriber: every quirk of the platform is taken and delivered, no byte and
//! no field of it is lost, and nothing is delivered twice or dropped.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::{
    CallDirection, CallRecordVariant, DialogHit, DialogNodeType, DialogRole, DialogTurn,
    ListPushesRequest, PushEvent, PushKind, SubscribePushesRequest, TaskResult,
};
use yeta_gateway::sandbox::quirks;

use crate::support::{PUSH_SECRET, TestApp, earliest, next_event, pushed, record};

impl TestApp {
    /// Everything in the log that was pushed, with raw bytes.
    async fn events(&self) -> Vec<PushEvent> {
        let request = ListPushesRequest {
            page_size: 1000,
            include_raw: true,
            filter: Some(pushed()),
            ..ListPushesRequest::default()
        };
        let page = self.pushes().list_pushes(request).await.unwrap();
        let page = page.into_inner();
        assert_eq!(page.next_page_token, "");
        page.events
    }

    /// Pushes a body and gives the one event that came of it.
    async fn delivered(&self, module: &str, body: &str) -> PushEvent {
        let before = self.events().await.len();
        self.push(module, body.to_owned()).await;
        let mut events = self.events().await.split_off(before);
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }
}

/// What a quirk's body is to be delivered as: the bytes of each of its pushes.
fn expected_raw(body: &[u8]) -> Vec<Bytes> {
    let elements: Option<Vec<&serde_json::value::RawValue>> = serde_json::from_slice(body).ok();
    match elements {
        Some(elements) if !elements.is_empty() => elements
            .into_iter()
            .map(|element| Bytes::copy_from_slice(element.get().as_bytes()))
            .collect(),
        _ => vec![Bytes::copy_from_slice(body)],
    }
}

/// What is delivered of all quirks, in their order: (quirk, raw bytes). An element of one array is
/// another quirk's whole body: the same content, and so delivered once.
fn expected_events() -> Vec<(&'static str, Bytes)> {
    let mut contents = HashSet::new();
    let mut expected = Vec::new();
    for quirk in quirks() {
        for raw in expected_raw(&quirk.body) {
            let content = match serde_json::from_slice::<Value>(&raw) {
                Ok(value) => value.to_string().into(),
                Err(_) => raw.clone(),
            };
            if contents.insert((quirk.module, content)) {
                expected.push((quirk.name, raw));
            }
        }
    }
    expected
}

/// The kind that each quirk's pushes are to be recognised as.
fn expected_kind(quirk: &str, module: &str, raw: &[u8]) -> PushKind {
    const UNRECOGNIZED: [&str; 8] = [
        "empty_array",
        "not_json",
        "cut_short",
        "empty_body",
        "json_but_no_object",
        "test_push",
        "test_push_without_json",
        "unknown_module",
    ];
    let object = raw.starts_with(b"{") || raw.starts_with(b"\xef\xbb\xbf{");
    let object = object || raw.trim_ascii_start().starts_with(b"{");
    if UNRECOGNIZED.contains(&quirk) || !object {
        return PushKind::Unrecognized;
    }
    match module {
        "receiveCallRecord" => PushKind::CallRecord,
        "receiveVoice" => PushKind::Voice,
        "receiveDialog" => PushKind::Dialog,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn every_quirk_is_answered_success_and_delivered_byte_for_byte_as_what_it_is() {
    let app = TestApp::start().await;
    let mut stream = app
        .pushes()
        .subscribe_pushes(SubscribePushesRequest {
            filter: Some(pushed()),
            ..earliest()
        })
        .await
        .unwrap()
        .into_inner();
    let expected = expected_events();
    for quirk in quirks() {
        let uri = format!(
            "{}/v1/push/default/{PUSH_SECRET}/{}",
            app.push, quirk.module
        );
        let mut request = Request::post(uri);
        if let Some(content_type) = quirk.content_type {
            request = request.header("content-type", content_type);
        }
        let body = Bytes::from(quirk.body);
        let request = request.body(Full::new(body.clone())).unwrap();
        let answer = app.http.send(request).await.unwrap();
        assert_eq!(
            (answer.status, &*answer.text()),
            (StatusCode::OK, "success"),
            "{}",
            quirk.name
        );
        for (_, raw) in expected.iter().filter(|(name, _)| *name == quirk.name) {
            let event = next_event(&mut stream).await;
            assert_eq!(event.raw_json, *raw, "{}", quirk.name);
            let kind = expected_kind(quirk.name, quirk.module, raw);
            assert_eq!(event.kind(), kind, "{}: {event:?}", quirk.name);
            assert_eq!(event.account, "default");
            if let Some(Payload::Unrecognized(unrecognized)) = &event.payload {
                assert_eq!(unrecognized.module, quirk.module);
                assert_eq!(
                    unrecognized.content_type,
                    quirk.content_type.unwrap_or_default()
                );
                assert_eq!(unrecognized.size, i64::try_from(raw.len()).unwrap());
                assert_ne!(unrecognized.reason, "");
            }
        }
    }
}

#[tokio::test]
async fn every_quirk_sent_again_is_answered_success_and_not_delivered_again() {
    let app = TestApp::start().await;
    for _ in 0..2 {
        for quirk in quirks() {
            app.push(quirk.module, quirk.body).await;
        }
    }
    let pushes = expected_events().len();
    let events = app.events().await;
    assert_eq!(events.len(), pushes);
    let ids: HashSet<_> = events.iter().map(|event| &event.event_id).collect();
    assert_eq!(ids.len(), pushes);
}

/// The body of the quirk of this name: the documents' own examples are among them.
fn example(name: &str) -> String {
    let quirk = quirks()
        .into_iter()
        .find(|quirk| quirk.name == name)
        .unwrap();
    String::from_utf8(quirk.body).unwrap()
}

#[tokio::test]
async fn the_documents_call_records_are_read_whole() {
    let app = TestApp::start().await;
    let event = app
        .delivered(
            "receiveCallRecord",
            &example("inbound_with_outbound_fields"),
        )
        .await;
    assert_eq!(event.extra_fields, None);
    let Some(Payload::CallRecord(record)) = event.payload else {
        panic!("{event:?}")
    };
    assert_eq!(record.variant(), CallRecordVariant::Outbound);
    assert_eq!(record.direction(), CallDirection::Inbound);
    assert_eq!(record.task_result(), TaskResult::Success);
    let texts = [
        &record.business_id,
        &record.app_id,
        &record.robot_id,
        &record.call_uuid,
        &record.call_relation_id,
        &record.task_id,
        &record.task_data_id,
        &record.caller,
        &record.callee,
        &record.task_result_code,
        &record.task_result_desc,
    ];
    assert_eq!(
        texts,
        [
            "2745",
            "test",
            "2745001",
            "123425c-6483-11e8-b8fa-2769c24918cd",
            "test-123",
            "0",
            "262381",
            "055196866001",
            "19900000001",
            "0",
            "成功",
        ]
    );
    let times = [
        record.time_dial,
        record.time_ring,
        record.time_answer,
        record.time_hangup,
    ];
    assert_eq!(
        times.map(Option::unwrap),
        [
            1_527_737_756_729,
            1_527_737_757_449,
            1_527_737_763_429,
            1_527_737_784_829
        ]
    );
    let numbers = [
        record.direction_code,
        record.duration_ring,
        record.duration_call,
        record.task_tries,
    ];
    assert_eq!(numbers.map(Option::unwrap), [1, 7, 28, 0]);
    assert_eq!(record.task_row_index, Some(34_951_420));
    assert_eq!(
        record.task_row_head,
        [
            "客户手机号码",
            "装货时间",
            "装货地三级地址",
            "卸货地三级地址"
        ]
    );
    assert_eq!(
        record.task_row_value,
        [
            "0271111111",
            "3月13日",
            "河北省张家口市张北县",
            "天津市天津市宁河区"
        ]
    );

    let event = app
        .delivered("receiveCallRecord", &example("inbound_with_dials_times"))
        .await;
    assert_eq!(event.extra_fields, None);
    let Some(Payload::CallRecord(record)) = event.payload else {
        panic!("{event:?}")
    };
    assert_eq!(record.variant(), CallRecordVariant::Basic);
    assert_eq!(
        (&*record.caller, &*record.callee),
        ("69102939", "15556985227")
    );
    assert_eq!(
        (record.task_result(), record.task_row_index),
        (TaskResult::Unspecified, None)
    );
}

#[tokio::test]
async fn the_documents_recording_is_read_whole() {
    let app = TestApp::start().await;
    let event = app
        .delivered("receiveVoice", &example("relative_voice_url"))
        .await;
    assert_eq!(event.extra_fields, None);
    let Some(Payload::Voice(voice)) = event.payload else {
        panic!("{event:?}")
    };
    let path = "ant/4/ivr/0/2018/05/31/0/452263-7571100e-7afc-42aa-9d69-ac25805d45b6.wav";
    assert_eq!(voice.url, path);
    assert_eq!(
        voice.absolute_url,
        format!("http://voice.kxjlcc.com:9000/{path}")
    );
    assert_eq!((voice.size, voice.duration), (Some(1_043_244), Some(32)));
    assert_eq!(voice.call_uuid, "809c825c-6483-11e8-b8db-2769c24918cd");
    assert_eq!(
        [&*voice.business_id, &*voice.app_id, &*voice.robot_id],
        ["10527", "123", "10527"]
    );
}

#[tokio::test]
async fn the_documents_dialogs_are_read_whole() {
    let app = TestApp::start().await;
    let event = app
        .delivered("receiveDialog", &example("dialog_with_later_fields"))
        .await;
    assert_eq!(event.extra_fields, None);
    let Some(Payload::Dialog(dialog)) = event.payload else {
        panic!("{event:?}")
    };
    assert_eq!(dialog.task_id, "3457986492696704");
    assert_eq!(dialog.task_data_id, "346252615123869699");
    assert_eq!(dialog.call_relation_id, "346252615123869699");
    assert_eq!(
        (dialog.time_begin, dialog.time_end),
        (Some(1_618_795_847_425), Some(1_618_795_868_298))
    );
    let customer = DialogTurn {
        seq: Some(6),
        role: DialogRole::Customer.into(),
        role_code: "customer".into(),
        node_id: "words_node_9bdd01e7-1".into(),
        node_name: "开场询问".into(),
        node_type: DialogNodeType::Normal.into(),
        node_type_code: "NormalNode".into(),
        content_id: "a75f4j9uN32d440b13ac08m".into(),
        text_robot: "喂,您好!".into(),
        text_man: "你说".into(),
        time_start: Some(1_618_795_849_743),
        time_speaking: Some(1_618_795_858_958),
        hits: vec![DialogHit {
            hit: "肯定".into(),
            pick: Some(true),
            ..DialogHit::default()
        }],
        ..DialogTurn::default()
    };
    let robot = DialogTurn {
        seq: Some(7),
        role: DialogRole::Robot.into(),
        role_code: "robot".into(),
        node_id: "words_node_97ab88da-d".into(),
        node_name: "优惠券介绍".into(),
        node_type: DialogNodeType::Normal.into(),
        node_type_code: "NormalNode".into(),
        text_robot: "喂,您好!".into(),
        time_start: Some(1_618_795_859_788),
        ..DialogTurn::default()
    };
    assert_eq!(dialog.dialog, [customer, robot]);

    let event = app
        .delivered("receiveDialog", &example("dialog_with_earlier_fields"))
        .await;
    assert_eq!(event.extra_fields, None);
    let Some(Payload::Dialog(dialog)) = event.payload else {
        panic!("{event:?}")
    };
    let turns: Vec<_> = dialog
        .dialog
        .iter()
        .map(|turn| (turn.seq, turn.role()))
        .collect();
    assert_eq!(
        turns,
        [
            (Some(3), DialogRole::Robot),
            (Some(4), DialogRole::Customer)
        ]
    );
    assert_eq!(dialog.dialog[1].hits[0].hit, "任意回答");
    assert!(dialog.dialog.iter().all(|turn| turn.extra_fields.is_none()));
}

#[tokio::test]
async fn fields_that_the_proto_does_not_have_come_in_extra_fields() {
    let app = TestApp::start().await;
    let event = app
        .delivered("receiveCallRecord", &example("unknown_fields"))
        .await;
    let extra = event.extra_fields.unwrap();
    assert_eq!(
        extra.fields.keys().collect::<Vec<_>>(),
        ["new_field", "new_id"]
    );
    let event = app
        .delivered("receiveDialog", &example("hit_as_object"))
        .await;
    let Some(Payload::Dialog(dialog)) = event.payload else {
        panic!("{event:?}")
    };
    let turn = &dialog.dialog[0];
    assert_eq!((&*turn.hits[0].hit, &*turn.hits[0].id), ("肯定", "17"));
    let extra = turn.extra_fields.as_ref().unwrap();
    assert_eq!(
        extra.fields.keys().collect::<Vec<_>>(),
        ["has_reply", "reject", "un_hit"]
    );
}

#[tokio::test]
async fn the_same_content_is_delivered_once_and_different_content_always() {
    let app = TestApp::start().await;
    let same = [
        r#"{"call_uuid":"a","size":1,"x":{"p":[1,2],"q":"\u4f60"}}"#,
        "{ \"size\": 1,\n\t\"x\": {\"q\": \"你\", \"p\": [1, 2]}, \"call_uuid\": \"a\" }",
        "\u{feff}{\"call_uuid\":\"a\",\"size\":1,\"x\":{\"q\":\"你\",\"p\":[1,2]}}",
        r#"[{"x":{"q":"你","p":[1,2]},"size":1,"call_uuid":"a"}]"#,
    ];
    for body in same {
        app.push("receiveVoice", body).await;
    }
    assert_eq!(app.events().await.len(), 1);
    let different = [
        r#"{"call_uuid":"a","size":1.0,"x":{"p":[1,2],"q":"你"}}"#,
        r#"{"call_uuid":"a","size":"1","x":{"p":[1,2],"q":"你"}}"#,
        r#"{"call_uuid":"a","size":1,"x":{"p":[2,1],"q":"你"}}"#,
        r#"{"call_uuid":"a","size":1,"x":{"p":[1,2],"q":"你 "}}"#,
        r#"{"call_uuid":"a","size":1,"x":{"p":[1,2],"q":"你"},"y":null}"#,
        r#"{"call_uuid":"a","size":1,"size":1,"x":{"p":[1,2],"q":"你"}}"#,
        r#"{"call_uuid":"a","size":1,"x":{"p":[1,2],"q":"你"}"#,
        r#"{"call_uuid":"a","size":1,"x":{"p":[1,2],"q":"你"} "#,
    ];
    for (i, body) in different.into_iter().enumerate() {
        app.push("receiveVoice", body).await;
        assert_eq!(app.events().await.len(), i + 2, "{body}");
    }
    // The module is part of what it is.
    app.push("receiveDialog", same[0]).await;
    assert_eq!(app.events().await.len(), different.len() + 2);
}

#[tokio::test]
async fn pushes_at_the_same_time_of_the_same_body_are_stored_once() {
    let app = TestApp::start().await;
    let sent = (0..16).map(|_| app.push("receiveCallRecord", record("same")));
    futures_util::future::join_all(sent).await;
    assert_eq!(app.events().await.len(), 1);
}

#[tokio::test]
async fn an_array_is_taken_whole_in_its_order() {
    let app = TestApp::start().await;
    let records: Vec<_> = (0..300).map(|n| record(&format!("{n:03}"))).collect();
    app.push("receiveCallRecord", format!("[ {} ]", records.join(" ,\n")))
        .await;
    let raw: Vec<_> = app
        .events()
        .await
        .into_iter()
        .map(|event| event.raw_json)
        .collect();
    assert_eq!(raw, records);
}

#[tokio::test]
async fn an_address_that_is_not_quite_right_is_answered_alike_whatever_is_wrong() {
    let app = TestApp::start().await;
    let wrong_secret = "x".repeat(PUSH_SECRET.len());
    let mut answers = Vec::new();
    for path in [
        format!("/v1/push/default/{wrong_secret}/receiveVoice"),
        format!("/v1/push/nobody/{PUSH_SECRET}/receiveVoice"),
        format!("/v1/push/nobody/{wrong_secret}/receiveVoice"),
        format!("/v1/push/default/{wrong_secret}/getDialogContext"),
        format!("/v1/push/Default/{PUSH_SECRET}/receiveVoice"),
        "/v1/push/default//receiveVoice".to_owned(),
        "/v1/push/default/receiveVoice".to_owned(),
        "/".to_owned(),
    ] {
        let request = Request::post(format!("{}{path}", app.push))
            .body(Full::new(Bytes::from(record("a"))))
            .unwrap();
        answers.push(app.http.send(request).await.unwrap());
    }
    assert_eq!(answers[0].status, StatusCode::NOT_FOUND);
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert!(app.events().await.is_empty());
}

#[tokio::test]
async fn a_push_too_large_is_refused_and_one_just_small_enough_is_not() {
    let app = TestApp::with(|config| config.push.max_body_bytes = 10_000).await;
    let too_large = app
        .http
        .push(&app.push, "receiveVoice", "x".repeat(10_001))
        .await
        .unwrap();
    assert_eq!(too_large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!too_large.is_success());
    // Much too large, so that it cannot all be under way when the answer is known; also without
    // its length told beforehand.
    let body = "x".repeat(20 << 20);
    let answer = app.http.push(&app.push, "receiveVoice", body).await;
    assert_eq!(answer.unwrap().status, StatusCode::PAYLOAD_TOO_LARGE);
    let address = app.push.trim_start_matches("http://");
    let mut connection = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/push/default/{PUSH_SECRET}/receiveVoice HTTP/1.1\r\nhost: x\r\n\
         connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    for _ in 0..20 {
        connection.write_all(chunk.as_bytes()).await.unwrap();
    }
    connection.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    app.push("receiveVoice", "x".repeat(10_000)).await;
    assert_eq!(app.events().await.len(), 1);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_whole_leaves_nothing() {
    let app = TestApp::start().await;
    let address = app.push.trim_start_matches("http://").to_owned();
    let body = record("cut");
    for head in [
        format!("content-length: {}\r\n\r\n{}", body.len() + 1, body),
        format!(
            "transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n",
            body.len()
        ),
    ] {
        let mut connection = TcpStream::connect(&address).await.unwrap();
        let request = format!(
            "POST /v1/push/default/{PUSH_SECRET}/receiveCallRecord HTTP/1.1\r\nhost: x\r\n{head}"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        connection.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // The end of the connection: whatever was to be done is done.
        let _ = connection.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("success"), "{answer}");
    }
    assert!(app.events().await.is_empty());
    app.push("receiveCallRecord", body).await;
    assert_eq!(app.events().await.len(), 1);
}

#[tokio::test]
async fn a_ringing_caller_always_gets_a_json_object() {
    let context = BTreeMap::from([("姓名".to_owned(), "张三".to_owned())]);
    let expected = json!(context);
    let app = TestApp::with(|config| config.dialog_context.fallback = context).await;
    for body in [r#"{"call_relation_id":"1111"}"#, "", "no json"] {
        let answer = app
            .http
            .push(&app.push, "getDialogContext", body)
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(
            serde_json::from_slice::<Value>(&answer.body).unwrap(),
            expected
        );
    }
    let app = TestApp::start().await;
    let answer = app
        .http
        .push(&app.push, "getDialogContext", "{}")
        .await
        .unwrap();
    assert_eq!(&*answer.text(), "{}");
    let answer = app
        .http
        .push(&app.push, "analyzeSemantics", "{}")
        .await
        .unwrap();
    assert_eq!(&*answer.text(), "[]");
    assert!(app.events().await.is_empty());
}
