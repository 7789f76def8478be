//! The `yeta-gateway` binary: arguments to one function call each.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
