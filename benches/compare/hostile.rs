//! Load that is meant to do harm, and what clients beside it notice: a unary call, a push and a
//! question of the platform, each sent evenly, alone and while the load stands. The gateway is a
//! process of its own for each load, so that its peak of memory is that load's.

mod loads;
mod probe;

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use self::loads::{LOADS, Start};
use self::probe::{KINDS, Probes};
use crate::dialog::provider::{Behaviour, Provider};
use crate::idle::process::Process;
use crate::load::{Until, push};
use crate::measure::{Plan, client_runtime};
use crate::platform::Platform;

/// The tokens of the client that does harm and of the one that is measured.
const HARMFUL: &str = "the token of the client that does harm";
const MEASURED: &str = "the token of the client that is measured";
/// The records in the log before the load: streams and pages have something to send.
const RECORDS: u64 = 2000;
/// The time until a load that has been started stands.
const SETTLE: Duration = Duration::from_millis(500);

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    raise_descriptors()?;
    let platform = Platform::start()?;
    let provider = Provider::start(Behaviour::Good)?;
    let more = format!(
        "[dialog_context]\nendpoint = '{}'\n{}",
        provider.url,
        clients()?
    );
    let client = client_runtime()?;
    for (name, start) in LOADS {
        let gateway = Process::start_with(platform.address, &more)?;
        client.block_on(push(gateway.push, Until::Answered(RECORDS)))?;
        let (alone, beside) = measure(plan, &client, &gateway, start)?;
        print(name, plan.rounds, &alone, &beside);
        let (peak, bounds) = (gateway.peak()?, gateway.memory_of_bounds()?);
        println!(" peak of memory: {peak:.0} MiB of the {bounds} MiB that the bounds allow");
    }
    Ok(())
}

/// Probes the gateway alone and beside the load, in turns.
fn measure(
    plan: &Plan,
    client: &Runtime,
    gateway: &Process,
    start: Start,
) -> anyhow::Result<(Probes, Probes)> {
    let (mut alone, mut beside) = (Probes::default(), Probes::default());
    // Warms up.
    client.block_on(Probes::default().gather(gateway, plan.round))?;
    for _ in 0..plan.rounds {
        client.block_on(alone.gather(gateway, plan.round))?;
        let harm = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("hostile")
            .enable_all()
            .build()?;
        let load = harm.block_on(async {
            let load = start((gateway.grpc, gateway.push)).await?;
            sleep(SETTLE).await;
            anyhow::Ok(load)
        })?;
        client.block_on(beside.gather(gateway, plan.round))?;
        drop(load);
        harm.shutdown_background();
    }
    Ok((alone, beside))
}

fn print(name: &str, rounds: usize, alone: &Probes, beside: &Probes) {
    let mut table = Table::new();
    let header = [
        "",
        "p50",
        "beside it",
        "ratio",
        "p99",
        "beside it",
        "ratio",
        "failed",
    ];
    table.load_style(NOTHING).set_header(header);
    for (place, kind) in KINDS.into_iter().enumerate() {
        let latencies = [&alone.latency[place], &beside.latency[place]];
        table.add_row(row(
            kind,
            latencies,
            alone.failed[place] + beside.failed[place],
        ));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\nhostile: {name} ({rounds} rounds)\n{table}");
}

fn row(kind: &str, [alone, beside]: [&Histogram<u64>; 2], failed: u64) -> [String; 8] {
    #[expect(clippy::cast_precision_loss, reason = "a minute at most")]
    let at = |latency: &Histogram<u64>, q| latency.value_at_quantile(q) as f64;
    let ms = |micros: f64| format!("{:.2} ms", micros / 1e3);
    let ratio = |q| format!("{:.1}", at(beside, q) / at(alone, q));
    [
        kind.to_owned(),
        ms(at(alone, 0.5)),
        ms(at(beside, 0.5)),
        ratio(0.5),
        ms(at(alone, 0.99)),
        ms(at(beside, 0.99)),
        ratio(0.99),
        failed.to_string(),
    ]
}

/// The clients' part of the configuration.
fn clients() -> anyhow::Result<String> {
    let mut text = String::new();
    for (name, token) in [("harmful", HARMFUL), ("measured", MEASURED)] {
        write!(
            text,
            "[[clients]]\nname = '{name}'\naccounts = ['*']\n\
             allow = ['outbound', 'subscribe', 'calls']\ntoken_sha256 = '"
        )?;
        for byte in Sha256::digest(token) {
            write!(text, "{byte:02x}")?;
        }
        text.push_str("'\n");
    }
    Ok(text)
}

/// Raises the limit of this process's open files: both ends of thousands of connections.
fn raise_descriptors() -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}
