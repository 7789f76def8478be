//! `yeta-gateway submission settle`: a person settles what is unknown.

use clap::Args;
use yeta_gateway::proto::settle_submission_request::{Outcome, Which};
use yeta_gateway::proto::{
    SettleSubmissionRequest, SettledAccepted, SettledNotSent, UploadRowName,
};

use super::{Client, one};
use crate::cli::print;
use crate::cli::remote::refused;

/// Settles by hand a request, or a row of an upload, whose outcome is unknown (SettleSubmission).
///
/// Look first: `submission get` shows the evidence, and the platform's console shows the calls.
/// A settlement cannot be taken back. It needs the right "admin", and is written to the audit log.
#[derive(Args)]
pub struct SettleArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    outcome: OutcomeArgs,
    /// How you know, in at most 512 bytes. Kept with the submission and in the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The client that made the request. Needed where several clients have used the id.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    client: String,
}

/// What is settled.
#[derive(Args)]
struct WhichArgs {
    /// The id that the request was made with.
    #[arg(required_unless_present = "upload", conflicts_with_all = ["upload", "row"])]
    request_id: Option<String>,
    /// The upload of the row, instead of a request.
    #[arg(long, value_name = "UPLOAD_ID", requires = "row")]
    upload: Option<String>,
    /// Your own id of the row, within --upload.
    #[arg(long, value_name = "ROW_KEY", requires = "upload")]
    row: Option<String>,
}

/// What happened to it.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct OutcomeArgs {
    /// The platform accepted it: its task_data_id of each row, in the order of the rows. A repeat
    /// under the same id gets this outcome, and calls nobody.
    #[arg(long, value_name = "ID", num_args = 1.., value_delimiter = ',')]
    accepted: Vec<String>,
    /// The platform accepted a CreateTask: its id of the task.
    #[arg(long, value_name = "ID", conflicts_with = "upload")]
    task_id: Option<String>,
    /// The platform never received it. Be sure: after --not-sent the same id, or the same row of
    /// the upload, goes out again when it is submitted again, and people are called.
    #[arg(long)]
    not_sent: bool,
}

impl WhichArgs {
    fn which(self) -> Option<Which> {
        match (self.request_id, self.upload, self.row) {
            (Some(request_id), _, _) => Some(Which::RequestId(request_id)),
            (None, Some(upload_id), Some(row_key)) => {
                Some(Which::UploadRow(UploadRowName { upload_id, row_key }))
            }
            (None, _, _) => None,
        }
    }
}

impl OutcomeArgs {
    fn outcome(self) -> Outcome {
        if self.not_sent {
            return Outcome::NotSent(SettledNotSent {});
        }
        Outcome::Accepted(SettledAccepted {
            task_data_ids: self.accepted,
            task_id: self.task_id.unwrap_or_default(),
        })
    }
}

/// Settles, and prints the submission as it is then.
pub async fn run(mut client: Client, args: SettleArgs, json: bool) -> anyhow::Result<()> {
    let next = match (&args.which.upload, args.outcome.not_sent) {
        (None, true) => "settled as not sent: the same request id goes out again",
        (Some(_), true) => "settled as not sent: the row goes out again with its upload",
        (None, false) => "settled as accepted: a repeat of the request id gets this outcome",
        (Some(_), false) => "settled as accepted: a repeat of the row gets this outcome",
    };
    let request = SettleSubmissionRequest {
        which: args.which.which(),
        outcome: Some(args.outcome.outcome()),
        reason: args.reason,
        client: args.client,
    };
    let answer = client.settle_submission(request).await.map_err(refused)?;
    one(&answer.into_inner(), json)?;
    if !json {
        print::out(next)?;
    }
    Ok(())
}
