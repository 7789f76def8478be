//! `yeta.v1.SubscriptionService`.

pub(super) mod spec;

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use tonic::{Request, Response, Status, codec::CompressionEncoding};
use tracing::field::debug;

use super::access::{Access, Intent, admit, admit_to, is_reserved, may_see};
use super::admission::Admitted;
use super::auth::Clients;
use super::push::{event, page_size};
use super::validate::{Validate, Violations};
use super::{start, status};
use crate::config::Permission;
use crate::proto::subscription_service_server::{SubscriptionService, SubscriptionServiceServer};
use crate::proto::{
    CreateSubscriptionRequest, DeadLetter, DeleteSubscriptionRequest, DeleteSubscriptionResponse,
    GetSubscriptionRequest, ListDeadLettersRequest, ListDeadLettersResponse,
    ListSubscriptionsRequest, ListSubscriptionsResponse, PushFilter, RedriveDeadLettersRequest,
    RedriveDeadLettersResponse, SeekSubscriptionRequest, SeekSubscriptionResponse, Subscription,
    UpdateSubscriptionRequest,
};
use crate::push::{EventId, Position};
use crate::relay::{self, RelayError};
use crate::store::subscriptions::{Change, Info, Spec, SubscriptionError, Subscriptions};
use crate::store::{Filter, PushLog};

/// The service's implementation.
pub struct Service(Access);

/// The service, ready to be served.
pub fn subscription_service(
    log: Arc<dyn PushLog>,
    subscriptions: Arc<dyn Subscriptions>,
    clients: Arc<Clients>,
) -> SubscriptionServiceServer<Service> {
    let access = Access {
        log,
        subscriptions,
        clients,
    };
    SubscriptionServiceServer::new(Service(access))
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd)
}

/// So many entries of the log are looked at to count what one subscription has still to hand out.
const LOOK_AT: u64 = 20_000;
/// The same for each of a list.
const LOOK_AT_IN_LIST: u64 = 1_000;

/// A page of subscriptions ends once it has this many bytes.
const PAGE_BYTES: usize = 2 << 20;
/// The maximum number of subscriptions that are read at a time, each with its filter.
const LIST_SLICE: usize = 100;

#[tonic::async_trait]
impl SubscriptionService for Service {
    async fn create_subscription(
        &self,
        request: Request<CreateSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let name = name_of(request.get_ref().subscription.as_ref());
        let admitted = admit_to(&request, name, Intent::Own)?;
        let caller = &admitted.caller;
        let request = request.into_inner();
        let subscription = request.subscription.unwrap_or_default();
        let name = subscription.name.clone();
        let asked = spec::change(subscription, &[]).apply(&Spec::default());
        let spec = Spec {
            filter: self.0.held(&admitted, asked.filter)?,
            ..asked
        };
        let start = start::of_stream(request.start);
        let after = relay::resolve(&self.0.log, &start).await;
        let after = after.map_err(|error| self.0.status(&error))?;
        let created = self.0.subscriptions.create(&name, spec, after).await;
        if let Err(SubscriptionError::AlreadyExists(_)) = created
            && self.0.info(caller, &name).await.is_err()
        {
            return Err(status::name_taken(&name));
        }
        created.map_err(|error| self.refused(error))?;
        let (client, subscription) = (caller.name(), &name);
        tracing::info!(
            client,
            subscription,
            ?start,
            "a subscription has been created"
        );
        let info = self.0.info(caller, &name).await?;
        Ok(Response::new(self.answer(info, LOOK_AT).await?))
    }

    async fn get_subscription(
        &self,
        request: Request<GetSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let name = &request.get_ref().name;
        let caller = admit_to(&request, name, Intent::Look)?.caller;
        let info = self.0.info(&caller, name).await?;
        Ok(Response::new(self.answer(info, LOOK_AT).await?))
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        let admitted = admit(&request)?;
        let request = request.into_inner();
        let size = page_size(request.page_size);
        let mut after = read_token(&request.page_token).unwrap_or_default();
        let mut subscriptions: Vec<Subscription> = Vec::new();
        let mut bytes = 0;
        loop {
            // One more than there is room for tells whether there is another page.
            let limit = (size + 1 - subscriptions.len()).min(LIST_SLICE);
            let infos = self.0.subscriptions.list(&after, limit).await;
            let infos = infos.map_err(|error| self.refused(error))?;
            let is_last = infos.len() < limit;
            for info in infos {
                after.clone_from(&info.name);
                if !shows(&admitted, &info) {
                    continue;
                }
                if subscriptions.len() == size || bytes >= PAGE_BYTES {
                    let last = subscriptions.last().map(|last| last.name.as_str());
                    return Ok(Response::new(ListSubscriptionsResponse {
                        next_page_token: token(last.unwrap_or_default()),
                        subscriptions,
                    }));
                }
                let subscription = self.answer(info, LOOK_AT_IN_LIST).await?;
                bytes += subscription.encoded_len();
                subscriptions.push(subscription);
            }
            if is_last {
                return Ok(Response::new(ListSubscriptionsResponse {
                    subscriptions,
                    next_page_token: String::new(),
                }));
            }
        }
    }

