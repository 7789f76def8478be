//! Requests without a request id.
//!
//! They are not recorded before they are sent. Yet what they have claimed, or may have claimed,
//! must not be taken for the outcome of another submission. So while one is in flight the index
//! has its rows; its answer claims its ids; and without an answer it becomes a record like any
//! other. Answers of a few milliseconds go into the store together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::awaited::{self, Awaited, AwaitedRow};
use super::ledger::Ledger;
use super::open::InFlight;
use super::record::{self, Claims, Key, Record};
use super::request::Submit;
use super::requests::{NO_TASK, event_of};
use super::state::Event;
use super::{Caller, trust};
use crate::platform::{Platform, PlatformError};
use crate::proto::SubmissionState;
use crate::proto::submission::Request;
use crate::store::NoteChange;

/// The ended requests that wait for the store.
const QUEUE: usize = 4096;
/// Answers gather for this long.
const LINGER: Duration = Duration::from_millis(20);
/// At the end, the store gets this long.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// The rows in one note of awaited rows.
const ROWS: usize = 50;
/// The keys in one note of claims.
const KEYS: usize = 500;

/// Follows requests without an id to their ends.
pub(super) struct Untracked {
    ledger: Arc<Ledger>,
    platform: Arc<Platform>,
    ended: mpsc::Sender<Ended>,
    queue: tokio::sync::Mutex<mpsc::Receiver<Ended>>,
    /// Whether the last one found no room in the queue.
    is_overfull: AtomicBool,
}

/// A request that has ended, and left something to be written.
struct Ended {
    record: Record,
    /// Its mark, to be removed once that is written.
    mark: Mark,
    /// Of one without an answer, or whose answer lacks ids.
    open: Option<(InFlight, Event)>,
    answered_ms: u64,
}

/// Stands in the store while unrecorded requests are in flight.
struct Mark {
    ledger: Arc<Ledger>,
    place: String,
}

impl Drop for Mark {
    fn drop(&mut self) {
        // A panic proves nothing about the request.
        if !std::thread::panicking() {
            self.ledger.trust.end(&self.place);
        }
    }
}

impl Untracked {
    pub fn new(ledger: Arc<Ledger>, platform: Arc<Platform>) -> Self {
        let (ended, queue) = mpsc::channel(QUEUE);
        Self {
            ledger,
            platform,
            ended,
            queue: queue.into(),
            is_overfull: AtomicBool::new(false),
        }
    }

    /// Does what is asked for, as [`Platform::call`] does.
    pub async fn call<S: Submit>(
        self: &Arc<Self>,
        caller: Caller<'_>,
        request: &S,
        deadline: Option<Instant>,
    ) -> Result<S::Reply, PlatformError> {
        let (ledger, account) = (&self.ledger, caller.account);
        let sent = Arc::new(request.written());
        let mark = Mark {
            ledger: ledger.clone(),
            place: ledger.trust.begin(account, &sent),
        };
        ledger.trust.mark(ledger.notes.as_ref(), &mark.place).await;
        let mut record = Record::new(ledger.draft(account, caller.client, S::OPERATION));
        record.get_mut().set_state(SubmissionState::InFlight);
        let key = Key::random(account);
        let flight = ledger.index.begin(&key, &record, sent.clone(), false);
        let untracked = self.clone();
        let observe = move |result: Result<&S::Reply, &PlatformError>| {
            let result = result.cloned();
            untracked.end::<S>(flight, record, &sent, mark, result);
        };
        let reply = self
            .platform
            .call_observed(account, request, deadline, observe);
        let reply = reply.await?;
        if S::is_usable(&reply) {
            return Ok(reply);
        }
        Err(PlatformError::OutcomeUnknown {
            detail: NO_TASK.to_owned(),
            timed_out: false,
        })
    }

    /// A request has ended, whether its caller waits or not.
    fn end<S: Submit>(
        &self,
        flight: InFlight,
        mut record: Record,
        sent: &Request,
        mark: Mark,
        result: Result<S::Reply, &PlatformError>,
    ) {
        record.get_mut().request = Some(sent.clone());
        let event = event_of::<S>(result, record.get_mut());
        let claims = record::claimed(record.get());
        let claims: Vec<_> = claims.into_iter().map(|claim| claim.key).collect();
        let account = record.get().account.clone();
        let is_named = !record::ids(record.get()).iter().any(String::is_empty);
        let open = match event {
            // Nothing is left of it.
            Event::NotSent | Event::Refused => return flight.end(None),
            Event::Accepted if is_named => {
                self.ledger.index.claim(&account, &claims);
                flight.end(None);
                None
            }
            event => Some((flight, event)),
        };
        let ended = Ended {
            record,
            mark,
            open,
            answered_ms: self.ledger.now_ms(),
        };
        let left_out = self.ended.try_send(ended).err();
        let was_overfull = self.is_overfull.swap(left_out.is_some(), Ordering::Relaxed);
        if let Some(left_out) = left_out {
            let ended = left_out.into_inner();
            let now_ms = self.ledger.now_ms();
            self.ledger.trust.give_up(&ended.mark.place, now_ms);
            self.ledger.index.unclaim(&account, &claims);
            if !was_overfull {
                tracing::warn!(account, "answers without a request id are not noted");
            }
        }
    }

