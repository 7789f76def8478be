//! A place for one connection, which is kept there: made ahead, renewed, made again when it breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use rand::RngExt;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::wire::{Connector, Wire};

/// Pauses between attempts to connect: the first, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// A connection that ends sooner was none: the next is made after a pause.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// What a lane has at the moment.
#[derive(Clone)]
pub(super) enum State {
    /// No connection, and no reason yet to think that there will be none.
    Connecting,
    /// A connection.
    Up(Wire),
    /// No connection, and the last attempt at one failed.
    Down,
}

/// One connection at a time to one of the service's instances.
pub(super) struct Lane {
    pub state: watch::Receiver<State>,
    /// Tries in a row that this connection left without an answer.
    pub silent: Arc<AtomicU32>,
    renew: Arc<Notify>,
    _keeper: AbortOnDropHandle<()>,
}

impl Lane {
    /// Connects in the background, and from then on.
    pub fn open(connector: Connector, age: Duration, name: Arc<str>, connected: Gauge) -> Self {
        let (sender, state) = watch::channel(State::Connecting);
        let (silent, renew) = (Arc::default(), Arc::new(Notify::new()));
        let keeper = Keeper {
            connector,
            age,
            name,
            state: sender,
            silent: Arc::clone(&silent),
            renew: Arc::clone(&renew),
            connected,
            pause: FIRST_PAUSE,
        };
        Self {
            state,
            silent,
            renew,
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper.run())),
        }
    }

    /// Has another connection made, in the background.
    pub fn renew(&self) {
        self.renew.notify_one();
    }

    pub fn silence(&self) -> u32 {
        self.silent.load(Ordering::Relaxed)
    }
}

struct Keeper {
    connector: Connector,
    age: Duration,
    name: Arc<str>,
    state: watch::Sender<State>,
    silent: Arc<AtomicU32>,
    renew: Arc<Notify>,
    connected: Gauge,
    pause: Duration,
}

impl Keeper {
    /// Goes on until it is aborted.
    async fn run(mut self) {
        let mut current: Option<JoinHandle<()>> = None;
        loop {
            let (is_new, wait) = match self.connector.connect().await {
                Ok((wire, driver)) => {
                    // The one before ends by itself when its last answer is there.
                    current = Some(tokio::spawn(driver));
                    self.silent.store(0, Ordering::Relaxed);
                    self.set(State::Up(wire));
                    // At a time of its own, so that the connections do not change all at once.
                    let age = self.age.mul_f64(rand::rng().random_range(0.8..1.0));
                    (true, age)
                }
                Err(error) => {
                    if current.as_ref().is_none_or(JoinHandle::is_finished) {
                        self.set_down(&error.to_string());
                    }
                    (false, self.next_pause())
                }
            };
            let since = Instant::now();
            let broke = tokio::select! {
                () = ended(&mut current) => true,
                () = sleep(wait) => false,
                () = self.renew.notified() => false,
            };
            if broke && since.elapsed() < SETTLED_AFTER {
                self.set_down("the connection was closed at once");
                sleep(self.next_pause()).await;
                continue;
            }
            if broke {
                self.set(State::Connecting);
            }
            if broke || is_new {
                self.pause = FIRST_PAUSE;
            }
        }
    }

    fn set(&self, state: State) {
        let is_up = matches!(state, State::Up(_));
        let before = self.state.send_replace(state);
        match (matches!(before, State::Up(_)), is_up) {
            (false, true) => _ = self.connected.inc(),
            (true, false) => _ = self.connected.dec(),
            (true, true) | (false, false) => {}
        }
        if is_up && matches!(before, State::Down) {
            tracing::info!(provider = %self.name, "connected to the provider");
        }
    }

    fn set_down(&self, problem: &str) {
        if !matches!(*self.state.borrow(), State::Down) {
            tracing::warn!(provider = %self.name, problem, "the provider cannot be reached");
        }
        self.set(State::Down);
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LAST_PAUSE);
        pause.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

/// Resolves when the connection has ended; never without one.
async fn ended(current: &mut Option<JoinHandle<()>>) {
    match current {
        // A panic in it ends it, too.
        Some(driver) => _ = driver.await,
        None => std::future::pending().await,
    }
    *current = None;
}
