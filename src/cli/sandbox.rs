//! `yeta-gateway sandbox`: the platform simulator alone.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use yeta_gateway::sandbox::{SandboxConfig, serve};

use super::print;

/// Simulates the platform: its API, its calls and its pushes.
#[derive(Args)]
pub struct SandboxArgs {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8900")]
    listen: SocketAddr,

    /// Where pushes go: a base URL, to which the module is appended, or one
    /// that ends in a module (receiveCallRecord, receiveVoice, receiveDialog).
    #[arg(long, value_name = "URL", num_args = 1..)]
    push_to: Vec<String>,

    /// Decides how calls go: the same seed, the same calls.
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// 1 is real time, 100 a hundred times faster.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,

    /// How long a token is good.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    token_life: Duration,

    /// Lets older tokens live on beside a new one.
    #[arg(long)]
    keep_old_tokens: bool,

    /// The only app_key to accept; without it any will do.
    #[arg(long, requires = "app_secret")]
    app_key: Option<String>,

    /// The app_secret of that app_key.
    #[arg(long, requires = "app_key")]
    app_secret: Option<String>,

    /// Calls that the account can pay for; without it there is no bound.
    #[arg(long, value_name = "CALLS")]
    balance: Option<u64>,

    /// Keeps the hours of lines and tasks, in Beijing time.
    #[arg(long)]
    enforce_hours: bool,

    /// Keeps the good rows of an insert that is refused because of a bad row.
    #[arg(long)]
    insert_keeps_good_rows: bool,
}

/// Runs the sandbox until Ctrl-C or SIGTERM.
pub async fn run(args: SandboxArgs) -> anyhow::Result<()> {
    let listen = args.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener
        .local_addr()
        .context("cannot tell the bound address")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot await SIGTERM")?;
    let shutdown = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    // It serves whether or not anybody reads this.
    let _ = print::lines(format_args!(
        "sandbox listening on http://{address}\n\
         recordings at       http://{address}/voice/\n\
         faults and counts   http://{address}/sandbox"
    ));
    serve(args.into_config(), listener, shutdown)
        .await
        .context("cannot run the sandbox")
}

impl SandboxArgs {
    fn into_config(self) -> SandboxConfig {
        SandboxConfig {
            push_to: self.push_to,
            credentials: self.app_key.zip(self.app_secret),
            seed: self.seed,
            speed: self.speed,
            token_life: self.token_life,
            kill_old_tokens: !self.keep_old_tokens,
            balance: self.balance,
            enforce_hours: self.enforce_hours,
            insert_keeps_good_rows: self.insert_keeps_good_rows,
            ..SandboxConfig::default()
        }
    }
}
