//! The sockets that the gateway serves on.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::AppError;
use crate::config::Config;

/// The three sockets that the gateway serves on.
#[derive(Debug)]
pub struct Listeners {
    /// For services.
    pub grpc: TcpListener,
    /// For the platform.
    pub push: TcpListener,
    /// For probes and metrics.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds what the configuration names.
    pub async fn bind(config: &Config) -> Result<Self, AppError> {
        Ok(Self {
            grpc: bind("grpc.listen", config.grpc.listen).await?,
            push: bind("push.listen", config.push.listen).await?,
            admin: bind("admin.listen", config.admin.listen).await?,
        })
    }

    pub(super) fn announce(&self) {
        for (name, listener) in [
            ("grpc", &self.grpc),
            ("push", &self.push),
            ("admin", &self.admin),
        ] {
            if let Ok(address) = listener.local_addr() {
                tracing::info!(listener = name, %address, "{name} listening on {address}");
            }
        }
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| AppError::Bind {
            key,
            address,
            error,
        })
}
