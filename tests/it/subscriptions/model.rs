//! Random operations against a simple model: nothing is lost, nothing acknowledged comes again,
//! windows hold, attempts are right, and each entry is out with one member at a time; also over
//! clean ends and kills.
//!
//! Deadlines are long, so that a walk is the same whenever its seed is.

use std::collections::HashSet;

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use yeta_gateway::push::Position;
use yeta_gateway::store::subscriptions::{
    AckOutcome, Change, Delivery, Handed, Member, Nack, Window,
};

use super::{Engine, LONG, NAME, Opened, after, at_once, id_of, of_account, park, some, spec};

const WALKS: u64 = 6;
const STEPS: usize = 400;
const MAX_ATTEMPTS: u32 = 3;
/// No entry is larger, whatever an engine counts beside its bytes.
const LARGEST: usize = 5000;

#[tokio::test]
async fn random_operations_agree_with_a_simple_model() {
    let seed: u64 =
        std::env::var("YETA_TEST_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    println!("seed {seed} (YETA_TEST_SEED={seed} to run it again)");
    for walk in 0..WALKS {
        Walk::new(seed.wrapping_add(walk), walk % 2 == 0)
            .await
            .run()
            .await;
    }
}

/// What the model knows of an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Not handed out, since the start or the last move.
    New,
    /// Not matched by the filter.
    LeftOut,
    /// Out with the member of this number.
    Out(u64),
    /// Given back by a member that left, or by a process that ended.
    Back,
    /// Refused, to be handed out again.
    Waiting,
    /// Refused, to be handed out again in an hour; perhaps earlier if the process ended since.
    Delayed {
        in_vain: bool,
    },
    /// Parked once, and to be delivered again.
    Redriven,
    Parked,
    /// Acknowledged, or before the place that the subscription was moved to.
    Done,
}

#[derive(Debug)]
struct Known {
    text: String,
    size: usize,
    state: State,
    failed: u32,
    latest: Option<String>,
    /// Whether the process has ended since it was handed out.
    reopened: bool,
}

struct Joined {
    number: u64,
    window: Window,
    member: Box<dyn Member>,
}

struct Walk {
    random: StdRng,
    engine: Engine,
    opened: Opened,
    entries: Vec<Known>,
    members: Vec<Joined>,
    joined: u64,
    paused: bool,
    /// Whether members ask only when there is something for them. One that asks in vain goes on
    /// asking: what it is handed meanwhile shows when it looks again.
    never_in_vain: bool,
    /// Who has asked in vain.
    asking: HashSet<u64>,
    /// Whether anybody has since the process began.
    was_in_vain: bool,
    /// Every ack id ever, with its entry.
    ids: Vec<(String, usize)>,
    told: Vec<String>,
}

