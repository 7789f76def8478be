//! The durable subscriber that keeps recordings.
//!
//! Each recording that is pushed is fetched, copied under a name that was noted first, and told to
//! the log; only then is its push acknowledged. Every step can be done again without harm: the name
//! is the noted one, an object of the right size is not fetched again, and the log holds the same
//! word once. What fails is handed out again by the subscription, with its backoff.

mod failure;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::path::Path;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::failure::{Failure, mismatch, unavailable};
use super::archive::Archive;
use super::fetch::VoiceServer;
use super::metrics::{Kept, Purpose, VoiceMetrics};
use super::name::{Facts, Template};
use crate::calls::{Calls, Clock};
use crate::proto::push_event::Payload;
use crate::proto::{Call, CallState, PushEvent, PushFilter, PushKind, PushOrigin, Voice};
use crate::push::EventId;
use crate::store::subscriptions::{
    Backoff, Change, Delivery, Handed, Nack, Spec, SubscriptionError, Subscriptions, Window,
};
use crate::store::{End, Entry, NewEntry, NoteChange, Notes, PushLog, Survives};

/// The durable subscription of the archivist.
pub const SUBSCRIPTION: &str = "yeta-gateway.voice";

/// How recordings are kept.
#[derive(Clone)]
pub struct ArchivistOptions {
    /// How they are named.
    pub name: Template,
    /// How long one is tried, from its push on.
    pub retry_for: Duration,
    /// How long after the first failure it is tried again; doubled with each further one, up to an
    /// hour.
    pub retry_after: Duration,
    /// How many are fetched at once.
    pub at_once: usize,
    /// Tells the time.
    pub clock: Clock,
}

/// Keeps recordings.
#[derive(Clone)]
pub struct Archivist(Arc<Parts>);

struct Parts {
    archive: Arc<Archive>,
    server: Arc<VoiceServer>,
    calls: Arc<Calls>,
    log: Arc<dyn PushLog>,
    subscriptions: Arc<dyn Subscriptions>,
    notes: Arc<dyn Notes>,
    options: ArchivistOptions,
    metrics: VoiceMetrics,
}

/// A failure's pause is doubled up to this.
const LONGEST_BACKOFF: Duration = Duration::from_hours(1);
/// A recording of another size than its push told is kept as it is at this attempt.
const CONTENT_AT: u32 = 5;
/// A name is made once the call is whole, or so long after the recording's push: then the other
/// pushes are there.
const PATIENCE: Duration = Duration::from_secs(3);
/// The call is looked at so often meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After the store has failed, it is tried again no sooner than this.
const PAUSE: Duration = Duration::from_millis(250);
/// Events are small: their number bounds what is out.
const WINDOW_BYTES: usize = 64 << 20;

impl Archivist {
    /// An archivist that fetches from `server` into `archive`.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub fn new(
        archive: Arc<Archive>,
        server: Arc<VoiceServer>,
        calls: Arc<Calls>,
        log: Arc<dyn PushLog>,
        subscriptions: Arc<dyn Subscriptions>,
        notes: Arc<dyn Notes>,
        options: ArchivistOptions,
        metrics: VoiceMetrics,
    ) -> Self {
        Self(Arc::new(Parts {
            archive,
            server,
            calls,
            log,
            subscriptions,
            notes,
            options,
            metrics,
        }))
    }

    /// Keeps recordings until it is stopped, or the store is closed.
    pub async fn run(self, stop: CancellationToken) {
        let sessions = async {
            let mut has_failed = false;
            while let Err(End::Failed(error)) = self.session().await {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::error!(error, "recordings cannot be archived; trying again");
                }
                sleep(PAUSE).await;
            }
        };
        // Whatever is under way may end anywhere.
        stop.run_until_cancelled(sessions).await;
    }

    /// Takes the subscription up where it is, and goes on until something fails.
    async fn session(&self) -> Result<(), End> {
        let parts = &self.0;
        parts.take_up().await?;
        let window = Window {
            events: parts.options.at_once,
            bytes: WINDOW_BYTES,
        };
        let mut member = parts.subscriptions.join(SUBSCRIPTION, window).await?;
        // Dropped with the session, and with it what is under way.
        let mut work = JoinSet::new();
        loop {
            tokio::select! {
                handed = member.next() => if let Handed::Deliveries(deliveries) = handed? {
                    for delivery in deliveries {
                        let archivist = self.clone();
                        work.spawn(async move { archivist.0.settle(&delivery).await });
                    }
                },
                Some(settled) = work.join_next() => {
                    settled.map_err(|panic| End::Failed(panic.to_string()))??;
                    let info = parts.subscriptions.get(SUBSCRIPTION).await?;
                    parts.metrics.waiting(info.unacked);
                }
            }
        }
    }
}

