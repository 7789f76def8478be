//! The engine seam's other half: what the gateway needs of durable subscriptions.
//!
//! [`Subscriptions`] states the contract; `tests/it/subscriptions.rs` holds every engine to it,
//! sentence by sentence.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::{Entry, ReadError};
use crate::proto::PushFilter;
use crate::push::{EventId, Position};

/// Subscriptions whose names begin so are the gateway's own: they count towards no bound.
pub const OWN_NAMES: &str = "yeta-gateway.";

/// Named places in a log, each with the events that are out, and those given up.
///
/// # Contract
///
/// 1. **At least once.** Each entry after the start that matches the filter is handed out, and
///    again, until it is acknowledged or parked: through kill −9, for as long as the log holds it.
/// 2. **One holder.** An entry is out with one member at a time. It goes to a member that asks for
///    more, the one with the most room first; no member holds more than its window.
/// 3. **Deadline.** What a member keeps longer than the ack deadline is handed out again, to any
///    member, by a clock that never jumps. An extension counts from the moment it is asked for.
/// 4. **Attempts.** A delivery is a failed attempt once its deadline has passed or it was refused;
///    not when its member left, nor when the process ended. At the bound the entry is parked. So is
///    one that was followed by the break of its member within a second, three times in a row.
/// 5. **Ack ids** name one delivery. An acknowledgement counts while its delivery is the latest,
///    also when the deadline has passed or the member is gone; otherwise it changes nothing, and
///    its caller is told.
/// 6. **Durable.** When `ack`, `nack`, `create`, `update`, `delete`, `seek` or `redrive` returns
///    `Ok`, its effect survives kill −9. When it returns an error, doing it again is safe.
/// 7. **Apart.** No subscription waits for another one, and one without members costs nothing.
/// 8. **Loss is counted.** What retention removed, or damage destroyed, before it was acknowledged
///    is added to [`Info::lost`], never passed over in silence.
#[async_trait]
pub trait Subscriptions: Send + Sync + 'static {
    /// Creates a subscription that starts after a position.
    async fn create(
        &self,
        name: &str,
        spec: Spec,
        after: Position,
    ) -> Result<(), SubscriptionError>;

    /// One subscription.
    async fn get(&self, name: &str) -> Result<Info, SubscriptionError>;

    /// The subscriptions whose names follow `after`, by name, `limit` at most.
    async fn list(&self, after: &str, limit: usize) -> Result<Vec<Info>, SubscriptionError>;

    /// Changes what a subscription is. What is out already goes on as it was handed out.
    async fn update(&self, name: &str, change: Change) -> Result<Info, SubscriptionError>;

    /// Deletes a subscription with its dead letters; its members' next step is `NotFound`.
    async fn delete(&self, name: &str) -> Result<(), SubscriptionError>;

    /// Moves a subscription. What is out or waiting counts no more; dead letters that lie behind
    /// the new place are no dead letters any more.
    async fn seek(&self, name: &str, after: Position) -> Result<(), SubscriptionError>;

    /// Opens a member, which leaves when it is dropped.
    async fn join(&self, name: &str, window: Window) -> Result<Box<dyn Member>, SubscriptionError>;

    /// Acknowledges deliveries; tells what became of each id, in order.
    async fn ack(&self, name: &str, ids: &[String]) -> Result<Vec<AckOutcome>, SubscriptionError>;

    /// Refuses deliveries; tells what became of each id, in order.
    async fn nack(
        &self,
        name: &str,
        ids: &[String],
        how: Nack,
    ) -> Result<Vec<AckOutcome>, SubscriptionError>;

    /// Moves the deadline of deliveries that are out to this long from now; `None`: by the ack
    /// deadline.
    async fn extend(
        &self,
        name: &str,
        ids: &[String],
        by: Option<Duration>,
    ) -> Result<Vec<AckOutcome>, SubscriptionError>;

    /// The dead letters after a position, in log order, `limit` at most.
    async fn dead_letters(
        &self,
        name: &str,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, SubscriptionError>;

    /// Delivers dead letters again, these or (`None`) all; tells how many there were.
    async fn redrive(&self, name: &str, ids: Option<&[EventId]>) -> Result<u64, SubscriptionError>;

    /// Makes everything durable that is not yet; later calls fail, and members end.
    async fn close(&self);
}

/// A stream's hold on a subscription. Dropping it gives back what is out with it.
#[async_trait]
pub trait Member: Send {
    /// Waits for deliveries, or for word that there are none left for now. May be dropped and
    /// called again without losing anything. After an error there is nothing more.
    async fn next(&mut self) -> Result<Handed, SubscriptionError>;

    /// Marks that the stream broke without an end in order, so that its last deliveries may be the
    /// reason.
    fn mark_broken(&mut self);

    /// The subscription's place; see [`Info::place`].
    fn place(&self) -> Position;

