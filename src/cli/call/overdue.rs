//! `call overdue`: rows of which no call record has come.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use comfy_table::Table;
use yeta_gateway::proto::{ListOverdueRequest, OverdueReason, OverdueRow};

use super::list::client;
use crate::cli::print;
use crate::cli::remote::{UnaryArgs, refused};

/// Lists rows that were submitted and accepted, whose call should long be over, and of which no
/// call record has come (ListOverdue). With --json: one a line.
#[derive(Args)]
pub struct OverdueArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    /// Only rows of these tasks.
    #[arg(long, value_name = "ID")]
    task: Vec<String>,
    /// Only rows that are overdue for one of these reasons.
    #[arg(long)]
    reason: Vec<Reason>,
    /// How many rows at most.
    #[arg(long, value_name = "COUNT", default_value = "1000")]
    limit: NonZeroUsize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Reason {
    TaskFinished,
    TaskExpired,
    TaskDeleted,
    CallOver,
}

impl From<Reason> for OverdueReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::TaskFinished => Self::TaskFinished,
            Reason::TaskExpired => Self::TaskExpired,
            Reason::TaskDeleted => Self::TaskDeleted,
            Reason::CallOver => Self::CallOver,
        }
    }
}

/// The largest page that the gateway gives.
const PAGE_SIZE: usize = 1000;

impl OverdueArgs {
    /// Does it, page by page.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut client = client(&self.unary)?;
        let reasons = self.reason.into_iter().map(OverdueReason::from);
        let mut request = ListOverdueRequest {
            task_ids: self.task,
            reasons: reasons.map(Into::into).collect(),
            ..ListOverdueRequest::default()
        };
        let mut rows = Vec::new();
        // "yyyy-MM-dd": the order of texts is that of days.
        let mut days: Option<(String, String)> = None;
        let limit = self.limit.get();
        while rows.len() < limit {
            let left = (limit - rows.len()).min(PAGE_SIZE);
            request.page_size = i32::try_from(left)?;
            let page = client.list_overdue(request.clone()).await;
            let page = page.map_err(refused)?.into_inner();
            rows.extend(page.rows);
            if !page.backfill_from_date.is_empty() {
                let (from, to) = (page.backfill_from_date, page.backfill_to_date);
                days = Some(match days {
                    None => (from, to),
                    Some((first, last)) => (first.min(from), last.max(to)),
                });
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        if self.unary.json {
            for row in &rows {
                print::out(print::json("OverdueRow", row)?)?;
            }
            return Ok(());
        }
        if !rows.is_empty() {
            print::lines(table(&rows))?;
        }
        if !request.page_token.is_empty() {
            print::out(format_args!(
                "there may be more than these {limit}: see --limit"
            ))?;
        } else if rows.is_empty() {
            print::out(format_args!("no row is overdue"))?;
        }
        let accounts: BTreeSet<_> = rows.iter().map(|row| &row.account).collect();
        if let Some((from, to)) = days {
            print::out(format_args!(
                "what the platform could not deliver can be fetched:"
            ))?;
            for account in accounts {
                print::out(format_args!(
                    "  yeta-gateway backfill --account {account} --from {from} --to {to}"
                ))?;
            }
        }
        Ok(())
    }
}

fn table(rows: &[OverdueRow]) -> Table {
    let dash = |text: &String| print::or_dash(Some(text).filter(|text| !text.is_empty()));
    let rows = rows.iter().map(|row| {
        [
            row.account.clone(),
            row.task_data_id.clone(),
            dash(&row.row_key),
            dash(&row.task_id),
            print::moment(row.submitted_at),
            print::moment(row.overdue_since),
            reason(row.reason()),
        ]
    });
    let heads = [
        "account",
        "task_data_id",
        "row_key",
        "task",
        "submitted",
        "overdue since",
        "because",
    ];
    print::table(heads, rows)
}

fn reason(reason: OverdueReason) -> String {
    let name = reason.as_str_name();
    let name = name.strip_prefix("OVERDUE_REASON_").unwrap_or(name);
    name.to_lowercase().replace('_', " ")
}
