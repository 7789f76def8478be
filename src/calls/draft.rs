//! A call while events are being applied to it: what is kept of it, and what is to be kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;
use url::Url;

use super::assemble;
use super::metrics::CallsMetrics;
use super::projection::{Change, View};
use super::stored::{CallKey, Part, Parts, Summary};
use crate::proto::push_event::Payload;
use crate::proto::{Call, CallState, PushEvent, PushKind, PushOrigin};
use crate::push::EventId;
use crate::store::{Entry, NewEntry};

/// A call has at most so many parts; the platform pushes four or five.
const MAX_PARTS: usize = 64;
/// And so many bytes of them.
const MAX_BYTES: usize = 16 << 20;

/// An event of a call, decoded.
pub(super) struct Push {
    pub entry: Arc<Entry>,
    pub event: PushEvent,
}

/// A call that events are applied to.
pub(super) struct Draft {
    key: CallKey,
    before: Option<Summary>,
    pub summary: Summary,
    parts: Vec<Part>,
    has_new_parts: bool,
    /// The call put together, where it had to be.
    pub call: Option<Call>,
}

/// What is decided about time.
#[derive(Clone, Copy)]
pub(super) struct Deadlines {
    /// How long a call waits for what is missing.
    pub wait: Duration,
    /// Calls whose deadline lies before this wait no longer.
    pub close_before_ms: u64,
}

impl Draft {
    /// Takes up a call and applies events to it, in log order; puts it together if that changed
    /// what is known of it, or if `look_again` says so.
    pub fn new(
        view: &View<'_>,
        key: CallKey,
        pushes: &[Push],
        look_again: bool,
    ) -> fjall::Result<Self> {
        let before = view.summary(&key)?;
        let summary = before.clone().unwrap_or_default();
        let mut draft = Self {
            key,
            before,
            summary,
            parts: Vec::new(),
            has_new_parts: false,
            call: None,
        };
        let needs_parts = look_again || pushes.iter().any(|push| !draft.is_echo(push));
        if needs_parts {
            draft.parts = view.parts(&draft.key)?.parts;
        }
        for push in pushes {
            draft.apply(push);
        }
        if !draft.parts.is_empty() && (draft.has_new_parts || look_again) {
            draft.put_together();
        }
        Ok(draft)
    }

    /// Whether an event is one of the call itself that tells nothing new.
    fn is_echo(&self, push: &Push) -> bool {
        match &push.event.payload {
            Some(Payload::Call(call)) => call.revision <= self.summary.revision,
            _ => false,
        }
    }

    fn apply(&mut self, push: &Push) {
        let entry = &push.entry;
        let position = entry.cursor.position.0;
        let is_echo = self.is_echo(push);
        self.summary.last_position = self.summary.last_position.max(position);
        let id = Bytes::copy_from_slice(entry.id.as_bytes());
        if is_echo || self.parts.iter().any(|part| part.id == id) {
            return;
        }
        let mut is_call = false;
        if let Some(Payload::Call(call)) = &push.event.payload {
            // A call from before pushes of it were removed from the log, or from before this
            // projection was made: the latest stands for all earlier ones.
            is_call = true;
            self.summary.revision = call.revision;
            self.summary.emitted = id.clone();
            self.parts.retain(|part| !part.is_call);
        }
        let bytes: usize = self.parts.iter().map(|part| part.event.len()).sum();
        let has_room = self.parts.len() < MAX_PARTS && bytes + entry.event.len() <= MAX_BYTES;
        if !has_room && !self.parts.is_empty() {
            tracing::warn!(event_id = %entry.id, "a call has too many pushes; leaving one out");
            return;
        }
        self.parts.push(Part {
            position,
            id,
            event: entry.event.clone(),
            is_call,
        });
        self.has_new_parts = true;
    }

    /// Makes the call of the parts. An earlier call among them that adds nothing to the others is
    /// let go.
    fn put_together(&mut self) {
        let merge = |parts: &mut dyn Iterator<Item = &Part>| {
            let events = parts.filter_map(|part| PushEvent::decode(part.event.clone()).ok());
            assemble::merge(&events.collect::<Vec<_>>())
        };
        let mut call = merge(&mut self.parts.iter());
        let is_call = |part: &Part| part.is_call;
        if self.parts.iter().any(is_call) && !self.parts.iter().all(is_call) {
            let without = merge(&mut self.parts.iter().filter(|part| !part.is_call));
            if without == call {
                self.parts.retain(|part| !part.is_call);
                call = without;
            }
        }
        self.call = Some(call);
    }

