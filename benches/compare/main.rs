//! The gateway's hot paths, each beside a bare comparator in one run.
//!
//! ```text
//! cargo bench --bench compare                             all of them
//! cargo bench --bench compare -- unary ingest             some of them
//! cargo bench --bench compare -- delivery --quick         fewer, shorter rounds
//! cargo bench --bench compare -- callstore --calls=50000  among so many calls; so many rows of an
//!                                                         upload
//! ```
//!
//! Rounds of the two sides alternate, so that whatever else the machine does falls on both, and
//! each round gives a ratio; their median is what counts, their spread tells how far to trust it.
//! Everything runs in this process, over real sockets, each part on threads of its own.

mod auth;
mod calls;
mod callstore;
mod delivery;
mod dialog;
mod gateway;
mod handout;
mod hostile;
mod idle;
mod ingest;
mod load;
mod measure;
mod platform;
mod pushes;
mod reader;
mod records;
mod requestid;
mod rows;
mod rpc;
mod sandbox;
mod store;
mod submit;
mod unary;
mod unknown;
mod upload;

use anyhow::Context;
use measure::Plan;

/// The gateway's own; the comparators have it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Bench = fn(&Plan) -> anyhow::Result<()>;

const BENCHES: [(&str, Bench); 14] = [
    ("unary", unary::run),
    ("auth", auth::run),
    ("ingest", ingest::run),
    ("delivery", delivery::run),
    ("handout", handout::run),
    ("calls", calls::run),
    ("callstore", callstore::run),
    ("idle", idle::run),
    ("submit", submit::run),
    ("requestid", requestid::run),
    ("upload", upload::run),
    ("unknown", unknown::run),
    ("dialog", dialog::run),
    ("hostile", hostile::run),
];

fn main() -> anyhow::Result<()> {
    // Cargo adds `--bench`.
    let (flags, names): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    if let Some(name) = names.iter().find(|name| !is_bench(name)) {
        let benches = BENCHES.map(|(bench, _)| bench).join(", ");
        anyhow::bail!("{name:?} is not one of: {benches}");
    }
    let mut plan = if flags.iter().any(|flag| flag == "--quick") {
        Plan::QUICK
    } else {
        Plan::FULL
    };
    if let Some(calls) = flags.iter().find_map(|flag| flag.strip_prefix("--calls=")) {
        plan.calls = calls.parse().context("--calls")?;
    }
    gateway::init_logging()?;
    // reqwest uses the process's provider of cryptography. Installed before, it stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    for (name, run) in BENCHES {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            run(&plan)?;
        }
    }
    Ok(())
}

fn is_bench(name: &str) -> bool {
    BENCHES.iter().any(|(bench, _)| *bench == name)
}
