//! Reads a page of calls, newest first.

use std::collections::{BTreeSet, BinaryHeap};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use super::projection::{Disk, View};
use super::stored::{CallKey, Index, Order, Summary};
use super::{CallPage, CallQuery, CallsError};

/// A page may end early after so many calls looked at, so that no request holds on for long.
const LOOK_AT: usize = 10_000;
/// A page ends once its calls have so many bytes: clients take messages of 4 MiB by default.
const PAGE_BYTES: usize = 2 << 20;

/// Which calls are wanted, ready to be looked for.
pub(super) struct Search {
    query: CallQuery,
    task_ids: BTreeSet<String>,
    task_data_ids: BTreeSet<String>,
    row_keys: BTreeSet<String>,
    call_relation_ids: BTreeSet<String>,
    callees: BTreeSet<String>,
    /// The first order wanted.
    from: Order,
    /// The first order, upwards, that is not wanted any more.
    to: Option<Order>,
    /// Tells this list from others: a page's token is good for its own alone.
    fingerprint: u32,
}

impl Search {
    pub fn new(mut query: CallQuery) -> Result<Self, CallsError> {
        let start_of = |time| Order {
            first_ms: milliseconds_up(time),
            position: 0,
        };
        let set = |list: &mut Vec<String>| std::mem::take(list).into_iter().collect();
        let mut search = Self {
            task_ids: set(&mut query.task_ids),
            task_data_ids: set(&mut query.task_data_ids),
            row_keys: set(&mut query.row_keys),
            call_relation_ids: set(&mut query.call_relation_ids),
            callees: set(&mut query.callees),
            from: query.since.map(start_of).unwrap_or_default(),
            to: query.until.map(start_of),
            fingerprint: 0,
            query,
        };
        search.fingerprint = search.hash();
        if !search.query.page_token.is_empty() {
            let after = parse_token(&search.query.page_token, search.fingerprint);
            let after = after.ok_or(CallsError::BadPageToken)?;
            search.to = Some(search.to.map_or(after, |until| until.min(after)));
        }
        Ok(search)
    }

    /// A checksum of what is wanted, in whatever order it was listed. With another filter the
    /// place that a token names would pass over calls in silence.
    fn hash(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for list in [
            &self.task_ids,
            &self.task_data_ids,
            &self.row_keys,
            &self.call_relation_ids,
            &self.callees,
        ] {
            for value in list {
                hasher.update(&value.len().to_be_bytes());
                hasher.update(value.as_bytes());
            }
            // No value is so long: this is where the list ends.
            hasher.update(&usize::MAX.to_be_bytes());
        }
        let CallQuery {
            outcomes, states, ..
        } = &self.query;
        let outcomes: BTreeSet<i32> = outcomes.iter().map(|outcome| *outcome as i32).collect();
        let states: BTreeSet<i32> = states.iter().map(|state| *state as i32).collect();
        let rest = (self.from, self.to, outcomes, states, self.query.answered);
        hasher.update(format!("{rest:?}").as_bytes());
        hasher.finalize()
    }

    /// Reads the page.
    pub fn run(&self, disk: &Disk) -> fjall::Result<CallPage> {
        let view = disk.view();
        let mut newest = Newest::new(&view, &self.indexes(), self.from, self.to)?;
        let mut calls = Vec::new();
        let (mut looked_at, mut bytes) = (0, 0);
        while let Some((order, key)) = newest.next()? {
            looked_at += 1;
            if let Some(call) = self.look_at(&view, &key)? {
                bytes += call.len();
                calls.push(Bytes::from_owner(call));
            }
            let is_full = calls.len() >= self.query.size || bytes >= PAGE_BYTES;
            if is_full || looked_at >= LOOK_AT {
                let next = newest.has_more().then(|| token(order, self.fingerprint));
                return Ok(CallPage { calls, next });
            }
        }
        Ok(CallPage { calls, next: None })
    }