    /// Whether everything in the log has been handed out or left out.
    fn is_caught_up(&self) -> bool;
}

/// What a member is handed.
#[derive(Debug)]
pub enum Handed {
    /// Deliveries, at least one, few enough that whoever sends them on comes back soon.
    Deliveries(Vec<Delivery>),
    /// Everything has been handed out. Told once to each member, when it is first so.
    CaughtUp,
}

/// An entry on its way to a member.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Names this delivery.
    pub ack_id: String,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// What a subscription is.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Which entries it takes.
    pub filter: PushFilter,
    /// How long a member may keep an entry.
    pub ack_deadline: Duration,
    /// How many attempts there are before an entry is parked; 0: without bound.
    pub max_attempts: u32,
    /// How long to wait before an entry is handed out again.
    pub backoff: Backoff,
    /// Whether it hands out nothing for now.
    pub paused: bool,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            filter: PushFilter::default(),
            ack_deadline: Duration::from_secs(30),
            max_attempts: 10,
            backoff: Backoff::default(),
            paused: false,
        }
    }
}

/// How long to wait before an entry is handed out again; by default not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failed attempt; doubled with each further one.
    pub minimum: Duration,
    /// At most.
    pub maximum: Duration,
}

impl Backoff {
    /// The wait after so many failed attempts.
    pub fn after(self, attempts: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        self.minimum.saturating_mul(doubled).min(self.maximum)
    }
}

/// What to change of a [`Spec`]; `None`: as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// See [`Spec::filter`].
    pub filter: Option<PushFilter>,
    /// See [`Spec::ack_deadline`].
    pub ack_deadline: Option<Duration>,
    /// See [`Spec::max_attempts`].
    pub max_attempts: Option<u32>,
    /// See [`Spec::backoff`].
    pub backoff: Option<Backoff>,
    /// See [`Spec::paused`].
    pub paused: Option<bool>,
}

impl Change {
    /// The spec after the change.
    pub fn apply(self, spec: &Spec) -> Spec {
        Spec {
            filter: self.filter.unwrap_or_else(|| spec.filter.clone()),
            ack_deadline: self.ack_deadline.unwrap_or(spec.ack_deadline),
            max_attempts: self.max_attempts.unwrap_or(spec.max_attempts),
            backoff: self.backoff.unwrap_or(spec.backoff),
            paused: self.paused.unwrap_or(spec.paused),
        }
    }
}

/// A subscription as it stands.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// What it is.
    pub spec: Spec,
    /// When it was created.
    pub created_at: SystemTime,
    /// Everything up to here is settled: acknowledged, parked or left out; apart from entries
    /// that wait to be handed out again after a failed attempt.
    pub place: Position,
    /// Everything up to here has been handed out or left out.
    pub handed_out: Position,
    /// How many entries have been handed out and are not settled.
    pub unacked: u64,
    /// When the oldest of these was received.
    pub oldest_unacked: Option<SystemTime>,
    /// How many members there are.
    pub members: u32,
    /// How many dead letters there are.
    pub dead_letters: u64,
    /// How many deliveries there have been beyond the first of each entry.
    pub redelivered: u64,
    /// How many entries were lost before they were acknowledged.
    pub lost: u64,
}

/// How much a member may hold that is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// So many entries.
    pub events: usize,
    /// So many bytes; a larger entry is handed out when no other is held.
    pub bytes: usize,
}

/// What became of one ack id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckOutcome {
    /// Done.
    Ok,
    /// Nothing is out under it.
    Unknown,
    /// A later delivery, or a move of the subscription, has taken its place.
    Superseded,
}

/// How to refuse a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nack {
    /// Hand it out again after this long; `None`: as the subscription's backoff says.
    Retry {
        /// How long.
        delay: Option<Duration>,
        /// Why, for the dead letter that it may become.
        reason: String,
    },
    /// Make it a dead letter at once.
    Park {
        /// Why.
        reason: String,
    },
}

/// An entry that was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The entry.
    pub entry: Arc<Entry>,
    /// How many attempts failed.
    pub attempts: u32,
    /// Why.
    pub reason: String,
    /// When it was parked.
    pub parked_at: SystemTime,
}

/// Why something could not be done with a subscription.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// There is none of that name; create it, or check the name.
    #[error("there is no subscription {0:?}")]
    NotFound(String),
    /// There is one of that name already.
    #[error("there is a subscription {0:?} already")]
    AlreadyExists(String),
    /// As many subscriptions as there may be; delete some.
    #[error("there are {0} subscriptions already, as many as there may be")]
    TooMany(usize),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// Not now; trying again later is right, and safe.
    #[error("subscriptions cannot be kept: {0}")]
    Unavailable(String),
    /// Closed because the gateway is shutting down.
    #[error("the store is closed")]
    Closed,
}
