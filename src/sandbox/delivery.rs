//! Delivers pushes: 3 seconds for an answer that contains `success`, and up to
//! 3 retries with the same bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::faults::{Fault, Kind};
use super::world::{World, lock};

/// The modules that the platform pushes.
pub(super) const MODULES: [&str; 3] = ["receiveCallRecord", "receiveVoice", "receiveDialog"];
pub(super) const JSON: &str = "application/json;charset=UTF-8";
/// Never sped up: it is the receiver's time.
const ANSWER_TIME: Duration = Duration::from_secs(3);
const RETRIES: u32 = 3;
const MAX_ANSWER: usize = 64 * 1024;
const MAX_AT_ONCE: usize = 256;

pub(super) struct Pusher {
    targets: Vec<Target>,
    client: Client<HttpConnector, Full<Bytes>>,
    at_once: Semaphore,
    log: Mutex<PushLog>,
    /// Told whenever a push is acknowledged or given up.
    settled: watch::Sender<()>,
}

/// Where pushes go: all modules, or the one that ends the URL.
struct Target {
    url: String,
    module: Option<&'static str>,
}

/// Counts pushes, one per receiver.
#[derive(Default)]
struct PushLog {
    sent: u64,
    posts: u64,
    acknowledged: u64,
    retried: u64,
    failed: u64,
    lost: u64,
    by_module: BTreeMap<&'static str, u64>,
}

/// What a receiver answered.
pub(super) struct Receipt {
    pub status: u16,
    pub body: Bytes,
}

impl Receipt {
    /// Only the word counts, as documented: not the status.
    pub fn acknowledges(&self) -> bool {
        self.body.windows(7).any(|part| part == b"success")
    }
}

impl Pusher {
    pub fn new(push_to: &[String]) -> std::io::Result<Self> {
        let mut client = Client::builder(TokioExecutor::new());
        client
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(5));
        Ok(Self {
            targets: push_to
                .iter()
                .map(|url| Target::read(url))
                .collect::<Result<_, _>>()?,
            client: client.build_http(),
            at_once: Semaphore::new(MAX_AT_ONCE),
            log: Mutex::default(),
            settled: watch::Sender::new(()),
        })
    }

    /// All receivers with their module, as configured on the platform.
    pub fn urls(&self) -> Vec<(String, String)> {
        let of = |module: &&'static str| {
            let urls = self.urls_of(module).into_iter();
            urls.map(|url| (url, (*module).to_owned()))
                .collect::<Vec<_>>()
        };
        MODULES.iter().flat_map(of).collect()
    }

    /// The receivers of a module, which may be none of the documented ones.
    pub fn urls_of(&self, module: &str) -> Vec<String> {
        let wants = |target: &&Target| target.module.is_none_or(|only| only == module);
        self.targets
            .iter()
            .filter(wants)
            .map(|target| target.url(module))
            .collect()
    }

    /// Sends one POST and reads the answer, within the 3 seconds.
    pub async fn post(
        &self,
        url: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Receipt, String> {
        self.post_within(url, content_type, body, ANSWER_TIME).await
    }

    /// The same, within another time.
    pub async fn post_within(
        &self,
        url: &str,
        content_type: Option<&str>,
        body: Bytes,
        time: Duration,
    ) -> Result<Receipt, String> {
        let mut request = Request::post(url);
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self
                .client
                .request(request)
                .await
                .map_err(|error| error.to_string())?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok(Receipt { status, body })
        };
        let late = |_| Err(format!("no answer within {time:?}"));
        tokio::time::timeout(time, exchange)
            .await
            .unwrap_or_else(late)
    }

    pub fn report(&self) -> Value {
        let log = lock(&self.log);
        json!({
            "sent": log.sent,
            "posts": log.posts,
            "acknowledged": log.acknowledged,
            "retried": log.retried,
            "failed": log.failed,
            "lost": log.lost,
            "in_flight": log.sent - log.acknowledged - log.failed - log.lost,
            "by_module": log.by_module,
        })
    }

    /// Sets the counters back; pushes in flight are counted as new ones.
    pub fn forget(&self) {
        let mut log = lock(&self.log);
        let in_flight = log.sent - log.acknowledged - log.failed - log.lost;
        *log = PushLog {
            sent: in_flight,
            ..PushLog::default()
        };
    }
}

