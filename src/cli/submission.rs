//! `yeta-gateway submission`: shows requests that were recorded before they were sent, and settles
//! those whose outcome is unknown.

mod settle;
mod show;

use clap::{Args, Subcommand, ValueEnum};
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::{
    GetSubmissionRequest, ListSubmissionsRequest, Submission, SubmissionState,
};

use self::settle::SettleArgs;
use super::print;
use super::remote::{Connection, UnaryArgs, refused};

/// Shows requests that were made with a request id, and uploads; settles those whose outcome is
/// unknown.
#[derive(Args)]
pub struct SubmissionArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    #[command(subcommand)]
    command: SubmissionCommand,
}

#[derive(Subcommand)]
enum SubmissionCommand {
    /// Shows all that is known of one request (GetSubmission). With --json: phone numbers in full.
    Get {
        /// The id that it was made with.
        request_id: String,
        #[command(flatten)]
        whose: WhoseArgs,
    },
    /// Lists requests, and batches of uploads whose outcome is unknown, the oldest first
    /// (ListSubmissions). With --json: one a line, phone numbers in full.
    List {
        /// Only those in this state. Those that are "unknown" may need a person.
        #[arg(long)]
        state: Option<State>,
        /// Maximum number of lines.
        #[arg(long, value_name = "COUNT", default_value_t = 1000)]
        limit: usize,
        #[command(flatten)]
        whose: WhoseArgs,
    },
    Settle(SettleArgs),
}

/// Whose submissions.
#[derive(Args)]
struct WhoseArgs {
    /// The client that made the request; another than the caller needs the right "admin". Without
    /// it: the caller's own, or with that right everybody's.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    client: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    InFlight,
    Accepted,
    Refused,
    Unknown,
}

impl From<State> for SubmissionState {
    fn from(state: State) -> Self {
        match state {
            State::InFlight => Self::InFlight,
            State::Accepted => Self::Accepted,
            State::Refused => Self::Refused,
            State::Unknown => Self::Unknown,
        }
    }
}

/// The largest page that the gateway gives.
const PAGE_SIZE: usize = 1000;

type Client = OutboundServiceClient<Connection>;

/// Carries out the command.
pub async fn run(args: SubmissionArgs) -> anyhow::Result<()> {
    let client = OutboundServiceClient::new(args.unary.connect()?);
    let client = client.max_decoding_message_size(usize::MAX);
    let json = args.unary.json;
    match args.command {
        SubmissionCommand::Get { request_id, whose } => get(client, request_id, whose, json).await,
        SubmissionCommand::List {
            state,
            limit,
            whose,
        } => {
            let request = ListSubmissionsRequest {
                state: state
                    .map_or(SubmissionState::Unspecified, Into::into)
                    .into(),
                client: whose.client,
                ..ListSubmissionsRequest::default()
            };
            list(client, request, limit, json).await
        }
        SubmissionCommand::Settle(args) => settle::run(client, args, json).await,
    }
}

async fn get(
    mut client: Client,
    request_id: String,
    whose: WhoseArgs,
    json: bool,
) -> anyhow::Result<()> {
    let request = GetSubmissionRequest {
        request_id,
        client: whose.client,
    };
    let answer = client.get_submission(request).await.map_err(refused)?;
    one(&answer.into_inner(), json)
}

/// Prints one submission.
fn one(submission: &Submission, json: bool) -> anyhow::Result<()> {
    if json {
        return print::out(print::json("Submission", submission)?);
    }
    show::whole(submission)
}

async fn list(
    mut client: Client,
    mut request: ListSubmissionsRequest,
    limit: usize,
    json: bool,
) -> anyhow::Result<()> {
    let mut all = Vec::new();
    while all.len() < limit {
        request.page_size = i32::try_from((limit - all.len()).min(PAGE_SIZE))?;
        let page = client.list_submissions(request.clone()).await;
        let page = page.map_err(refused)?.into_inner();
        all.extend(page.submissions);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if json {
        for submission in &all {
            print::out(print::json("Submission", submission)?)?;
        }
        return Ok(());
    }
    show::list(&all)?;
    if !request.page_token.is_empty() {
        print::out(format_args!(
            "there may be more than these {limit}: see --limit"
        ))?;
    }
    Ok(())
}
