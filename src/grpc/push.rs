//! `yeta.v1.PushService`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding};

use super::access::{Access, Intent, admit, admit_to, may_see};
use super::admission::Admitted;
use super::auth::Clients;
use super::backfill::{self, Added, FileAdded};
use super::frames::{self, Frames, of_delivery, of_entry};
use super::start::{self, system_time};
use super::status::{self, shortened};
use super::subscription::spec;
use super::validate::{Validate, Violations};
use crate::backfill::Backfill;
use crate::config::Permission;
use crate::proto::push_service_server::{PushService, PushServiceServer};
use crate::proto::{
    AckPushesRequest, AckPushesResponse, AckResult, AckStatus, BackfillFileRequest,
    BackfillPushesRequest, ExtendAckDeadlineRequest, ExtendAckDeadlineResponse,
    ListFailedPushFilesRequest, ListFailedPushFilesResponse, ListPushesRequest, ListPushesResponse,
    NackPushesRequest, NackPushesResponse, PushEvent, SubscribePushesRequest,
};
use crate::relay::metrics::RelayMetrics;
use crate::relay::{self, PageQuery, Reader, Subscriber};
use crate::store::subscriptions::{
    AckOutcome, Member, Nack, Spec, SubscriptionError, Subscriptions, Window,
};
use crate::store::{Entry, Filter, PushLog};

/// The service's implementation.
pub struct Pushes {
    access: Access,
    backfill: Arc<Backfill>,
    drain: CancellationToken,
    metrics: RelayMetrics,
}

/// The service, ready to be served. Its streams end when `drain` is cancelled.
pub fn push_service(
    log: Arc<dyn PushLog>,
    subscriptions: Arc<dyn Subscriptions>,
    clients: Arc<Clients>,
    backfill: Arc<Backfill>,
    drain: CancellationToken,
    metrics: RelayMetrics,
) -> PushServiceServer<Pushes> {
    PushServiceServer::new(Pushes {
        access: Access {
            log,
            subscriptions,
            clients,
        },
        backfill,
        drain,
        metrics,
    })
    .accept_compressed(CompressionEncoding::Gzip)
    .accept_compressed(CompressionEncoding::Zstd)
    .send_compressed(CompressionEncoding::Gzip)
    .send_compressed(CompressionEncoding::Zstd)
}

/// A page holds so many events unless it is told otherwise.
const PAGE_SIZE: usize = 100;
/// A member may hold so much unless it is told otherwise.
const WINDOW: Window = Window {
    events: 256,
    bytes: 16 << 20,
};
/// The most of a reason that is kept, in bytes.
const LONGEST_REASON: usize = 1024;

#[tonic::async_trait]
impl PushService for Pushes {
    type SubscribePushesStream = Frames;

    async fn subscribe_pushes(
        &self,
        request: Request<SubscribePushesRequest>,
    ) -> Result<Response<Frames>, Status> {
        let name = &request.get_ref().subscription;
        let admitted = admit_to(&request, name, Intent::Own)?;
        let request = request.into_inner();
        if request.subscription.is_empty() {
            self.read(&admitted, request).await
        } else {
            self.join(&admitted, request).await
        }
    }

    async fn list_pushes(
        &self,
        request: Request<ListPushesRequest>,
    ) -> Result<Response<ListPushesResponse>, Status> {
        let admitted = admit(&request)?;
        let request = request.into_inner();
        let visible = self.access.visible(&admitted, request.filter.as_ref())?;
        let start = start::of_page(request.start, request.page_token);
        let after = relay::resolve(&self.access.log, &start).await;
        let query = PageQuery {
            after: after.map_err(|error| self.access.status(&error))?,
            until: request.until.map(system_time),
            filter: Filter::new(request.filter.unwrap_or_default(), visible),
            size: page_size(request.page_size),
        };
        let page = relay::list(&self.access.log, &query)
            .await
            .map_err(|error| self.access.status(&error))?;
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
        request: Request<AckPushesRequest>,
    ) -> Result<Response<AckPushesResponse>, Status> {
        let request = self.settling(request, |it| &it.subscription).await?;
        let (name, ack_ids) = (request.subscription, request.ack_ids);
        let outcomes = self.access.subscriptions.ack(&name, &ack_ids).await;
        let results = self.results(ack_ids, outcomes)?;
        Ok(Response::new(AckPushesResponse { results }))
    }

    async fn nack_pushes(
        &self,
        request: Request<NackPushesRequest>,
    ) -> Result<Response<NackPushesResponse>, Status> {
        let request = self.settling(request, |it| &it.subscription).await?;
        let reason = shortened(&request.reason, LONGEST_REASON).to_owned();
        let how = if request.park {
            Nack::Park { reason }
        } else {
            let delay = request.delay.map(spec::std_duration);
            Nack::Retry { delay, reason }
        };
        let (name, ack_ids) = (request.subscription, request.ack_ids);
        let outcomes = self.access.subscriptions.nack(&name, &ack_ids, how).await;
        let results = self.results(ack_ids, outcomes)?;
        Ok(Response::new(NackPushesResponse { results }))
    }

