//! A simulated platform: it keeps a book of what it has accepted, and answers through a network
//! that loses, delays and garbles.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::platform::simulation_seam::{Gate, HttpAnswer, PostError, Transport};

/// The task of direct calls.
const DEFAULT_TASK: &str = "900";

/// A row that the platform has accepted.
#[derive(Clone, Debug)]
pub struct Dialled {
    pub id: String,
    /// Who submitted it; see [`tag_of`].
    pub tag: u32,
    pub task_id: String,
    pub values: Vec<String>,
    /// Whether its request was answered in full to a living gateway.
    pub answered: bool,
}

/// A task that the platform has made.
#[derive(Clone, Debug)]
pub struct Made {
    pub id: String,
    pub tag: u32,
    pub name: String,
    pub body: Value,
    pub answered: bool,
}

/// What the platform has done.
#[derive(Default)]
pub struct Book {
    pub rows: Vec<Dialled>,
    pub tasks: Vec<Made>,
    /// How many rows each task has.
    counts: BTreeMap<String, i64>,
    next_id: u64,
    token: u64,
    /// The rows whose pushes are not planned yet.
    pub new_rows: Vec<usize>,
}

/// How the network and the platform behave.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Of 100 changes, how many have a fault.
    pub faults: u32,
    /// Whether all changes are answered by a proxy's page.
    pub storm: bool,
    /// Whether a refused insert keeps its good rows.
    pub keeps_good_rows: bool,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Luck {
    Good,
    NotSent,
    LostBefore,
    LostAfter,
    /// The answer comes, and late.
    Slow,
    /// The answer comes after the gateway has given up.
    TooLate,
    /// A code of a framework or proxy; applied or not.
    Http500(bool),
    Html(bool),
    Undocumented(bool),
    TokenRefused,
    Busy,
    Maintenance,
    Refused,
    NoIds,
}

/// The platform, which outlives gateways.
pub struct World {
    pub book: Mutex<Book>,
    pub weather: Mutex<Weather>,
    random: Mutex<StdRng>,
    /// Notified when rows are dialled.
    pub dialled: Notify,
}

/// One gateway's way to the platform. A killed gateway's leads nowhere.
pub struct Line {
    pub world: Arc<World>,
    pub alive: Arc<AtomicBool>,
}

impl World {
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self {
            book: Mutex::default(),
            weather: Mutex::new(weather),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            dialled: Notify::new(),
        }
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    fn luck(&self, path: &str) -> Luck {
        let weather = *self.weather.lock().unwrap();
        let mut random = self.random.lock().unwrap();
        let is_change = !path.ends_with("/query") && !path.ends_with("/token");
        if weather.storm {
            return Luck::Html(false);
        }
        if random.random_range(0..100) >= weather.faults {
            return Luck::Good;
        }
        let reads = [
            Luck::NotSent,
            Luck::LostAfter,
            Luck::Slow,
            Luck::Html(false),
            Luck::Busy,
        ];
        let changes = [
            Luck::NotSent,
            Luck::LostBefore,
            Luck::LostAfter,
            Luck::LostAfter,
            Luck::Slow,
            Luck::TooLate,
            Luck::Http500(true),
            Luck::Http500(false),
            Luck::Html(true),
            Luck::Html(false),
            Luck::Undocumented(true),
            Luck::Undocumented(false),
            Luck::TokenRefused,
            Luck::Busy,
            Luck::Maintenance,
            Luck::Refused,
            Luck::NoIds,
        ];
        let of = if is_change { &changes[..] } else { &reads[..] };
        of[random.random_range(0..of.len())]
    }

    fn delay(&self) -> Duration {
        let mut random = self.random.lock().unwrap();
        Duration::from_micros(random.random_range(100..50_000))
    }

