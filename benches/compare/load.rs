//! Pushes records as fast as they are answered, with as little work as can be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::gateway::PUSH_PATH;
use crate::measure::{Sample, latencies, record};
use crate::records::Request;

/// So many connections push at once.
const CONNECTIONS: usize = 128;

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

/// Pushes to a listener until then.
pub async fn push(to: SocketAddr, until: Until) -> anyhow::Result<Sample> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let started = Instant::now();
    let (end, left) = match until {
        Until::Passed(time) => (Some(started + time), u64::MAX),
        Until::Answered(count) => (None, count),
    };
    let left = Arc::new(AtomicU64::new(left));
    let mut pushers = JoinSet::new();
    for stream in streams {
        pushers.spawn(push_on(stream, end, left.clone()));
    }
    let mut latency = latencies();
    while let Some(pushed) = pushers.join_next().await {
        latency.add(pushed??)?;
    }
    Ok(Sample::new(latency.len(), started.elapsed(), latency))
}

async fn push_on(
    mut stream: TcpStream,
    end: Option<Instant>,
    left: Arc<AtomicU64>,
) -> anyhow::Result<hdrhistogram::Histogram<u64>> {
    let mut request = Request::new(PUSH_PATH);
    let mut latency = latencies();
    let mut answer = [0; 1024];
    loop {
        let sent = Instant::now();
        if end.is_some_and(|end| sent >= end) || take(&left).is_none() {
            return Ok(latency);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        stream.write_all(request.numbered(number)).await?;
        let mut len = 0;
        while !answer[..len].ends_with(b"success") {
            let read = stream.read(&mut answer[len..]).await?;
            ensure!(read > 0, "{:?}", String::from_utf8_lossy(&answer[..len]));
            len += read;
        }
        record(&mut latency, sent.elapsed());
    }
}

/// Takes one of what is left.
fn take(left: &AtomicU64) -> Option<u64> {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    })
    .ok()
}
