//! Accepts connections, and goes on after failures without a busy loop.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

/// When no connection can be accepted, for want of file descriptors, others need time to close.
const PAUSE: Duration = Duration::from_millis(50);
/// The minimum time between two lines of the log about the same listener.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// A peer that has vanished is noticed by TCP after some two minutes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15));

/// Accepts the connections of one listener.
pub struct Acceptor {
    name: &'static str,
    listener: TcpListener,
    failures: Throttle,
}

impl Acceptor {
    /// Accepts on a listener that is named so in the log.
    pub fn new(name: &'static str, listener: TcpListener) -> Self {
        Self {
            name,
            listener,
            failures: Throttle::default(),
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
                    if let Some(before) = self.failures.strike(Instant::now()) {
                        let listener = self.name;
                        tracing::warn!(listener, %error, before, "a connection was not accepted");
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Bounds how often something is logged.
#[derive(Debug, Default)]
pub struct Throttle {
    logged: Option<Instant>,
    unlogged: u64,
}

impl Throttle {
    /// Notes an event; `Some`: log it, with the number of events that were not logged.
    pub fn strike(&mut self, now: Instant) -> Option<u64> {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= LOG_EVERY;
        if self.logged.is_none_or(is_due) {
            self.logged = Some(now);
            return Some(std::mem::take(&mut self.unlogged));
        }
        self.unlogged += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_a_second_is_logged_with_the_number_of_the_others() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        for (milliseconds, expected) in [
            (0, Some(0)),
            (1, None),
            (999, None),
            (1000, Some(2)),
            (1001, None),
            (5000, Some(1)),
        ] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(throttle.strike(now), expected, "{milliseconds}");
        }
    }
}
