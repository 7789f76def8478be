//! Requests while the store takes no writes: refused before anything is sent, in bounded memory.

use std::process::Command;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tempfile::TempDir;
use tonic::Code;
use yeta_gateway::proto::CallOutRequest;
use yeta_gateway::sandbox::SandboxConfig;

use super::requests::{Told, call_out, told};
use super::stage::{Outbound, outbound, silent};
use super::upload::{direct, number, row, submit};
use crate::bridge::reason;
use crate::sandbox::harness::Sandbox;
use crate::support::{Http, PUSH_SECRET, Process, eventually};

/// The signal that a write beyond the limit raises must not end the process: the write is to fail.
const IGNORE_SIGNAL: &str = "trap '' XFSZ";
const MODULE: &str = "receiveVoice";

/// A gateway whose files can be kept from growing.
struct Disk {
    sandbox: Sandbox,
    gateway: Process,
    http: Http,
    _folder: TempDir,
}

impl Disk {
    async fn start() -> Self {
        let sandbox = Sandbox::start(silent()).await;
        let folder = tempfile::tempdir().unwrap();
        Process::configure_with_platform(folder.path(), &sandbox.base, "");
        let gateway = Process::spawn(Process::command_after(IGNORE_SIGNAL, folder.path())).await;
        Self {
            sandbox,
            gateway,
            http: Http::new(),
            _folder: folder,
        }
    }

    fn outbound(&self) -> Outbound {
        outbound(&self.gateway.addresses.grpc)
    }

    /// Lets every further write to the log fail.
    async fn fill(&self) {
        // The log's end is beyond the limit afterwards: no compression makes noise smaller.
        let mut noise = vec![0; 256 << 10];
        StdRng::seed_from_u64(0).fill(&mut noise[..]);
        noise[0] = 0xff;
        let push = self.http.push(&self.gateway.addresses.push, MODULE, noise);
        assert!(push.await.unwrap().is_success());
        self.limit_files("100000");
    }

    fn make_room(&self) {
        self.limit_files("unlimited");
    }

    fn limit_files(&self, bytes: &str) {
        let process = self.gateway.id().to_string();
        let limited = Command::new("prlimit")
            .args(["--pid", &process, &format!("--fsize={bytes}:")])
            .status()
            .unwrap();
        assert!(limited.success());
    }

    /// Memory of the gateway's own, in MiB.
    fn resident(&self) -> u64 {
        let status = format!("/proc/{}/status", self.gateway.id());
        let status = std::fs::read_to_string(status).unwrap();
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.parse::<u64>().unwrap() / 1024
    }
}

