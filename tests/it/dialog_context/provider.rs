//! A provider that does as it is told, on a runtime of its own, so that it can be killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;
use tonic::{Code, Request, Response, Status};
use yeta_gateway::proto::dialog_context_service_server::{
    DialogContextService, DialogContextServiceServer,
};
use yeta_gateway::proto::semantic_value::Value;
use yeta_gateway::proto::{
    AnalyzeSemanticsRequest, AnalyzeSemanticsResponse, GetDialogContextRequest,
    GetDialogContextResponse, SemanticValue,
};

use crate::support::eventually;

/// How it answers.
#[derive(Clone, Debug)]
pub enum Mode {
    /// With its own context.
    Answer,
    /// With an error.
    Fail(Code),
    /// Never.
    Hang,
    /// The next question never, the others with its own context.
    HangOnce,
    /// With so many entries of 1 KiB.
    Huge(usize),
}

/// One instance, which ends with the test.
pub struct Provider {
    pub url: String,
    desk: Arc<Desk>,
    serving: AbortHandle,
    runtime: Option<Runtime>,
}

pub struct Desk {
    context: BTreeMap<String, String>,
    mode: Mutex<Mode>,
    asked: AtomicUsize,
    last: Mutex<Option<GetDialogContextRequest>>,
    last_semantics: Mutex<Option<AnalyzeSemanticsRequest>>,
    /// The bearer token that requests must have.
    token: Mutex<Option<String>>,
}

/// Tells the contexts of providers apart.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

impl Desk {
    pub fn new(mode: Mode) -> Arc<Self> {
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let context = [("性别", "男".to_owned()), ("provider", number.to_string())];
        Arc::new(Self {
            context: context.map(|(name, value)| (name.to_owned(), value)).into(),
            mode: Mutex::new(mode),
            asked: AtomicUsize::new(0),
            last: Mutex::default(),
            last_semantics: Mutex::default(),
            token: Mutex::default(),
        })
    }

    pub fn context(&self) -> BTreeMap<String, String> {
        self.context.clone()
    }

    /// Refuses requests without this token from now on.
    pub fn require(&self, token: &str) {
        *self.token.lock().unwrap() = Some(token.to_owned());
    }

    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let required = self.token.lock().unwrap();
        let required = required.as_ref().map(|token| format!("Bearer {token}"));
        let given = request.metadata().get("authorization");
        let given = given.map(|value| value.to_str().unwrap().to_owned());
        if given == required {
            return Ok(());
        }
        Err(Status::unauthenticated("another token is required"))
    }

    async fn answer(&self) -> Result<BTreeMap<String, String>, Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mode = {
            let mut mode = self.mode.lock().unwrap();
            let now = mode.clone();
            if matches!(now, Mode::HangOnce) {
                *mode = Mode::Answer;
            }
            now
        };
        match mode {
            Mode::Answer => Ok(self.context()),
            Mode::Fail(code) => Err(Status::new(code, "as ordered")),
            Mode::Hang | Mode::HangOnce => std::future::pending().await,
            Mode::Huge(entries) => Ok((0..entries)
                .map(|number| (number.to_string(), "x".repeat(1024)))
                .collect()),
        }
    }
}

impl Provider {
    pub async fn start(mode: Mode) -> Self {
        Self::at("127.0.0.1:0", mode).await
    }

    /// At an address, once whoever listened there is gone.
    pub async fn at(address: &str, mode: Mode) -> Self {
        let bound = async || TcpListener::bind(address).await.ok();
        let listener = eventually("the provider's port", bound).await;
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = listener.into_std().unwrap();
        let desk = Desk::new(mode);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = DialogContextServiceServer::from_arc(Arc::clone(&desk));
        let serving = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let server = tonic::transport::Server::builder().add_service(server);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            url,
            desk,
            serving: serving.abort_handle(),
            runtime: Some(runtime),
        }
    }

    pub fn set(&self, mode: Mode) {
        *self.desk.mode.lock().unwrap() = mode;
    }

    pub fn context(&self) -> BTreeMap<String, String> {
        self.desk.context()
    }

    /// Refuses requests without this token from now on.
    pub fn require(&self, token: &str) {
        self.desk.require(token);
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.desk.asked.load(Ordering::SeqCst)
    }

    pub fn last_question(&self) -> GetDialogContextRequest {
        self.desk.last.lock().unwrap().clone().unwrap()
    }

    pub fn last_semantics(&self) -> AnalyzeSemanticsRequest {
        self.desk.last_semantics.lock().unwrap().clone().unwrap()
    }

    /// Where it listens, without the scheme.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Takes no new connections; those that it has stay, and are answered.
    pub fn stop_listening(&self) {
        self.serving.abort();
    }
}

impl Drop for Provider {
    /// All of its sockets close at once, as when a process is killed.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tonic::async_trait]
impl DialogContextService for Desk {
    async fn get_dialog_context(
        &self,
        request: Request<GetDialogContextRequest>,
    ) -> Result<Response<GetDialogContextResponse>, Status> {
        assert!(request.metadata().contains_key("grpc-timeout"));
        self.check(&request)?;
        *self.last.lock().unwrap() = Some(request.into_inner());
        let context = self.answer().await?.into_iter().collect();
        Ok(Response::new(GetDialogContextResponse { context }))
    }

    async fn analyze_semantics(
        &self,
        request: Request<AnalyzeSemanticsRequest>,
    ) -> Result<Response<AnalyzeSemanticsResponse>, Status> {
        self.check(&request)?;
        *self.last_semantics.lock().unwrap() = Some(request.into_inner());
        self.answer().await?;
        let value = |key: &str, value| SemanticValue {
            key: key.to_owned(),
            value: Some(value),
        };
        let values = vec![
            value("意向", Value::StringValue("A".to_owned())),
            value("id", Value::IntegerValue(346_252_615_123_869_699)),
        ];
        Ok(Response::new(AnalyzeSemanticsResponse { values }))
    }
}
