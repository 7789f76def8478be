//! `yeta-gateway check`: what is wrong with a configuration, all of it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::EnvFilter;
use yeta_gateway::config::{Config, Fault};
use yeta_gateway::memory::{self, Needs};

use super::print;

/// Validates a configuration: every fault at once, each with its key.
#[derive(Args)]
pub struct CheckArgs {
    /// The configuration file; without it, defaults and environment alone.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What `check` exits with when something is wrong.
const FAULTY: u8 = 2;

/// Checks and says what was found.
pub fn run(args: &CheckArgs) -> ExitCode {
    match load(args.config.as_deref()).and_then(within_budget) {
        Ok(config) => {
            let accounts = config.accounts.len();
            // The exit status says it all.
            let _ = print::out(format_args!(
                "the configuration is good ({accounts} accounts)"
            ));
            ExitCode::SUCCESS
        }
        Err(faults) => {
            tell(&faults);
            ExitCode::from(FAULTY)
        }
    }
}

/// A configuration whose bounds fit into the memory.
fn within_budget(config: Config) -> Result<Config, Vec<Fault>> {
    let problem = memory::budget(&config).and_then(|budget| Needs::of(&config).problem(budget));
    match problem {
        None => Ok(config),
        Some(problem) => Err(vec![Fault {
            key: "memory_budget".into(),
            problem,
        }]),
    }
}

/// Loads a configuration, with the faults that only the command line can see.
pub fn load(file: Option<&std::path::Path>) -> Result<Config, Vec<Fault>> {
    let config = Config::load(file)?;
    if let Err(error) = EnvFilter::try_new(&config.log.filter) {
        let problem = format!("{:?} is no filter: {error}", config.log.filter);
        return Err(vec![Fault {
            key: "log.filter".into(),
            problem,
        }]);
    }
    Ok(config)
}

/// Prints faults, one a line.
pub fn tell(faults: &[Fault]) {
    for fault in faults {
        print::error_line(fault);
    }
    let count = faults.len();
    print::error_line(format_args!(
        "{count} fault{} in the configuration",
        if count == 1 { "" } else { "s" }
    ));
}
