//! `yeta.v1.OutboundService`.

mod rows;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding};

use super::{
    admission::admitted,
    auth::Caller,
    deadline,
    door::{Door, LogEnd},
    status,
    validate::{self, Validate},
};
use crate::{
    audit::Details,
    calls::turbo_note,
    config::Permission,
    platform::Platform,
    proto::{
        CallOutRequest, CallOutResponse, CreateTaskRequest, CreateTaskResponse, DeleteTaskRequest,
        DeleteTaskResponse, GetSubmissionRequest, InsertTaskDataRequest, InsertTaskDataResponse,
        ListSubmissionsRequest, ListSubmissionsResponse, PauseTaskRequest, PauseTaskResponse,
        QueryTasksRequest, QueryTasksResponse, SettleSubmissionRequest, StartTaskRequest,
        StartTaskResponse, Submission, SubmitRowsRequest,
        outbound_service_server::{OutboundService, OutboundServiceServer},
        settle_submission_request::{Outcome as Settled, Which},
    },
    store::Notes,
    submissions::{self, Query, Submissions, Submit},
};

/// The service's implementation.
pub struct Outbound {
    door: Door,
    submissions: Arc<Submissions>,
    log_end: LogEnd,
    notes: Arc<dyn Notes>,
    drain: CancellationToken,
}

/// A note that takes longer is not waited for.
const NOTE_TIMEOUT: Duration = Duration::from_secs(1);

/// The service, ready to be served. `log_end` is asked just before each request
/// that sets off pushes; `notes` keep which tasks are in turbo mode; uploads end
/// when `drain` is cancelled.
pub fn outbound_service(
    platform: Arc<Platform>,
    submissions: Arc<Submissions>,
    log_end: LogEnd,
    notes: Arc<dyn Notes>,
    drain: CancellationToken,
) -> OutboundServiceServer<Outbound> {
    let door = Door { platform };
    let outbound = Outbound {
        door,
        submissions,
        log_end,
        notes,
        drain,
    };
    OutboundServiceServer::new(outbound)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd)
}

#[tonic::async_trait]
impl OutboundService for Outbound {
    async fn call_out(
        &self,
        request: Request<CallOutRequest>,
    ) -> Result<Response<CallOutResponse>, Status> {
        let push_cursor = (self.log_end)();
        let mut reply = self.submit(request).await?;
        if reply.push_cursor.is_empty() {
            reply.push_cursor = push_cursor;
        }
        Ok(Response::new(reply))
    }

    async fn create_task(
        &self,
        request: Request<CreateTaskRequest>,
    ) -> Result<Response<CreateTaskResponse>, Status> {
        let account = admitted(&request)?.account()?.to_owned();
        let is_turbo = request.get_ref().trubo_mode == Some(true);
        let reply: CreateTaskResponse = self.submit(request).await?;
        if is_turbo {
            self.note_turbo(&account, &reply.task_id).await;
        }
        Ok(Response::new(reply))
    }

    async fn insert_task_data(
        &self,
        request: Request<InsertTaskDataRequest>,
    ) -> Result<Response<InsertTaskDataResponse>, Status> {
        let push_cursor = (self.log_end)();
        let mut reply = self.submit(request).await?;
        if reply.push_cursor.is_empty() {
            reply.push_cursor = push_cursor;
        }
        Ok(Response::new(reply))
    }

    async fn start_task(
        &self,
        request: Request<StartTaskRequest>,
    ) -> Result<Response<StartTaskResponse>, Status> {
        let push_cursor = (self.log_end)();
        self.door.pass(request).await?;
        Ok(Response::new(StartTaskResponse { push_cursor }))
    }

    async fn pause_task(
        &self,
        request: Request<PauseTaskRequest>,
    ) -> Result<Response<PauseTaskResponse>, Status> {
        let reply = self.door.pass(request).await?;
        Ok(Response::new(reply))
    }

    async fn delete_task(
        &self,
        request: Request<DeleteTaskRequest>,
    ) -> Result<Response<DeleteTaskResponse>, Status> {
        let reply = self.door.pass(request).await?;
        Ok(Response::new(reply))
    }

    async fn query_tasks(
        &self,
        request: Request<QueryTasksRequest>,
    ) -> Result<Response<QueryTasksResponse>, Status> {
        let reply = self.door.pass(request).await?;
        Ok(Response::new(reply))
    }

    type SubmitRowsStream = rows::Answers;

    async fn submit_rows(
        &self,
        request: Request<Streaming<SubmitRowsRequest>>,
    ) -> Result<Response<rows::Answers>, Status> {
        let admitted = admitted(&request)?.clone();
        let caller = submitter(&admitted.caller, admitted.account()?);
        let details = Details::of(&request);
        let mut rows = request.into_inner();
        let header = rows::header(&mut rows, &self.drain).await?;
        details.upload_id(&header.upload_id);
        validate::check(&header)?;
        let count = rows::Count::new(&admitted.caller, details);
        let drain = self.drain.clone();
        let session = self.submissions.upload(caller, header, drain).await?;
        Ok(Response::new(rows::answers(session, rows, count)))
    }

