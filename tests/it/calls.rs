//! Calls put together, as a client of `CallService` sees them, through a whole gateway.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;
use yeta_gateway::account::Account;
use yeta_gateway::config::{Client, Permission};
use yeta_gateway::proto::call_service_client::CallServiceClient;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::{
    Call, CallOutcome, CallState, CreateTaskRequest, GetCallRequest, GetCallResponse,
    ListCallsRequest, PushFilter, PushKind, SubscribePushesRequest, WatchCallsRequest,
    WatchCallsResponse,
};
use yeta_gateway::secret::Secret;

use crate::bridge::{Bridge, reason};
use crate::fake::Fake;
use crate::support::{
    Http, Process, TestApp, earliest, eventually, next_event, pushes_client, within,
};

type Calls = CallServiceClient<Channel>;

fn client(grpc: &str) -> Calls {
    let endpoint = Endpoint::from_shared(grpc.to_owned()).unwrap();
    CallServiceClient::new(endpoint.connect_lazy())
}

/// What the pushes of one outbound call say.
#[derive(Clone)]
struct Dialled<'a> {
    uuid: &'a str,
    row: &'a str,
    task: &'a str,
    callee: &'a str,
    /// How often the row had been called before.
    tries: u32,
    answered: bool,
}

const RECORD: &str = "receiveCallRecord";
const VOICE: &str = "receiveVoice";
const DIALOG: &str = "receiveDialog";

fn answered<'a>(uuid: &'a str, row: &'a str) -> Dialled<'a> {
    Dialled {
        uuid,
        row,
        task: "7",
        callee: "13000000001",
        tries: 0,
        answered: true,
    }
}

fn unanswered<'a>(uuid: &'a str, row: &'a str) -> Dialled<'a> {
    Dialled {
        answered: false,
        ..answered(uuid, row)
    }
}

impl Dialled<'_> {
    fn identity(&self) -> Value {
        json!({
            "business_id": "1",
            "app_id": "app",
            "robot_id": "719",
            "call_uuid": self.uuid,
            "task_data_id": self.row,
        })
    }

    fn basic(&self) -> (&'static str, Value) {
        let mut record = self.identity();
        record["caller"] = json!("69101338");
        record["callee"] = json!(self.callee);
        record["direction"] = json!(2);
        record["task_id"] = json!(self.task);
        record["time_dial"] = json!(1_533_289_491_000_i64 + i64::from(self.tries));
        record["time_answer"] = json!(if self.answered {
            1_533_289_499_000_i64
        } else {
            0
        });
        record["time_hangup"] = json!(1_533_289_532_000_i64);
        record["duration_ring"] = json!(8);
        record["duration_call"] = json!(if self.answered { 33 } else { 0 });
        (RECORD, record)
    }

    fn outbound(&self) -> (&'static str, Value) {
        let (_, mut record) = self.basic();
        let (code, words) = if self.answered {
            ("15", "客户接听后并主动挂机")
        } else {
            ("20", "用户未接")
        };
        record["task_result"] = json!(code);
        record["task_result_desc"] = json!(words);
        record["task_tries"] = json!(self.tries);
        record["task_row_index"] = json!(34_951_420);
        record["task_row_head"] = json!(["客户手机号码"]);
        record["task_row_value"] = json!([self.callee]);
        (RECORD, record)
    }

    fn voice(&self) -> (&'static str, Value) {
        let mut voice = self.identity();
        voice["url"] = json!(format!("ant/{}.wav", self.uuid));
        voice["size"] = json!(264_044);
        voice["duration"] = json!(33);
        (VOICE, voice)
    }

    fn dialog(&self) -> (&'static str, Value) {
        let mut dialog = self.identity();
        dialog["task_id"] = json!(self.task);
        dialog["tag_max"] = json!("A");
        dialog["tag_min"] = json!("D");
        dialog["dialog"] = json!([
            { "seq": "1", "role": "robot", "text_robot": "您好" },
            { "seq": "2", "role": "customer", "text_man": "好的", "tag_name": "A" },
            { "seq": "3", "role": "customer", "text_man": "不用了", "tag_name": "D" },
        ]);
        (DIALOG, dialog)
    }

    /// Everything that is pushed of it.
    fn all(&self) -> Vec<(&'static str, Value)> {
        let mut pushes = vec![self.basic(), self.outbound()];
        if self.answered {
            pushes.extend([self.voice(), self.dialog()]);
        }
        pushes
    }
}

