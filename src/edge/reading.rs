//! Turns a POSTed body into entries for the log, leniently: nothing that came with the right secret
//! is refused, and every byte of it is kept.
//!
//! Memory is bounded by what a body becomes, not by its bytes alone. A body or push beyond
//! [`MAX_PUSHES`], [`MAX_VALUES`] or [`MAX_LIST`] is kept whole, as one unrecognized push.

use std::str;

use bytes::Bytes;

use super::payloads;
use super::text::{self, Original};
use crate::lenient::{Fields, Json, MAX_LIST};
use crate::proto::push_event::Payload;
use crate::proto::{CallRecord, PushEvent, PushKind, PushOrigin, UnrecognizedPush};
use crate::push::EventId;
use crate::store::NewEntry;

/// The maximum number of array elements in one body that are pushes of their own.
pub const MAX_PUSHES: usize = 1000;
/// The maximum number of JSON values in one body that are read. Each takes up to a hundred bytes of
/// memory while it is read; a dialog of a thousand turns has some 20,000.
pub const MAX_VALUES: usize = 300_000;
/// The maximum number of bytes kept of a Content-Type.
const MAX_CONTENT_TYPE: usize = 256;

/// The fault of a push whose module the platform does not document.
const NOT_A_MODULE: &str = "not a documented module";

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
    /// The entry for the log, without the row's key.
    pub entry: NewEntry,
    /// The platform's id of the row; empty where it has none.
    pub task_data_id: String,
    /// The call record, if it is one.
    pub record: Option<Box<CallRecord>>,
    /// Why it is not a documented push, if it is none.
    pub fault: Option<&'static str>,
}

impl Push {
    /// A push of an event that lacks `row_key` and what only its place in the log decides.
    pub fn new(id: EventId, event: PushEvent, raw: Bytes) -> Self {
        let entry = NewEntry::new(id, &event, raw);
        let (task_data_id, record) = match event.payload {
            Some(Payload::CallRecord(record)) => {
                (record.task_data_id.clone(), Some(Box::new(record)))
            }
            Some(Payload::Voice(voice) | Payload::VoiceArchived(voice)) => {
                (voice.task_data_id, None)
            }
            Some(Payload::Dialog(dialog)) => (dialog.task_data_id, None),
            Some(Payload::Unrecognized(_) | Payload::Call(_)) | None => (String::new(), None),
        };
        Self {
            entry,
            task_data_id,
            record,
            fault: None,
        }
    }
}

impl From<Push> for NewEntry {
    fn from(push: Push) -> Self {
        push.entry
    }
}