impl Target {
    fn read(url: &str) -> std::io::Result<Self> {
        let invalid = |why| {
            // The address may carry a secret, so it is not repeated whole.
            let message = format!("a push-to address {why}");
            std::io::Error::new(std::io::ErrorKind::InvalidInput, message)
        };
        let uri: Uri = url.parse().map_err(|_| invalid("is no URL"))?;
        if uri.scheme_str() != Some("http") || uri.host().is_none() {
            return Err(invalid("does not start with http:// and a host"));
        }
        if uri.query().is_some() {
            return Err(invalid("has a query"));
        }
        let url = url.trim_end_matches('/').to_owned();
        let last = url.rsplit('/').next().unwrap_or_default();
        let module = MODULES.iter().copied().find(|module| *module == last);
        Ok(Self { url, module })
    }

    fn url(&self, module: &str) -> String {
        match self.module {
            Some(_) => self.url.clone(),
            None => format!("{}/{module}", self.url),
        }
    }
}

/// Sends a push to its receivers after a wait, with the faults ordered for it.
pub(super) fn send(world: &Arc<World>, module: &'static str, body: &Bytes, wait: Duration) {
    let urls = world.pusher.urls_of(module);
    if urls.is_empty() {
        return;
    }
    let fault = world.faults().take_for_push(module);
    let copies = if fault
        .as_ref()
        .is_some_and(|fault| fault.kind == Kind::Duplicate)
    {
        2
    } else {
        1
    };
    for url in urls {
        for _ in 0..copies {
            count_sent(&world.pusher, module);
            let work = deliver(
                Arc::clone(world),
                module,
                url.clone(),
                body.clone(),
                wait,
                fault.clone(),
            );
            world.spawn(work);
        }
    }
}

fn count_sent(pusher: &Pusher, module: &'static str) {
    let mut log = lock(&pusher.log);
    log.sent += 1;
    *log.by_module.entry(module).or_default() += 1;
}

async fn deliver(
    world: Arc<World>,
    module: &'static str,
    url: String,
    body: Bytes,
    wait: Duration,
    fault: Option<Fault>,
) {
    tokio::time::sleep(wait).await;
    let pusher = &world.pusher;
    if let Some(fault) = fault {
        if fault.kind == Kind::Lose {
            lock(&pusher.log).lost += 1;
            return;
        }
        hold_back(&world, &fault).await;
    }
    for attempt in 0..=RETRIES {
        if attempt > 0 {
            tokio::time::sleep(world.config.scaled(world.config.push_retry_wait)).await;
            lock(&pusher.log).retried += 1;
        }
        lock(&pusher.log).posts += 1;
        let receipt = {
            let _turn = pusher.at_once.acquire().await;
            pusher.post(&url, Some(JSON), body.clone()).await
        };
        if receipt.is_ok_and(|receipt| receipt.acknowledges()) {
            lock(&pusher.log).acknowledged += 1;
            pusher.settled.send_replace(());
            return;
        }
    }
    tracing::warn!(module, "push given up after {RETRIES} retries");
    // Kept first: whoever sees the count finds the push.
    world.failures().add(module, &body, RETRIES + 1);
    lock(&pusher.log).failed += 1;
    pusher.settled.send_replace(());
}

/// A delayed push waits its time; a reordered one lets another pass, if one
/// comes within 5 simulated seconds.
async fn hold_back(world: &World, fault: &Fault) {
    match fault.kind {
        Kind::Delay => tokio::time::sleep(Duration::from_millis(fault.millis)).await,
        Kind::Reorder => {
            let mut settled = world.pusher.settled.subscribe();
            let most = world.config.scaled(Duration::from_secs(5));
            // Nobody passing in time is no failure: the push goes out then.
            let _ = tokio::time::timeout(most, settled.changed()).await;
        }
        _ => {}
    }
}
