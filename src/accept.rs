//! Accepts connections, and goes on after failures without a busy loop.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::log_limit::LogLimit;

/// When no connection can be accepted, for want of file descriptors, others need time to close.
const PAUSE: Duration = Duration::from_millis(50);
/// The minimum time between two lines of the log about the same listener.
pub const LOG_EVERY: Duration = Duration::from_secs(1);
/// A peer that has vanished is noticed by TCP after some two minutes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15));

/// Accepts the connections of one listener.
pub struct Acceptor {
    name: &'static str,
    listener: TcpListener,
    failures: LogLimit,
}

impl Acceptor {
    /// Accepts on a listener that is named so in the log.
    pub fn new(name: &'static str, listener: TcpListener) -> Self {
        Self {
            name,
            listener,
            failures: LogLimit::new(LOG_EVERY),
        }
    }

    /// The next connection.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // A socket that does not take an option still works. Without the first, a
                    // small answer may wait for the peer's delayed acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
                    return (stream, peer);
                }
                Err(error) => {
                    if let Some(before) = self.failures.admit() {
                        let listener = self.name;
                        tracing::warn!(listener, %error, before, "a connection was not accepted");
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}
