//! A subscriber that finds messages by their lengths, so that what it costs is the same for both
//! sides, and little.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::rpc::Connection;

const SUBSCRIBE: &str = "/yeta.v1.PushService/SubscribePushes";

/// The first byte of a message that holds an event: field 1, with a length.
pub const EVENT: u8 = 0x0a;

pub struct Reader {
    /// Dropping it would end the stream.
    connection: Connection,
    body: Incoming,
    /// What has come and was not looked at yet.
    bytes: BytesMut,
    /// How many bytes of the present message are still to come.
    skip: usize,
}

impl Reader {
    pub async fn subscribe(to: SocketAddr, request: Bytes) -> anyhow::Result<Self> {
        let mut connection = Connection::open(to).await?;
        let response = connection.start(SUBSCRIBE, request).await?;
        ensure!(
            !response.headers().contains_key("grpc-status"),
            "refused: {:?}",
            response.headers()
        );
        Ok(Self {
            connection,
            body: response.into_body(),
            bytes: BytesMut::new(),
            skip: 0,
        })
    }

    /// The connection, for other requests beside the stream.
    pub fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// Reads on until so many events have begun, which comes to the same as their end.
    pub async fn read(&mut self, events: u64) -> anyhow::Result<()> {
        let mut seen = 0;
        while seen < events {
            if self.next().await? == EVENT {
                seen += 1;
            }
        }
        Ok(())
    }

    /// Reads on until a message is none of an event: word that the log's end is reached.
    pub async fn until_caught_up(&mut self) -> anyhow::Result<()> {
        while self.next().await? == EVENT {}
        Ok(())
    }

    /// The whole of the next message.
    pub async fn message(&mut self) -> anyhow::Result<Bytes> {
        self.next().await?;
        while self.bytes.len() < self.skip {
            self.more().await?;
        }
        let message = self.bytes.split_to(self.skip).freeze().slice(5..);
        self.skip = 0;
        Ok(message)
    }

    /// The first byte of the next message; the rest is skipped as it comes.
    async fn next(&mut self) -> anyhow::Result<u8> {
        loop {
            let skipped = self.skip.min(self.bytes.len());
            self.bytes.advance(skipped);
            self.skip -= skipped;
            if let &[_, a, b, c, d, first, ..] = &self.bytes[..] {
                self.skip = 5 + u32::from_be_bytes([a, b, c, d]) as usize;
                return Ok(first);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        let frame = self.body.frame().await.context("the stream has ended")??;
        let data = frame.into_data().ok().context("trailers")?;
        if self.bytes.is_empty() && self.skip >= data.len() {
            self.skip -= data.len();
        } else {
            self.bytes.extend_from_slice(&data);
        }
        Ok(())
    }
}
