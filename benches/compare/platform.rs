//! A platform that answers at once: what both sides of the unary comparison call.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use yeta_gateway::http_server;

use crate::measure::server_runtime;

/// The two documented answers that are asked for here.
const TOKEN: &str = r#"{"code":0,"message":"ok","result":{"token":"08236d0aeeee4d5b566db5f4adc41a63","time_expire":3600}}"#;
const CALLED_OUT: &str = r#"{"code":0,"message":"ok","result":{"total":2,"task_data_ids":[346252615123869699,346252615123869700]}}"#;

pub struct Platform {
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl Platform {
    pub fn start() -> anyhow::Result<Self> {
        let runtime = server_runtime("platform")?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/openapi/oauth/v1/token", post(|_: Bytes| async { TOKEN }))
            .route(
                "/openapi/outbound/v1/task/callout",
                post(|_: Bytes| async { CALLED_OUT }),
            );
        runtime.spawn(http_server::serve(
            listener,
            router,
            unlimited(),
            std::future::pending(),
        ));
        Ok(Self {
            address,
            _runtime: runtime,
        })
    }
}

/// Limits that no run reaches.
fn unlimited() -> http_server::Limits {
    http_server::Limits {
        max_connections: 10_000,
        max_per_address: 10_000,
        ..http_server::Limits::small("bench")
    }
}
