//! Where log lines go, and in which form.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;
use yeta_gateway::config::{Log, LogFormat};

/// Starts logging to standard error.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.filter)
        .with_context(|| format!("log.filter: {:?} is no filter", log.filter))?;
    let human = match log.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let lines = fmt().with_env_filter(filter).with_writer(io::stderr);
    if human {
        lines
            .with_ansi(io::stderr().is_terminal())
            .finish()
            .try_init()?;
    } else {
        lines.json().flatten_event(true).finish().try_init()?;
    }
    Ok(())
}