    /// Carries a request out; gives the answer's status and body.
    fn act(&self, path: &str, body: &Value, answered: bool) -> (Value, Option<Vec<usize>>) {
        let keeps_good_rows = self.weather.lock().unwrap().keeps_good_rows;
        self.dialled.notify_one();
        let mut book = self.book();
        match path.rsplit('/').next().unwrap_or_default() {
            "token" => {
                book.token += 1;
                let token = format!("t{}", book.token);
                (
                    json!({"code": 0, "result": {"token": token, "time_expire": 3600}}),
                    None,
                )
            }
            "callout" => book.take(body, DEFAULT_TASK, false, answered),
            "insert" => {
                let task = text(&body["task_id"]);
                book.take(body, &task, keeps_good_rows, answered)
            }
            "create" => (book.make(body, answered), None),
            "query" => (book.query(body), None),
            other => panic!("the simulated platform has no {other}"),
        }
    }
}

impl Book {
    fn id(&mut self) -> String {
        self.next_id += 1;
        (346_252_615_123_000_000 + self.next_id).to_string()
    }

    fn take(
        &mut self,
        body: &Value,
        task_id: &str,
        keeps_good_rows: bool,
        answered: bool,
    ) -> (Value, Option<Vec<usize>>) {
        let rows: Vec<Vec<String>> = list(&body["call_list"]);
        let is_bad = |row: &Vec<String>| row[0].starts_with("199");
        let has_bad = rows.iter().any(is_bad);
        if has_bad && !keeps_good_rows {
            return (json!({"code": 200_203, "message": "错误的外呼号码"}), None);
        }
        let tag = tag_of(&body["call_column"]);
        let mut ids = Vec::new();
        for values in rows.into_iter().filter(|row| !is_bad(row)) {
            let id = self.id();
            ids.push(json!(id.parse::<u64>().unwrap()));
            *self.counts.entry(task_id.to_owned()).or_default() += 1;
            self.new_rows.push(self.rows.len());
            self.rows.push(Dialled {
                id,
                tag,
                task_id: task_id.to_owned(),
                values,
                answered: answered && !has_bad,
            });
        }
        if has_bad {
            return (json!({"code": 200_203, "message": "错误的外呼号码"}), None);
        }
        let answer = json!({
            "code": 0,
            "result": {"total": ids.len(), "task_data_ids": ids},
        });
        (answer, None)
    }

    fn make(&mut self, body: &Value, answered: bool) -> Value {
        let id = self.id();
        self.tasks.push(Made {
            id: id.clone(),
            tag: text(&body["voice_code"]).parse().unwrap_or_default(),
            name: text(&body["task_name"]),
            body: body.clone(),
            answered,
        });
        json!({"code": 0, "result": {"task_id": id}})
    }

    fn query(&self, body: &Value) -> Value {
        let (name, id) = (text(&body["task_name"]), text(&body["task_id"]));
        let is_wanted = |made: &&Made| {
            (id.is_empty() || made.id == id) && (name.is_empty() || made.name.contains(&name))
        };
        let rows: Vec<Value> = self
            .tasks
            .iter()
            .filter(is_wanted)
            .map(|made| {
                json!({
                    "task_id": made.id,
                    "task_name": made.name,
                    "robot_id": made.body["robot_id"],
                    "line_num": made.body["line_num"],
                    "time_task_estimate_begin": made.body["time_begin"],
                    "count_tel": self.counts.get(&made.id).copied().unwrap_or_default(),
                    "status": 0,
                })
            })
            .collect();
        let index = body["page_index"].as_u64().unwrap_or(1).max(1) - 1;
        let size = body["page_size"].as_u64().unwrap_or(50);
        let page: Vec<_> = rows
            .iter()
            .skip(usize::try_from(index * size).unwrap())
            .take(usize::try_from(size).unwrap())
            .collect();
        json!({"code": 0, "result": {"total_rows": rows.len(), "rows": page}})
    }

    /// Makes a task as somebody in the platform's console does.
    pub fn make_by_hand(&mut self, name: &str, body: Value) -> String {
        let mut body = body;
        body["task_name"] = json!(name);
        body["voice_code"] = json!("0");
        self.make(&body, false);
        self.tasks.last().unwrap().id.clone()
    }
}

/// A submission's number, which its columns carry in white space that the gateway and the platform
/// take no notice of.
pub fn tagged_column(tag: u32) -> String {
    let bits = (0..32).map(|bit| if tag >> bit & 1 == 1 { '\t' } else { ' ' });
    format!("name{}", bits.collect::<String>())
}

