//! `GetCall` and `ListCalls` by task among many calls, one request at a time, with nothing else
//! going on and while pushes arrive. Latencies are the caller's, over a local connection: the
//! server's time and a little more.

mod fill;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join;
use prost::Message;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::{SeedableRng, rng};
use yeta_gateway::proto::{CallState, GetCallRequest, GetCallResponse, ListCallsRequest};

use self::fill::fill;
use crate::gateway::{self, Gateway};
use crate::load::push_evenly;
use crate::measure::{Cpu, Plan, Sample, Side, client_runtime, compare, latencies, record};
use crate::platform::Platform;
use crate::pushes::call_uuid;
use crate::rpc::Connection;

const GET: &str = "/yeta.v1.CallService/GetCall";
const LIST: &str = "/yeta.v1.CallService/ListCalls";

const PAGE_SIZE: i32 = 100;
/// So many tasks are gone through at once, page by page, in turns by chance.
const WALKS: usize = 64;
/// So many pushes arrive each second while others do.
const PUSHES: u32 = 500;

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let platform = Platform::start()?;
    let client = client_runtime()?;
    let (folder, tasks) = client.block_on(fill(plan.calls))?;
    let gateway = Gateway::start_on(folder, platform.address)?;
    client.block_on(check(&gateway, plan.calls))?;

    let get = || get_calls(gateway.grpc, plan.calls, plan.round);
    let quiet = || client.block_on(get());
    let busy = || client.block_on(while_pushed(&gateway, plan.round, get()));
    beside(plan, "GetCall", &quiet, &busy)?;

    let list = || list_calls(gateway.grpc, &tasks, plan.round);
    let quiet = || client.block_on(list());
    let busy = || client.block_on(while_pushed(&gateway, plan.round, list()));
    beside(plan, "ListCalls of a task, pages of 100", &quiet, &busy)?;
    gateway.stop()
}

type Round<'a> = &'a dyn Fn() -> anyhow::Result<Sample>;

fn beside(plan: &Plan, what: &str, quiet: Round<'_>, busy: Round<'_>) -> anyhow::Result<()> {
    let cpu = Cpu::Threads(gateway::THREADS);
    compare(
        &format!("callstore: {what}, among {} calls", plan.calls),
        plan,
        &Side {
            name: &format!("while {PUSHES} pushes a second arrive"),
            cpu,
            run: busy,
        },
        &Side {
            name: "nothing else going on",
            cpu,
            run: quiet,
        },
    )
}

/// The calls are there, and as they were put in.
async fn check(gateway: &Gateway, calls: u64) -> anyhow::Result<()> {
    gateway.until_assembled().await?;
    let mut connection = Connection::open(gateway.grpc).await?;
    for number in [0, calls / 2, calls - 1] {
        let request = GetCallRequest {
            call_uuid: call_uuid(number),
        };
        let reply = connection.call(GET, request.encode_to_vec().into()).await?;
        let call = GetCallResponse::decode(reply)?.call.unwrap_or_default();
        let is_complete = call.state() == CallState::Complete && call.revision == 1;
        ensure!(is_complete, "{call:?}");
    }
    Ok(())
}

async fn while_pushed(
    gateway: &Gateway,
    time: Duration,
    asked: impl Future<Output = anyhow::Result<Sample>>,
) -> anyhow::Result<Sample> {
    let pushed = push_evenly(gateway.push, PUSHES, time);
    let (sample, _) = try_join(asked, pushed).await?;
    Ok(sample)
}

async fn get_calls(from: SocketAddr, calls: u64, time: Duration) -> anyhow::Result<Sample> {
    let mut connection = Connection::open(from).await?;
    let (started, mut latency) = (Instant::now(), latencies());
    while started.elapsed() < time {
        let request = GetCallRequest {
            call_uuid: call_uuid(rng().random_range(0..calls)),
        };
        let request = request.encode_to_vec().into();
        let asked = Instant::now();
        connection.call(GET, request).await?;
        record(&mut latency, asked.elapsed());
    }
    Ok(Sample::new(latency.len(), started.elapsed(), latency))
}

/// As much of a page as is needed to go on.
#[derive(Clone, PartialEq, Message)]
struct Page {
    #[prost(string, tag = "2")]
    next_page_token: String,
}

async fn list_calls(from: SocketAddr, tasks: &[String], time: Duration) -> anyhow::Result<Sample> {
    let mut chance = StdRng::from_rng(&mut rng());
    let mut walk = || ListCallsRequest {
        task_ids: vec![tasks[chance.random_range(0..tasks.len())].clone()],
        page_size: PAGE_SIZE,
        ..ListCallsRequest::default()
    };
    let mut walks: Vec<_> = (0..WALKS).map(|_| walk()).collect();
    let mut connection = Connection::open(from).await?;
    let (started, mut latency) = (Instant::now(), latencies());
    while started.elapsed() < time {
        let at = rng().random_range(0..WALKS);
        let request = walks[at].encode_to_vec().into();
        let asked = Instant::now();
        let page = connection.call(LIST, request).await?;
        record(&mut latency, asked.elapsed());
        let Page { next_page_token } = Page::decode(page)?;
        if next_page_token.is_empty() {
            walks[at] = walk();
        } else {
            walks[at].page_token = next_page_token;
        }
    }
    Ok(Sample::new(latency.len(), started.elapsed(), latency))
}