impl Parts {
    /// Sees to it that the subscription is there, and is as it is configured now. A new one starts
    /// with what the log holds already.
    async fn take_up(&self) -> Result<(), End> {
        let spec = self.spec();
        match self.subscriptions.get(SUBSCRIPTION).await {
            Ok(info)
                if info.spec.backoff == spec.backoff
                    && info.spec.ack_deadline == spec.ack_deadline =>
            {
                Ok(())
            }
            Ok(_) => {
                let change = Change {
                    ack_deadline: Some(spec.ack_deadline),
                    backoff: Some(spec.backoff),
                    ..Change::default()
                };
                self.subscriptions.update(SUBSCRIPTION, change).await?;
                Ok(())
            }
            Err(SubscriptionError::NotFound(_)) => {
                let earliest = self.log.earliest();
                Ok(self
                    .subscriptions
                    .create(SUBSCRIPTION, spec, earliest)
                    .await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn spec(&self) -> Spec {
        Spec {
            filter: PushFilter {
                kinds: vec![PushKind::Voice.into()],
                ..PushFilter::default()
            },
            // What is held comes back when the session ends; a recording that is waited for does
            // not make the subscription a stuck one.
            ack_deadline: self.options.retry_for.max(LONGEST_BACKOFF),
            max_attempts: 0,
            backoff: Backoff {
                minimum: self.options.retry_after,
                maximum: LONGEST_BACKOFF.max(self.options.retry_after),
            },
            paused: false,
        }
    }

    /// Does what there is to do for a recording, and acknowledges or refuses its delivery.
    async fn settle(&self, delivery: &Delivery) -> Result<(), End> {
        let entry = &delivery.entry;
        let event = entry.decode();
        let voice = event.as_ref().and_then(|event| match &event.payload {
            Some(Payload::Voice(voice)) => Some((event, voice)),
            _ => None,
        });
        if let Some((event, voice)) = voice {
            match self.keep(entry, event, voice, delivery.attempt).await {
                Ok(()) => {}
                Err(Failure::End(end)) => return Err(end),
                Err(failure) if failure.may_pass() && !self.is_too_late(entry) => {
                    return self.put_off(delivery, voice, &failure).await;
                }
                Err(failure) => self.give_up(event, voice, &failure).await?,
            }
        }
        let ids = [delivery.ack_id.clone()];
        self.subscriptions.ack(SUBSCRIPTION, &ids).await?;
        // Last: as long as the push may come again, its name must be the same.
        let forget = vec![NoteChange::forget(name_note(entry.id))];
        Ok(self.notes.change(forget, Survives::Kill).await?)
    }

    /// Whether a recording is tried no longer.
    fn is_too_late(&self, entry: &Entry) -> bool {
        let age = (self.options.clock)().duration_since(entry.received_at());
        age.unwrap_or_default() >= self.options.retry_for
    }

    async fn put_off(
        &self,
        delivery: &Delivery,
        voice: &Voice,
        failure: &Failure,
    ) -> Result<(), End> {
        self.metrics.kept(Kept::Failed);
        let (attempt, call_uuid) = (delivery.attempt, &voice.call_uuid);
        // The first failure is nothing to wake anybody for: recordings may come a little late.
        if attempt == 1 {
            tracing::info!(call_uuid, %failure, "a recording cannot be archived yet");
        } else {
            tracing::debug!(call_uuid, attempt, %failure, "a recording cannot be archived yet");
        }
        let how = Nack::Retry {
            delay: None,
            reason: failure.to_string(),
        };
        let ids = [delivery.ack_id.clone()];
        self.subscriptions.nack(SUBSCRIPTION, &ids, how).await?;
        Ok(())
    }

    async fn give_up(
        &self,
        event: &PushEvent,
        voice: &Voice,
        failure: &Failure,
    ) -> Result<(), End> {
        tracing::warn!(call_uuid = voice.call_uuid, %failure, "a recording is given up");
        self.metrics.kept(Kept::GivenUp);
        let voice = Voice {
            archive_error: failure.told(),
            ..voice.clone()
        };
        self.tell(event, voice).await
    }

    /// Copies a recording, if that has not been done, and tells the log of it.
    async fn keep(
        &self,
        entry: &Entry,
        event: &PushEvent,
        voice: &Voice,
        attempt: u32,
    ) -> Result<(), Failure> {
        let url = self.server.resolve(&voice.url)?;
        let call = self.call(entry, event, voice).await?;
        let known = call.voice.as_ref();
        if known.is_some_and(|known| known.url == voice.url && !known.archived_url.is_empty()) {
            return Ok(());
        }
        let path = self.name(entry, event, voice, &call).await?;
        let there = self.archive.size(&path).await.map_err(unavailable)?;
        let is_right = |size: u64| {
            voice
                .size
                .is_none_or(|pushed| i64::try_from(size) == Ok(pushed))
        };
        let mut archive_error = String::new();
        if !there.is_some_and(is_right) {
            let copied = self.copy(url, &path, voice, attempt >= CONTENT_AT).await?;
            archive_error = copied.as_ref().map(Failure::told).unwrap_or_default();
        }
        let archived_url = self.archive.url(&path);
        tracing::info!(
            call_uuid = voice.call_uuid,
            archived_url,
            attempt,
            "a recording is archived"
        );
        self.metrics.kept(Kept::Archived);
        let voice = Voice {
            archived_url,
            archive_error,
            ..voice.clone()
        };
        Ok(self.tell(event, voice).await?)
    }

    /// Copies a recording. `is_content`: also one of another size than its push told; that is
    /// given back then.
    async fn copy(
        &self,
        url: url::Url,
        path: &Path,
        voice: &Voice,
        is_content: bool,
    ) -> Result<Option<Failure>, Failure> {
        let opened = self.server.open(url, 0, Purpose::Archive, voice.size).await;
        let mut download = opened?;
        if let Some(actual) = download.head().size {
            mismatch(voice, actual)
                .filter(|_| !is_content)
                .map_or(Ok(()), Err)?;
        }
        let mut upload = self.archive.upload(path, &download.head().content_type);
        let received = loop {
            match download.next().await {
                Ok(Some(bytes)) => {
                    if let Err(error) = upload.put(bytes).await {
                        break Err(unavailable(error));
                    }
                }
                Ok(None) => break Ok(mismatch(voice, download.position())),
                Err(error) => break Err(error.into()),
            }
        };
        match received {
            Ok(None) => {}
            Ok(Some(mismatch)) if is_content => {
                upload.finish().await.map_err(unavailable)?;
                return Ok(Some(mismatch));
            }
            Ok(Some(failure)) | Err(failure) => {
                upload.abort().await;
                return Err(failure);
            }
        }
        upload.finish().await.map_err(unavailable)?;
        Ok(None)
    }

    /// The call of a recording: as soon as it is whole, or as far as it has come by then.
    async fn call(&self, entry: &Entry, event: &PushEvent, voice: &Voice) -> Result<Call, End> {
        if voice.call_uuid.is_empty() {
            return Ok(Call::default());
        }
        let accounts = [event.account.clone()].into();
        let now = Instant::now();
        let pushes_by = now + patience(entry.received_at(), (self.options.clock)());
        loop {
            let call = self.calls.get(Some(&accounts), &voice.call_uuid).await?;
            let (is_whole, wait_until) = match &call {
                Some(call) => (call.state() != CallState::Partial, pushes_by),
                // Putting calls together has fallen behind: it has not come to this push yet.
                None => (false, now + PATIENCE),
            };
            if is_whole || Instant::now() >= wait_until {
                return Ok(call.unwrap_or_default());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Where a recording is kept: as it was noted, or noted now.
    async fn name(
        &self,
        entry: &Entry,
        event: &PushEvent,
        voice: &Voice,
        call: &Call,
    ) -> Result<Path, Failure> {
        let note = name_note(entry.id);
        let noted = self.notes.get(&note).await.map_err(End::from)?;
        let noted = noted.and_then(|name| String::from_utf8(name).ok());
        let name = if let Some(name) = noted {
            name
        } else {
            let name = self.options.name.fill(&Facts {
                account: &event.account,
                received_at: entry.received_at(),
                event_id: entry.id,
                voice,
                call,
            });
            let value = name.clone().into_bytes();
            self.notes.put(&note, value).await.map_err(End::from)?;
            name
        };
        self.archive.path(&name).map_err(unavailable)
    }

    /// Adds to the log what became of a recording.
    async fn tell(&self, event: &PushEvent, voice: Voice) -> Result<(), End> {
        let id = EventId::of_raw(&event.account, SUBSCRIPTION, &voice.encode_to_vec());
        let told = PushEvent {
            event_id: id.to_string(),
            account: event.account.clone(),
            kind: PushKind::VoiceArchived.into(),
            origin: PushOrigin::Live.into(),
            row_key: event.row_key.clone(),
            payload: Some(Payload::VoiceArchived(voice)),
            ..PushEvent::default()
        };
        let entry = NewEntry::new(id, &told, Bytes::new());
        self.log.append(vec![entry]).await?;
        Ok(())
    }
}

/// Removes the archivist's subscription, where nothing is to be kept: without a member it would
/// only seem to be stuck.
pub async fn forget(subscriptions: &dyn Subscriptions) -> Result<(), SubscriptionError> {
    match subscriptions.delete(SUBSCRIPTION).await {
        Err(SubscriptionError::NotFound(_)) => Ok(()),
        deleted => deleted,
    }
}

/// How long yet the other pushes of a call may take, whose recording was pushed then.
fn patience(received_at: SystemTime, now: SystemTime) -> Duration {
    // A clock that was set back makes nobody wait for longer.
    let age = now.duration_since(received_at).unwrap_or_default();
    PATIENCE.saturating_sub(age)
}

/// Under which key the name of a recording is noted, while its push may come again.
fn name_note(id: EventId) -> String {
    format!("voice.name/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_pushes_are_waited_for_from_the_recordings_push_on() {
        let pushed = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
        let after = |ms| patience(pushed, pushed + Duration::from_millis(ms));
        assert_eq!(after(0), PATIENCE);
        assert_eq!(after(1) + Duration::from_millis(1), PATIENCE);
        assert_eq!(after(86_400_000), Duration::ZERO);
        let before = pushed - Duration::from_hours(1);
        assert_eq!(patience(pushed, before), PATIENCE);
    }
}
