//! What well-behaved clients send beside a load, and how long each answer takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use hdrhistogram::Histogram;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use yeta_gateway::proto::ListPushesRequest;

use super::MEASURED;
use crate::gateway::PUSH_PATH;
use crate::idle::process::Process;
use crate::measure::latencies;
use crate::records::Request;
use crate::rpc::Connection;

/// The kinds of probes, in their order.
pub const KINDS: [&str; 3] = ["ListPushes", "push", "getDialogContext"];
/// Each kind is sent this often.
const EVERY: Duration = Duration::from_millis(10);
/// An answer that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(2);

const LIST_PUSHES: &str = "/yeta.v1.PushService/ListPushes";
const QUESTION: &[u8] =
    b"POST /v1/push/default/bench-push-secret/getDialogContext HTTP/1.1\r\nhost: gateway\r\n\
    content-type: application/json\r\ncontent-length: 81\r\n\r\n\
    {\"call_relation_id\":\"1111\",\"business_id\":\"167\",\"app_id\":\"3333\",\"robot_id\":\"4444\"}";

/// What the probes of each kind have found.
pub struct Probes {
    pub latency: [Histogram<u64>; 3],
    pub failed: [u64; 3],
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            latency: KINDS.map(|_| latencies()),
            failed: [0; 3],
        }
    }
}

impl Probes {
    /// Sends probes of all kinds for some time.
    pub async fn gather(&mut self, gateway: &Process, time: Duration) -> anyhow::Result<()> {
        let (grpc, push) = (gateway.grpc, gateway.push);
        let [list, of_push, question] = &mut self.latency;
        let request = ListPushesRequest {
            page_size: 1,
            ..ListPushesRequest::default()
        };
        let request: Bytes = request.encode_to_vec().into();
        let open_rpc = async || Ok(Connection::open(grpc).await?.with_token(Some(MEASURED)));
        let mut records = Request::new(PUSH_PATH);
        let mut number = fresh_numbers();
        let failed = tokio::try_join!(
            evenly(time, list, open_rpc, async |connection: &mut Connection| {
                connection.call(LIST_PUSHES, request.clone()).await?;
                Ok(())
            }),
            evenly(
                time,
                of_push,
                async || connect(push).await,
                async |stream| {
                    number += 1;
                    exchange(stream, records.numbered(number), b"success").await
                }
            ),
            evenly(
                time,
                question,
                async || connect(push).await,
                async |stream| { exchange(stream, QUESTION, b"}").await }
            ),
        )?;
        for (sum, failed) in self.failed.iter_mut().zip(<[u64; 3]>::from(failed)) {
            *sum += failed;
        }
        Ok(())
    }
}

/// Numbers that no record of this process has: its other records count from 1.
fn fresh_numbers() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1 << 40);
    NEXT.fetch_add(1 << 20, Ordering::Relaxed)
}

/// Sends a probe at even times, and counts those that fail. Those that a slow answer has kept from
/// being sent count as if they had been sent.
async fn evenly<C>(
    time: Duration,
    latency: &mut Histogram<u64>,
    open: impl AsyncFn() -> anyhow::Result<C>,
    mut probe: impl AsyncFnMut(&mut C) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let (mut failed, mut connection) = (0, Some(open().await?));
    let (end, mut ticks) = (Instant::now() + time, interval(EVERY));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        if sent >= end {
            return Ok(failed);
        }
        let answer = timeout(PATIENCE, async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => open().await?,
            };
            probe(&mut open).await?;
            anyhow::Ok(open)
        });
        match answer.await {
            Ok(Ok(open)) => connection = Some(open),
            Ok(Err(_)) | Err(_) => failed += 1,
        }
        let [took, every] = [sent.elapsed(), EVERY].map(|time| time.as_micros());
        latency.record_correct(u64::try_from(took)?, u64::try_from(every)?)?;
    }
}

async fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a request and reads its answer, which must be good and end so.
async fn exchange(stream: &mut TcpStream, request: &[u8], end: &[u8]) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    let (mut answer, mut len) = ([0; 2048], 0);
    while !answer[..len].ends_with(end) {
        let read = stream.read(&mut answer[len..]).await?;
        ensure!(read > 0, "{:?}", String::from_utf8_lossy(&answer[..len]));
        len += read;
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "refused");
    Ok(())
}
