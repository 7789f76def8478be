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
    /// Whether any id is asked for, so that events must be decoded.
    has_ids: bool,
    /// Whether everything matches.
    is_open: bool,
}

impl Filter {
    /// The filter that a caller asked for, within the accounts that it may see; `None`: all.
    pub fn new(wanted: PushFilter, visible: Option<Vec<String>>) -> Self {
        let is_open = wanted == PushFilter::default() && visible.is_none();
        let of_ids = PushFilter {
            kinds: Vec::new(),
            accounts: Vec::new(),
            ..wanted.clone()
        };
        let has_ids = of_ids != PushFilter::default();
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
            has_ids,
            is_open,
        }
    }

    /// Whether an entry is wanted. Account and kind come from the entry's header. An event whose
    /// ids cannot be decoded matches only where no account is ruled out.
    pub fn matches(&self, entry: &Entry) -> bool {
        if self.is_open {
            return true;
        }
        let accounts = self.accounts.as_ref();
        (self.kinds.is_empty() || self.kinds.contains(&entry.header.kind))
            && accounts.is_none_or(|accounts| accounts.contains(&entry.header.account))
            && (!self.has_ids
                || entry
                    .decoded()
                    .map_or(accounts.is_none(), |event| self.matches_ids(event)))
    }

    fn matches_ids(&self, event: &PushEvent) -> bool {
        let ids = Ids::of(event);
        matches(&self.app_ids, ids.app)
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::PushKind;
    use crate::push::{Cursor, EventId, Position, StoreId};
    use crate::store::{Header, NewEntry};

    /// A voice push of account `a` whose bytes are no event.
    fn undecodable() -> Entry {
        let cursor = Cursor {
            store: StoreId([0; 8]),
            position: Position(1),
        };
        let entry = NewEntry {
            id: EventId::from_bytes([0; 16]),
            header: Header {
                account: "a".into(),
                kind: PushKind::Voice.into(),
            },
            event: Bytes::from_static(b"\xff"),
            raw: Bytes::new(),
        };
        Entry::new(cursor, 0, entry)
    }

    #[test]
    fn account_and_kind_decide_without_decoding_and_unreadable_ids_match_no_restricted_reader() {
        let visible = |accounts: &[&str]| Some(accounts.iter().map(|&it| it.into()).collect());
        let kinds = |kind: PushKind| PushFilter {
            kinds: vec![kind.into()],
            ..PushFilter::default()
        };
        let task = || PushFilter {
            task_ids: vec!["t".into()],
            ..PushFilter::default()
        };
        for (wanted, visible, expected) in [
            (PushFilter::default(), None, true),
            (PushFilter::default(), visible(&["a"]), true),
            (PushFilter::default(), visible(&["b"]), false),
            (PushFilter::default(), visible(&[]), false),
            (kinds(PushKind::Voice), None, true),
            (kinds(PushKind::Dialog), None, false),
            (kinds(PushKind::Dialog), visible(&["a"]), false),
            (task(), None, true),
            (task(), visible(&["a"]), false),
            (task(), visible(&["b"]), false),
        ] {
            let filter = Filter::new(wanted.clone(), visible.clone());
            let matches = filter.matches(&undecodable());
            assert_eq!(matches, expected, "{wanted:?} {visible:?}");
        }
    }
}
