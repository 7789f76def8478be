//! `CallOut`, 64 at once on 2 HTTP/2 connections, beside a bare bridge of tonic and reqwest.

mod bridge;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use prost::Message;
use tokio::task::JoinSet;
use yeta_gateway::proto::{CallOutRequest, Row};

use self::bridge::Bridge;
use crate::gateway::{self, Gateway};
use crate::measure::{Cpu, Plan, Sample, Side, client_runtime, compare, latencies, record};
use crate::platform::Platform;
use crate::rpc::Connection;

const CONNECTIONS: usize = 2;
const CALLS_PER_CONNECTION: usize = 32;
pub const CALL_OUT: &str = "/yeta.v1.OutboundService/CallOut";

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let platform = Platform::start()?;
    let gateway = Gateway::start(platform.address)?;
    let bridge = Bridge::start(platform.address)?;

    let client = client_runtime()?;
    let run = |to| client.block_on(call(to, None, plan.round));
    compare(
        "unary: CallOut, 64 at once on 2 connections",
        plan,
        &Side {
            name: "gateway",
            cpu: Cpu::Threads(gateway::THREADS),
            run: &|| run(gateway.grpc),
        },
        &Side {
            name: "bare bridge",
            cpu: Cpu::Threads(&["bare-bridge"]),
            run: &|| run(bridge.address),
        },
    )?;
    gateway.stop()
}

/// Calls for some time, with a bearer token or without.
pub async fn call(
    to: SocketAddr,
    token: Option<&'static str>,
    time: Duration,
) -> anyhow::Result<Sample> {
    let mut callers = JoinSet::new();
    let message: Bytes = request().encode_to_vec().into();
    let started = Instant::now();
    for _ in 0..CONNECTIONS {
        let connection = Connection::open(to).await?.with_token(token);
        for _ in 0..CALLS_PER_CONNECTION {
            callers.spawn(call_until(
                connection.clone(),
                message.clone(),
                started + time,
            ));
        }
    }
    let mut latency = latencies();
    while let Some(called) = callers.join_next().await {
        latency.add(called??)?;
    }
    Ok(Sample::new(latency.len(), started.elapsed(), latency))
}

async fn call_until(
    mut connection: Connection,
    message: Bytes,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = latencies();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(latency);
        }
        connection.call(CALL_OUT, message.clone()).await?;
        record(&mut latency, sent.elapsed());
    }
}

/// The documented example.
pub fn request() -> CallOutRequest {
    let row = |values: [&str; 2]| Row {
        values: values.map(str::to_owned).into(),
    };
    CallOutRequest {
        robot_id: "719".into(),
        line_num: "69101338".into(),
        call_column: ["客户手机号码", "姓名"].map(str::to_owned).into(),
        call_list: vec![
            row(["13000000001", "张先生"]),
            row(["13000000002", "王女士"]),
        ],
        voice_code: "60030".into(),
        ..CallOutRequest::default()
    }
}
