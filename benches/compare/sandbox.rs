//! The sandbox as a platform: it reads and counts every row, and calls nobody.

use std::net::SocketAddr;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use yeta_gateway::sandbox::{SandboxConfig, serve};

use crate::measure::server_runtime;

pub struct Sandbox {
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl Sandbox {
    pub fn start() -> anyhow::Result<Self> {
        let runtime = server_runtime("sandbox")?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let config = SandboxConfig {
            dial: false,
            ..SandboxConfig::default()
        };
        runtime.spawn(serve(config, listener, std::future::pending()));
        Ok(Self {
            address,
            _runtime: runtime,
        })
    }

    /// Lets the next `times` requests of an operation go wrong in this way.
    pub async fn fault(&self, operation: &str, fault: &str, times: u64) -> anyhow::Result<()> {
        let fault = json!({ "operation": operation, "fault": fault, "times": times });
        let url = format!("http://{}/sandbox/faults", self.address);
        let answer = reqwest::Client::new().post(url).body(fault.to_string());
        answer.send().await?.error_for_status()?;
        Ok(())
    }
}
