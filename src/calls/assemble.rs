//! A call from its pushes: a function of the set of them, whatever their order and however often
//! each came.

use std::collections::HashSet;

use prost::Message;
use prost_types::Timestamp;

use super::{fold, outcome};
use crate::proto::push_event::Payload;
use crate::proto::{
    Call, CallDirection, CallPush, CallRecord, CallRecordVariant, Dialog, PushEvent, PushKind,
    Voice,
};
use crate::push::EventId;

/// Puts a call together from pushes of it, at least one, all of one account and `call_uuid`.
/// Everything is set but what depends on time and on other facts: `state`, `revision`, `missing`.
///
/// A `PUSH_KIND_CALL` among them stands for the pushes that it was made of.
pub(super) fn merge(pushes: &[PushEvent]) -> Call {
    let mut sorted: Vec<&PushEvent> = pushes.iter().collect();
    sorted.sort_by_cached_key(|push| (rank(push), received_at(push), push.event_id.clone()));
    let mut seen = HashSet::new();
    sorted.retain(|push| seen.insert(&push.event_id));

    let mut call = Call::default();
    for push in sorted {
        call.account.clone_from(&push.account);
        if !push.row_key.is_empty() {
            call.row_key.clone_from(&push.row_key);
        }
        match &push.payload {
            Some(Payload::CallRecord(record)) => take_record(&mut call, record),
            Some(Payload::Voice(voice)) => take_voice(&mut call, voice),
            Some(Payload::VoiceArchived(voice)) => {
                fold::archived(call.voice.get_or_insert_default(), voice);
            }
            Some(Payload::Dialog(dialog)) => take_dialog(&mut call, dialog),
            Some(Payload::Call(adopted)) => {
                adopted
                    .call_record
                    .iter()
                    .for_each(|record| take_record(&mut call, record));
                adopted
                    .voice
                    .iter()
                    .for_each(|voice| take_voice(&mut call, voice));
                adopted
                    .dialog
                    .iter()
                    .for_each(|dialog| take_dialog(&mut call, dialog));
                call.pushes.extend_from_slice(&adopted.pushes);
                continue;
            }
            Some(Payload::Unrecognized(_)) | None => continue,
        }
        call.pushes.push(CallPush {
            kind: push.kind,
            variant: variant(push).into(),
            received_at: push.received_at,
            event_id: push.event_id.clone(),
        });
    }
    settle_pushes(&mut call.pushes);
    derive(&mut call);
    call
}

/// What is still to come of a merged call. `is_turbo`: its task makes no recordings.
pub(super) fn missing(call: &Call, is_turbo: bool) -> Vec<PushKind> {
    let mut missing = Vec::new();
    let record = call.call_record.as_ref();
    // An outbound call has a second record, which holds all of the first. While nothing tells
    // which way a call went, it may still be one.
    let has_record = record
        .is_some_and(|record| record.variant() == CallRecordVariant::Outbound || is_inbound(call));
    if !has_record {
        missing.push(PushKind::CallRecord);
    }
    // Only a call that somebody answered has a recording or a dialog: of one without a record,
    // either of the two tells.
    let answered = match record {
        Some(_) => call.answered,
        None => call.voice.is_some() || call.dialog.is_some(),
    };
    if answered && call.voice.is_none() && !is_turbo {
        missing.push(PushKind::Voice);
    }
    if answered && call.dialog.is_none() {
        missing.push(PushKind::Dialog);
    }
    missing
}

/// Names a call's content: the same whenever the same is known of it.
pub(super) fn content_id(call: &Call) -> EventId {
    let content = Call {
        revision: 0,
        pushes: Vec::new(),
        ..call.clone()
    };
    EventId::of_raw(&call.account, "yeta-gateway.call", &content.encode_to_vec())
}

/// The call that a push is of.
pub(super) fn call_uuid(push: &PushEvent) -> &str {
    match &push.payload {
        Some(Payload::CallRecord(record)) => &record.call_uuid,
        Some(Payload::Voice(voice) | Payload::VoiceArchived(voice)) => &voice.call_uuid,
        Some(Payload::Dialog(dialog)) => &dialog.call_uuid,
        Some(Payload::Call(call)) => &call.call_uuid,
        Some(Payload::Unrecognized(_)) | None => "",
    }
}

/// What comes later wins over what comes before: an outbound record holds everything that a basic
/// one does.
fn rank(push: &PushEvent) -> u8 {
    match &push.payload {
        Some(Payload::Call(_)) => 0,
        // Says something of a recording, which has to be known first.
        Some(Payload::VoiceArchived(_)) => 3,
        _ if variant(push) == CallRecordVariant::Outbound => 2,
        _ => 1,
    }
}

fn variant(push: &PushEvent) -> CallRecordVariant {
    match &push.payload {
        Some(Payload::CallRecord(record)) => record.variant(),
        _ => CallRecordVariant::Unspecified,
    }
}

