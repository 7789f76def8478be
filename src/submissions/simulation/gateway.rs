//! A gateway's submissions over a disk that outlives it, and what can happen to both.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::book::{Line, World};
use crate::account::Account;
use crate::platform::{Platform, PlatformConfig, PlatformMetrics};
use crate::push::StoreId;
use crate::secret::Secret;
use crate::store::memory::{Fault, MemoryDisk, MemoryStore, Op};
use crate::submissions::metrics::SubmissionsMetrics;
use crate::submissions::{Clock, Options, Submissions, UploadOptions};

/// The wall clock of a world at its beginning, in milliseconds since 1970.
const BEGAN_MS: i64 = 1_760_000_000_000;

/// A running gateway.
#[derive(Clone)]
pub struct Gateway {
    pub submissions: Arc<Submissions>,
    pub store: Arc<MemoryStore>,
    pub dead: CancellationToken,
    alive: Arc<AtomicBool>,
}

/// Where gateways run one after the other.
pub struct House {
    pub world: Arc<World>,
    pub disk: MemoryDisk,
    began: Instant,
    /// How far the gateway's wall clock is off, in milliseconds.
    pub clock_off: Arc<AtomicI64>,
    present: watch::Sender<Option<Gateway>>,
    random: Mutex<StdRng>,
    /// Set by a fault that ends the process.
    pub dies: Arc<AtomicBool>,
    is_starting: AtomicBool,
    /// Whether anything but the network has failed.
    pub is_disturbed: AtomicBool,
    pub has_lost_power: AtomicBool,
    pub options: Options,
}

impl House {
    pub fn new(seed: u64, world: Arc<World>) -> Arc<Self> {
        let began = Instant::now();
        let clock_off = Arc::new(AtomicI64::new(0));
        let off = clock_off.clone();
        let clock: Clock = Arc::new(move || at(began, off.load(Ordering::SeqCst)));
        let options = Options {
            accounts: vec!["a".to_owned()],
            clients: vec!["b".to_owned()],
            uploads: UploadOptions {
                patience: Duration::from_secs(5),
                ..UploadOptions::default()
            },
            clock,
            ..Options::default()
        };
        Arc::new(Self {
            world,
            disk: MemoryDisk::new(StoreId([7; 8])),
            began,
            clock_off,
            present: watch::Sender::new(None),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            dies: Arc::default(),
            is_starting: AtomicBool::new(false),
            is_disturbed: AtomicBool::new(false),
            has_lost_power: AtomicBool::new(false),
            options,
        })
    }

