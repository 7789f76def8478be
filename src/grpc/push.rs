//! `yeta.v1.PushService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, codec::CompressionEncoding};

use super::auth::{Caller, Clients};
use super::status;
use super::validate::{self, Violations};
use crate::config::Permission;
use crate::proto::push_service_server::{PushService, PushServiceServer};
use crate::proto::{
    AckPushesRequest, AckPushesResponse, EncodedEvent, ExtendAckDeadlineRequest,
    ExtendAckDeadlineResponse, ListPushesRequest, ListPushesResponse, NackPushesRequest,
    NackPushesResponse, Position, PushEvent, PushFilter, SubscribeProgress, SubscribePushesRequest,
    SubscribePushesResponse, list_pushes_request, subscribe_pushes_request,
};
use crate::relay::metrics::RelayMetrics;
use crate::relay::{self, PageQuery, Reader, Start, Step};
use crate::store::{Entry, Filter, PushLog};

/// The service's implementation.
pub struct Pushes {
    log: Arc<dyn PushLog>,
    clients: Arc<Clients>,
    drain: CancellationToken,
    metrics: RelayMetrics,
}

/// The service, ready to be served. Its streams end when `drain` is cancelled.
pub fn push_service(
    log: Arc<dyn PushLog>,
    clients: Arc<Clients>,
    drain: CancellationToken,
    metrics: RelayMetrics,
) -> PushServiceServer<Pushes> {
    PushServiceServer::new(Pushes {
        log,
        clients,
        drain,
        metrics,
    })
    .accept_compressed(CompressionEncoding::Gzip)
    .accept_compressed(CompressionEncoding::Zstd)
    .send_compressed(CompressionEncoding::Gzip)
    .send_compressed(CompressionEncoding::Zstd)
}

type Frame = SubscribePushesResponse;
type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

/// A page holds so many events unless it is told otherwise.
const PAGE_SIZE: usize = 100;

#[tonic::async_trait]
impl PushService for Pushes {
    type SubscribePushesStream = Frames;

    async fn subscribe_pushes(
        &self,
        request: Request<SubscribePushesRequest>,
    ) -> Result<Response<Frames>, Status> {
        let (caller, filter) = self.admit(&request, request.get_ref().filter.as_ref())?;
        let request = request.into_inner();
        let start = subscribe_start(request.start);
        let position = relay::resolve(&self.log, &start).await;
        let position = position.map_err(|error| self.status(&error))?;
        tracing::info!(client = caller.name(), ?start, "a subscriber has come");
        let reader = Reader::new(
            self.log.clone(),
            position,
            filter,
            self.drain.clone(),
            self.metrics.clone(),
        );
        Ok(Response::new(frames(
            reader,
            self.log.clone(),
            request.include_raw,
        )))
    }

    async fn list_pushes(
        &self,
        request: Request<ListPushesRequest>,
    ) -> Result<Response<ListPushesResponse>, Status> {
        let (_, filter) = self.admit(&request, request.get_ref().filter.as_ref())?;
        let request = request.into_inner();
        let until = request.until.map(system_time);
        let size = usize::try_from(request.page_size)
            .ok()
            .filter(|size| *size > 0);
        let start = list_start(request.start, request.page_token);
        let after = relay::resolve(&self.log, &start).await;
        let query = PageQuery {
            after: after.map_err(|error| self.status(&error))?,
            until,
            filter,
            size: size.unwrap_or(PAGE_SIZE),
        };
        let page = relay::list(&self.log, &query)
            .await
            .map_err(|error| self.status(&error))?;
        let events = page
            .entries
            .iter()
            .filter_map(|entry| event(entry, request.include_raw));
        Ok(Response::new(ListPushesResponse {
            events: events.collect(),
            next_page_token: page
                .next
                .map(|cursor| cursor.to_string())
                .unwrap_or_default(),
        }))
    }

    async fn ack_pushes(
        &self,
        _: Request<AckPushesRequest>,
    ) -> Result<Response<AckPushesResponse>, Status> {
        Err(Status::unimplemented("not served yet"))
    }

    async fn nack_pushes(
        &self,
        _: Request<NackPushesRequest>,
    ) -> Result<Response<NackPushesResponse>, Status> {
        Err(Status::unimplemented("not served yet"))
    }

    async fn extend_ack_deadline(
        &self,
        _: Request<ExtendAckDeadlineRequest>,
    ) -> Result<Response<ExtendAckDeadlineResponse>, Status> {
        Err(Status::unimplemented("not served yet"))
    }
}

impl Pushes {
    fn status(&self, error: &relay::RelayError) -> Status {
        status::of_relay(error, |position| self.log.cursor(position))
    }

