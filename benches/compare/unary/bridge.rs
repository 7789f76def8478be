//! What a team would write by hand: the request as JSON, one POST, the answer back.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use yeta_gateway::proto::outbound_service_server::{OutboundService, OutboundServiceServer};
use yeta_gateway::proto::{
    CallOutRequest, CallOutResponse, CreateTaskRequest, CreateTaskResponse, DeleteTaskRequest,
    DeleteTaskResponse, GetSubmissionRequest, InsertTaskDataRequest, InsertTaskDataResponse,
    ListSubmissionsRequest, ListSubmissionsResponse, PauseTaskRequest, PauseTaskResponse,
    QueryTasksRequest, QueryTasksResponse, SettleSubmissionRequest, StartTaskRequest,
    StartTaskResponse, Submission, SubmitRowsRequest, SubmitRowsResponse,
};

use crate::measure::server_runtime;

pub struct Bridge {
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl Bridge {
    pub fn start(platform: SocketAddr) -> anyhow::Result<Self> {
        let runtime = server_runtime("bare-bridge")?;
        let (listener, outbound) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            anyhow::Ok((listener, Outbound::new(platform).await?))
        })?;
        let address = listener.local_addr()?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder().add_service(OutboundServiceServer::new(outbound));
        runtime.spawn(server.serve_with_incoming(incoming));
        Ok(Self {
            address,
            _runtime: runtime,
        })
    }
}

struct Outbound {
    client: reqwest::Client,
    base_url: String,
    token: String,
}

#[derive(Deserialize)]
struct Answer<R> {
    code: i64,
    message: String,
    result: R,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
struct CalledOut {
    total: i32,
    task_data_ids: Vec<i64>,
}

#[derive(Serialize)]
struct Body<'a> {
    line_num: &'a str,
    robot_id: &'a str,
    call_column: &'a [String],
    call_list: Vec<&'a [String]>,
    voice_code: &'a str,
}

impl Outbound {
    async fn new(platform: SocketAddr) -> anyhow::Result<Self> {
        let mut outbound = Self {
            client: reqwest::Client::new(),
            base_url: format!("http://{platform}/openapi"),
            token: String::new(),
        };
        let credentials = br#"{"app_key":"key","app_secret":"secret"}"#.to_vec();
        let answer: Answer<Token> = outbound.post("/oauth/v1/token", credentials).await?;
        outbound.token = answer.result.token;
        Ok(outbound)
    }

    async fn post<R: for<'a> Deserialize<'a>>(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer<R>> {
        let answer = self
            .client
            .post(format!("{}{path}?token={}", self.base_url, self.token))
            .header("content-type", "application/json;charset=UTF-8")
            .body(body)
            .send()
            .await?
            .bytes()
            .await?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

#[tonic::async_trait]
impl OutboundService for Outbound {
    async fn call_out(
        &self,
        request: Request<CallOutRequest>,
    ) -> Result<Response<CallOutResponse>, Status> {
        let request = request.get_ref();
        let rows = request.call_list.iter().map(|row| row.values.as_slice());
        let body = Body {
            line_num: &request.line_num,
            robot_id: &request.robot_id,
            call_column: &request.call_column,
            call_list: rows.collect(),
            voice_code: &request.voice_code,
        };
        let internal = |error: anyhow::Error| Status::internal(error.to_string());
        let body = serde_json::to_vec(&body).map_err(|error| internal(error.into()))?;
        let answer: Answer<CalledOut> = self
            .post("/outbound/v1/task/callout", body)
            .await
            .map_err(internal)?;
        if answer.code != 0 {
            return Err(Status::unknown(answer.message));
        }
        let ids = answer.result.task_data_ids.iter();
        Ok(Response::new(CallOutResponse {
            total: Some(answer.result.total),
            task_data_ids: ids.map(ToString::to_string).collect(),
            push_cursor: String::new(),
        }))
    }

    async fn create_task(
        &self,
        _: Request<CreateTaskRequest>,
    ) -> Result<Response<CreateTaskResponse>, Status> {
        Err(elsewhere())
    }

    async fn insert_task_data(
        &self,
        _: Request<InsertTaskDataRequest>,
    ) -> Result<Response<InsertTaskDataResponse>, Status> {
        Err(elsewhere())
    }

    async fn start_task(
        &self,
        _: Request<StartTaskRequest>,
    ) -> Result<Response<StartTaskResponse>, Status> {
        Err(elsewhere())
    }

    async fn pause_task(
        &self,
        _: Request<PauseTaskRequest>,
    ) -> Result<Response<PauseTaskResponse>, Status> {
        Err(elsewhere())
    }

    async fn delete_task(
        &self,
        _: Request<DeleteTaskRequest>,
    ) -> Result<Response<DeleteTaskResponse>, Status> {
        Err(elsewhere())
    }

    type SubmitRowsStream = futures_util::stream::Empty<Result<SubmitRowsResponse, Status>>;

    async fn submit_rows(
        &self,
        _: Request<Streaming<SubmitRowsRequest>>,
    ) -> Result<Response<Self::SubmitRowsStream>, Status> {
        Err(elsewhere())
    }

    async fn get_submission(
        &self,
        _: Request<GetSubmissionRequest>,
    ) -> Result<Response<Submission>, Status> {
        Err(elsewhere())
    }

    async fn list_submissions(
        &self,
        _: Request<ListSubmissionsRequest>,
    ) -> Result<Response<ListSubmissionsResponse>, Status> {
        Err(elsewhere())
    }

    async fn settle_submission(
        &self,
        _: Request<SettleSubmissionRequest>,
    ) -> Result<Response<Submission>, Status> {
        Err(elsewhere())
    }

    async fn query_tasks(
        &self,
        _: Request<QueryTasksRequest>,
    ) -> Result<Response<QueryTasksResponse>, Status> {
        Err(elsewhere())
    }
}

fn elsewhere() -> Status {
    Status::unimplemented("not what is measured here")
}