    /// The right time, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.began.elapsed().as_millis()).unwrap();
        BEGAN_MS + elapsed
    }

    /// Starts a gateway on what the disk has. No fault disturbs the start itself.
    pub async fn start(&self) {
        self.is_starting.store(true, Ordering::SeqCst);
        let alive = Arc::new(AtomicBool::new(true));
        let line = Line {
            world: self.world.clone(),
            alive: alive.clone(),
        };
        let account = Arc::new(Account {
            name: "a".to_owned(),
            app_key: Secret::inline("key"),
            app_secret: Secret::inline("secret"),
            push_secret: Secret::inline("push-secret"),
            allow_push_from: Vec::new(),
            enabled: true,
        });
        let mut registry = Registry::default();
        let metrics = PlatformMetrics::register(&mut registry);
        let config = PlatformConfig::default();
        let platform = Platform::with_transport(&config, [account], metrics, Arc::new(line));
        let clock = self.options.clock.clone();
        let store = Arc::new(MemoryStore::open(self.disk.clone(), clock));
        let submissions = Submissions::open(
            store.clone(),
            store.clone(),
            Arc::new(platform),
            self.options.clone(),
            SubmissionsMetrics::register(&mut registry),
        );
        let submissions = Arc::new(submissions.await.expect("the disk can be read at start"));
        self.is_starting.store(false, Ordering::SeqCst);
        let gateway = Gateway {
            submissions: submissions.clone(),
            store,
            dead: CancellationToken::new(),
            alive,
        };
        let end = gateway.dead.clone();
        tokio::spawn(async move { submissions.run(end).await });
        self.present.send_replace(Some(gateway));
    }

    /// Ends the process, whose disk is killed by somebody else.
    fn stop(&self) {
        self.dies.store(true, Ordering::SeqCst);
        if let Some(gateway) = self.present.borrow().as_ref() {
            gateway.alive.store(false, Ordering::SeqCst);
            gateway.dead.cancel();
        }
    }

    /// kill −9, or a loss of power.
    pub fn kill(&self, loses_power: bool) {
        let Some(gateway) = self.present.send_replace(None) else {
            return;
        };
        self.is_disturbed.store(true, Ordering::SeqCst);
        gateway.alive.store(false, Ordering::SeqCst);
        if loses_power {
            self.has_lost_power.store(true, Ordering::SeqCst);
            self.disk.lose_power();
        } else {
            self.disk.kill();
        }
        gateway.dead.cancel();
    }

    /// The gateway that runs now, or the next one.
    pub async fn gateway(&self) -> Gateway {
        let mut present = self.present.subscribe();
        let is_alive =
            |gateway: &Option<Gateway>| gateway.as_ref().is_some_and(|it| !it.dead.is_cancelled());
        let present = present.wait_for(is_alive).await;
        present.unwrap().clone().unwrap()
    }

    pub fn random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.random.lock().unwrap())
    }

    /// Lets store operations fail, panic and kill, one in `rarity`; during an outage, all writes
    /// fail.
    pub fn break_store(self: &Arc<Self>, seed: u64, rarity: u32, outage: Arc<AtomicBool>) {
        let mut random = StdRng::seed_from_u64(seed);
        let house = Arc::downgrade(self);
        let faults = move |op: &Op<'_>| {
            let Some(house) = house.upgrade() else {
                return Fault::None;
            };
            if house.is_starting.load(Ordering::SeqCst) {
                return Fault::None;
            }
            // What cannot be marked leaves no trace of itself after a kill; that is documented.
            if is_marker(op) {
                return Fault::None;
            }
            let is_write = matches!(op, Op::Append(_) | Op::Change { .. });
            if is_write && outage.load(Ordering::SeqCst) {
                house.is_disturbed.store(true, Ordering::SeqCst);
                return Fault::FailBefore;
            }
            if rarity == 0 || random.random_range(0..rarity) > 0 {
                return Fault::None;
            }
            house.is_disturbed.store(true, Ordering::SeqCst);
            let all = [
                Fault::FailBefore,
                Fault::FailAfter,
                Fault::KillBefore,
                Fault::KillAfter,
                Fault::PanicBefore,
                Fault::PanicAfter,
            ];
            let fault = all[random.random_range(0..all.len())];
            match fault {
                Fault::FailBefore | Fault::FailAfter => {}
                // Nothing of the process goes on.
                Fault::KillBefore | Fault::KillAfter => house.stop(),
                _ => house.dies.store(true, Ordering::SeqCst),
            }
            fault
        };
        self.disk.set_faults(Some(Box::new(faults)));
    }

    /// Kills gateways now and then, and those that have to die, and starts the next ones.
    pub async fn keep(self: Arc<Self>, kills: bool, end: CancellationToken) {
        loop {
            let (wait, loses_power) =
                self.random(|it| (it.random_range(500..20_000), it.random_ratio(1, 4)));
            let next_kill = Instant::now() + Duration::from_millis(wait);
            while !end.is_cancelled() && !self.dies.load(Ordering::SeqCst) {
                if kills && Instant::now() >= next_kill {
                    break;
                }
                sleep(Duration::from_millis(200)).await;
            }
            let dies = self.dies.swap(false, Ordering::SeqCst);
            if end.is_cancelled() && !dies {
                return;
            }
            self.kill(loses_power && !dies);
            let away = self.random(|it| it.random_range(1..2000));
            sleep(Duration::from_millis(away)).await;
            self.start().await;
        }
    }
}

/// Whether an operation writes that requests without an id are about to be sent.
fn is_marker(op: &Op<'_>) -> bool {
    match op {
        Op::Change { changes, .. } => changes.iter().any(|it| it.key.starts_with("untracked/")),
        _ => false,
    }
}

fn at(began: Instant, off_ms: i64) -> SystemTime {
    let elapsed = i64::try_from(began.elapsed().as_millis()).unwrap();
    let ms = u64::try_from(BEGAN_MS + elapsed + off_ms).unwrap();
    UNIX_EPOCH + Duration::from_millis(ms)
}
