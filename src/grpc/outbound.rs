//! `yeta.v1.OutboundService`.

mod rows;

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding};

use super::{
    auth::Clients,
    deadline,
    door::{Door, LogEnd},
    status,
    validate::{self, Validate},
};
use crate::{
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
    },
    store::Notes,
    submissions::{Submissions, Submit},
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
    clients: Arc<Clients>,
    log_end: LogEnd,
    notes: Arc<dyn Notes>,
    drain: CancellationToken,
) -> OutboundServiceServer<Outbound> {
    let door = Door { platform, clients };
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
        let account = self.door.account(&request, Permission::Outbound)?;
        let is_turbo = request.get_ref().trubo_mode == Some(true);
        let reply: CreateTaskResponse = self.submit(request).await?;
        if is_turbo {
            self.note_turbo(account, &reply.task_id).await;
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
        self.door.pass(request, Permission::Outbound).await?;
        Ok(Response::new(StartTaskResponse { push_cursor }))
    }

    async fn pause_task(
        &self,
        request: Request<PauseTaskRequest>,
    ) -> Result<Response<PauseTaskResponse>, Status> {
        let reply = self.door.pass(request, Permission::Outbound).await?;
        Ok(Response::new(reply))
    }

    async fn delete_task(
        &self,
        request: Request<DeleteTaskRequest>,
    ) -> Result<Response<DeleteTaskResponse>, Status> {
        let reply = self.door.pass(request, Permission::Outbound).await?;
        Ok(Response::new(reply))
    }

    async fn query_tasks(
        &self,
        request: Request<QueryTasksRequest>,
    ) -> Result<Response<QueryTasksResponse>, Status> {
        let reply = self.door.pass(request, Permission::Outbound).await?;
        Ok(Response::new(reply))
    }

    type SubmitRowsStream = rows::Answers;

    async fn submit_rows(
        &self,
        request: Request<Streaming<SubmitRowsRequest>>,
    ) -> Result<Response<rows::Answers>, Status> {
        let account = self.door.account(&request, Permission::Outbound)?;
        let account = account.to_owned();
        let mut rows = request.into_inner();
        let header = rows::header(&mut rows, &self.drain).await?;
        validate::check(&header)?;
        let drain = self.drain.clone();
        let session = self.submissions.upload(&account, header, drain).await?;
        let answers = rows::answers(session, rows);
        Ok(Response::new(answers))
    }

    async fn get_submission(
        &self,
        request: Request<GetSubmissionRequest>,
    ) -> Result<Response<Submission>, Status> {
        let account = self.door.account(&request, Permission::Outbound)?;
        validate::check(request.get_ref())?;
        let request_id = &request.get_ref().request_id;
        let found = self.submissions.get(account, request_id).await?;
        let found = found.ok_or_else(|| status::submission_not_found(request_id))?;
        Ok(Response::new(found))
    }

    async fn settle_submission(
        &self,
        request: Request<SettleSubmissionRequest>,
    ) -> Result<Response<Submission>, Status> {
        self.door.account(&request, Permission::Admin)?;
        Err(Status::unimplemented("not available yet"))
    }

    async fn list_submissions(
        &self,
        request: Request<ListSubmissionsRequest>,
    ) -> Result<Response<ListSubmissionsResponse>, Status> {
        let account = self.door.account(&request, Permission::Outbound)?;
        validate::check(request.get_ref())?;
        let wanted = request.get_ref();
        let page_size = match usize::try_from(wanted.page_size) {
            Ok(0) | Err(_) => 100,
            Ok(page_size) => page_size,
        };
        let (state, page_token) = (wanted.state(), &wanted.page_token);
        let list = self.submissions.list(account, state, page_token, page_size);
        let page = list.await?;
        Ok(Response::new(ListSubmissionsResponse {
            submissions: page.submissions,
            next_page_token: page.next.unwrap_or_default(),
        }))
    }
}

impl Outbound {
    /// Does what is asked for; under a request id, once for all who ask.
    async fn submit<S: Submit + Validate>(&self, request: Request<S>) -> Result<S::Reply, Status> {
        if request.get_ref().request_id().is_empty() {
            let account = self.door.account(&request, Permission::Outbound)?;
            let asked = request.get_ref().without_rows();
            let reply = self.door.pass(request, Permission::Outbound).await?;
            // The answer is not kept back for a disk that hangs.
            let noted = self.submissions.answered::<S>(account, asked, &reply);
            if timeout(NOTE_TIMEOUT, noted).await.is_err() {
                tracing::warn!(account, "the ids that were answered are not noted in time");
            }
            return Ok(reply);
        }
        let deadline = deadline::of(request.metadata());
        let account = self.door.account(&request, Permission::Outbound)?;
        let submit = request.get_ref();
        validate::check(submit)?;
        let submitted = self.submissions.submit(account, submit, deadline);
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
