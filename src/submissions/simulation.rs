//! The proof of the first promise, over a fault matrix and at scale: seeded worlds on simulated
//! time, each with a platform that keeps a book, a network that fails, gateways that are killed,
//! stores that refuse, clocks that jump, and clients that ask again. What the gateways answer is
//! held against the platform's own book.
//!
//! `YETA_SIMULATION_SUBMISSIONS` says how many submissions to simulate (default: 100,000),
//! `YETA_SIMULATION_FIRST` with which seed to begin, and `YETA_SIMULATION_SEED` which world alone to
//! run again. With `RUSTFLAGS="--cfg tokio_unstable"`
//! a world runs in the very same order each time; without, tokio's own choices differ, and a world
//! that failed is run up to 50 times.

pub(super) mod book;
mod check;
mod clients;
mod forgetting;
mod gateway;
mod pushes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::book::{Weather, World};
use self::check::{Tally, check};
use self::clients::Client;
use self::gateway::House;
use super::Options;
use super::ledger::Ledger;
use super::metrics::SubmissionsMetrics;
use crate::push::StoreId;
use crate::random;
use crate::store::memory::{MemoryDisk, MemoryStore};

/// The submissions of one world.
const CLIENTS: u32 = 50;
/// No world lasts longer, in simulated time.
const MAX_WORLD: Duration = Duration::from_hours(24);

/// A ledger of an account "a" over an empty store.
pub(super) async fn empty_ledger() -> Ledger {
    let disk = MemoryDisk::new(StoreId([7; 8]));
    let store = Arc::new(MemoryStore::open(disk, Arc::new(SystemTime::now)));
    let options = Options {
        accounts: vec!["a".to_owned()],
        ..Options::default()
    };
    let metrics = SubmissionsMetrics::register(&mut Registry::default());
    Ledger::open(store.clone(), store, &options, metrics)
        .await
        .expect("an empty store can be read")
}

/// What goes wrong in a world.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one kind of trouble")]
struct Troubles {
    network: u32,
    kills: bool,
    /// One store operation in so many; 0: none.
    store: u32,
    outages: bool,
    clock: bool,
    storm: bool,
    keeps_good_rows: bool,
}

impl Troubles {
    fn draw(random: &mut StdRng) -> Self {
        Self {
            network: [0, 10, 30, 60][random.random_range(0..4)],
            kills: random.random_ratio(1, 2),
            store: [0, 0, 300, 3000][random.random_range(0..4)],
            outages: random.random_ratio(1, 5),
            clock: random.random_ratio(1, 3),
            storm: random.random_ratio(1, 8),
            keeps_good_rows: random.random_ratio(1, 3),
        }
    }
}

/// Runs one world from its beginning to its end.
async fn run_world(seed: u64) -> Tally {
    random::seed(seed);
    let mut draw = StdRng::seed_from_u64(seed);
    let troubles = Troubles::draw(&mut draw);
    let weather = Weather {
        faults: troubles.network,
        storm: false,
        keeps_good_rows: troubles.keeps_good_rows,
    };
    let world = Arc::new(World::new(draw.random(), weather));
    let task = world.book().make_by_hand("rows", json!({}));
    let house = House::new(draw.random(), world.clone());
    let outage = Arc::new(AtomicBool::new(false));
    house.break_store(draw.random(), troubles.store, outage.clone());
    house.start().await;

    let end = CancellationToken::new();
    let carried = pushes::Carried::default();
    let mut beside = JoinSet::new();
    let keep_end = CancellationToken::new();
    let keeping = tokio::spawn(house.clone().keep(troubles.kills, keep_end.clone()));
    beside.spawn(pushes::run(house.clone(), carried.clone(), end.clone()));
    beside.spawn(trouble(
        troubles,
        house.clone(),
        outage.clone(),
        end.clone(),
    ));
    let mut running = JoinSet::new();
    for tag in 1..=CLIENTS {
        let client = Client::draw(tag, &task, &mut draw);
        running.spawn(client.run(house.clone()));
    }
    let mut clients: Vec<(Client, clients::Learned)> = Vec::new();
    while let Some(client) = running.join_next().await {
        clients.push(client.expect("a client comes to its end"));
    }
    // From here on all is well, and everything that is late comes.
    end.cancel();
    while let Some(ended) = beside.join_next().await {
        ended.expect("what goes on beside comes to its end");
    }
    house.disk.set_faults(None);
    // A fault may have ended the gateway until now, and another has to be started.
    keep_end.cancel();
    keeping.await.expect("a gateway runs in the end");
    house.clock_off.store(0, Ordering::SeqCst);
    *world.weather.lock().unwrap() = Weather {
        faults: 0,
        storm: false,
        ..weather
    };
    let late = CancellationToken::new();
    let pushing = tokio::spawn(pushes::run(house.clone(), carried.clone(), late.clone()));
    sleep(Duration::from_secs(20 * 60)).await;
    clients.sort_by_key(|(client, _)| client.tag);
    if std::env::var("YETA_SIMULATION_SEED").is_ok() {
        println!("{troubles:?}");
        for (client, learned) in &clients {
            println!("{client:?}: {learned:?}");
        }
    }
    let tally = check(&house, &mut clients, &carried).await;
    late.cancel();
    pushing.await.expect("pushes come to their end");
    tally
}

