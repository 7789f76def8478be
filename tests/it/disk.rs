//! A disk that refuses writes: pushes get 503, nothing acknowledged is lost, reading goes on, and
//! pushes are taken again as soon as there is room, without a restart.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use yeta_gateway::proto::{ListPushesRequest, SubscribePushesResponse};
use yeta_gateway::push::EventId;

use crate::support::{
    Answer, Http, Process, earliest, eventually, from_cursor, next_message, pushes_client, within,
};

const MIB: u64 = 1 << 20;
/// Large, so that a journal of 64 MiB is soon full.
const BODY_BYTES: usize = 256 << 10;
const MODULE: &str = "receiveVoice";
/// The signal that a write beyond the limit raises must not end the process: the write is to fail.
const IGNORE_SIGNAL: &str = "trap '' XFSZ";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_are_refused_while_no_file_may_grow_and_taken_again_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    Process::configure(folder.path(), "");
    let gateway = Process::spawn(Process::command_after(IGNORE_SIGNAL, folder.path())).await;
    let mut disk = Disk::new(gateway);
    for _ in 0..3 {
        // Beyond this, so that the next write to the log fails, and any new file stays small.
        for _ in 0..20 {
            disk.push_until_taken().await;
        }
        disk.limit_files("100000");
        disk.push_until_refused().await;
        disk.check_reading().await;
        disk.limit_files("unlimited");
        disk.push_until_taken().await;
    }
    disk.check_after_restart(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_are_refused_when_the_log_has_reached_the_limit_of_a_file_and_taken_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    Process::configure(folder.path(), "");
    // A little more than the database allocates for its journal, in blocks of 512 bytes.
    let limit = format!("{IGNORE_SIGNAL}; ulimit -S -f {}", (64 * MIB + 1024) / 512);
    let gateway = Process::spawn(Process::command_after(&limit, folder.path())).await;
    let mut disk = Disk::new(gateway);
    disk.push_until_refused().await;
    disk.check_reading().await;
    disk.push_until_refused().await;
    disk.limit_files("unlimited");
    for _ in 0..20 {
        disk.push_until_taken().await;
    }
    disk.check_after_restart(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_are_refused_while_the_disk_is_full_and_taken_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Tmpfs::mount(folder.path(), 100 * MIB) else {
        println!("skipped: this user may not mount a tmpfs");
        return;
    };
    Process::configure(folder.path(), "");
    let mut disk = Disk::new(Process::spawn(Process::command(folder.path())).await);
    // Whichever is first to find no room: the journal, or a table that is written from memory.
    disk.push_until_refused().await;
    disk.check_reading().await;
    disk.push_until_refused().await;
    small.resize(400 * MIB);
    for _ in 0..20 {
        disk.push_until_taken().await;
    }
    disk.check_after_restart(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_has_lost_its_end_heals_after_a_refusing_disk_as_any_other() {
    let folder = tempfile::tempdir().unwrap();
    Process::configure(folder.path(), "");
    let gateway = Process::spawn(Process::command(folder.path())).await;
    let mut disk = Disk::new(gateway);
    for _ in 0..4 {
        disk.push_until_taken().await;
    }
    disk.gateway.terminate();
    disk.gateway.ended().await;
    cut_newest_journal(&folder.path().join("store/log"));
    // The first thing that this one does with its log is to fail.
    let gateway = Process::spawn(Process::command_after(IGNORE_SIGNAL, folder.path())).await;
    let mut disk = Disk::new(gateway);
    disk.next = 4;
    disk.limit_files("100000");
    disk.push_until_refused().await;
    disk.limit_files("unlimited");
    disk.push_until_taken().await;
    let mut client = pushes_client(&disk.gateway.addresses.grpc);
    let lost = client.list_pushes(ListPushesRequest::default()).await;
    assert_eq!(lost.unwrap_err().code(), tonic::Code::DataLoss);
}

/// Leaves only the beginning of the database's journal, as a repair of the file system might.
fn cut_newest_journal(log: &Path) {
    let files = std::fs::read_dir(log)
        .unwrap()
        .map(|file| file.unwrap().path());
    let journal = files
        .filter(|file| file.extension().is_some_and(|e| e == "jnl"))
        .max()
        .unwrap();
    let bytes = std::fs::read(&journal).unwrap();
    // It is allocated ahead, filled with zeros.
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let at = end / 2;
    let file = std::fs::OpenOptions::new().write(true).open(journal);
    file.unwrap().set_len(at as u64).unwrap();
}

/// A gateway on a bad disk, and what it has taken in.
struct Disk {
    gateway: Process,
    http: Http,
    /// Numbers of the bodies answered `success`, by their event ids.
    taken: HashMap<String, u64>,
    next: u64,
}

impl Disk {
    fn new(gateway: Process) -> Self {
        Self {
            gateway,
            http: Http::new(),
            taken: HashMap::new(),
            next: 0,
        }
    }

    /// Bounds the size of every file that the gateway may write from now on.
    fn limit_files(&self, bytes: &str) {
        let limited = Command::new("prlimit")
            .args([
                "--pid",
                &self.gateway.id().to_string(),
                &format!("--fsize={bytes}:"),
            ])
            .status()
            .unwrap();
        assert!(limited.success());
    }

    /// Pushes one body; an answer always comes.
    async fn push(&mut self, number: u64) -> Answer {
        let body = body(number);
        let push = self
            .http
            .push(&self.gateway.addresses.push, MODULE, body.clone());
        let answer = within("an answer to a push", push).await.unwrap();
        if answer.is_success() {
            let id = EventId::of_raw("default", MODULE, &body);
            self.taken.insert(id.to_string(), number);
        } else {
            assert_eq!((answer.status.as_u16(), &*answer.text()), (503, ""));
        }
        answer
    }

    /// Pushes ever new bodies until several in a row have been refused; the refused are offered
    /// again later.
    async fn push_until_refused(&mut self) {
        let mut refused = 0;
        while refused < 5 {
            self.next += 1;
            let answer = self.push(self.next).await;
            refused = if answer.is_success() { 0 } else { refused + 1 };
        }
        self.check_alive().await;
    }

    /// Offers a body until it is taken, and then those that were refused before.
    async fn push_until_taken(&mut self) {
        self.next += 1;
        let number = self.next;
        let this = &mut *self;
        eventually("a push to be taken", async || {
            this.push(number).await.is_success().then_some(())
        })
        .await;
    }

    /// The rest of the gateway answers.
    async fn check_alive(&self) {
        for path in ["/livez", "/metrics"] {
            let answer = self.http.get(&self.gateway.addresses.admin, path);
            assert_eq!(within(path, answer).await.unwrap().status, 200);
        }
    }

    /// A subscriber is given everything acknowledged, once each.
    async fn check_reading(&self) {
        let mut client = pushes_client(&self.gateway.addresses.grpc);
        let mut request = earliest();
        let mut read = HashSet::new();
        let mut missing = self.taken.len();
        while missing > 0 {
            let stream = within("a stream", client.subscribe_pushes(request.clone())).await;
            let Ok(stream) = stream else { continue };
            let mut stream = stream.into_inner();
            while missing > 0 {
                match next_message(&mut stream).await {
                    Ok(SubscribePushesResponse::Event(event)) => {
                        request = from_cursor(&event.cursor);
                        missing -= usize::from(self.taken.contains_key(&event.event_id));
                        let raw = event.raw_json;
                        assert!(read.insert(event.event_id), "given twice");
                        assert_eq!(raw.len(), BODY_BYTES);
                    }
                    Ok(_) => {}
                    // The store is being opened anew: a subscriber comes back.
                    Err(status) => {
                        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
                        break;
                    }
                }
            }
        }
    }

    /// What was acknowledged is there once each, also for the next process; and the first one ends
    /// in order.
    async fn check_after_restart(mut self, folder: &Path) {
        self.check_reading().await;
        self.gateway.terminate();
        let (status, output) = self.gateway.ended().await;
        assert!(status.success(), "{status}: {output}");
        assert!(!output.contains("panicked"), "{output}");
        self.gateway = Process::spawn(Process::command(folder)).await;
        self.check_reading().await;
        let taken: HashSet<_> = self.taken.values().copied().collect();
        for number in (1..=self.next).filter(|n| !taken.contains(n) || n % 16 == 0) {
            // Those refused are taken now; for the others it makes no difference.
            assert!(self.push(number).await.is_success());
        }
        assert_eq!(self.taken.len() as u64, self.next);
        self.check_reading().await;
        println!("{} pushes of {BODY_BYTES} bytes", self.next);
        self.gateway.kill();
    }
}

/// A body that no compression makes smaller: no text, so that it is kept as it is.
fn body(number: u64) -> Bytes {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut noise = vec![0; BODY_BYTES];
        StdRng::seed_from_u64(0).fill(&mut noise[..]);
        noise
    });
    let mut body = NOISE.clone();
    body[0] = 0xff;
    body[1..9].copy_from_slice(&number.to_be_bytes());
    body.into()
}

/// A small file system in memory.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn mount(at: &'a Path, bytes: u64) -> Option<Self> {
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(at))
    }

    fn resize(&self, bytes: u64) {
        let size = format!("remount,size={bytes}");
        let resized = Command::new("mount")
            .args(["-o", &size])
            .arg(self.0)
            .status();
        assert!(resized.unwrap().success());
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left behind may still use it.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}
