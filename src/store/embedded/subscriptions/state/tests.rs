//! The state against a simple model of it, by random steps on a clock of their own.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::super::ack_id::AckId;
use super::*;
use crate::push::{Cursor, EventId, Position, StoreId};
use crate::store::subscriptions::{AckOutcome, Backoff, Nack, Spec, Window};
use crate::store::{Header, NewEntry};

const DEADLINE: Millis = 100;
const MAX_ATTEMPTS: u32 = 3;
const WINDOW: usize = 5;
const MEMBERS: u64 = 3;

#[derive(Clone, Debug)]
enum Op {
    Append(u64),
    Join(MemberId),
    Leave(MemberId),
    Ask(MemberId),
    Ack(prop::sample::Index),
    Nack(prop::sample::Index, Option<u64>),
    Park(prop::sample::Index),
    Extend(prop::sample::Index, u64),
    Pass(Millis),
    Restart,
    Redrive,
    Seek(prop::sample::Index),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let member = || 0..MEMBERS;
    let id = any::<prop::sample::Index>;
    let op = prop_oneof![
        3 => (1..20_u64).prop_map(Op::Append),
        2 => member().prop_map(Op::Join),
        1 => member().prop_map(Op::Leave),
        8 => member().prop_map(Op::Ask),
        6 => id().prop_map(Op::Ack),
        3 => (id(), prop::option::of(0..150_u64)).prop_map(|(id, delay)| Op::Nack(id, delay)),
        1 => id().prop_map(Op::Park),
        2 => (id(), 0..300_u64).prop_map(|(id, by)| Op::Extend(id, by)),
        4 => (0..120_u64).prop_map(Op::Pass),
        1 => Just(Op::Restart),
        1 => Just(Op::Redrive),
        1 => id().prop_map(Op::Seek),
    ];
    prop::collection::vec(op, 1..120)
}

/// What the model knows of an entry that is not settled.
#[derive(Clone, Debug, Default)]
struct Live {
    failed: u32,
    /// Who has it, and until when.
    out: Option<(MemberId, Millis)>,
    ready_at: Millis,
    /// The latest delivery; none since a restart: then any earlier one counts.
    latest: Option<AckId>,
    /// Whether that delivery has been counted as failed.
    is_counted: bool,
    /// Whether ids from before count for nothing, as it was parked since.
    is_redriven: bool,
    given_at: Millis,
    /// How many members in a row left within a second of its delivery.
    breaks: u32,
}

#[derive(Clone, Debug)]
enum Known {
    Live(Live),
    Settled,
    Parked(u32),
}

struct World {
    state: State,
    spec: Spec,
    now: Millis,
    end: u64,
    seed: u64,
    known: BTreeMap<u64, Known>,
    /// Every id ever handed out.
    ids: Vec<AckId>,
}

impl World {
    fn new() -> Self {
        let spec = Spec {
            ack_deadline: Duration::from_millis(DEADLINE),
            max_attempts: MAX_ATTEMPTS,
            backoff: Backoff {
                minimum: Duration::from_millis(20),
                maximum: Duration::from_millis(30),
            },
            ..Spec::default()
        };
        Self {
            state: State::new(Progress::default(), 0, 0, 7),
            spec,
            now: 0,
            end: 0,
            seed: 7,
            known: BTreeMap::new(),
            ids: Vec::new(),
        }
    }

    fn live(&mut self, number: u64) -> Option<&mut Live> {
        match self.known.get_mut(&number) {
            Some(Known::Live(live)) => Some(live),
            _ => None,
        }
    }

    /// Lets deadlines pass, in the state and in the model.
    fn expire(&mut self) {
        let parked = self.state.expire(&self.spec, self.now);
        let mut expected = Vec::new();
        let overdue: Vec<_> = self
            .known
            .iter()
            .filter_map(|(number, known)| match known {
                Known::Live(Live {
                    out: Some((_, until)),
                    ..
                }) if *until <= self.now => Some(*number),
                _ => None,
            })
            .collect();
        for number in overdue {
            expected.extend(self.fail(number, None).map(|attempts| (number, attempts)));
        }
        let mut parked: Vec<_> = parked.iter().map(|p| (p.number, p.attempts)).collect();
        parked.sort_unstable();
        assert_eq!(parked, expected);
    }

