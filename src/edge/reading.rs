//! What was POSTed becomes entries for the log, leniently: nothing that came with the right secret
//! is refused, and every byte of it is kept.

use std::str;

use bytes::Bytes;
use prost::Message;

use super::payloads;
use crate::lenient::{Fields, Json};
use crate::proto::push_event::Payload;
use crate::proto::{PushEvent, PushKind, PushOrigin, UnrecognizedPush};
use crate::push::EventId;
use crate::store::NewEntry;

/// What is known of a push besides its body.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The account whose secret the address held.
    pub account: &'a str,
    /// The module as the address named it, or the line of a failed-push file.
    pub module: &'a str,
    /// The Content-Type header, if there was one.
    pub content_type: Option<&'a str>,
    /// What the platform's relative voice addresses are relative to.
    pub voice_base_url: &'a str,
}

/// A push as it was read.
#[derive(Clone, Debug)]
pub struct Push {
    /// Identifies its content.
    pub id: EventId,
    /// Without what only its place in the log tells.
    pub event: PushEvent,
    /// The bytes as received.
    pub raw: Bytes,
}

impl From<Push> for NewEntry {
    fn from(push: Push) -> Self {
        Self {
            id: push.id,
            event: push.event.encode_to_vec().into(),
            raw: push.raw,
        }
    }
}

/// Reads a body as one push, or as many as its array has elements; never as none.
pub fn read(received: &Received<'_>, body: &Bytes) -> Vec<Push> {
    let Ok(text) = str::from_utf8(body) else {
        return vec![received.unrecognized(body.clone(), None, "not UTF-8")];
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match Json::elements(text) {
        Some(elements) if !elements.is_empty() => elements
            .into_iter()
            .map(|element| received.read_one(body.slice_ref(element.as_bytes()), element))
            .collect(),
        _ => vec![received.read_one(body.clone(), text)],
    }
}

/// A module without its scope. The vendor's console lets one be scoped, "receiveDialog|AppX", so
/// that pushes of an application go to an address of their own.
pub(super) fn unscoped(module: &str) -> &str {
    match module.split_once('|') {
        Some((name, _scope)) if !name.is_empty() => name,
        Some(_) | None => module,
    }
}

impl Received<'_> {
    /// The module by which content is identified. A scope says where a push was to go, and nothing
    /// of the push; whether failed-push files repeat it is not documented.
    fn module_of_id(&self) -> &str {
        match unscoped(self.module) {
            name @ ("receiveCallRecord" | "receiveVoice" | "receiveDialog") => name,
            // What it means there is not known.
            _ => self.module,
        }
    }

    /// Reads one push; `raw` is what came, `text` the same without a byte order mark.
    fn read_one(&self, raw: Bytes, text: &str) -> Push {
        let Some(json) = Json::parse(text) else {
            return self.unrecognized(raw, None, "not JSON");
        };
        let id = EventId::of_json(self.account, self.module_of_id(), &json.canonical());
        let Json::Object(members) = json else {
            return self.unrecognized(raw, Some(id), "not a JSON object");
        };
        let mut fields = Fields::new(members);
        match self.payload(&mut fields) {
            Ok((kind, payload)) => self.entry(id, raw, kind, payload, fields),
            Err(reason) => {
                let payload = Payload::Unrecognized(self.unrecognized_payload(&raw, reason));
                // All members belong to the rest, also those that were looked into above.
                let members = match Json::parse(text) {
                    Some(Json::Object(members)) => members,
                    _ => Vec::new(),
                };
                let fields = Fields::new(members);
                self.entry(id, raw, PushKind::Unrecognized, payload, fields)
            }
        }
    }

    /// Reads what the module is documented to push, or says why that is not what came.
    fn payload(&self, fields: &mut Fields<'_>) -> Result<(PushKind, Payload), &'static str> {
        const NOTHING: &str = "none of the module's documented fields";
        match unscoped(self.module) {
            "receiveCallRecord" => {
                let record = payloads::call_record(fields).ok_or(NOTHING)?;
                Ok((PushKind::CallRecord, Payload::CallRecord(record)))
            }
            "receiveVoice" => {
                let voice = payloads::voice(fields, self.voice_base_url).ok_or(NOTHING)?;
                Ok((PushKind::Voice, Payload::Voice(voice)))
            }
            "receiveDialog" => {
                let dialog = payloads::dialog(fields).ok_or(NOTHING)?;
                Ok((PushKind::Dialog, Payload::Dialog(dialog)))
            }
            _ => Err("not a documented module"),
        }
    }

    fn unrecognized(&self, raw: Bytes, id: Option<EventId>, reason: &str) -> Push {
        let id = id.unwrap_or_else(|| EventId::of_raw(self.account, self.module_of_id(), &raw));
        let payload = Payload::Unrecognized(self.unrecognized_payload(&raw, reason));
        self.entry(
            id,
            raw,
            PushKind::Unrecognized,
            payload,
            Fields::new(Vec::new()),
        )
    }

    fn unrecognized_payload(&self, raw: &Bytes, reason: &str) -> UnrecognizedPush {
        UnrecognizedPush {
            module: self.module.to_owned(),
            reason: reason.to_owned(),
            content_type: self.content_type.unwrap_or_default().to_owned(),
            size: i64::try_from(raw.len()).unwrap_or(i64::MAX),
        }
    }

    fn entry(
        &self,
        id: EventId,
        raw: Bytes,
        kind: PushKind,
        payload: Payload,
        rest: Fields<'_>,
    ) -> Push {
        let event = PushEvent {
            event_id: id.to_string(),
            account: self.account.to_owned(),
            kind: kind.into(),
            origin: PushOrigin::Live.into(),
            extra_fields: rest.rest(),
            payload: Some(payload),
            ..PushEvent::default()
        };
        Push { id, event, raw }
    }
}
