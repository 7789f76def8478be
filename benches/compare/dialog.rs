//! `getDialogContext` asked by 200 callers at once, of a provider that is well, silent, gone, or comes
//! and goes: how long the platform waits for each answer. The gateway's own timeout is its default,
//! 400 ms, and the platform's 500.

pub mod provider;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::provider::{Behaviour, Provider};
use crate::gateway::Gateway;
use crate::measure::{Plan, client_runtime, latencies, record};
use crate::platform::Platform;

const CALLERS: usize = 200;
/// They ask again together, so long after the last of them has been answered.
const PAUSE: Duration = Duration::from_millis(100);

const REQUEST: &[u8] =
    b"POST /v1/push/default/bench-push-secret/getDialogContext HTTP/1.1\r\nhost: gateway\r\n\
    content-type: application/json\r\ncontent-length: 81\r\n\r\n\
    {\"call_relation_id\":\"1111\",\"business_id\":\"167\",\"app_id\":\"3333\",\"robot_id\":\"4444\"}";

/// Where the buckets of the histogram end, in milliseconds.
const BUCKETS: [u64; 7] = [5, 50, 200, 390, 420, 450, 480];

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let platform = Platform::start()?;
    let client = client_runtime()?;
    let mut table = Table::new();
    let mut header: Vec<String> = [
        "provider", "answers", "its own", "p50", "p99", "p99.9", "max",
    ]
    .map(ToOwned::to_owned)
    .to_vec();
    header.extend(BUCKETS.map(|end| format!("≤ {end} ms")));
    header.push("later".to_owned());
    table.load_style(NOTHING).set_header(header);
    for behaviour in Behaviour::ALL {
        let provider = Provider::start(behaviour)?;
        let more = format!("[dialog_context]\nendpoint = '{}'\n", provider.url);
        let gateway = Gateway::start_with(platform.address, &more)?;
        let time = plan.round * u32::try_from(plan.rounds)?;
        let told = client.block_on(ask_together(gateway.push, time))?;
        table.add_row(told.row(behaviour.name()));
        gateway.stop()?;
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\ndialog: getDialogContext, {CALLERS} callers at once\n{table}");
    Ok(())
}

/// What the callers were told, and when.
struct Told {
    by_provider: u64,
    latency: Histogram<u64>,
}

impl Told {
    fn row(&self, name: &str) -> Vec<String> {
        #[expect(clippy::cast_precision_loss, reason = "a minute at most")]
        let ms = |micros: u64| format!("{:.1} ms", micros as f64 / 1e3);
        let mut row = vec![
            name.to_owned(),
            self.latency.len().to_string(),
            self.by_provider.to_string(),
        ];
        row.extend([0.5, 0.99, 0.999].map(|q| ms(self.latency.value_at_quantile(q))));
        row.push(ms(self.latency.max()));
        let mut from = 0;
        for end in BUCKETS.map(|end| end * 1000) {
            row.push(self.latency.count_between(from, end).to_string());
            from = end + 1;
        }
        row.push(self.latency.count_between(from, u64::MAX).to_string());
        row
    }
}

/// Asks on a connection for each caller, all at once, again and again until the time is over.
async fn ask_together(to: SocketAddr, time: Duration) -> anyhow::Result<Told> {
    let mut callers = try_join_all((0..CALLERS).map(|_| Caller::connect(to))).await?;
    let mut told = Told {
        by_provider: 0,
        latency: latencies(),
    };
    let started = Instant::now();
    while started.elapsed() < time {
        for (took, is_providers) in try_join_all(callers.iter_mut().map(Caller::ask)).await? {
            record(&mut told.latency, took);
            told.by_provider += u64::from(is_providers);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(told)
}

struct Caller {
    stream: TcpStream,
}

impl Caller {
    async fn connect(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// How long the answer took, and whether it was the provider's.
    async fn ask(&mut self) -> anyhow::Result<(Duration, bool)> {
        let asked = Instant::now();
        self.stream.write_all(REQUEST).await?;
        let (mut answer, mut len) = ([0; 2048], 0);
        while !answer[..len].ends_with(b"}") {
            let read = self.stream.read(&mut answer[len..]).await?;
            ensure!(read > 0, "{:?}", String::from_utf8_lossy(&answer[..len]));
            len += read;
        }
        let took = asked.elapsed();
        let text = String::from_utf8_lossy(&answer[..len]);
        ensure!(text.starts_with("HTTP/1.1 200"), "{text:?}");
        Ok((took, text.contains("张三")))
    }
}
