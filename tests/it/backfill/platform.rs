//! A platform that has files of failed pushes, or says so, and breaks as a test wants it to.

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use zip::write::{SimpleFileOptions, ZipWriter};

/// What is answered when a file is fetched.
#[derive(Clone)]
pub enum File {
    Bytes(Vec<u8>),
    /// The connection breaks after so many bytes, the first time; then the rest can be had.
    CutOnce(Vec<u8>, usize),
    /// It breaks after so many bytes, every time, and gives no parts.
    CutAlways(Vec<u8>, usize),
    Status(u16),
    Redirect(String),
    /// It never comes.
    Never,
}

/// A platform with files; ends with the test.
pub struct Files {
    pub base_url: String,
    desk: Arc<Desk>,
}

#[derive(Default)]
struct Desk {
    days: Mutex<BTreeMap<String, Vec<Value>>>,
    files: Mutex<HashMap<String, File>>,
    /// The dates asked for, and the files fetched with the ranges asked for.
    asked: Mutex<Vec<String>>,
    fetched: Mutex<Vec<(String, Option<String>)>>,
}

impl Files {
    pub async fn start() -> Self {
        let desk = Arc::new(Desk::default());
        let router = Router::new()
            .route("/openapi/oauth/v1/token", post(token))
            .route("/openapi/download/v1/push/failed", post(list))
            .route("/push_download/{*path}", get(fetch))
            .with_state(desk.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base_url, desk }
    }

    /// The platform has a file of a day at a path.
    pub fn add(&self, day: &str, path: &str, file: File) {
        self.list(day, path);
        self.change(path, file);
    }

    /// The platform lists an address for a day.
    pub fn list(&self, day: &str, url: &str) {
        self.list_oddly(day, json!(url));
    }

    /// The platform lists something for a day.
    pub fn list_oddly(&self, day: &str, file: Value) {
        let mut days = self.desk.days.lock().unwrap();
        days.entry(day.to_owned()).or_default().push(file);
    }

    pub fn change(&self, path: &str, file: File) {
        let mut files = self.desk.files.lock().unwrap();
        files.insert(path.to_owned(), file);
    }

    /// The dates that were asked for since this was called last.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.desk.asked.lock().unwrap())
    }

    /// The files that were fetched since this was called last, with the ranges asked for.
    pub fn fetched(&self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut self.desk.fetched.lock().unwrap())
    }
}

async fn token() -> String {
    json!({ "code": 0, "result": { "token": "t", "time_expire": 3600 } }).to_string()
}

async fn list(State(desk): State<Arc<Desk>>, body: Bytes) -> String {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let date = body["date"].as_str().unwrap_or_default().to_owned();
    desk.asked.lock().unwrap().push(date.clone());
    if date == "2026-11-15" {
        // A day with nothing to tell may be answered without a result.
        return json!({ "code": 0, "message": "ok", "result": null }).to_string();
    }
    let days = desk.days.lock().unwrap();
    let urls = days.get(&date).cloned().unwrap_or_default();
    json!({ "code": 0, "message": "ok", "result": { "url": urls } }).to_string()
}

async fn fetch(
    State(desk): State<Arc<Desk>>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    let range = headers
        .get("range")
        .map(|it| it.to_str().unwrap().to_owned());
    let fetched = (path.clone(), range.clone());
    desk.fetched.lock().unwrap().push(fetched);
    let file = desk.files.lock().unwrap().get(&path).cloned();
    match file {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(File::Bytes(bytes)) => bytes.into_response(),
        Some(File::CutOnce(bytes, at)) => match range {
            None => cut(&bytes, at),
            Some(range) => {
                assert_eq!(range, format!("bytes={at}-"));
                let whole = bytes.len();
                let part = [("content-range", format!("bytes {at}-{}/{whole}", whole - 1))];
                (StatusCode::PARTIAL_CONTENT, part, bytes[at..].to_vec()).into_response()
            }
        },
        Some(File::CutAlways(bytes, at)) => cut(&bytes, at),
        Some(File::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(File::Redirect(to)) => (StatusCode::FOUND, [("location", to)]).into_response(),
        Some(File::Never) => std::future::pending().await,
    }
}

/// A body that announces all bytes, has some of them, and breaks.
fn cut(bytes: &[u8], at: usize) -> Response {
    let length = [("content-length", bytes.len().to_string())];
    let part = Bytes::copy_from_slice(&bytes[..at]);
    let broken = stream::once(async { Ok(part) }).chain(stream::once(async {
        // The server sends what it has when no more is there yet.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    }));
    (length, Body::from_stream(broken)).into_response()
}

/// A zip of files in nested folders.
pub fn zipped(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A line as the platform writes it.
pub fn line(module: &str, push: &str, given_up_ms: u64) -> String {
    format!(
        r#"{{"data":{push},"module":"{module}","retryTimes":4,"timestamp":{given_up_ms}}}{}"#,
        '\n'
    )
}