impl TestApp {
    fn calls(&self) -> Calls {
        client(&self.grpc)
    }

    async fn push_all(&self, pushes: impl IntoIterator<Item = (&'static str, Value)>) {
        for (module, body) in pushes {
            self.push(module, body.to_string()).await;
        }
    }

    /// Pushes everything of a call, and waits until it has been put together.
    async fn call(&self, dialled: &Dialled<'_>) -> Call {
        self.push_all(dialled.all()).await;
        let is_told = |call: &Call| call.state() == CallState::Complete && call.revision >= 1;
        self.when(dialled.uuid, is_told).await
    }

    /// The call, once it is as wanted.
    async fn when(&self, uuid: &str, wanted: impl Fn(&Call) -> bool) -> Call {
        let mut calls = self.calls();
        eventually("a call to be as wanted", async || {
            let call = get(&mut calls, uuid).await.ok()?.call?;
            Some(call).filter(&wanted)
        })
        .await
    }

    /// The log's end.
    async fn end(&self) -> String {
        end(&self.grpc).await
    }
}

/// The end of the log of a gateway.
async fn end(grpc: &str) -> String {
    let mut stream = pushes_client(grpc)
        .subscribe_pushes(SubscribePushesRequest::default())
        .await
        .unwrap()
        .into_inner();
    match crate::support::next_message(&mut stream).await.unwrap() {
        yeta_gateway::proto::SubscribePushesResponse::Progress(progress) => progress.cursor,
        other => panic!("{other:?}"),
    }
}

async fn get(calls: &mut Calls, uuid: &str) -> Result<GetCallResponse, Status> {
    let request = GetCallRequest {
        call_uuid: uuid.to_owned(),
    };
    Ok(calls.get_call(request).await?.into_inner())
}

fn rows(ids: &[&str], push_cursor: &str) -> WatchCallsRequest {
    WatchCallsRequest {
        task_data_ids: ids.iter().map(|&id| id.to_owned()).collect(),
        push_cursor: push_cursor.to_owned(),
    }
}

async fn watch(calls: &mut Calls, request: WatchCallsRequest) -> Streaming<WatchCallsResponse> {
    calls.watch_calls(request).await.unwrap().into_inner()
}

/// The next call of a watch; `None` at its end.
async fn next(stream: &mut Streaming<WatchCallsResponse>) -> Result<Option<Call>, Status> {
    let message = within("a call that is watched", stream.message()).await?;
    Ok(message.map(|message| message.call.unwrap()))
}

/// Each call that a watch brings, to its end.
async fn watched(mut stream: Streaming<WatchCallsResponse>) -> Vec<Call> {
    let mut calls = Vec::new();
    while let Some(call) = next(&mut stream).await.unwrap() {
        calls.push(call);
    }
    calls
}

fn uuids(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| call.call_uuid.as_str()).collect()
}

fn sorted(calls: &[Call]) -> BTreeSet<&str> {
    uuids(calls).into_iter().collect()
}

