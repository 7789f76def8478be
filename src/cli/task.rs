//! `yeta-gateway task`: the life of a task.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::{
    CreateTaskRequest, DeleteTaskRequest, InsertTaskDataRequest, PauseTaskRequest,
    QueryTasksRequest, StartTaskRequest, Task,
};

use super::call::{RequestIdArgs, RowArgs, accepted};
use super::print;
use super::remote::{Connection, UnaryArgs, refused};
use super::submit::{self, SubmitArgs};

/// Creates, fills, starts, pauses, deletes and shows tasks.
#[derive(Args)]
pub struct TaskArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    #[command(subcommand)]
    command: TaskCommand,
}

#[derive(Subcommand)]
enum TaskCommand {
    /// Makes a task without rows (CreateTask, 创建外呼任务).
    Create(CreateArgs),
    /// Adds rows to a task that has not been started, 50 at most (InsertTaskData, 提交任务数据).
    Insert {
        /// The task.
        task_id: String,
        #[command(flatten)]
        request_id: RequestIdArgs,
        #[command(flatten)]
        rows: RowArgs,
    },
    /// Adds the rows of a file, any number of them and each once, to a task that has not been
    /// started (SubmitRows).
    #[command(after_help = submit::HELP)]
    Submit {
        /// The task.
        #[arg(long, value_name = "ID")]
        task: String,
        #[command(flatten)]
        submit: SubmitArgs,
    },
    /// Starts a task, or goes on with a paused one (StartTask, 启动外呼任务).
    Start {
        /// The task.
        task_id: String,
    },
    /// Pauses a task (PauseTask, 暂停外呼任务).
    Pause {
        /// The task.
        task_id: String,
    },
    /// Stops a task and deletes it for good (DeleteTask, 删除外呼任务).
    Delete {
        /// The task.
        task_id: String,
    },
    /// Shows tasks and how far they are (QueryTasks, 查询任务).
    Query {
        /// Only this task.
        task_id: Option<String>,
        /// Only tasks with this in their names.
        #[arg(long, default_value = "")]
        name: String,
        /// Which page, from 1.
        #[arg(long)]
        page: Option<i32>,
    },
}

#[derive(Args)]
struct CreateArgs {
    /// The task's name.
    name: String,
    /// The lines that are called from; several with ';' between them.
    #[arg(long, value_name = "NUMBER")]
    line: String,
    /// The robot that speaks.
    #[arg(long, value_name = "ID")]
    robot: String,
    /// The voice that it speaks with.
    #[arg(long, value_name = "CODE", default_value = "")]
    voice: String,
    /// When calls begin: "2026-11-21T08:00:00Z"; now, if not given.
    #[arg(long, value_name = "TIME")]
    begin: Option<Timestamp>,
    /// When they end.
    #[arg(long, value_name = "TIME")]
    end: Option<Timestamp>,
    /// Hours of the day in which to call: 09:00:00-12:00:00
    #[arg(long, value_name = "HOURS")]
    hours: Vec<String>,
    /// How often a row that was not reached is called again, 3 times at most.
    #[arg(long, value_name = "TIMES")]
    recall_count: Option<i32>,
    /// How long to wait before it is called again.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    recall_wait: Option<Duration>,
    #[command(flatten)]
    request_id: RequestIdArgs,
}

/// Does what the arguments ask.
pub async fn run(args: TaskArgs) -> anyhow::Result<ExitCode> {
    if let TaskCommand::Submit { task, submit } = args.command {
        return submit.run(Target::TaskId(task), &args.unary).await;
    }
    unary(args).await.map(|()| ExitCode::SUCCESS)
}

async fn unary(args: TaskArgs) -> anyhow::Result<()> {
    let client = OutboundServiceClient::new(args.unary.connect()?);
    let json = args.unary.json;
    match args.command {
        TaskCommand::Create(create) => create.run(client, json).await,
        TaskCommand::Insert {
            task_id,
            request_id,
            rows,
        } => {
            let request = InsertTaskDataRequest {
                task_id,
                call_list: rows.rows(),
                call_column: rows.columns,
                request_id: request_id.request_id,
            };
            insert(client, request, json).await
        }
        TaskCommand::Submit { .. } => unreachable!("done by run"),
        TaskCommand::Start { task_id } => start(client, task_id, json).await,
        TaskCommand::Pause { task_id } => pause(client, task_id).await,
        TaskCommand::Delete { task_id } => delete(client, task_id).await,
        TaskCommand::Query {
            task_id,
            name,
            page,
        } => {
            let request = QueryTasksRequest {
                task_id: task_id.unwrap_or_default(),
                task_name: name,
                page_index: page,
                ..QueryTasksRequest::default()
            };
            query(client, request, json).await
        }
    }
}

