//! The command line.

mod backfill;
mod call;
mod check;
mod config;
mod demo;
mod erase;
mod print;
mod remote;
mod sandbox;
mod serve;
mod submission;
mod submit;
mod subscription;
mod tail;
mod task;
mod terminal;
mod voice;

use std::process::{ExitCode, Termination};
use std::time::Duration;

use clap::{Parser, Subcommand};
use yeta_gateway::{logging, panics};

/// A gRPC gateway to iFlytek's yeta outbound-call platform.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Check(check::CheckArgs),
    Sandbox(sandbox::SandboxArgs),
    Demo(demo::DemoArgs),
    Tail(tail::TailArgs),
    Subscription(subscription::SubscriptionArgs),
    Call(call::CallArgs),
    Task(task::TaskArgs),
    Submission(submission::SubmissionArgs),
    Config(config::ConfigArgs),
    Backfill(backfill::BackfillArgs),
    Voice(voice::VoiceArgs),
    Erase(erase::EraseArgs),
}

/// At the end, so long is waited for what blocks a thread. What is worth waiting for has ended by
/// then; a name that is being looked up cannot be told to, and can take half a minute.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    if let Err(error) = panics::end_process(logging::report_panic) {
        print::note(format_args!("no thread can be started: {error}"));
        return ExitCode::FAILURE;
    }
    let command = Cli::parse().command;
    let result = match command {
        Command::Check(args) => return check::run(&args),
        Command::Serve(args) => serve::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Erase(args) => erase::run(&args),
        Command::Sandbox(args) => run(sandbox::run(args)),
        Command::Demo(args) => run(demo::run(args)),
        Command::Tail(args) => run(tail::run(args)),
        Command::Subscription(args) => run(subscription::run(args)),
        Command::Call(args) => run(call::run(args)),
        Command::Task(args) => run(task::run(args)),
        Command::Submission(args) => run(submission::run(args)),
        Command::Config(args) => run(config::run(args)),
        Command::Backfill(args) => run(backfill::run(args)),
        Command::Voice(args) => run(voice::run(args)),
    };
    match result {
        Ok(status) => status,
        // As Unix tools do: nobody is there to read more.
        Err(error) if error.is::<print::OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            print::notes(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a command on a runtime of its own.
fn run<T: Termination>(
    command: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(LAST_WAIT);
    result.map(Termination::report)
}