#[tokio::test]
async fn an_answered_call_is_whole_in_whatever_order_its_pushes_come() {
    let app = TestApp::start().await;
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]];
    for (number, order) in orders.into_iter().enumerate() {
        let (uuid, row) = (format!("call-{number}"), format!("row-{number}"));
        let dialled = answered(&uuid, &row);
        let all = dialled.all();
        app.push_all(order.map(|at| all[at].clone())).await;
        let is_whole = |call: &Call| call.pushes.len() == 4 && call.revision >= 1;
        let call = app.when(&uuid, is_whole).await;
        assert_eq!(call.state(), CallState::Complete, "{order:?}");
        assert!(call.missing.is_empty());
        assert!(call.answered);
        assert_eq!(call.outcome(), CallOutcome::CustomerHungUp);
        assert_eq!(
            (&*call.account, &*call.task_id, &*call.task_data_id),
            ("default", "7", &*row)
        );
        assert_eq!((&*call.caller, &*call.callee), ("69101338", "13000000001"));
        assert_eq!(
            (call.duration_ring, call.duration_call),
            (Some(8), Some(33))
        );
        assert_eq!((&*call.tag_max, &*call.tag_min), ("A", "D"));
        assert_eq!(call.tags, ["A", "D"]);
        assert_eq!(call.attempt, 1);
        assert_eq!(call.voice.unwrap().size, Some(264_044));
        assert_eq!(call.dialog.unwrap().dialog.len(), 3);
        let record = call.call_record.unwrap();
        assert_eq!(record.task_row_index, Some(34_951_420));
    }
}

#[tokio::test]
async fn a_call_that_is_not_whole_tells_what_is_missing_and_is_whole_with_it() {
    let app = TestApp::start().await;
    let dialled = answered("a", "1");
    app.push_all([dialled.basic(), dialled.outbound()]).await;
    let call = app.when("a", |call| call.pushes.len() == 2).await;
    assert_eq!((call.state(), call.revision), (CallState::Partial, 0));
    let missing: BTreeSet<_> = call.missing().collect();
    assert_eq!(missing, [PushKind::Voice, PushKind::Dialog].into());
    assert_eq!(call.outcome(), CallOutcome::CustomerHungUp);

    app.push_all([dialled.dialog()]).await;
    let call = app.when("a", |call| call.pushes.len() == 3).await;
    assert_eq!(call.missing().collect::<Vec<_>>(), [PushKind::Voice]);

    app.push_all([dialled.voice()]).await;
    let whole = |call: &Call| call.state() == CallState::Complete;
    let call = app.when("a", whole).await;
    assert_eq!((call.revision, call.missing.len()), (1, 0));
    // What the log was given is what is told.
    let filter = PushFilter {
        kinds: vec![PushKind::Call.into()],
        ..PushFilter::default()
    };
    let request = SubscribePushesRequest {
        filter: Some(filter),
        ..earliest()
    };
    let stream = app.pushes().subscribe_pushes(request).await.unwrap();
    let event = next_event(&mut stream.into_inner()).await;
    assert_eq!(event.payload, Some(Payload::Call(call)));
}

#[tokio::test]
async fn an_unanswered_call_is_whole_with_its_record_alone() {
    let app = TestApp::start().await;
    app.push_all(unanswered("a", "1").all()).await;
    let call = app.when("a", |call| call.pushes.len() == 2).await;
    assert_eq!(call.state(), CallState::Complete);
    assert!(call.missing.is_empty() && !call.answered);
    assert_eq!(call.outcome(), CallOutcome::NotAnswered);
}

#[tokio::test]
async fn a_call_whose_rest_never_comes_is_closed_and_opened_again_by_what_comes_late() {
    let app = TestApp::with(|config| config.calls.wait = Duration::from_millis(50)).await;
    let dialled = answered("a", "1");
    app.push_all([dialled.outbound()]).await;
    let calls = watched(watch(&mut app.calls(), rows(&["1"], "")).await).await;
    assert_eq!(uuids(&calls), ["a"]);
    assert_eq!(
        (calls[0].state(), calls[0].revision),
        (CallState::TimedOut, 1)
    );
    let missing: BTreeSet<_> = calls[0].missing().collect();
    assert_eq!(missing, [PushKind::Voice, PushKind::Dialog].into());

    app.push_all([dialled.voice(), dialled.dialog()]).await;
    let whole = |call: &Call| call.state() == CallState::Complete;
    assert!(app.when("a", whole).await.revision > 1);
}

