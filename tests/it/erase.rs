//! `yeta-gateway erase`: nothing of a person is left, and nobody is called again.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use yeta_gateway::proto::call_service_client::CallServiceClient;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::submission::Request;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{
    Call, CallOutRequest, GetCallRequest, GetSubmissionRequest, ListPushesRequest,
    NackPushesRequest, Position, PushEvent, Row, SubscribePushesRequest,
};
use yeta_gateway::sandbox::SandboxConfig;

use crate::bridge::reason;
use crate::sandbox::harness::Sandbox;
use crate::support::{Http, Process, binary, eventually, next_event, pushes_client};

const PHONE: &str = "13800138000";
const NAME: &str = "张三丰";
const OTHER: &str = "13900139000";

struct Stage {
    sandbox: Sandbox,
    folder: TempDir,
    gateway: Process,
}

impl Stage {
    async fn start() -> Self {
        let sandbox = Sandbox::start(SandboxConfig {
            dial: false,
            ..SandboxConfig::default()
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let more = format!(
            "platform.voice_base_url = '{}/voice/'\nvoice.archive = 'file://{}'\n\
             voice.name = '{{call_uuid}}'\ncalls.wait = '1s'",
            sandbox.base,
            folder.path().join("archive").display()
        );
        Process::configure_with_platform(folder.path(), &sandbox.base, &more);
        let gateway = Process::spawn(Process::command(folder.path())).await;
        Self {
            sandbox,
            folder,
            gateway,
        }
    }

    async fn push(&self, module: &str, body: &serde_json::Value) {
        let push = &self.gateway.addresses.push;
        let answer = Http::new().push(push, module, body.to_string()).await;
        assert!(answer.unwrap().is_success());
    }

    /// Pushes all there is of a call, and waits until its recording is archived.
    async fn call(&self, call_uuid: &str, phone: &str, name: &str) {
        let recording = json!({ "path": format!("{call_uuid}.wav"), "bytes": 5000 });
        self.sandbox.admin("recordings", recording).await;
        // First, so that only the later record says whose it is.
        let voice = json!({
            "call_uuid": call_uuid, "app_id": "app", "url": format!("{call_uuid}.wav"), "size": 5000,
        });
        self.push("receiveVoice", &voice).await;
        self.push("receiveCallRecord", &record(call_uuid, phone))
            .await;
        let turn = json!({ "seq": 1, "role": "customer", "text_man": format!("我是{name}") });
        let dialog = json!({ "call_uuid": call_uuid, "app_id": "app", "dialog": [turn] });
        self.push("receiveDialog", &dialog).await;
        eventually("the recording to be archived", async || {
            let call = self.get_call(call_uuid).await?;
            let is_final = call.revision > 0;
            (is_final && !call.voice?.archived_url.is_empty()).then_some(())
        })
        .await;
    }

    async fn get_call(&self, call_uuid: &str) -> Option<Call> {
        let mut calls = CallServiceClient::new(self.channel());
        let call_uuid = call_uuid.to_owned();
        let answer = calls.get_call(GetCallRequest { call_uuid }).await.ok()?;
        answer.into_inner().call
    }

    fn channel(&self) -> Channel {
        let grpc = self.gateway.addresses.grpc.clone();
        Endpoint::from_shared(grpc).unwrap().connect_lazy()
    }

    async fn call_out(&self) -> Result<Vec<String>, tonic::Status> {
        let row = |values: [&str; 2]| Row {
            values: values.map(str::to_owned).into(),
        };
        let request = CallOutRequest {
            robot_id: "719".into(),
            line_num: "69101338".into(),
            call_column: vec!["客户手机号码".into(), "姓名".into()],
            call_list: vec![row([PHONE, NAME]), row([OTHER, "李四"])],
            request_id: "order-1".into(),
            ..CallOutRequest::default()
        };
        let mut client = OutboundServiceClient::new(self.channel());
        let answer = client.call_out(request).await?;
        Ok(answer.into_inner().task_data_ids)
    }

    async fn events(&self) -> Vec<PushEvent> {
        let request = ListPushesRequest {
            page_size: 1000,
            include_raw: true,
            ..ListPushesRequest::default()
        };
        let mut pushes = pushes_client(&self.gateway.addresses.grpc);
        pushes
            .list_pushes(request)
            .await
            .unwrap()
            .into_inner()
            .events
    }

    /// Parks the first event with a reason that names the number.
    async fn park(&self) {
        let mut pushes = pushes_client(&self.gateway.addresses.grpc);
        let request = SubscribePushesRequest {
            subscription: "crm".into(),
            start: Some(Start::Position(Position::Earliest.into())),
            ..SubscribePushesRequest::default()
        };
        let mut stream = pushes.subscribe_pushes(request).await.unwrap().into_inner();
        let event = next_event(&mut stream).await;
        let park = NackPushesRequest {
            subscription: "crm".into(),
            ack_ids: vec![event.ack_id],
            park: true,
            reason: format!("no customer has {PHONE}"),
            ..NackPushesRequest::default()
        };
        pushes.nack_pushes(park).await.unwrap();
    }

    async fn stop(self) -> Stopped {
        self.gateway.terminate();
        let (status, output) = self.gateway.ended().await;
        assert!(status.success(), "{output}");
        Stopped {
            sandbox: self.sandbox,
            folder: self.folder,
        }
    }
}

struct Stopped {
    sandbox: Sandbox,
    folder: TempDir,
}

impl Stopped {
    async fn start(self) -> Stage {
        let gateway = Process::spawn(Process::command(self.folder.path())).await;
        Stage {
            sandbox: self.sandbox,
            folder: self.folder,
            gateway,
        }
    }

    /// The files that have this text.
    fn with_text(&self, text: &str) -> Vec<PathBuf> {
        let mut found = walk(self.folder.path());
        found.retain(|path| {
            let bytes = std::fs::read(path).unwrap();
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        });
        found
    }
}

fn erase(folder: &TempDir, account: &str, phone: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(["erase", "--account", account, "--phone", phone, "--config"]);
    command.arg(folder.path().join("gateway.toml"));
    command.output().unwrap()
}

fn record(call_uuid: &str, phone: &str) -> serde_json::Value {
    json!({
        "call_uuid": call_uuid, "app_id": "app", "direction": 2, "time_answer": 1,
        "task_row_index": 1, "task_result": "0", "callee": phone, "unknown": { "number": phone },
    })
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn a_persons_data_is_gone_from_every_file_and_nobody_is_called_again() {
    let stage = Stage::start().await;
    stage.call("c-person", PHONE, NAME).await;
    stage.call("c-other", OTHER, "李四").await;
    let ids = stage.call_out().await.unwrap();
    stage.park().await;
    let before = stage.events().await;

    // Not while the gateway runs.
    let refused = erase(&stage.folder, "default", PHONE);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("in use by another process"), "{said}");

    let stopped = stage.stop().await;
    assert!(!stopped.with_text(PHONE).is_empty());
    assert!(!stopped.with_text(NAME).is_empty());
    let recording = stopped.folder.path().join("archive");
    assert_eq!(walk(&recording).len(), 2);

    let erased = erase(&stopped.folder, "default", "+86 138-0013-8000");
    let printed = [erased.stdout, erased.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(erased.status.success(), "{printed}");
    assert!(!printed.contains(PHONE), "{printed}");
    assert_eq!(stopped.with_text(PHONE), [] as [PathBuf; 0]);
    assert_eq!(stopped.with_text(NAME), [] as [PathBuf; 0]);
    assert_eq!(walk(&recording).len(), 1);
    assert!(!stopped.with_text(OTHER).is_empty());

    let stage = stopped.start().await;
    // The same content is held already.
    stage
        .push("receiveCallRecord", &record("c-person", PHONE))
        .await;
    eventually("the other call to be assembled", async || {
        stage
            .get_call("c-other")
            .await
            .filter(|call| call.revision > 0)
    })
    .await;
    assert!(stage.get_call("c-person").await.is_none());
    let after = stage.events().await;
    let place = |event: &PushEvent| (event.cursor.clone(), event.event_id.clone());
    assert_eq!(
        after.iter().map(place).collect::<Vec<_>>(),
        before.iter().map(place).collect::<Vec<_>>()
    );
    let shown = format!("{after:?}");
    assert!(!shown.contains(PHONE) && !shown.contains(NAME));

    let repeated = stage.call_out().await.unwrap_err();
    let (code, reason, _) = reason(&repeated);
    assert_eq!(
        (code, &*reason),
        (Code::InvalidArgument, "REQUEST_ID_REUSED")
    );
    let mut client = OutboundServiceClient::new(stage.channel());
    let request = GetSubmissionRequest {
        request_id: "order-1".into(),
        ..GetSubmissionRequest::default()
    };
    let known = client.get_submission(request).await.unwrap().into_inner();
    let Some(Request::CallOut(request)) = known.request else {
        panic!("{known:?}");
    };
    assert_eq!(request.call_list[0].values, ["", ""]);
    assert_eq!(request.call_list[1].values, [OTHER, "李四"]);
    assert!(format!("{:?}", known.outcome).contains(&ids[0]));
}

#[tokio::test]
async fn nothing_is_erased_of_another_account_or_for_a_number_that_is_too_short() {
    let stage = Stage::start().await;
    stage.call("c-person", PHONE, NAME).await;
    let stopped = stage.stop().await;
    for (account, phone, expected) in [
        ("other", PHONE, "no account named"),
        ("default", "10086", "at least seven digits"),
    ] {
        let refused = erase(&stopped.folder, account, phone);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains(expected),
            "{said}"
        );
    }
    let erased = erase(&stopped.folder, "default", OTHER);
    assert!(erased.status.success());
    let stage = stopped.start().await;
    let call = stage.get_call("c-person").await.unwrap();
    assert_eq!(call.callee, PHONE);
}
