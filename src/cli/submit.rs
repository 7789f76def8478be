//! `call submit` and `task submit`: the rows of a file, any number of them.

mod columns;
mod flight;
mod progress;
mod report;
mod resume;
mod sender;
mod source;
mod summary;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::{DuplicateRule, UploadHeader};

use self::columns::{ColumnArgs, Columns};
use self::resume::Ended;
use self::sender::Upload;
use self::source::Source;
use super::print;
use super::remote::UnaryArgs;
use super::serve::shutdown;

/// What is said below the help of both commands.
pub const HELP: &str = "\
The file: text (UTF-8, with BOM or without, or GB18030; comma, semicolon or tab) or a workbook \
(.xlsx). Its first line names the columns as the robot has them.

Submitting twice: the upload is named after the file's content and where its rows go. So the very \
same command goes on where it was broken off, and calls nobody again who was accepted, for as long \
as the gateway remembers the upload. A file that was changed is another upload, whose rows are all \
called; name it with --upload-id to go on with the earlier one. A changed voice or speed is refused \
under the same name.

Rejected rows are written beside the file, with their reasons and lines. Correct them there and \
submit that file, and from then on not the first one; rows of which nobody knows whether they were \
called (OUTCOME_UNKNOWN) are kept back.

Exit status: 0 if every row was accepted; 1 if some were refused or their outcome is unknown, or \
if it failed or was broken off (then the last line of stderr says so, and --json \"finished\"); 130 \
after Ctrl-C; 2 for wrong arguments.";

/// The file, and how it is submitted.
#[derive(Args)]
pub struct SubmitArgs {
    /// The rows: text, or a workbook if its name ends in .xlsx.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The workbook's sheet with the rows. Without it, the first.
    #[arg(long, value_name = "NAME")]
    sheet: Option<String>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Your own name of the upload. Without it, it is made of the file's content and where its
    /// rows go, so that the same command never dials twice.
    #[arg(long, value_name = "ID")]
    upload_id: Option<String>,
    /// Where rows go that were not accepted. Without it: FILE with ".rejected.csv" for its ending.
    /// An earlier one is replaced at the end, and removed if no row is rejected.
    #[arg(long, value_name = "FILE")]
    rejected: Option<PathBuf>,
    /// What to do with a phone number that comes twice. Without it, what the gateway is set to.
    #[arg(long, value_name = "RULE")]
    duplicate_numbers: Option<Rule>,
    /// What to do with a row key that comes twice. Without it, what the gateway is set to.
    #[arg(long, value_name = "RULE")]
    duplicate_row_keys: Option<Rule>,
    /// How often a broken upload is taken up again without coming further.
    #[arg(long, value_name = "TIMES", default_value_t = 10)]
    retries: u32,
    /// Looks through the file, prints what would be sent, and sends nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rule {
    /// Lets the row through, and tells of it.
    Warn,
    /// Refuses the row.
    Refuse,
}

fn rule(rule: Option<Rule>) -> i32 {
    let rule = match rule {
        None => DuplicateRule::Unspecified,
        Some(Rule::Warn) => DuplicateRule::Warn,
        Some(Rule::Refuse) => DuplicateRule::Refuse,
    };
    rule.into()
}

impl SubmitArgs {
    /// Submits the file's rows.
    pub async fn run(self, target: Target, unary: &UnaryArgs) -> anyhow::Result<ExitCode> {
        let rejected = self.rejected_path()?;
        let source = Source::open(&self.file, self.sheet.as_deref())?;
        let columns = Columns::find(&source.header, &self.columns)?;
        let header = UploadHeader {
            upload_id: self
                .upload_id
                .unwrap_or_else(|| upload_id(&source, &target)),
            call_column: columns.sent(),
            target: Some(target),
            duplicate_numbers: rule(self.duplicate_numbers),
            duplicate_row_keys: rule(self.duplicate_row_keys),
        };
        if self.dry_run {
            return plan(&source, &columns, &header, unary.json);
        }
        let upload_id = header.upload_id.clone();
        let upload = Upload {
            client: OutboundServiceClient::new(unary.connect()?),
            header,
            source: Arc::new(source),
            columns,
        };
        let stop = shutdown()?;
        let ended = resume::to_the_end(&upload, &rejected, self.retries, stop).await?;
        // The exit status says how the upload ended, even where the summary has no reader.
        if let Err(error) = summary::tell(&upload_id, upload.source.rows, &ended, unary.json)
            && !error.is::<print::OutputClosed>()
        {
            print::notes(format_args!("{error:#}"));
        }
        Ok(status(&upload_id, ended))
    }

    fn rejected_path(&self) -> anyhow::Result<PathBuf> {
        let path = self.rejected.clone();
        let path = path.unwrap_or_else(|| self.file.with_extension("rejected.csv"));
        let name = path.file_name().context("--rejected names no file")?;
        let folder = path.canonicalize().or_else(|_| {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(std::path::Path::new(".")).canonicalize();
            folder.map(|folder| folder.join(name))
        });
        let found = folder.with_context(|| path.display().to_string())?;
        if self.file.canonicalize().is_ok_and(|file| file == found) {
            bail!("the rejected rows would replace the file that is submitted");
        }
        Ok(path)
    }
}

/// The end of the process, and on stderr how to go on if that is needed.
fn status(upload_id: &str, ended: Ended) -> ExitCode {
    if let Some(error) = ended.broken {
        print::notes(format_args!(
            "{error:#}\n\
             yeta-gateway: broken off; run the same command again to go on (if the file has \
             changed since, with --upload-id {upload_id}): nobody who was accepted is called again"
        ));
        // As shells have it for Ctrl-C.
        return ExitCode::from(if ended.is_interrupted { 130 } else { 1 });
    }
    let counts = ended.counts;
    ExitCode::from(u8::from(counts.refused + counts.unknown > 0))
}

/// A name for the upload of this file to there. What else may be given on the command line is left
/// out: with another rule for duplicates, say, the same people must not be called once more.
fn upload_id(source: &Source, target: &Target) -> String {
    let sheet = source.sheet().unwrap_or_default();
    let target = match target {
        Target::TaskId(task) => vec!["task", task],
        Target::Direct(call) => vec!["direct", &call.robot_id, &call.line_num],
    };
    let mut digest = Sha256::new();
    digest.update(source.digest);
    for part in std::iter::once(sheet).chain(target) {
        // Its length keeps two parts from reading as one.
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    let hex = digest[..16].iter().map(|byte| format!("{byte:02x}"));
    format!("file-{}", hex.collect::<String>())
}

/// Tells what would be sent, and whether all of the file can be.
fn plan(
    source: &Source,
    columns: &Columns,
    header: &UploadHeader,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let (mut count, mut lines) = (0, Vec::new());
    source.read(|line| {
        if columns.row(&line).is_err() {
            count += 1;
            lines.push(line.number);
            lines.truncate(summary::LINES_TOLD);
        }
        ControlFlow::Continue(())
    })?;
    summary::plan(source, columns, header, (count, &lines), json)?;
    Ok(ExitCode::from(u8::from(count > 0)))
}
