//! The operations that change something: direct callout, and a task's life.
//!
//! Choices where the documents are silent: a line that is not the account's is
//! 200200 (wrong data relation), and so is inserting into a task once started,
//! pausing one never started, and touching the long-lived task. An occupied
//! line is refused when a task starts or a direct callout arrives, not when a
//! task is created. Starting a running task and pausing a paused one succeed
//! and change nothing.

use std::sync::Arc;

use serde_json::{Value, json};

use super::clock::{now_ms, time_range, within};
use super::code::{
    BAD_PARAMETER, BAD_SPEED, DATA_RELATION, OUTSIDE_HOURS, Refusal, UNKNOWN_ROBOT, UNKNOWN_VOICE,
};
use super::dialer;
use super::params::Params;
use super::rows::Batch;
use super::task::{Row, Settings, Status};
use super::tasks::DIRECT_TASK;
use super::world::World;

/// Direct callout: the rows join the long-lived task and are dialled at once.
pub(super) fn callout(world: &Arc<World>, params: &Params) -> Result<Value, Refusal> {
    let robot = robot(world, params)?;
    let line_num = params.text("line_num")?;
    let line = world
        .catalog
        .line(line_num)
        .ok_or_else(|| unknown_line(line_num))?;
    voice(world, params)?;
    let speed = params.optional_integer("robot_speed")?.unwrap_or(0);
    if !(-500..=500).contains(&speed) {
        return Err(BAD_SPEED.because(format!("robot_speed {speed} is beyond 500")));
    }
    let batch = Batch::read(params, &world.catalog.robots[robot])?;
    if world.config.enforce_hours && !within(world.catalog.lines[line].time_work, now_ms()) {
        return Err(OUTSIDE_HOURS.because("the line does not work at this hour"));
    }
    let count = batch.rows.len() as u64;
    let rows = {
        let mut tasks = world.tasks();
        tasks.can_pay(count)?;
        tasks.lines_free_for(None, &[line])?;
        tasks.pay(count);
        if world.config.dial {
            tasks.begin_direct_calls(line, count);
        }
        let rows = tasks.number(batch);
        let task = tasks.direct(|| Settings::of_direct_callouts(line, line_num, robot));
        task.counts.rows += count;
        rows
    };
    world.received().rows.accept(&rows);
    let answer = accepted(&rows);
    if !world.config.dial {
        return Ok(answer);
    }
    for row in rows {
        let spec = dialer::CallSpec {
            task: DIRECT_TASK,
            row,
            line,
            robot,
            recorded: true,
        };
        world.spawn(dialer::direct_call(Arc::clone(world), spec));
    }
    Ok(answer)
}

pub(super) fn create(world: &World, params: &Params) -> Result<Value, Refusal> {
    let robot = robot(world, params)?;
    let line_num = params.text("line_num")?;
    let lines = world
        .catalog
        .lines(line_num)
        .ok_or_else(|| unknown_line(line_num))?;
    let recall_count = params.optional_integer("recall_count")?.unwrap_or(0);
    let recall_count = u32::try_from(recall_count).ok().filter(|count| *count <= 3);
    let recall_wait = params.optional_integer("time_recall_wait")?.unwrap_or(0);
    let time_begin = params.integer("time_begin")?;
    let time_end = params.optional_integer("time_end")?;
    if time_end.is_some_and(|end| end <= time_begin) {
        return Err(BAD_PARAMETER.because("time_end is not after time_begin"));
    }
    let settings = Settings {
        name: params.text("task_name")?.to_owned(),
        lines,
        line_num: line_num.to_owned(),
        robot,
        voice_code: voice(world, params)?,
        recall_count: recall_count
            .ok_or_else(|| BAD_PARAMETER.because("recall_count is not between 0 and 3"))?,
        recall_wait: u64::try_from(recall_wait)
            .map_err(|_| BAD_PARAMETER.because("time_recall_wait is negative"))?,
        time_range: time_ranges(world, params)?,
        time_begin,
        // The documents' example ended in 2018; it is to run all the same.
        time_end: time_end.filter(|end| *end > now_ms()),
        trubo_mode: params.optional_bool("trubo_mode")?.unwrap_or(false),
    };
    let id = world.tasks().create(settings);
    Ok(json!({ "task_id": id.to_string() }))
}

