//! Watches durable subscriptions: tells how they are doing, and who is stuck or about to lose.
//! What is lost already is told by the engine, which knows what it was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::first_match;
use super::metrics::{SubscriptionGauges, SubscriptionMetrics};
use crate::push::Position;
use crate::store::PushLog;
use crate::store::subscriptions::{Info, SubscriptionError, Subscriptions};

/// How often subscriptions are looked at, and the most often where times are short.
const SELDOM: Duration = Duration::from_secs(2);
const OFTEN: Duration = Duration::from_millis(100);
/// What takes its time is looked at so often meanwhile, so that nothing begins and ends unseen.
const LOOKS: u32 = 20;
/// What goes on is told again this often.
const REMIND_AFTER: Duration = Duration::from_secs(600);
/// Of what lies before a subscription, so much is looked at each time, until something matches.
const LOOK_AT: usize = 64;
/// So many subscriptions are looked at in one go.
const PAGE: usize = 256;
/// Retention is about to overtake a subscription whose backlog makes up so much of what it keeps.
const NEAR: f64 = 0.8;

/// When something is wrong with a subscription.
pub struct Limits {
    /// An event that was not dealt with for this long makes its subscription stuck.
    pub stuck_after: Duration,
    /// How long the log keeps an event.
    pub retention: Duration,
    /// How full the log is of what it may hold in bytes, from 0 to 1.
    pub fullness: Box<dyn Fn() -> f64 + Send + Sync>,
}

impl Limits {
    /// How often to look: every two seconds, and more often where that would be too late to warn
    /// of what retention is about to remove.
    pub fn every(&self) -> Duration {
        let shortest = self.retention.min(self.stuck_after);
        (shortest / LOOKS).clamp(OFTEN, SELDOM)
    }
}

/// Something that an operator should know of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Its oldest event has not been dealt with for long.
    Stuck {
        /// Which one.
        subscription: String,
        /// For how long.
        oldest: Duration,
        /// How many streams are open on it.
        members: u32,
        /// How many events are out.
        unacked: u64,
        /// Whether it is paused, which may be why.
        paused: bool,
    },
    /// It was stuck, and is not any more.
    Moving {
        /// Which one.
        subscription: String,
    },
    /// Retention will soon remove events that it has not dealt with.
    NearRetention {
        /// Which one.
        subscription: String,
        /// How old its oldest event is.
        oldest: Duration,
        /// How many entries of the log lie before it.
        backlog: u64,
    },
}

impl Finding {
    fn log(&self) {
        match self {
            Self::Stuck {
                subscription,
                oldest,
                members,
                unacked,
                paused,
            } => tracing::warn!(
                subscription,
                ?oldest,
                members,
                unacked,
                paused,
                "a subscription is stuck: its oldest event has not been dealt with for long"
            ),
            Self::Moving { subscription } => {
                tracing::info!(subscription, "a subscription that was stuck moves again");
            }
            Self::NearRetention {
                subscription,
                oldest,
                backlog,
            } => tracing::warn!(
                subscription,
                ?oldest,
                backlog,
                "retention is about to overtake a subscription: it will lose events"
            ),
        }
    }
}

/// Looks at all subscriptions now and then.
pub struct Watch {
    log: Arc<dyn PushLog>,
    subscriptions: Arc<dyn Subscriptions>,
    metrics: SubscriptionMetrics,
    limits: Limits,
    seen: HashMap<String, Seen>,
}

/// What is remembered of a subscription from one look to the next.
#[derive(Default)]
struct Seen {
    ahead: Ahead,
    stuck: Episode,
    near_retention: Episode,
}

/// What is still to be handed out, as far as it has been looked at.
#[derive(Default)]
struct Ahead {
    /// Behind this.
    handed_out: Position,
    /// Nothing up to here matches.
    looked_to: Position,
    /// When the first that matches was received.
    first: Option<SystemTime>,
}

/// A state that is told when it begins, and again while it lasts.
#[derive(Default)]
struct Episode {
    told_at: Option<SystemTime>,
}

impl Episode {
    /// Whether to tell that the state lasts.
    fn is_due(&mut self, now: SystemTime) -> bool {
        let is_due = self.told_at.is_none_or(|at| age(at, now) >= REMIND_AFTER);
        if is_due {
            self.told_at = Some(now);
        }
        is_due
    }

    /// Ends it; tells whether it had begun.
    fn end(&mut self) -> bool {
        self.told_at.take().is_some()
    }
}

