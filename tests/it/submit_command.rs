//! `call submit`, `task submit` and `submission`, as somebody at a terminal uses them, against a
//! gateway of the tests' own.

mod fake;
mod files;
mod outcomes;
mod resume;
mod settle;
mod submissions;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use self::fake::Fake;
use crate::support::within;

/// A gateway, and a folder with a file of rows.
struct Place {
    fake: Fake,
    folder: TempDir,
}

/// How a command ended.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

const CALL: [&str; 6] = ["call", "submit", "--robot", "719", "--line", "055169101407"];

impl Place {
    fn of(fake: Fake) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { fake, folder }
    }

    async fn new() -> Self {
        Self::of(Fake::start().await)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        command(&self.fake.address, self.folder.path(), arguments)
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        run(&self.fake.address, self.folder.path(), arguments).await
    }

    /// `call submit` with these further arguments.
    async fn call(&self, arguments: &[&str]) -> Ran {
        self.run(&[&CALL, arguments].concat()).await
    }

    /// The same with `--json`: its exit status, and the one object that it prints.
    async fn call_json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let ran = self.call(&[arguments, &["--json"]].concat()).await;
        let printed = serde_json::from_str(&ran.out);
        let printed = printed.unwrap_or_else(|_| panic!("{:?}, {}", ran.out, ran.err));
        (ran.code, printed)
    }

    /// The values of each row that the last stream brought.
    fn received(&self) -> Vec<Vec<String>> {
        let book = self.fake.book.lock().unwrap();
        book.received.iter().map(|row| row.values.clone()).collect()
    }

    fn keys(&self) -> Vec<String> {
        let book = self.fake.book.lock().unwrap();
        book.received
            .iter()
            .map(|row| row.row_key.clone())
            .collect()
    }

    /// The rejected rows in a file, without its byte order mark.
    fn rejected(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.path(name)).ok()?;
        Some(text.strip_prefix('\u{feff}').unwrap().to_owned())
    }

    /// The names of all files here.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

fn command(gateway: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yeta-gateway"));
    command
        .args(arguments)
        .env("YETA_GATEWAY_ADDRESS", gateway)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs a command against a gateway to its end.
async fn run(gateway: &str, folder: &Path, arguments: &[&str]) -> Ran {
    let ran = within("a command", command(gateway, folder, arguments).output()).await;
    let ran = ran.unwrap();
    Ran {
        code: ran.status.code(),
        out: String::from_utf8(ran.stdout).unwrap(),
        err: String::from_utf8(ran.stderr).unwrap(),
    }
}

/// So many good rows under a header, each with a number of its own.
fn good_rows(count: usize) -> String {
    let rows = (0..count).map(|i| format!("{},好\n", number(i)));
    format!("客户手机号码,姓名\n{}", rows.collect::<String>())
}

fn number(i: usize) -> String {
    format!("138{i:08}")
}

/// A phone number's digits in a row would be a leak.
fn assert_no_numbers(text: &str) {
    let mut runs = text.split(|c: char| !c.is_ascii_digit());
    assert!(
        runs.all(|run| !(run.len() == 11 && run.starts_with("138"))),
        "{text}"
    );
}
