//! Certificates, client authorities, tokens and push secrets rotate while clients call and the
//! platform pushes: nothing fails, and afterwards the old ones are refused.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::{ListPushesRequest, SubscribePushesRequest, SubscribePushesResponse};

use crate::hostile::raw::address;
use crate::identity::{by, hex};
use crate::support::{
    Answer, Http, PUSH_SECRET, Process, earliest, eventually, next_event, pushed, record, within,
};
use crate::tls::{Authority, Signed, client_config, server_name};

const NEXT_SECRET: &str = "push-secret-of-the-next-year";

/// Replaces a file in one step, as Kubernetes does.
fn replace(file: &Path, text: &str) {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, file).unwrap();
}

/// The files of a gateway that requires client certificates.
struct Files {
    folder: PathBuf,
    /// The configuration without clients.
    base: String,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        replace(&self.path(name), text);
    }

    fn write_server(&self, server: &Signed) {
        self.write("tls.crt", &server.cert);
        self.write("tls.key", &server.key);
    }

    /// Both clients have the same rights: `crm` is known by tokens, `bi` by its certificate.
    fn write_clients(&self, tokens: &[&str]) {
        let tokens: Vec<_> = tokens.iter().map(|it| format!("'{}'", hex(it))).collect();
        let rest = "allow = ['subscribe']\naccounts = ['*']\n";
        let clients = format!(
            "[[clients]]\nname = 'crm'\ntoken_sha256 = [{}]\n{rest}\
             [[clients]]\nname = 'bi'\ntls_san = 'bi.svc'\n{rest}",
            tokens.join(", ")
        );
        self.write("gateway.toml", &(self.base.clone() + &clients));
    }

    fn new(folder: &Path) -> Self {
        let file = |name: &str| folder.join(name).display().to_string();
        let tls = format!(
            "grpc.tls.cert_file = '{}'\ngrpc.tls.key_file = '{}'\ngrpc.tls.client_ca_file = '{}'",
            file("tls.crt"),
            file("tls.key"),
            file("ca.crt")
        );
        Process::configure(folder, &tls);
        let base = std::fs::read_to_string(folder.join("gateway.toml")).unwrap();
        let secrets = format!(
            "push_secret_file = ['{}', '{}']",
            file("first"),
            file("second")
        );
        Self {
            folder: folder.to_owned(),
            base: base.replace(&format!("push_secret = '{PUSH_SECRET}'"), &secrets),
        }
    }
}

/// What a client shows of itself. It can be replaced while its calls go on.
#[derive(Clone)]
struct Client {
    url: String,
    connector: Arc<Mutex<TlsConnector>>,
    token: Arc<Mutex<Option<&'static str>>>,
}

impl Client {
    fn new(url: &str, connector: TlsConnector, token: Option<&'static str>) -> Self {
        Self {
            url: url.to_owned(),
            connector: Arc::new(Mutex::new(connector)),
            token: Arc::new(Mutex::new(token)),
        }
    }

    fn show(&self, connector: TlsConnector) {
        *self.connector.lock().unwrap() = connector;
    }

    fn channel(&self) -> Channel {
        let client = self.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let (url, connector) = (client.url.clone(), client.connector.lock().unwrap().clone());
            async move { handshake(&url, &connector).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://gateway.test");
        endpoint.connect_with_connector_lazy(connect)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        match *self.token.lock().unwrap() {
            Some(token) => by(token, message),
            None => Request::new(message),
        }
    }

    async fn call(&self, channel: &Channel) -> Result<(), Status> {
        let request = self.request(ListPushesRequest {
            page_size: 1,
            ..ListPushesRequest::default()
        });
        let mut pushes = PushServiceClient::new(channel.clone());
        within("an answer", pushes.list_pushes(request))
            .await
            .map(|_| ())
    }

    /// Waits until a call over a new connection succeeds.
    async fn until_served(&self) {
        eventually("a call to succeed", async || {
            self.call(&self.channel()).await.ok()
        })
        .await;
    }

    /// Waits until a call over a new connection is refused.
    async fn until_refused(&self) -> Status {
        eventually("a call to be refused", async || {
            self.call(&self.channel()).await.err()
        })
        .await
    }

    async fn subscribe(&self) -> Streaming<SubscribePushesResponse> {
        let request = self.request(SubscribePushesRequest {
            filter: Some(pushed()),
            ..earliest()
        });
        let mut pushes = PushServiceClient::new(self.channel());
        let stream = within("a stream", pushes.subscribe_pushes(request)).await;
        stream.unwrap().into_inner()
    }
}

async fn handshake(url: &str, connector: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address(url)).await?;
    within("a handshake", connector.connect(server_name(), stream)).await
}

/// Tasks that go on until they are stopped, the one that pushes first. One that fails panics.
#[derive(Default)]
struct Load {
    tasks: Vec<(JoinHandle<()>, Pace)>,
    is_over: Arc<AtomicBool>,
}