#[tokio::test]
async fn redials_are_attempts_of_one_row() {
    let app = TestApp::start().await;
    let first = unanswered("first", "1");
    let second = Dialled {
        tries: 1,
        ..answered("second", "1")
    };
    // The later one may be heard of first.
    app.call(&second).await;
    app.call(&first).await;
    for uuid in ["first", "second"] {
        let found = get(&mut app.calls(), uuid).await.unwrap();
        let attempts: Vec<_> = found
            .row_attempts
            .iter()
            .map(|call| {
                (
                    &*call.call_uuid,
                    call.attempt,
                    call.answered,
                    call.outcome(),
                )
            })
            .collect();
        let expected = [
            ("first", 1, false, CallOutcome::NotAnswered),
            ("second", 2, true, CallOutcome::CustomerHungUp),
        ];
        assert_eq!(attempts, expected);
        assert_eq!(found.row_attempts[1].time_dial, Some(1_533_289_491_001));
        assert_eq!(found.call.unwrap().call_uuid, uuid);
    }
    // A call without a row has no attempts.
    app.push_all([answered("alone", "").basic()]).await;
    app.when("alone", |_| true).await;
    let alone = get(&mut app.calls(), "alone").await.unwrap();
    assert!(alone.row_attempts.is_empty());
}

#[tokio::test]
async fn a_call_is_found_by_whoever_was_told_of_its_push() {
    let app = TestApp::start().await;
    for index in 0..20 {
        let uuid = format!("call {index}");
        app.push_all([answered(&uuid, "1").basic()]).await;
        let found = get(&mut app.calls(), &uuid).await.unwrap();
        assert_eq!(found.call.unwrap().call_uuid, uuid);
    }
}

#[tokio::test]
async fn a_call_that_nobody_pushed_is_not_found() {
    let app = TestApp::start().await;
    let refused = get(&mut app.calls(), "nowhere").await.unwrap_err();
    let expected = (
        Code::NotFound,
        "CALL_NOT_FOUND".into(),
        "yeta-gateway".into(),
    );
    assert_eq!(reason(&refused), expected);
    let refused = get(&mut app.calls(), "").await.unwrap_err();
    assert_eq!(reason(&refused).1, "INVALID_REQUEST");
}

#[tokio::test]
async fn calls_are_listed_by_what_they_belong_to() {
    let app = TestApp::start().await;
    let elsewhere = |dialled: Dialled<'static>| Dialled {
        task: "8",
        callee: "13000000002",
        ..dialled
    };
    app.call(&answered("a", "1")).await;
    app.call(&unanswered("b", "2")).await;
    let between = SystemTime::now() + Duration::from_millis(1);
    eventually("the next millisecond", async || {
        (SystemTime::now() > between).then_some(())
    })
    .await;
    app.call(&elsewhere(answered("c", "3"))).await;
    app.push_all([elsewhere(answered("d", "4")).outbound()])
        .await;
    app.when("d", |_| true).await;
    let inbound = json!({
        "call_uuid": "e", "direction": 1, "call_relation_id": "mine", "time_answer": 0,
    });
    app.push(RECORD, inbound.to_string()).await;
    app.when("e", |_| true).await;

    for (request, expected) in listings(between) {
        for page_size in [0, 1, 2] {
            let request = ListCallsRequest {
                page_size,
                ..request.clone()
            };
            let listed = list(&mut app.calls(), request.clone()).await;
            assert_eq!(listed, expected, "{request:?}");
        }
    }
}

/// The ids of the calls listed, page by page, in one text.
async fn list(calls: &mut Calls, mut request: ListCallsRequest) -> String {
    let mut listed = String::new();
    loop {
        let page = calls
            .list_calls(request.clone())
            .await
            .unwrap()
            .into_inner();
        let size = usize::try_from(request.page_size).unwrap();
        assert!(size == 0 || page.calls.len() <= size);
        listed.extend(uuids(&page.calls));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return listed;
        }
    }
}

