//! What a client with `mask_phones` is shown: every way out, beside a client that sees numbers.

use std::fmt::{Debug, Write as _};

use serde_json::json;
use yeta_gateway::config::Permission;
use yeta_gateway::proto::call_service_client::CallServiceClient;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::submit_rows_request::Message as Upload;
use yeta_gateway::proto::subscription_service_client::SubscriptionServiceClient;
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::{
    CallOutRequest, DirectCall, GetCallRequest, GetSubmissionRequest, GetSubscriptionRequest,
    ListCallsRequest, ListDeadLettersRequest, ListPushesRequest, ListSubmissionsRequest,
    NackPushesRequest, Position, Row, SubmitRowsRequest, SubscribePushesRequest, UploadHeader,
    UploadRow, UploadRows, WatchCallsRequest, subscribe_pushes_request,
};
use yeta_gateway::sandbox::SandboxConfig;

use super::{by, channel, client};
use crate::sandbox::harness::Sandbox;
use crate::support::{TestApp, eventually, within};

/// Numbers in different fields, each in its own form; none may be seen.
const NUMBERS: [&str; 6] = [
    "13812345678",
    "15987654321",
    "138 1234 5678",
    "010-87654321",
    "87654321",
    "18600001111",
];
/// Ids with as many digits as a number.
const IDS: [&str; 3] = ["13911112222", "13922223333", "1638155500000000012"];

/// A call whose every text has a number in it.
async fn push(app: &TestApp) {
    let ids = json!({ "app_id": "1", "robot_id": "719", "task_id": IDS[2],
        "task_data_id": IDS[0], "call_uuid": IDS[1] });
    let with = |mut more: serde_json::Value| {
        let more = more.as_object_mut().unwrap();
        more.extend(ids.as_object().unwrap().clone());
        serde_json::Value::Object(more.clone()).to_string()
    };
    let record = with(json!({
        "caller": NUMBERS[4], "callee": NUMBERS[0], "direction": 2, "task_row_index": 1,
        "task_row_head": ["号码", "name", "备用电话", "note"],
        "task_row_value": [NUMBERS[0], "Wang", NUMBERS[4], NUMBERS[2]],
        "task_result_desc": format!("{} 空号", NUMBERS[1]),
        "context": { "mobile": NUMBERS[4], "order": 18_600_001_111_u64, "text": NUMBERS[3] },
    }));
    app.push("receiveCallRecord", record).await;
    let url = format!("rec/{}.wav", NUMBERS[1]);
    app.push("receiveVoice", with(json!({ "url": url, "size": 7 })))
        .await;
    let dialog = with(json!({ "dialog": [
        { "role": "1", "text_man": format!("我的号码是{}", NUMBERS[0]), "node_id": IDS[0],
          "extra": NUMBERS[1] },
        { "role": "2", "text_robot": format!("是{}吗", NUMBERS[2]) },
    ]}));
    app.push("receiveDialog", dialog).await;
    app.push("receiveElse", format!("to={}", NUMBERS[0])).await;
}

/// What one client is shown by every RPC that shows pushes, calls or submissions.
async fn shown(app: &TestApp, token: &str) -> String {
    fn add(shown: &mut String, part: &impl Debug) {
        writeln!(shown, "{part:?}").unwrap();
    }
    let mut shown = String::new();
    let channel = channel(&app.grpc);
    let mut pushes = PushServiceClient::new(channel.clone());
    let list = ListPushesRequest {
        include_raw: true,
        ..ListPushesRequest::default()
    };
    let page = pushes
        .list_pushes(by(token, list))
        .await
        .unwrap()
        .into_inner();
    assert!(page.events.len() >= 4, "{page:?}");
    for event in &page.events {
        add(&mut shown, event);
        shown += &String::from_utf8_lossy(&event.raw_json);
    }
    // A durable subscription, and its dead letters.
    let subscribe = SubscribePushesRequest {
        subscription: format!("of-{token}"),
        include_raw: true,
        start: Some(subscribe_pushes_request::Start::Position(
            Position::Earliest.into(),
        )),
        ..SubscribePushesRequest::default()
    };
    let stream = pushes.subscribe_pushes(by(token, subscribe)).await.unwrap();
    let mut stream = stream.into_inner();
    let mut park = NackPushesRequest {
        subscription: format!("of-{token}"),
        park: true,
        reason: format!("customer {} hung up", NUMBERS[0]),
        ..NackPushesRequest::default()
    };
    while park.ack_ids.len() < page.events.len() {
        let message = within("an event", stream.message()).await.unwrap().unwrap();
        if let yeta_gateway::proto::SubscribePushesResponse::Event(event) = message {
            shown += &String::from_utf8_lossy(&event.raw_json);
            park.ack_ids.push(event.ack_id.clone());
            add(&mut shown, &event);
        }
    }
    pushes.nack_pushes(by(token, park)).await.unwrap();
    let mut manager = SubscriptionServiceClient::new(channel.clone());
    let letters = ListDeadLettersRequest {
        subscription: format!("of-{token}"),
        include_raw: true,
        ..ListDeadLettersRequest::default()
    };
    let letters = manager
        .list_dead_letters(by(token, letters))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(letters.dead_letters.len(), page.events.len());
    add(&mut shown, &letters);
    let missing = GetSubscriptionRequest {
        name: NUMBERS[0].into(),
    };
    let error = manager
        .get_subscription(by(token, missing))
        .await
        .unwrap_err();
    shown += error.message();

    let mut calls = CallServiceClient::new(channel.clone());
    let get = || GetCallRequest {
        call_uuid: IDS[1].into(),
    };
    let call = eventually("the whole call", async || {
        let call = calls.get_call(by(token, get())).await.ok()?.into_inner();
        let is_whole = call.call.as_ref()?.missing.is_empty();
        is_whole.then_some(call)
    });
    add(&mut shown, &call.await);
    let all = calls
        .list_calls(by(token, ListCallsRequest::default()))
        .await
        .unwrap();
    add(&mut shown, &all.into_inner());
    let watch = WatchCallsRequest {
        task_data_ids: vec![IDS[0].into()],
        ..WatchCallsRequest::default()
    };
    let watch = calls.watch_calls(by(token, watch)).await.unwrap();
    let watched = within("a call", async { watch.into_inner().message().await });
    add(&mut shown, &watched.await.unwrap().unwrap());

    shown + &submitted(app, token).await
}

