//! Recordings: fetched from the voice server alone, and kept; through whole gateways before the
//! sandbox.

mod addresses;
mod archive;
mod command;
mod download;
mod endless;
mod memory;

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;
use yeta_gateway::config::Config;
use yeta_gateway::proto::call_service_client::CallServiceClient;
use yeta_gateway::proto::download_voice_request::Source;
use yeta_gateway::proto::download_voice_response::Message;
use yeta_gateway::proto::voice_service_client::VoiceServiceClient;
use yeta_gateway::proto::{Call, DownloadVoiceRequest, GetCallRequest, VoiceInfo};
use yeta_gateway::sandbox::SandboxConfig;

use crate::sandbox::harness::Sandbox;
use crate::support::{TestApp, eventually, within};

/// A gateway before a voice server.
struct Stage {
    sandbox: Sandbox,
    app: TestApp,
}

/// What came of a recording.
struct Got {
    info: VoiceInfo,
    bytes: Vec<u8>,
    end: Result<(), Status>,
}

impl Got {
    /// Of a stream that must end well.
    fn whole(self) -> (VoiceInfo, Vec<u8>) {
        self.end.unwrap();
        (self.info, self.bytes)
    }
}

impl Stage {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With a configuration that has been changed.
    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let sandbox = Sandbox::start(SandboxConfig::default()).await;
        let app = TestApp::with(|config| {
            let base = format!("{}/voice/", sandbox.base);
            config.platform.voice_base_url = base.parse().unwrap();
            change(config);
        })
        .await;
        Self { sandbox, app }
    }

    /// Serves a recording.
    async fn record(&self, path: &str, bytes: u64) -> Bytes {
        record(&self.sandbox, path, bytes).await
    }

    /// Pushes a recording, and waits until its call is known.
    async fn announce(&self, call_uuid: &str, url: &str, size: u64) {
        self.app
            .push("receiveVoice", pushed(call_uuid, url, size))
            .await;
        call_when(&self.app.grpc, call_uuid, |call| call.voice.is_some()).await;
    }

    async fn get(&self, source: Source, offset: i64) -> Result<Got, Status> {
        download(&self.app.grpc, source, offset).await
    }

    /// How often the voice server was asked for anything.
    async fn requests(&self) -> u64 {
        requests(&self.sandbox).await
    }
}

/// Serves a recording; gives what it is made of, if it is small.
async fn record(sandbox: &Sandbox, path: &str, bytes: u64) -> Bytes {
    let recording = json!({ "path": path, "bytes": bytes });
    sandbox.admin("recordings", recording).await;
    if bytes > 64 << 20 {
        return Bytes::new();
    }
    let request = http::Request::get(format!("{}/voice/{path}", sandbox.base));
    let request = request.body(http_body_util::Full::default()).unwrap();
    sandbox.exchange(request).await.unwrap().body
}

async fn requests(sandbox: &Sandbox) -> u64 {
    let report = sandbox.get("/sandbox/recordings").await;
    report["requests"].as_u64().unwrap()
}

/// The push of a recording.
fn pushed(call_uuid: &str, url: &str, size: u64) -> String {
    json!({ "call_uuid": call_uuid, "app_id": "app", "url": url, "size": size }).to_string()
}

/// The call, once it is as wanted.
async fn call_when(grpc: &str, call_uuid: &str, wanted: impl Fn(&Call) -> bool) -> Call {
    let endpoint = Endpoint::from_shared(grpc.to_owned()).unwrap();
    let mut calls = CallServiceClient::new(endpoint.connect_lazy());
    eventually("the call to be as wanted", async || {
        let call_uuid = call_uuid.to_owned();
        let answer = calls.get_call(GetCallRequest { call_uuid }).await.ok()?;
        answer.into_inner().call.filter(&wanted)
    })
    .await
}

fn voices(grpc: &str) -> VoiceServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(grpc.to_owned()).unwrap();
    VoiceServiceClient::new(endpoint.connect_lazy())
}

async fn download(grpc: &str, source: Source, offset: i64) -> Result<Got, Status> {
    let request = DownloadVoiceRequest {
        source: Some(source),
        offset,
    };
    let mut stream = voices(grpc).download_voice(request).await?.into_inner();
    let reading = async {
        let first = stream.message().await?.and_then(|first| first.message);
        let Some(Message::Info(info)) = first else {
            panic!("no info first: {first:?}");
        };
        let mut got = Got {
            info,
            bytes: Vec::new(),
            end: Ok(()),
        };
        loop {
            match stream.message().await {
                Ok(Some(message)) => match message.message {
                    Some(Message::Chunk(chunk)) => got.bytes.extend_from_slice(&chunk),
                    other => panic!("{other:?} among the chunks"),
                },
                Ok(None) => return Ok(got),
                Err(status) => {
                    got.end = Err(status);
                    return Ok(got);
                }
            }
        }
    };
    within("the recording", reading).await
}

fn call(call_uuid: &str) -> Source {
    Source::CallUuid(call_uuid.to_owned())
}

fn url(url: impl Into<String>) -> Source {
    Source::Url(url.into())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A value of an error's metadata.
fn metadata(status: &Status, key: &str) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    info.metadata.get(key).cloned().unwrap_or_default()
}