impl Walk {
    async fn new(seed: u64, never_in_vain: bool) -> Self {
        let engine = Engine::new();
        let mut wanted = spec(LONG);
        wanted.filter = of_account("sales");
        wanted.max_attempts = MAX_ATTEMPTS;
        let opened = Opened::with(&engine, wanted).await;
        Self {
            random: StdRng::seed_from_u64(seed),
            engine,
            opened,
            entries: Vec::new(),
            members: Vec::new(),
            joined: 0,
            paused: false,
            never_in_vain,
            asking: HashSet::new(),
            was_in_vain: false,
            ids: Vec::new(),
            told: vec![format!("walk {seed}")],
        }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.random_range(0..100) {
                0..15 => self.append().await,
                15..22 => self.join().await,
                22..26 => self.leave(),
                26..56 => self.next().await,
                56..74 => self.ack().await,
                74..84 => self.nack().await,
                84..88 => self.park().await,
                88..91 => self.redrive().await,
                91..93 => self.seek().await,
                93..97 => self.pause().await,
                _ => self.reopen().await,
            }
            self.check().await;
        }
        self.finish().await;
    }

    fn note(&mut self, step: String) {
        self.told.push(step);
    }

    /// The walk so far, for a failure's report.
    fn story(&self) -> String {
        let from = self.told.len().saturating_sub(40);
        format!("{}\n…\n{}", self.told[0], self.told[from..].join("\n"))
    }

    async fn append(&mut self) {
        for _ in 0..self.random.random_range(1..8) {
            let account = if self.random.random_ratio(1, 6) {
                "other"
            } else {
                "sales"
            };
            let size = if self.random.random_ratio(1, 5) {
                3000
            } else {
                10
            };
            let text = format!("{:0>size$}", self.entries.len());
            let position = self.opened.append_to(account, [&text]).await;
            self.entries.push(Known {
                size: text.len(),
                text,
                state: if account == "sales" {
                    State::New
                } else {
                    State::LeftOut
                },
                failed: 0,
                latest: None,
                reopened: false,
            });
            assert_eq!(position.0, self.entries.len() as u64);
        }
        self.note(format!("append up to {}", self.entries.len()));
    }

    async fn join(&mut self) {
        if self.members.len() == 4 {
            return;
        }
        let window = Window {
            events: self.random.random_range(1..12),
            bytes: self.random.random_range(1..30_000),
        };
        self.joined += 1;
        let number = self.joined;
        self.note(format!("member {number} joins with {window:?}"));
        let member = self.opened.join(NAME, window).await.unwrap();
        self.members.push(Joined {
            number,
            window,
            member,
        });
    }

    fn leave(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let leaving = self.random.random_range(0..self.members.len());
        let leaving = self.members.swap_remove(leaving);
        self.asking.remove(&leaving.number);
        self.note(format!("member {} leaves", leaving.number));
        for entry in &mut self.entries {
            if entry.state == State::Out(leaving.number) {
                entry.state = State::Back;
            }
        }
    }

    /// How many entries a member holds, and their bytes.
    fn held(&self, number: u64) -> (usize, usize) {
        let held = self
            .entries
            .iter()
            .filter(|e| e.state == State::Out(number));
        held.fold((0, 0), |(count, bytes), entry| {
            (count + 1, bytes + entry.size)
        })
    }

    fn is_ready(entry: &Known) -> bool {
        use State::{Back, New, Redriven, Waiting};
        matches!(entry.state, New | Back | Waiting | Redriven)
    }

    async fn next(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.members.len());
        let (number, window) = (self.members[at].number, self.members[at].window);
        let (count, bytes) = self.held(number);
        let has_room =
            count == 0 || count < window.events && bytes + (count + 1) * LARGEST <= window.bytes;
        let is_alone = self.asking.iter().all(|other| *other == number);
        let is_there = self.entries.iter().any(Self::is_ready);
        let must = has_room && is_alone && !self.paused && is_there;
        if self.never_in_vain && !must {
            return;
        }
        self.note(format!(
            "member {number} asks; it holds {count}, {bytes} bytes; must: {must}"
        ));
        let member = &mut self.members[at].member;
        if !must {
            self.was_in_vain = true;
        }
        let deliveries = if must {
            let handed = std::panic::AssertUnwindSafe(some(member))
                .catch_unwind()
                .await;
            handed.unwrap_or_else(|_| panic!("nothing is handed out:\n{}", self.story()))
        } else {
            peek(member).await
        };
        if must {
            self.asking.remove(&number);
        } else {
            self.asking.insert(number);
        }
        for delivery in &deliveries {
            self.handed(number, delivery);
        }
        let (count, bytes) = self.held(number);
        assert!(
            count <= window.events,
            "{count} entries held:\n{}",
            self.story()
        );
        assert!(
            count <= 1 || bytes <= window.bytes,
            "{bytes} bytes held:\n{}",
            self.story()
        );
    }

    fn handed(&mut self, number: u64, delivery: &Delivery) {
        let at = usize::try_from(delivery.entry.cursor.position.0).unwrap() - 1;
        self.note(format!(
            "  entry {} as attempt {}",
            at + 1,
            delivery.attempt
        ));
        let story = self.story();
        let may_be = !self.paused || self.was_in_vain;
        assert!(may_be, "handed out while paused:\n{story}");
        let entry = &mut self.entries[at];
        assert_eq!(delivery.entry.raw, entry.text.as_bytes(), "{story}");
        assert!(
            Self::is_ready(entry) || entry.state == (State::Delayed { in_vain: true }),
            "{:?} and handed out:\n{story}",
            entry.state
        );
        assert_eq!(delivery.attempt, entry.failed + 1, "{story}");
        entry.state = State::Out(number);
        entry.reopened = false;
        entry.latest = Some(delivery.ack_id.clone());
        let earlier: HashSet<_> = self.ids.iter().map(|(id, _)| id).collect();
        assert!(
            !earlier.contains(&delivery.ack_id),
            "an ack id used again:\n{story}"
        );
        self.ids.push((delivery.ack_id.clone(), at));
    }

    /// Some ack ids: of what is out, and now and then of anything that ever was.
    fn pick(&mut self) -> Vec<(String, usize)> {
        let mut candidates: Vec<_> = self
            .ids
            .iter()
            .filter(|(id, at)| {
                let entry = &self.entries[*at];
                entry.latest.as_ref() == Some(id)
                    && matches!(entry.state, State::Out(_) | State::Back)
            })
            .cloned()
            .collect();
        candidates.shuffle(&mut self.random);
        candidates.truncate(self.random.random_range(0..8));
        if let Some(old) = self.ids.choose(&mut self.random)
            && !candidates.contains(old)
        {
            candidates.push(old.clone());
        }
        candidates
    }

    /// Holds an outcome against the model; gives whether the id counted.
    fn counted(&self, id: &str, at: usize, outcome: AckOutcome) -> bool {
        use AckOutcome::{Ok, Superseded, Unknown};
        let entry = &self.entries[at];
        let is_latest = entry.latest.as_deref() == Some(id);
        let expected: &[AckOutcome] = match entry.state {
            State::Done | State::Parked if is_latest => &[Unknown],
            State::Done | State::Parked | State::New | State::LeftOut => &[Superseded, Unknown],
            // What was out when a process ended is known no more, only that it is not settled.
            _ if entry.reopened => &[Ok, Superseded, Unknown],
            State::Out(_) if is_latest => &[Ok],
            State::Back if is_latest && !self.was_in_vain => &[Ok],
            State::Back | State::Waiting | State::Delayed { .. } if is_latest => {
                &[Ok, Superseded, Unknown]
            }
            _ => &[Superseded],
        };
        assert!(
            expected.contains(&outcome),
            "{outcome:?} for entry {} in {:?}, latest: {is_latest}:\n{}",
            at + 1,
            entry.state,
            self.story()
        );
        outcome == Ok
    }

    async fn ack(&mut self) {
        let picked = self.pick();
        let ids: Vec<_> = picked.iter().map(|(id, _)| id.clone()).collect();
        let outcomes = self.opened.ack(NAME, &ids).await.unwrap();
        assert_eq!(outcomes.len(), ids.len());
        for ((id, at), outcome) in picked.iter().zip(outcomes) {
            self.note(format!("acknowledge {}: {outcome:?}", at + 1));
            if self.counted(id, *at, outcome) {
                self.entries[*at].state = State::Done;
            }
        }
    }

    async fn nack(&mut self) {
        let delayed = self.random.random_ratio(1, 4);
        let how = if delayed {
            after(LONG, "later")
        } else {
            at_once("no")
        };
        let state = if delayed {
            State::Delayed { in_vain: false }
        } else {
            State::Waiting
        };
        self.refuse(how, state).await;
    }

    async fn park(&mut self) {
        self.refuse(park("poison"), State::Parked).await;
    }

    async fn refuse(&mut self, how: Nack, becomes: State) {
        let mut picked = self.pick();
        // A second refusal of what waits already is left to a test of its own.
        picked.retain(|(_, at)| {
            !matches!(
                self.entries[*at].state,
                State::Waiting | State::Delayed { .. }
            )
        });
        picked.truncate(3);
        let ids: Vec<_> = picked.iter().map(|(id, _)| id.clone()).collect();
        let outcomes = self.opened.nack(NAME, &ids, how).await.unwrap();
        for ((id, at), outcome) in picked.iter().zip(outcomes) {
            self.note(format!("refuse {} for {becomes:?}: {outcome:?}", at + 1));
            if self.counted(id, *at, outcome) {
                let entry = &mut self.entries[*at];
                entry.failed += 1;
                let is_last = entry.failed >= MAX_ATTEMPTS;
                entry.state = if is_last { State::Parked } else { becomes };
            }
        }
    }

    async fn redrive(&mut self) {
        let parked: Vec<_> = (0..self.entries.len())
            .filter(|at| self.entries[*at].state == State::Parked)
            .collect();
        let some: Vec<_> = if self.random.random() {
            parked
        } else {
            parked.into_iter().take(2).collect()
        };
        let ids: Vec<_> = some
            .iter()
            .map(|at| id_of("sales", &self.entries[*at].text))
            .collect();
        let redriven = self.opened.redrive(NAME, Some(&ids)).await.unwrap();
        self.note(format!("redrive {some:?} (from 0): {redriven}"));
        assert_eq!(redriven, some.len() as u64, "{}", self.story());
        for at in some {
            let entry = &mut self.entries[at];
            (entry.state, entry.failed, entry.latest) = (State::Redriven, 0, None);
            entry.reopened = false;
        }
    }

    async fn seek(&mut self) {
        let to = self.random.random_range(0..=self.entries.len());
        self.note(format!("seek to {to}"));
        self.opened.seek(NAME, Position(to as u64)).await.unwrap();
        for (at, entry) in self.entries.iter_mut().enumerate() {
            match entry.state {
                State::LeftOut => continue,
                // Its ack ids are of before the move all the same.
                State::Parked if at < to => {
                    entry.latest = None;
                    continue;
                }
                _ => {}
            }
            entry.state = if at < to { State::Done } else { State::New };
            entry.failed = 0;
            entry.latest = None;
            entry.reopened = false;
        }
    }

    async fn pause(&mut self) {
        self.paused = !self.paused;
        self.note(format!("paused: {}", self.paused));
        let change = Change {
            paused: Some(self.paused),
            ..Change::default()
        };
        self.opened.update(NAME, change).await.unwrap();
    }

    async fn reopen(&mut self) {
        let is_killed = self.random.random();
        self.note(format!("reopen; killed: {is_killed}"));
        if is_killed {
            let copy = self.engine.as_killed();
            self.close().await;
            self.engine = copy;
        } else {
            self.close().await;
        }
        self.opened = self.engine.open().await;
        for entry in &mut self.entries {
            match &mut entry.state {
                State::Out(_) => entry.state = State::Back,
                State::Delayed { in_vain } => *in_vain = true,
                _ => {}
            }
            entry.reopened = true;
        }
        self.asking.clear();
        self.was_in_vain = false;
    }

    async fn close(&mut self) {
        self.members.clear();
        self.opened.subscriptions.close().await;
        yeta_gateway::store::PushLog::close(&*self.opened.log).await;
    }

    /// Holds what the engine tells against what the model knows, as closely as that is certain.
    async fn check(&mut self) {
        let info = self.opened.info().await;
        let count = |wanted: fn(&Known) -> bool| {
            self.entries.iter().filter(|entry| wanted(entry)).count() as u64
        };
        let prefix = |goes_on: fn(&Known) -> bool| {
            self.entries
                .iter()
                .take_while(|entry| goes_on(entry))
                .count() as u64
        };
        let dead = count(|e| e.state == State::Parked);
        assert_eq!(info.dead_letters, dead, "{}", self.story());
        assert_eq!(
            info.members as usize,
            self.members.len(),
            "{}",
            self.story()
        );
        assert_eq!(info.lost, 0, "{}", self.story());
        let is_unacked = |e: &Known| {
            use State::{Back, Delayed, Out, Waiting};
            matches!(e.state, Out(_) | Back | Waiting | Delayed { .. })
        };
        let surely = self
            .entries
            .iter()
            .filter(|e| is_unacked(e) && !e.reopened)
            .count() as u64;
        let in_vain = self.was_in_vain;
        let new = count(|e| e.state == State::New) * u64::from(in_vain);
        let at_most = new
            + count(|e| {
                use State::{Back, Delayed, Out, Redriven, Waiting};
                matches!(e.state, Out(_) | Back | Waiting | Delayed { .. } | Redriven)
            });
        assert!(
            (surely..=at_most).contains(&info.unacked),
            "{} of {surely} to {at_most} unacked:\n{}",
            info.unacked,
            self.story()
        );
        let settled = prefix(|e| {
            e.failed > 0
                || matches!(e.state, State::Done | State::Parked | State::LeftOut)
                || e.state == State::Redriven
        });
        // An entry that was redriven holds the place back, or does not.
        let unredriven = self.ids.is_empty() || info.place.0 <= settled || self.has_redriven();
        assert!(
            unredriven,
            "place {} of {settled}:\n{}",
            info.place.0,
            self.story()
        );
        assert!(info.place <= info.handed_out, "{info:?}\n{}", self.story());
        assert!(
            info.handed_out.0 <= self.entries.len() as u64,
            "{}",
            self.story()
        );
        let first_new = self.entries.iter().position(|e| e.state == State::New);
        if let Some(new) = first_new.filter(|_| !in_vain) {
            assert!(
                info.handed_out.0 <= new as u64,
                "{info:?}\n{}",
                self.story()
            );
        }
    }

    fn has_redriven(&self) -> bool {
        self.told.iter().any(|step| step.starts_with("redrive"))
    }

    /// Everything that is not settled comes, once, and is acknowledged; then there is nothing.
    async fn finish(mut self) {
        if self.paused {
            self.pause().await;
        }
        while !self.members.is_empty() {
            self.leave();
        }
        let parked = self
            .entries
            .iter()
            .filter(|e| e.state == State::Parked)
            .count();
        let redriven = self.opened.redrive(NAME, None).await.unwrap();
        assert_eq!(redriven, parked as u64, "{}", self.story());
        for entry in &mut self.entries {
            if entry.state == State::Parked {
                entry.state = State::Redriven;
                entry.failed = 0;
            }
        }
        let mut member = self.opened.member(100_000).await;
        self.note("the last member".into());
        while self.entries.iter().any(Self::is_ready) {
            let handed = std::panic::AssertUnwindSafe(some(&mut member))
                .catch_unwind()
                .await;
            let handed = handed.unwrap_or_else(|_| panic!("lost:\n{}", self.story()));
            for delivery in &handed {
                self.handed(0, delivery);
                let at = self.ids.last().unwrap().1;
                self.entries[at].state = State::Done;
            }
            self.opened.ack_all(&handed).await;
        }
        for delivery in peek(&mut member).await {
            self.handed(0, &delivery);
        }
    }
}

/// What a member is handed without having to wait for it.
async fn peek(member: &mut Box<dyn Member>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..10 {
        match member.next().now_or_never() {
            Some(Ok(Handed::Deliveries(more))) => deliveries.extend(more),
            Some(Err(error)) => panic!("{error}"),
            Some(Ok(Handed::CaughtUp)) | None => tokio::task::yield_now().await,
        }
    }
    deliveries
}
