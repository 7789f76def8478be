//! The sandbox as a platform: it reads and counts every row, and calls nobody.

use std::net::SocketAddr;

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
}
