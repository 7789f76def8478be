//! Rounds, ratios and their table.

mod cpu;

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Runtime};

pub use self::cpu::Cpu;

/// How long to measure, and how much.
pub struct Plan {
    /// How many rounds each side has.
    pub rounds: usize,
    /// How long a round takes, where time bounds it.
    pub round: Duration,
    /// How many calls to look among, and how many rows to upload.
    pub calls: u64,
}

impl Plan {
    pub const FULL: Self = Self {
        rounds: 9,
        round: Duration::from_secs(2),
        calls: 1_000_000,
    };
    pub const QUICK: Self = Self {
        rounds: 3,
        round: Duration::from_secs(1),
        calls: 20_000,
    };
}

/// One of the two that are compared.
pub struct Side<'a> {
    pub name: &'a str,
    pub cpu: Cpu<'a>,
    /// A round of it.
    pub run: &'a dyn Fn() -> anyhow::Result<Sample>,
}

/// What one round of one side gave.
pub struct Sample {
    count: u64,
    per_second: f64,
    /// Of the side's own threads, for one of what it was asked for; in microseconds.
    cpu_each: f64,
    latency: Histogram<u64>,
}

impl Sample {
    /// `latency` is empty where it means nothing.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn new(count: u64, took: Duration, latency: Histogram<u64>) -> Self {
        Self {
            count,
            per_second: count as f64 / took.as_secs_f64(),
            cpu_each: 0.0,
            latency,
        }
    }
}

/// An empty histogram: of microseconds, up to a minute.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds and digits that it offers")
}

pub fn record(latency: &mut Histogram<u64>, took: Duration) {
    latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

/// Lets the sides take turns and prints what came of it. The first turn of each only warms up.
pub fn compare(title: &str, plan: &Plan, ours: &Side<'_>, bare: &Side<'_>) -> anyhow::Result<()> {
    ours.round()?;
    bare.round()?;
    let (mut of_ours, mut of_bare) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        // Neither is always the one that comes after the other.
        if round % 2 == 0 {
            of_ours.push(ours.round()?);
            of_bare.push(bare.round()?);
        } else {
            of_bare.push(bare.round()?);
            of_ours.push(ours.round()?);
        }
    }
    let pairs = of_ours.iter().zip(&of_bare);
    let mut ratios: Vec<_> = pairs.map(|(a, b)| a.per_second / b.per_second).collect();
    let ratio = median(&mut ratios);
    print(
        title,
        plan.rounds,
        &[(ours.name, &of_ours), (bare.name, &of_bare)],
    );
    println!(
        " ratio {ratio:.2}  (from {:.2} to {:.2})",
        ratios[0],
        ratios[ratios.len() - 1]
    );
    tell_latency(&of_ours, &of_bare);
    Ok(())
}

/// Prints how the latencies of all rounds differ, where there are any.
fn tell_latency(ours: &[Sample], bare: &[Sample]) {
    let (ours, bare) = (joint(ours), joint(bare));
    if ours.is_empty() || bare.is_empty() {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "a minute at most")]
    let ratio = |q| ours.value_at_quantile(q) as f64 / bare.value_at_quantile(q) as f64;
    println!(
        " latency: ratio {:.2} at p50, {:.2} at p99",
        ratio(0.5),
        ratio(0.99)
    );
}

/// The latencies of several rounds.
fn joint(samples: &[Sample]) -> Histogram<u64> {
    let mut latency = latencies();
    for sample in samples {
        // Of the same bounds, so that adding cannot fail.
        latency.add(&sample.latency).unwrap_or_default();
    }
    latency
}

/// Measures what has nothing to be compared with.
pub fn measure(title: &str, rounds: usize, side: &Side<'_>) -> anyhow::Result<()> {
    let samples: anyhow::Result<Vec<_>> = (0..rounds).map(|_| side.round()).collect();
    print(title, rounds, &[(side.name, &samples?)]);
    Ok(())
}

impl Side<'_> {
    fn round(&self) -> anyhow::Result<Sample> {
        let before = self.cpu.so_far()?;
        let sample = (self.run)()?;
        let cpu = self.cpu.since(&before)?;
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let cpu_each = cpu.as_secs_f64() * 1e6 / sample.count as f64;
        Ok(Sample { cpu_each, ..sample })
    }
}

fn print(title: &str, rounds: usize, sides: &[(&str, &[Sample])]) {
    let mut table = Table::new();
    let header = ["", "per second", "own CPU each", "p50", "p99", "p99.9"];
    table.load_style(NOTHING).set_header(header);
    for (name, samples) in sides {
        table.add_row(row(name, samples));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{title} ({rounds} rounds)\n{table}");
}

fn row(name: &str, samples: &[Sample]) -> [String; 6] {
    let median_of = |value: fn(&Sample) -> f64| -> f64 {
        median(&mut samples.iter().map(value).collect::<Vec<_>>())
    };
    let latency = joint(samples);
    let quantile = |q| {
        if latency.is_empty() {
            return String::new();
        }
        #[expect(clippy::cast_precision_loss, reason = "a minute at most")]
        let ms = latency.value_at_quantile(q) as f64 / 1e3;
        format!("{ms:.2} ms")
    };
    [
        name.to_owned(),
        format!("{:.0}", median_of(|sample| sample.per_second)),
        format!("{:.2} µs", median_of(|sample| sample.cpu_each)),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
    ]
}

/// The median; leaves the values sorted.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Threads of a part of its own, as many as a process of its own would have here.
pub fn server_runtime(name: &str) -> anyhow::Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .thread_name(name)
        .enable_all()
        .build()?)
}

/// One thread, the caller's: what makes the load must not crowd out what carries it.
pub fn client_runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