    async fn extend_ack_deadline(
        &self,
        request: Request<ExtendAckDeadlineRequest>,
    ) -> Result<Response<ExtendAckDeadlineResponse>, Status> {
        let request = self.settling(request, |it| &it.subscription).await?;
        let by = request.ack_deadline.map(spec::std_duration);
        let (name, ack_ids) = (request.subscription, request.ack_ids);
        let outcomes = self.access.subscriptions.extend(&name, &ack_ids, by).await;
        let results = self.results(ack_ids, outcomes)?;
        Ok(Response::new(ExtendAckDeadlineResponse { results }))
    }

    async fn list_failed_push_files(
        &self,
        request: Request<ListFailedPushFilesRequest>,
    ) -> Result<Response<ListFailedPushFilesResponse>, Status> {
        backfill::list(&self.backfill, request).await
    }

    type BackfillPushesStream = Added;

    async fn backfill_pushes(
        &self,
        request: Request<BackfillPushesRequest>,
    ) -> Result<Response<Added>, Status> {
        let drain = self.drain.clone();
        backfill::days(&self.backfill, drain, request).await
    }

    type BackfillFileStream = FileAdded;

    async fn backfill_file(
        &self,
        request: Request<Streaming<BackfillFileRequest>>,
    ) -> Result<Response<FileAdded>, Status> {
        let drain = self.drain.clone();
        backfill::file(&self.backfill, drain, request).await
    }
}

impl Pushes {
    /// The stream of an independent reader.
    async fn read(
        &self,
        admitted: &Admitted,
        request: SubscribePushesRequest,
    ) -> Result<Response<Frames>, Status> {
        let Access { log, .. } = &self.access;
        let visible = self.access.visible(admitted, request.filter.as_ref())?;
        let start = start::of_stream(request.start);
        let position = relay::resolve(log, &start).await;
        let reader = Reader::new(
            log.clone(),
            position.map_err(|error| self.access.status(&error))?,
            Filter::new(request.filter.unwrap_or_default(), visible),
            self.drain.clone(),
            self.metrics.clone(),
        );
        let client = admitted.caller.name();
        tracing::info!(client, ?start, "a subscriber has come");
        let include_raw = request.include_raw;
        Ok(frames::response(
            reader,
            log.clone(),
            |entry| entry.cursor.position,
            move |entry| of_entry(entry, include_raw),
        ))
    }

    /// The stream of a member.
    async fn join(
        &self,
        admitted: &Admitted,
        request: SubscribePushesRequest,
    ) -> Result<Response<Frames>, Status> {
        let Access { log, .. } = &self.access;
        let member = self.member(admitted, &request).await?;
        let subscriber = Subscriber::new(
            log.clone(),
            member,
            admitted.caller.accounts(),
            self.drain.clone(),
            self.metrics.clone(),
        );
        let (client, subscription) = (admitted.caller.name(), &request.subscription);
        tracing::info!(client, subscription, "a member has come");
        let include_raw = request.include_raw;
        Ok(frames::response(
            subscriber,
            log.clone(),
            |delivery| delivery.entry.cursor.position,
            move |delivery| of_delivery(delivery, include_raw),
        ))
    }

    /// Joins the subscription, creating it if it is not there.
    async fn member(
        &self,
        admitted: &Admitted,
        request: &SubscribePushesRequest,
    ) -> Result<Box<dyn Member>, Status> {
        let subscriptions = &self.access.subscriptions;
        let name = &request.subscription;
        // Goes round when there was none, and when somebody else deleted it in between.
        loop {
            let info = match subscriptions.get(name).await {
                Ok(info) => info,
                Err(SubscriptionError::NotFound(_)) => {
                    self.create(admitted, request).await?;
                    continue;
                }
                Err(error) => return Err(self.access.status(&error.into())),
            };
            if may_see(&admitted.caller, &info.spec.filter).is_err() {
                return Err(status::name_taken(name));
            }
            let wanted = request.filter.clone();
            let held = wanted.map(|wanted| self.access.held(admitted, wanted));
            if held.is_some_and(|held| held.ok() != Some(info.spec.filter)) {
                tracing::warn!(
                    client = admitted.caller.name(),
                    subscription = name,
                    "a member has brought another filter than the subscription has; it is not \
                     looked at"
                );
            }
            match subscriptions.join(name, window(request)).await {
                Err(SubscriptionError::NotFound(_)) => {}
                joined => return joined.map_err(|error| self.access.status(&error.into())),
            }
        }
    }