    async fn update_subscription(
        &self,
        request: Request<UpdateSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let name = name_of(request.get_ref().subscription.as_ref());
        let admitted = admit_to(&request, name, Intent::Manage)?;
        let caller = &admitted.caller;
        self.0.info(caller, name).await?;
        let request = request.into_inner();
        let subscription = request.subscription.unwrap_or_default();
        let name = subscription.name.clone();
        let mask = request.update_mask.unwrap_or_default().paths;
        let mut change = spec::change(subscription, &mask);
        let pause = Change {
            paused: change.paused,
            ..Change::default()
        };
        if is_reserved(&name) && change != pause {
            let mut violations = Violations::default();
            violations.add(
                "update_mask",
                "of the gateway's own, paused alone can be changed",
            );
            return Err(violations.into());
        }
        if let Some(filter) = change.filter {
            change.filter = Some(self.0.held(&admitted, filter)?);
        }
        // Of a filter only that it changes: the callers' own ids in it may be phone numbers.
        let filter = change.filter.as_ref().map(|_| "another");
        let ack_deadline = change.ack_deadline.map(debug);
        let backoff = change.backoff.map(debug);
        let (max_attempts, paused) = (change.max_attempts, change.paused);
        let info = self.0.subscriptions.update(&name, change).await;
        let info = info.map_err(|error| self.refused(error))?;
        tracing::info!(
            client = caller.name(),
            subscription = name,
            filter,
            ack_deadline,
            max_attempts,
            backoff,
            paused,
            "a subscription has been changed"
        );
        Ok(Response::new(self.answer(info, LOOK_AT).await?))
    }

    async fn delete_subscription(
        &self,
        request: Request<DeleteSubscriptionRequest>,
    ) -> Result<Response<DeleteSubscriptionResponse>, Status> {
        let name = &request.get_ref().name;
        let caller = admit_to(&request, name, Intent::Own)?.caller;
        self.0.check(&caller, name).await?;
        let deleted = self.0.subscriptions.delete(name).await;
        deleted.map_err(|error| self.refused(error))?;
        let (client, subscription) = (caller.name(), name);
        tracing::info!(client, subscription, "a subscription has been deleted");
        Ok(Response::new(DeleteSubscriptionResponse {}))
    }

