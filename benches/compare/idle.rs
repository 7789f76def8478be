//! What 1,000 durable subscriptions cost that have nothing to do, without members and with one
//! each, while pushes arrive: beside the same gateway without subscriptions.

mod cost;
pub mod process;

use std::net::SocketAddr;

use bytes::Bytes;
use prost::Message;
use tokio::runtime::Runtime;
use yeta_gateway::proto::{
    CreateSubscriptionRequest, PushFilter, SubscribePushesRequest, Subscription,
};

use self::cost::{Taken, compare_taken};
use self::process::Process;
use crate::load::{Until, push, push_evenly};
use crate::measure::{Cpu, Plan, Side, client_runtime, compare};
use crate::platform::Platform;
use crate::reader::Reader;
use crate::rpc::Connection;

const SUBSCRIPTIONS: usize = 1000;
/// So many pushes arrive each second while it is measured what a gateway takes.
const PUSHES: u32 = 500;
/// Such a round takes so many ordinary ones: some of what a gateway does comes every ten seconds.
const LONGER: u32 = 5;

const CREATE: &str = "/yeta.v1.SubscriptionService/CreateSubscription";

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let platform = Platform::start()?;
    let client = client_runtime()?;

    // Both are new each time: what a gateway takes depends on what has been pushed to it.
    let bare = Process::start(platform.address)?;
    let alone = Process::start(platform.address)?;
    client.block_on(create(alone.grpc))?;
    beside(plan, &client, "without members", &alone, &bare)?;
    drop((alone, bare));

    let bare = Process::start(platform.address)?;
    let joined = Process::start(platform.address)?;
    let members = client.block_on(join(joined.grpc))?;
    beside(plan, &client, "with one member each", &joined, &bare)?;
    drop(members);
    Ok(())
}

fn beside(
    plan: &Plan,
    client: &Runtime,
    how: &str,
    idle: &Process,
    bare: &Process,
) -> anyhow::Result<()> {
    let taken = |gateway: &Process| {
        let time = plan.round * LONGER;
        Taken::by(gateway, time, || {
            client.block_on(push_evenly(gateway.push, PUSHES, time))?;
            Ok(())
        })
    };
    let name = format!("{SUBSCRIPTIONS} subscriptions {how}");
    compare_taken(
        &format!("idle: {name}, while {PUSHES} pushes a second arrive"),
        plan.rounds,
        (&name, &|| taken(idle)),
        ("no subscriptions", &|| taken(bare)),
    )?;
    let run = |to| client.block_on(push(to, Until::Passed(plan.round)));
    compare(
        &format!("idle: {name}, records of 1 KiB over 128 connections"),
        plan,
        &Side {
            name: &name,
            cpu: Cpu::Process(idle.id()),
            run: &|| run(idle.push),
        },
        &Side {
            name: "no subscriptions",
            cpu: Cpu::Process(bare.id()),
            run: &|| run(bare.push),
        },
    )
}

fn name(number: usize) -> String {
    format!("idle-{number}")
}

/// Takes nothing of what is pushed here.
fn filter() -> PushFilter {
    PushFilter {
        call_uuids: vec!["none".into()],
        ..PushFilter::default()
    }
}

async fn create(at: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::open(at).await?;
    for number in 0..SUBSCRIPTIONS {
        let request = CreateSubscriptionRequest {
            subscription: Some(Subscription {
                name: name(number),
                filter: Some(filter()),
                ..Subscription::default()
            }),
            start: None,
        };
        let request = request.encode_to_vec().into();
        connection.call(CREATE, request).await?;
    }
    Ok(())
}

/// Joins each with a stream on a connection of its own.
async fn join(at: SocketAddr) -> anyhow::Result<Vec<Reader>> {
    let mut members = Vec::new();
    for number in 0..SUBSCRIPTIONS {
        let request = SubscribePushesRequest {
            subscription: name(number),
            filter: Some(filter()),
            ..SubscribePushesRequest::default()
        };
        let request: Bytes = request.encode_to_vec().into();
        members.push(Reader::subscribe(at, request).await?);
    }
    Ok(members)
}