    /// The task whose mode decides whether a recording is awaited.
    pub fn task(&self) -> Option<(&str, &str)> {
        let call = self.call.as_ref()?;
        let waits = assemble::missing(call, false).contains(&PushKind::Voice);
        (waits && !call.task_id.is_empty()).then_some((&call.account, &call.task_id))
    }

    /// Decides how far the call has come, and whether it belongs into the log.
    pub fn settle(&mut self, is_turbo: bool, deadlines: Deadlines) {
        let Some(call) = &mut self.call else {
            return;
        };
        let summary = &mut self.summary;
        let first_ms = call.pushes.first().and_then(|push| push.received_at);
        let first_ms = first_ms.as_ref().map(milliseconds).unwrap_or_default();
        if self.before.is_none() || summary.first_ms != first_ms {
            let wait_ms = u64::try_from(deadlines.wait.as_millis()).unwrap_or(u64::MAX);
            summary.deadline_ms = first_ms.saturating_add(wait_ms);
        }
        summary.first_ms = first_ms;
        let positions = self.parts.iter().map(|part| part.position);
        summary.first_position = positions.min().unwrap_or_default();

        let missing = assemble::missing(call, is_turbo);
        if !missing.is_empty() && summary.deadline_ms < deadlines.close_before_ms {
            summary.is_closed = true;
        }
        let state = match (missing.is_empty(), summary.is_closed) {
            (true, _) => CallState::Complete,
            (false, true) => CallState::TimedOut,
            (false, false) => CallState::Partial,
        };
        call.missing = missing.into_iter().map(Into::into).collect();
        call.state = state.into();
        call.revision = summary.revision;
        summary.state = state.into();
        summary.outcome = call.outcome;
        summary.answered = call.answered;
        summary.task_id.clone_from(&call.task_id);
        summary.task_data_id.clone_from(&call.task_data_id);
        summary.row_key.clone_from(&call.row_key);
        summary.call_relation_id.clone_from(&call.call_relation_id);
        summary.callee.clone_from(&call.callee);
        let voice = call.voice.as_ref();
        let voice_url = voice.and_then(|voice| Url::parse(&voice.absolute_url).ok());
        summary.voice_url = voice_url.map(String::from).unwrap_or_default();
        let is_final = state != CallState::Partial;
        summary.is_pending = is_final && *assemble::content_id(call).as_bytes() != *summary.emitted;
    }

    /// The event that tells the log of the call, if it has to be told; the call counts as told.
    pub fn emit(&mut self) -> Option<NewEntry> {
        let call = self.call.as_mut().filter(|_| self.summary.is_pending)?;
        let id = assemble::content_id(call);
        self.summary.is_pending = false;
        self.summary.revision += 1;
        self.summary.emitted = Bytes::copy_from_slice(id.as_bytes());
        call.revision = self.summary.revision;
        Some(entry(id, call))
    }

    /// Counts the call after the log has taken it.
    pub fn count(&self, metrics: &CallsMetrics) {
        let pushes = self.call.iter().flat_map(|call| &call.pushes);
        let last = pushes
            .filter_map(|push| push.received_at.as_ref())
            .map(milliseconds)
            .max();
        let ms = last
            .unwrap_or_default()
            .saturating_sub(self.summary.first_ms);
        let taken = Duration::from_millis(ms).as_secs_f64();
        metrics.appended(self.summary.state(), self.summary.revision, taken);
    }

    /// Whether it waits for something, and until when.
    pub fn due_ms(&self) -> Option<u64> {
        let waits = self.summary.state() == CallState::Partial;
        waits.then_some(self.summary.deadline_ms)
    }

    /// What has to be written of it.
    pub fn into_change(self) -> Option<Change> {
        if self.before.as_ref() == Some(&self.summary) && self.call.is_none() {
            return None;
        }
        let parts = Parts { parts: self.parts };
        Some(Change {
            key: self.key,
            before: self.before,
            after: self.summary,
            call: self.call.map(|call| call.encode_to_vec()),
            parts: self.has_new_parts.then(|| parts.encode_to_vec()),
        })
    }
}

fn milliseconds(at: &Timestamp) -> u64 {
    let ms = at.seconds.saturating_mul(1000) + i64::from(at.nanos / 1_000_000);
    u64::try_from(ms).unwrap_or_default()
}

fn entry(id: EventId, call: &Call) -> NewEntry {
    let event = PushEvent {
        event_id: id.to_string(),
        account: call.account.clone(),
        kind: PushKind::Call.into(),
        origin: PushOrigin::Live.into(),
        row_key: call.row_key.clone(),
        payload: Some(Payload::Call(call.clone())),
        ..PushEvent::default()
    };
    NewEntry::new(id, &event, Bytes::new())
}
