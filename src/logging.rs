//! The log: lines on standard error, and the last line of a process that panicked.

use std::io::{self, IsTerminal, Write as _};
use std::sync::OnceLock;

use tracing::{Dispatch, dispatcher};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};
use crate::panics::PanicReport;

/// Why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read; correct `log.filter`.
    #[error("log.filter: {filter:?} is no filter: {error}")]
    Filter {
        /// The filter as configured.
        filter: String,
        /// What is wrong with it.
        error: ParseError,
    },
    /// The process has a log already.
    #[error(transparent)]
    Started(#[from] TryInitError),
}

/// The form of this process's lines, once it has a log.
static FORM: OnceLock<Form> = OnceLock::new();

#[derive(Clone, Copy)]
enum Form {
    Human { is_colored: bool },
    Json,
}

/// Starts logging to standard error. A line that cannot be written is lost, and nothing else.
pub fn init(log: &Log) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|error| LogError::Filter {
        filter: log.filter.clone(),
        error,
    })?;
    let is_terminal = io::stderr().is_terminal();
    let form = match log.format {
        LogFormat::Auto if !is_terminal => Form::Json,
        LogFormat::Json => Form::Json,
        LogFormat::Auto | LogFormat::Human => Form::Human {
            is_colored: is_terminal,
        },
    };
    lines(form, filter).try_init()?;
    FORM.get_or_init(|| form);
    Ok(())
}

/// Writes the last line of a process that panicked, whatever the log's filter.
pub fn report_panic(panic: &PanicReport) {
    let PanicReport {
        location,
        thread,
        payload,
    } = panic;
    let Some(form) = FORM.get() else {
        // An error leaves nobody to report to; the exit code remains.
        let _ = writeln!(
            io::stderr(),
            "yeta-gateway: panicked at {location} (thread {thread}): {payload:?}"
        );
        return;
    };
    let filter = EnvFilter::default().add_directive(LevelFilter::ERROR.into());
    dispatcher::with_default(&lines(*form, filter), || {
        tracing::error!(location, thread, payload, "panicked: the process ends");
    });
}

fn lines(form: Form, filter: EnvFilter) -> Dispatch {
    let lines = fmt()
        .with_env_filter(filter)
        // With them, a failed write would be reported by `eprintln!`, which panics.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    match form {
        Form::Human { is_colored } => lines.with_ansi(is_colored).finish().into(),
        Form::Json => lines.json().flatten_event(true).finish().into(),
    }
}
