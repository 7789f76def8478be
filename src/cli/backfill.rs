//! `yeta-gateway backfill`: pushes that the platform could not deliver.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use futures_util::{Stream, StreamExt, stream};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tonic::{Status, Streaming};
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::{
    BackfillFileRequest, BackfillFileResponse, BackfillPushesRequest, BackfillPushesResponse,
};

use super::print;
use super::remote::{UnaryArgs, refused};

/// Fetches pushes that the platform could not deliver, and adds those that the gateway lacks.
///
/// From the platform's files of some days, or from a local file. The gateway does the first by
/// itself, at its start and daily.
#[derive(Args)]
pub struct BackfillArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    /// The first day, by China's calendar; without it, seven days ago.
    #[arg(
        long,
        value_name = "yyyy-MM-dd",
        default_value = "",
        conflicts_with = "file"
    )]
    from: String,
    /// The last day; without it, yesterday.
    #[arg(
        long,
        value_name = "yyyy-MM-dd",
        default_value = "",
        conflicts_with = "file"
    )]
    to: String,
    /// A file of failed pushes in place of the platform's: a zip, or its lines.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Bytes of a file in one message.
const CHUNK: usize = 256 << 10;

/// Does what the arguments ask.
pub async fn run(args: BackfillArgs) -> anyhow::Result<()> {
    let mut client = PushServiceClient::new(args.unary.connect()?);
    let json = args.unary.json;
    if let Some(path) = &args.file {
        let parts = parts(path).await?;
        let answers = client.backfill_file(parts).await.map_err(refused)?;
        let (sum, end) = follow(answers.into_inner(), of_file).await;
        let name = "BackfillFileResponse";
        return finish(&sum, &rows(&of_file(&sum)), name, end, json);
    }
    let request = BackfillPushesRequest {
        from_date: args.from,
        to_date: args.to,
    };
    let answers = client.backfill_pushes(request).await.map_err(refused)?;
    let (sum, end) = follow(answers.into_inner(), |sum| *sum).await;
    finish(&sum, &rows(&sum), "BackfillPushesResponse", end, json)
}

/// A file as the messages that carry it.
async fn parts(path: &Path) -> anyhow::Result<impl Stream<Item = BackfillFileRequest> + use<>> {
    let cannot = || format!("{} cannot be read", path.display());
    let file = File::open(path).await.with_context(cannot)?;
    let size = file.metadata().await.with_context(cannot)?.len();
    let first = BackfillFileRequest {
        size: Some(size),
        ..BackfillFileRequest::default()
    };
    let rest = stream::unfold(file, |mut file| async move {
        let mut chunk = vec![0; CHUNK];
        // An end too early is refused by the gateway, which knows the size.
        let read = file.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        chunk.truncate(read);
        let part = BackfillFileRequest {
            chunk: chunk.into(),
            size: None,
        };
        Some((part, file))
    });
    Ok(stream::once(async { first }).chain(rest))
}

/// Shows how far it has come, and gives the sum and how it ended.
async fn follow<T: Default>(
    mut answers: Streaming<T>,
    progress: impl Fn(&T) -> BackfillPushesResponse,
) -> (T, Result<(), Status>) {
    let is_watched = std::io::stderr().is_terminal();
    let mut sum = T::default();
    let end = loop {
        match answers.message().await {
            Ok(Some(now)) => sum = now,
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
        if is_watched {
            let now = progress(&sum);
            let (done, total) = (now.files_done + now.files_failed, now.files_total);
            let (lines, added) = (now.lines, now.added);
            print::progress(format_args!(
                "{done} of {total} files, {lines} lines, {added} added"
            ));
        }
    };
    if is_watched {
        print::progress("");
    }
    (sum, end)
}

fn of_file(sum: &BackfillFileResponse) -> BackfillPushesResponse {
    BackfillPushesResponse {
        lines: sum.lines,
        added: sum.added,
        already_held: sum.already_held,
        unreadable: sum.unreadable,
        outdated: sum.outdated,
        ..BackfillPushesResponse::default()
    }
}

fn rows(sum: &BackfillPushesResponse) -> Vec<[String; 2]> {
    let row = |name: &str, count: u64| [name.to_owned(), count.to_string()];
    let mut rows = Vec::new();
    if sum.files_total > 0 {
        rows.push(row("files read", sum.files_done.into()));
        rows.push(row("files not read", sum.files_failed.into()));
    }
    rows.push(row("lines", sum.lines));
    rows.push(row("added", sum.added));
    rows.push(row("held already", sum.already_held));
    rows.push(row("unreadable", sum.unreadable));
    rows.push(row("removed before", sum.outdated));
    rows
}

fn finish(
    sum: &impl prost::Message,
    rows: &[[String; 2]],
    name: &str,
    end: Result<(), Status>,
    json: bool,
) -> anyhow::Result<()> {
    if json {
        print::out(print::json(name, sum)?)?;
    } else {
        let rows = rows.iter().cloned();
        print::lines(print::table(["failed pushes", ""], rows))?;
    }
    end.map_err(refused)
}
