//! `yeta-gateway demo`: gateway and sandbox in one process, and a few calls through both.

mod calls;
mod report;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use yeta_gateway::app::{self, Listeners};
use yeta_gateway::config::{Config, Log, LogFormat};
use yeta_gateway::logging;
use yeta_gateway::sandbox::{self, SandboxConfig};

use super::serve;

/// Shows the main job with nothing else installed: calls out, results back.
#[derive(Args)]
pub struct DemoArgs {
    /// Exits when every push of its calls has come back, instead of staying up.
    #[arg(long)]
    once: bool,
    /// Where the gateway serves gRPC; if that is taken, a free port is.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// How many times faster than real the simulated calls go.
    #[arg(long, default_value_t = 20.0)]
    speed: f64,
    /// Decides how calls go: the same seed, the same calls.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Everything must have come back within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the parts of the demo are.
struct Addresses {
    grpc: SocketAddr,
    push: SocketAddr,
    admin: SocketAddr,
    sandbox: SocketAddr,
}

/// Runs it.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    logging::init(&Log {
        filter: "warn".into(),
        format: LogFormat::Auto,
    })?;
    let interrupted = serve::shutdown()?;
    let (listeners, sandbox_listener, addresses) = bind(args.listen).await?;
    let store = TempDir::new().context("no temporary folder for the store")?;
    let config = gateway_config(&addresses, &store)?;
    let sandbox_config = SandboxConfig {
        push_to: vec![format!(
            "http://{}/v1/push/default/demo-push-secret",
            addresses.push
        )],
        seed: args.seed,
        speed: args.speed,
        ..SandboxConfig::default()
    };
    let stop = CancellationToken::new();
    let sandbox = sandbox::serve(
        sandbox_config,
        sandbox_listener,
        stop.clone().cancelled_owned(),
    );
    let sandbox = tokio::spawn(sandbox);
    let gateway = tokio::spawn(app::run(config, listeners, stop.clone().cancelled_owned()));

    report::opening(&addresses)?;
    let outcome = match timeout(PATIENCE, calls::place(addresses.grpc)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(anyhow::anyhow!(
            "not every push came back within {PATIENCE:?}"
        )),
    };
    if outcome.is_ok() && !args.once {
        report::what_next(&addresses)?;
        interrupted.await;
    }
    stop.cancel();
    let (gateway, sandbox) = tokio::join!(gateway, sandbox);
    outcome?;
    gateway.context("the gateway panicked")??;
    sandbox.context("the sandbox panicked")??;
    Ok(())
}

async fn bind(grpc: SocketAddr) -> anyhow::Result<(Listeners, TcpListener, Addresses)> {
    if !grpc.ip().is_loopback() {
        bail!("the demo serves on loopback alone, not on {grpc}");
    }
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let grpc = match TcpListener::bind(grpc).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(any).await?,
    };
    let (push, admin) = (TcpListener::bind(any).await?, TcpListener::bind(any).await?);
    let sandbox = TcpListener::bind(any).await?;
    let addresses = Addresses {
        grpc: grpc.local_addr()?,
        push: push.local_addr()?,
        admin: admin.local_addr()?,
        sandbox: sandbox.local_addr()?,
    };
    Ok((Listeners { grpc, push, admin }, sandbox, addresses))
}

fn gateway_config(addresses: &Addresses, store: &TempDir) -> anyhow::Result<Config> {
    let sandbox = addresses.sandbox;
    let text = format!(
        "[platform]\n\
         base_url = 'http://{sandbox}'\n\
         voice_base_url = 'http://{sandbox}/voice/'\n\
         push_download_url = 'http://{sandbox}/push_download/'\n\
         [[accounts]]\n\
         app_key = 'demo-key'\n\
         app_secret = 'demo-secret'\n\
         push_secret = 'demo-push-secret'\n\
         [store]\n\
         path = '{}'\n",
        store.path().display()
    );
    let config = Config::parse(&text, std::iter::empty());
    config.map_err(|faults| anyhow::anyhow!("the demo's own configuration: {faults:?}"))
}
