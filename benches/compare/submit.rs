//! Rows into a task by `SubmitRows`, beside a loop over `InsertTaskData` of 50 rows each, one at a
//! time and four at a time, through the same gateway into the sandbox.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::gateway::{self, Gateway};
use crate::measure::{Cpu, Plan, Sample, Side, client_runtime, compare, latencies};
use crate::rows::{BATCH, create_task, insert, upload};
use crate::rpc::Connection;
use crate::sandbox::Sandbox;

/// Rows to a message of the upload.
const MESSAGE: u64 = 500;

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let sandbox = Sandbox::start()?;
    let gateway = Gateway::start(sandbox.address)?;
    let client = client_runtime()?;
    let task = client.block_on(create_task(gateway.grpc))?;
    for (at_once, name) in [
        (1, "InsertTaskData, one at a time"),
        (4, "InsertTaskData, 4 at once"),
    ] {
        compare(
            &format!("submit: rows into a task, beside {name}"),
            plan,
            &Side {
                name: "SubmitRows",
                cpu: Cpu::Threads(gateway::THREADS),
                run: &|| client.block_on(submit(gateway.grpc, &task, plan.round)),
            },
            &Side {
                name,
                cpu: Cpu::Threads(gateway::THREADS),
                run: &|| client.block_on(insert_all(gateway.grpc, &task, at_once, plan.round)),
            },
        )?;
    }
    gateway.stop()
}

/// Rows are sent for so long, and all results awaited.
async fn submit(at: SocketAddr, task: &str, time: Duration) -> anyhow::Result<Sample> {
    let started = Instant::now();
    let more = move || started.elapsed() < time;
    let rows = upload(at, task, MESSAGE, more).await?.count().await?;
    Ok(Sample::new(rows, started.elapsed(), latencies()))
}

async fn insert_all(
    at: SocketAddr,
    task: &str,
    at_once: usize,
    time: Duration,
) -> anyhow::Result<Sample> {
    let connection = Connection::open(at).await?;
    let started = Instant::now();
    let mut loops = JoinSet::new();
    for _ in 0..at_once {
        let (mut connection, task) = (connection.clone(), task.to_owned());
        loops.spawn(async move {
            let mut rows = 0;
            while started.elapsed() < time {
                insert(&mut connection, &task).await?;
                rows += BATCH;
            }
            anyhow::Ok(rows)
        });
    }
    let mut rows = 0;
    while let Some(of_one) = loops.join_next().await {
        rows += of_one??;
    }
    Ok(Sample::new(rows, started.elapsed(), latencies()))
}
