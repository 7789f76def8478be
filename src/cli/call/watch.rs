//! `call watch`: waits for the calls of rows.

use std::collections::HashMap;

use clap::Args;
use tonic::Status;
use yeta_gateway::proto::WatchCallsRequest;

use super::{list, show};
use crate::cli::print;
use crate::cli::remote::UnaryArgs;
use crate::cli::tail::{RETRY, lasting};

/// Waits until each row has its call, and prints calls as they become final (WatchCalls). With
/// --json: one call a line, phone numbers in full.
#[derive(Args)]
pub struct WatchArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    /// The rows.
    #[arg(value_name = "TASK_DATA_ID", required = true)]
    rows: Vec<String>,
    /// The push_cursor that their submission answered; without it, calls that are final already
    /// come first.
    #[arg(long, value_name = "CURSOR", default_value = "")]
    cursor: String,
}

impl WatchArgs {
    /// Does it.
    pub async fn run(self) -> anyhow::Result<()> {
        until_final(&self.unary, self.rows, self.cursor).await
    }
}

/// Prints the calls of rows as they become final, until each row has had one.
pub async fn until_final(
    unary: &UnaryArgs,
    rows: Vec<String>,
    push_cursor: String,
) -> anyhow::Result<()> {
    let request = WatchCallsRequest {
        task_data_ids: rows,
        push_cursor,
    };
    let mut printed = HashMap::new();
    while let Some(ended) = follow(unary, &request, &mut printed).await? {
        print::note(format_args!("{}, trying again", ended.message()));
        tokio::time::sleep(RETRY).await;
    }
    Ok(())
}

/// Prints one stream to its end, but for what has been `printed` in this revision already;
/// returns why it ended early if that can pass.
async fn follow(
    unary: &UnaryArgs,
    request: &WatchCallsRequest,
    printed: &mut HashMap<String, u32>,
) -> anyhow::Result<Option<Status>> {
    let mut stream = match list::client(unary)?.watch_calls(request.clone()).await {
        Ok(response) => response.into_inner(),
        Err(status) => return lasting(status).map(Some),
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                let Some(call) = message.call else { continue };
                let last = printed.insert(call.call_uuid.clone(), call.revision);
                if last.is_some_and(|last| last >= call.revision) {
                    continue;
                }
                if unary.json {
                    print::out(print::json("Call", &call)?)?;
                } else {
                    print::out(show::line(&call))?;
                }
            }
            Ok(None) => return Ok(None),
            Err(status) => return lasting(status).map(Some),
        }
    }
}
