//! The gateway as a process of its own, so that what it takes of the machine can be told.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::gateway::{configuration, store_folder};

/// The binary, built as the bench is.
const BINARY: &str = env!("CARGO_BIN_EXE_yeta-gateway");

/// The name of its log.
const LOG: &str = "log";

/// How long its start may take.
const START: Duration = Duration::from_secs(30);

/// A running gateway; killed when dropped.
pub struct Process {
    pub grpc: SocketAddr,
    pub push: SocketAddr,
    child: Child,
    folder: TempDir,
}

impl Process {
    pub fn start(platform: SocketAddr) -> anyhow::Result<Self> {
        Self::start_with(platform, "")
    }

    /// The same, with more in its configuration.
    pub fn start_with(platform: SocketAddr, more: &str) -> anyhow::Result<Self> {
        let folder = store_folder()?;
        let (config, output) = (folder.path().join("toml"), folder.path().join(LOG));
        let store = folder.path().join("store");
        let configuration = configuration(&store, platform);
        let text = format!("log.format = 'json'\n{more}{configuration}");
        fs::write(&config, text)?;
        let mut child = Command::new(BINARY)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&output)?)
            .spawn()?;
        let begun = Instant::now();
        let (grpc, push) = loop {
            if let Some(listeners) = listeners(&fs::read_to_string(&output)?)? {
                break listeners;
            }
            let status = child.try_wait()?;
            ensure!(
                status.is_none(),
                "the gateway has ended: {status:?}\n{}",
                fs::read_to_string(&output)?
            );
            ensure!(begun.elapsed() < START, "the gateway is not ready");
            std::thread::sleep(Duration::from_millis(20));
        };
        Ok(Self {
            grpc,
            push,
            child,
            folder,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it keeps that is its own, in MiB.
    pub fn resident(&self) -> anyhow::Result<f64> {
        self.status("RssAnon:")
    }

    /// The highest memory that it has had resident, in MiB.
    pub fn peak(&self) -> anyhow::Result<f64> {
        self.status("VmHWM:")
    }

    /// The memory that its bounds allow in sum, in MiB, by its log.
    pub fn memory_of_bounds(&self) -> anyhow::Result<u64> {
        let log = fs::read_to_string(self.folder.path().join(LOG))?;
        let mut lines = lines(&log);
        let mib = lines.find_map(|line| line["needs"].is_string().then(|| line["mib"].as_u64())?);
        mib.context("the memory of its bounds in its log")
    }

    /// A number of its status in /proc, in MiB.
    fn status(&self, name: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
        let kib: f64 = kib
            .with_context(|| format!("{name} in its status"))?
            .parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Has ended already, at worst.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a log.
fn lines(log: &str) -> impl Iterator<Item = Value> {
    let lines = log.lines();
    lines.filter_map(|line| serde_json::from_str(line).ok())
}

/// The addresses for services and for pushes, once the log says that it is ready.
fn listeners(log: &str) -> anyhow::Result<Option<(SocketAddr, SocketAddr)>> {
    let lines: Vec<Value> = lines(log).collect();
    if !lines.iter().any(|line| line["message"] == "ready") {
        return Ok(None);
    }
    let address = |name: &str| {
        let line = lines.iter().find(|line| line["listener"] == name);
        let address = line.and_then(|line| line["address"].as_str());
        anyhow::Ok(address.context("a listener's address")?.parse()?)
    };
    Ok(Some((address("grpc")?, address("push")?)))
}
