//! A platform that answers as a test tells it to, token by token.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU16, AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{StatusCode, Uri},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

/// What an operation answers, from its path, its token and its body.
type Answer = dyn Fn(&str, &str, &[u8]) -> String + Send + Sync;

pub struct Fake {
    pub base_url: String,
    desk: Arc<Desk>,
}

struct Desk {
    tokens: AtomicUsize,
    operations: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    /// What the token endpoint puts into `result` beside the token, or the whole
    /// answer where it is a text.
    token_answer: Mutex<Value>,
    /// While true, token requests wait.
    hold_tokens: watch::Sender<bool>,
    /// While above the number of operations received, operations wait.
    hold_operations: watch::Sender<usize>,
    arrived: watch::Sender<usize>,
    /// The HTTP status of operations' answers.
    status: AtomicU16,
    answer: Box<Answer>,
}

#[derive(Deserialize)]
struct Target {
    #[serde(default)]
    token: String,
}

impl Fake {
    pub async fn start(
        answer: impl Fn(&str, &str, &[u8]) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, answer)
    }

    pub fn start_on(
        listener: TcpListener,
        answer: impl Fn(&str, &str, &[u8]) -> String + Send + Sync + 'static,
    ) -> Self {
        let desk = Arc::new(Desk {
            tokens: AtomicUsize::new(0),
            operations: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            token_answer: Mutex::new(json!({ "time_expire": 3600 })),
            hold_tokens: watch::Sender::new(false),
            hold_operations: watch::Sender::new(0),
            arrived: watch::Sender::new(0),
            status: AtomicU16::new(200),
            answer: Box::new(answer),
        });
        let router = Router::new()
            .route("/openapi/oauth/v1/token", axum::routing::post(issue))
            .fallback(operate)
            .with_state(Arc::clone(&desk));
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base_url, desk }
    }

    /// Sets the HTTP status of further operations' answers.
    pub fn http_status(&self, status: u16) {
        self.desk.status.store(status, Ordering::SeqCst);
    }

    /// How many tokens were asked for.
    pub fn tokens(&self) -> usize {
        self.desk.tokens.load(Ordering::SeqCst)
    }

    /// How many operations were received.
    pub fn operations(&self) -> usize {
        self.desk.operations.load(Ordering::SeqCst)
    }

    /// The most operations that were under way at once.
    pub fn most_under_way(&self) -> usize {
        self.desk.most_under_way.load(Ordering::SeqCst)
    }

    /// Waits until so many requests of either kind have arrived.
    pub async fn arrived(&self, count: usize) {
        let mut arrived = self.desk.arrived.subscribe();
        arrived.wait_for(|arrived| *arrived >= count).await.unwrap();
    }

    pub fn token_answer(&self, answer: Value) {
        *self.desk.token_answer.lock().unwrap() = answer;
    }

    /// Lets token requests wait, or go on.
    pub fn hold_tokens(&self, hold: bool) {
        self.desk.hold_tokens.send_replace(hold);
    }

    /// Lets operations wait until `count` of them have been received.
    pub fn hold_operations_until(&self, count: usize) {
        self.desk.hold_operations.send_replace(count);
    }
}

async fn issue(State(desk): State<Arc<Desk>>) -> String {
    let number = desk.tokens.fetch_add(1, Ordering::SeqCst) + 1;
    desk.arrived.send_modify(|arrived| *arrived += 1);
    let mut held = desk.hold_tokens.subscribe();
    held.wait_for(|held| !*held).await.unwrap();
    let mut result = desk.token_answer.lock().unwrap().clone();
    if let Value::String(answer) = result {
        return answer;
    }
    result["token"] = json!(format!("token-{number}"));
    json!({ "code": 0, "message": "ok", "result": result }).to_string()
}

async fn operate(
    State(desk): State<Arc<Desk>>,
    Query(target): Query<Target>,
    uri: Uri,
    body: Bytes,
) -> (StatusCode, String) {
    let under_way = desk.under_way.fetch_add(1, Ordering::SeqCst) + 1;
    desk.most_under_way.fetch_max(under_way, Ordering::SeqCst);
    desk.operations.fetch_add(1, Ordering::SeqCst);
    desk.arrived.send_modify(|arrived| *arrived += 1);
    let mut arrived = desk.arrived.subscribe();
    let mut held = desk.hold_operations.subscribe();
    while desk.operations.load(Ordering::SeqCst) < *held.borrow_and_update() {
        tokio::select! {
            changed = arrived.changed() => changed.unwrap(),
            changed = held.changed() => changed.unwrap(),
        }
    }
    desk.under_way.fetch_sub(1, Ordering::SeqCst);
    let status = StatusCode::from_u16(desk.status.load(Ordering::SeqCst)).unwrap();
    let answer = (desk.answer)(uri.path(), &target.token, &body);
    (status, answer)
}
