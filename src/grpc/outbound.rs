//! `yeta.v1.OutboundService`.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding};

use super::{
    auth::Clients,
    door::{Door, LogEnd},
};
use crate::{
    calls::turbo_note,
    config::Permission,
    platform::Platform,
    proto::{
        CallOutRequest, CallOutResponse, CreateTaskRequest, CreateTaskResponse, DeleteTaskRequest,
        DeleteTaskResponse, GetSubmissionRequest, InsertTaskDataRequest, InsertTaskDataResponse,
        ListSubmissionsRequest, ListSubmissionsResponse, PauseTaskRequest, PauseTaskResponse,
        QueryTasksRequest, QueryTasksResponse, StartTaskRequest, StartTaskResponse, Submission,
        SubmitRowsRequest, SubmitRowsResponse,
        outbound_service_server::{OutboundService, OutboundServiceServer},
    },
    store::Notes,
};

/// The service's implementation.
pub struct Outbound {
    door: Door,
    log_end: LogEnd,
    notes: Arc<dyn Notes>,
}

/// A note that takes longer is not waited for.
const NOTE_TIMEOUT: Duration = Duration::from_secs(1);

/// The service, ready to be served. `log_end` is asked just before each request
/// that sets off pushes; `notes` keep which tasks are in turbo mode.
pub fn outbound_service(
    platform: Arc<Platform>,
    clients: Arc<Clients>,
    log_end: LogEnd,
    notes: Arc<dyn Notes>,
) -> OutboundServiceServer<Outbound> {
    let door = Door { platform, clients };
    let outbound = Outbound {
        door,
        log_end,
        notes,
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
        let reply = self.door.pass(request, Permission::Outbound).await?;
        Ok(Response::new(CallOutResponse {
            push_cursor,
            ..reply
        }))
    }

    async fn create_task(
        &self,
        request: Request<CreateTaskRequest>,
    ) -> Result<Response<CreateTaskResponse>, Status> {
        let account = self.door.account(&request, Permission::Outbound)?;
        let is_turbo = request.get_ref().trubo_mode == Some(true);
        let reply: CreateTaskResponse = self.door.pass(request, Permission::Outbound).await?;
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
        let reply = self.door.pass(request, Permission::Outbound).await?;
        Ok(Response::new(InsertTaskDataResponse {
            push_cursor,
            ..reply
        }))
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

    type SubmitRowsStream = Pin<Box<dyn Stream<Item = Result<SubmitRowsResponse, Status>> + Send>>;

    async fn submit_rows(
        &self,
        _: Request<Streaming<SubmitRowsRequest>>,
    ) -> Result<Response<Self::SubmitRowsStream>, Status> {
        Err(Status::unimplemented("to come"))
    }

    async fn get_submission(
        &self,
        _: Request<GetSubmissionRequest>,
    ) -> Result<Response<Submission>, Status> {
        Err(Status::unimplemented("to come"))
    }

    async fn list_submissions(
        &self,
        _: Request<ListSubmissionsRequest>,
    ) -> Result<Response<ListSubmissionsResponse>, Status> {
        Err(Status::unimplemented("to come"))
    }
}

impl Outbound {
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
