//! Makes the calls: a runner for each started task, and one call at a time on
//! each channel of a line.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::bodies::CallFacts;
use super::clock::{now_ms, within};
use super::outcome::Outcome;
use super::task::{Row, Status, Task};
use super::world::World;

/// One call to make.
pub(super) struct CallSpec {
    pub task: u64,
    pub row: Row,
    pub line: usize,
    pub robot: usize,
    pub recorded: bool,
}

/// What a task's runner does next.
enum Step {
    Stop,
    /// By the sandbox's clock, which `speed` shortens.
    Wait(Duration),
    WaitReal(Duration),
    WaitForChange,
    Dial {
        line: usize,
    },
}

/// Dials a row of a direct callout as soon as its line has a free channel.
pub(super) async fn direct_call(world: Arc<World>, spec: CallSpec) {
    let channels = Arc::clone(&world.catalog.lines[spec.line].channels);
    let Ok(_channel) = channels.acquire_owned().await else {
        return;
    };
    if let Some(task) = world.tasks().get_mut(spec.task) {
        task.under_way += 1;
    }
    let answered = place_call(&world, &spec).await;
    let mut tasks = world.tasks();
    tasks.end_direct_call(spec.line);
    if let Some(task) = tasks.get_mut(spec.task) {
        task.book(spec.row, answered);
    }
}

/// Runs a started task until it ends, is paused or deleted.
pub(super) async fn run_task(
    world: Arc<World>,
    id: u64,
    run: u64,
    mut changes: watch::Receiver<()>,
) {
    loop {
        match next_step(&world, id, run) {
            Step::Stop => return,
            Step::Wait(time) => wait(world.config.scaled(time), &mut changes).await,
            Step::WaitReal(time) => wait(time, &mut changes).await,
            Step::WaitForChange => {
                if changes.changed().await.is_err() {
                    return;
                }
            }
            Step::Dial { line } => {
                let channels = Arc::clone(&world.catalog.lines[line].channels);
                tokio::select! {
                    Ok(channel) = channels.acquire_owned() => dial(&world, id, run, line, channel),
                    _ = changes.changed() => {}
                    // Hours and `time_end` pass while all channels are busy.
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
        }
    }
}

/// Waits, or until the task changes.
async fn wait(time: Duration, changes: &mut watch::Receiver<()>) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        _ = changes.changed() => {}
    }
}

/// Takes the next row, unless the task was stopped while it waited for the
/// channel, and calls it in the background.
fn dial(
    world: &Arc<World>,
    id: u64,
    run: u64,
    line: usize,
    channel: tokio::sync::OwnedSemaphorePermit,
) {
    let mut tasks = world.tasks();
    let Some(task) = tasks
        .get_mut(id)
        .filter(|task| task.run == run && task.active())
    else {
        return;
    };
    let Some(row) = task.take_row_for_dialling() else {
        return;
    };
    let spec = CallSpec {
        task: id,
        row,
        line,
        robot: task.settings.robot,
        recorded: !task.settings.trubo_mode,
    };
    tasks.pay(1);
    drop(tasks);
    let world_of_call = Arc::clone(world);
    world.spawn(async move {
        let answered = place_call(&world_of_call, &spec).await;
        drop(channel);
        if let Some(task) = world_of_call.tasks().get_mut(spec.task) {
            task.book(spec.row, answered);
        }
    });
}

/// Looks at the task, moves its state on, and says what to do.
fn next_step(world: &World, id: u64, run: u64) -> Step {
    let now = now_ms();
    let mut tasks = world.tasks();
    let can_pay = tasks.can_pay(1).is_ok();
    let Some(task) = tasks
        .get_mut(id)
        .filter(|task| task.run == run && task.active())
    else {
        return Step::Stop;
    };
    let step = if task.settings.time_end.is_some_and(|end| now >= end) && task.remaining() > 0 {
        task.status = Status::Expired;
        Step::Stop
    } else {
        advance(world, task, now, can_pay)
    };
    if task.ended() {
        task.finished = Some(now);
        tasks.release_lines(id);
    }
    step
}

fn advance(world: &World, task: &mut Task, now: i64, can_pay: bool) -> Step {
    let begins = begins(world, task, now);
    if now < begins {
        return Step::WaitReal(millis(begins - now));
    }
    if world.config.enforce_hours && !within(&task.settings.time_range, now) {
        task.status = Status::OutsideHours;
        return Step::Wait(Duration::from_secs(60));
    }
    if let Some(next) = task.queue.front() {
        if !can_pay {
            task.status = Status::Paused;
            return Step::Stop;
        }
        task.status = Status::Running;
        let lines = &task.settings.lines;
        let turn = usize::try_from(next.index).unwrap_or_default() % lines.len();
        return Step::Dial { line: lines[turn] };
    }
    if task.under_way > 0 {
        return Step::WaitForChange;
    }
    if task.retry.is_empty() {
        task.status = Status::Finished;
        return Step::Stop;
    }
    if task.status == Status::WaitingForRetry && task.retry_due.is_some_and(|due| now >= due) {
        task.begin_next_round();
        return Step::Wait(Duration::ZERO);
    }
    await_next_round(world, task, now)
}

/// When calls begin: what lay between the start and `time_begin` then, sped up.
fn begins(world: &World, task: &Task, now: i64) -> i64 {
    let started = task.started.unwrap_or(now);
    let whole = world
        .config
        .scaled(millis(task.settings.time_begin - started));
    started.saturating_add(i64::try_from(whole.as_millis()).unwrap_or(i64::MAX))
}

/// A difference of times; none where it is negative.
fn millis(difference: i64) -> Duration {
    Duration::from_millis(u64::try_from(difference).unwrap_or_default())
}

/// Sets the time of the next round once, so that a change in between neither
/// shortens nor restarts the wait.
fn await_next_round(world: &World, task: &mut Task, now: i64) -> Step {
    let whole = world
        .config
        .scaled(Duration::from_secs(task.settings.recall_wait));
    let whole = i64::try_from(whole.as_millis()).unwrap_or(i64::MAX);
    if task.status != Status::WaitingForRetry {
        task.status = Status::WaitingForRetry;
        task.retry_due = None;
    }
    let due = *task.retry_due.get_or_insert(now.saturating_add(whole));
    Step::WaitReal(millis(due.saturating_sub(now)))
}

/// Dials, rings, talks, hangs up, and sends the pushes on their way. Returns
/// whether somebody answered.
async fn place_call(world: &Arc<World>, spec: &CallSpec) -> bool {
    let outcome = Outcome::of(world.config.seed, &spec.row);
    let time_dial = now_ms();
    let real = Duration::from_millis(outcome.ring_ms + outcome.talk_ms);
    tokio::time::sleep(world.config.scaled(real)).await;
    CallFacts::new(world, spec, &outcome, time_dial).push(world, &outcome);
    outcome.answered
}
