//! Looks for tasks whose creation was not answered.
//!
//! A task settles a CreateTask request only if it is the only one with the very name, robot, lines
//! and time, did not exist before the request, is nobody else's, and no other request fits it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::SubmissionsError;
use super::evidence::{are_same_task, is_task_of};
use super::ledger::Ledger;
use super::record::{self, Key, Record};
use crate::platform::Platform;
use crate::proto::submission::{Outcome, Request};
use crate::proto::{
    CreateTaskRequest, CreateTaskResponse, QueryTasksRequest, SortOrder, SubmissionEvidence,
    SubmissionEvidenceKind, SubmissionState, Task, TaskSortName,
};

/// The most tasks that the platform gives at once.
const PAGE: i32 = 50;
/// A name that more pages of tasks have in theirs proves nothing.
const MAX_PAGES: i32 = 40;
/// Before a request, no more pages than this are read.
const MAX_PAGES_BEFORE: i32 = 4;
/// One look takes no longer than this.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// A look for a caller who waits, or before a request, takes no longer than this.
const SHORT_LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// A task is looked for again this long after the outcome became unknown; each pause after that is
/// twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// Callers who repeat a request have the platform asked no more often than this.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Asks the platform for tasks.
pub(super) struct TaskSearch {
    ledger: Arc<Ledger>,
    platform: Arc<Platform>,
    /// When each submission's task is looked for, and was looked for by a caller.
    plan: Mutex<BTreeMap<Key, Plan>>,
}

#[derive(Clone, Copy)]
struct Plan {
    next: Instant,
    pause: Duration,
    asked: Option<Instant>,
}

impl From<Instant> for Plan {
    fn from(now: Instant) -> Self {
        Self {
            next: now + FIRST_PAUSE,
            pause: FIRST_PAUSE * 2,
            asked: None,
        }
    }
}

impl TaskSearch {
    pub fn new(ledger: Arc<Ledger>, platform: Arc<Platform>) -> Self {
        Self {
            ledger,
            platform,
            plan: Mutex::default(),
        }
    }

