//! Asks the platform for tasks whose making was not answered.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::super::evidence::{Tasks, tasks_of};
use super::super::stored::Key;
use super::{Failure, LONGEST_PAUSE, Resolver, accept, is_unknown, now};
use crate::proto::submission::{Outcome, Request};
use crate::proto::{
    CreateTaskRequest, CreateTaskResponse, QueryTasksRequest, SortOrder, Submission,
    SubmissionEvidence, SubmissionEvidenceKind, SubmissionOperation, Task, TaskSortName,
};

/// The most tasks that the platform gives at once.
const PAGE: i32 = 50;
/// So many pages are read at most. A name that more tasks have in theirs tells nothing.
const MAX_PAGES: i32 = 40;
/// One look takes no longer than this.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// When a task is looked for next.
struct Next {
    at: Instant,
    /// How long to wait after that.
    pause: Duration,
}

impl Resolver {
    /// Looks for tasks as their time comes, until it is stopped.
    pub(super) async fn follow_tasks(&self, stop: &CancellationToken) {
        let mut changed = self.unsettled.changed();
        let mut plan = HashMap::new();
        while !stop.is_cancelled() {
            changed.borrow_and_update();
            self.renew(&mut plan);
            let next = plan.iter_mut().min_by_key(|(_, next)| next.at);
            let Some((key, next)) = next else {
                tokio::select! {
                    closed = changed.changed() => if closed.is_err() { return },
                    () = stop.cancelled() => {}
                }
                continue;
            };
            tokio::select! {
                () = sleep_until(next.at) => {}
                closed = changed.changed() => { if closed.is_err() { return } continue }
                () = stop.cancelled() => return,
            }
            let deadline = Instant::now() + LOOK_TIMEOUT;
            if let Err(Failure::Closed) = self.look(key, Some(deadline), stop).await {
                return;
            }
            next.at = Instant::now() + next.pause;
            next.pause = (next.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Plans for the submissions that have become open, and no more for those that are not.
    fn renew(&self, plan: &mut HashMap<Key, Next>) {
        let open = self.unsettled.open_ones().into_iter();
        let mut old = std::mem::take(plan);
        for it in open.filter(|it| it.operation == SubmissionOperation::CreateTask) {
            let next = old.remove(&it.key).unwrap_or_else(|| Next {
                at: Instant::now() + self.first_look,
                pause: self.first_look * 2,
            });
            plan.insert(it.key, next);
        }
    }

    /// Looks at once for the task of a submission, for a caller who repeats its request. What is
    /// found is written down; nothing is where the platform cannot be asked by `deadline`.
    pub(in super::super) async fn look_for_task(&self, key: &Key, deadline: Option<Instant>) {
        // A failure is told there; the task is looked for again in its time.
        let _ = self.look(key, deadline, &CancellationToken::new()).await;
    }

    /// Looks for the task of a submission.
    async fn look(
        &self,
        key: &Key,
        deadline: Option<Instant>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let looked = async {
            let Some((_, request)) = self.unanswered(key).await? else {
                return Ok(());
            };
            let query = self.tasks_named(&key.account, &request.task_name, deadline);
            // What was found is written to the end; only asking may be broken off.
            let Some(Some(tasks)) = stop.run_until_cancelled(query).await else {
                return Ok(());
            };
            // One of these may be of a request whose answer is still to come.
            let deadline = deadline.unwrap_or_else(|| Instant::now() + LOOK_TIMEOUT);
            let back = timeout_at(deadline, self.unsettled.until_back(&key.account));
            match stop.run_until_cancelled(back).await {
                Some(Ok(())) => self.give(key, &tasks).await,
                Some(Err(_)) | None => Ok(()),
            }
        };
        let looked = looked.await;
        if let Err(Failure::Later(error)) = &looked {
            let account = &key.account;
            tracing::warn!(
                account,
                error,
                "a task cannot be looked for; trying again later"
            );
        }
        looked
    }

    /// A submission whose CreateTask was not answered; `None`: it has an outcome, or is gone.
    async fn unanswered(
        &self,
        key: &Key,
    ) -> Result<Option<(Submission, CreateTaskRequest)>, Failure> {
        let loaded = self.unsettled.load(key).await?;
        Ok(loaded.filter(is_unknown).and_then(|it| {
            let Some(Request::CreateTask(request)) = it.request.clone() else {
                return None;
            };
            Some((it, request))
        }))
    }

    /// All tasks with this in their name; `None`: not all of them could be had.
    async fn tasks_named(
        &self,
        account: &str,
        name: &str,
        deadline: Option<Instant>,
    ) -> Option<Vec<Task>> {
        let mut tasks = Vec::new();
        for page in 1..=MAX_PAGES {
            let query = QueryTasksRequest {
                task_name: name.to_owned(),
                page_size: Some(PAGE),
                page_index: Some(page),
                // So that a task made meanwhile moves none from one page to another.
                sort_name: TaskSortName::Id.into(),
                sort_order: SortOrder::Asc.into(),
                ..QueryTasksRequest::default()
            };
            let answer = match self.platform.call(account, &query, deadline).await {
                Ok(answer) => answer,
                Err(error) => {
                    let outcome = error.outcome();
                    tracing::debug!(account, outcome, "a task cannot be asked for");
                    return None;
                }
            };
            let read = answer.rows.len();
            tasks.extend(answer.rows);
            let is_all = match answer.total_rows {
                Some(total) => usize::try_from(total).is_ok_and(|total| tasks.len() >= total),
                // The platform may have pages of its own size.
                None => false,
            };
            if read == 0 || is_all {
                return Some(tasks);
            }
        }
        tracing::warn!(account, "too many tasks have a name that is looked for");
        None
    }

    /// Gives a submission the task that it has made, if these tell which.
    async fn give(&self, key: &Key, tasks: &[Task]) -> Result<(), Failure> {
        let _giving = self.giving.lock().await;
        // It may have got its outcome meanwhile.
        let Some((mut submission, request)) = self.unanswered(key).await? else {
            return Ok(());
        };
        let mut claimed = HashSet::new();
        for id in ids(tasks_of(&request, tasks, |_| false)) {
            if self.unsettled.is_task_claimed(&key.account, &id).await? {
                claimed.insert(id);
            }
        }
        let found = tasks_of(&request, tasks, |id| claimed.contains(id));
        let kind = match &found {
            Tasks::None => SubmissionEvidenceKind::NoTask,
            Tasks::One(_) => SubmissionEvidenceKind::Task,
            Tasks::Several(_) => SubmissionEvidenceKind::SeveralTasks,
        };
        if let Tasks::One(task_id) = &found {
            accept(&mut submission);
            submission.outcome = Some(Outcome::CreateTaskResponse(CreateTaskResponse {
                task_id: task_id.clone(),
            }));
        }
        // Of looking for a task, only what was found last counts.
        submission.evidence.retain(|it| !is_of_tasks(it.kind()));
        submission.evidence.push(SubmissionEvidence {
            kind: kind.into(),
            found_at: Some(now()),
            task_ids: ids(found),
            ..SubmissionEvidence::default()
        });
        self.write(key, submission, true).await
    }
}

fn ids(tasks: Tasks) -> Vec<String> {
    match tasks {
        Tasks::None => Vec::new(),
        Tasks::One(id) => vec![id],
        Tasks::Several(ids) => ids,
    }
}

fn is_of_tasks(kind: SubmissionEvidenceKind) -> bool {
    match kind {
        SubmissionEvidenceKind::Task
        | SubmissionEvidenceKind::SeveralTasks
        | SubmissionEvidenceKind::NoTask => true,
        SubmissionEvidenceKind::CallRecord
        | SubmissionEvidenceKind::SeveralSubmissions
        | SubmissionEvidenceKind::Unspecified => false,
    }
}