pub(super) fn insert(world: &World, params: &Params) -> Result<Value, Refusal> {
    let id = params.text("task_id")?;
    let mut tasks = world.tasks();
    let task = tasks.find(id)?;
    task.controllable()?;
    if task.status != Status::New {
        return Err(DATA_RELATION.because(format!("task {id} is started: no more rows")));
    }
    let (batch, refusal) = Batch::sift(params, &world.catalog.robots[task.settings.robot])?;
    if let Some(refusal) = &refusal
        && !world.config.insert_keeps_good_rows
    {
        return Err(refusal.clone());
    }
    let rows = tasks.number(batch);
    let task = tasks.find_mut(id)?;
    task.counts.rows += rows.len() as u64;
    if world.config.dial {
        task.queue.extend(rows.iter().cloned());
    }
    drop(tasks);
    world.received().rows.accept(&rows);
    refusal.map_or_else(|| Ok(accepted(&rows)), Err)
}

pub(super) fn start(world: &Arc<World>, params: &Params) -> Result<Value, Refusal> {
    let name = params.text("task_id")?;
    let mut tasks = world.tasks();
    let task = tasks.find(name)?;
    task.controllable()?;
    if task.active() {
        return Ok(json!({}));
    }
    let (id, lines) = (task.id, task.settings.lines.clone());
    tasks.can_pay(task.remaining() as u64)?;
    tasks.lines_free_for(Some(id), &lines)?;
    tasks.hold_lines(id, &lines);
    let task = tasks.find_mut(name)?;
    task.status = Status::Started;
    task.started.get_or_insert(now_ms());
    task.run += 1;
    let run = task.run;
    let changes = task.changed.subscribe();
    drop(tasks);
    world.spawn(dialer::run_task(Arc::clone(world), id, run, changes));
    Ok(json!({}))
}

/// Calls under way go on to their end; the line stays with the task.
pub(super) fn pause(world: &World, params: &Params) -> Result<Value, Refusal> {
    let id = params.text("task_id")?;
    let mut tasks = world.tasks();
    let task = tasks.find_mut(id)?;
    task.controllable()?;
    if task.status == Status::New {
        return Err(DATA_RELATION.because(format!("task {id} was never started")));
    }
    task.status = Status::Paused;
    task.changed.send_replace(());
    Ok(json!({}))
}

/// Rows not yet dialled are dropped; calls under way go on to their end.
pub(super) fn delete(world: &World, params: &Params) -> Result<Value, Refusal> {
    let id = params.text("task_id")?;
    let mut tasks = world.tasks();
    let task = tasks.find_mut(id)?;
    if !task.ended() || task.deleted {
        task.controllable()?;
    }
    task.deleted = true;
    task.queue.clear();
    task.retry.clear();
    task.changed.send_replace(());
    let id = task.id;
    tasks.release_lines(id);
    Ok(json!({}))
}

impl Settings {
    fn of_direct_callouts(line: usize, line_num: &str, robot: usize) -> Self {
        Self {
            name: "直接外呼".to_owned(),
            lines: vec![line],
            line_num: line_num.to_owned(),
            robot,
            voice_code: None,
            recall_count: 0,
            recall_wait: 0,
            time_range: Vec::new(),
            time_begin: now_ms(),
            time_end: None,
            trubo_mode: false,
        }
    }
}

fn robot(world: &World, params: &Params) -> Result<usize, Refusal> {
    let id = params.text("robot_id")?;
    world
        .catalog
        .robot(id)
        .ok_or_else(|| UNKNOWN_ROBOT.because(format!("there is no robot {id}")))
}

fn voice(world: &World, params: &Params) -> Result<Option<String>, Refusal> {
    match params.optional_text("voice_code")? {
        Some(code) if !world.catalog.has_voice(code) => {
            Err(UNKNOWN_VOICE.because(format!("there is no voice {code}")))
        }
        code => Ok(code.map(str::to_owned)),
    }
}

fn time_ranges(world: &World, params: &Params) -> Result<Vec<String>, Refusal> {
    let ranges = params.optional_texts("time_range")?;
    if ranges.is_none() && world.config.require_time_range {
        return Err(BAD_PARAMETER.because("time_range is missing"));
    }
    let ranges = ranges.unwrap_or_default();
    match ranges.iter().find(|range| time_range(range).is_none()) {
        Some(bad) => {
            Err(BAD_PARAMETER.because(format!("time_range {bad} is no HH:MM:SS-HH:MM:SS")))
        }
        None => Ok(ranges),
    }
}

fn unknown_line(line_num: &str) -> Refusal {
    DATA_RELATION.because(format!("line_num {line_num} is not this account's"))
}

/// Ids as JSON longs, exact beyond 2^53.
fn accepted(rows: &[Row]) -> Value {
    let ids: Vec<i64> = rows.iter().map(|row| row.data_id).collect();
    json!({ "total": ids.len(), "task_data_ids": ids })
}
