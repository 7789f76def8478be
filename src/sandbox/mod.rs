//! A simulator of the yeta platform.
mod admin;
mod answer;
mod bend;
mod bodies;
mod catalog;
mod clock;
mod code;
mod config;
mod delivery;
mod dialer;
mod faults;
mod operation;
mod outbound;
mod outcome;
mod params;
mod quirk;
mod quirk_bodies;
mod received;
mod router;
mod rows;
mod script;
mod server;
mod task;
mod task_query;
mod tasks;
mod tokens;
mod voice;
mod world;

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;

pub use config::SandboxConfig;
pub use quirk::{Quirk, quirks};

/// Serves the sandbox on the listener until `shutdown` is done, and ends its
/// calls and pushes then. Fails only if the configuration makes no sense.
pub async fn serve(
    config: SandboxConfig,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    config.check()?;
    let world = Arc::new(world::World::new(config)?);
    let router = router::router(Arc::clone(&world));
    server::run(world, router, listener, shutdown).await;
    Ok(())
}