    /// Creates the subscription, if nobody else does so at the same time.
    async fn create(
        &self,
        admitted: &Admitted,
        request: &SubscribePushesRequest,
    ) -> Result<(), Status> {
        admitted.caller.require(&[Permission::Subscriptions])?;
        let wanted = request.filter.clone().unwrap_or_default();
        let spec = Spec {
            filter: self.access.held(admitted, wanted)?,
            ..Spec::default()
        };
        let start = start::of_stream(request.start.clone());
        let after = relay::resolve(&self.access.log, &start).await;
        let after = after.map_err(|error| self.access.status(&error))?;
        let name = &request.subscription;
        match self.access.subscriptions.create(name, spec, after).await {
            Ok(()) => {
                tracing::info!(
                    client = admitted.caller.name(),
                    subscription = name,
                    ?start,
                    "a subscription has been created by its first subscriber"
                );
                Ok(())
            }
            Err(SubscriptionError::AlreadyExists(_)) => Ok(()),
            Err(error) => Err(self.access.status(&error.into())),
        }
    }

    /// What a caller asks for that may settle deliveries of the subscription that it names.
    async fn settling<R: Validate>(
        &self,
        request: Request<R>,
        subscription: impl Fn(&R) -> &str,
    ) -> Result<R, Status> {
        let name = subscription(request.get_ref());
        let admitted = admit_to(&request, name, Intent::Own)?;
        self.access.check(&admitted.caller, name).await?;
        Ok(request.into_inner())
    }

    /// What became of each id.
    fn results(
        &self,
        ack_ids: Vec<String>,
        outcomes: Result<Vec<AckOutcome>, SubscriptionError>,
    ) -> Result<Vec<AckResult>, Status> {
        let outcomes = outcomes.map_err(|error| self.access.status(&error.into()))?;
        let result = |(ack_id, outcome)| AckResult {
            ack_id,
            status: match outcome {
                AckOutcome::Ok => AckStatus::Ok,
                AckOutcome::Unknown => AckStatus::Unknown,
                AckOutcome::Superseded => AckStatus::Superseded,
            }
            .into(),
        };
        Ok(ack_ids.into_iter().zip(outcomes).map(result).collect())
    }
}

fn window(request: &SubscribePushesRequest) -> Window {
    let events = request.max_in_flight.map(usize::try_from);
    let bytes = request.max_in_flight_bytes.map(usize::try_from);
    Window {
        events: events.map_or(WINDOW.events, |events| events.unwrap_or(usize::MAX)),
        bytes: bytes.map_or(WINDOW.bytes, |bytes| bytes.unwrap_or(usize::MAX)),
    }
}

/// An event of a page.
pub(super) fn event(entry: &Entry, include_raw: bool) -> Option<PushEvent> {
    let raw_json = if include_raw {
        entry.raw.clone()
    } else {
        Bytes::new()
    };
    entry.decode().map(|event| PushEvent { raw_json, ..event })
}

/// How many a page holds at most; a valid request's number, or the default.
pub(super) fn page_size(asked: i32) -> usize {
    let asked = usize::try_from(asked).ok();
    asked.filter(|size| *size > 0).unwrap_or(PAGE_SIZE)
}

impl Validate for SubscribePushesRequest {
    fn validate(&self, violations: &mut Violations) {
        start::check(self.start.as_ref(), violations);
        violations.filter("filter", self.filter.as_ref());
        if !self.subscription.is_empty() {
            spec::check_name("subscription", &self.subscription, violations);
            violations.within("max_in_flight", self.max_in_flight, 1, 10_000);
            violations.at_least("max_in_flight_bytes", self.max_in_flight_bytes, 1);
        }
    }
}

impl Validate for ListPushesRequest {
    fn validate(&self, violations: &mut Violations) {
        violations.page_size(self.page_size);
        violations.filter("filter", self.filter.as_ref());
    }
}

impl Validate for AckPushesRequest {
    fn validate(&self, violations: &mut Violations) {
        spec::check_name("subscription", &self.subscription, violations);
        check_ack_ids(&self.ack_ids, violations);
    }
}

impl Validate for NackPushesRequest {
    fn validate(&self, violations: &mut Violations) {
        spec::check_name("subscription", &self.subscription, violations);
        check_ack_ids(&self.ack_ids, violations);
        spec::check_duration("delay", self.delay, Duration::ZERO, violations);
    }
}

impl Validate for ExtendAckDeadlineRequest {
    fn validate(&self, violations: &mut Violations) {
        spec::check_name("subscription", &self.subscription, violations);
        check_ack_ids(&self.ack_ids, violations);
        spec::check_duration(
            "ack_deadline",
            self.ack_deadline,
            Duration::ZERO,
            violations,
        );
    }
}

fn check_ack_ids(ack_ids: &[String], violations: &mut Violations) {
    const MOST: usize = 10_000;
    if ack_ids.len() > MOST {
        let fault = format!("has {} ids, more than {MOST}", ack_ids.len());
        violations.add("ack_ids", fault);
    }
}
