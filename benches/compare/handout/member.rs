//! A member of a subscription: while one acknowledgement is under way, what it is handed goes into
//! the next.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use futures_util::future::try_join;
use prost::Message;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use yeta_gateway::proto::{AckPushesRequest, AckPushesResponse, AckResult, AckStatus};

use crate::reader::{EVENT, Reader};
use crate::rpc::Connection;

const ACK: &str = "/yeta.v1.PushService/AckPushes";

/// An acknowledgement holds so many events at most; as many as a member may hold.
const BATCH: usize = 256;

/// As much of a message as a member needs.
#[derive(Clone, PartialEq, Message)]
pub struct Delivered {
    #[prost(message, optional, tag = "1")]
    pub event: Option<Handed>,
}

/// As much of an event.
#[derive(Clone, PartialEq, Message)]
pub struct Handed {
    #[prost(string, tag = "7")]
    pub ack_id: String,
}

/// An event that is to be acknowledged, and when it came.
type Taken = (String, Instant);

/// Joins, and acknowledges whatever comes; tells how long each event took until its
/// acknowledgement was answered.
pub async fn work(
    at: SocketAddr,
    subscription: String,
    request: Bytes,
    answered: UnboundedSender<Vec<Duration>>,
) -> anyhow::Result<()> {
    let reader = Reader::subscribe(at, request).await?;
    let connection = reader.connection();
    let (taken, to_acknowledge) = unbounded_channel();
    let acknowledging = acknowledge(connection, subscription, to_acknowledge, answered);
    try_join(take(reader, taken), acknowledging).await?;
    Ok(())
}

async fn take(mut reader: Reader, taken: UnboundedSender<Taken>) -> anyhow::Result<()> {
    loop {
        let message = reader.message().await?;
        if message.first() == Some(&EVENT) {
            let ack_id = Delivered::decode(message)?.event.unwrap_or_default().ack_id;
            taken.send((ack_id, Instant::now()))?;
        }
    }
}

async fn acknowledge(
    mut connection: Connection,
    subscription: String,
    mut taken: UnboundedReceiver<Taken>,
    answered: UnboundedSender<Vec<Duration>>,
) -> anyhow::Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    while taken.recv_many(&mut batch, BATCH).await > 0 {
        let (ack_ids, came): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let request = AckPushesRequest {
            subscription: subscription.clone(),
            ack_ids,
        };
        let answer = connection.call(ACK, request.encode_to_vec().into()).await?;
        let answer = AckPushesResponse::decode(answer)?;
        let is_done = |result: &AckResult| result.status() == AckStatus::Ok;
        ensure!(answer.results.len() == came.len() && answer.results.iter().all(is_done));
        answered.send(came.iter().map(Instant::elapsed).collect())?;
    }
    Ok(())
}
