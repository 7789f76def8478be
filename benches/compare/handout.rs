//! A durable subscription with 1, 8 and 64 members that acknowledge what they are handed, beside
//! one independent reader of the same events, which acknowledges nothing.

mod member;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{
    DeleteSubscriptionRequest, Position, PushFilter, PushKind, SubscribePushesRequest,
};

use self::member::Delivered;
use crate::gateway::{self, Gateway};
use crate::load::{Until, push};
use crate::measure::{Cpu, Plan, Sample, Side, client_runtime, compare, latencies, record};
use crate::platform::Platform;
use crate::reader::{EVENT, Reader};
use crate::rpc::Connection;

/// How many events the log holds.
const HISTORY: u64 = 100_000;

const DELETE: &str = "/yeta.v1.SubscriptionService/DeleteSubscription";

/// Numbers of subscriptions that no round has used.
static NEXT: AtomicU64 = AtomicU64::new(1);

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let platform = Platform::start()?;
    let gateway = Gateway::start(platform.address)?;
    let client = client_runtime()?;
    client.block_on(push(gateway.push, Until::Answered(HISTORY)))?;
    client.block_on(gateway.until_assembled())?;
    for members in [1, 8, 64] {
        compare(
            &format!("handout: {members} members, {HISTORY} events; from hand-out to answered ack"),
            plan,
            &Side {
                name: "members, acknowledging",
                cpu: Cpu::Threads(gateway::THREADS),
                run: &|| client.block_on(hand_out(gateway.grpc, members)),
            },
            &Side {
                name: "one independent reader",
                cpu: Cpu::Threads(gateway::THREADS),
                run: &|| client.block_on(read(gateway.grpc)),
            },
        )?;
    }
    gateway.stop()
}

/// All events, once, to members of a new subscription.
async fn hand_out(from: SocketAddr, members: usize) -> anyhow::Result<Sample> {
    let name = format!("handout-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let (answered, mut acks) = mpsc::unbounded_channel();
    let mut working = JoinSet::new();
    let started = Instant::now();
    for _ in 0..members {
        let request = request(&name);
        working.spawn(member::work(from, name.clone(), request, answered.clone()));
    }
    let (mut acknowledged, mut latency) = (0, latencies());
    while acknowledged < HISTORY {
        tokio::select! {
            // Members end by themselves only when something is wrong.
            Some(ended) = working.join_next() => ended??,
            Some(took) = acks.recv() => {
                acknowledged += took.len() as u64;
                for took in took {
                    record(&mut latency, took);
                }
            }
        }
    }
    let took = started.elapsed();
    working.shutdown().await;
    let request = DeleteSubscriptionRequest { name };
    let mut connection = Connection::open(from).await?;
    connection
        .call(DELETE, request.encode_to_vec().into())
        .await?;
    Ok(Sample::new(acknowledged, took, latency))
}

/// All events, once, looked at as a member does.
async fn read(from: SocketAddr) -> anyhow::Result<Sample> {
    let started = Instant::now();
    let mut reader = Reader::subscribe(from, request("")).await?;
    let mut seen = 0;
    while seen < HISTORY {
        let message = reader.message().await?;
        if message.first() == Some(&EVENT) {
            Delivered::decode(message)?;
            seen += 1;
        }
    }
    Ok(Sample::new(seen, started.elapsed(), latencies()))
}

fn request(subscription: &str) -> Bytes {
    let request = SubscribePushesRequest {
        subscription: subscription.to_owned(),
        start: Some(Start::Position(Position::Earliest.into())),
        filter: Some(PushFilter {
            kinds: vec![PushKind::CallRecord.into()],
            ..PushFilter::default()
        }),
        ..SubscribePushesRequest::default()
    };
    request.encode_to_vec().into()
}
