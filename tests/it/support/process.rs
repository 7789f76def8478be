//! The built binary as a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::{PUSH_SECRET, eventually};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_yeta-gateway");

/// The path of the binary under test.
pub fn binary() -> &'static str {
    BINARY
}

/// A running `yeta-gateway serve`; killed when dropped.
pub struct Process {
    pub addresses: Addresses,
    running: Running,
}

/// Base URLs of the three listeners.
#[derive(Clone, Debug, PartialEq)]
pub struct Addresses {
    pub grpc: String,
    pub push: String,
    pub admin: String,
}

/// A process and what it has written so far.
struct Running {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Has ended already, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Writes a configuration into the folder: ports of its own, the store beside it, a platform
    /// that cannot be reached. `more` is further keys of the root.
    pub fn configure(folder: &Path, more: &str) {
        Self::configure_with_platform(folder, "http://127.0.0.1:1", more);
    }

    /// The same with a platform.
    pub fn configure_with_platform(folder: &Path, platform: &str, more: &str) {
        let backfill = if more.contains("backfill.enabled") {
            ""
        } else {
            "backfill.enabled = false"
        };
        let downloads = if more.contains("push_download_url") {
            String::new()
        } else {
            format!("platform.push_download_url = '{platform}/push_download/'")
        };
        let text = format!(
            "grpc.listen = '127.0.0.1:0'\n\
             push.listen = '127.0.0.1:0'\n\
             admin.listen = '127.0.0.1:0'\n\
             platform.base_url = '{platform}'\n\
             {downloads}\n\
             log.format = 'json'\n\
             {backfill}\n\
             store.path = '{}'\n\
             {more}\n\
             [[accounts]]\n\
             app_key = 'key'\n\
             app_secret = 'secret'\n\
             push_secret = '{PUSH_SECRET}'\n",
            folder.join("store").display()
        );
        std::fs::write(folder.join("gateway.toml"), text).unwrap();
    }

    /// What starts a gateway with the folder's configuration.
    pub fn command(folder: &Path) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(["serve", "--config"])
            .arg(folder.join("gateway.toml"));
        command
    }

    /// The same, run by a shell after some commands of its own.
    pub fn command_after(shell: &str, folder: &Path) -> Command {
        let mut command = Command::new("sh");
        let script = format!("{shell}\nexec \"$0\" serve --config \"$1\"");
        command
            .args(["-c", &script, BINARY])
            .arg(folder.join("gateway.toml"));
        command
    }

    /// Configures a gateway with defaults and starts it.
    pub async fn start(folder: &Path) -> Self {
        Self::configure(folder, "");
        Self::spawn(Self::command(folder)).await
    }

    /// Starts a process and waits until it is ready; it must become so.
    pub async fn spawn(command: Command) -> Self {
        match Self::try_spawn(command).await {
            Ok(process) => process,
            Err((status, output)) => panic!("not started, {status}: {output}"),
        }
    }

    /// Starts a process and waits until it is ready, or gives what it ended with.
    pub async fn try_spawn(command: Command) -> Result<Self, (ExitStatus, String)> {
        let mut running = Running::spawn(command);
        let addresses = eventually("the gateway's start", async || {
            if let Some(status) = running.child.try_wait().unwrap() {
                return Some(Err(status));
            }
            running.addresses().map(Ok)
        })
        .await;
        match addresses {
            Ok(addresses) => Ok(Self { addresses, running }),
            Err(status) => {
                let output = running.all_output().await;
                Err((status, output))
            }
        }
    }

    /// Starts a process whose log goes elsewhere, and waits until it is ready.
    pub async fn spawn_with_log(mut command: Command, log: Stdio) -> Self {
        let running = Running::spawn_with(command.stderr(log));
        let addresses = eventually("the gateway's listeners", async || {
            running.bound_addresses()
        })
        .await;
        let http = super::Http::new();
        eventually("the gateway to be ready", async || {
            let answer = http.get(&addresses.admin, "/readyz").await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        Self { addresses, running }
    }

    /// Starts a process and kills it after a while, wherever it has come by then.
    pub async fn spawn_and_kill(command: Command, after: std::time::Duration) {
        let running = Running::spawn(command);
        tokio::time::sleep(after).await;
        drop(running);
    }

    pub fn id(&self) -> u32 {
        self.running.child.id()
    }

    /// kill −9, and waits until it is gone.
    pub fn kill(self) {
        drop(self.running);
    }

    /// Waits until it has written this.
    pub async fn until_logged(&self, text: &str) {
        let output = &self.running.output;
        let is_there = async || output.lock().unwrap().contains(text).then_some(());
        eventually("a line of the log", is_there).await;
    }

    /// How often it has written this.
    pub fn count_logged(&self, text: &str) -> usize {
        self.running.output.lock().unwrap().matches(text).count()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = self.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end, and gives everything that was written.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let child = &mut self.running.child;
        let status = eventually("the gateway's end", async || child.try_wait().unwrap()).await;
        (status, self.running.all_output().await)
    }
}

impl Running {
    fn spawn(mut command: Command) -> Self {
        Self::spawn_with(command.stderr(Stdio::piped()))
    }

    fn spawn_with(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), output.clone());
        if let Some(stderr) = child.stderr.take() {
            collect(stderr, output.clone());
        }
        Self { child, output }
    }

    /// The addresses that the process listens on, from the kernel: a process binds them in the
    /// order of the fields, and the kernel gives out the lowest free descriptor.
    fn bound_addresses(&self) -> Option<Addresses> {
        let process = format!("/proc/{}", self.child.id());
        let table = std::fs::read_to_string(format!("{process}/net/tcp")).ok()?;
        let mut found = Vec::new();
        for descriptor in std::fs::read_dir(format!("{process}/fd")).ok()?.flatten() {
            let number: u32 = descriptor.file_name().to_str()?.parse().ok()?;
            let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            let inode = target
                .strip_prefix("socket:[")
                .and_then(|it| it.strip_suffix(']'));
            let Some(inode) = inode else { continue };
            // sl, local_address, rem_address, st (0A listens), …, inode at the tenth place.
            let line = table
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            let mut listening = line.filter(|it| it.get(3) == Some(&"0A"));
            let Some(line) = listening.find(|it| it.get(9) == Some(&inode)) else {
                continue;
            };
            let port = u16::from_str_radix(line[1].split_once(':')?.1, 16).ok()?;
            found.push((number, format!("http://127.0.0.1:{port}")));
        }
        found.sort();
        let [(_, grpc), (_, push), (_, admin)] = <[_; 3]>::try_from(found).ok()?;
        Some(Addresses { grpc, push, admin })
    }

    /// The addresses in the log, once it says that the gateway is ready.
    fn addresses(&self) -> Option<Addresses> {
        let output = self.output.lock().unwrap();
        let lines: Vec<Value> = output
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        lines.iter().find(|line| line["message"] == "ready")?;
        let address = |name: &str| {
            let line = lines.iter().find(|line| line["listener"] == name)?;
            Some(format!("http://{}", line["address"].as_str()?))
        };
        Some(Addresses {
            grpc: address("grpc")?,
            push: address("push")?,
            admin: address("admin")?,
        })
    }

    /// The whole output of a process that has ended.
    async fn all_output(&mut self) -> String {
        // Both readers hold it until their pipe is closed.
        eventually("the end of its output", async || {
            (Arc::strong_count(&self.output) == 1).then_some(())
        })
        .await;
        self.output.lock().unwrap().clone()
    }
}

/// Gathers lines as they come.
fn collect(from: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            into.lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}