    /// A failed attempt in the model; tells the attempts if it was the last.
    fn fail(&mut self, number: u64, delay: Option<Millis>) -> Option<u32> {
        let now = self.now;
        let backoff = self.spec.backoff;
        let live = self.live(number).expect("only what is live can fail");
        live.failed += 1;
        live.breaks = 0;
        live.out = None;
        live.is_counted = true;
        let backoff = millis(backoff.after(live.failed));
        live.ready_at = now + delay.unwrap_or(backoff);
        let failed = live.failed;
        if failed < MAX_ATTEMPTS {
            return None;
        }
        self.known.insert(number, Known::Parked(failed));
        Some(failed)
    }

    /// Reads for the members until nothing more can be handed out; checks what was.
    fn pump(&mut self) {
        loop {
            self.expire();
            for given in self.state.hand_out(&self.spec, self.now) {
                self.check(&given);
            }
            match self.state.want(&self.spec, self.end) {
                Want::After(after) => {
                    let up_to = self.end.min(after + 7);
                    self.state.take(up_to, (after + 1..=up_to).map(entry));
                }
                Want::Entries(numbers) => {
                    for number in numbers {
                        self.state.load(entry(number));
                    }
                }
                Want::Nothing => return,
            }
        }
    }

    fn check(&mut self, given: &Given) {
        let Given {
            member,
            number,
            tag,
            attempt,
            ..
        } = *given;
        let id = AckId {
            subscription: 1,
            generation: self.state.generation(),
            number,
            tag,
        };
        let now = self.now;
        let live = self
            .live(number)
            .expect("what is settled is not handed out");
        assert_eq!(live.out, None, "one holder");
        assert!(live.ready_at <= now, "not before its wait is over");
        assert_eq!(attempt, live.failed + 1);
        *live = Live {
            failed: live.failed,
            out: Some((member, now + DEADLINE)),
            latest: Some(id),
            given_at: now,
            breaks: live.breaks,
            ..Live::default()
        };
        self.ids.push(id);
        let held = self.known.values().filter_map(|known| match known {
            Known::Live(live) if live.out.is_some_and(|(holder, _)| holder == member) => Some(live),
            _ => None,
        });
        let held: Vec<_> = held.collect();
        assert!(held.len() <= WINDOW, "never more than the window");
        let is_any_suspect = held.iter().any(|live| live.breaks == 2);
        assert!(!is_any_suspect || held.len() == 1, "a suspect is alone");
    }

    /// What the model says of an id.
    fn judge(&self, id: &AckId) -> AckOutcome {
        if id.generation != self.state.generation() {
            return AckOutcome::Superseded;
        }
        match self.known.get(&id.number) {
            Some(Known::Live(live)) if live.is_redriven => AckOutcome::Superseded,
            Some(Known::Live(live)) => match live.latest {
                Some(latest) if latest != *id => AckOutcome::Superseded,
                _ => AckOutcome::Ok,
            },
            _ => AckOutcome::Unknown,
        }
    }

    fn apply(&mut self, op: &Op) {
        self.expire();
        match *op {
            Op::Append(count) => {
                for number in self.end + 1..=self.end + count {
                    self.known.insert(number, Known::Live(Live::default()));
                }
                self.end += count;
            }
            Op::Join(member) => {
                self.leave(member);
                let window = Window {
                    events: WINDOW,
                    bytes: usize::MAX,
                };
                self.state.join(member, window);
            }
            Op::Leave(member) => self.leave(member),
            Op::Ask(member) => {
                self.state.ask(member, true);
                self.pump();
            }
            Op::Pass(ms) => self.now += ms,
            Op::Restart => self.restart(),
            Op::Redrive => self.redrive(),
            Op::Seek(ref to) => self.seek(to.index(usize::try_from(self.end).unwrap() + 1) as u64),
            Op::Ack(_) | Op::Nack(..) | Op::Park(_) | Op::Extend(..) => self.settle(op),
        }
    }

