//! What the enterprise owns on the platform: lines, robots, voices, and the
//! push URLs. The values are those of the documents' examples, so that the
//! examples work as they are printed.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::code::{BAD_PARAMETER, Refusal};
use super::params::Params;
use super::world::World;

/// A line, by which calls go out.
pub(super) struct Line {
    pub num: &'static str,
    pub concurrents: usize,
    pub time_work: &'static [&'static str],
    /// One permit for each call that the line carries at a time.
    pub channels: Arc<Semaphore>,
    time_expire: i64,
}

/// A robot: the script that talks.
pub(super) struct Robot {
    pub id: &'static str,
    pub name: &'static str,
    pub call_column: &'static [&'static str],
    kind: i64,
}

pub(super) struct Catalog {
    pub lines: Vec<Line>,
    pub robots: Vec<Robot>,
    pub voices: &'static [(&'static str, &'static str)],
}

const APPLIED: i64 = 1_527_321_492_000;
const UPDATED: i64 = 1_527_325_092_000;

impl Catalog {
    pub fn of_the_documents() -> Self {
        let line = |num, concurrents, time_work, time_expire| Line {
            num,
            concurrents,
            time_work,
            channels: Arc::new(Semaphore::new(concurrents)),
            time_expire,
        };
        let robot = |id, name, call_column, kind| Robot {
            id,
            name,
            call_column,
            kind,
        };
        Self {
            lines: vec![
                line(
                    "055169101407",
                    10,
                    &["09:00:00-12:00:00", "13:00:00-17:59:59"][..],
                    2_592_000,
                ),
                line("055169101408", 100, &["08:00:00-20:00:00"][..], 2_592_000),
                line("69101338", 20, &["07:30:00-23:30:00"][..], -1),
            ],
            robots: vec![
                robot(
                    "111111",
                    "金融外呼",
                    &["客户手机号码", "姓名", "性别"][..],
                    1,
                ),
                robot("719", "测试话术无参数", &["客户手机号码", "姓名"][..], 1),
                robot("11", "测试外呼", &["客户手机号码", "列2", "列3"][..], 2),
            ],
            voices: &[("60020", "春春"), ("60030", "小媛"), ("60040", "小峰")],
        }
    }

    pub fn robot(&self, id: &str) -> Option<usize> {
        self.robots.iter().position(|robot| robot.id == id)
    }

    pub fn has_voice(&self, code: &str) -> bool {
        self.voices.iter().any(|(known, _)| *known == code)
    }

    /// The line of this number, written with or without its area code.
    pub fn line(&self, num: &str) -> Option<usize> {
        const AREA: &str = "0551";
        let local = |num: &str| num.strip_prefix(AREA).unwrap_or(num).to_owned();
        self.lines
            .iter()
            .position(|line| local(line.num) == local(num))
    }

    /// Several lines joined by `;` as documented, or by `,` as seen.
    pub fn lines(&self, joined: &str) -> Option<Vec<usize>> {
        joined
            .split([';', ','])
            .map(|num| self.line(num.trim()))
            .collect()
    }
}

/// Answers a query of the configuration.
pub(super) fn query(world: &World, params: &Params) -> Result<Value, Refusal> {
    let kind = params.optional_integer("type")?.unwrap_or(0);
    if !(0..=4).contains(&kind) {
        return Err(BAD_PARAMETER.because(format!("type {kind} is not between 0 and 4")));
    }
    let mut result = json!({});
    if matches!(kind, 0 | 1) {
        result["robots"] = robots(world, params)?;
        result["robotTotal"] = json!(world.catalog.robots.len());
    }
    if matches!(kind, 0 | 2) {
        result["lines"] = lines(world);
    }
    if matches!(kind, 0 | 3) {
        result["urls"] = urls(world);
    }
    if matches!(kind, 0 | 4) {
        let voice = |(code, name): &(&str, &str)| json!({ "voice_code": code, "voice_name": name });
        result["voices"] = world.catalog.voices.iter().map(voice).collect();
    }
    Ok(result)
}

fn robots(world: &World, params: &Params) -> Result<Value, Refusal> {
    let size = params.optional_integer("pageSize")?;
    let index = params.optional_integer("pageIndex")?.unwrap_or(1);
    let (skip, take) = match size {
        None => (0, usize::MAX),
        Some(size) => {
            let size = usize::try_from(size).ok().filter(|size| *size > 0);
            let page = usize::try_from(index)
                .ok()
                .and_then(|index| index.checked_sub(1));
            let (Some(size), Some(page)) = (size, page) else {
                return Err(BAD_PARAMETER.because("pageSize and pageIndex start at 1"));
            };
            (page.saturating_mul(size), size)
        }
    };
    let robot = |robot: &Robot| {
        json!({
            "robot_id": robot.id,
            "robot_name": robot.name,
            "call_column": robot.call_column,
            "status": 4,
            "type": robot.kind,
            "deleted": 0,
            "time_create": APPLIED,
            "time_update": UPDATED,
        })
    };
    Ok(world
        .catalog
        .robots
        .iter()
        .skip(skip)
        .take(take)
        .map(robot)
        .collect())
}

fn lines(world: &World) -> Value {
    let tasks = world.tasks();
    let line = |(index, line): (usize, &Line)| {
        json!({
            "line_num": line.num,
            "concurrents": line.concurrents,
            "time_work": line.time_work,
            "status": i32::from(tasks.line_in_use(index)),
            "time_apply": APPLIED,
            "time_expire": line.time_expire,
        })
    };
    world.catalog.lines.iter().enumerate().map(line).collect()
}

/// The push URLs as the account's console would hold them. The last two are
/// scoped to an application, and to an application and a robot.
fn urls(world: &World) -> Value {
    let mut urls = world.pusher.urls();
    if urls.is_empty() {
        urls.push((
            "http://your-service.url/receiveCallRecord".into(),
            "receiveCallRecord".into(),
        ));
    }
    for module in ["receiveDialog|AppX", "receiveVoice|AppX|4567"] {
        urls.push(("http://your-service.url/scoped".into(), module.into()));
    }
    urls.into_iter()
        .map(|(url, module)| json!({ "url": url, "url_module": module }))
        .collect()
}
