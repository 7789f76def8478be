//! A running sandbox, a bare HTTP client for it, and a receiver of pushes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::routing::post;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use yeta_gateway::sandbox::{SandboxConfig, serve};

/// Long enough for anything here on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A sandbox that ends with the test.
pub struct Sandbox {
    pub base: String,
    client: Client<HttpConnector, Full<Bytes>>,
    _stop: oneshot::Sender<()>,
}

/// An answer's status, Content-Type and body.
pub struct Reply {
    pub status: StatusCode,
    pub content_type: String,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// A sandbox with fast calls that pushes to the receiver.
pub fn fast(receiver: &Receiver) -> SandboxConfig {
    SandboxConfig {
        push_to: vec![receiver.base.clone()],
        speed: 1000.0,
        ..Default::default()
    }
}

impl Sandbox {
    pub async fn start(config: SandboxConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let shutdown = async { drop(stopped.await) };
            serve(config, listener, shutdown).await.unwrap();
        });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            base,
            client,
            _stop: stop,
        }
    }

    /// One exchange; an error is a broken connection.
    pub async fn exchange(&self, request: http::Request<Full<Bytes>>) -> Result<Reply, String> {
        let answer = self
            .client
            .request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status();
        let content_type = answer
            .headers()
            .get("content-type")
            .map(|value| value.to_str().unwrap());
        let content_type = content_type.unwrap_or_default().to_owned();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        Ok(Reply {
            status,
            content_type,
            body: body.to_bytes(),
        })
    }

    pub async fn post_raw(&self, path: &str, body: &str) -> Result<Reply, String> {
        let request = http::Request::post(format!("{}{path}", self.base))
            .header("content-type", "application/json;charset=UTF-8")
            .body(Full::new(Bytes::from(body.to_owned())));
        self.exchange(request.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Value {
        let request = http::Request::get(format!("{}{path}", self.base)).body(Full::default());
        self.exchange(request.unwrap()).await.unwrap().json()
    }

    pub async fn admin(&self, path: &str, body: Value) -> Value {
        let reply = self
            .post_raw(&format!("/sandbox/{path}"), &body.to_string())
            .await
            .unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{path}: {:?}", reply.body);
        reply.json()
    }

    pub async fn fault(&self, fault: Value) {
        self.admin("faults", fault).await;
    }

    pub async fn token(&self) -> String {
        let answer = self.token_answer("key", "secret").await;
        answer["result"]["token"].as_str().unwrap().to_owned()
    }

    pub async fn token_answer(&self, key: &str, secret: &str) -> Value {
        let body = json!({ "app_key": key, "app_secret": secret }).to_string();
        self.post_raw("/openapi/oauth/v1/token", &body)
            .await
            .unwrap()
            .json()
    }

    /// A session of the API with a token of its own.
    pub async fn session(&self) -> Session<'_> {
        Session {
            sandbox: self,
            token: self.token().await,
        }
    }

    /// The counts of one operation.
    pub async fn counts(&self, operation: &str) -> Value {
        self.get("/sandbox/requests").await["operations"][operation].clone()
    }

    /// Asks until the answer is as wanted.
    pub async fn wait_for(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(async || Some(self.get(path).await).filter(&wanted)).await
    }
}

pub struct Session<'a> {
    sandbox: &'a Sandbox,
    pub token: String,
}

