//! What the projection keeps of a call, and under which keys.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::proto::CallState;

/// A text longer than this stands in a key by its hash.
const LONGEST: u8 = 128;

/// Names a call: its `call_uuid`, so that it is found by that alone, then its account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct CallKey(Vec<u8>);

impl CallKey {
    pub fn new(account: &str, call_uuid: &str) -> Self {
        let mut key = Self::prefix(call_uuid);
        key.extend_from_slice(account.as_bytes());
        Self(key)
    }

    /// What the keys of a `call_uuid` begin with.
    pub fn prefix(call_uuid: &str) -> Vec<u8> {
        let mut key = Vec::new();
        put_text(&mut key, call_uuid);
        key
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is of one of these accounts; `None`: of any.
    pub fn is_of(&self, accounts: Option<&BTreeSet<String>>) -> bool {
        let holds = |accounts: &BTreeSet<String>| {
            std::str::from_utf8(self.account()).is_ok_and(|account| accounts.contains(account))
        };
        accounts.is_none_or(holds)
    }

    /// The account, as the key holds it.
    pub fn account(&self) -> &[u8] {
        let text = match self.0.first() {
            Some(&len) if len <= LONGEST => usize::from(len),
            _ => Sha256::output_size(),
        };
        self.0.get(1 + text..).unwrap_or_default()
    }
}

/// A text so that no two run together with what follows them.
fn put_text(key: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(len) if len <= LONGEST => {
            key.push(len);
            key.extend_from_slice(text.as_bytes());
        }
        _ => {
            key.push(u8::MAX);
            key.extend_from_slice(&Sha256::digest(text));
        }
    }
}

/// Where a call stands among all: by the time of its first push, then by that push's place in the
/// log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    pub first_ms: u64,
    pub position: u64,
}

impl Order {
    pub const LEN: usize = 16;

    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.first_ms.to_be_bytes());
        bytes[8..].copy_from_slice(&self.position.to_be_bytes());
        bytes
    }

    /// The order that a key ends with.
    pub fn from_end(key: &[u8]) -> Option<Self> {
        let (_, order) = key.split_last_chunk::<{ Self::LEN }>()?;
        let (first_ms, position) = order.split_first_chunk()?;
        Some(Self {
            first_ms: u64::from_be_bytes(*first_ms),
            position: u64::from_be_bytes(position.try_into().ok()?),
        })
    }
}

