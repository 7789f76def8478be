//! `yeta-gateway call`: calls placed directly, and what became of calls.

mod list;
mod overdue;
pub mod show;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::{CallOutRequest, DirectCall, Row};

use super::print;
use super::remote::{UnaryArgs, refused};
use super::submit::{self, SubmitArgs};

/// Places calls without a task of their own, and shows what became of calls.
#[derive(Args)]
pub struct CallArgs {
    #[command(subcommand)]
    command: CallCommand,
}

#[derive(Subcommand)]
enum CallCommand {
    Out(OutArgs),
    Submit(SubmitRowsArgs),
    Get(list::GetArgs),
    List(list::ListArgs),
    Watch(watch::WatchArgs),
    Overdue(overdue::OverdueArgs),
}

/// Calls the rows given, 50 at most (CallOut, 直接外呼).
#[derive(Args)]
struct OutArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    request_id: RequestIdArgs,
    /// Waits until each row has its call, and prints that.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    rows: RowArgs,
}

/// Who calls.
#[derive(Args)]
struct HowArgs {
    /// The robot that speaks.
    #[arg(long, value_name = "ID")]
    robot: String,
    /// The line that is called from.
    #[arg(long, value_name = "NUMBER")]
    line: String,
    /// The voice that the robot speaks with.
    #[arg(long, value_name = "CODE", default_value = "")]
    voice: String,
    /// How fast it speaks, from -500 to 500.
    #[arg(long, allow_negative_numbers = true)]
    speed: Option<i32>,
}

/// What makes a request safe to repeat.
#[derive(Args)]
pub struct RequestIdArgs {
    /// An id of your own: repeated under the same one, the request has its first outcome, and goes
    /// to the platform once.
    #[arg(long, value_name = "ID", default_value = "")]
    pub request_id: String,
}

/// Calls the rows of a file, any number of them, and each of them once (SubmitRows).
#[derive(Args)]
#[command(after_help = submit::HELP)]
struct SubmitRowsArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// The rows to call.
#[derive(Args)]
pub struct RowArgs {
    /// The columns' names, the phone number's first: 客户手机号码,姓名
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', required = true)]
    pub columns: Vec<String>,
    /// A row's values in the order of the columns; once for each row.
    #[arg(long = "row", value_name = "VALUE,…", required = true)]
    rows: Vec<String>,
}

impl RowArgs {
    /// The rows as a request has them.
    pub fn rows(&self) -> Vec<Row> {
        let values = |row: &String| row.split(',').map(ToOwned::to_owned).collect();
        self.rows
            .iter()
            .map(|row| Row {
                values: values(row),
            })
            .collect()
    }
}

/// Does what the arguments ask.
pub async fn run(args: CallArgs) -> anyhow::Result<ExitCode> {
    let done = match args.command {
        CallCommand::Submit(args) => return args.run().await,
        CallCommand::Out(args) => out(args).await,
        CallCommand::Get(args) => args.run().await,
        CallCommand::List(args) => args.run().await,
        CallCommand::Watch(args) => args.run().await,
        CallCommand::Overdue(args) => args.run().await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

impl SubmitRowsArgs {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let target = Target::Direct(DirectCall {
            robot_id: self.how.robot,
            line_num: self.how.line,
            voice_code: self.how.voice,
            robot_speed: self.how.speed,
        });
        self.submit.run(target, &self.unary).await
    }
}

async fn out(args: OutArgs) -> anyhow::Result<()> {
    let request = CallOutRequest {
        robot_id: args.how.robot,
        line_num: args.how.line,
        call_list: args.rows.rows(),
        call_column: args.rows.columns,
        voice_code: args.how.voice,
        robot_speed: args.how.speed,
        request_id: args.request_id.request_id,
    };
    let mut client = OutboundServiceClient::new(args.unary.connect()?);
    let answer = client
        .call_out(request)
        .await
        .map_err(refused)?
        .into_inner();
    if args.unary.json {
        print::out(print::json("CallOutResponse", &answer)?)?;
    } else {
        accepted(&answer.task_data_ids, &answer.push_cursor)?;
    }
    if args.watch {
        watch::until_final(&args.unary, answer.task_data_ids, answer.push_cursor).await?;
    }
    Ok(())
}

/// Says which ids the rows were given.
pub fn accepted(task_data_ids: &[String], push_cursor: &str) -> anyhow::Result<()> {
    let rows = task_data_ids
        .iter()
        .enumerate()
        .map(|(i, id)| [(i + 1).to_string(), id.clone()]);
    print::lines(print::table(["row", "task_data_id"], rows))?;
    print::out(format_args!("their pushes follow cursor {push_cursor}"))
}