impl Watch {
    /// A watch that has seen nothing yet.
    pub fn new(
        log: Arc<dyn PushLog>,
        subscriptions: Arc<dyn Subscriptions>,
        metrics: SubscriptionMetrics,
        limits: Limits,
    ) -> Self {
        Self {
            log,
            subscriptions,
            metrics,
            limits,
            seen: HashMap::new(),
        }
    }

    /// Looks now and then until told to end, and logs what it finds.
    pub async fn run(mut self, end: CancellationToken) {
        let mut has_failed = false;
        let mut ticks = interval(self.limits.every());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = ticks.tick() => match self.look(SystemTime::now()).await {
                    Ok(findings) => {
                        has_failed = false;
                        findings.iter().for_each(Finding::log);
                    }
                    Err(error) if !std::mem::replace(&mut has_failed, true) => {
                        tracing::warn!(%error, "subscriptions cannot be looked at");
                    }
                    Err(_) => {}
                },
            }
        }
    }

    /// Looks at every subscription once, sets the gauges, and tells what was found.
    pub async fn look(&mut self, now: SystemTime) -> Result<Vec<Finding>, SubscriptionError> {
        let mut findings = Vec::new();
        let mut gauges = Vec::new();
        let mut seen = HashMap::new();
        let mut after = String::new();
        loop {
            let infos = self.subscriptions.list(&after, PAGE).await?;
            let is_last = infos.len() < PAGE;
            for info in infos {
                after.clone_from(&info.name);
                let mut of_this = self.seen.remove(&info.name).unwrap_or_default();
                let end = *self.log.end().borrow();
                let oldest = self.oldest(&info, end, &mut of_this.ahead).await;
                let oldest = oldest.map(|at| age(at, now));
                findings.extend(self.judge(&info, end, oldest, &mut of_this, now));
                gauges.push(SubscriptionGauges {
                    lag: end.0.saturating_sub(info.handed_out.0),
                    oldest_unacked: oldest.unwrap_or_default(),
                    unacked: info.unacked,
                    members: info.members,
                    dead_letters: info.dead_letters,
                    redelivered: info.redelivered,
                    lost: info.lost,
                    subscription: info.name.clone(),
                });
                seen.insert(info.name, of_this);
            }
            if is_last {
                break;
            }
        }
        // What is gone is forgotten with the old ones.
        self.seen = seen;
        self.metrics.set(gauges);
        Ok(findings)
    }

    /// When the oldest event was received that is not settled, be it out or still to come.
    async fn oldest(&self, info: &Info, end: Position, ahead: &mut Ahead) -> Option<SystemTime> {
        if ahead.handed_out != info.handed_out {
            *ahead = Ahead {
                handed_out: info.handed_out,
                looked_to: info.handed_out,
                first: None,
            };
        }
        if ahead.first.is_none() && ahead.looked_to < end {
            let (position, filter) = (&mut ahead.looked_to, &info.spec.filter);
            let first = first_match(&self.log, position, filter, LOOK_AT).await;
            // A log that can't be read is told of by those who need what is in it.
            ahead.first = first.ok().flatten();
        }
        info.oldest_unacked.into_iter().chain(ahead.first).min()
    }

    fn judge(
        &self,
        info: &Info,
        end: Position,
        oldest: Option<Duration>,
        seen: &mut Seen,
        now: SystemTime,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        let subscription = || info.name.clone();
        let oldest = oldest.unwrap_or_default();
        if oldest > self.limits.stuck_after && oldest > info.spec.ack_deadline * 2 {
            if seen.stuck.is_due(now) {
                findings.push(Finding::Stuck {
                    subscription: subscription(),
                    oldest,
                    members: info.members,
                    unacked: info.unacked,
                    paused: info.spec.paused,
                });
            }
        } else if seen.stuck.end() {
            findings.push(Finding::Moving {
                subscription: subscription(),
            });
        }
        let backlog = end.0.saturating_sub(info.place.0);
        if oldest > self.limits.retention.mul_f64(NEAR) || self.fills_the_log(backlog, end) {
            if seen.near_retention.is_due(now) {
                findings.push(Finding::NearRetention {
                    subscription: subscription(),
                    oldest,
                    backlog,
                });
            }
        } else {
            seen.near_retention.end();
        }
        findings
    }

    /// Whether the log is nearly full, and of this backlog.
    #[expect(clippy::cast_precision_loss, reason = "a rough measure")]
    fn fills_the_log(&self, backlog: u64, end: Position) -> bool {
        let retained = end.0.saturating_sub(self.log.earliest().0);
        backlog > 0 && backlog as f64 >= retained as f64 * NEAR && (self.limits.fullness)() >= NEAR
    }
}

/// How long ago a time was; a clock that was set back makes it none at all.
fn age(at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}