/// The lists that calls stand in, each in order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Index<'a> {
    All,
    Task(&'a str),
    TaskData(&'a str),
    RowKey(&'a str),
    CallRelation(&'a str),
    Callee(&'a str),
    /// Those whose recording lies at this address.
    Voice(&'a str),
    /// Those that wait for something, until this time.
    Due(u64),
    /// Those whose last content is not in the log yet.
    Pending,
}

impl Index<'_> {
    /// What the keys of the list begin with.
    pub fn prefix(self) -> Vec<u8> {
        let (list, text) = match self {
            Self::All => (0, None),
            Self::Task(id) => (1, Some(id)),
            Self::TaskData(id) => (2, Some(id)),
            Self::RowKey(key) => (3, Some(key)),
            Self::CallRelation(id) => (4, Some(id)),
            Self::Callee(number) => (5, Some(number)),
            Self::Due(deadline_ms) => {
                return [&[6], deadline_ms.to_be_bytes().as_slice()].concat();
            }
            Self::Pending => (7, None),
            Self::Voice(url) => (8, Some(url)),
        };
        let mut key = vec![list];
        if let Some(text) = text {
            put_text(&mut key, text);
        }
        key
    }

    /// The bounds of all keys of the list.
    pub fn whole(self) -> (Vec<u8>, Vec<u8>) {
        let from = self.prefix();
        let mut to = from.clone();
        to.extend_from_slice(&[u8::MAX; Order::LEN + 1]);
        (from, to)
    }

    pub fn key(self, order: Order) -> Vec<u8> {
        let mut key = self.prefix();
        key.extend_from_slice(&order.to_bytes());
        key
    }
}

/// What must be known of a call without looking into it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(enumeration = "CallState", tag = "1")]
    pub state: i32,
    #[prost(int32, tag = "2")]
    pub outcome: i32,
    #[prost(bool, tag = "3")]
    pub answered: bool,
    /// Of the last event of the call in the log.
    #[prost(uint32, tag = "4")]
    pub revision: u32,
    /// Its id.
    #[prost(bytes = "bytes", tag = "5")]
    pub emitted: Bytes,
    /// When the first push was received.
    #[prost(uint64, tag = "6")]
    pub first_ms: u64,
    #[prost(uint64, tag = "7")]
    pub first_position: u64,
    /// Where the newest event of the call stands in the log.
    #[prost(uint64, tag = "8")]
    pub last_position: u64,
    /// Until when the call waits for what is missing.
    #[prost(uint64, tag = "9")]
    pub deadline_ms: u64,
    /// Whether that has passed while something was missing.
    #[prost(bool, tag = "10")]
    pub is_closed: bool,
    /// Whether the last content is final and not in the log yet.
    #[prost(bool, tag = "11")]
    pub is_pending: bool,
    #[prost(string, tag = "12")]
    pub task_id: String,
    #[prost(string, tag = "13")]
    pub task_data_id: String,
    #[prost(string, tag = "14")]
    pub row_key: String,
    #[prost(string, tag = "15")]
    pub call_relation_id: String,
    #[prost(string, tag = "16")]
    pub callee: String,
    /// The whole address of its recording, in the form that URLs are compared in.
    #[prost(string, tag = "17")]
    pub voice_url: String,
}

impl Summary {
    pub fn order(&self) -> Order {
        Order {
            first_ms: self.first_ms,
            position: self.first_position,
        }
    }

    /// The keys under which the call stands in lists.
    pub fn index_keys(&self) -> BTreeSet<Vec<u8>> {
        let texts = [
            Index::Task(&self.task_id),
            Index::TaskData(&self.task_data_id),
            Index::RowKey(&self.row_key),
            Index::CallRelation(&self.call_relation_id),
            Index::Callee(&self.callee),
            Index::Voice(&self.voice_url),
        ];
        let named = texts.into_iter().filter(|index| {
            !matches!(
                index,
                Index::Task("")
                    | Index::TaskData("")
                    | Index::RowKey("")
                    | Index::CallRelation("")
                    | Index::Callee("")
                    | Index::Voice("")
            )
        });
        let mut indexes: Vec<_> = named.collect();
        indexes.push(Index::All);
        if self.state() == CallState::Partial {
            indexes.push(Index::Due(self.deadline_ms));
        }
        if self.is_pending {
            indexes.push(Index::Pending);
        }
        let order = self.order();
        indexes.into_iter().map(|index| index.key(order)).collect()
    }
}

/// The pushes that a call is made of.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Parts {
    #[prost(message, repeated, tag = "1")]
    pub parts: Vec<Part>,
}

/// One of them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Part {
    /// Where it stands in the log.
    #[prost(uint64, tag = "1")]
    pub position: u64,
    /// Its id.
    #[prost(bytes = "bytes", tag = "2")]
    pub id: Bytes,
    /// The `PushEvent`, encoded.
    #[prost(bytes = "bytes", tag = "3")]
    pub event: Bytes,
    /// Whether it is an earlier `PUSH_KIND_CALL` event.
    #[prost(bool, tag = "4")]
    pub is_call: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_holds_its_account_whatever_the_call_uuid(call_uuid in ".{0,200}", account in "[a-z]{0,9}") {
            let key = CallKey::new(&account, &call_uuid);
            prop_assert_eq!(key.account(), account.as_bytes());
            prop_assert!(key.as_bytes().starts_with(&CallKey::prefix(&call_uuid)));
        }

        #[test]
        fn keys_stand_in_the_order_of_their_calls_and_apart_by_list(
            a: (u64, u64), b: (u64, u64), one in ".{0,9}", other in ".{0,9}",
        ) {
            let order = |(first_ms, position)| Order { first_ms, position };
            let (a, b) = (order(a), order(b));
            let keys = (Index::Task(&one).key(a), Index::Task(&one).key(b));
            prop_assert_eq!(keys.0.cmp(&keys.1), a.cmp(&b));
            prop_assert_eq!(Order::from_end(&keys.0), Some(a));
            if one != other {
                prop_assert!(!Index::Task(&other).key(a).starts_with(&Index::Task(&one).prefix()));
            }
            prop_assert!(!Index::RowKey(&one).key(a).starts_with(&Index::Task(&one).prefix()));
        }
    }
}
