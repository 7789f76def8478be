//! `CallOut` with a request id of its own each time, beside the same without, through the same
//! gateway: one at a time, and 64 at once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use prost::Message;
use tokio::task::JoinSet;
use yeta_gateway::proto::CallOutRequest;

use crate::gateway::{self, Gateway};
use crate::measure::{Cpu, Plan, Sample, Side, client_runtime, compare, latencies, record};
use crate::platform::Platform;
use crate::rpc::Connection;
use crate::unary::{CALL_OUT, request};

/// Numbers of request ids that no run of this process has used.
static NEXT: AtomicU64 = AtomicU64::new(0);

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let platform = Platform::start()?;
    let gateway = Gateway::start(platform.address)?;
    let client = client_runtime()?;
    for at_once in [1, 64] {
        let run = |has_id| client.block_on(call(gateway.grpc, at_once, has_id, plan.round));
        compare(
            &format!("requestid: CallOut, {at_once} at once"),
            plan,
            &Side {
                name: "with request_id",
                cpu: Cpu::Threads(gateway::THREADS),
                run: &|| run(true),
            },
            &Side {
                name: "without",
                cpu: Cpu::Threads(gateway::THREADS),
                run: &|| run(false),
            },
        )?;
    }
    gateway.stop()
}

async fn call(
    to: SocketAddr,
    at_once: usize,
    has_id: bool,
    time: Duration,
) -> anyhow::Result<Sample> {
    let connection = Connection::open(to).await?;
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..at_once {
        callers.spawn(call_until(connection.clone(), has_id, started + time));
    }
    let mut latency = latencies();
    while let Some(called) = callers.join_next().await {
        latency.add(called??)?;
    }
    Ok(Sample::new(latency.len(), started.elapsed(), latency))
}

async fn call_until(
    mut connection: Connection,
    has_id: bool,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = latencies();
    let bare = request();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let request_id = if has_id {
            format!("bench-{number}")
        } else {
            String::new()
        };
        let request = CallOutRequest {
            request_id,
            ..bare.clone()
        };
        let request = request.encode_to_vec().into();
        let sent = Instant::now();
        if sent >= end {
            return Ok(latency);
        }
        connection.call(CALL_OUT, request).await?;
        record(&mut latency, sent.elapsed());
    }
}