/// How far a task has come.
#[derive(Clone, Default)]
struct Pace {
    steps: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl Pace {
    fn goes_on(&self) -> bool {
        !self.is_over.load(SeqCst)
    }

    fn step(&self) {
        self.steps.fetch_add(1, SeqCst);
    }
}

impl Load {
    fn spawn<F: Future<Output = ()> + Send + 'static>(&mut self, task: impl FnOnce(Pace) -> F) {
        let pace = Pace {
            is_over: self.is_over.clone(),
            ..Pace::default()
        };
        self.tasks.push((tokio::spawn(task(pace.clone())), pace));
    }

    /// Calls over one connection.
    fn call(&mut self, client: &Client) {
        let client = client.clone();
        self.spawn(|pace| async move {
            let channel = client.channel();
            while pace.goes_on() {
                client.call(&channel).await.unwrap();
                pace.step();
            }
        });
    }

    /// Calls, each over a connection of its own.
    fn connect_and_call(&mut self, client: &Client) {
        let client = client.clone();
        self.spawn(|pace| async move {
            while pace.goes_on() {
                client.call(&client.channel()).await.unwrap();
                pace.step();
            }
        });
    }

    /// Pushes records with the numbers from 0 on.
    fn push(&mut self, http: &Http, url: &str, secret: Arc<Mutex<&'static str>>) {
        let (http, url) = (http.clone(), url.to_owned());
        self.spawn(|pace| async move {
            for number in 0.. {
                let secret = *secret.lock().unwrap();
                let answer = push(&http, &url, secret, &number.to_string()).await;
                assert_eq!((answer.status.as_u16(), &*answer.text()), (200, "success"));
                pace.step();
                if !pace.goes_on() {
                    return;
                }
            }
        });
    }

    /// Waits until each task has made some steps from now on.
    async fn go_on(&self) {
        const STEPS: usize = 5;
        let steps = |pace: &Pace| pace.steps.load(SeqCst);
        for (task, pace) in &self.tasks {
            let before = steps(pace);
            eventually("steps of every task", async || {
                assert!(!task.is_finished(), "a task has failed");
                (steps(pace) >= before + STEPS).then_some(())
            })
            .await;
        }
    }

    /// Stops, and gives the number of records that were pushed.
    async fn stop(self) -> usize {
        self.is_over.store(true, SeqCst);
        let mut steps = Vec::new();
        for (task, pace) in self.tasks {
            within("a task's end", task).await.unwrap();
            steps.push(pace.steps.load(SeqCst));
        }
        steps[0]
    }

    /// The number of records that have been pushed so far.
    fn pushed(&self) -> usize {
        self.tasks[0].1.steps.load(SeqCst)
    }
}

async fn push(http: &Http, url: &str, secret: &str, number: &str) -> Answer {
    let uri = format!("{url}/v1/push/default/{secret}/receiveCallRecord");
    let request = http::Request::post(uri).body(Full::from(record(number)));
    let answer = http.send(request.unwrap());
    within("an answer", answer).await.unwrap()
}

/// A stream and the numbers of the records that it has had.
struct Reader {
    numbers: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Reader {
    async fn open(client: &Client) -> Self {
        let numbers = Arc::new(Mutex::new(Vec::new()));
        let (mut stream, seen) = (client.subscribe().await, numbers.clone());
        let task = tokio::spawn(async move {
            loop {
                let event = next_event(&mut stream).await;
                let body: Value = serde_json::from_slice(&event.raw_json).unwrap();
                let number = body["call_uuid"].as_str().unwrap();
                seen.lock().unwrap().push(number.to_owned());
            }
        });
        Self { numbers, task }
    }

    fn count(&self) -> usize {
        self.numbers.lock().unwrap().len()
    }

    /// Waits until it has had this many records, and no others; then leaves.
    async fn has(self, count: usize) {
        eventually("every record", async || {
            assert!(!self.task.is_finished(), "a stream has ended");
            (self.count() >= count).then_some(())
        })
        .await;
        self.task.abort();
        let expected: Vec<_> = (0..self.count()).map(|it| it.to_string()).collect();
        assert_eq!(*self.numbers.lock().unwrap(), expected);
    }
}

/// A gateway under load.
struct Stage {
    files: Files,
    gateway: Process,
    servers: [Authority; 2],
    authorities: [Authority; 2],
    crm: Client,
    bi: Client,
    http: Http,
    secret: Arc<Mutex<&'static str>>,
    load: Load,
}

/// The certificate of a client by the first or the second authority. It trusts both servers.
fn certified(servers: &[Authority; 2], by: &Authority, name: &str) -> TlsConnector {
    let [first, second] = servers;
    let config = client_config(&[first, second], Some(&by.sign(&[name])));
    TlsConnector::from(Arc::new(config))
}

impl Stage {
    async fn set(folder: &Path) -> Self {
        let files = Files::new(folder);
        let servers = [Authority::new(), Authority::new()];
        let authorities = [Authority::new(), Authority::new()];
        files.write_server(&servers[0].sign(&["gateway.test"]));
        files.write("ca.crt", &authorities[0].pem);
        files.write("first", PUSH_SECRET);
        files.write("second", PUSH_SECRET);
        files.write_clients(&["old"]);
        let gateway = Process::spawn(Process::command(folder)).await;
        let url = &gateway.addresses.grpc;
        let client = |name, token| {
            let certificate = certified(&servers, &authorities[0], name);
            Client::new(url, certificate, token)
        };
        let (crm, bi) = (client("crm.svc", Some("old")), client("bi.svc", None));
        let (http, secret) = (Http::new(), Arc::new(Mutex::new(PUSH_SECRET)));
        let mut load = Load::default();
        load.push(&http, &gateway.addresses.push, secret.clone());
        for client in [&crm, &bi] {
            load.call(client);
            load.call(client);
            load.connect_and_call(client);
        }
        load.go_on().await;
        Self {
            files,
            gateway,
            servers,
            authorities,
            crm,
            bi,
            http,
            secret,
            load,
        }
    }