type Client = OutboundServiceClient<Connection>;

impl CreateArgs {
    async fn run(self, mut client: Client, json: bool) -> anyhow::Result<()> {
        let wait = self.recall_wait.map(|wait| i64::try_from(wait.as_secs()));
        let request = CreateTaskRequest {
            task_name: self.name,
            line_num: self.line,
            robot_id: self.robot,
            voice_code: self.voice,
            recall_count: self.recall_count,
            time_recall_wait: wait.transpose().context("--recall-wait is too long")?,
            time_range: self.hours,
            time_begin: self.begin.unwrap_or_else(Timestamp::now).as_millisecond(),
            time_end: self.end.map(Timestamp::as_millisecond),
            request_id: self.request_id.request_id,
            ..CreateTaskRequest::default()
        };
        let task = client
            .create_task(request)
            .await
            .map_err(refused)?
            .into_inner();
        if json {
            print::out(print::json("CreateTaskResponse", &task)?)?;
        } else {
            print::out(format_args!("task {} created", task.task_id))?;
        }
        Ok(())
    }
}

async fn insert(
    mut client: Client,
    request: InsertTaskDataRequest,
    json: bool,
) -> anyhow::Result<()> {
    let answer = client
        .insert_task_data(request)
        .await
        .map_err(refused)?
        .into_inner();
    if json {
        print::out(print::json("InsertTaskDataResponse", &answer)?)?;
    } else {
        accepted(&answer.task_data_ids, &answer.push_cursor)?;
    }
    Ok(())
}

async fn start(mut client: Client, task_id: String, json: bool) -> anyhow::Result<()> {
    let request = StartTaskRequest {
        task_id: task_id.clone(),
    };
    let answer = client
        .start_task(request)
        .await
        .map_err(refused)?
        .into_inner();
    if json {
        print::out(print::json("StartTaskResponse", &answer)?)?;
    } else {
        print::out(format_args!(
            "task {task_id} started; its pushes follow cursor {}",
            answer.push_cursor
        ))?;
    }
    Ok(())
}

async fn pause(mut client: Client, task_id: String) -> anyhow::Result<()> {
    let request = PauseTaskRequest {
        task_id: task_id.clone(),
    };
    client.pause_task(request).await.map_err(refused)?;
    print::out(format_args!("task {task_id} paused"))?;
    Ok(())
}

async fn delete(mut client: Client, task_id: String) -> anyhow::Result<()> {
    let request = DeleteTaskRequest {
        task_id: task_id.clone(),
    };
    client.delete_task(request).await.map_err(refused)?;
    print::out(format_args!("task {task_id} deleted"))?;
    Ok(())
}

async fn query(mut client: Client, request: QueryTasksRequest, json: bool) -> anyhow::Result<()> {
    let answer = client
        .query_tasks(request)
        .await
        .map_err(refused)?
        .into_inner();
    if json {
        print::out(print::json("QueryTasksResponse", &answer)?)?;
        return Ok(());
    }
    let head = [
        "task", "name", "status", "numbers", "called", "answered", "began", "ended",
    ];
    print::lines(print::table(head, answer.rows.into_iter().map(row)))?;
    Ok(())
}

fn row(task: Task) -> [String; 8] {
    let status = task
        .status()
        .as_str_name()
        .trim_start_matches("TASK_STATUS_")
        .to_lowercase();
    let deleted = if task.deleted == Some(true) {
        ", deleted"
    } else {
        ""
    };
    [
        task.task_id,
        task.task_name,
        format!("{status}{deleted}"),
        print::or_dash(task.count_tel),
        print::or_dash(task.process_tel_count),
        print::or_dash(task.process_through_count),
        print::time(task.time_task_start),
        print::time(task.time_task_finish),
    ]
}
