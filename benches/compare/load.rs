//! Pushes records, as fast as they are answered or evenly, with as little work as can be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Interval, interval_at};

use crate::gateway::PUSH_PATH;
use crate::measure::{Sample, latencies, record};
use crate::records::Request;

/// So many connections push at once.
const CONNECTIONS: usize = 128;
/// So many take turns to push evenly: an answer may take its time, and the next push goes out.
const EVENLY: u32 = 16;

/// When to stop.
#[derive(Clone, Copy)]
pub enum Until {
    /// When the time is over.
    Passed(Duration),
    /// When so many have been answered.
    Answered(u64),
}

/// Numbers of records that no run of this process has used.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Pushes to a listener until then, as fast as it answers.
pub async fn push(to: SocketAddr, until: Until) -> anyhow::Result<Sample> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(to).await?);
    }
    let started = Instant::now();
    let (end, left) = match until {
        Until::Passed(time) => (Some(started + time), u64::MAX),
        Until::Answered(count) => (None, count),
    };
    let left = Arc::new(AtomicU64::new(left));
    let mut pushers = JoinSet::new();
    for connection in connections {
        pushers.spawn(push_on(connection, end, left.clone()));
    }
    gather(pushers, started).await
}

/// Pushes so many records a second, evenly, until the time is over.
pub async fn push_evenly(
    to: SocketAddr,
    per_second: u32,
    time: Duration,
) -> anyhow::Result<Sample> {
    let started = Instant::now();
    let apart = Duration::from_secs(1) / per_second;
    let mut pushers = JoinSet::new();
    for place in 0..EVENLY {
        let first = started + apart * place;
        let ticks = interval_at(first.into(), apart * EVENLY);
        let connection = Connection::open(to).await?;
        pushers.spawn(push_at(connection, ticks, started + time));
    }
    gather(pushers, started).await
}

async fn gather(
    mut pushers: JoinSet<anyhow::Result<Histogram<u64>>>,
    started: Instant,
) -> anyhow::Result<Sample> {
    let mut latency = latencies();
    while let Some(pushed) = pushers.join_next().await {
        latency.add(pushed??)?;
    }
    Ok(Sample::new(latency.len(), started.elapsed(), latency))
}

async fn push_on(
    mut connection: Connection,
    end: Option<Instant>,
    left: Arc<AtomicU64>,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = latencies();
    loop {
        if end.is_some_and(|end| Instant::now() >= end) || take(&left).is_none() {
            return Ok(latency);
        }
        record(&mut latency, connection.push().await?);
    }
}

async fn push_at(
    mut connection: Connection,
    mut ticks: Interval,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = latencies();
    while ticks.tick().await.into_std() < end {
        record(&mut latency, connection.push().await?);
    }
    Ok(latency)
}

/// A connection to the listener.
struct Connection {
    stream: TcpStream,
    request: Request,
}

impl Connection {
    async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request: Request::new(PUSH_PATH),
        })
    }

    /// Pushes a record and tells how long its answer took.
    async fn push(&mut self) -> anyhow::Result<Duration> {
        let sent = Instant::now();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let request = self.request.numbered(number);
        self.stream.write_all(request).await?;
        let mut answer = [0; 1024];
        let mut len = 0;
        while !answer[..len].ends_with(b"success") {
            let read = self.stream.read(&mut answer[len..]).await?;
            ensure!(read > 0, "{:?}", String::from_utf8_lossy(&answer[..len]));
            len += read;
        }
        Ok(sent.elapsed())
    }
}

/// Takes one of what is left.
fn take(left: &AtomicU64) -> Option<u64> {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    })
    .ok()
}
