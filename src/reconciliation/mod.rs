//! Rows that the platform accepted, held against the call records that came.
//!
//! Where a request is accepted, `submissions` notes its rows. Here they are looked at now and then
//! (`sweep`): of a row that has its record the note goes; one whose task has ended (`tasks`), or
//! whose call should long be over, becomes overdue. Overdue rows are listed (`list`), counted
//! (`metrics`), and once a day have the failed-push files looked at again and are reported
//! (`report`). Nothing here is needed for a push to be delivered: it tells what is not there.

mod days;
mod list;
pub mod metrics;
mod report;
mod sweep;
mod tasks;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use jiff::civil::Time;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use self::list::{OverduePage, OverdueQuery};
use self::metrics::ReconciliationMetrics;
pub use self::report::Report;
use self::sweep::{Found, Sweep};
use self::tasks::Tasks;
use crate::backfill::Backfill;
use crate::calls::{Calls, CallsError};
use crate::platform::Platform;
use crate::store::{End, Notes, PushLog};
use crate::submissions::Clock;
use crate::submissions::awaited::Awaited;

/// When rows are overdue, and for how long they are told.
#[derive(Clone)]
pub struct Options {
    /// How long after the end of its task a row is overdue.
    pub after_task_end: Duration,
    /// How long after its submission a row is overdue that is called directly; or, after its task
    /// has called all of its numbers, one of a task that goes on.
    pub after_submission: Duration,
    /// How long an overdue row is told.
    pub keep: Duration,
    /// How long a row is awaited that does not become overdue.
    pub keep_awaited: Duration,
    /// How often rows are looked at, if that is quickly done.
    pub every: Duration,
    /// From when on yesterday is reported: a time of day in China.
    pub report_at: Time,
    /// Tells the time.
    pub clock: Clock,
}

/// Keeps account of rows whose records are awaited.
pub struct Reconciliation {
    log: Arc<dyn PushLog>,
    notes: Arc<dyn Notes>,
    calls: Arc<Calls>,
    platform: Arc<Platform>,
    /// Who looks at failed-push files again; `None`: only those who ask for it.
    backfill: Option<Arc<Backfill>>,
    options: Options,
    metrics: ReconciliationMetrics,
    /// What is known of tasks, by account; held while its rows are looked at.
    tasks: BTreeMap<String, Mutex<Tasks>>,
}

/// A look is put off when the calls have not come up with the log for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Looks take no more than this part of the time.
const SHARE: u32 = 20;
/// But for this: there is a look so often at least.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// What has come of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// How long it took to look at the rows.
    pub took: Duration,
    /// The days that were reported.
    pub reports: Vec<Report>,
}

impl Reconciliation {
    /// Readies it for the platform's accounts.
    pub fn new(
        log: Arc<dyn PushLog>,
        notes: Arc<dyn Notes>,
        calls: Arc<Calls>,
        platform: Arc<Platform>,
        backfill: Option<Arc<Backfill>>,
        options: Options,
        metrics: ReconciliationMetrics,
    ) -> Self {
        let names = platform.accounts().map(|account| account.name.clone());
        let tasks = names.map(|name| (name, Mutex::default())).collect();
        Self {
            log,
            notes,
            calls,
            platform,
            backfill,
            options,
            metrics,
            tasks,
        }
    }

    /// Looks after every account's rows until told to stop.
    pub async fn run(self: Arc<Self>, end: CancellationToken) {
        let mut accounts = JoinSet::new();
        for account in self.accounts() {
            let (reconciliation, account) = (self.clone(), account.clone());
            accounts.spawn(async move { reconciliation.keep_looking(&account).await });
        }
        end.cancelled().await;
        // Whatever they are at can be done again.
        accounts.shutdown().await;
    }

    async fn keep_looking(&self, account: &str) {
        let mut trouble = None;
        loop {
            let outcome = self.round(account).await;
            let took = match &outcome {
                Ok(Some(round)) => round.took,
                Ok(None) | Err(_) => Duration::ZERO,
            };
            let now = match outcome {
                Ok(Some(_)) => None,
                Ok(None) => Some("the calls lag behind the log".to_owned()),
                Err(End::Closed) => return,
                Err(End::Failed(error)) => Some(error),
            };
            if let Some(reason) = &now
                && trouble.is_none()
            {
                tracing::warn!(
                    account,
                    reason,
                    "awaited rows cannot be looked at; trying again"
                );
            }
            trouble = now;
            let pause = (took * SHARE).min(LONGEST_PAUSE);
            sleep(pause.max(self.options.every)).await;
        }
    }

    /// Looks at an account's rows, and reports the days that are due; `None`: not now, as the calls
    /// lag behind the log. To be called by one at a time, which is what [`run`](Self::run) does.
    pub async fn round(&self, account: &str) -> Result<Option<Round>, End> {
        let Some(found) = self.look(account).await? else {
            return Ok(None);
        };
        let took = found.took;
        let reports = self.report_due(account, found).await?;
        Ok(Some(Round { took, reports }))
    }

    async fn look(&self, account: &str) -> Result<Option<Found>, End> {
        let Some(tasks) = self.tasks.get(account) else {
            return Ok(Some(Found::default()));
        };
        let mut tasks = tasks.lock().await;
        let now_ms = self.now_ms();
        let every = self.options.every;
        tasks.ask(&self.platform, account, now_ms, every).await;
        // What has been pushed until now must be known, or rows seem overdue that are not.
        let end = *self.log.end().borrow();
        if timeout(PATIENCE, self.calls.until_applied(end))
            .await
            .is_err()
        {
            return Ok(None);
        }
        let found = Sweep::new(self, account, &mut tasks, now_ms).run().await?;
        self.metrics.show(account, &found, now_ms);
        let (took, awaited, overdue) = (found.took, found.awaited(), found.overdue());
        tracing::debug!(
            account,
            ?took,
            awaited,
            overdue,
            "awaited rows were looked at"
        );
        Ok(Some(found))
    }

    /// Of these rows of an account, those of which a record has come.
    async fn recorded(
        &self,
        account: &str,
        notes: impl Iterator<Item = &Awaited>,
    ) -> Result<HashSet<String>, CallsError> {
        let rows = notes.flat_map(|note| &note.rows);
        let ids = rows.map(|row| row.task_data_id.clone()).collect();
        self.calls.recorded(account, ids).await
    }

    /// The accounts, in order.
    fn accounts(&self) -> impl Iterator<Item = &String> {
        self.tasks.keys()
    }

    fn now_ms(&self) -> u64 {
        let now = (self.options.clock)();
        millis(now.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
