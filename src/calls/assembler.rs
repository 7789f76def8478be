//! The durable subscriber that puts calls together and adds them to the log.
//!
//! Each round takes what is there, applies it, adds calls that have become final to the log,
//! commits what it knows, and only then acknowledges. Every step can be done again without harm,
//! so that it can end anywhere. Two rules keep a call from being added twice:
//!
//! - An event of a call is named by its content, and the log holds each content once.
//! - What the log held at the start is applied before anything is added. So an event that an
//!   earlier run added, but had not noted, is seen first and counts as its revision.

mod session;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use self::session::Session;
use super::metrics::CallsMetrics;
use super::projection::{Projection, WriteRight};
use super::{Calls, SUBSCRIPTION};
use crate::proto::{PushFilter, PushKind};
use crate::store::subscriptions::{
    Change, Delivery, Handed, Member, Spec, SubscriptionError, Subscriptions, Window,
};
use crate::store::{End, Notes, PushLog};

/// Tells the time; replaced in tests.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How calls are put together.
#[derive(Clone)]
pub struct AssemblerOptions {
    /// How long a call waits for what is missing, from its first push on.
    pub wait: Duration,
    /// Tells when that has passed while nothing comes.
    pub clock: Clock,
}

impl Default for AssemblerOptions {
    fn default() -> Self {
        Self {
            wait: Duration::from_mins(10),
            clock: Arc::new(SystemTime::now),
        }
    }
}

/// Puts calls together, from the log and for the log.
pub struct Assembler {
    calls: Arc<Calls>,
    log: Arc<dyn PushLog>,
    subscriptions: Arc<dyn Subscriptions>,
    notes: Arc<dyn Notes>,
    options: AssemblerOptions,
    metrics: CallsMetrics,
}

/// How much may be handed out to the assembler.
const WINDOW: Window = Window {
    events: 1024,
    bytes: 16 << 20,
};
/// Longer than any round takes: what the assembler holds comes back when it leaves, and in between
/// must not seem to be applied because it is no longer out.
const ACK_DEADLINE: Duration = Duration::from_hours(12);
/// A round takes so many events, if they are there.
const ROUND: usize = 512;
/// If there are fewer, more are let gather for so long: a round of many costs little more than a
/// round of one.
const GATHER: Duration = Duration::from_millis(20);
/// And so many calls that wait for time alone, or are old.
const SLICE: usize = 512;
/// The clock is looked at so often while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// While nothing comes, a deadline has passed only so long after it: what was received before it
/// may still be on its way here.
const GRACE: Duration = Duration::from_secs(1);
/// After a failure, the same is tried again no sooner than this.
const PAUSE: Duration = Duration::from_millis(250);

impl Assembler {
    /// An assembler that keeps what it knows in `calls`.
    pub fn new(
        calls: Arc<Calls>,
        log: Arc<dyn PushLog>,
        subscriptions: Arc<dyn Subscriptions>,
        notes: Arc<dyn Notes>,
        options: AssemblerOptions,
        metrics: CallsMetrics,
    ) -> Self {
        Self {
            calls,
            log,
            subscriptions,
            notes,
            options,
            metrics,
        }
    }

    /// Puts calls together until it is stopped, or the store is closed.
    pub async fn run(self, stop: CancellationToken) {
        let sessions = async {
            let mut has_failed = false;
            while let Err(End::Failed(error)) = self.session(&mut has_failed).await {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::error!(error, "calls cannot be assembled; trying again");
                }
                sleep(PAUSE).await;
            }
        };
        // Whatever is under way may end anywhere.
        stop.run_until_cancelled(sessions).await;
    }

    /// Takes the subscription up where it is, and goes on until something fails.
    async fn session(&self, has_failed: &mut bool) -> Result<(), End> {
        let right = self.projection().write_right().await;
        // Behind whatever an earlier session may still have under way.
        self.log.append(Vec::new()).await?;
        let history = *self.log.end().borrow();
        self.take_up(&right).await?;
        let mut member = self.subscriptions.join(SUBSCRIPTION, WINDOW).await?;
        let mut session = Session::new(self, right, history);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let handed = tokio::select! {
                biased;
                handed = member.next() => Some(handed?),
                _ = look.tick() => None,
            };
            let deliveries = drain(member.as_mut(), handed)?;
            session.round(member.place(), &deliveries).await?;
            // What is acknowledged has been committed.
            self.calls.reached.send_replace(member.place());
            if std::mem::take(has_failed) {
                tracing::info!("calls are assembled again");
            }
            if !session.emits() && !deliveries.is_empty() {
                // That may have been the last of the history: then calls are waiting to be told.
                look.reset_immediately();
            } else if (1..ROUND).contains(&deliveries.len()) {
                sleep(GATHER).await;
            }
        }
    }

    /// Sees to it that the subscription is there, and behind nothing that the projection lacks.
    async fn take_up(&self, right: &WriteRight) -> Result<(), End> {
        let (log, earliest) = (self.log.id(), self.log.earliest());
        let (found, applied) = tokio::sync::oneshot::channel();
        self.projection()
            .write(right, move |disk| {
                // Whoever waits for it may have gone.
                let _: Result<(), _> = found.send(disk.adopt(log)?);
                Ok(())
            })
            .await?;
        let applied = applied.await.ok().flatten();
        let start = applied.unwrap_or(earliest).max(earliest);
        match self.subscriptions.get(SUBSCRIPTION).await {
            Ok(info) => {
                // An earlier version knew fewer kinds, and the log held none of the others.
                if info.spec.filter != spec().filter {
                    let change = Change {
                        filter: Some(spec().filter),
                        ..Change::default()
                    };
                    self.subscriptions.update(SUBSCRIPTION, change).await?;
                }
                if applied.is_none() || start < info.place {
                    tracing::info!("assembling calls again from the log");
                    self.subscriptions.seek(SUBSCRIPTION, start).await?;
                }
                Ok(())
            }
            Err(SubscriptionError::NotFound(_)) => {
                let spec = spec();
                Ok(self.subscriptions.create(SUBSCRIPTION, spec, start).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn projection(&self) -> &Arc<Projection> {
        &self.calls.projection
    }

    /// Until when everything has come that was received, while nothing comes.
    fn quiet_ms(&self) -> u64 {
        let since_1970 = (self.options.clock)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let quiet = since_1970.saturating_sub(GRACE);
        u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX)
    }
}

fn spec() -> Spec {
    let kinds = [
        PushKind::CallRecord,
        PushKind::Voice,
        PushKind::Dialog,
        PushKind::Call,
        PushKind::VoiceArchived,
    ];
    Spec {
        filter: PushFilter {
            kinds: kinds.map(Into::into).to_vec(),
            ..PushFilter::default()
        },
        ack_deadline: ACK_DEADLINE,
        max_attempts: 0,
        ..Spec::default()
    }
}

/// What was handed, and what more there is at once.
fn drain(member: &mut dyn Member, first: Option<Handed>) -> Result<Vec<Delivery>, End> {
    let mut deliveries = Vec::new();
    let mut next = first;
    while let Some(handed) = next {
        if let Handed::Deliveries(more) = handed {
            deliveries.extend(more);
        }
        if deliveries.len() >= ROUND {
            break;
        }
        next = member.next().now_or_never().transpose()?;
    }
    Ok(deliveries)
}
