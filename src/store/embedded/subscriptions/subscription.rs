//! One subscription at work: its state behind a lock, its members' inboxes, and what of it is still
//! to be written.

mod inbox;
mod pump;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::inbox::Inbox;
use super::ack_id::AckId;
use super::keeper::Keeper;
use super::saved::{self, Config, Dead, Progress};
use super::state::{Given, MemberId, Millis, Parked, State};
use crate::push::{Cursor, Position};
use crate::store::embedded::EmbeddedLog;
use crate::store::embedded::disk::Write;
use crate::store::subscriptions::{
    AckOutcome, Delivery, Handed, Info, Nack, Spec, SubscriptionError, Window,
};
use crate::store::{Filter, PushLog};

/// What all subscriptions of a log share.
pub(super) struct Common {
    pub log: Arc<EmbeddedLog>,
    pub keeper: Arc<Keeper>,
    /// When the clock of deadlines began.
    pub origin: Instant,
}

impl Common {
    /// The whole milliseconds that have passed.
    fn now(&self) -> Millis {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The millisecond that has begun, counted as passed: what is to last from now on ends no
    /// earlier than promised.
    fn starting_now(&self) -> Millis {
        self.now().saturating_add(1)
    }

    /// Milliseconds since 1970.
    pub fn wall_ms(&self) -> u64 {
        self.log.shared.options.now_ms()
    }

    fn end(&self) -> u64 {
        self.log.shared.end.borrow().0
    }
}

/// See the module's words.
pub(super) struct Subscription {
    name: String,
    key: u64,
    created_at_ms: u64,
    common: Arc<Common>,
    inner: Mutex<Inner>,
    /// Wakes the pump.
    wake: Notify,
}

struct Inner {
    spec: Spec,
    filter: Arc<Filter>,
    state: State,
    inboxes: HashMap<MemberId, Inbox>,
    last_member: MemberId,
    /// Reads the log for the members, while there are any.
    pump: Option<AbortOnDropHandle<()>>,
    /// What is to be written beside the state.
    unsaved: Vec<Write>,
    dead_letters: u64,
    /// Where the log began when that was last looked at.
    earliest: Position,
    /// Why there is nothing more to come, once that is so.
    ended: Option<SubscriptionError>,
}

impl Subscription {
    pub fn new(
        name: String,
        config: &Config,
        progress: Progress,
        dead_letters: u64,
        common: Arc<Common>,
    ) -> Self {
        let spec = config.spec();
        let (now, wall_ms) = (common.now(), common.wall_ms());
        let inner = Inner {
            filter: Arc::new(Filter::new(spec.filter.clone(), None)),
            spec,
            state: State::new(progress, now, wall_ms, rand::random()),
            inboxes: HashMap::new(),
            last_member: 0,
            pump: None,
            unsaved: Vec::new(),
            dead_letters,
            earliest: Position::START,
            ended: None,
        };
        Self {
            name,
            key: config.key,
            created_at_ms: config.created_at_ms,
            common,
            inner: Mutex::new(inner),
            wake: Notify::new(),
        }
    }

    pub fn key(&self) -> u64 {
        self.key
    }

    pub fn common(&self) -> &Common {
        &self.common
    }

    pub fn info(&self) -> Info {
        let inner = self.lock();
        let (unacked, oldest) = inner.state.unacked();
        Info {
            name: self.name.clone(),
            spec: inner.spec.clone(),
            created_at: time(self.created_at_ms),
            place: Position(inner.state.place()),
            handed_out: Position(inner.state.handed_out()),
            unacked,
            oldest_unacked: oldest.map(time),
            members: u32::try_from(inner.state.members()).unwrap_or(u32::MAX),
            dead_letters: inner.dead_letters,
            redelivered: inner.state.redelivered(),
            lost: inner.state.lost(),
        }
    }

    pub fn spec(&self) -> Spec {
        self.lock().spec.clone()
    }

    /// The configuration that goes with a spec.
    pub fn config(&self, spec: &Spec) -> Config {
        Config::new(self.key, self.created_at_ms, spec)
    }

    /// Goes on by another spec.
    pub fn adopt(&self, spec: Spec) {
        let mut inner = self.lock();
        if spec.filter != inner.spec.filter {
            let filter = Arc::new(Filter::new(spec.filter.clone(), None));
            inner.state.reconsider(|entry| filter.matches(entry));
            inner.filter = filter;
        }
        inner.spec = spec;
        drop(inner);
        self.wake.notify_one();
    }