    /// Looks for tasks as their time comes, until the end.
    pub async fn run(&self, end: &CancellationToken) {
        let mut opened = self.ledger.index.opened();
        loop {
            opened.borrow_and_update();
            let next = self.next();
            let due = async {
                match &next {
                    Some((_, at)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = end.cancelled() => return,
                changed = opened.changed() => if changed.is_err() { return },
                () = due => if let Some((key, _)) = next {
                    let look = self.look(&key, LOOK_TIMEOUT);
                    if end.run_until_cancelled(look).await.is_none() {
                        return;
                    }
                    self.put_off(&key);
                },
            }
        }
    }

    /// The submission whose task is to be looked for next.
    fn next(&self) -> Option<(Key, Instant)> {
        let unknown: BTreeSet<Key> = self.ledger.index.unknown_tasks().into_iter().collect();
        let mut plan = self.plan();
        let now = Instant::now();
        plan.retain(|key, _| unknown.contains(key));
        for key in unknown {
            plan.entry(key).or_insert(Plan::from(now));
        }
        let next = plan.iter().min_by_key(|(_, plan)| plan.next);
        next.map(|(key, plan)| (key.clone(), plan.next))
    }

    fn put_off(&self, key: &Key) {
        if let Some(plan) = self.plan().get_mut(key) {
            plan.next = Instant::now() + plan.pause;
            plan.pause = (plan.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Looks for the task of a submission at once, for a caller who repeats its request, within a
    /// part of the time until `deadline`.
    pub async fn look_for(&self, key: &Key, deadline: Option<Instant>) {
        {
            let mut plan = self.plan();
            let now = Instant::now();
            let plan = plan.entry(key.clone()).or_insert(Plan::from(now));
            if plan.asked.is_some_and(|asked| now < asked + ASK_EVERY) {
                return;
            }
            plan.asked = Some(now);
        }
        self.look(key, short(deadline)).await;
    }

    /// The ids of the tasks that have the name of a request before it is sent; `None`: not known.
    pub async fn before(
        &self,
        account: &str,
        request: &CreateTaskRequest,
        deadline: Option<Instant>,
    ) -> Option<Vec<String>> {
        let deadline = Instant::now() + short(deadline);
        let name = &request.task_name;
        let tasks = self.named(account, name, deadline, MAX_PAGES_BEFORE);
        let tasks = tokio::time::timeout_at(deadline, tasks).await.ok()??;
        let named = tasks.into_iter().filter(|task| task.task_name == *name);
        Some(named.map(|task| task.task_id).collect())
    }

    async fn look(&self, key: &Key, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let looked = async {
            let Some((_, request)) = self.unknown(key).await? else {
                return Ok(());
            };
            let name = &request.task_name;
            let tasks = self.named(&key.account, name, deadline, MAX_PAGES);
            match tokio::time::timeout_at(deadline, tasks).await {
                Ok(Some(tasks)) => self.decide(key, &tasks).await,
                Ok(None) | Err(_) => Ok(()),
            }
        };
        let looked: Result<(), SubmissionsError> = looked.await;
        if let Err(error) = looked {
            let account = &key.account;
            tracing::warn!(account, %error, "a task was not looked for; trying again later");
        }
    }

    /// A CreateTask submission whose outcome is unknown.
    async fn unknown(
        &self,
        key: &Key,
    ) -> Result<Option<(Record, CreateTaskRequest)>, SubmissionsError> {
        if self.ledger.index.is_live(key) {
            return Ok(None);
        }
        let record = self.ledger.load(key).await?;
        let record = record.filter(|it| it.state() == SubmissionState::Unknown);
        Ok(
            record.and_then(|record| match record.get().request.clone() {
                Some(Request::CreateTask(request)) => Some((record, request)),
                _ => None,
            }),
        )
    }

    /// All tasks with this in their name; `None`: not all of them could be had.
    async fn named(
        &self,
        account: &str,
        name: &str,
        deadline: Instant,
        max_pages: i32,
    ) -> Option<Vec<Task>> {
        let mut tasks = Vec::new();
        for page in 1..=max_pages {
            let query = QueryTasksRequest {
                task_name: name.to_owned(),
                page_size: Some(PAGE),
                page_index: Some(page),
                // So that a task made meanwhile moves none from one page to another.
                sort_name: TaskSortName::Id.into(),
                sort_order: SortOrder::Asc.into(),
                ..QueryTasksRequest::default()
            };
            let answer = self.platform.call(account, &query, Some(deadline)).await;
            let answer = answer.ok()?;
            let read = answer.rows.len();
            tasks.extend(answer.rows);
            // The platform may have pages of its own size.
            let total = answer.total_rows.and_then(|it| usize::try_from(it).ok());
            if read == 0 || total.is_some_and(|total| tasks.len() >= total) {
                return Some(tasks);
            }
        }
        tracing::warn!(account, "too many tasks have a name that is looked for");
        None
    }

    /// Holds tasks against a submission, and settles it if they prove its outcome.
    async fn decide(&self, key: &Key, tasks: &[Task]) -> Result<(), SubmissionsError> {
        let ledger = &self.ledger;
        let _lock = ledger.lock(&key.account).await;
        // It may have its outcome since.
        let Some((mut record, request)) = self.unknown(key).await? else {
            return Ok(());
        };
        // Whoever answers claims its task before it leaves the index. So the twins come first.
        let has_twin = self.has_twin(key, &request).await?;
        let mut found: Vec<String> = Vec::new();
        for task in tasks.iter().filter(|task| is_task_of(&request, task)) {
            let id = &task.task_id;
            // A task may stand on two pages when one was made between their reading.
            let is_new = !record.tasks_before.contains(id) && !found.contains(id);
            let claim = record::task(&key.account, id);
            if is_new && !ledger.has_claim(&key.account, &claim).await? {
                found.push(id.clone());
            }
        }
        let created_at_ms = record::created_at_ms(record.get());
        let window = ledger.evidence_window;
        let trust = &ledger.trust;
        let is_certain = record.are_tasks_before_known
            && trust.is_creation_certain(&key.account, created_at_ms, window);
        let (kind, settled) = match found.len() {
            0 => (SubmissionEvidenceKind::NoTask, false),
            1 if has_twin => (SubmissionEvidenceKind::SeveralSubmissions, false),
            1 => (SubmissionEvidenceKind::Task, is_certain),
            _ => (SubmissionEvidenceKind::SeveralTasks, false),
        };
        let submission = record.get_mut();
        // Of looking for a task, only what was found last counts.
        submission.evidence.clear();
        submission.evidence.push(SubmissionEvidence {
            kind: kind.into(),
            found_at: Some(ledger.now().into()),
            task_ids: found.clone(),
            settled,
            ..SubmissionEvidence::default()
        });
        if !settled {
            return ledger.rewrite(key, &record).await;
        }
        let task_id = found.swap_remove(0);
        submission.outcome = Some(Outcome::CreateTaskResponse(CreateTaskResponse { task_id }));
        ledger.accept(key, &mut record).await
    }

    /// Whether another request could have made the same task.
    async fn has_twin(
        &self,
        key: &Key,
        request: &CreateTaskRequest,
    ) -> Result<bool, SubmissionsError> {
        let ledger = &self.ledger;
        let name = &request.task_name;
        for other in ledger.index.with_task_name(&key.account, name) {
            if other == *key {
                continue;
            }
            let other = if let Some((request, _)) = ledger.index.live_request(&other) {
                Some((*request).clone())
            } else {
                let record = ledger.load(&other).await?;
                let open = record.filter(|it| it.state() == SubmissionState::Unknown);
                open.and_then(|it| it.submission?.request)
            };
            if let Some(Request::CreateTask(other)) = other
                && are_same_task(request, &other)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Plan>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a look may take whose caller waits: some of the time is left to answer in.
fn short(deadline: Option<Instant>) -> Duration {
    deadline.map_or(SHORT_LOOK_TIMEOUT, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        (left * 3 / 4).min(SHORT_LOOK_TIMEOUT)
    })
}