/// Requests, and the calls that they are to list.
fn listings(between: SystemTime) -> Vec<(ListCallsRequest, &'static str)> {
    type Change = fn(&mut ListCallsRequest);
    let cases: [(Change, &str); 12] = [
        (|_| {}, "edcba"),
        (|it| it.task_ids = vec!["7".into()], "ba"),
        (|it| it.task_data_ids = vec!["3".into()], "c"),
        (|it| it.row_keys = vec!["none".into()], ""),
        (|it| it.call_relation_ids = vec!["mine".into()], "e"),
        (|it| it.callees = vec!["13000000002".into()], "dc"),
        (
            |it| it.outcomes = vec![CallOutcome::NotAnswered.into()],
            "eb",
        ),
        (|it| it.states = vec![CallState::Partial.into()], "d"),
        (|it| it.answered = Some(true), "dca"),
        (|it| it.answered = Some(false), "eb"),
        (
            |it| {
                it.task_ids = vec!["7".into(), "8".into()];
                it.task_data_ids = vec!["1".into(), "2".into(), "4".into()];
                it.answered = Some(true);
            },
            "da",
        ),
        (
            |it| {
                it.task_ids = vec!["7".into()];
                it.callees = vec!["13000000002".into()];
            },
            "",
        ),
    ];
    let mut listings: Vec<_> = cases
        .into_iter()
        .map(|(change, expected)| {
            let mut request = ListCallsRequest::default();
            change(&mut request);
            (request, expected)
        })
        .collect();
    let since = ListCallsRequest {
        since: Some(between.into()),
        ..ListCallsRequest::default()
    };
    let until = ListCallsRequest {
        until: Some(between.into()),
        ..ListCallsRequest::default()
    };
    listings.extend([(since, "edc"), (until, "ba")]);
    listings
}

#[tokio::test]
async fn a_request_that_is_not_valid_is_refused_with_every_fault() {
    let app = TestApp::start().await;
    let mut calls = app.calls();
    let bad = ListCallsRequest {
        page_size: 1001,
        outcomes: vec![99],
        states: vec![CallState::Complete.into(), 0],
        ..ListCallsRequest::default()
    };
    let refused = calls.list_calls(bad).await.unwrap_err();
    assert_eq!(fields(&refused), ["page_size", "outcomes[0]", "states[1]"]);
    let token = ListCallsRequest {
        page_token: "no token".into(),
        ..ListCallsRequest::default()
    };
    let refused = calls.list_calls(token).await.unwrap_err();
    let expected = (
        Code::InvalidArgument,
        "BAD_PAGE_TOKEN".into(),
        "yeta-gateway".into(),
    );
    assert_eq!(reason(&refused), expected);

    let refused = calls.watch_calls(rows(&[], "")).await.unwrap_err();
    assert_eq!(fields(&refused), ["task_data_ids"]);
    let refused = calls.watch_calls(rows(&["1", ""], "")).await.unwrap_err();
    assert_eq!(fields(&refused), ["task_data_ids[1]"]);
    let refused = calls
        .watch_calls(rows(&vec!["1"; 10_001], ""))
        .await
        .unwrap_err();
    assert_eq!(fields(&refused), ["task_data_ids"]);
    let refused = calls
        .watch_calls(rows(&["1"], "no cursor"))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused).1, "BAD_CURSOR");
}

fn fields(refused: &Status) -> Vec<String> {
    assert_eq!(reason(refused).1, "INVALID_REQUEST");
    let details = refused.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    violations
        .iter()
        .map(|violation| violation.field.clone())
        .collect()
}

#[tokio::test]
async fn a_watch_brings_what_becomes_final_and_ends_with_the_last_row() {
    let app = TestApp::start().await;
    // Earlier than the cursor, and of another row: neither is waited for.
    app.call(&unanswered("earlier", "1")).await;
    let cursor = app.end().await;
    let mut stream = watch(&mut app.calls(), rows(&["1", "2", "2"], &cursor)).await;
    app.call(&unanswered("other", "3")).await;

    app.push_all(answered("partly", "1").all().into_iter().take(3))
        .await;
    app.call(&unanswered("first", "2")).await;
    assert_eq!(next(&mut stream).await.unwrap().unwrap().call_uuid, "first");
    // A redial of a row that has had its call comes while the stream is open.
    let redial = Dialled {
        tries: 1,
        ..answered("redial", "2")
    };
    app.call(&redial).await;
    assert_eq!(
        next(&mut stream).await.unwrap().unwrap().call_uuid,
        "redial"
    );
    app.push_all([answered("partly", "1").dialog()]).await;
    let last = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(
        (&*last.call_uuid, last.state()),
        ("partly", CallState::Complete)
    );
    assert_eq!(next(&mut stream).await.unwrap(), None);
}

