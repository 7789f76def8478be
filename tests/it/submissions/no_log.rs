//! A gateway whose log can be written no more dials nobody twice.

use std::collections::HashSet;
use std::fs::File;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::requests::{Told as Reply, call_out, told};
use super::stage::{Outbound, outbound, silent};
use super::upload::{direct, row, submit};
use crate::sandbox::harness::Sandbox;
use crate::support::{Http, Process, eventually};

const ROW: [&str; 2] = ["13000000002", "one"];

/// A gateway with a log of the test's choice; killed when dropped.
struct Gateway {
    child: Child,
    _folder: TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gateway {
    fn start(sandbox: &Sandbox, log: Stdio) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Process::configure_with_platform(folder.path(), &sandbox.base, "");
        let mut command: Command = Process::command(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log).spawn().unwrap();
        Self {
            child,
            _folder: folder,
        }
    }

    /// A client, once the gateway is ready. The log does not tell the ports: the system does.
    async fn client(&mut self) -> Outbound {
        let http = Http::new();
        eventually("the gateway to be ready", async || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the gateway has ended: {ended:?}");
            let ports = listening(self.child.id());
            if ports.len() != 3 {
                return None;
            }
            let mut others = Vec::new();
            let mut is_ready = false;
            for port in ports {
                let base = format!("http://127.0.0.1:{port}");
                let answer = http.get(&base, "/readyz").await;
                match answer.map(|answer| answer.status.as_u16()) {
                    // The admin port.
                    Ok(200) => is_ready = true,
                    // The push port.
                    Ok(_) => {}
                    // The gRPC port does not speak HTTP/1.
                    Err(_) => others.push(base),
                }
            }
            (is_ready && others.len() == 1).then(|| outbound(&others[0]))
        })
        .await
    }
}

/// The TCP ports on which a process listens.
fn listening(process: u32) -> Vec<u16> {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{process}/fd")) else {
        return Vec::new();
    };
    let sockets: HashSet<_> = descriptors
        .filter_map(|it| std::fs::read_link(it.ok()?.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    let port = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let is_own = *state == "0A" && sockets.contains(&format!("socket:[{inode}]"));
        let (_, port) = local.split_once(':').filter(|_| is_own)?;
        u16::from_str_radix(port, 16).ok()
    };
    table.lines().skip(1).filter_map(port).collect()
}

/// Submits one row under one upload id several times, whatever the answers are.
async fn submit_again_and_again(sandbox: &Sandbox, client: &Outbound) {
    for _ in 0..4 {
        submit(client, direct("u"), &[row("k1", &ROW)]).await;
    }
    let report = sandbox.get("/sandbox/requests").await;
    let content = serde_json::json!(ROW).to_string();
    assert_eq!(
        report["rows"]["by_content"][&content], 1,
        "{}",
        report["rows"]
    );
    assert_eq!(report["rows"]["accepted_again"], 0);
    let last = submit(client, direct("u"), &[row("k1", &ROW)]).await;
    assert_eq!(last.totals().accepted, 1, "{last:?}");
}

#[tokio::test]
async fn a_row_is_dialled_once_although_the_reader_of_the_log_is_gone() {
    let sandbox = Sandbox::start(silent()).await;
    let mut gateway = Gateway::start(&sandbox, Stdio::piped());
    let mut client = gateway.client().await;
    // The token is there afterwards.
    let first = client.call_out(call_out("", &[["13100000002", "n"]])).await;
    assert!(matches!(told(first), Reply::Accepted(_)));
    drop(gateway.child.stderr.take());
    submit_again_and_again(&sandbox, &client).await;
}

#[tokio::test]
async fn a_row_is_dialled_once_although_the_log_has_no_room() {
    let sandbox = Sandbox::start(silent()).await;
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut gateway = Gateway::start(&sandbox, full.into());
    let client = gateway.client().await;
    submit_again_and_again(&sandbox, &client).await;
}
