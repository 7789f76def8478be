//! One upload of many rows: how fast it goes, and what memory the gateway, a process of its own,
//! takes meanwhile.

use std::time::Instant;

use anyhow::ensure;
use comfy_table::{CellAlignment, Table, presets::NOTHING};

use crate::idle::process::Process;
use crate::measure::{Cpu, Plan, client_runtime};
use crate::rows::{create_task, upload};
use crate::sandbox::Sandbox;

/// Rows to a message.
const MESSAGE: u64 = 500;
/// Into so many parts the upload falls, each with a line of its own.
const PARTS: u64 = 10;

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let sandbox = Sandbox::start()?;
    let gateway = Process::start(sandbox.address)?;
    let client = client_runtime()?;
    let part = (plan.calls / PARTS).next_multiple_of(MESSAGE);
    let rows = part * PARTS;
    let parts = client.block_on(measure(&gateway, rows, part))?;

    let mut table = Table::new();
    let header = ["rows", "rows a second", "CPU each", "memory"];
    table.load_style(NOTHING).set_header(header);
    for (number, part) in (1_u64..).zip(&parts) {
        table.add_row([
            (rows / PARTS * number).to_string(),
            format!("{:.0}", part.per_second),
            format!("{:.2} µs", part.cpu_each),
            format!("{:.1} MiB", part.memory),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\nupload: {rows} rows into a task by SubmitRows\n{table}");
    let (early, last) = (parts[1].memory, parts[parts.len() - 1].memory);
    println!(" memory from a fifth on: {:.1} MiB more", last - early);
    Ok(())
}

/// A part of the upload: its speed, and the gateway's memory at its end.
struct Part {
    per_second: f64,
    /// In microseconds.
    cpu_each: f64,
    /// In MiB.
    memory: f64,
}

async fn measure(gateway: &Process, rows: u64, part: u64) -> anyhow::Result<Vec<Part>> {
    let task = create_task(gateway.grpc).await?;
    let cpu = Cpu::Process(gateway.id());
    let mut messages = 0..rows / MESSAGE;
    let more = move || messages.next().is_some();
    let mut results = upload(gateway.grpc, &task, MESSAGE, more).await?;
    let mut parts = Vec::new();
    let mut count = 0;
    let (mut started, mut before) = (Instant::now(), cpu.so_far()?);
    while results.next().await?.is_some() {
        count += 1;
        if count % part == 0 {
            #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
            let each = part as f64;
            parts.push(Part {
                per_second: each / started.elapsed().as_secs_f64(),
                cpu_each: cpu.since(&before)?.as_secs_f64() * 1e6 / each,
                memory: gateway.resident()?,
            });
            (started, before) = (Instant::now(), cpu.so_far()?);
        }
    }
    ensure!(count == rows, "{count} of {rows} rows");
    Ok(parts)
}