#[tokio::test]
async fn a_watch_from_a_cursor_misses_nothing_that_became_final_before_it_was_opened() {
    let app = TestApp::start().await;
    let cursor = app.end().await;
    app.call(&answered("a", "1")).await;
    app.call(&unanswered("b", "2")).await;
    let request = rows(&["1", "2"], &cursor);
    for _ in 0..2 {
        let calls = watched(watch(&mut app.calls(), request.clone()).await).await;
        assert_eq!(uuids(&calls), ["a", "b"]);
    }
}

#[tokio::test]
async fn a_watch_without_a_cursor_begins_with_what_is_final_and_goes_on_with_what_comes() {
    let app = TestApp::start().await;
    app.call(&unanswered("a", "1")).await;
    let redial = Dialled {
        tries: 1,
        ..answered("redial", "1")
    };
    app.call(&redial).await;
    let calls = watched(watch(&mut app.calls(), rows(&["1"], "")).await).await;
    assert_eq!(uuids(&calls), ["a", "redial"]);

    let mut stream = watch(&mut app.calls(), rows(&["1", "2"], "")).await;
    for uuid in ["a", "redial"] {
        assert_eq!(next(&mut stream).await.unwrap().unwrap().call_uuid, uuid);
    }
    app.call(&unanswered("b", "2")).await;
    assert_eq!(uuids(&watched(stream).await), ["b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_without_a_cursor_misses_nothing_that_becomes_final_while_it_opens() {
    const CALLS: usize = 60;
    let app = TestApp::start().await;
    let names: Vec<_> = (0..CALLS).map(|number| number.to_string()).collect();
    let pushing = async {
        for name in &names {
            app.push_all(unanswered(name, name).all()).await;
        }
    };
    let watching = async {
        for name in &names {
            let calls = watched(watch(&mut app.calls(), rows(&[name], "")).await).await;
            assert_eq!(uuids(&calls), [name]);
        }
    };
    within("every call", async { tokio::join!(pushing, watching) }).await;
}

#[tokio::test]
async fn a_watch_of_many_rows_takes_them_all() {
    let app = TestApp::start().await;
    let mut ids: Vec<_> = (0..9_990).map(|number| format!("none-{number}")).collect();
    for number in 0..10 {
        let id = number.to_string();
        app.call(&unanswered(&id, &id)).await;
        ids.push(id);
    }
    let request = WatchCallsRequest {
        task_data_ids: ids,
        push_cursor: String::new(),
    };
    let mut stream = watch(&mut app.calls(), request).await;
    let mut found = Vec::new();
    while found.len() < 10 {
        found.push(next(&mut stream).await.unwrap().unwrap());
    }
    let expected: Vec<_> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(
        sorted(&found),
        expected.iter().map(String::as_str).collect()
    );
}

#[tokio::test]
async fn a_watch_ends_at_the_callers_deadline_and_says_how_many_rows_are_left() {
    let app = TestApp::start().await;
    app.call(&unanswered("a", "1")).await;
    let mut request = Request::new(rows(&["1", "2", "3"], ""));
    request.set_timeout(Duration::from_millis(500));
    let mut stream = app.calls().watch_calls(request).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await.unwrap().unwrap().call_uuid, "a");
    let ended = next(&mut stream).await.unwrap_err();
    let expected = (
        Code::DeadlineExceeded,
        "DEADLINE".into(),
        "yeta-gateway".into(),
    );
    assert_eq!(reason(&ended), expected);
    let details = ended.get_error_details();
    assert_eq!(details.error_info().unwrap().metadata["rows_left"], "2");
}

#[tokio::test]
async fn a_watch_ends_when_the_gateway_drains() {
    let app = TestApp::start().await;
    let mut stream = watch(&mut app.calls(), rows(&["1"], "")).await;
    let ended = async { next(&mut stream).await.unwrap_err() };
    let (ended, stopped) = tokio::join!(ended, app.stop());
    stopped.unwrap();
    let expected = (Code::Unavailable, "DRAINING".into(), "yeta-gateway".into());
    assert_eq!(reason(&ended), expected);
}

fn as_client<T>(name: &str, account: Option<&'static str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {name}-token").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    if let Some(account) = account {
        let account = MetadataValue::from_static(account);
        request.metadata_mut().insert("yeta-account", account);
    }
    request
}