    async fn seek_subscription(
        &self,
        request: Request<SeekSubscriptionRequest>,
    ) -> Result<Response<SeekSubscriptionResponse>, Status> {
        let name = &request.get_ref().name;
        let caller = admit_to(&request, name, Intent::Manage)?.caller;
        self.0.check(&caller, name).await?;
        let SeekSubscriptionRequest { name, start } = request.into_inner();
        let start = start::of_stream(start);
        let after = relay::resolve(&self.0.log, &start).await;
        let after = after.map_err(|error| self.0.status(&error))?;
        let moved = self.0.subscriptions.seek(&name, after).await;
        moved.map_err(|error| self.refused(error))?;
        let (client, subscription) = (caller.name(), name);
        tracing::info!(
            client,
            subscription,
            ?start,
            "a subscription has been moved"
        );
        Ok(Response::new(SeekSubscriptionResponse {
            cursor: self.0.log.cursor(after).to_string(),
        }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let name = &request.get_ref().subscription;
        let caller = admit_to(&request, name, Intent::Look)?.caller;
        self.0.check(&caller, name).await?;
        let request = request.into_inner();
        let after = match request.page_token.as_str() {
            "" => Position::START,
            token => {
                let after = self.0.log.position(token).map_err(RelayError::from);
                after.map_err(|error| self.0.status(&error))?
            }
        };
        let (name, size) = (&request.subscription, page_size(request.page_size));
        let page = relay::dead_letters(&self.0.subscriptions, name, after, size).await;
        let (letters, next) = page.map_err(|error| self.refused(error))?;
        // The subscription's filter may have been wider when they were parked.
        let visible = Filter::new(PushFilter::default(), caller.accounts());
        let letters = letters.into_iter().filter(|it| visible.matches(&it.entry));
        let dead_letters = letters.map(|letter| DeadLetter {
            event: event(&letter.entry, request.include_raw),
            attempts: letter.attempts,
            reason: letter.reason,
            parked_at: Some(letter.parked_at.into()),
        });
        let next = next.map(|next| self.0.log.cursor(next).to_string());
        Ok(Response::new(ListDeadLettersResponse {
            dead_letters: dead_letters.collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<RedriveDeadLettersResponse>, Status> {
        let name = &request.get_ref().subscription;
        let caller = admit_to(&request, name, Intent::Manage)?.caller;
        self.0.check(&caller, name).await?;
        let ids = &request.get_ref().event_ids;
        let ids: Vec<_> = ids.iter().filter_map(|id| EventId::parse(id)).collect();
        let ids = (!ids.is_empty()).then_some(ids.as_slice());
        let redriven = self.0.subscriptions.redrive(name, ids).await;
        let redriven = redriven.map_err(|error| self.refused(error))?;
        tracing::info!(
            client = caller.name(),
            subscription = name,
            redriven,
            "dead letters are delivered again"
        );
        Ok(Response::new(RedriveDeadLettersResponse {
            redriven: spec::number(redriven),
        }))
    }
}

impl Service {
    /// A subscription with its stats, counted one by one over so many entries.
    async fn answer(&self, info: Info, look_at: u64) -> Result<Subscription, Status> {
        let Access { log, .. } = &self.0;
        let backlog = relay::backlog(log, info.handed_out, &info.spec.filter, look_at).await;
        let backlog = backlog.map_err(|error| self.0.status(&error.into()))?;
        let place = log.cursor(info.place);
        Ok(spec::answer(info, backlog, place, SystemTime::now()))
    }

    fn refused(&self, error: SubscriptionError) -> Status {
        self.0.status(&error.into())
    }
}

/// Whether a list shows a subscription: its name and all that it takes are the caller's, and it
/// takes events of the account that the request names.
fn shows(admitted: &Admitted, info: &Info) -> bool {
    let (caller, filter) = (&admitted.caller, &info.spec.filter);
    let is_of_named = admitted.named().is_none_or(|named| {
        filter.accounts.is_empty() || filter.accounts.iter().any(|account| account == named)
    });
    let is_named_so =
        caller.may_name(&info.name) || is_reserved(&info.name) && caller.may(Permission::Admin);
    is_of_named && is_named_so && may_see(caller, filter).is_ok()
}

fn name_of(subscription: Option<&Subscription>) -> &str {
    subscription.map_or("", |subscription| &subscription.name)
}

/// Asks for the page that follows a name.
fn token(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

fn read_token(token: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

impl Validate for CreateSubscriptionRequest {
    fn validate(&self, violations: &mut Violations) {
        match &self.subscription {
            None => violations.add("subscription", "is required"),
            Some(subscription) => spec::check(subscription, violations),
        }
        start::check(self.start.as_ref(), violations);
    }
}

impl Validate for UpdateSubscriptionRequest {
    fn validate(&self, violations: &mut Violations) {
        match &self.subscription {
            None => violations.add("subscription", "is required"),
            Some(subscription) => spec::check(subscription, violations),
        }
        let paths = self.update_mask.as_ref().map(|mask| mask.paths.as_slice());
        let paths = paths.unwrap_or_default();
        if !violations.few("update_mask", paths) {
            return;
        }
        for path in paths
            .iter()
            .filter(|path| !spec::FIELDS.contains(&path.as_str()))
        {
            let fields = spec::FIELDS.join(", ");
            violations.add("update_mask", format!("{path:?} is not one of {fields}"));
        }
    }
}

impl Validate for GetSubscriptionRequest {
    fn validate(&self, violations: &mut Violations) {
        spec::check_name("name", &self.name, violations);
    }
}

impl Validate for DeleteSubscriptionRequest {
    fn validate(&self, violations: &mut Violations) {
        spec::check_name("name", &self.name, violations);
    }
}

impl Validate for SeekSubscriptionRequest {
    fn validate(&self, violations: &mut Violations) {
        spec::check_name("name", &self.name, violations);
        start::check_place(self.start.as_ref(), violations);
    }
}

impl Validate for ListSubscriptionsRequest {
    fn validate(&self, violations: &mut Violations) {
        violations.page_size(self.page_size);
        if !self.page_token.is_empty() && read_token(&self.page_token).is_none() {
            violations.add("page_token", "is none that a page gave");
        }
    }
}

impl Validate for ListDeadLettersRequest {
    fn validate(&self, violations: &mut Violations) {
        spec::check_name("subscription", &self.subscription, violations);
        violations.page_size(self.page_size);
    }
}

impl Validate for RedriveDeadLettersRequest {
    fn validate(&self, violations: &mut Violations) {
        const MOST: usize = 1000;
        spec::check_name("subscription", &self.subscription, violations);
        if !violations.at_most("event_ids", &self.event_ids, MOST) {
            return;
        }
        for (index, id) in self.event_ids.iter().enumerate() {
            if EventId::parse(id).is_none() {
                violations.add(format!("event_ids[{index}]"), "is no event id");
            }
        }
    }
}
