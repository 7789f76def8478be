//! The pushes that the sandbox gave up, as the platform lets its customers have them: zips by the
//! day, from the next day on, for seven days.

use std::collections::VecDeque;
use std::io::{Cursor, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use zip::result::ZipResult;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::answer::Answer;
use super::clock::{day, now_ms};
use super::code::{BAD_PARAMETER, Refusal};
use super::faults::Kind;
use super::operation::Operation;
use super::params::Params;
use super::server::Cut;
use super::voice::slice;
use super::world::World;

/// The oldest are forgotten beyond this many.
const MAX_KEPT: usize = 10_000;
const DAY_MS: i64 = 86_400_000;
/// So many days back there are files; today has none.
const DAYS: i64 = 7;
/// So many pushes lie in one zip, and so many in one file of it.
const PER_ZIP: usize = 1_000;
const PER_FILE: usize = 250;

/// A push that was given up, as a line of a file has it.
#[derive(Clone, Serialize)]
struct Failure {
    data: Box<RawValue>,
    module: &'static str,
    #[serde(rename = "retryTimes")]
    tries: u32,
    timestamp: i64,
}

/// The pushes that were given up, oldest first.
#[derive(Default)]
pub(super) struct Failures(VecDeque<Failure>);

impl Failures {
    pub fn add(&mut self, module: &'static str, body: &Bytes, tries: u32) {
        let text = String::from_utf8_lossy(body).into_owned();
        let text = RawValue::from_string(text);
        // Whatever the sandbox pushes by itself is JSON.
        let Ok(data) = text else { return };
        if self.0.len() >= MAX_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Failure {
            data,
            module,
            tries,
            timestamp: now_ms(),
        });
    }

    pub fn list(&self) -> Value {
        json!(self.0)
    }

    /// Moves all of them so many days into the past, as if these had gone by since.
    pub fn age(&mut self, days: u16) {
        for failure in &mut self.0 {
            failure.timestamp -= i64::from(days) * DAY_MS;
        }
    }

    fn of(&self, date: &str) -> Vec<&Failure> {
        let of_date = |failure: &&Failure| day(failure.timestamp) == date;
        self.0.iter().filter(of_date).collect()
    }

    /// The zips of a day, by their paths below `/push_download/`.
    fn zips(&self, date: &str) -> Vec<(String, Vec<&Failure>)> {
        let all = self.of(date);
        let folder = date.replace('-', "");
        let zips = all.chunks(PER_ZIP).enumerate();
        zips.map(|(number, part)| {
            let first = number * PER_ZIP;
            // The name tells what is in it, so that a file never changes under its name.
            let path = format!("{folder}/failed_{}_{}.zip", first + 1, first + part.len());
            (path, part.to_vec())
        })
        .collect()
    }
}

/// The days of which there are files, newest first.
fn days() -> Vec<String> {
    let now = now_ms();
    (1..=DAYS).map(|back| day(now - back * DAY_MS)).collect()
}

/// Answers with the files of a day; without one, of yesterday.
pub(super) fn list(world: &World, params: &Params) -> Result<Value, Refusal> {
    let days = days();
    let date = match params.optional_text("date")? {
        None => days.first().cloned().unwrap_or_default(),
        Some(date) if days.iter().any(|day| day == date) => date.to_owned(),
        Some(date) => {
            let date: String = date.chars().filter(char::is_ascii).take(20).collect();
            let reason = format!("{date} is none of the seven days before today");
            return Err(BAD_PARAMETER.because(reason));
        }
    };
    let failures = world.failures();
    let zips = failures.zips(&date).into_iter();
    let urls: Vec<_> = zips.map(|(path, _)| path).collect();
    Ok(json!({ "url": urls }))
}

/// Serves `/push_download/{path}`, whole or a range of it, unless a fault was ordered.
pub(super) async fn serve(
    State(world): State<Arc<World>>,
    Extension(cut): Extension<Cut>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    let fault = world.faults().take(Operation::Download);
    if let Some(answer) = fault.as_ref().and_then(Answer::instead) {
        return answer.into_response();
    }
    let Some(zip) = find(&world, &path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match fault.map(|fault| fault.kind) {
        Some(Kind::CutBeforeReading | Kind::CutAfterReading) => return cut.reset().await,
        Some(Kind::CutMidAnswer) => return Answer::file(zip).cut_in_half(cut),
        Some(Kind::CloseAfterAnswer) => return Answer::file(zip).and_close(cut),
        _ => {}
    }
    let kind = [(CONTENT_TYPE, "application/zip"), (ACCEPT_RANGES, "bytes")];
    let etag = [(ETAG, format!("\"{:x}-{path}\"", zip.len()))];
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok());
    let part = range.and_then(|range| slice(range, zip.len() as u64));
    let Some((from, to)) = part else {
        return (kind, etag, Body::from(zip)).into_response();
    };
    let range = format!("bytes {from}-{}/{}", to - 1, zip.len());
    let range = [(CONTENT_RANGE, range)];
    let whole = Bytes::from(zip);
    let cut = |at: u64| usize::try_from(at).unwrap_or(whole.len());
    let part = whole.slice(cut(from)..cut(to));
    (StatusCode::PARTIAL_CONTENT, kind, etag, range, part).into_response()
}

fn find(world: &World, path: &str) -> Option<Vec<u8>> {
    let failures = world.failures();
    let zips = days().into_iter().flat_map(|date| failures.zips(&date));
    let mut zips = zips.filter(|(known, _)| known == path);
    let (_, pushes) = zips.next()?;
    zip(&pushes).ok()
}

/// Several files in nested folders, by module.
fn zip(pushes: &[&Failure]) -> ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    let mut modules: Vec<_> = pushes.iter().map(|push| push.module).collect();
    modules.sort_unstable();
    modules.dedup();
    for module in modules {
        let of_module: Vec<_> = pushes.iter().filter(|push| push.module == module).collect();
        for (number, part) in of_module.chunks(PER_FILE).enumerate() {
            zip.start_file(format!("push/failed/{module}/{number}.txt"), options)?;
            for push in part {
                writeln!(zip, "{}", serde_json::to_string(push).unwrap_or_default())?;
            }
        }
    }
    Ok(zip.finish()?.into_inner())
}