    fn settle(&mut self, op: &Op) {
        let (Op::Ack(at) | Op::Nack(at, _) | Op::Park(at) | Op::Extend(at, _)) = op else {
            return;
        };
        if self.ids.is_empty() {
            return;
        }
        let id = *at.get(&self.ids);
        let mut expected = self.judge(&id);
        let out = self.live(id.number).and_then(|live| live.out);
        let is_counted = self.live(id.number).is_some_and(|live| live.is_counted);
        match *op {
            Op::Ack(_) => {
                assert_eq!(self.state.ack(&id, self.end), expected);
                if expected == AckOutcome::Ok {
                    self.known.insert(id.number, Known::Settled);
                }
            }
            Op::Nack(_, delay) => {
                if expected == AckOutcome::Ok && is_counted {
                    expected = AckOutcome::Unknown;
                }
                let how = Nack::Retry {
                    delay: delay.map(Duration::from_millis),
                    reason: String::new(),
                };
                let (outcome, parked) = self.state.nack(&id, self.end, &how, &self.spec, self.now);
                assert_eq!(outcome, expected);
                if expected == AckOutcome::Ok {
                    let attempts = self.fail(id.number, delay);
                    assert_eq!(parked.map(|parked| parked.attempts), attempts);
                }
            }
            Op::Park(_) => {
                let reason = "no use".to_owned();
                let how = Nack::Park { reason };
                let (outcome, parked) = self.state.nack(&id, self.end, &how, &self.spec, self.now);
                assert_eq!(outcome, expected);
                if expected == AckOutcome::Ok {
                    let failed = self.live(id.number).map_or(0, |live| live.failed);
                    let attempts = failed + u32::from(!is_counted);
                    assert_eq!(parked.map(|parked| parked.attempts), Some(attempts));
                    self.known.insert(id.number, Known::Parked(attempts));
                }
            }
            Op::Extend(_, by) => {
                if expected == AckOutcome::Ok && out.is_none() {
                    expected = AckOutcome::Unknown;
                }
                let by_ms = Duration::from_millis(by);
                assert_eq!(self.state.extend(&id, by_ms, self.now), expected);
                let until = self.now + by;
                if let (AckOutcome::Ok, Some((member, _))) = (expected, out)
                    && let Some(live) = self.live(id.number)
                {
                    live.out = Some((member, until));
                }
            }
            _ => {}
        }
    }

    fn leave(&mut self, member: MemberId) {
        let parked = self.state.leave(member, Some(self.now));
        let parked: Vec<_> = parked.iter().map(|it| (it.number, it.attempts)).collect();
        let mut expected = Vec::new();
        for (&number, known) in &mut self.known {
            let Known::Live(live) = known else { continue };
            if live.out.is_none_or(|(holder, _)| holder != member) {
                continue;
            }
            let is_break = self.now.saturating_sub(live.given_at) < 1000;
            live.breaks = if is_break { live.breaks + 1 } else { 0 };
            live.out = None;
            if live.breaks == 3 {
                let attempts = live.failed + 3;
                expected.push((number, attempts));
                *known = Known::Parked(attempts);
            }
        }
        assert_eq!(parked, expected);
    }

    /// Another process goes on from what was kept.
    fn restart(&mut self) {
        let kept = self.state.progress(self.now, self.now).encode_to_vec();
        let progress = Progress::decode(kept.as_slice()).unwrap();
        self.seed = self
            .seed
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(1);
        self.state = State::new(progress, self.now, self.now, self.seed);
        for known in self.known.values_mut() {
            if let Known::Live(live) = known {
                (live.out, live.latest) = (None, None);
                (live.is_counted, live.is_redriven) = (false, false);
                live.breaks = 0;
            }
        }
    }

    fn redrive(&mut self) {
        for (number, known) in &mut self.known {
            if matches!(known, Known::Parked(_)) {
                self.state.redrive(*number);
                *known = Known::Live(Live {
                    is_redriven: true,
                    ..Live::default()
                });
            }
        }
    }

    fn seek(&mut self, after: u64) {
        self.state.seek(after);
        for (number, known) in &mut self.known {
            *known = if *number > after {
                Known::Live(Live::default())
            } else if let Known::Parked(attempts) = known {
                Known::Parked(*attempts)
            } else {
                Known::Settled
            };
        }
    }

    /// Hands out and acknowledges until there is nothing left.
    fn finish(&mut self) {
        (0..MEMBERS).for_each(|member| self.leave(member));
        self.redrive();
        self.apply(&Op::Join(0));
        loop {
            self.now += DEADLINE;
            let before = self.ids.len();
            self.apply(&Op::Ask(0));
            let out = self.ids.split_off(before);
            for id in &out {
                assert_eq!(self.state.ack(id, self.end), AckOutcome::Ok);
                self.known.insert(id.number, Known::Settled);
            }
            // What waits for another attempt is still to come.
            let is_waiting = self.state.next_timer().is_some();
            if out.is_empty() && !is_waiting && self.state.is_caught_up(self.end) {
                break;
            }
        }
        let left: Vec<_> = self
            .known
            .iter()
            .filter(|(_, known)| !matches!(known, Known::Settled))
            .collect();
        assert!(left.is_empty(), "lost: {left:?}");
        assert_eq!(self.state.place(), self.end);
        assert_eq!(self.state.unacked().0, 0);
    }
}

