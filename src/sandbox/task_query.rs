//! The task query: filters, order, pages, and the platform's odd field types.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::code::{BAD_PARAMETER, Refusal};
use super::params::Params;
use super::task::Task;
use super::world::World;

const DEFAULT_PAGE: usize = 20;
const MAX_PAGE: usize = 50;

pub(super) fn query(world: &World, params: &Params) -> Result<Value, Refusal> {
    let tasks = world.tasks();
    let mut found: Vec<&Task> = match params.optional_text("task_id")? {
        Some(id) => vec![tasks.find(id)?],
        None => tasks.all().collect(),
    };
    let filter = Filter::read(params)?;
    found.retain(|task| filter.keeps(task));
    let order = order(params)?;
    found.sort_by(|a, b| order(a, b));
    let (skip, take) = page(params)?;
    let show_remaining = params.optional_bool("show_remaining")?.unwrap_or(false);
    let rows: Vec<Value> = found
        .iter()
        .skip(skip)
        .take(take)
        .map(|task| describe(world, task, show_remaining))
        .collect();
    Ok(json!({ "total_rows": found.len(), "rows": rows }))
}

/// What a task must be like to be listed; times are compared with its
/// creation.
struct Filter<'a> {
    from: i64,
    to: i64,
    name: &'a str,
    states: Option<Vec<i64>>,
}

impl<'a> Filter<'a> {
    fn read(params: &'a Params) -> Result<Self, Refusal> {
        Ok(Self {
            from: params.optional_integer("time_begin")?.unwrap_or(i64::MIN),
            to: params.optional_integer("time_end")?.unwrap_or(i64::MAX),
            name: params.optional_text("task_name")?.unwrap_or_default(),
            states: params
                .optional_integers("task_status_list")?
                .filter(|list| !list.is_empty()),
        })
    }

    fn keeps(&self, task: &Task) -> bool {
        (self.from..=self.to).contains(&task.created)
            && task.settings.name.contains(self.name)
            && self
                .states
                .as_ref()
                .is_none_or(|states| states.contains(&(task.status as i64)))
    }
}

type Order = Box<dyn Fn(&Task, &Task) -> Ordering>;

fn order(params: &Params) -> Result<Order, Refusal> {
    let by: fn(&Task, &Task) -> Ordering = match params.optional_text("sort_name")? {
        None | Some("ID") => |a, b| a.id.cmp(&b.id),
        Some("NAME") => |a, b| a.settings.name.cmp(&b.settings.name),
        Some("CREATETIME") => |a, b| a.created.cmp(&b.created),
        Some("STARTTIME") => |a, b| a.started.cmp(&b.started),
        Some("ENDTIME") => |a, b| a.finished.cmp(&b.finished),
        Some(other) => return Err(BAD_PARAMETER.because(format!("unknown sort_name {other}"))),
    };
    match params.optional_text("sort_order")? {
        None | Some("ASC") => Ok(Box::new(by)),
        Some("DESC") => Ok(Box::new(move |a, b| by(b, a))),
        Some(other) => Err(BAD_PARAMETER.because(format!("unknown sort_order {other}"))),
    }
}

fn page(params: &Params) -> Result<(usize, usize), Refusal> {
    let number = |name, default| -> Result<usize, Refusal> {
        match params.optional_integer(name)? {
            None => Ok(default),
            Some(value) => usize::try_from(value)
                .ok()
                .filter(|value| *value > 0)
                .ok_or_else(|| BAD_PARAMETER.because(format!("{name} {value} is not positive"))),
        }
    };
    let size = number("page_size", DEFAULT_PAGE)?;
    if size > MAX_PAGE {
        return Err(BAD_PARAMETER.because(format!("page_size {size} is over {MAX_PAGE}")));
    }
    let index = number("page_index", 1)?;
    Ok(((index - 1).saturating_mul(size), size))
}

/// One row of the answer. The long-lived task is a pool (`task_type` 2), for
/// which the documents promise the counts alone.
fn describe(world: &World, task: &Task, show_remaining: bool) -> Value {
    let counts = &task.counts;
    let mut row = json!({
        "task_id": task.id.to_string(),
        "task_name": task.settings.name,
        "task_type": if task.direct { 2 } else { 0 },
        "status": task.status as i32,
        "deleted": i32::from(task.deleted),
        "time_task_start": task.started.unwrap_or(0),
        "count_total_task": counts.rows,
        "count_tel": counts.rows,
        "process_count": counts.calls,
        "process_tel_count": counts.dialled,
        "process_through_count": counts.answered,
        "process_through_rate": rate(counts.answered, counts.dialled),
    });
    if show_remaining {
        row["remaining"] = json!(task.remaining());
    }
    if !task.direct {
        describe_ordinary(world, task, &mut row);
    }
    row
}

fn describe_ordinary(world: &World, task: &Task, row: &mut Value) {
    let settings = &task.settings;
    let robot = &world.catalog.robots[settings.robot];
    row["time_task_finish"] = json!(task.finished.unwrap_or(0));
    row["count_recalled"] = json!(task.counts.rounds);
    row["time_task_estimate_begin"] = json!(settings.time_begin);
    row["time_task_estimate_end"] = json!(settings.time_end.unwrap_or(0));
    row["line_num"] = json!(settings.line_num);
    row["robot_id"] = json!(robot.id);
    row["robot_name"] = json!(robot.name);
    row["voice_code"] = json!(settings.voice_code.as_deref().unwrap_or("60030"));
    row["voice_speed"] = json!(400);
    row["count_max_recall"] = json!(settings.recall_count);
    row["status_recall"] = json!("[1,1]");
    row["time_recall_wait"] = json!(settings.recall_wait);
    row["time_range"] = list_field(task.id, &json!(settings.time_range));
    row["intention_push"] = list_field(task.id, &json!(["A", "B"]));
}

/// The document prints these lists in a form that is no JSON. Live they are
/// either a string that holds JSON or a real array: odd task ids show the one,
/// even ids the other.
fn list_field(task: u64, list: &Value) -> Value {
    if task.is_multiple_of(2) {
        list.clone()
    } else {
        Value::String(list.to_string())
    }
}

/// An integer where it is whole, as the example has it; a double otherwise.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate of counts far below 2^53"
)]
fn rate(answered: u64, dialled: u64) -> Value {
    match (answered, dialled) {
        (0, _) | (_, 0) => json!(0),
        (answered, dialled) if answered == dialled => json!(1),
        (answered, dialled) => json!(answered as f64 / dialled as f64),
    }
}
