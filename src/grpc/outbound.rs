//! `yeta.v1.OutboundService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, codec::CompressionEncoding};

use super::{
    auth::Clients,
    door::{Door, LogEnd},
};
use crate::{
    config::Permission,
    platform::Platform,
    proto::{
        CallOutRequest, CallOutResponse, CreateTaskRequest, CreateTaskResponse, DeleteTaskRequest,
        DeleteTaskResponse, InsertTaskDataRequest, InsertTaskDataResponse, PauseTaskRequest,
        PauseTaskResponse, QueryTasksRequest, QueryTasksResponse, StartTaskRequest,
        StartTaskResponse,
        outbound_service_server::{OutboundService, OutboundServiceServer},
    },
};

/// The service's implementation.
pub struct Outbound {
    door: Door,
    log_end: LogEnd,
}

/// The service, ready to be served. `log_end` is asked just before each request
/// that sets off pushes.
pub fn outbound_service(
    platform: Arc<Platform>,
    clients: Arc<Clients>,
    log_end: LogEnd,
) -> OutboundServiceServer<Outbound> {
    let door = Door { platform, clients };
    OutboundServiceServer::new(Outbound { door, log_end })
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
        let reply = self.door.pass(request, Permission::Outbound).await?;
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
}
