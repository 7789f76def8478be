//! `call get` and `call list`: what is known of calls.

use std::time::SystemTime;

use clap::{Args, ValueEnum};
use yeta_gateway::proto::call_service_client::CallServiceClient;
use yeta_gateway::proto::{CallOutcome, CallState, GetCallRequest, ListCallsRequest};

use super::show;
use crate::cli::print;
use crate::cli::remote::{Connection, UnaryArgs, refused};
use crate::cli::tail::since;

/// Shows all that is known of one call (GetCall).
#[derive(Args)]
pub struct GetArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    /// The call's id.
    call_uuid: String,
}

impl GetArgs {
    /// Does it.
    pub async fn run(self) -> anyhow::Result<()> {
        let request = GetCallRequest {
            call_uuid: self.call_uuid,
        };
        let mut client = client(&self.unary)?;
        let answer = client.get_call(request).await.map_err(refused)?;
        if self.unary.json {
            let answer = print::json("GetCallResponse", answer.get_ref())?;
            print::out(answer)?;
        } else {
            print::lines(show::whole(&answer.into_inner()).trim_end())?;
        }
        Ok(())
    }
}

/// Lists calls, newest first (ListCalls). With --json: one call a line, phone numbers in full.
#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    /// Only calls of these tasks.
    #[arg(long, value_name = "ID")]
    task: Vec<String>,
    /// Only calls of these rows, by their task_data_ids.
    #[arg(long, value_name = "ID")]
    row: Vec<String>,
    /// Only calls of rows that were submitted with these keys.
    #[arg(long, value_name = "KEY")]
    row_key: Vec<String>,
    /// Only inbound calls with these ids of the caller's own.
    #[arg(long, value_name = "ID")]
    relation: Vec<String>,
    /// Only calls to these numbers.
    #[arg(long, value_name = "NUMBER")]
    callee: Vec<String>,
    /// Only calls first heard of since then: "10m" ago, or "2026-11-21T08:00:00Z".
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SystemTime>,
    /// Only calls first heard of before then.
    #[arg(long, value_name = "TIME", value_parser = since)]
    until: Option<SystemTime>,
    /// Only calls that have come so far.
    #[arg(long)]
    state: Vec<State>,
    /// Only calls that came out so: customer_hung_up, busy, …
    #[arg(long, value_parser = outcome)]
    outcome: Vec<CallOutcome>,
    /// Only calls that were answered (true) or that were not (false).
    #[arg(long)]
    answered: Option<bool>,
    /// How many calls at most.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    Partial,
    Complete,
    TimedOut,
}

impl From<State> for CallState {
    fn from(state: State) -> Self {
        match state {
            State::Partial => Self::Partial,
            State::Complete => Self::Complete,
            State::TimedOut => Self::TimedOut,
        }
    }
}

/// The largest page that the gateway gives.
const PAGE_SIZE: usize = 1000;

impl ListArgs {
    /// Does it, page by page.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut client = client(&self.unary)?;
        let (json, limit) = (self.unary.json, self.limit);
        let mut request = self.request();
        let mut calls = Vec::new();
        while calls.len() < limit {
            let left = (limit - calls.len()).min(PAGE_SIZE);
            request.page_size = i32::try_from(left)?;
            let page = client.list_calls(request.clone()).await.map_err(refused)?;
            let page = page.into_inner();
            calls.extend(page.calls);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        if json {
            for call in &calls {
                print::out(print::json("Call", call)?)?;
            }
            return Ok(());
        }
        print::lines(show::table(&calls))?;
        if !request.page_token.is_empty() {
            print::out(format_args!(
                "there may be more than these {limit}: see --limit"
            ))?;
        }
        Ok(())
    }

    fn request(self) -> ListCallsRequest {
        let states = self.state.into_iter().map(CallState::from);
        ListCallsRequest {
            task_ids: self.task,
            task_data_ids: self.row,
            row_keys: self.row_key,
            call_relation_ids: self.relation,
            callees: self.callee,
            since: self.since.map(Into::into),
            until: self.until.map(Into::into),
            outcomes: self.outcome.into_iter().map(Into::into).collect(),
            states: states.map(Into::into).collect(),
            answered: self.answered,
            ..ListCallsRequest::default()
        }
    }
}

/// A client that takes calls of any length.
pub fn client(unary: &UnaryArgs) -> anyhow::Result<CallServiceClient<Connection>> {
    Ok(CallServiceClient::new(unary.connect()?).max_decoding_message_size(usize::MAX))
}

fn outcome(text: &str) -> Result<CallOutcome, String> {
    let name = text.replace(['-', ' '], "_").to_uppercase();
    CallOutcome::from_str_name(&format!("CALL_OUTCOME_{name}")).ok_or_else(|| {
        let known = (1..).map_while(|number| CallOutcome::try_from(number).ok());
        let known: Vec<_> = known.map(print::outcome).collect();
        format!("not one of {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_read_as_it_is_printed_and_others_are_told() {
        assert_eq!(outcome("customer_hung_up"), Ok(CallOutcome::CustomerHungUp));
        assert_eq!(outcome("line-fault"), Ok(CallOutcome::LineFault));
        let told = outcome("fine").unwrap_err();
        assert!(told.starts_with("not one of answered, "), "{told}");
        assert!(told.ends_with(", timed_out"), "{told}");
    }
}
