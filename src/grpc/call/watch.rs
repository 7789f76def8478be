//! One `WatchCalls` stream: the rows that it waits for, and what it has sent.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures_util::stream;
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::Watched;
use crate::calls::{CallQuery, Calls};
use crate::grpc::status;
use crate::proto::push_event::Payload;
use crate::proto::{Call, CallState, WatchCallsResponse};
use crate::relay::{Reader, Source as _, Step};
use crate::store::PushLog;

/// Waits for the calls of rows.
pub(super) struct Watch {
    reader: Reader,
    log: Arc<dyn PushLog>,
    /// Rows that have had no final call yet.
    waiting: HashSet<String>,
    /// Calls to be looked at before there is anything more to wait for.
    found: VecDeque<Call>,
    /// The last revision sent of each call, by account and id.
    sent: HashMap<(String, String), u32>,
    past: Option<Past>,
    deadline: Option<Instant>,
}

/// Where calls are that were final before the stream began.
struct Past {
    calls: Arc<Calls>,
    accounts: Option<BTreeSet<String>>,
    /// Rows that have not been looked up.
    rows: Vec<String>,
}

/// So many rows are looked up at a time.
const LOOKED_UP: usize = 100;
/// So many calls are taken of them at a time.
const PAGE_SIZE: usize = 1000;

impl Watch {
    /// Waits until each of `rows` has had a final call among what `reader` brings, no longer than
    /// `deadline`.
    pub(super) fn new(
        reader: Reader,
        log: Arc<dyn PushLog>,
        rows: HashSet<String>,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            reader,
            log,
            waiting: rows,
            found: VecDeque::new(),
            sent: HashMap::new(),
            past: None,
            deadline,
        }
    }

    /// Begins with the calls that are final already. The reader must start no later than where the
    /// log had been applied to them: then a call that becomes final meanwhile is in one of the two,
    /// or in both.
    pub(super) fn with_past(self, calls: Arc<Calls>, accounts: Option<BTreeSet<String>>) -> Self {
        let rows = self.waiting.iter().cloned().collect();
        Self {
            past: Some(Past {
                calls,
                accounts,
                rows,
            }),
            ..self
        }
    }

    pub(super) fn into_stream(self) -> Watched {
        let calls = stream::try_unfold(self, |mut watch| async {
            let call = watch.next().await?;
            Ok(call.map(|call| (WatchCallsResponse { call: Some(call) }, watch)))
        });
        Box::pin(calls)
    }

    /// The next final call; `None` once every row has had one.
    async fn next(&mut self) -> Result<Option<Call>, Status> {
        loop {
            while let Some(call) = self.found.pop_front() {
                if self.is_news(&call) {
                    self.waiting.remove(&call.task_data_id);
                    return Ok(Some(call));
                }
            }
            if self.waiting.is_empty() {
                return Ok(None);
            }
            let Some(deadline) = self.deadline else {
                self.find().await?;
                continue;
            };
            match timeout_at(deadline, self.find()).await {
                Ok(found) => found?,
                Err(_) => return Err(status::rows_left(self.waiting.len())),
            }
        }
    }

    /// Whether a call is final and has not been sent as it is now.
    fn is_news(&mut self, call: &Call) -> bool {
        let is_final = matches!(call.state(), CallState::Complete | CallState::TimedOut);
        // Without a revision it is about to be added to the log, and comes from there.
        if !is_final || call.revision == 0 {
            return false;
        }
        let name = (call.account.clone(), call.call_uuid.clone());
        let sent = self.sent.insert(name, call.revision);
        sent.is_none_or(|sent| sent < call.revision)
    }

    /// Looks for further calls, in the past first.
    async fn find(&mut self) -> Result<(), Status> {
        if let Some(past) = &mut self.past {
            match past.next().await? {
                Some(calls) => self.found.extend(calls),
                None => self.past = None,
            }
            return Ok(());
        }
        match self.reader.next().await {
            Ok(Step::Events(events)) => {
                let calls = events
                    .iter()
                    .filter_map(|entry| match entry.decode()?.payload {
                        Some(Payload::Call(call)) => Some(call),
                        _ => None,
                    });
                self.found.extend(calls);
                Ok(())
            }
            Ok(Step::Progress { .. }) => Ok(()),
            Err(error) => {
                tracing::info!(%error, left = self.waiting.len(), "a watch has been ended");
                Err(status::of_relay(&error, |at| self.log.cursor(at)))
            }
        }
    }
}

impl Past {
    /// The final calls of the next rows, older ones first; `None` after the last row.
    async fn next(&mut self) -> Result<Option<Vec<Call>>, Status> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        let rest = self.rows.len().saturating_sub(LOOKED_UP);
        let mut query = CallQuery {
            accounts: self.accounts.clone(),
            task_data_ids: self.rows.split_off(rest),
            states: vec![CallState::Complete, CallState::TimedOut],
            size: PAGE_SIZE,
            ..CallQuery::default()
        };
        let mut calls = Vec::new();
        loop {
            let page = self.calls.list(query.clone()).await?;
            let page_calls = page.calls.into_iter();
            calls.extend(page_calls.filter_map(|call| Call::decode(call).ok()));
            match page.next {
                Some(token) => query.page_token = token,
                None => break,
            }
        }
        calls.reverse();
        Ok(Some(calls))
    }
}