fn tag_of(columns: &Value) -> u32 {
    let columns: Vec<String> = columns
        .as_array()
        .map(|columns| columns.iter().map(text).collect())
        .unwrap_or_default();
    let name = columns.last().cloned().unwrap_or_default();
    let bits = name.trim_start_matches("name").chars().enumerate();
    bits.filter(|(_, bit)| *bit == '\t')
        .map(|(at, _)| 1 << at)
        .sum()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Rows, which the API sends as a list of lists.
fn list(value: &Value) -> Vec<Vec<String>> {
    let rows = value.as_array().cloned().unwrap_or_default();
    rows.iter()
        .map(|row| {
            row.as_array()
                .map_or_else(Vec::new, |row| row.iter().map(text).collect())
        })
        .collect()
}

impl Line {
    /// Waits for ever once the gateway is dead.
    async fn check(&self) {
        if !self.alive.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    async fn exchange(
        &self,
        path: &str,
        token: Option<&SecretString>,
        body: &Bytes,
        gate: &Gate,
    ) -> Result<HttpAnswer, PostError> {
        let try_number = gate.arm();
        let luck = self.world.luck(path);
        sleep(self.world.delay()).await;
        self.check().await;
        if luck == Luck::NotSent || !gate.open(try_number) {
            gate.close();
            return Err(PostError::NotSent("connection refused".to_owned()));
        }
        let answer = self.world.answer(path, token, body, luck);
        sleep(self.world.delay()).await;
        match luck {
            Luck::Slow => sleep(Duration::from_secs(4)).await,
            Luck::TooLate => sleep(Duration::from_secs(10)).await,
            _ => {}
        }
        self.check().await;
        gate.close();
        match luck {
            Luck::LostBefore | Luck::LostAfter => {
                Err(PostError::NoAnswer("connection reset".to_owned()))
            }
            Luck::TooLate => Err(PostError::TimedOut),
            _ => Ok(answer),
        }
    }
}

impl World {
    fn answer(
        &self,
        path: &str,
        token: Option<&SecretString>,
        body: &Bytes,
        luck: Luck,
    ) -> HttpAnswer {
        let body: Value = serde_json::from_slice(body).unwrap();
        let of = |status: u16, body: &Value| HttpAnswer {
            status,
            body: body.to_string().into(),
        };
        let code = |code: i64| of(200, &json!({"code": code, "message": "?"}));
        let is_stale = !path.ends_with("/token") && {
            let book = self.book();
            token.map(|token| token.expose_secret().to_owned()) != Some(format!("t{}", book.token))
        };
        if is_stale {
            return code(10_001);
        }
        match luck {
            Luck::Good | Luck::Slow => of(200, &self.act(path, &body, true).0),
            Luck::LostAfter | Luck::TooLate => of(200, &self.act(path, &body, false).0),
            Luck::NotSent | Luck::LostBefore => code(0),
            Luck::Http500(applied) | Luck::Html(applied) | Luck::Undocumented(applied) => {
                if applied {
                    self.act(path, &body, false);
                }
                match luck {
                    Luck::Http500(_) => of(500, &json!({"code": 500, "message": "error"})),
                    Luck::Undocumented(_) => code(77),
                    _ => HttpAnswer {
                        status: 502,
                        body: "<html>Bad Gateway</html>".into(),
                    },
                }
            }
            Luck::TokenRefused => code(10_001),
            Luck::Busy => code(10_004),
            Luck::Maintenance => code(10_020),
            Luck::Refused => code(200_209),
            Luck::NoIds => {
                self.act(path, &body, false);
                of(200, &json!({"code": 0, "result": {}}))
            }
        }
    }
}

impl Transport for Line {
    fn post<'a>(
        &'a self,
        path: &'a str,
        token: Option<&'a SecretString>,
        body: Bytes,
        gate: &'a Arc<Gate>,
    ) -> BoxFuture<'a, Result<HttpAnswer, PostError>> {
        Box::pin(async move { self.exchange(path, token, &body, gate).await })
    }
}