/// Reads a body as one push, or as many as its array has elements; never as none.
pub fn read(received: &Received<'_>, body: &Bytes) -> Vec<Push> {
    let found = text::of(received.content_type, body);
    let notes = &found.notes;
    let Ok(text) = str::from_utf8(&found.bytes) else {
        return vec![received.unrecognized(body.clone(), None, "not a text")];
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if Json::count_values(text) > MAX_VALUES {
        return vec![received.unrecognized(body.clone(), None, "more values than are read")];
    }
    match Json::elements(text) {
        Some(elements) if elements.len() > MAX_PUSHES => {
            let id = Json::parse(text).map(|json| received.id(&json));
            vec![received.unrecognized(body.clone(), id, "an array of more pushes than are read")]
        }
        Some(elements) if !elements.is_empty() => {
            let mut original = Original::new(body);
            let read = elements.into_iter().map(|element| {
                let raw = if found.is_lossy {
                    let start = element.as_ptr().addr() - found.bytes.as_ptr().addr();
                    let first = original.place(start);
                    body.slice(first..original.place(start + element.len()))
                } else {
                    found.bytes.slice_ref(element.as_bytes())
                };
                received.read_one(raw, element, notes)
            });
            read.collect()
        }
        _ => vec![received.read_one(body.clone(), text, notes)],
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

    fn id(&self, json: &Json<'_>) -> EventId {
        EventId::of_json(self.account, self.module_of_id(), &json.canonical())
    }

    /// Reads one push; `raw` is what came, and `text` was found in it as the notes say.
    fn read_one(&self, raw: Bytes, text: &str, notes: &[String]) -> Push {
        let Some(json) = Json::parse(text) else {
            return self.unrecognized(raw, None, "not JSON");
        };
        let id = self.id(&json);
        if json.longest_list() > MAX_LIST {
            return self.unrecognized(raw, Some(id), "a list longer than is read");
        }
        let Json::Object(members) = json else {
            return self.unrecognized(raw, Some(id), "not a JSON object");
        };
        let mut fields = Fields::new(members);
        match self.payload(&mut fields) {
            Ok((kind, payload)) => self.entry(id, raw, kind, payload, fields, notes),
            Err(reason) => {
                let payload = Payload::Unrecognized(self.unrecognized_payload(&raw, reason));
                // All members belong to the rest, also those that were looked into above.
                let members = match Json::parse(text) {
                    Some(Json::Object(members)) => members,
                    _ => Vec::new(),
                };
                let fields = Fields::new(members);
                let kind = PushKind::Unrecognized;
                Push {
                    fault: Some(reason),
                    ..self.entry(id, raw, kind, payload, fields, notes)
                }
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
            _ => Err(NOT_A_MODULE),
        }
    }

    fn unrecognized(&self, raw: Bytes, id: Option<EventId>, reason: &'static str) -> Push {
        let id = id.unwrap_or_else(|| EventId::of_raw(self.account, self.module_of_id(), &raw));
        let payload = Payload::Unrecognized(self.unrecognized_payload(&raw, reason));
        let rest = Fields::new(Vec::new());
        Push {
            fault: Some(reason),
            ..self.entry(id, raw, PushKind::Unrecognized, payload, rest, &[])
        }
    }

    fn unrecognized_payload(&self, raw: &Bytes, reason: &str) -> UnrecognizedPush {
        UnrecognizedPush {
            module: self.module.to_owned(),
            reason: reason.to_owned(),
            content_type: shortened(self.content_type.unwrap_or_default()).to_owned(),
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
        notes: &[String],
    ) -> Push {
        let event = PushEvent {
            event_id: id.to_string(),
            account: self.account.to_owned(),
            kind: kind.into(),
            origin: PushOrigin::Live.into(),
            extra_fields: rest.rest(),
            reading_notes: notes.to_vec(),
            payload: Some(payload),
            ..PushEvent::default()
        };
        Push::new(id, event, raw)
    }
}

/// As many bytes of a Content-Type as are kept.
fn shortened(content_type: &str) -> &str {
    &content_type[..content_type.floor_char_boundary(MAX_CONTENT_TYPE)]
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn read_dialog(body: impl Into<Bytes>) -> Vec<(PushEvent, Bytes)> {
        let long = "x".repeat(30_000);
        let received = Received {
            account: "a",
            module: "receiveDialog",
            content_type: Some(&long),
            voice_base_url: "",
        };
        let decode = |push: Push| {
            let event = PushEvent::decode(push.entry.event).unwrap();
            (event, push.entry.raw)
        };
        read(&received, &body.into())
            .into_iter()
            .map(decode)
            .collect()
    }

    fn list(element: &str, count: usize) -> String {
        format!("[{}]", vec![element; count].join(","))
    }

    #[test]
    fn a_body_is_split_into_a_thousand_pushes_and_a_longer_array_is_kept_whole() {
        assert_eq!(read_dialog(list("7", MAX_PUSHES)).len(), MAX_PUSHES);
        let body = list("7", MAX_PUSHES + 1);
        let kept = read_dialog(body.clone());
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].0.kind(), PushKind::Unrecognized);
        assert_eq!(kept[0].1, body);
        // White space makes no other event of it.
        let spaced = read_dialog(body.replace(',', " , "));
        assert_eq!(spaced[0].0.event_id, kept[0].0.event_id);
    }

    #[test]
    fn a_push_with_more_values_or_a_longer_list_than_is_read_is_kept_whole_as_unrecognized() {
        let dialog = |count| format!(r#"{{"call_uuid":"c","dialog":{}}}"#, list("{}", count));
        let read = read_dialog(dialog(MAX_LIST));
        let Some(Payload::Dialog(whole)) = &read[0].0.payload else {
            panic!("{:?}", read[0].0.kind())
        };
        assert_eq!(whole.dialog.len(), MAX_LIST);
        for body in [
            dialog(MAX_LIST + 1),
            dialog(MAX_VALUES),
            format!(r#"{{"x":{}}}"#, list("0", MAX_LIST + 1)),
            list("0", MAX_VALUES),
            format!("{{{}\"z\":0}}", "\"\":0,".repeat(MAX_VALUES)),
        ] {
            let kept = read_dialog(body.clone());
            assert_eq!(kept.len(), 1);
            assert_eq!(kept[0].0.kind(), PushKind::Unrecognized);
            assert_eq!(kept[0].1, body);
            assert!(kept[0].0.encoded_len() < 1000);
        }
    }

    #[test]
    fn no_more_than_256_bytes_of_a_content_type_are_kept() {
        for (event, _) in read_dialog(list("7", 3)) {
            let Some(Payload::Unrecognized(push)) = event.payload else {
                panic!("{:?}", event.kind())
            };
            assert_eq!(push.content_type.len(), MAX_CONTENT_TYPE);
        }
        let split = format!("{}é", "x".repeat(MAX_CONTENT_TYPE - 1));
        assert_eq!(shortened(&split).len(), MAX_CONTENT_TYPE - 1);
    }
}
