//! Asks the platform how far tasks have come of whose rows records are awaited.
//!
//! What the platform said counts as of the time at which it was asked. So a task that has ended
//! must be said to have ended for as long as rows of ended tasks are given, and nothing that was
//! said before a row was submitted tells of it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::millis;
use crate::platform::{Code, Platform, PlatformError, masked};
use crate::proto::{OverdueReason, QueryTasksRequest, Task, TaskStatus};

/// What is known of the tasks of an account. A restart begins anew.
#[derive(Default)]
pub(super) struct Tasks {
    known: HashMap<String, Known>,
    /// The tasks that were met since these were last forgotten that were not.
    met: HashSet<String>,
}

/// What is known of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// When it was last asked about and answered for, in milliseconds since 1970; 0: never.
    pub answered_ms: u64,
    pub stage: Stage,
    /// When it was last asked about.
    asked_ms: u64,
    /// How long it is not asked about again.
    pause_ms: u64,
}

/// How far a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has numbers to call, or may have.
    Open,
    /// It goes on, and has called all of its numbers: since when that is known.
    CalledAll(u64),
    /// It has ended, in this way, at this time in milliseconds since 1970.
    Ended(OverdueReason, u64),
}

/// So many tasks are asked about before one look at rows; those that have waited longest go first.
const ASKS: usize = 200;
/// A task is asked about this seldom at most, if there are not too many.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// An answer that takes longer is not waited for.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);

impl Tasks {
    /// Forgets the tasks that were not met in a look at all rows, which has ended.
    pub fn forget_others(&mut self) {
        let met = std::mem::take(&mut self.met);
        self.known.retain(|id, _| met.contains(id));
    }

    /// Asks about the tasks that were met before, as far as it is time to.
    pub async fn ask(
        &mut self,
        platform: &Platform,
        account: &str,
        now_ms: u64,
        first_pause: Duration,
    ) {
        for task_id in self.due(now_ms) {
            let said = say(platform, account, &task_id, now_ms).await;
            let Some(known) = self.known.get_mut(&task_id) else {
                continue;
            };
            known.asked_ms = now_ms;
            match said {
                Said::Stage(stage) => known.learn(stage, now_ms, first_pause),
                // It alone cannot be asked about; what is known of it grows old.
                Said::Refused => known.wait_longer(),
                // Nor can the others.
                Said::Away => return,
            }
        }
    }

    /// The tasks that are to be asked about now.
    fn due(&self, now_ms: u64) -> Vec<String> {
        let due = self.known.iter().filter(|(_, known)| {
            // The clock may have been set back.
            known.asked_ms > now_ms || now_ms >= known.asked_ms + known.pause_ms
        });
        let mut due: Vec<_> = due
            .map(|(id, known)| (known.asked_ms, id.clone()))
            .collect();
        due.sort_unstable();
        due.truncate(ASKS);
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// What is known of a task of which rows are awaited. One that was not met before is asked
    /// about before the next look.
    pub fn meet(&mut self, task_id: &str) -> Known {
        self.met.insert(task_id.to_owned());
        *self.known.entry(task_id.to_owned()).or_insert(Known {
            answered_ms: 0,
            stage: Stage::Open,
            asked_ms: 0,
            pause_ms: 0,
        })
    }
}

impl Known {
    fn learn(&mut self, stage: Stage, now_ms: u64, first_pause: Duration) {
        let is_same = match (self.stage, stage) {
            (Stage::Open, Stage::Open) | (Stage::CalledAll(_), Stage::CalledAll(_)) => true,
            (Stage::Ended(before, _), Stage::Ended(now, _)) => before == now,
            _ => false,
        };
        if is_same && self.answered_ms > 0 {
            // Since when it is so is known already, unless the platform tells of another end.
            if let (Stage::Ended(_, before), Stage::Ended(_, at)) = (self.stage, stage)
                && before < at
                && at < now_ms
            {
                self.stage = stage;
            }
            self.wait_longer();
        } else {
            self.stage = stage;
            self.pause_ms = millis(first_pause);
        }
        self.answered_ms = now_ms;
    }

    fn wait_longer(&mut self) {
        self.pause_ms = (self.pause_ms.max(1) * 2).min(millis(LONGEST_PAUSE));
    }
}

/// What the platform says of a task.
enum Said {
    Stage(Stage),
    /// It does not say it of this one.
    Refused,
    /// It says nothing of any.
    Away,
}

async fn say(platform: &Platform, account: &str, task_id: &str, now_ms: u64) -> Said {
    let request = QueryTasksRequest {
        task_id: task_id.to_owned(),
        ..QueryTasksRequest::default()
    };
    let deadline = Instant::now() + ASK_TIMEOUT;
    match platform.call(account, &request, Some(deadline)).await {
        Ok(answer) => {
            let task = answer.rows.iter().find(|task| task.task_id == task_id);
            Said::Stage(stage_of(task, now_ms))
        }
        Err(error) => {
            let said = said_by(&error, now_ms);
            if !matches!(said, Said::Stage(_)) {
                let error = masked(&error.to_string());
                tracing::debug!(account, task_id, error, "a task cannot be asked about");
            }
            said
        }
    }
}

fn said_by(error: &PlatformError, now_ms: u64) -> Said {
    let PlatformError::Refused {
        code,
        for_token: false,
        ..
    } = error
    else {
        return Said::Away;
    };
    match code {
        Code::TaskNotFound | Code::TaskDeleted => {
            Said::Stage(Stage::Ended(OverdueReason::TaskDeleted, now_ms))
        }
        Code::TaskCompleted => Said::Stage(Stage::Ended(OverdueReason::TaskFinished, now_ms)),
        Code::Busy | Code::UnderMaintenance => Said::Away,
        _ => Said::Refused,
    }
}

/// How far a task has come, as the platform shows it; `None`: it shows none.
fn stage_of(task: Option<&Task>, now_ms: u64) -> Stage {
    let Some(task) = task else {
        return Stage::Ended(OverdueReason::TaskDeleted, now_ms);
    };
    if task.deleted == Some(true) {
        return Stage::Ended(OverdueReason::TaskDeleted, now_ms);
    }
    match task.status() {
        TaskStatus::Completed => {
            let finish = task.time_task_finish.and_then(|ms| u64::try_from(ms).ok());
            // Its unit is not to be relied on, nor its clock.
            let finish = finish.filter(|ms| (1..=now_ms).contains(ms) && is_ms(*ms));
            Stage::Ended(OverdueReason::TaskFinished, finish.unwrap_or(now_ms))
        }
        TaskStatus::Expired => Stage::Ended(OverdueReason::TaskExpired, now_ms),
        TaskStatus::Running | TaskStatus::AwaitingRecall => {
            match (task.process_tel_count, task.count_tel) {
                // One that says more than all counts something else, such as redials.
                (Some(called), Some(all)) if all > 0 && called == all => Stage::CalledAll(now_ms),
                _ => Stage::Open,
            }
        }
        TaskStatus::Unspecified
        | TaskStatus::New
        | TaskStatus::Started
        | TaskStatus::Paused
        | TaskStatus::OutsideWorkingHours => Stage::Open,
    }
}

/// Whether a number is a time in milliseconds, and not in seconds: later than 2001.
fn is_ms(ms: u64) -> bool {
    ms > 1_000_000_000_000
}

#[cfg(test)]
mod tests;