    fn certified(&self, by: usize, name: &str) -> TlsConnector {
        certified(&self.servers, &self.authorities[by], name)
    }

    /// The server's certificate, and the clients' authority: first beside the next one, then the
    /// next one alone.
    async fn rotate_certificates(&self) {
        let url = &self.gateway.addresses.grpc;
        let [old, next] = &self.authorities;
        let renewed = self.servers[1].sign(&["gateway.test"]);
        self.files.write_server(&renewed);
        self.files.write("ca.crt", &(old.pem.clone() + &next.pem));
        let renewed = CertificateDer::from_pem_slice(renewed.cert.as_bytes()).unwrap();
        let next_bi = self.certified(1, "bi.svc");
        eventually("the server's new certificate", async || {
            let stream = handshake(url, &next_bi).await.ok()?;
            let shown = stream.get_ref().1.peer_certificates()?;
            (shown[0] == renewed).then_some(())
        })
        .await;
        Client::new(url, next_bi.clone(), None).until_served().await;
        self.load.go_on().await;
        self.crm.show(self.certified(1, "crm.svc"));
        self.bi.show(next_bi);
        self.load.go_on().await;
        self.files.write("ca.crt", &next.pem);
        let old = Client::new(url, self.certified(0, "bi.svc"), None);
        old.until_refused().await;
        self.load.go_on().await;
    }

    /// The token of `crm`: both, then the new one alone. A stream of it moves in between.
    async fn rotate_token(&self) -> Reader {
        let with_token = |token| Client {
            token: Arc::new(Mutex::new(Some(token))),
            ..self.crm.clone()
        };
        let stream = Reader::open(&self.crm).await;
        self.files.write_clients(&["old", "new"]);
        with_token("new").until_served().await;
        self.load.go_on().await;
        *self.crm.token.lock().unwrap() = Some("new");
        let moved = Reader::open(&self.crm).await;
        self.load.go_on().await;
        stream.has(self.load.pushed()).await;
        self.files.write_clients(&["new"]);
        let refused = with_token("old").until_refused().await;
        assert_eq!(refused.code(), Code::Unauthenticated);
        self.load.go_on().await;
        moved
    }

    /// The push secret: both, then the new one alone.
    async fn rotate_secret(&self) {
        let url = &self.gateway.addresses.push;
        let push = async |secret: &str| push(&self.http, url, secret, "0").await;
        self.files.write("first", NEXT_SECRET);
        eventually("the new secret", async || {
            push(NEXT_SECRET).await.is_success().then_some(())
        })
        .await;
        self.load.go_on().await;
        *self.secret.lock().unwrap() = NEXT_SECRET;
        self.load.go_on().await;
        self.files.write("second", NEXT_SECRET);
        eventually("the old secret to be refused", async || {
            (push(PUSH_SECRET).await.status == 404).then_some(())
        })
        .await;
        self.load.go_on().await;
    }
}

#[tokio::test]
async fn everything_that_rotates_does_so_without_a_failed_call_stream_or_push() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::set(folder.path()).await;
    // Known by its certificate, and open all the time.
    let stream = Reader::open(&stage.bi).await;
    stage.rotate_certificates().await;
    let moved = stage.rotate_token().await;
    stage.rotate_secret().await;
    let pushed = stage.load.stop().await;
    stream.has(pushed).await;
    moved.has(pushed).await;
    stage.gateway.terminate();
    let (status, output) = stage.gateway.ended().await;
    assert!(status.success(), "{output}");
}
