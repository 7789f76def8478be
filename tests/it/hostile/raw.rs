//! HTTP/2 by hand: requests that no gRPC library would send.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::Status;

use crate::support::within;

/// A connection that the test has in its hands.
#[derive(Clone)]
pub struct Raw {
    send: SendRequest<Bytes>,
    windows: mpsc::UnboundedSender<u32>,
}

/// A request that has been sent as far as the test wanted.
pub struct Sent {
    pub response: ResponseFuture,
    pub body: SendStream<Bytes>,
}

pub fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().unwrap()
}

impl Raw {
    /// Connects with a window for the bytes of each response.
    pub async fn connect(url: &str, window: u32) -> Self {
        let stream = TcpStream::connect(address(url)).await.unwrap();
        Self::over(stream, window).await
    }

    pub async fn over<IO>(stream: IO, window: u32) -> Self
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = Builder::new();
        builder.initial_window_size(window);
        builder.initial_connection_window_size(16 << 20);
        let handshake = within("the handshake", builder.handshake(stream)).await;
        let (send, mut connection) = handshake.unwrap();
        let (windows, mut opened) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = &mut connection => return,
                    Some(window) = opened.recv() => connection.set_initial_window_size(window).unwrap(),
                }
            }
        });
        Self { send, windows }
    }

    /// Lets each response have so many bytes from now on.
    pub fn open_windows(&self, window: u32) {
        self.windows.send(window).unwrap();
    }

    /// Sends the head of a request.
    pub async fn head(&self, path: &str, token: Option<&str>) -> Result<Sent, h2::Error> {
        self.head_with(path, token, &[]).await
    }

    pub async fn head_with(
        &self,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Result<Sent, h2::Error> {
        let mut request = Request::post(format!("http://gateway{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = within("a stream", self.send.clone().ready()).await?;
        let (response, body) = send.send_request(request.body(()).unwrap(), false)?;
        Ok(Sent { response, body })
    }

    /// Sends a whole request.
    pub async fn call(
        &self,
        path: &str,
        token: Option<&str>,
        message: &impl prost::Message,
    ) -> Sent {
        let mut sent = self.head(path, token).await.unwrap();
        sent.body
            .send_data(framed(0, &message.encode_to_vec()), true)
            .unwrap();
        sent
    }
}

/// A message behind its header.
pub fn framed(flag: u8, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(flag);
    framed.put_u32(message.len().try_into().unwrap());
    framed.put_slice(message);
    framed.freeze()
}

impl Sent {
    /// The status in the head of the response, or in its trailers.
    pub async fn status(self) -> Status {
        let response = within("a response", self.response).await.unwrap();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return status;
        }
        let (_, trailers) = rest(response.into_body()).await;
        Status::from_header_map(&trailers.expect("trailers")).expect("a status")
    }
}

/// The rest of a response: its bytes and its trailers.
pub async fn rest(mut body: RecvStream) -> (BytesMut, Option<HeaderMap>) {
    let mut bytes = BytesMut::new();
    while let Some(data) = within("data", body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    (bytes, within("trailers", body.trailers()).await.unwrap())
}