/// What a client is shown of what it has submitted.
async fn submitted(app: &TestApp, token: &str) -> String {
    let mut outbound = OutboundServiceClient::new(channel(&app.grpc));
    let columns = ["号码", "备用电话", "note"].map(str::to_owned);
    let values = [NUMBERS[0], NUMBERS[4], NUMBERS[2]].map(str::to_owned);
    let call_out = CallOutRequest {
        robot_id: "719".into(),
        line_num: "69101338".into(),
        call_column: columns.to_vec(),
        call_list: vec![Row {
            values: values.to_vec(),
        }],
        request_id: "order".into(),
        ..CallOutRequest::default()
    };
    let answered = outbound.call_out(by(token, call_out)).await;
    let mut shown = format!("{answered:?}");
    let get = GetSubmissionRequest {
        request_id: "order".into(),
        ..GetSubmissionRequest::default()
    };
    let got = outbound
        .get_submission(by(token, get))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got.client, token);
    write!(shown, "{got:?}").unwrap();
    let list = ListSubmissionsRequest::default();
    let listed = outbound.list_submissions(by(token, list)).await.unwrap();
    write!(shown, "{:?}", listed.into_inner()).unwrap();
    let header = UploadHeader {
        target: Some(Target::Direct(DirectCall {
            robot_id: "719".into(),
            line_num: "69101338".into(),
            ..DirectCall::default()
        })),
        call_column: columns.to_vec(),
        ..UploadHeader::default()
    };
    let rows = UploadRows {
        rows: vec![UploadRow {
            row_key: "bad".into(),
            values: vec![format!("{}x", NUMBERS[0]), String::new(), String::new()],
        }],
    };
    let messages = [Upload::Header(header), Upload::Rows(rows)].map(|message| SubmitRowsRequest {
        message: Some(message),
    });
    let answers = outbound
        .submit_rows(by(token, tokio_stream::iter(messages)))
        .await
        .unwrap();
    let mut answers = answers.into_inner();
    while let Some(answer) = within("an answer", answers.message()).await.unwrap() {
        write!(shown, "{answer:?}").unwrap();
    }
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_masked_client_sees_no_number_in_any_answer_and_every_id_as_it_is() {
    let sandbox = Sandbox::start(SandboxConfig {
        dial: false,
        ..SandboxConfig::default()
    })
    .await;
    let app = TestApp::with(|config| {
        config.platform.base_url = sandbox.base.parse().unwrap();
        let all = Permission::ALL;
        let mut masked = client("masked", &all, &["*"]);
        masked.mask_phones = true;
        config.clients = vec![masked, client("clear", &all, &["*"])];
    })
    .await;
    push(&app).await;
    let clear = shown(&app, "clear").await;
    for number in NUMBERS {
        assert!(
            clear.contains(number),
            "{number} is nowhere: the test shows nothing"
        );
    }
    let masked = shown(&app, "masked").await;
    for number in NUMBERS {
        let at = masked.find(number).map(|at| {
            let from = masked.floor_char_boundary(at.saturating_sub(200));
            &masked[from..masked.floor_char_boundary(at + 50)]
        });
        assert_eq!(at, None, "{number}");
    }
    for seen in IDS
        .into_iter()
        .chain(["138****5678", "159****4321", "Wang"])
    {
        assert!(masked.contains(seen), "{seen} is not in {masked}");
    }
    app.stop().await.unwrap();
}
