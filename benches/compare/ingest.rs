//! Durable ingest of 1 KiB records over 128 connections, beside the same listener and router that
//! answer without storing.

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use tokio::net::TcpListener;
use yeta_gateway::http_server;

use crate::gateway::{self, Gateway};
use crate::load::{Until, push};
use crate::measure::{Cpu, Plan, Side, client_runtime, compare, server_runtime};
use crate::platform::Platform;

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let platform = Platform::start()?;
    let gateway = Gateway::start(platform.address)?;

    let bare_runtime = server_runtime("bare-listener")?;
    let listener = bare_runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let bare = listener.local_addr()?;
    let router = Router::new().route(
        "/v1/push/{account}/{push_secret}/{module}",
        post(|_: Bytes| async { "success" }),
    );
    bare_runtime.spawn(http_server::serve(
        listener,
        router,
        unlimited(),
        std::future::pending(),
    ));

    let client = client_runtime()?;
    let run = |to| client.block_on(push(to, Until::Passed(plan.round)));
    compare(
        "ingest: records of 1 KiB, 128 connections",
        plan,
        &Side {
            name: "gateway, durable",
            cpu: Cpu::Threads(gateway::THREADS),
            run: &|| run(gateway.push),
        },
        &Side {
            name: "bare listener, stores nothing",
            cpu: Cpu::Threads(&["bare-listener"]),
            run: &|| run(bare),
        },
    )?;
    gateway.stop()
}

/// Limits that no run reaches.
fn unlimited() -> http_server::Limits {
    http_server::Limits {
        max_connections: 10_000,
        max_per_address: 10_000,
        ..http_server::Limits::small("bench")
    }
}