fn received_at(push: &PushEvent) -> (i64, i32) {
    push.received_at.map_or((0, 0), |at| (at.seconds, at.nanos))
}

fn take_record(call: &mut Call, record: &CallRecord) {
    fold::record(call.call_record.get_or_insert_default(), record);
}

fn take_voice(call: &mut Call, voice: &Voice) {
    fold::voice(call.voice.get_or_insert_default(), voice);
}

fn take_dialog(call: &mut Call, dialog: &Dialog) {
    fold::dialog(call.dialog.get_or_insert_default(), dialog);
}

/// Each push once, by the time that it first came.
fn settle_pushes(pushes: &mut Vec<CallPush>) {
    let at = |push: &CallPush| push.received_at.map(|at: Timestamp| (at.seconds, at.nanos));
    pushes.sort_by(|a, b| (at(a), &a.event_id).cmp(&(at(b), &b.event_id)));
    let mut seen = HashSet::new();
    pushes.retain(|push| seen.insert(push.event_id.clone()));
}

/// Fills in what follows from the record, the recording and the dialog.
fn derive(call: &mut Call) {
    let (record, voice, dialog) = (
        call.call_record.take(),
        call.voice.take(),
        call.dialog.take(),
    );
    name(
        call,
        record.as_ref().unwrap_or(&CallRecord::default()),
        voice.as_ref().unwrap_or(&Voice::default()),
        dialog.as_ref().unwrap_or(&Dialog::default()),
    );
    (call.call_record, call.voice, call.dialog) = (record, voice, dialog);

    let is_outbound = is_outbound(call);
    let Some(record) = &call.call_record else {
        return;
    };
    call.answered = record.time_answer.is_some_and(|at| at > 0);
    call.outcome = outcome::of(record, is_outbound, call.answered).into();
    let tries = record.task_tries.filter(|_| is_outbound);
    call.attempt = tries
        .and_then(|tries| u32::try_from(tries).ok()?.checked_add(1))
        .unwrap_or_default();
}

/// Fills in what the parts say by themselves, the record first.
fn name(call: &mut Call, record: &CallRecord, voice: &Voice, dialog: &Dialog) {
    call.call_uuid = first([&record.call_uuid, &dialog.call_uuid, &voice.call_uuid]);
    call.app_id = first([&record.app_id, &dialog.app_id, &voice.app_id]);
    call.robot_id = first([&record.robot_id, &dialog.robot_id, &voice.robot_id]);
    let tasks: [&str; 2] = [&record.task_id, &dialog.task_id];
    call.task_id = first(tasks.map(|task| if task == "0" { "" } else { task }));
    call.task_data_id = first([
        &record.task_data_id,
        &dialog.task_data_id,
        &voice.task_data_id,
    ]);
    call.call_relation_id = first([
        &record.call_relation_id,
        &dialog.call_relation_id,
        &voice.call_relation_id,
    ]);
    call.caller.clone_from(&record.caller);
    call.callee.clone_from(&record.callee);
    call.direction = record.direction;
    call.duration_ring = record.duration_ring;
    call.duration_call = record.duration_call;
    call.tag_max.clone_from(&dialog.tag_max);
    call.tag_min.clone_from(&dialog.tag_min);
    let mut seen = HashSet::new();
    let tags = dialog.dialog.iter().map(|turn| &turn.tag_name);
    call.tags = tags
        .filter(|tag| !tag.is_empty() && seen.insert(*tag))
        .cloned()
        .collect();
}

fn first<const N: usize>(texts: [&str; N]) -> String {
    let first = texts.into_iter().find(|text| !text.is_empty());
    first.unwrap_or_default().to_owned()
}

/// Whether the platform dialled: as the record says, or as anything shows that belongs to a task.
/// What has a `call_relation_id` does not show it, unless its record says so: the documents'
/// inbound dialog repeats that id as `task_data_id`.
fn is_outbound(call: &Call) -> bool {
    let of_task =
        |task_id: &str, data_id: &str| !matches!(task_id, "" | "0") || !data_id.is_empty();
    let record = call.call_record.as_ref().is_some_and(|record| {
        let is_inbound = record.direction() == CallDirection::Inbound;
        record.direction() == CallDirection::Outbound
            || record.variant() == CallRecordVariant::Outbound
            || ((!is_inbound || record.call_relation_id.is_empty())
                && of_task(&record.task_id, &record.task_data_id))
    });
    let dialog = call.dialog.as_ref().is_some_and(|dialog| {
        dialog.call_relation_id.is_empty() && of_task(&dialog.task_id, &dialog.task_data_id)
    });
    let voice = call
        .voice
        .as_ref()
        .is_some_and(|voice| voice.call_relation_id.is_empty() && !voice.task_data_id.is_empty());
    record || dialog || voice
}

/// Whether a customer called, as far as anything tells.
fn is_inbound(call: &Call) -> bool {
    let says_so = call.direction() == CallDirection::Inbound || !call.call_relation_id.is_empty();
    says_so && !is_outbound(call)
}

#[cfg(test)]
mod tests;
