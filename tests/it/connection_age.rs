//! Connections that have reached `grpc.max_connection_age`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Uri};
use yeta_gateway::proto::config_service_client::ConfigServiceClient;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::{ListPushesRequest, QueryConfigRequest};

use crate::fake::Fake;
use crate::hostile::raw::address;
use crate::support::{PATIENCE, TestApp, earliest, eventually, next_event, record, within};

/// The connections that a channel has made, in their order.
#[derive(Clone, Default)]
struct Connections(Arc<Mutex<Vec<watch::Receiver<bool>>>>);

impl Connections {
    /// A channel as it comes, whose connections are watched.
    fn channel(&self, url: &str) -> Channel {
        let (all, address) = (self.clone(), address(url));
        let connect = tower::service_fn(move |_: Uri| {
            let all = all.clone();
            async move {
                let io = TcpStream::connect(address).await?;
                let goaway = watch::Sender::new(false);
                all.0.lock().unwrap().push(goaway.subscribe());
                io::Result::Ok(TokioIo::new(Watched {
                    io,
                    goaway,
                    header: Vec::new(),
                    skip: 0,
                }))
            }
        });
        let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
        endpoint.connect_with_connector_lazy(connect)
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Waits until the gateway has sent GOAWAY on a connection.
    async fn until_old(&self, number: usize) {
        let mut goaway = self.0.lock().unwrap()[number].clone();
        within("GOAWAY", goaway.wait_for(|seen| *seen))
            .await
            .unwrap();
    }

    /// Waits until an old connection is closed, and its channel knows that.
    async fn until_closed(&self, number: usize) {
        let mut goaway = self.0.lock().unwrap()[number].clone();
        let closed = async { while goaway.changed().await.is_ok() {} };
        within("the connection's end", closed).await;
        assert!(*goaway.borrow(), "closed without GOAWAY");
    }
}

/// A connection that notes the GOAWAY frames that it reads.
struct Watched {
    io: TcpStream,
    goaway: watch::Sender<bool>,
    /// The part of a frame's header that has been read.
    header: Vec<u8>,
    /// The bytes until the next header.
    skip: usize,
}

impl Watched {
    fn see(&mut self, mut bytes: &[u8]) {
        const HEADER: usize = 9;
        const GOAWAY: u8 = 7;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let missing = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.header.len() == HEADER {
                let length = [0, self.header[0], self.header[1], self.header[2]];
                self.skip = usize::try_from(u32::from_be_bytes(length)).unwrap();
                if self.header[3] == GOAWAY {
                    self.goaway.send_replace(true);
                }
                self.header.clear();
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled()[before..].to_vec();
        self.see(&read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A gateway whose connections become old soon.
async fn gateway(platform: &str) -> TestApp {
    let platform = platform.parse().unwrap();
    TestApp::with(|config| {
        config.platform.base_url = platform;
        config.platform.request_timeout = PATIENCE;
        config.grpc.max_connection_age = Duration::from_secs(1);
    })
    .await
}

#[tokio::test]
async fn an_old_connection_finishes_its_calls_and_goes_on_with_its_streams() {
    let platform = Fake::start(|_, _, _| json!({ "code": 0, "result": {} }).to_string()).await;
    let app = gateway(&platform.base_url).await;
    let connections = Connections::default();
    let channel = connections.channel(&app.grpc);
    let mut pushes = PushServiceClient::new(channel.clone());
    let stream = pushes.subscribe_pushes(earliest()).await;
    let mut stream = stream.unwrap().into_inner();
    platform.hold_operations_until(usize::MAX);
    let mut config = ConfigServiceClient::new(channel);
    let under_way =
        tokio::spawn(async move { config.query_config(QueryConfigRequest::default()).await });
    eventually("the call to reach the platform", async || {
        (platform.operations() > 0).then_some(())
    })
    .await;
    connections.until_old(0).await;

    app.push("receiveCallRecord", record("a")).await;
    let event = next_event(&mut stream).await;
    assert!(String::from_utf8_lossy(&event.raw_json).contains(r#""call_uuid":"a""#));
    assert!(!under_way.is_finished());
    platform.hold_operations_until(0);
    within("the call", under_way).await.unwrap().unwrap();
    drop(stream);
    connections.until_closed(0).await;
    assert_eq!(connections.count(), 1);
    app.stop().await.unwrap();
}

#[tokio::test]
async fn a_channel_goes_over_to_another_connection_without_a_failed_call() {
    let app = gateway("http://127.0.0.1:1").await;
    let connections = Connections::default();
    let mut pushes = PushServiceClient::new(connections.channel(&app.grpc));
    for number in 0..3 {
        let listed = pushes.list_pushes(ListPushesRequest::default()).await;
        listed.unwrap();
        assert_eq!(connections.count(), number + 1);
        connections.until_closed(number).await;
    }
    app.stop().await.unwrap();
}