fn entry(number: u64) -> Arc<Entry> {
    let cursor = Cursor {
        store: StoreId([0; 8]),
        position: Position(number),
    };
    let id = EventId::of_raw("account", "module", &number.to_be_bytes());
    let entry = NewEntry {
        id,
        header: Header::default(),
        event: Bytes::new(),
        raw: Bytes::new(),
    };
    Arc::new(Entry::new(cursor, number, entry))
}

#[test]
fn what_is_lost_beyond_what_was_read_does_not_take_along_what_lies_before_it() {
    let mut world = World::new();
    for op in [Op::Append(9), Op::Join(0), Op::Ask(0)] {
        world.apply(&op);
    }
    // The fifth has failed, the others are out: after a restart it alone is known.
    let fifth = world.ids[4];
    let how = Nack::Retry {
        delay: None,
        reason: String::new(),
    };
    let (outcome, _) = world.state.nack(&fifth, 9, &how, &world.spec, 0);
    assert_eq!(outcome, AckOutcome::Ok);
    world.fail(5, None);
    world.restart();
    assert_eq!(world.state.lose(5..=5), 1);
    world.known.insert(5, Known::Settled);
    world.finish();
    assert_eq!(world.state.lost(), 1);
}

#[test]
fn what_breaks_its_member_three_times_in_a_row_is_parked_and_nothing_else_is() {
    let mut world = World::new();
    world.apply(&Op::Append(3));
    // Each client leaves at the second entry; those before it are acknowledged.
    let mut given = Vec::new();
    for _ in 0..3 {
        world.apply(&Op::Join(0));
        let before = world.ids.len();
        loop {
            let asked = world.ids.len();
            world.apply(&Op::Ask(0));
            let new = world.ids[asked..].to_vec();
            if new.is_empty() {
                break;
            }
            for id in new.iter().take_while(|id| id.number != 2) {
                assert_eq!(world.state.ack(id, 3), AckOutcome::Ok);
                world.known.insert(id.number, Known::Settled);
            }
            if new.iter().any(|id| id.number == 2) {
                break;
            }
        }
        given.push(world.ids[before..].iter().map(|id| id.number).collect());
        world.apply(&Op::Leave(0));
    }
    let given: Vec<Vec<u64>> = given;
    assert_eq!(given, [vec![1, 2, 3], vec![2, 3], vec![2]]);
    assert!(matches!(world.known[&2], Known::Parked(3)));
    assert!(matches!(world.known[&3], Known::Live(_)));
    world.finish();
}

#[test]
fn a_suspect_whose_deadline_is_extended_stays_alone() {
    let mut world = World::new();
    world.apply(&Op::Append(1));
    for _ in 0..2 {
        world.apply(&Op::Join(0));
        world.apply(&Op::Ask(0));
    }
    world.apply(&Op::Join(0));
    world.apply(&Op::Ask(0));
    let suspect = *world.ids.last().unwrap();
    let by = Duration::from_millis(DEADLINE);
    assert_eq!(world.state.extend(&suspect, by, world.now), AckOutcome::Ok);
    let given = world.ids.len();
    world.apply(&Op::Append(4));
    world.apply(&Op::Ask(0));
    assert_eq!(world.ids.len(), given);
}

#[test]
fn what_members_that_leave_in_order_held_is_never_parked() {
    let mut state = State::new(Progress::default(), 0, 0, 7);
    let spec = World::new().spec;
    state.take(1, [entry(1)]);
    for _ in 0..5 {
        let window = Window {
            events: WINDOW,
            bytes: usize::MAX,
        };
        state.join(0, window);
        state.load(entry(1));
        state.ask(0, true);
        assert_eq!(state.hand_out(&spec, 0).len(), 1);
        assert_eq!(state.leave(0, None), []);
    }
}

#[test]
fn a_member_that_leaves_later_or_a_failed_attempt_begins_the_count_anew() {
    let mut world = World::new();
    world.apply(&Op::Append(1));
    for step in 0..8 {
        world.apply(&Op::Join(0));
        world.apply(&Op::Ask(0));
        if step % 3 == 2 {
            // The deadline is moved, so that the member has it for a second.
            let id = *world.ids.last().unwrap();
            let by = Duration::from_millis(2000);
            assert_eq!(world.state.extend(&id, by, world.now), AckOutcome::Ok);
            world.now += 1000;
            world.live(1).unwrap().out = Some((0, world.now + 1000));
        }
        world.apply(&Op::Leave(0));
    }
    assert!(matches!(world.known[&1], Known::Live(_)));
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_is_lost_handed_out_twice_or_beyond_a_window_and_attempts_are_right(ops in ops()) {
        let mut world = World::new();
        for op in ops {
            world.apply(&op);
        }
        world.finish();
    }
}
