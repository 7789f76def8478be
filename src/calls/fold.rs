//! One message over another, field by field: a value over what was there before, nothing over a
//! value. Exhaustive patterns make sure that no field is forgotten when a message grows.

use crate::proto::{CallRecord, CallRecordVariant, Dialog, Voice};

fn text(into: &mut String, from: &str) {
    if !from.is_empty() {
        from.clone_into(into);
    }
}

fn list<T: Clone>(into: &mut Vec<T>, from: &[T]) {
    if !from.is_empty() {
        *into = from.to_vec();
    }
}

fn number<T>(into: &mut Option<T>, from: Option<T>) {
    *into = from.or(into.take());
}

/// A time, of which 0 says the same as none at all.
fn time(into: &mut Option<i64>, from: Option<i64>) {
    if into.is_none() || from.is_some_and(|from| from != 0) {
        number(into, from);
    }
}

/// A task's id, of which "0" says the same as none at all.
fn task_id(into: &mut String, from: &str) {
    if into.is_empty() || from != "0" {
        text(into, from);
    }
}

/// A value that was read from another one: with a new source, what was read from the old one goes.
fn read_from<T: PartialEq>(into: &mut i32, from: i32, is_there: &T, comes: &T, none: &T) {
    if from != 0 || (comes != none && comes != is_there) {
        *into = from;
    }
}

/// A record over another one of the same call.
pub(super) fn record(into: &mut CallRecord, from: &CallRecord) {
    let CallRecord {
        variant,
        business_id,
        app_id,
        robot_id,
        call_uuid,
        caller,
        callee,
        direction,
        direction_code,
        time_answer,
        time_hangup,
        duration_ring,
        duration_call,
        call_relation_id,
        task_id: task,
        task_data_id,
        time_dial,
        time_ring,
        task_result,
        task_result_code,
        task_result_desc,
        task_tries,
        task_row_index,
        task_row_head,
        task_row_value,
    } = from;
    if into.variant() != CallRecordVariant::Outbound {
        into.variant = *variant;
    }
    read_from(
        &mut into.direction,
        *direction,
        &into.direction_code,
        direction_code,
        &None,
    );
    read_from(
        &mut into.task_result,
        *task_result,
        &into.task_result_code,
        task_result_code,
        &String::new(),
    );
    text(&mut into.business_id, business_id);
    text(&mut into.app_id, app_id);
    text(&mut into.robot_id, robot_id);
    text(&mut into.call_uuid, call_uuid);
    text(&mut into.caller, caller);
    text(&mut into.callee, callee);
    number(&mut into.direction_code, *direction_code);
    time(&mut into.time_answer, *time_answer);
    time(&mut into.time_hangup, *time_hangup);
    number(&mut into.duration_ring, *duration_ring);
    number(&mut into.duration_call, *duration_call);
    text(&mut into.call_relation_id, call_relation_id);
    task_id(&mut into.task_id, task);
    text(&mut into.task_data_id, task_data_id);
    time(&mut into.time_dial, *time_dial);
    time(&mut into.time_ring, *time_ring);
    text(&mut into.task_result_code, task_result_code);
    text(&mut into.task_result_desc, task_result_desc);
    number(&mut into.task_tries, *task_tries);
    number(&mut into.task_row_index, *task_row_index);
    list(&mut into.task_row_head, task_row_head);
    list(&mut into.task_row_value, task_row_value);
}

/// A recording over another one of the same call.
pub(super) fn voice(into: &mut Voice, from: &Voice) {
    let Voice {
        business_id,
        app_id,
        robot_id,
        task_data_id,
        call_relation_id,
        call_uuid,
        url,
        size,
        duration,
        absolute_url,
        archived_url,
        archive_error,
    } = from;
    text(&mut into.business_id, business_id);
    text(&mut into.app_id, app_id);
    text(&mut into.robot_id, robot_id);
    text(&mut into.task_data_id, task_data_id);
    text(&mut into.call_relation_id, call_relation_id);
    text(&mut into.call_uuid, call_uuid);
    if !url.is_empty() {
        if into.url != *url {
            // The copy was of another recording.
            into.archived_url.clear();
            into.archive_error.clear();
        }
        // The one is made from the other.
        into.url.clone_from(url);
        into.absolute_url.clone_from(absolute_url);
    }
    number(&mut into.size, *size);
    number(&mut into.duration, *duration);
    copy(into, archived_url, archive_error);
}

/// What became of a recording over what is known of it: nothing, if another one has taken its
/// place.
pub(super) fn archived(into: &mut Voice, from: &Voice) {
    if into.url.is_empty() {
        voice(into, from);
    } else if into.url == from.url {
        copy(into, &from.archived_url, &from.archive_error);
    }
}

/// A copy over what was known of it; that there is none over nothing alone.
fn copy(into: &mut Voice, url: &str, error: &str) {
    if !url.is_empty() {
        url.clone_into(&mut into.archived_url);
        error.clone_into(&mut into.archive_error);
    } else if into.archived_url.is_empty() {
        text(&mut into.archive_error, error);
    }
}

/// A dialog over another one of the same call; its turns as a whole.
pub(super) fn dialog(into: &mut Dialog, from: &Dialog) {
    let Dialog {
        business_id,
        app_id,
        robot_id,
        task_id: task,
        task_data_id,
        call_relation_id,
        call_uuid,
        time_begin,
        time_end,
        tag_max,
        tag_min,
        dialog,
    } = from;
    text(&mut into.business_id, business_id);
    text(&mut into.app_id, app_id);
    text(&mut into.robot_id, robot_id);
    task_id(&mut into.task_id, task);
    text(&mut into.task_data_id, task_data_id);
    text(&mut into.call_relation_id, call_relation_id);
    text(&mut into.call_uuid, call_uuid);
    time(&mut into.time_begin, *time_begin);
    time(&mut into.time_end, *time_end);
    text(&mut into.tag_max, tag_max);
    text(&mut into.tag_min, tag_min);
    list(&mut into.dialog, dialog);
}
