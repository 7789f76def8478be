//! The built binary as a process of its own, which a test can kill.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use yeta_gateway::proto::push_service_client::PushServiceClient;

/// Long enough for anything here on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running gateway; killed with the test.
pub struct Gateway {
    child: Child,
    pub grpc: SocketAddr,
    pub push: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// A configuration with free ports, one account and its store in the folder.
pub fn config(folder: &Path, platform: &str) -> String {
    format!(
        "[grpc]\nlisten = '127.0.0.1:0'\n[push]\nlisten = '127.0.0.1:0'\n\
         [admin]\nlisten = '127.0.0.1:0'\n[platform]\nbase_url = '{platform}'\n\
         [store]\npath = '{}'\n\
         [[accounts]]\napp_key = 'the-app-key'\napp_secret = 'the-app-secret'\n\
         push_secret = 'the-push-secret'\n",
        folder.join("store").display()
    )
}

impl Gateway {
    /// Starts `serve` with a configuration and waits until it is ready.
    pub async fn start(folder: &Path, config: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_yeta-gateway"));
        command
            .arg("serve")
            .arg("--config")
            .arg(write(folder, config));
        Self::spawn(command)
            .await
            .unwrap_or_else(|log| panic!("not started:\n{log}"))
    }

    /// Starts a command that becomes `serve`; on failure, what it logged.
    pub async fn spawn(mut command: Command) -> Result<Self, String> {
        command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (log, mut lines) = follow(child.stderr.take().unwrap());
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let addresses = addresses(&log.lock().unwrap());
                if addresses.is_some() || lines.changed().await.is_err() {
                    return addresses;
                }
            }
        });
        let Some([grpc, push, admin]) = waited.await.expect("neither ready nor ended") else {
            return Err(log.lock().unwrap().clone());
        };
        Ok(Self {
            child,
            grpc,
            push,
            admin,
            log,
        })
    }

    /// Kill −9, now.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM; resolves when the process has ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .unwrap()
            .unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = std::process::Command::new("kill")
            .args(["-s", signal, &pid])
            .status();
        assert!(sent.unwrap().success());
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("the process has ended")
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.grpc))
            .unwrap()
            .connect_lazy()
    }

    pub fn pushes(&self) -> PushServiceClient<Channel> {
        PushServiceClient::new(self.channel())
    }
}

/// Writes a configuration into its folder.
pub fn write(folder: &Path, config: &str) -> std::path::PathBuf {
    let path = folder.join("gateway.toml");
    std::fs::write(&path, config).unwrap();
    path
}

/// Collects a process's log; the receiver hears of each line, and of the end.
fn follow(
    output: impl AsyncRead + Unpin + Send + 'static,
) -> (Arc<Mutex<String>>, watch::Receiver<()>) {
    let log = Arc::new(Mutex::new(String::new()));
    let (told, lines) = watch::channel(());
    let collected = log.clone();
    tokio::spawn(async move {
        let mut output = BufReader::new(output).lines();
        while let Ok(Some(line)) = output.next_line().await {
            let mut log = collected.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
            drop(log);
            told.send_replace(());
        }
    });
    (log, lines)
}

/// The addresses of gRPC, push and admin, once the log says that the gateway is ready.
fn addresses(log: &str) -> Option<[SocketAddr; 3]> {
    let lines: Vec<serde_json::Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    lines.iter().find(|line| line["message"] == "ready")?;
    let address = |name: &str| {
        let line = lines.iter().find(|line| line["listener"] == name)?;
        line["address"].as_str()?.parse().ok()
    };
    Some([address("grpc")?, address("push")?, address("admin")?])
}

/// Pushes as the platform does.
#[derive(Clone)]
pub struct Pusher {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

impl Pusher {
    pub fn new(push: SocketAddr) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            client,
            base: format!("http://{push}/v1/push/default/the-push-secret"),
        }
    }

    /// The answer's status, and whether it has the word; `None` if there was no whole answer.
    pub async fn post(&self, module: &str, body: impl Into<Bytes>) -> Option<(StatusCode, bool)> {
        let request = Request::post(format!("{}/{module}", self.base));
        let request = request.body(Full::new(body.into())).unwrap();
        let exchange = async {
            let answer = self.client.request(request).await.ok()?;
            let status = answer.status();
            let body = answer.into_body().collect().await.ok()?.to_bytes();
            Some((status, body.windows(7).any(|part| part == b"success")))
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .expect("no answer at all")
    }
}
