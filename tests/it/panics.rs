//! A panic anywhere ends the process.
//!
//! Each test runs this binary again as a child that panics: the shipped one has no way to.

use std::io::{PipeWriter, Write as _, pipe};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use axum::Router;
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;
use yeta_gateway::config::{Log, LogFormat};
use yeta_gateway::{http_server, logging, panics};

use crate::support::{Http, Process, eventually};

/// Names what the child does.
const CHILD: &str = "YETA_TEST_PANICS_CHILD";
/// Of the abort that follows where the last line is blocked.
const SIGABRT: i32 = 6;

/// The child's own entry; without the variable it is an empty test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    if what == "report" {
        panics::end_process(|_| panic!("no report")).unwrap();
    } else {
        panics::end_process(logging::report_panic).unwrap();
    }
    let format = match what.as_str() {
        "human" => LogFormat::Human,
        _ => LogFormat::Json,
    };
    if what != "early" {
        let filter = "off".to_owned();
        logging::init(&Log { filter, format }).unwrap();
    }
    match what.as_str() {
        "contained" => {
            assert!(panics::contained(bad_number).is_err());
            std::process::exit(0);
        }
        "thread" => drop(std::thread::spawn(bad_number)),
        "blocking" => drop(tokio::task::spawn_blocking(bad_number)),
        "handler" => drop(tokio::spawn(ask_handler())),
        "destructor" => drop(tokio::spawn(async {
            let _hung = HungDestructor;
            bad_number();
        })),
        _ => drop(tokio::spawn(async { bad_number() })),
    }
    std::future::pending::<()>().await;
}

fn bad_number() {
    panic!("bad number \"13000000001\"\nof a row");
}

async fn ask_handler() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/", get(async || bad_number()));
    let limits = http_server::Limits::small("test");
    let never = std::future::pending();
    tokio::spawn(http_server::serve(listener, router, limits, never));
    let answer = Http::new().get(&base, "/").await;
    panic!("the handler answered {answer:?}");
}

struct HungDestructor;

impl Drop for HungDestructor {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

fn start(what: &str, stderr: impl Into<Stdio>) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "panics::child", "--nocapture"])
        .env(CHILD, what)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap()
}

async fn run(what: &str, stderr: impl Into<Stdio>) -> std::process::ExitStatus {
    let mut child = start(what, stderr);
    eventually("the child's end", async || child.try_wait().unwrap()).await
}

/// What the child wrote on standard error, after it has ended with the exit code of a panic.
async fn last_words(what: &str) -> String {
    let mut log = tempfile::tempfile().unwrap();
    let status = run(what, log.try_clone().unwrap()).await;
    let mut text = String::new();
    std::io::Seek::rewind(&mut log).unwrap();
    std::io::Read::read_to_string(&mut log, &mut text).unwrap();
    assert_eq!(status.code(), Some(panics::EXIT_CODE), "{what}: {text}");
    text
}

#[tokio::test]
async fn a_panic_anywhere_ends_the_process_with_one_line_that_masks_numbers() {
    for what in ["task", "thread", "blocking", "handler", "destructor"] {
        let text = last_words(what).await;
        let line: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("{what}: not one line of JSON, {error}: {text}");
        });
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], "panicked: the process ends");
        assert_eq!(line["payload"], "bad number \"*********01\"\nof a row");
        let location = line["location"].as_str().unwrap();
        assert!(location.starts_with("tests/it/panics.rs:"), "{location}");
        assert!(!line["thread"].as_str().unwrap().is_empty(), "{line}");
    }
}

#[tokio::test]
async fn the_last_line_has_the_form_of_the_log_and_a_plain_one_without_a_log() {
    let human = last_words("human").await;
    assert_eq!(human.lines().count(), 1, "{human}");
    assert!(human.contains("ERROR"), "{human}");
    assert!(human.contains("panicked: the process ends"), "{human}");
    assert!(
        human.contains(r#"bad number \"*********01\"\nof a row"#),
        "{human}"
    );
    let early = last_words("early").await;
    assert_eq!(early.lines().count(), 1, "{early}");
    let expected = "yeta-gateway: panicked at tests/it/panics.rs:";
    assert!(early.starts_with(expected), "{early}");
    assert!(
        early.contains(r#"bad number \"*********01\"\nof a row"#),
        "{early}"
    );
}

#[tokio::test]
async fn a_log_that_takes_no_line_does_not_keep_a_panicked_process_alive() {
    let (reader, closed) = pipe().unwrap();
    drop(reader);
    let status = run("task", closed).await;
    assert_eq!(status.code(), Some(panics::EXIT_CODE));
    let full = std::fs::File::options().write(true).open("/dev/full");
    let status = run("task", full.unwrap()).await;
    assert_eq!(status.code(), Some(panics::EXIT_CODE));
    // A reader that has stopped reading: the line waits for it for ever.
    let (_reader, stalled) = stalled_pipe();
    let status = run("task", stalled).await;
    assert_eq!(status.signal(), Some(SIGABRT));
}

#[tokio::test]
async fn a_panic_while_one_is_reported_ends_the_process() {
    let status = run("report", Stdio::null()).await;
    assert_eq!(status.signal(), Some(SIGABRT));
}

#[tokio::test]
async fn a_contained_panic_leaves_the_process_alone_and_writes_nothing() {
    let mut log = tempfile::tempfile().unwrap();
    let status = run("contained", log.try_clone().unwrap()).await;
    assert!(status.success(), "{status}");
    assert_eq!(
        std::io::Seek::seek(&mut log, std::io::SeekFrom::End(0)).unwrap(),
        0
    );
}

#[tokio::test]
async fn a_serving_gateway_has_its_panics_reported() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Process::start(folder.path()).await;
    let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.id())).unwrap();
    let mut names = threads.map(|thread| {
        let name = thread.unwrap().path().join("comm");
        std::fs::read_to_string(name).unwrap_or_default()
    });
    assert!(names.any(|name| name.trim() == "panic-reporter"));
}

/// A pipe without room for another byte.
fn stalled_pipe() -> (std::io::PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    // As much as a pipe holds where nobody has changed that.
    writer.write_all(&vec![b'\n'; 64 << 10]).unwrap();
    (reader, writer)
}
