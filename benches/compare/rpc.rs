//! gRPC with as little work as can be: messages are ready bytes, and nothing is retried or decoded.

use std::net::SocketAddr;

use anyhow::ensure;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// An HTTP/2 connection; clones share it. It ends with the last of them.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    /// The bearer token that requests carry.
    token: Option<&'static str>,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await?;
        // What is wrong with it shows where it is used.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            authority: to.to_string(),
            token: None,
        })
    }

    /// The same connection, whose requests carry a bearer token.
    pub fn with_token(self, token: Option<&'static str>) -> Self {
        Self { token, ..self }
    }

    /// Sends a message and gives the one that answers it.
    pub async fn call(&mut self, method: &str, message: Bytes) -> anyhow::Result<Bytes> {
        let answer = self.start(method, message).await?;
        // A refusal without a message has its status here.
        let headers = answer.headers().clone();
        let answer = answer.into_body().collect().await?;
        let trailers = answer.trailers().unwrap_or(&headers);
        let status = trailers.get("grpc-status");
        ensure!(
            status.is_some_and(|status| status == "0"),
            "{method}: {trailers:?}"
        );
        let frame = answer.to_bytes();
        ensure!(frame.len() >= 5, "{method}: no message");
        Ok(frame.slice(5..))
    }

    /// Sends a message and returns once the answer begins.
    pub async fn start(
        &mut self,
        method: &str,
        message: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut frame = BytesMut::with_capacity(5 + message.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len())?);
        frame.put_slice(&message);
        let request = Request::post(format!("http://{}{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let request = match self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        let request = request.body(Full::new(frame.freeze()))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }
}