    pub fn join(
        self: &Arc<Self>,
        window: Window,
    ) -> Result<(MemberId, Arc<Notify>), SubscriptionError> {
        let mut inner = self.lock();
        inner.check()?;
        inner.last_member += 1;
        let member = inner.last_member;
        let notify = Arc::new(Notify::new());
        inner.state.join(member, window);
        inner.inboxes.insert(member, Inbox::new(notify.clone()));
        if inner.pump.is_none() {
            let pump = tokio::spawn(pump::run(self.clone()));
            inner.pump = Some(AbortOnDropHandle::new(pump));
        }
        Ok((member, notify))
    }

    /// Takes a member's deliveries back. `is_broken`: its stream broke.
    pub fn leave(self: &Arc<Self>, member: MemberId, is_broken: bool) {
        let mut inner = self.lock();
        let broken_at = is_broken.then(|| self.common.now());
        let parked = inner.state.leave(member, broken_at);
        if !parked.is_empty() {
            self.bury(&mut inner, parked);
            self.common.keeper.note(self);
        }
        inner.inboxes.remove(&member);
        if inner.inboxes.is_empty() {
            inner.pump = None;
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Asks for what there is for a member; `None`: nothing yet.
    pub fn ask(&self, member: MemberId) -> Result<Option<Handed>, SubscriptionError> {
        let mut inner = self.lock();
        inner.check()?;
        let end = self.common.end();
        let mut handed = inner.collect(member, end);
        // Whoever has been handed something asks for more by coming back.
        inner.state.ask(member, handed.is_none());
        if handed.is_none() {
            self.hand_out(&mut inner);
            handed = inner.collect(member, end);
            // The pump reads more, or waits for the deadlines of what has just been handed out.
            self.wake.notify_one();
        }
        Ok(handed)
    }

    pub fn place(&self) -> Position {
        Position(self.lock().state.place())
    }

    pub fn is_caught_up(&self) -> bool {
        self.lock().state.is_caught_up(self.common.end())
    }

    pub fn ack(&self, ids: &[String]) -> Result<Vec<AckOutcome>, SubscriptionError> {
        let end = self.common.end();
        self.each(ids, |inner, id| inner.state.ack(id, end))
    }

    pub fn nack(&self, ids: &[String], how: &Nack) -> Result<Vec<AckOutcome>, SubscriptionError> {
        let (end, now) = (self.common.end(), self.common.starting_now());
        self.each(ids, |inner, id| {
            let (outcome, parked) = inner.state.nack(id, end, how, &inner.spec, now);
            self.bury(inner, parked);
            outcome
        })
    }

    pub fn extend(
        &self,
        ids: &[String],
        by: Option<Duration>,
    ) -> Result<Vec<AckOutcome>, SubscriptionError> {
        let now = self.common.starting_now();
        self.each(ids, |inner, id| {
            let by = by.unwrap_or(inner.spec.ack_deadline);
            inner.state.extend(id, by, now)
        })
    }

    fn each(
        &self,
        ids: &[String],
        mut job: impl FnMut(&mut Inner, &AckId) -> AckOutcome,
    ) -> Result<Vec<AckOutcome>, SubscriptionError> {
        let mut inner = self.lock();
        inner.check()?;
        // A deadline that has passed has passed, even if nobody was there to see it.
        self.expire(&mut inner);
        let outcomes = ids.iter().map(|text| match AckId::parse(text) {
            Some(id) if id.subscription == self.key => job(&mut inner, &id),
            Some(_) | None => AckOutcome::Unknown,
        });
        let outcomes = outcomes.collect();
        drop(inner);
        self.wake.notify_one();
        Ok(outcomes)
    }

    /// Goes on after a position. What is still to be removed of dead letters is the caller's.
    pub fn seek(&self, after: Position, dead: &[u64]) {
        let mut inner = self.lock();
        inner.state.seek(after.0);
        inner.remove_dead(self.key, dead);
        for inbox in inner.inboxes.values_mut() {
            inbox.clear();
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Hands out these dead letters again, as many as there is room for; tells how many.
    pub fn redrive(&self, dead: &[u64]) -> u64 {
        let mut inner = self.lock();
        let room = dead.len().min(inner.state.room());
        let dead = &dead[..room];
        for &number in dead {
            inner.state.redrive(number);
        }
        inner.remove_dead(self.key, dead);
        drop(inner);
        self.wake.notify_one();
        room as u64
    }

    /// Forgets dead letters whose entries are gone.
    pub fn lose_dead(&self, dead: &[u64]) {
        let mut inner = self.lock();
        inner.remove_dead(self.key, dead);
        inner.state.count_lost(dead.len() as u64);
        drop(inner);
        tracing::error!(
            subscription = self.name,
            lost = dead.len(),
            "dead letters were lost to a subscription: their events are gone from the log"
        );
    }

    /// Ends it for all members.
    pub fn end(&self, why: &SubscriptionError) {
        let mut inner = self.lock();
        inner.ended.get_or_insert_with(|| why.clone());
        for inbox in inner.inboxes.values() {
            inbox.wake();
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// What is to be written now.
    pub fn unsaved(&self) -> Vec<Write> {
        let (now, wall_ms) = (self.common.now(), self.common.wall_ms());
        let mut inner = self.lock();
        inner.state.take_changed();
        let mut writes = std::mem::take(&mut inner.unsaved);
        let progress = inner.state.progress(now, wall_ms);
        writes.push(saved::set(saved::progress_key(self.key), &progress));
        writes
    }

    /// Takes back what could not be written. The state itself is written anew in any case.
    pub fn not_saved(&self, mut writes: Vec<Write>) {
        let mut inner = self.lock();
        writes.retain(|write| write.key != saved::progress_key(self.key));
        writes.append(&mut inner.unsaved);
        inner.unsaved = writes;
    }

    /// Passes over what retention has removed since this was last asked; tells whether dead
    /// letters may be among it, up to which position.
    pub fn lose_retired(self: &Arc<Self>) -> Option<Position> {
        let earliest = self.common.log.earliest();
        {
            let mut inner = self.lock();
            if inner.earliest == earliest {
                return None;
            }
            inner.earliest = earliest;
        }
        self.lose(1..=earliest.0, "retention removed them first");
        (self.lock().dead_letters > 0).then_some(earliest)
    }

    /// Hands out what can be, and wakes those who got something.
    fn hand_out(&self, inner: &mut Inner) {
        self.expire(inner);
        let given = inner
            .state
            .hand_out(&inner.spec, self.common.starting_now());
        let generation = inner.state.generation();
        for Given {
            member,
            number,
            tag,
            attempt,
            entry,
        } in given
        {
            let id = AckId {
                subscription: self.key,
                generation,
                number,
                tag,
            };
            if let Some(inbox) = inner.inboxes.get_mut(&member) {
                inbox.put(Delivery {
                    entry,
                    ack_id: id.to_string(),
                    attempt,
                });
            }
        }
    }

    fn expire(&self, inner: &mut Inner) {
        let parked = inner.state.expire(&inner.spec, self.common.now());
        self.bury(inner, parked);
    }

    /// Notes down dead letters.
    fn bury(&self, inner: &mut Inner, parked: impl IntoIterator<Item = Parked>) {
        for parked in parked {
            let cursor = Cursor {
                store: self.common.log.id(),
                position: Position(parked.number),
            };
            tracing::warn!(
                subscription = self.name,
                %cursor,
                attempts = parked.attempts,
                "an event is parked as a dead letter"
            );
            let dead = Dead {
                attempts: parked.attempts,
                reason: parked.reason,
                parked_at_ms: self.common.wall_ms(),
            };
            let key = saved::dead_key(self.key, parked.number);
            inner.unsaved.push(saved::set(key, &dead));
            inner.dead_letters += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn check(&self) -> Result<(), SubscriptionError> {
        self.ended.clone().map_or(Ok(()), Err)
    }

    fn collect(&mut self, member: MemberId, end: u64) -> Option<Handed> {
        let is_caught_up = self.state.is_caught_up(end);
        self.inboxes.get_mut(&member)?.collect(is_caught_up)
    }

    fn remove_dead(&mut self, key: u64, dead: &[u64]) {
        let removed = dead
            .iter()
            .map(|number| saved::unset(saved::dead_key(key, *number)));
        self.unsaved.extend(removed);
        self.dead_letters = self.dead_letters.saturating_sub(dead.len() as u64);
    }
}

fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}
