//! Nothing that must stay secret is ever written, however much is logged and whatever goes wrong.

mod identity;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use yeta_gateway::proto::config_service_client::ConfigServiceClient;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::{
    CallOutRequest, ListPushesRequest, QueryConfigRequest, QueryTasksRequest, Row,
};
use yeta_gateway::sandbox::SandboxConfig;

use crate::dialog_context::provider::{Mode, Provider};
use crate::identity::{Issuer, by};
use crate::sandbox::harness::Sandbox;
use crate::support::{Http, PUSH_SECRET, Process, earliest, eventually, next_event, pushes_client};

const APP_KEY: &str = "app-key-5b1e07";
const APP_SECRET: &str = "app-secret-77c2a9";
const WRONG_SECRET: &str = "wrong-app-secret-0d44";
const CLIENT_TOKEN: &str = "client-token-8e3f61";
const CALLED: &str = "13812345678";
const CALLEE: &str = "15987654321";
const IN_A_BODY: &str = "kept-between-us-b7d2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_number_or_body_is_written_whatever_is_logged_and_goes_wrong() {
    let sandbox = Sandbox::start(SandboxConfig {
        credentials: Some((APP_KEY.into(), APP_SECRET.into())),
        ..SandboxConfig::default()
    })
    .await;
    let tap = Tap::start(&sandbox.base).await;
    let provider = Provider::start(Mode::Fail(tonic::Code::Internal)).await;
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::new();
    let keys = folder.path().join("jwks.json");
    std::fs::write(&keys, issuer.jwks()).unwrap();
    let jwts = [600, -600].map(|seconds| issuer.token("dialer", "yeta-gateway", seconds));
    let hash = hex(&Sha256::digest(CLIENT_TOKEN));
    Process::configure_with_platform(folder.path(), &tap.base, "platform.request_timeout = '2s'");
    let file = folder.path().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text
        .replace("app_key = 'key'", &format!("app_key = '{APP_KEY}'"))
        .replace(
            "app_secret = 'secret'",
            &format!("app_secret = '{APP_SECRET}'"),
        )
        .replace(
            "log.format = 'json'",
            "log.format = 'json'\nlog.filter = 'trace'\npush.max_body_bytes = 100000",
        );
    let more = format!(
        "[dialog_context]\nendpoint = '{}'\n[[accounts]]\nname = 'wrong'\napp_key = '{APP_KEY}'\napp_secret = '{WRONG_SECRET}'\n\
         push_secret = '{PUSH_SECRET}'\n[[clients]]\nname = 'crm'\ntoken_sha256 = '{hash}'\n\
         allow = ['outbound', 'config', 'subscribe']\naccounts = ['*']\n\
         kubernetes = {{ namespace = 'crm', service_account = 'dialer' }}\n\
         [auth.kubernetes]\nissuer = 'https://cluster'\njwks_file = '{}'\n",
        provider.url,
        keys.display()
    );
    std::fs::write(&file, text + &more).unwrap();
    let gateway = Process::spawn(Process::command(folder.path())).await;

    let mut shown = call_and_fail(&gateway, &sandbox, &tap).await;
    shown += &push_and_read(&gateway).await;
    let mut pushes = pushes_client(&gateway.addresses.grpc);
    let [good, expired] = jwts.each_ref();
    let list = |jwt: &str| by(jwt, ListPushesRequest::default());
    pushes.list_pushes(list(good)).await.unwrap();
    let refused = pushes.list_pushes(list(expired)).await.unwrap_err();
    shown.extend([refused.to_string(), format!("{refused:?}")]);
    let http = Http::new();
    for path in ["/metrics", "/readyz", "/nothing"] {
        shown += &http
            .get(&gateway.addresses.admin, path)
            .await
            .unwrap()
            .text();
    }
    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert!(status.success(), "{status}");
    assert!(output.contains("\"TRACE\""), "the filter is not in force");
    shown += &output;

    let tokens = tap.tokens();
    assert!(tokens.len() > 1, "{tokens:?}");
    let secrets = [
        APP_KEY,
        APP_SECRET,
        WRONG_SECRET,
        CLIENT_TOKEN,
        PUSH_SECRET,
        CALLED,
        CALLEE,
        IN_A_BODY,
        good,
        expired,
        // The signatures alone.
        &good[good.len() - 40..],
        &expired[expired.len() - 40..],
    ];
    let tokens = tokens.iter().map(String::as_str);
    let leaks = leaks(&shown, secrets.into_iter().chain(tokens));
    assert!(leaks.is_empty(), "{leaks}");
}

