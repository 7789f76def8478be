//! `yeta.v1.CallService`.

mod watch;

use std::collections::{BTreeSet, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codec::CompressionEncoding};

use self::watch::Watch;
use super::admission::admitted;
use super::auth::Caller;
use super::push::page_size;
use super::start::system_time;
use super::validate::{self, Validate, Violations};
use super::{deadline, status};
use crate::audit::Details;
use crate::calls::{CallQuery, Calls};
use crate::proto::call_service_server::{CallService, CallServiceServer};
use crate::proto::{
    Call, CallOutcome, CallState, GetCallRequest, GetCallResponse, ListCallsRequest,
    ListCallsResponse, ListOverdueRequest, ListOverdueResponse, OverdueReason, PushFilter,
    PushKind, RowAttempt, WatchCallsRequest, WatchCallsResponse,
};
use crate::reconciliation::{OverdueQuery, Reconciliation};
use crate::relay::metrics::RelayMetrics;
use crate::relay::{self, Reader, Start};
use crate::store::{Filter, PushLog};

/// The service's implementation.
pub struct CallFront {
    calls: Arc<Calls>,
    reconciliation: Arc<Reconciliation>,
    log: Arc<dyn PushLog>,
    drain: CancellationToken,
    metrics: RelayMetrics,
}

/// The service, ready to be served. Its streams end when `drain` is cancelled.
pub fn call_service(
    calls: Arc<Calls>,
    reconciliation: Arc<Reconciliation>,
    log: Arc<dyn PushLog>,
    drain: CancellationToken,
    metrics: RelayMetrics,
) -> CallServiceServer<CallFront> {
    CallServiceServer::new(CallFront {
        calls,
        reconciliation,
        log,
        drain,
        metrics,
    })
    .accept_compressed(CompressionEncoding::Gzip)
    .accept_compressed(CompressionEncoding::Zstd)
    .send_compressed(CompressionEncoding::Gzip)
    .send_compressed(CompressionEncoding::Zstd)
}

/// So many values may be asked for of each field: each is a list of its own to be read.
const MAX_VALUES: usize = 1000;
/// So many rows are watched at most by one stream.
const MAX_ROWS: usize = 10_000;