    /// Lets a reader in whose request is valid, with a filter that holds it to its accounts.
    fn admit<R: validate::Validate>(
        &self,
        request: &Request<R>,
        filter: Option<&PushFilter>,
    ) -> Result<(Caller, Filter), Status> {
        let metadata = request.metadata();
        let caller = self.clients.authorize(metadata, Permission::Subscribe)?;
        let visible = self.visible(&caller, metadata, filter)?;
        validate::check(request.get_ref())?;
        let filter = Filter::new(filter.cloned().unwrap_or_default(), visible);
        Ok((caller, filter))
    }

    /// The accounts that a reader is held to; `None`: all. Naming one that is not the caller's is
    /// refused, instead of a stream that stays empty for a reason nobody sees.
    fn visible(
        &self,
        caller: &Caller,
        metadata: &MetadataMap,
        filter: Option<&PushFilter>,
    ) -> Result<Option<Vec<String>>, Status> {
        for account in filter.iter().flat_map(|filter| &filter.accounts) {
            self.clients.check(caller, account)?;
        }
        if let Some(account) = self.clients.named_account(caller, metadata)? {
            return Ok(Some(vec![account.to_owned()]));
        }
        Ok(caller.accounts())
    }
}

/// The stream of a reader; ends with word of how far it came when the gateway drains.
fn frames(reader: Reader, log: Arc<dyn PushLog>, include_raw: bool) -> Frames {
    let steps = stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        match reader.next().await {
            Ok(step) => Some((Ok(step), Some(reader))),
            Err(error) => Some((Err((error, reader.cursor())), None)),
        }
    });
    let frames = steps.flat_map(move |step| {
        let (events, word, end) = match step {
            Ok(Step::Events(events)) => (events, None, None),
            Ok(Step::Progress { cursor, caught_up }) => {
                (Vec::new(), Some(progress(&cursor, caught_up)), None)
            }
            Err((error, cursor)) => {
                let is_drain = matches!(error, relay::RelayError::Draining);
                if !is_drain {
                    tracing::warn!(%error, "a subscriber's stream has been ended");
                }
                let word = is_drain.then(|| progress(&cursor, false));
                let status = status::of_relay(&error, |position| log.cursor(position));
                (Vec::new(), word, Some(status))
            }
        };
        // Most polls come no further than here: the next event of a handful.
        let events = events.into_iter().map(move |e| frame(&e, include_raw));
        stream::iter(events.chain(word).map(Ok).chain(end.map(Err)))
    });
    Box::pin(frames)
}

fn frame(entry: &Entry, include_raw: bool) -> Frame {
    Frame::Encoded(EncodedEvent {
        event: entry.event.clone(),
        raw_json: include_raw.then(|| entry.raw.clone()),
    })
}

fn progress(cursor: &crate::push::Cursor, caught_up: bool) -> Frame {
    Frame::Progress(SubscribeProgress {
        cursor: cursor.to_string(),
        caught_up,
    })
}

fn event(entry: &Entry, include_raw: bool) -> Option<PushEvent> {
    let raw_json = if include_raw {
        entry.raw.clone()
    } else {
        Bytes::new()
    };
    entry.decoded().map(|event| PushEvent {
        raw_json,
        ..event.clone()
    })
}

fn subscribe_start(start: Option<subscribe_pushes_request::Start>) -> Start {
    use subscribe_pushes_request::Start as Asked;
    match start {
        Some(Asked::Cursor(cursor)) => Start::Cursor(cursor),
        Some(Asked::Since(time)) => Start::Since(system_time(time)),
        Some(Asked::Position(position)) if position == Position::Earliest as i32 => Start::Earliest,
        Some(Asked::Position(_)) | None => Start::Latest,
    }
}

fn list_start(start: Option<list_pushes_request::Start>, page_token: String) -> Start {
    use list_pushes_request::Start as Asked;
    match start {
        _ if !page_token.is_empty() => Start::Cursor(page_token),
        Some(Asked::Cursor(cursor)) => Start::Cursor(cursor),
        Some(Asked::Since(time)) => Start::Since(system_time(time)),
        None => Start::Earliest,
    }
}

/// A time as the system has it; one that it cannot express is as early as can be.
pub(super) fn system_time(time: prost_types::Timestamp) -> SystemTime {
    SystemTime::try_from(time).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl validate::Validate for SubscribePushesRequest {
    fn validate(&self, violations: &mut Violations) {
        if !self.subscription.is_empty() {
            violations.add(
                "subscription",
                "durable subscriptions are not supported by this version; leave it empty",
            );
        }
        if let Some(subscribe_pushes_request::Start::Position(position)) = self.start
            && Position::try_from(position).is_err()
        {
            violations.add("position", format!("{position} is no Position"));
        }
    }
}

impl validate::Validate for ListPushesRequest {
    fn validate(&self, violations: &mut Violations) {
        if !(0..=1000).contains(&self.page_size) {
            let page_size = self.page_size;
            violations.add(
                "page_size",
                format!("{page_size} is not between 0 and 1000"),
            );
        }
    }
}
