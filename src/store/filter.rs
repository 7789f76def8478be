//! Which events a subscriber wants.

use std::collections::HashSet;

use super::Entry;
use crate::proto::push_event::Payload;
use crate::proto::{PushEvent, PushFilter};

/// A filter: within a list any value matches, between lists all must.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    kinds: HashSet<i32>,
    /// `None`: all. An empty set is none at all.
    accounts: Option<HashSet<String>>,
    app_ids: HashSet<String>,
    robot_ids: HashSet<String>,
    task_ids: HashSet<String>,
    task_data_ids: HashSet<String>,
    call_relation_ids: HashSet<String>,
    call_uuids: HashSet<String>,
    /// Whether everything matches, so that events need not be looked into.
    is_open: bool,
}

impl Filter {
    /// The filter that a caller asked for, within the accounts that it may see; `None`: all.
    pub fn new(wanted: PushFilter, visible: Option<Vec<String>>) -> Self {
        let is_open = wanted == PushFilter::default() && visible.is_none();
        let wanted_accounts: HashSet<_> = wanted.accounts.into_iter().collect();
        let visible: Option<HashSet<_>> = visible.map(|visible| visible.into_iter().collect());
        let accounts = match visible {
            Some(visible) if wanted_accounts.is_empty() => Some(visible),
            Some(visible) => Some(&wanted_accounts & &visible),
            None => (!wanted_accounts.is_empty()).then_some(wanted_accounts),
        };
        let set = |list: Vec<String>| list.into_iter().collect();
        Self {
            kinds: wanted.kinds.into_iter().collect(),
            accounts,
            app_ids: set(wanted.app_ids),
            robot_ids: set(wanted.robot_ids),
            task_ids: set(wanted.task_ids),
            task_data_ids: set(wanted.task_data_ids),
            call_relation_ids: set(wanted.call_relation_ids),
            call_uuids: set(wanted.call_uuids),
            is_open,
        }
    }

    /// Whether an entry is wanted. One whose bytes cannot be decoded is, so that it is not lost.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.is_open
            || entry
                .decoded()
                .is_none_or(|event| self.matches_event(event))
    }

    fn matches_event(&self, event: &PushEvent) -> bool {
        let ids = Ids::of(event);
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self
                .accounts
                .as_ref()
                .is_none_or(|accounts| accounts.contains(&event.account))
            && matches(&self.app_ids, ids.app)
            && matches(&self.robot_ids, ids.robot)
            && matches(&self.task_ids, ids.task)
            && matches(&self.task_data_ids, ids.task_data)
            && matches(&self.call_relation_ids, ids.call_relation)
            && matches(&self.call_uuids, ids.call)
    }
}

fn matches(wanted: &HashSet<String>, value: &str) -> bool {
    wanted.is_empty() || wanted.contains(value)
}

/// What an event belongs to; empty where it does not say.
#[derive(Default)]
struct Ids<'a> {
    app: &'a str,
    robot: &'a str,
    task: &'a str,
    task_data: &'a str,
    call_relation: &'a str,
    call: &'a str,
}

impl<'a> Ids<'a> {
    fn of(event: &'a PushEvent) -> Self {
        match &event.payload {
            Some(Payload::CallRecord(record)) => Self {
                app: &record.app_id,
                robot: &record.robot_id,
                task: &record.task_id,
                task_data: &record.task_data_id,
                call_relation: &record.call_relation_id,
                call: &record.call_uuid,
            },
            Some(Payload::Voice(voice) | Payload::VoiceArchived(voice)) => Self {
                app: &voice.app_id,
                robot: &voice.robot_id,
                task: "",
                task_data: &voice.task_data_id,
                call_relation: &voice.call_relation_id,
                call: &voice.call_uuid,
            },
            Some(Payload::Dialog(dialog)) => Self {
                app: &dialog.app_id,
                robot: &dialog.robot_id,
                task: &dialog.task_id,
                task_data: &dialog.task_data_id,
                call_relation: &dialog.call_relation_id,
                call: &dialog.call_uuid,
            },
            Some(Payload::Call(call)) => Self {
                app: &call.app_id,
                robot: &call.robot_id,
                task: &call.task_id,
                task_data: &call.task_data_id,
                call_relation: &call.call_relation_id,
                call: &call.call_uuid,
            },
            Some(Payload::Unrecognized(_)) | None => Self::default(),
        }
    }
}
