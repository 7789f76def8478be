//! Pushes at a steady rate into a gateway that holds 10,000 rows of unknown outcome, beside one
//! that holds none: the latency of their answers.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::submission::Request;
use yeta_gateway::proto::{CallOutRequest, ListSubmissionsRequest, SubmissionState};

use crate::gateway::{self, Gateway};
use crate::load::push_evenly;
use crate::measure::{Cpu, Plan, Side, client_runtime, compare};
use crate::rows::{BATCH, direct};
use crate::sandbox::Sandbox;

/// Requests of 50 rows each whose answers are lost.
const REQUESTS: u64 = 200;
/// Pushes a second.
const PUSHES: u32 = 1000;

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let sandbox = Sandbox::start()?;
    let full = Gateway::start(sandbox.address)?;
    let empty = Gateway::start(sandbox.address)?;
    let client = client_runtime()?;
    client.block_on(lose(&sandbox, full.grpc))?;
    let run = |to| client.block_on(push_evenly(to, PUSHES, plan.round));
    compare(
        &format!("unknown: {PUSHES} pushes a second"),
        plan,
        &Side {
            name: "beside 10,000 unknown rows",
            cpu: Cpu::Threads(gateway::THREADS),
            run: &|| run(full.push),
        },
        &Side {
            name: "beside none",
            cpu: Cpu::Threads(gateway::THREADS),
            run: &|| run(empty.push),
        },
    )?;
    // They were there all the time.
    client.block_on(check(full.grpc))?;
    full.stop()?;
    empty.stop()
}

/// Sends requests whose answers are lost.
async fn lose(sandbox: &Sandbox, to: SocketAddr) -> anyhow::Result<()> {
    sandbox
        .fault("callout", "cut_after_reading", REQUESTS)
        .await?;
    let mut client = connect(to).await?;
    for number in 0..REQUESTS {
        let request = CallOutRequest {
            request_id: format!("lost-{number}"),
            ..direct()
        };
        match client.call_out(request).await {
            Err(status) if status.code() == Code::Unknown => {}
            other => bail!("the outcome is known: {other:?}"),
        }
    }
    check(to).await
}

/// Checks that the gateway holds all of the unknown rows.
async fn check(at: SocketAddr) -> anyhow::Result<()> {
    let request = ListSubmissionsRequest {
        state: SubmissionState::Unknown.into(),
        page_size: 1000,
        ..ListSubmissionsRequest::default()
    };
    let listed = connect(at).await?.list_submissions(request).await?;
    let mut rows = 0;
    for submission in listed.into_inner().submissions {
        match submission.request.context("a submission's request")? {
            Request::CallOut(request) => rows += request.call_list.len() as u64,
            other => bail!("not a CallOut: {other:?}"),
        }
    }
    ensure!(rows == REQUESTS * BATCH, "{rows} unknown rows");
    Ok(())
}

async fn connect(to: SocketAddr) -> anyhow::Result<OutboundServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
    Ok(OutboundServiceClient::new(endpoint.connect().await?))
}