#[tokio::test]
async fn a_client_sees_its_own_accounts_calls_alone() {
    let named = |name: &str, allow: Permission, accounts: &[&str]| Client {
        name: name.to_owned(),
        token_sha256: vec![Sha256::digest(format!("{name}-token")).into()],
        allow: vec![allow],
        accounts: accounts.iter().map(|&account| account.to_owned()).collect(),
        ..Client::default()
    };
    let app = TestApp::with(|config| {
        config.accounts.push(Account {
            name: "second".into(),
            app_key: Secret::inline("key"),
            app_secret: Secret::inline("secret"),
            push_secret: Secret::inline("second-secret"),
            allow_push_from: Vec::new(),
            enabled: true,
        });
        config.clients = vec![
            named("all", Permission::Calls, &["*"]),
            named("one", Permission::Calls, &["second"]),
            named("reader", Permission::Subscribe, &["*"]),
        ];
    })
    .await;
    // The same row in both accounts.
    app.push_all(unanswered("a", "1").all()).await;
    for (module, body) in unanswered("b", "1").all() {
        let uri = format!("{}/v1/push/second/second-secret/{module}", app.push);
        let body = http_body_util::Full::new(body.to_string().into());
        let request = http::Request::post(uri).body(body).unwrap();
        assert!(app.http.send(request).await.unwrap().is_success());
    }

    let mut calls = app.calls();
    eventually("both calls", async || {
        let list = as_client("all", None, ListCallsRequest::default());
        let page = calls.list_calls(list).await.unwrap().into_inner();
        let is_complete = |call: &Call| call.state() == CallState::Complete;
        (page.calls.iter().filter(|call| is_complete(call)).count() == 2).then_some(())
    })
    .await;
    let mut seen = async |client: &str, account: Option<&'static str>| {
        let list = as_client(client, account, ListCallsRequest::default());
        let page = match calls.list_calls(list).await {
            Ok(page) => page.into_inner(),
            Err(refused) => return Err(reason(&refused).1),
        };
        let mut got = Vec::new();
        for uuid in ["a", "b"] {
            let request = GetCallRequest {
                call_uuid: uuid.to_owned(),
            };
            match calls.get_call(as_client(client, account, request)).await {
                Ok(found) => {
                    assert_eq!(found.get_ref().row_attempts.len(), 1);
                    got.push(uuid);
                }
                Err(refused) => assert_eq!(reason(&refused).1, "CALL_NOT_FOUND"),
            }
        }
        assert_eq!(sorted(&page.calls), got.iter().copied().collect());
        let request = as_client(client, account, rows(&["1"], ""));
        let stream = calls.watch_calls(request).await.unwrap().into_inner();
        assert_eq!(
            sorted(&watched(stream).await),
            got.iter().copied().collect()
        );
        Ok(got)
    };
    assert_eq!(seen("all", None).await, Ok(vec!["a", "b"]));
    assert_eq!(seen("all", Some("second")).await, Ok(vec!["b"]));
    assert_eq!(seen("one", None).await, Ok(vec!["b"]));
    let refused = |reason: &str| Err(reason.to_owned());
    assert_eq!(
        seen("one", Some("default")).await,
        refused("ACCOUNT_FORBIDDEN")
    );
    assert_eq!(
        seen("all", Some("third")).await,
        refused("ACCOUNT_NOT_FOUND")
    );
    assert_eq!(seen("reader", None).await, refused("RPC_FORBIDDEN"));
    assert_eq!(seen("nobody", None).await, refused("UNAUTHENTICATED"));
}

