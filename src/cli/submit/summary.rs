//! What is said of an upload at its end, and before it begins.

use std::path::PathBuf;

use serde::Serialize;
use yeta_gateway::proto::UploadHeader;
use yeta_gateway::proto::upload_header::Target;

use super::columns::Columns;
use super::report::Counts;
use super::resume::Ended;
use super::source::Source;
use crate::cli::print;

/// The one object that --json prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    upload_id: &'a str,
    /// Whether every row of the file has an outcome.
    finished: bool,
    /// Rows in the file.
    rows: u64,
    #[serde(flatten)]
    counts: &'a Counts,
    rejected_file: Option<&'a PathBuf>,
    error: Option<String>,
}

/// Prints how an upload ended.
pub fn tell(upload_id: &str, rows: u64, ended: &Ended, json: bool) -> anyhow::Result<()> {
    let counts = &ended.counts;
    if json {
        let summary = Summary {
            upload_id,
            finished: ended.broken.is_none(),
            rows,
            counts,
            rejected_file: ended.rejected.as_ref(),
            error: ended.broken.as_ref().map(|error| format!("{error:#}")),
        };
        print::out(print::json_of(&summary)?)?;
        return Ok(());
    }
    let table = print::table(["", "rows"], lines(rows, counts));
    print::lines(table)?;
    print::out(format_args!(
        "upload {upload_id}: the same command again calls nobody who was accepted"
    ))?;
    if let Some(path) = &ended.rejected {
        print::out(format_args!(
            "rejected rows and their reasons: {}",
            path.display()
        ))?;
    }
    if counts.unknown > 0 {
        print::out(format_args!(
            "{} rows were sent and not answered: they may have been called, so don't submit them \
             again; see: yeta-gateway submission list --state unknown",
            counts.unknown
        ))?;
    }
    Ok(())
}

fn lines(rows: u64, counts: &Counts) -> Vec<[String; 2]> {
    let mut lines = vec![
        ("read".to_owned(), rows),
        ("accepted".to_owned(), counts.accepted),
        (
            "  known from an earlier try".to_owned(),
            counts.known_before,
        ),
        ("refused".to_owned(), counts.refused),
    ];
    let by_reason = |(reason, count): (&String, &u64)| (format!("  {reason}"), *count);
    lines.extend(counts.refused_by_reason.iter().map(by_reason));
    lines.push(("unknown".to_owned(), counts.unknown));
    let warning = |(reason, count): (&String, &u64)| (format!("warned: {reason}"), *count);
    lines.extend(counts.warnings.iter().map(warning));
    let unanswered = rows.saturating_sub(counts.settled());
    if unanswered > 0 {
        lines.push(("not answered yet".to_owned(), unanswered));
    }
    let line = |(what, count): (String, u64)| [what, count.to_string()];
    lines.into_iter().map(line).collect()
}

/// What a dry run has found.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan<'a> {
    upload_id: &'a str,
    target: String,
    format: String,
    columns: &'a [String],
    rows: u64,
    unreadable: u64,
    unreadable_lines: &'a [u64],
    first_rows: Vec<PlannedRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlannedRow {
    row_key: String,
    values: Vec<String>,
}

/// So many unreadable lines are told by their numbers.
pub const LINES_TOLD: usize = 20;

/// Prints what would be sent; of rows whose lines cannot be read as rows, how many and which first.
pub fn plan(
    source: &Source,
    columns: &Columns,
    header: &UploadHeader,
    unreadable: (u64, &[u64]),
    json: bool,
) -> anyhow::Result<()> {
    let rows = source
        .sample
        .iter()
        .filter_map(|line| columns.row(line).ok());
    let rows = rows.map(|row| PlannedRow {
        row_key: print::without_numbers(&row.row_key),
        values: row
            .values
            .iter()
            .map(|it| print::without_numbers(it))
            .collect(),
    });
    let plan = Plan {
        upload_id: &header.upload_id,
        target: target(header),
        format: source.described(),
        columns: &header.call_column,
        rows: source.rows,
        unreadable: unreadable.0,
        unreadable_lines: unreadable.1,
        first_rows: rows.collect(),
    };
    if json {
        print::out(print::json_of(&plan)?)?;
        return Ok(());
    }
    let numbers: Vec<_> = plan.unreadable_lines.iter().map(u64::to_string).collect();
    let lines = [
        ("file", plan.format),
        ("to", plan.target),
        ("columns", plan.columns.join(", ")),
        ("rows", plan.rows.to_string()),
        ("unreadable", plan.unreadable.to_string()),
        (
            "their lines",
            print::or_dash((!numbers.is_empty()).then(|| numbers.join(", "))),
        ),
        ("upload", plan.upload_id.to_owned()),
    ];
    let lines = lines.map(|(what, value)| [what.to_owned(), value]);
    print::lines(print::table(["", "nothing is sent"], lines))?;
    let first = plan.first_rows.into_iter();
    let first = first.map(|row| [row.row_key, row.values.join(", ")]);
    print::lines(print::table(["row key", "first rows"], first))?;
    Ok(())
}

fn target(header: &UploadHeader) -> String {
    match &header.target {
        Some(Target::TaskId(task)) => format!("task {task}"),
        Some(Target::Direct(call)) => {
            format!(
                "the phone at once, robot {}, line {}",
                call.robot_id, call.line_num
            )
        }
        None => String::new(),
    }
}
