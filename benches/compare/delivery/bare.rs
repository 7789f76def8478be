//! The least that a tonic server can do: one ready message from memory, again and again.

use std::iter::RepeatN;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream::{self, Empty, Iter};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use yeta_gateway::proto::push_service_server::{PushService, PushServiceServer};
use yeta_gateway::proto::{
    AckPushesRequest, AckPushesResponse, BackfillFileRequest, BackfillFileResponse,
    BackfillPushesRequest, BackfillPushesResponse, EncodedEvent, ExtendAckDeadlineRequest,
    ExtendAckDeadlineResponse, ListFailedPushFilesRequest, ListFailedPushFilesResponse,
    ListPushesRequest, ListPushesResponse, NackPushesRequest, NackPushesResponse,
    SubscribePushesRequest, SubscribePushesResponse,
};

use crate::measure::server_runtime;

pub struct BareStream {
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl BareStream {
    /// Sends `event`, encoded already, so many times to whoever subscribes.
    pub fn start(event: Bytes, times: u64) -> anyhow::Result<Self> {
        let runtime = server_runtime("bare-stream")?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let pushes = Pushes {
            event,
            times: usize::try_from(times)?,
        };
        let server = Server::builder().add_service(PushServiceServer::new(pushes));
        runtime.spawn(server.serve_with_incoming(incoming));
        Ok(Self {
            address,
            _runtime: runtime,
        })
    }
}

struct Pushes {
    event: Bytes,
    times: usize,
}

type Message = Result<SubscribePushesResponse, Status>;

#[tonic::async_trait]
impl PushService for Pushes {
    type SubscribePushesStream = Iter<RepeatN<Message>>;

    async fn subscribe_pushes(
        &self,
        _: Request<SubscribePushesRequest>,
    ) -> Result<Response<Self::SubscribePushesStream>, Status> {
        let message = SubscribePushesResponse::Encoded(EncodedEvent {
            event: self.event.clone(),
            raw_json: None,
            delivery: None,
        });
        let messages = std::iter::repeat_n(Ok(message), self.times);
        Ok(Response::new(stream::iter(messages)))
    }

    async fn list_pushes(
        &self,
        _: Request<ListPushesRequest>,
    ) -> Result<Response<ListPushesResponse>, Status> {
        Err(Status::unimplemented("not what is measured here"))
    }

    async fn ack_pushes(
        &self,
        _: Request<AckPushesRequest>,
    ) -> Result<Response<AckPushesResponse>, Status> {
        Err(Status::unimplemented("not what is measured here"))
    }

    async fn nack_pushes(
        &self,
        _: Request<NackPushesRequest>,
    ) -> Result<Response<NackPushesResponse>, Status> {
        Err(Status::unimplemented("not what is measured here"))
    }

    async fn extend_ack_deadline(
        &self,
        _: Request<ExtendAckDeadlineRequest>,
    ) -> Result<Response<ExtendAckDeadlineResponse>, Status> {
        Err(Status::unimplemented("not what is measured here"))
    }

    async fn list_failed_push_files(
        &self,
        _: Request<ListFailedPushFilesRequest>,
    ) -> Result<Response<ListFailedPushFilesResponse>, Status> {
        Err(Status::unimplemented("not what is measured here"))
    }

    type BackfillPushesStream = Empty<Result<BackfillPushesResponse, Status>>;

    async fn backfill_pushes(
        &self,
        _: Request<BackfillPushesRequest>,
    ) -> Result<Response<Self::BackfillPushesStream>, Status> {
        Err(Status::unimplemented("not what is measured here"))
    }

    type BackfillFileStream = Empty<Result<BackfillFileResponse, Status>>;

    async fn backfill_file(
        &self,
        _: Request<Streaming<BackfillFileRequest>>,
    ) -> Result<Response<Self::BackfillFileStream>, Status> {
        Err(Status::unimplemented("not what is measured here"))
    }
}