type Watched = Pin<Box<dyn Stream<Item = Result<WatchCallsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl CallService for CallFront {
    type WatchCallsStream = Watched;

    async fn get_call(
        &self,
        request: Request<GetCallRequest>,
    ) -> Result<Response<GetCallResponse>, Status> {
        let (_, accounts) = admit(&request)?;
        let details = Details::of(&request);
        let call_uuid = request.into_inner().call_uuid;
        details.object(&call_uuid);
        let end = *self.log.end().borrow();
        let mut call = self.calls.get(accounts.as_ref(), &call_uuid).await?;
        if call.is_none() {
            self.calls.soon_applied(end).await;
            call = self.calls.get(accounts.as_ref(), &call_uuid).await?;
        }
        let call = call.ok_or_else(|| status::call_not_found(&call_uuid))?;
        let row = if call.task_data_id.is_empty() {
            Vec::new()
        } else {
            self.calls.row(&call.account, &call.task_data_id).await?
        };
        Ok(Response::new(GetCallResponse {
            call: Some(call),
            row_attempts: row.into_iter().map(attempt).collect(),
        }))
    }

    async fn list_calls(
        &self,
        request: Request<ListCallsRequest>,
    ) -> Result<Response<ListCallsResponse>, Status> {
        let (_, accounts) = admit(&request)?;
        let page = self
            .calls
            .list(query(request.into_inner(), accounts))
            .await?;
        Ok(Response::new(ListCallsResponse {
            calls: Vec::new(),
            encoded: page.calls,
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn watch_calls(
        &self,
        request: Request<WatchCallsRequest>,
    ) -> Result<Response<Watched>, Status> {
        let (caller, accounts) = admit(&request)?;
        let deadline = deadline::of(request.metadata());
        let request = request.into_inner();
        let has_cursor = !request.push_cursor.is_empty();
        let position = if has_cursor {
            let start = Start::Cursor(request.push_cursor);
            let position = relay::resolve(&self.log, &start).await;
            position.map_err(|error| status::of_relay(&error, |at| self.log.cursor(at)))?
        } else {
            // Found before the calls are looked at: what is not among them yet comes behind it.
            let applied = self.calls.applied().await?.unwrap_or_default();
            applied.clamp(self.log.earliest(), *self.log.end().borrow())
        };
        let rows: HashSet<String> = request.task_data_ids.into_iter().collect();
        tracing::info!(
            client = caller.name(),
            rows = rows.len(),
            "calls are watched"
        );
        let reader = Reader::new(
            self.log.clone(),
            position,
            filter(&rows, accounts.clone()),
            self.drain.clone(),
            self.metrics.clone(),
        );
        let watch = Watch::new(reader, self.log.clone(), rows, deadline);
        let watch = if has_cursor {
            watch
        } else {
            watch.with_past(self.calls.clone(), accounts)
        };
        Ok(Response::new(watch.into_stream()))
    }

    async fn list_overdue(
        &self,
        request: Request<ListOverdueRequest>,
    ) -> Result<Response<ListOverdueResponse>, Status> {
        let (_, accounts) = admit(&request)?;
        let request = request.into_inner();
        let query = OverdueQuery {
            accounts,
            reasons: request.reasons().collect(),
            task_ids: request.task_ids.into_iter().collect(),
            size: page_size(request.page_size),
            page_token: request.page_token,
        };
        let page = self.reconciliation.list(&query).await?;
        let days = page
            .days
            .map(|(from, to)| (from.to_string(), to.to_string()));
        let (backfill_from_date, backfill_to_date) = days.unwrap_or_default();
        Ok(Response::new(ListOverdueResponse {
            rows: page.rows,
            next_page_token: page.next.unwrap_or_default(),
            backfill_from_date,
            backfill_to_date,
        }))
    }
}

/// The caller of a valid request, with the accounts that it is shown; `None`: all.
fn admit<R: Validate>(request: &Request<R>) -> Result<(Caller, Option<BTreeSet<String>>), Status> {
    let admitted = admitted(request)?;
    validate::check(request.get_ref())?;
    Ok((admitted.caller.clone(), admitted.visible()))
}

/// Which events bring the calls of these rows.
fn filter(rows: &HashSet<String>, accounts: Option<BTreeSet<String>>) -> Filter {
    let wanted = PushFilter {
        kinds: vec![PushKind::Call.into()],
        task_data_ids: rows.iter().cloned().collect(),
        ..PushFilter::default()
    };
    Filter::new(wanted, accounts.map(Vec::from_iter))
}

fn query(request: ListCallsRequest, accounts: Option<BTreeSet<String>>) -> CallQuery {
    CallQuery {
        accounts,
        since: request.since.map(system_time),
        until: request.until.map(system_time),
        outcomes: request.outcomes().collect(),
        states: request.states().collect(),
        size: page_size(request.page_size),
        task_ids: request.task_ids,
        task_data_ids: request.task_data_ids,
        row_keys: request.row_keys,
        call_relation_ids: request.call_relation_ids,
        callees: request.callees,
        answered: request.answered,
        page_token: request.page_token,
    }
}

fn attempt(call: Call) -> RowAttempt {
    RowAttempt {
        attempt: call.attempt,
        state: call.state,
        answered: call.answered,
        outcome: call.outcome,
        time_dial: call.call_record.and_then(|record| record.time_dial),
        call_uuid: call.call_uuid,
    }
}

impl Validate for GetCallRequest {
    fn validate(&self, violations: &mut Violations) {
        if self.call_uuid.is_empty() {
            violations.add("call_uuid", "is required");
        }
    }
}

impl Validate for ListCallsRequest {
    fn validate(&self, violations: &mut Violations) {
        violations.page_size(self.page_size);
        for (field, values) in [
            ("task_ids", &self.task_ids),
            ("task_data_ids", &self.task_data_ids),
            ("row_keys", &self.row_keys),
            ("call_relation_ids", &self.call_relation_ids),
            ("callees", &self.callees),
        ] {
            violations.at_most(field, values, MAX_VALUES);
        }
        if !violations.few("outcomes", &self.outcomes) || !violations.few("states", &self.states) {
            return;
        }
        for (index, &outcome) in self.outcomes.iter().enumerate() {
            if CallOutcome::try_from(outcome).is_err() {
                let fault = format!("{outcome} is no CallOutcome");
                violations.add(format!("outcomes[{index}]"), fault);
            }
        }
        for (index, &state) in self.states.iter().enumerate() {
            if matches!(
                CallState::try_from(state),
                Ok(CallState::Unspecified) | Err(_)
            ) {
                let fault = format!("{state} names no CallState");
                violations.add(format!("states[{index}]"), fault);
            }
        }
    }
}

impl Validate for ListOverdueRequest {
    fn validate(&self, violations: &mut Violations) {
        violations.page_size(self.page_size);
        violations.at_most("task_ids", &self.task_ids, MAX_VALUES);
        if !violations.few("reasons", &self.reasons) {
            return;
        }
        for (index, &reason) in self.reasons.iter().enumerate() {
            if matches!(
                OverdueReason::try_from(reason),
                Ok(OverdueReason::Unspecified) | Err(_)
            ) {
                let fault = format!("{reason} names no OverdueReason");
                violations.add(format!("reasons[{index}]"), fault);
            }
        }
    }
}

impl Validate for WatchCallsRequest {
    fn validate(&self, violations: &mut Violations) {
        match self.task_data_ids.len() {
            0 => violations.add("task_data_ids", "is required"),
            1..=MAX_ROWS => {}
            many => {
                let fault = format!("has {many} ids, more than {MAX_ROWS}");
                return violations.add("task_data_ids", fault);
            }
        }
        for (index, id) in self.task_data_ids.iter().enumerate() {
            if id.is_empty() {
                violations.add(format!("task_data_ids[{index}]"), "is empty");
            }
        }
    }
}