fn turbo_task() -> CreateTaskRequest {
    CreateTaskRequest {
        task_name: "turbo".into(),
        line_num: "055169101407".into(),
        robot_id: "11".into(),
        time_begin: 1_527_321_492_000,
        trubo_mode: Some(true),
        ..CreateTaskRequest::default()
    }
}

/// A platform that makes task 1909 of whatever it is asked.
async fn platform() -> Fake {
    let answer = json!({ "code": 0, "message": "ok", "result": { "task_id": "1909" } });
    Fake::start(move |_, _, _| answer.to_string()).await
}

#[tokio::test]
async fn a_call_of_a_turbo_task_waits_for_no_recording() {
    let platform = platform().await;
    let app = TestApp::with(|config| {
        config.platform.base_url = platform.base_url.parse().unwrap();
    })
    .await;
    let channel = Endpoint::from_shared(app.grpc.clone())
        .unwrap()
        .connect_lazy();
    let created = OutboundServiceClient::new(channel)
        .create_task(turbo_task())
        .await;
    assert_eq!(created.unwrap().into_inner().task_id, "1909");

    let turbo = Dialled {
        task: "1909",
        ..answered("turbo", "1")
    };
    let ordinary = answered("ordinary", "2");
    for dialled in [&turbo, &ordinary] {
        let pushes = [dialled.basic(), dialled.outbound(), dialled.dialog()];
        app.push_all(pushes).await;
    }
    let call = app.when("turbo", |call| call.pushes.len() == 3).await;
    assert_eq!((call.state(), call.missing.len()), (CallState::Complete, 0));
    let call = app.when("ordinary", |call| call.pushes.len() == 3).await;
    assert_eq!(call.state(), CallState::Partial);
}

#[tokio::test]
async fn a_turbo_task_is_told_to_its_creator_also_when_it_cannot_be_noted() {
    let platform = platform().await;
    let bridge = Bridge::start(&platform.base_url).await;
    let created = bridge.outbound.clone().create_task(turbo_task()).await;
    assert_eq!(created.unwrap().into_inner().task_id, "1909");
    assert_eq!(platform.operations(), 1);
}

#[tokio::test]
async fn calls_live_through_kills_of_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let http = Http::new();
    let push = async |gateway: &Process, (module, body): (&'static str, Value)| {
        let answer = http
            .push(&gateway.addresses.push, module, body.to_string())
            .await;
        assert!(answer.unwrap().is_success());
    };
    let mut gateway = Process::start(folder.path()).await;
    let cursor = end(&gateway.addresses.grpc).await;
    let dialled = answered("a", "1");
    for body in dialled.all() {
        push(&gateway, body).await;
        gateway.kill();
        gateway = Process::spawn(Process::command(folder.path())).await;
    }
    let mut calls = client(&gateway.addresses.grpc);
    let from_cursor = watched(watch(&mut calls, rows(&["1"], &cursor)).await).await;
    let call = from_cursor.last().unwrap();
    assert_eq!(call.state(), CallState::Complete);
    let call = eventually("all pushes", async || {
        let call = get(&mut calls, "a").await.unwrap().call?;
        Some(call).filter(|call| call.pushes.len() == 4 && call.revision >= 1)
    })
    .await;

    gateway.kill();
    gateway = Process::spawn(Process::command(folder.path())).await;
    let mut calls = client(&gateway.addresses.grpc);
    assert_eq!(get(&mut calls, "a").await.unwrap().call, Some(call.clone()));
    let held = watched(watch(&mut calls, rows(&["1"], "")).await).await;
    assert_eq!(held, [call]);
}