/// Where secrets stand in what was shown.
fn leaks<'a>(shown: &str, secrets: impl Iterator<Item = &'a str>) -> String {
    let mut leaks = String::new();
    for secret in secrets {
        for form in forms(secret) {
            for line in shown.lines().filter(|line| line.contains(&form)).take(3) {
                let at = line.find(&form).unwrap();
                let from = line.floor_char_boundary(at.saturating_sub(300));
                let to = line.floor_char_boundary(at + 500);
                leaks.extend([secret, ": ", &line[from..to], "\n"]);
            }
        }
    }
    leaks
}

/// How a text looks in a log: as it is, as a list of bytes, in hexadecimal.
fn forms(secret: &str) -> [String; 3] {
    let bytes = secret.as_bytes();
    let list = format!("{bytes:?}");
    [
        secret.to_owned(),
        list.trim_matches(['[', ']']).to_owned(),
        hex(bytes),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A request of the client, for an account.
fn request<T>(message: T, account: &str) -> Request<T> {
    let mut metadata = MetadataMap::new();
    metadata.insert(
        "authorization",
        format!("Bearer {CLIENT_TOKEN}").parse().unwrap(),
    );
    metadata.insert("yeta-account", account.parse().unwrap());
    Request::from_parts(metadata, tonic::Extensions::default(), message)
}

/// Calls that succeed and calls that fail in every way; gives all that the caller is told of the
/// failures.
async fn call_and_fail(gateway: &Process, sandbox: &Sandbox, tap: &Tap) -> String {
    let channel = Endpoint::from_shared(gateway.addresses.grpc.clone())
        .unwrap()
        .connect_lazy();
    let mut outbound = OutboundServiceClient::new(channel.clone());
    let mut config = ConfigServiceClient::new(channel);
    let call = |called: &str| CallOutRequest {
        robot_id: "719".into(),
        line_num: "69101338".into(),
        call_column: vec!["客户手机号码".into(), "姓名".into()],
        call_list: vec![Row {
            values: vec![called.to_owned(), "张先生".to_owned()],
        }],
        ..CallOutRequest::default()
    };
    let mut failures = Vec::new();
    let mut note = |failure: Option<Status>| failures.extend(failure);
    for fault in [
        json!({ "operation": "any", "fault": "refuse_token", "kill": true }),
        json!({ "operation": "any", "fault": "refuse_token", "times": 2 }),
        json!({ "operation": "any", "fault": "cut_before_reading" }),
        json!({ "operation": "any", "fault": "cut_after_reading" }),
        json!({ "operation": "any", "fault": "cut_mid_answer" }),
        json!({ "operation": "any", "fault": "html" }),
        json!({ "operation": "any", "fault": "http_500" }),
        json!({ "operation": "any", "fault": "busy" }),
        json!({ "operation": "any", "fault": "latency", "millis": 3000 }),
        json!({ "operation": "any", "fault": "close_after_answer" }),
    ] {
        sandbox.fault(fault.clone()).await;
        note(
            outbound
                .call_out(request(call(CALLED), "default"))
                .await
                .err(),
        );
        sandbox.fault(fault).await;
        note(
            config
                .query_config(request(QueryConfigRequest::default(), "default"))
                .await
                .err(),
        );
    }
    // A row that is no number at all, too many columns, a call without credentials.
    note(
        outbound
            .call_out(request(call(&format!("{CALLED}x")), "default"))
            .await
            .err(),
    );
    let mut faulty = call(CALLED);
    faulty.call_list[0].values.push(CALLED.to_owned());
    note(outbound.call_out(request(faulty, "default")).await.err());
    note(outbound.call_out(call(CALLED)).await.err());
    note(
        outbound
            .query_tasks(request(QueryTasksRequest::default(), "default"))
            .await
            .err(),
    );
    note(
        config
            .query_config(request(QueryConfigRequest::default(), "wrong"))
            .await
            .err(),
    );
    // Nobody there any more.
    tap.refuse().await;
    note(
        outbound
            .call_out(request(call(CALLED), "default"))
            .await
            .err(),
    );
    note(
        config
            .query_config(request(QueryConfigRequest::default(), "default"))
            .await
            .err(),
    );
    assert!(failures.len() > 10, "{failures:?}");
    assert!(
        sandbox.counts("callout").await["applied"] != 0,
        "no call was placed"
    );
    format!(
        "{failures:?}\n{}",
        failures.iter().map(Status::to_string).collect::<String>()
    )
}

/// Pushes taken and refused, and a subscriber; gives the refusals.
async fn push_and_read(gateway: &Process) -> String {
    let http = Http::new();
    let at = &gateway.addresses;
    let record = json!({
        "call_uuid": "u", "callee": CALLEE, "caller": CALLED, "direction": 2, "note": IN_A_BODY,
        "time_answer": IN_A_BODY,
    });
    let mut shown = String::new();
    for (module, body) in [
        ("receiveCallRecord", record.to_string()),
        ("receiveCallRecord", record.to_string()),
        (
            "receiveCallRecord",
            format!("[{record}, {record}, \"{IN_A_BODY}\"]"),
        ),
        ("receiveDialog", format!("no json: {IN_A_BODY} {CALLEE}")),
        ("somethingNew", record.to_string()),
        ("getDialogContext", record.to_string()),
        (
            "getDialogContext",
            json!({ "call_relation_id": IN_A_BODY }).to_string(),
        ),
        (
            "analyzeSemantics",
            json!({ "caller": CALLED, "reply": IN_A_BODY }).to_string(),
        ),
        ("receiveVoice", IN_A_BODY.repeat(10_000)),
    ] {
        let answer = http.push(&at.push, module, body).await.unwrap();
        shown.extend([answer.status.as_str(), &answer.text(), "\n"]);
    }
    // Almost the right address; a body that ends too early.
    for uri in [
        format!("{}/v1/push/nobody/{PUSH_SECRET}/receiveVoice", at.push),
        format!("{}/v1/push/default/{PUSH_SECRET}/a/b", at.push),
        format!("{}/v1/push/default/{PUSH_SECRET}", at.push),
    ] {
        let request = http::Request::post(uri).body(record.to_string().into());
        shown += &http.send(request.unwrap()).await.unwrap().text();
    }
    let mut connection = TcpStream::connect(at.push.trim_start_matches("http://"))
        .await
        .unwrap();
    let half = format!(
        "POST /v1/push/default/{PUSH_SECRET}/receiveVoice HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\n{record}"
    );
    connection.write_all(half.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    let _ = connection.read_to_string(&mut shown).await;
    // No HTTP at all.
    let mut connection = TcpStream::connect(at.push.trim_start_matches("http://"))
        .await
        .unwrap();
    connection
        .write_all(format!("{PUSH_SECRET} {IN_A_BODY}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let _ = connection.read_to_string(&mut shown).await;

    let mut pushes = pushes_client(&at.grpc);
    let stream = pushes
        .subscribe_pushes(request(earliest(), "default"))
        .await
        .unwrap();
    let event = next_event(&mut stream.into_inner()).await;
    assert_eq!(event.raw_json, record.to_string());
    let list = ListPushesRequest {
        include_raw: true,
        ..ListPushesRequest::default()
    };
    pushes.list_pushes(request(list, "default")).await.unwrap();
    shown
}

/// Stands between the gateway and the platform, and notes what the gateway sends.
struct Tap {
    base: String,
    seen: Arc<Mutex<Vec<u8>>>,
    listening: tokio::task::AbortHandle,
}

impl Tap {
    async fn start(to: &str) -> Self {
        let to = to.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let listening = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                open.spawn(pass(near, to.clone(), noted.clone()));
            }
        })
        .abort_handle();
        Self {
            base,
            seen,
            listening,
        }
    }

    /// Closes every connection, and takes no more.
    async fn refuse(&self) {
        self.listening.abort();
        let address = self.base.trim_start_matches("http://").to_owned();
        eventually("the tap to be gone", async || {
            TcpStream::connect(&address).await.err()
        })
        .await;
    }

    /// Every token that went by.
    fn tokens(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let seen = String::from_utf8_lossy(&seen);
        let after = seen.split("?token=").skip(1);
        let mut tokens: Vec<_> = after
            .filter_map(|rest| rest.split(' ').next())
            .map(str::to_owned)
            .collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }
}

async fn pass(near: TcpStream, to: String, seen: Arc<Mutex<Vec<u8>>>) {
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let out = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = near_read.read(&mut buffer).await {
            seen.lock().unwrap().extend_from_slice(&buffer[..read]);
            if far_write.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let back = tokio::io::copy(&mut far_read, &mut near_write);
    // Whichever side ends first ends both, so that a cut is a cut.
    tokio::select! {
        () = out => {}
        _ = back => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
}
