//! Earlier answers, for when there is none: bounded in bytes and in age.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// What an answer takes besides its own bytes, about.
const OVERHEAD: usize = 200;

/// Answers by account, robot and `call_relation_id`: another robot may be served by another service,
/// and its script has other names. All are kept for the same time, so the oldest is always the
/// first to go.
pub(super) struct Cache {
    keep: Duration,
    max_bytes: usize,
    held: Mutex<Held>,
}

/// Which questions an answer may be given to: account, robot and `call_relation_id`.
type Key = [String; 3];
/// The same, to look with.
pub(super) type Of<'a> = [&'a str; 3];

#[derive(Default)]
struct Held {
    /// With the number of the time that it was put.
    answers: HashMap<Key, (u64, Bytes)>,
    /// Oldest first; what has been replaced since stands here, too.
    order: VecDeque<(Instant, u64, Key)>,
    puts: u64,
    bytes: usize,
}

impl Cache {
    /// One that keeps nothing if either bound is zero.
    pub fn new(keep: Duration, max_bytes: usize) -> Self {
        Self {
            keep,
            max_bytes,
            held: Mutex::default(),
        }
    }

    pub fn put(&self, of: Of<'_>, answer: &Bytes) {
        let key = of.map(str::to_owned);
        let [_, _, id] = &key;
        let weight = weight(&key, answer);
        if self.keep.is_zero() || id.is_empty() || weight > self.max_bytes {
            return;
        }
        let now = Instant::now();
        let mut held = self.held();
        held.forget(&key);
        held.puts += 1;
        let number = held.puts;
        held.answers.insert(key.clone(), (number, answer.clone()));
        held.order.push_back((now, number, key));
        held.bytes += weight;
        self.tidy(&mut held, now);
    }

    pub fn get(&self, of: Of<'_>) -> Option<Bytes> {
        if self.keep.is_zero() {
            return None;
        }
        let mut held = self.held();
        self.tidy(&mut held, Instant::now());
        let key = of.map(str::to_owned);
        held.answers.get(&key).map(|(_, answer)| answer.clone())
    }

    /// Drops what is too old, and the oldest while there is too much.
    fn tidy(&self, held: &mut Held, now: Instant) {
        while let Some((at, _, _)) = held.order.front() {
            let goes = now.duration_since(*at) >= self.keep
                || held.bytes > self.max_bytes
                // Of answers replaced again and again only the last counts.
                || held.order.len() > 2 * held.answers.len() + 16;
            if !goes {
                break;
            }
            let Some((_, number, key)) = held.order.pop_front() else {
                break;
            };
            if held.answers.get(&key).is_some_and(|(n, _)| *n == number) {
                held.forget(&key);
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // A panic elsewhere leaves answers behind that are whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn forget(&mut self, key: &Key) {
        if let Some((_, answer)) = self.answers.remove(key) {
            self.bytes -= weight(key, &answer);
        }
    }
}

fn weight(key: &Key, answer: &Bytes) -> usize {
    // The key stands in the map and in the order.
    OVERHEAD + 2 * key.iter().map(String::len).sum::<usize>() + answer.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_their_time_from_the_last_one_on() {
        let cache = Cache::new(Duration::from_secs(10), 1 << 20);
        cache.put(["a", "7", "1"], &answer("old"));
        tokio::time::advance(Duration::from_secs(6)).await;
        cache.put(["a", "7", "1"], &answer("new"));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(cache.get(["a", "7", "1"]), Some(answer("new")));
        assert_eq!(cache.get(["b", "7", "1"]), None);
        assert_eq!(cache.get(["a", "8", "1"]), None);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(cache.get(["a", "7", "1"]), None);
        let held = cache.held();
        assert_eq!((held.bytes, held.order.len()), (0, 0));
    }

    #[tokio::test]
    async fn the_oldest_go_when_there_is_too_much() {
        let one = weight(&["a", "7", "1"].map(str::to_owned), &answer("x"));
        let cache = Cache::new(Duration::from_secs(10), 2 * one);
        for id in ["1", "2", "3"] {
            cache.put(["a", "7", id], &answer("x"));
        }
        let held = ["1", "2", "3"].map(|id| cache.get(["a", "7", id]).is_some());
        assert_eq!(held, [false, true, true]);
        cache.put(["a", "7", "4"], &Bytes::from(vec![0; 4 * one]));
        assert_eq!(cache.get(["a", "7", "4"]), None);
    }

    #[tokio::test]
    async fn one_answer_replaced_again_and_again_takes_the_room_of_a_few() {
        let cache = Cache::new(Duration::from_secs(10), 1 << 20);
        for _ in 0..1000 {
            cache.put(["a", "7", "1"], &answer("x"));
        }
        assert_eq!(cache.get(["a", "7", "1"]), Some(answer("x")));
        assert!(cache.held().order.len() < 32);
    }

    #[tokio::test]
    async fn nothing_is_kept_without_leave_or_an_id() {
        let never = Cache::new(Duration::ZERO, 1 << 20);
        never.put(["a", "7", "1"], &answer("x"));
        assert_eq!(never.get(["a", "7", "1"]), None);
        let cache = Cache::new(Duration::from_secs(10), 1 << 20);
        cache.put(["a", "7", ""], &answer("x"));
        assert_eq!(cache.get(["a", "7", ""]), None);
    }
}