    /// Writes what ended requests leave, as they end; at the end, what has ended by then.
    pub async fn run(&self, end: &CancellationToken) {
        let mut queue = self.queue.lock().await;
        let mut gathered = Vec::new();
        loop {
            let is_end = tokio::select! {
                biased;
                count = queue.recv_many(&mut gathered, QUEUE) => count == 0,
                () = end.cancelled() => true,
                () = sleep(trust::LINGER), if self.ledger.trust.has_markers() => {
                    // The sweep tries it again.
                    let notes = self.ledger.notes.as_ref();
                    let _ = self.ledger.trust.tidy(notes, trust::LINGER).await;
                    false
                }
            };
            if !is_end && !gathered.is_empty() {
                // Cut short by the end.
                let _ = end.run_until_cancelled(sleep(LINGER)).await;
            }
            while let Ok(more) = queue.try_recv() {
                gathered.push(more);
            }
            self.write(std::mem::take(&mut gathered), end).await;
            if is_end {
                // What is not tidied is taken for a crash by the next process.
                let _ = self
                    .ledger
                    .trust
                    .tidy(self.ledger.notes.as_ref(), Duration::ZERO)
                    .await;
                return;
            }
        }
    }

    async fn write(&self, ended: Vec<Ended>, end: &CancellationToken) {
        let mut answered = Vec::new();
        for mut ended in ended {
            match ended.open.take() {
                Some(_) if self.ledger.index.is_full(&ended.record.get().account) => {
                    let now_ms = self.ledger.now_ms();
                    self.ledger.trust.give_up(&ended.mark.place, now_ms);
                }
                Some((flight, event)) => {
                    let (ledger, record) = (&self.ledger, ended.record);
                    let concluded = ledger.conclude(flight, record, event);
                    // The store takes nothing; its record is lost with this process.
                    if end.run_until_cancelled(concluded).await.is_none() {
                        std::mem::forget(ended.mark);
                    }
                }
                None => answered.push(ended),
            }
        }
        let changes = changes(&answered, self.ledger.age.now_ms());
        if changes.is_empty() {
            return;
        }
        let written = self.ledger.write_surely(changes);
        let at_end = async {
            end.cancelled().await;
            // The process ends.
            sleep(LAST_WRITE).await;
        };
        let is_written = tokio::select! {
            biased;
            written = written => written.is_ok(),
            () = at_end => false,
        };
        if !is_written {
            // Their marks stay.
            answered.into_iter().for_each(std::mem::forget);
            return;
        }
        for ended in &answered {
            let submission = ended.record.get();
            let claims = record::claimed(submission);
            let claims: Vec<_> = claims.into_iter().map(|claim| claim.key).collect();
            self.ledger.index.unclaim(&submission.account, &claims);
            if self.ledger.index.has_rows(&submission.account) {
                let key = Key::random(&submission.account);
                self.ledger.reconsider(&key, &ended.record).await;
            }
        }
    }
}

/// What answered requests leave in the store: the ids that they claim, and the rows whose records
/// are awaited from now on.
fn changes(answered: &[Ended], age_ms: u64) -> Vec<NoteChange> {
    let mut together: BTreeMap<(&str, &str), Awaited> = BTreeMap::new();
    let mut claims: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut changes = Vec::new();
    for ended in answered {
        let submission = ended.record.get();
        let account = submission.account.as_str();
        let task_id = awaited::task_id(submission);
        for claim in record::claimed(submission) {
            claims.entry(account).or_default().push(claim.key.clone());
            changes.push(claim);
        }
        let ids = record::ids(submission).iter();
        for task_data_id in ids.filter(|id| !id.is_empty()) {
            // The first of them is answered first.
            let note = together
                .entry((account, task_id))
                .or_insert_with(|| Awaited {
                    submitted_at_ms: ended.answered_ms,
                    task_id: task_id.to_owned(),
                    ..Awaited::default()
                });
            note.rows.push(AwaitedRow {
                task_data_id: task_data_id.clone(),
                row_key: String::new(),
            });
            if note.rows.len() == ROWS {
                changes.push(awaited::put(&Key::random(account), note));
                together.remove(&(account, task_id));
            }
        }
    }
    for ((account, _), note) in &together {
        changes.push(awaited::put(&Key::random(account), note));
    }
    for (account, keys) in claims {
        for keys in keys.chunks(KEYS) {
            let place = Key::random(account).at(&record::claims(account), age_ms);
            let keys = keys.to_vec();
            changes.push(NoteChange::put(place, Claims { keys }.encode_to_vec()));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::submission::Outcome;
    use crate::proto::{CallOutResponse, InsertTaskDataRequest, Submission};

    fn ended(ledger: &Arc<Ledger>, task: &str, ids: std::ops::Range<usize>) -> Ended {
        let record = Record::new(Submission {
            account: "a".to_owned(),
            request: Some(Request::InsertTaskData(InsertTaskDataRequest {
                task_id: task.to_owned(),
                ..InsertTaskDataRequest::default()
            })),
            outcome: Some(Outcome::CallOutResponse(CallOutResponse {
                task_data_ids: ids.map(|id| id.to_string()).collect(),
                ..CallOutResponse::default()
            })),
            ..Submission::default()
        });
        Ended {
            record,
            mark: Mark {
                ledger: ledger.clone(),
                place: String::new(),
            },
            open: None,
            answered_ms: 5,
        }
    }

    #[tokio::test]
    async fn rows_of_one_task_go_together_fifty_at_most_and_each_is_claimed() {
        let ledger = Arc::new(super::super::simulation::empty_ledger().await);
        let answered = [
            ended(&ledger, "", 0..30),
            ended(&ledger, "7", 100..101),
            ended(&ledger, "", 30..60),
        ];
        let changes = changes(&answered, 9);
        let of = |prefix: &str| {
            let keys = changes.iter().map(|change| change.key.as_str());
            keys.filter(|key| key.starts_with(prefix)).count()
        };
        assert_eq!(
            (of("row/a/"), of("awaited/a/"), of("claims/a/")),
            (61, 3, 1)
        );
    }
}