    async fn get_submission(
        &self,
        request: Request<GetSubmissionRequest>,
    ) -> Result<Response<Submission>, Status> {
        let admitted = admitted(&request)?;
        let (caller, account) = (&admitted.caller, admitted.account()?);
        let wanted = request.get_ref();
        Details::of(&request).request_id(&wanted.request_id);
        validate::check(wanted)?;
        let client = whose(caller, &wanted.client)?.unwrap_or(caller.scope());
        let of = submitter(caller, account).of(client);
        let mut found = self.submissions.get(of, &wanted.request_id).await?;
        if found.is_none() && wanted.client.is_empty() && caller.may(Permission::Admin) {
            let any = self.submissions.get_any(account, &wanted.request_id);
            found = any.await?;
        }
        let found = found.ok_or_else(|| status::submission_not_found(&wanted.request_id))?;
        Ok(Response::new(found))
    }

    async fn settle_submission(
        &self,
        request: Request<SettleSubmissionRequest>,
    ) -> Result<Response<Submission>, Status> {
        let admitted = admitted(&request)?;
        let (caller, account) = (&admitted.caller, admitted.account()?);
        let settle = request.get_ref();
        validate::check(settle)?;
        audit_settlement(&Details::of(&request), settle);
        let settled = self.submissions.settle(account, caller.scope(), settle);
        Ok(Response::new(settled.await?))
    }

    async fn list_submissions(
        &self,
        request: Request<ListSubmissionsRequest>,
    ) -> Result<Response<ListSubmissionsResponse>, Status> {
        let admitted = admitted(&request)?;
        let (caller, account) = (&admitted.caller, admitted.account()?);
        let wanted = request.get_ref();
        validate::check(wanted)?;
        let page_size = match usize::try_from(wanted.page_size) {
            Ok(0) | Err(_) => 100,
            Ok(page_size) => page_size,
        };
        let own = (!caller.may(Permission::Admin)).then_some(caller.scope());
        let query = Query {
            account,
            client: whose(caller, &wanted.client)?.or(own),
            state: wanted.state(),
            page_token: &wanted.page_token,
            page_size,
        };
        let page = self.submissions.list(query).await?;
        Ok(Response::new(ListSubmissionsResponse {
            submissions: page.submissions,
            next_page_token: page.next.unwrap_or_default(),
        }))
    }
}

/// Who submits, in the words of the submissions.
fn submitter<'a>(caller: &'a Caller, account: &'a str) -> submissions::Caller<'a> {
    submissions::Caller {
        account,
        client: caller.scope(),
    }
}

/// The client that a request names, if the caller may see what it has submitted.
fn whose<'a>(caller: &Caller, named: &'a str) -> Result<Option<&'a str>, Status> {
    if named.is_empty() {
        return Ok(None);
    }
    if named != caller.scope() {
        caller.require(&[Permission::Admin])?;
    }
    Ok(Some(named))
}

/// Notes what a person settles, and how they know, for the audit log.
fn audit_settlement(details: &Details, settle: &SettleSubmissionRequest) {
    match &settle.which {
        Some(Which::RequestId(id)) => details.request_id(id),
        Some(Which::UploadRow(row)) => details.upload_id(&row.upload_id),
        None => details,
    };
    let outcome = match &settle.outcome {
        Some(Settled::Accepted(_)) => "accepted",
        Some(Settled::NotSent(_)) | None => "not_sent",
    };
    details.settled(outcome, &settle.reason);
}

impl Outbound {
    /// Does what is asked for; under a request id, once for all who ask.
    async fn submit<S: Submit + Validate>(&self, request: Request<S>) -> Result<S::Reply, Status> {
        let deadline = deadline::of(request.metadata());
        let admitted = admitted(&request)?;
        let submit = request.get_ref();
        validate::check(submit)?;
        let details = Details::of(&request);
        details.request_id(submit.request_id());
        details.object(&submit.named().task_id).rows(submit.rows());
        let bound = admitted.caller.bounds().max_rows_per_day;
        let rows = u64::try_from(submit.rows()).unwrap_or(u64::MAX);
        admitted
            .caller
            .usage()
            .rows(bound, rows, SystemTime::now())?;
        let caller = submitter(&admitted.caller, admitted.account()?);
        let submitted = self.submissions.submit(caller, submit, deadline);
        Ok(submitted.await?)
    }

    /// Remembers that the calls of a task have no recording. Without the note they are taken to be
    /// complete once they have waited for one in vain; that is no reason to hide the task.
    async fn note_turbo(&self, account: &str, task_id: &str) {
        let key = turbo_note(account, task_id);
        let fault = match timeout(NOTE_TIMEOUT, self.notes.put(&key, Vec::new())).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "that takes too long".to_owned(),
        };
        tracing::warn!(
            account,
            task_id,
            fault,
            "not noted that a task is in turbo mode"
        );
    }
}