impl Session<'_> {
    pub fn path(&self, operation: &str) -> String {
        let path = match operation {
            "config" => "config/v1/query".to_owned(),
            other => format!("outbound/v1/task/{other}"),
        };
        format!("/openapi/{path}?token={}", self.token)
    }

    pub async fn raw(&self, operation: &str, body: &Value) -> Result<Reply, String> {
        self.sandbox
            .post_raw(&self.path(operation), &body.to_string())
            .await
    }

    pub async fn call(&self, operation: &str, body: Value) -> Value {
        self.raw(operation, &body).await.unwrap().json()
    }

    /// The result of an operation that must succeed.
    pub async fn result(&self, operation: &str, body: Value) -> Value {
        let answer = self.call(operation, body).await;
        assert_eq!(answer["code"], 0, "{operation}: {answer}");
        answer["result"].clone()
    }

    pub async fn code(&self, operation: &str, body: Value) -> i64 {
        self.call(operation, body).await["code"].as_i64().unwrap()
    }

    /// A task of robot 11 as in the documents' example, with changes.
    pub async fn task(&self, changes: Value) -> String {
        let mut task = json!({
            "task_name": "测试外呼",
            "line_num": "055169101407",
            "robot_id": "11",
            "recall_count": 1,
            "time_recall_wait": 600,
            "time_range": ["09:00:00-12:00:00", "13:00:00-17:30:00"],
            "time_begin": 1_527_321_492_000_i64,
            "time_end": 1_527_325_092_000_i64,
        });
        for (name, value) in changes.as_object().unwrap() {
            task[name] = value.clone();
        }
        self.result("create", task).await["task_id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub async fn insert(&self, task: &str, numbers: &[&str]) -> Value {
        let rows: Vec<Value> = numbers
            .iter()
            .map(|number| json!([number, "t2", "t3"]))
            .collect();
        let columns = ["客户手机号码", "列2", "列3"];
        let body = json!({ "task_id": task, "call_column": columns, "call_list": rows });
        self.call("insert", body).await
    }

    pub async fn status(&self, task: &str) -> i64 {
        let result = self.result("query", json!({ "task_id": task })).await;
        result["rows"][0]["status"].as_i64().unwrap()
    }

    pub async fn wait_for_status(&self, task: &str, wanted: i64) {
        eventually(async || (self.status(task).await == wanted).then_some(())).await;
    }
}

/// The documents' direct callout.
pub fn callout(numbers: &[&str]) -> Value {
    let rows: Vec<Value> = numbers
        .iter()
        .map(|number| json!([number, "张先生"]))
        .collect();
    json!({
        "line_num": "69101338",
        "robot_id": "719",
        "call_column": ["客户手机号码", "姓名"],
        "call_list": rows,
        "voice_code": "60030",
    })
}

/// Looks again until there is something, and gives up after a long time.
pub async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .expect("nothing came")
}

/// One push as it arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub module: String,
    pub content_type: Option<String>,
    pub body: Bytes,
}

impl Arrival {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Takes pushes, and answers the first `refusals` of them without the word, or
/// never.
pub struct Receiver {
    pub base: String,
    arrivals: watch::Receiver<Vec<Arrival>>,
}

struct Desk {
    arrivals: watch::Sender<Vec<Arrival>>,
    refusals: Mutex<usize>,
    deaf: bool,
}

impl Receiver {
    pub async fn start(refusals: usize) -> Self {
        Self::start_with(refusals, false).await
    }

    /// A receiver that never answers the first push.
    pub async fn start_deaf_once() -> Self {
        Self::start_with(1, true).await
    }

    async fn start_with(refusals: usize, deaf: bool) -> Self {
        let (sender, arrivals) = watch::channel(Vec::new());
        let desk = Arc::new(Desk {
            arrivals: sender,
            refusals: Mutex::new(refusals),
            deaf,
        });
        let router = Router::new()
            .route("/push/{module}", post(take))
            .with_state(desk);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/push", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, arrivals }
    }

    /// Waits until so many pushes arrived, and returns them all.
    pub async fn wait_for(&self, count: usize) -> Vec<Arrival> {
        self.wait_until(|arrivals| arrivals.len() >= count).await
    }

    pub async fn wait_until(&self, wanted: impl Fn(&[Arrival]) -> bool) -> Vec<Arrival> {
        let mut arrivals = self.arrivals.clone();
        let arrived = arrivals.wait_for(|arrivals| wanted(arrivals));
        let arrived = tokio::time::timeout(PATIENCE, arrived).await;
        arrived.expect("too few pushes came").unwrap().clone()
    }

    pub fn so_far(&self) -> Vec<Arrival> {
        self.arrivals.borrow().clone()
    }
}

async fn take(
    State(desk): State<Arc<Desk>>,
    Path(module): Path<String>,
    request: Request,
) -> &'static str {
    let content_type = request.headers().get("content-type");
    let content_type = content_type.map(|value| value.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let refused = {
        let mut left = desk.refusals.lock().unwrap();
        let refused = *left > 0;
        *left = left.saturating_sub(1);
        refused
    };
    let arrival = Arrival {
        module,
        content_type,
        body,
    };
    desk.arrivals.send_modify(|all| all.push(arrival));
    match refused {
        true if desk.deaf => std::future::pending().await,
        true => "try again",
        false => "success",
    }
}
