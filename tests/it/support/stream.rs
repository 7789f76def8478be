//! A subscriber's side of `SubscribePushes`.

use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{
    Position, PushEvent, PushFilter, PushKind, SubscribePushesRequest, SubscribePushesResponse,
};

use super::within;

pub type Pushes = PushServiceClient<Channel>;

/// A client of the gateway at a base URL; connects when first used.
pub fn pushes_client(grpc: &str) -> Pushes {
    let channel = Endpoint::from_shared(grpc.to_owned())
        .unwrap()
        .connect_lazy();
    PushServiceClient::new(channel).max_decoding_message_size(64 << 20)
}

/// From the log's beginning, with raw bytes.
pub fn earliest() -> SubscribePushesRequest {
    SubscribePushesRequest {
        start: Some(Start::Position(Position::Earliest.into())),
        include_raw: true,
        ..SubscribePushesRequest::default()
    }
}

/// What the platform pushed, without the calls that the gateway puts together of it.
pub fn pushed() -> PushFilter {
    let kinds = [
        PushKind::CallRecord,
        PushKind::Voice,
        PushKind::Dialog,
        PushKind::Unrecognized,
    ];
    PushFilter {
        kinds: kinds.map(Into::into).to_vec(),
        ..PushFilter::default()
    }
}

pub fn from_cursor(cursor: &str) -> SubscribePushesRequest {
    SubscribePushesRequest {
        start: Some(Start::Cursor(cursor.to_owned())),
        ..earliest()
    }
}

/// The next message, whichever it is.
pub async fn next_message(
    stream: &mut Streaming<SubscribePushesResponse>,
) -> Result<SubscribePushesResponse, Status> {
    let message = within("a message of the stream", stream.message()).await?;
    Ok(message.expect("a subscriber's stream never ends without a status"))
}

/// The next event; progress before it is passed over.
pub async fn next_event(stream: &mut Streaming<SubscribePushesResponse>) -> PushEvent {
    let event = async {
        loop {
            if let SubscribePushesResponse::Event(event) = next_message(stream).await.unwrap() {
                return *event;
            }
        }
    };
    within("an event of the stream", event).await
}