/// A request of 50 rows that no other one has.
fn request(index: usize) -> CallOutRequest {
    let numbers: Vec<_> = (0..50).map(|row| number(index * 50 + row)).collect();
    let rows: Vec<_> = numbers
        .iter()
        .map(|number| [number.as_str(), "n"])
        .collect();
    call_out(&format!("id {index}"), &rows)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_request_ids_are_refused_in_bounded_memory_while_the_store_takes_no_writes() {
    const IDS: usize = 3_000;
    const AT_ONCE: usize = 500;
    /// In MiB.
    const MORE: u64 = 40;
    let disk = Disk::start().await;
    let client = disk.outbound();
    let warm = client.clone().call_out(request(IDS)).await;
    assert!(matches!(told(warm), Told::Accepted(_)));
    disk.fill().await;
    let mut first = None;
    let before = disk.sandbox.get("/sandbox/rows").await;
    for ids in (0..IDS).collect::<Vec<_>>().chunks(AT_ONCE) {
        let requests = ids.iter().map(|index| {
            let mut client = client.clone();
            async move { client.call_out(request(*index)).await }
        });
        for answer in join_all(requests).await {
            let (code, reason, _) = reason(&answer.unwrap_err());
            assert_eq!((code, &*reason), (Code::Unavailable, "STORE_UNAVAILABLE"));
        }
        // After the first few, every buffer has its size.
        first.get_or_insert_with(|| disk.resident());
    }
    let (first, last) = (first.unwrap(), disk.resident());
    println!("{first} MiB after {AT_ONCE} ids, {last} MiB after {IDS}");
    assert!(last <= first + MORE, "{first} MiB, then {last} MiB");
    let after = disk.sandbox.get("/sandbox/rows").await;
    assert_eq!(before, after, "nothing was sent");

    disk.make_room();
    for index in (0..IDS).step_by(IDS / 20) {
        eventually("a request to be accepted", async || {
            match told(client.clone().call_out(request(index)).await) {
                Told::Accepted(_) => Some(()),
                Told::Again(reason) if reason == "STORE_UNAVAILABLE" => None,
                other => panic!("{index}: {other:?}"),
            }
        })
        .await;
    }
    let rows = disk.sandbox.get("/sandbox/rows").await;
    assert_eq!(
        (&rows["accepted"], &rows["accepted_again"]),
        (&json!(21 * 50), &json!(0))
    );
}

#[tokio::test]
async fn an_upload_whose_rows_cannot_be_recorded_ends_with_all_of_them_unsent() {
    let disk = Disk::start().await;
    let client = disk.outbound();
    let warm = client.clone().call_out(request(9)).await;
    assert!(matches!(told(warm), Told::Accepted(_)));
    let before = disk.sandbox.get("/sandbox/rows").await;
    disk.fill().await;
    let rows = [row("k1", &["13000000002", "one"])];
    let told = submit(&client, direct("u"), &rows).await;
    let (code, reason, _) = reason(&told.end.clone().unwrap_err());
    assert_eq!((code, &*reason), (Code::Unavailable, "STORE_UNAVAILABLE"));
    assert!(told.results.is_empty(), "{told:?}");
    assert_eq!(before, disk.sandbox.get("/sandbox/rows").await);
    disk.make_room();
    eventually("the upload to go through", async || {
        let again = submit(&client, direct("u"), &rows).await;
        again
            .end
            .is_ok()
            .then(|| assert_eq!(again.totals().accepted, 1))
    })
    .await;
    assert_eq!(disk.sandbox.get("/sandbox/rows").await["accepted_again"], 0);
}

/// The sandbox breaks a push off after the platform's 3 s, and reports no status for it then.
#[tokio::test]
async fn a_push_that_waits_for_a_row_key_and_for_a_full_disk_is_answered_in_the_platforms_time() {
    let disk = Disk::start().await;
    let pushes = format!(
        "{}/v1/push/default/{PUSH_SECRET}",
        disk.gateway.addresses.push
    );
    let platform = Sandbox::start(SandboxConfig {
        push_to: vec![pushes],
        ..silent()
    })
    .await;
    let client = disk.outbound();
    let warm = client.clone().call_out(request(9)).await;
    assert!(matches!(told(warm), Told::Accepted(_)));
    // An upload whose batch is in flight as long as the test wants.
    let hold = json!({ "operation": "callout", "fault": "hold" });
    disk.sandbox.fault(hold).await;
    let rows = [row("k1", &["13000000002", "one"])];
    let upload = tokio::spawn(async move { submit(&client, direct("u"), &rows).await });
    disk.sandbox
        .wait_for("/sandbox/rows", |rows| rows["received"] == 51)
        .await;
    disk.fill().await;
    let record = json!({
        "call_uuid": "a", "callee": "13000000002", "task_data_id": "346252615123869799",
        "task_row_head": ["客户手机号码", "姓名"], "task_row_value": ["13000000002", "one"],
        "direction": 2, "time_dial": super::records::now_ms(),
    });
    let path = "/sandbox/push?module=receiveCallRecord";
    let answer = platform.post_raw(path, &record.to_string()).await.unwrap();
    assert_eq!(answer.json()["status"], 503, "{}", answer.json());
    upload.abort();
}
