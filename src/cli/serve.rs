//! `yeta-gateway serve`: runs the gateway.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use rustix::fs::Mode;
use rustix::process::umask;
use tokio::signal::unix::{SignalKind, signal};
use yeta_gateway::app::{self, Listeners};
use yeta_gateway::config::{Config, DEFAULT_FILE};
use yeta_gateway::logging;

use super::{check, print};

/// Runs the gateway until it is told to stop (SIGTERM or Ctrl-C).
#[derive(Args)]
pub struct ServeArgs {
    /// The configuration file; without it, defaults and environment alone.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints the commented default configuration, and exits.
    #[arg(long)]
    print_default_config: bool,
}

/// Runs it.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    if args.print_default_config {
        return print::lines(DEFAULT_FILE.trim_end());
    }
    let config = match check::load(args.config.as_deref()) {
        Ok(config) => config,
        Err(faults) => {
            check::tell(&faults);
            bail!("not started");
        }
    };
    logging::init(&config.log)?;
    // What the gateway writes is for its own user alone: it holds phone numbers and dialogs.
    umask(Mode::RWXG | Mode::RWXO);
    super::run(serve(config)).map(drop)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let shutdown = shutdown()?;
    let listeners = Listeners::bind(&config).await?;
    // On the heap: it holds all there is.
    Box::pin(app::run(config, listeners, shutdown)).await?;
    Ok(())
}

/// Resolves when the process is asked to end.
pub fn shutdown() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