/// Stops the store, moves the clock, and hides the platform, now and then.
async fn trouble(
    troubles: Troubles,
    house: Arc<House>,
    outage: Arc<AtomicBool>,
    end: CancellationToken,
) {
    while !end.is_cancelled() {
        let wait = house.random(|it| it.random_range(1000..15_000));
        let _ = end
            .run_until_cancelled(sleep(Duration::from_millis(wait)))
            .await;
        if end.is_cancelled() {
            break;
        }
        if troubles.outages {
            outage.store(true, Ordering::SeqCst);
            let lasts = house.random(|it| it.random_range(100..6000));
            sleep(Duration::from_millis(lasts)).await;
            outage.store(false, Ordering::SeqCst);
        }
        if troubles.clock {
            let jumps = [0, -3_600_000, 86_400_000, 31 * 86_400_000, -600_000];
            let jump = house.random(|it| jumps[it.random_range(0..jumps.len())]);
            house.clock_off.store(jump, Ordering::SeqCst);
        }
        if troubles.storm {
            house.world.weather.lock().unwrap().storm = true;
            let lasts = house.random(|it| it.random_range(1000..20_000));
            sleep(Duration::from_millis(lasts)).await;
            house.world.weather.lock().unwrap().storm = false;
        }
    }
    outage.store(false, Ordering::SeqCst);
}

/// Runs a world on a runtime of its own; a failure names its seed.
fn run_seed(seed: u64) -> Tally {
    struct Named(u64);
    impl Drop for Named {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!(
                    "world {0} fails; YETA_SIMULATION_SEED={0} runs it again",
                    self.0
                );
            }
        }
    }
    let _named = Named(seed);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Without this, tokio wakes those who wait for one thing in an order of its own.
    #[cfg(tokio_unstable)]
    runtime.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_be_bytes()));
    let runtime = runtime.enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime can be built");
    // Time is simulated, so a world in which nothing can go on ends at once.
    let ended = runtime.block_on(async { timeout(MAX_WORLD, run_world(seed)).await });
    ended.expect("the world comes to its end")
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Injected panics are no news.
fn silence_injected_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let is_injected = info
            .payload()
            .downcast_ref::<&str>()
            .is_some_and(|text| *text == "injected fault");
        if !is_injected {
            usual(info);
        }
    }));
}

#[test]
fn nobody_is_dialled_twice_and_nothing_unsent_counts_as_sent() {
    silence_injected_panics();
    if let Some(seed) = from_environment("YETA_SIMULATION_SEED") {
        // Exact with `--cfg tokio_unstable`; without, a world is run until it fails.
        let times = if cfg!(tokio_unstable) { 1 } else { 50 };
        for _ in 0..times {
            println!("{:?}", run_seed(seed));
        }
        return;
    }
    let wanted = from_environment("YETA_SIMULATION_SUBMISSIONS").unwrap_or(100_000);
    let worlds = wanted.div_ceil(u64::from(CLIENTS));
    let first = from_environment("YETA_SIMULATION_FIRST").unwrap_or(0);
    println!("worlds {first} to {}", first + worlds);
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let tally = std::thread::scope(|scope| {
        let run = || {
            let mut tally = Tally::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + worlds {
                    return tally;
                }
                tally.add(&run_seed(seed));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let mut tally = Tally::default();
        for thread in threads {
            tally.add(&thread.join().expect("every world is well"));
        }
        tally
    });
    println!("{tally:?}");
    tally.assert_that_much_was_seen(wanted);
}
