//! What two gateways take of the machine for the same work.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use super::process::Process;
use crate::measure::{Cpu, median};

/// What one of them took in a round.
#[derive(Clone, Copy)]
pub struct Taken {
    /// CPU time in each second, in milliseconds.
    cpu: f64,
    /// Memory at the end, in MiB.
    memory: f64,
}

/// A round of one of them.
pub type Round<'a> = (&'a str, &'a dyn Fn() -> anyhow::Result<Taken>);

impl Taken {
    /// What a gateway takes while this goes on, for so long.
    pub fn by(
        gateway: &Process,
        time: Duration,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let cpu = Cpu::Process(gateway.id());
        let before = cpu.so_far()?;
        work()?;
        Ok(Self {
            cpu: cpu.since(&before)?.as_secs_f64() * 1e3 / time.as_secs_f64(),
            memory: gateway.resident()?,
        })
    }
}

/// Lets the two take turns and prints what came of it. The first turn of each only warms up.
pub fn compare_taken(
    title: &str,
    rounds: usize,
    (idle_name, idle): Round<'_>,
    (bare_name, bare): Round<'_>,
) -> anyhow::Result<()> {
    idle()?;
    bare()?;
    let mut pairs = Vec::new();
    for round in 0..rounds {
        // Neither is always the one that comes after the other.
        pairs.push(if round % 2 == 0 {
            let idle = idle()?;
            (idle, bare()?)
        } else {
            let bare = bare()?;
            (idle()?, bare)
        });
    }
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["", "CPU a second", "memory"]);
    let (of_idle, of_bare): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
    for (name, taken) in [(idle_name, of_idle), (bare_name, of_bare)] {
        let median_of =
            |value: fn(&Taken) -> f64| median(&mut taken.iter().map(value).collect::<Vec<_>>());
        let (cpu, memory) = (
            median_of(|taken| taken.cpu),
            median_of(|taken| taken.memory),
        );
        table.add_row([
            name.to_owned(),
            format!("{cpu:.1} ms"),
            format!("{memory:.1} MiB"),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{title} ({rounds} rounds)\n{table}");
    tell("CPU a second", "ms", &pairs, |taken| taken.cpu);
    tell("memory", "MiB", &pairs, |taken| taken.memory);
    Ok(())
}

/// Prints how the pairs differ in a value.
fn tell(what: &str, unit: &str, pairs: &[(Taken, Taken)], value: fn(&Taken) -> f64) {
    let pairs = pairs.iter().map(|(idle, bare)| (value(idle), value(bare)));
    let (mut more, mut ratios): (Vec<_>, Vec<_>) =
        pairs.map(|(idle, bare)| (idle - bare, idle / bare)).unzip();
    let (middle, ratio) = (median(&mut more), median(&mut ratios));
    let last = more.len() - 1;
    println!(
        " {what}: {middle:.1} {unit} more (from {:.1} to {:.1}), ratio {ratio:.2} (from {:.2} to {:.2})",
        more[0], more[last], ratios[0], ratios[last]
    );
}
