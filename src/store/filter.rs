//! Which events a subscriber wants.

use std::collections::HashSet;
use std::hash::Hash;

use super::Entry;
use super::entry::id_hash;
use crate::proto::PushFilter;

/// A filter: within a list any value matches, between lists all must. It reads nothing of an entry
/// but its header.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    kinds: HashSet<i32>,
    /// `None`: all. An empty set is none at all.
    accounts: Option<HashSet<String>>,
    app_ids: HashSet<u64>,
    robot_ids: HashSet<u64>,
    task_ids: HashSet<u64>,
    task_data_ids: HashSet<u64>,
    call_relation_ids: HashSet<u64>,
    call_uuids: HashSet<u64>,
}

impl Filter {
    /// The filter that a caller asked for, within the accounts that it may see; `None`: all.
    pub fn new(wanted: PushFilter, visible: Option<Vec<String>>) -> Self {
        let wanted_accounts: HashSet<_> = wanted.accounts.into_iter().collect();
        let visible: Option<HashSet<_>> = visible.map(|visible| visible.into_iter().collect());
        let accounts = match visible {
            Some(visible) if wanted_accounts.is_empty() => Some(visible),
            Some(visible) => Some(&wanted_accounts & &visible),
            None => (!wanted_accounts.is_empty()).then_some(wanted_accounts),
        };
        let hashes = |list: Vec<String>| list.iter().map(|id| id_hash(id)).collect();
        Self {
            kinds: wanted.kinds.into_iter().collect(),
            accounts,
            app_ids: hashes(wanted.app_ids),
            robot_ids: hashes(wanted.robot_ids),
            task_ids: hashes(wanted.task_ids),
            task_data_ids: hashes(wanted.task_data_ids),
            call_relation_ids: hashes(wanted.call_relation_ids),
            call_uuids: hashes(wanted.call_uuids),
        }
    }

    /// Whether an entry is wanted.
    pub fn matches(&self, entry: &Entry) -> bool {
        let header = &entry.header;
        let accounts = self.accounts.as_ref();
        accounts.is_none_or(|accounts| accounts.contains(&header.account))
            && matches(&self.kinds, &header.kind)
            && matches(&self.app_ids, &header.app_id)
            && matches(&self.robot_ids, &header.robot_id)
            && matches(&self.task_ids, &header.task_id)
            && matches(&self.task_data_ids, &header.task_data_id)
            && matches(&self.call_relation_ids, &header.call_relation_id)
            && matches(&self.call_uuids, &header.call_uuid)
    }
}

fn matches<T: Eq + Hash>(wanted: &HashSet<T>, value: &T) -> bool {
    wanted.is_empty() || wanted.contains(value)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::push_event::Payload;
    use crate::proto::{CallRecord, PushEvent, PushKind};
    use crate::push::{Cursor, EventId, Position, StoreId};
    use crate::store::{Header, NewEntry};

    /// A record of account `a` and task `t` whose bytes are no event.
    fn undecodable() -> Entry {
        let event = PushEvent {
            account: "a".into(),
            kind: PushKind::CallRecord.into(),
            payload: Some(Payload::CallRecord(CallRecord {
                task_id: "t".into(),
                ..CallRecord::default()
            })),
            ..PushEvent::default()
        };
        let entry = NewEntry {
            id: EventId::from_bytes([0; 16]),
            header: Header::of(&event),
            event: Bytes::from_static(b"\xff"),
            raw: Bytes::new(),
        };
        let cursor = Cursor {
            store: StoreId([0; 8]),
            position: Position(1),
        };
        Entry::new(cursor, 0, entry)
    }

    #[test]
    fn the_header_alone_decides() {
        let visible = |accounts: &[&str]| Some(accounts.iter().map(|&it| it.into()).collect());
        let kinds = |kind: PushKind| PushFilter {
            kinds: vec![kind.into()],
            ..PushFilter::default()
        };
        let task = |id: &str| PushFilter {
            task_ids: vec!["other".into(), id.into()],
            ..PushFilter::default()
        };
        let call = PushFilter {
            call_uuids: vec!["c".into()],
            ..PushFilter::default()
        };
        for (wanted, visible, expected) in [
            (PushFilter::default(), None, true),
            (PushFilter::default(), visible(&["a"]), true),
            (PushFilter::default(), visible(&["b"]), false),
            (PushFilter::default(), visible(&[]), false),
            (kinds(PushKind::CallRecord), None, true),
            (kinds(PushKind::Dialog), None, false),
            (kinds(PushKind::Dialog), visible(&["a"]), false),
            (task("t"), None, true),
            (task("t"), visible(&["a"]), true),
            (task("t"), visible(&["b"]), false),
            (task("u"), None, false),
            (task(""), None, false),
            (call, None, false),
        ] {
            let filter = Filter::new(wanted.clone(), visible.clone());
            let matches = filter.matches(&undecodable());
            assert_eq!(matches, expected, "{wanted:?} {visible:?}");
        }
    }
}