    /// The lists of the field that leaves the fewest calls.
    fn indexes(&self) -> Vec<Index<'_>> {
        fn of<'a>(values: &'a BTreeSet<String>, index: fn(&'a str) -> Index<'a>) -> Vec<Index<'a>> {
            values.iter().map(|value| index(value)).collect()
        }
        let fields = [
            of(&self.task_data_ids, Index::TaskData),
            of(&self.call_relation_ids, Index::CallRelation),
            of(&self.row_keys, Index::RowKey),
            of(&self.callees, Index::Callee),
            of(&self.task_ids, Index::Task),
        ];
        let given = fields.into_iter().find(|indexes| !indexes.is_empty());
        given.unwrap_or_else(|| vec![Index::All])
    }

    /// The call's bytes, if it is wanted.
    fn look_at(&self, view: &View<'_>, key: &CallKey) -> fjall::Result<Option<fjall::Slice>> {
        if !key.is_of(self.query.accounts.as_ref()) {
            return Ok(None);
        }
        if self.looks_inside() {
            let summary = view.summary(key)?;
            if !summary.is_some_and(|summary| self.matches(&summary)) {
                return Ok(None);
            }
        }
        view.call(key)
    }

    /// Whether the list alone does not tell which calls are wanted.
    fn looks_inside(&self) -> bool {
        let lists = [
            &self.task_ids,
            &self.task_data_ids,
            &self.row_keys,
            &self.call_relation_ids,
            &self.callees,
        ];
        lists.iter().filter(|list| !list.is_empty()).count() > 1
            || !self.query.outcomes.is_empty()
            || !self.query.states.is_empty()
            || self.query.answered.is_some()
    }

    fn matches(&self, summary: &Summary) -> bool {
        let is_in =
            |wanted: &BTreeSet<String>, value: &String| wanted.is_empty() || wanted.contains(value);
        let (outcomes, states) = (&self.query.outcomes, &self.query.states);
        is_in(&self.task_ids, &summary.task_id)
            && is_in(&self.task_data_ids, &summary.task_data_id)
            && is_in(&self.row_keys, &summary.row_key)
            && is_in(&self.call_relation_ids, &summary.call_relation_id)
            && is_in(&self.callees, &summary.callee)
            && (outcomes.is_empty() || outcomes.iter().any(|o| *o as i32 == summary.outcome))
            && (states.is_empty() || states.contains(&summary.state()))
            && self
                .query
                .answered
                .is_none_or(|answered| answered == summary.answered)
    }
}

/// Several lists as one, newest first.
struct Newest<I> {
    lists: Vec<I>,
    /// The newest call left of each list that has any.
    heads: BinaryHeap<Head>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    order: Order,
    list: usize,
    key: CallKey,
}

type Listed = fjall::Result<(Vec<u8>, CallKey)>;

impl Newest<Box<dyn Iterator<Item = Listed>>> {
    fn new(
        view: &View<'_>,
        indexes: &[Index<'_>],
        from: Order,
        to: Option<Order>,
    ) -> fjall::Result<Self> {
        let mut newest = Self {
            lists: Vec::with_capacity(indexes.len()),
            heads: BinaryHeap::with_capacity(indexes.len()),
        };
        if to.is_some_and(|to| to <= from) {
            return Ok(newest);
        }
        for (list, index) in indexes.iter().enumerate() {
            let (_, end) = index.whole();
            let to = to.map_or(end, |to| index.key(to));
            newest
                .lists
                .push(Box::new(view.list(index.key(from), to).rev()));
            newest.advance(list)?;
        }
        Ok(newest)
    }

    fn next(&mut self) -> fjall::Result<Option<(Order, CallKey)>> {
        let Some(Head { order, list, key }) = self.heads.pop() else {
            return Ok(None);
        };
        self.advance(list)?;
        Ok(Some((order, key)))
    }

    fn advance(&mut self, list: usize) -> fjall::Result<()> {
        let next = self.lists[list].next().transpose()?;
        self.heads.extend(next.and_then(|(index_key, key)| {
            let order = Order::from_end(&index_key)?;
            Some(Head { order, list, key })
        }));
        Ok(())
    }

    fn has_more(&self) -> bool {
        !self.heads.is_empty()
    }
}

/// Rounded up: a call stamped within the same millisecond may have come before.
fn milliseconds_up(time: SystemTime) -> u64 {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

const TOKEN_VERSION: u8 = 1;

/// The token of the page that follows a call: base64url of a version, the call's order and a
/// checksum that turns a mistyped token, and one of another list, into an error.
fn token(order: Order, fingerprint: u32) -> String {
    URL_SAFE_NO_PAD.encode(token_bytes(order, fingerprint))
}

fn token_bytes(order: Order, fingerprint: u32) -> Vec<u8> {
    let mut bytes = vec![TOKEN_VERSION];
    bytes.extend_from_slice(&order.to_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(&fingerprint.to_be_bytes());
    bytes.extend_from_slice(&hasher.finalize().to_be_bytes());
    bytes
}

fn parse_token(token: &str, fingerprint: u32) -> Option<Order> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let order = Order::from_end(bytes.get(..1 + Order::LEN)?)?;
    (token_bytes(order, fingerprint) == bytes).then_some(order)
}

#[cfg(test)]
mod tests;
