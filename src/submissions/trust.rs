//! Whether evidence can be trusted after a crash.
//!
//! Requests without a request id are not recorded before they are sent. One that was in flight when
//! the process was killed may have been accepted, and nobody knows of it: its call record could be
//! taken for another submission's. So a marker stands in the store while such requests are in
//! flight, one for direct calls and one for each task. A process that finds a marker trusts no
//! call record that could be of the requests before it.
//!
//! One case stays open: a request without an id goes out unmarked while the store takes no writes.
//! If the process is killed before the store recovers, nobody knows of that request.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::SubmissionsError;
use super::record::hashed;
use crate::proto::submission::Request;
use crate::store::{AppendError, NoteChange, Notes, ReadError, Survives};

/// A marker stays this long after the last request that it stands for, so that requests one after
/// the other need not write it each time.
pub(super) const LINGER: Duration = Duration::from_millis(250);
/// A request goes out without its marker if the store takes longer than this.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How many tasks have markers of their own; more share that of all tasks.
const MAX_MARKERS: usize = 1000;
const SLICE: usize = 1000;

/// The markers of all accounts.
pub(super) struct Trust {
    markers: Mutex<HashMap<String, Marker>>,
    /// Markers that an earlier process has left: until when, in milliseconds since 1970, requests
    /// before it may have been sent.
    left: Mutex<HashMap<String, u64>>,
    writing: tokio::sync::Mutex<()>,
}

struct Marker {
    in_flight: usize,
    last: Instant,
    is_written: bool,
}

impl Trust {
    /// Reads what earlier processes have left, which had all ended by this time.
    pub async fn open(
        notes: &dyn Notes,
        accounts: &[String],
        now_ms: u64,
    ) -> Result<Self, SubmissionsError> {
        let mut left = HashMap::new();
        let mut changes = Vec::new();
        for account in accounts {
            let prefix = prefix(account);
            let mut after = String::new();
            loop {
                let found = notes.list(&prefix, &after, SLICE).await?;
                let Some((last, _)) = found.last() else {
                    break;
                };
                after.clone_from(last);
                for (place, value) in found {
                    let known = <[u8; 8]>::try_from(value).map(u64::from_be_bytes);
                    let until_ms = known.ok().filter(|ms| *ms > 0).unwrap_or(now_ms);
                    let value = until_ms.to_be_bytes().to_vec();
                    changes.push(NoteChange::put(left_place(&place), value));
                    changes.push(NoteChange::forget(place.clone()));
                    left.insert(place, until_ms);
                }
            }
            left_before(notes, account, &mut left).await?;
            share(account, &mut left, &mut changes);
        }
        if !changes.is_empty() {
            notes.change(changes, Survives::PowerLoss).await?;
        }
        Ok(Self {
            markers: Mutex::default(),
            left: left.into(),
            writing: tokio::sync::Mutex::default(),
        })
    }

    /// Whether a call of this task, dialled then, can be none of an unrecorded request of an
    /// earlier process.
    pub fn is_certain(
        &self,
        account: &str,
        task_id: &str,
        dialled_ms: u64,
        window: Duration,
    ) -> bool {
        // A direct call's record can name any task.
        self.is_clear(account, "direct", Some((dialled_ms, window)))
            // Rows of a task may be dialled as long as the task lives.
            && self.is_clear(account, "tasks", None)
            && self.is_clear(account, &name_of_task(task_id), None)
    }

    /// Whether a task that was created after a time can be none of an unrecorded request of an
    /// earlier process.
    pub fn is_creation_certain(&self, account: &str, created_ms: u64, window: Duration) -> bool {
        self.is_clear(account, "create", Some((created_ms, window)))
    }

    /// Whether no earlier process has left this marker, or what it stands for has ended by a time.
    fn is_clear(&self, account: &str, name: &str, ended_by: Option<(u64, Duration)>) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until_ms) = left.get(&place(account, name)) else {
            return true;
        };
        ended_by.is_some_and(|(ms, window)| {
            let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
            ms > until_ms.saturating_add(window_ms)
        })
    }

    /// Counts in an unrecorded request that is about to be sent; gives the place of its marker.
    /// [`end`](Self::end) counts it out.
    pub fn begin(&self, account: &str, request: &Request) -> String {
        let place = self.place(account, request);
        let mut markers = self.markers();
        let marker = markers.entry(place.clone()).or_insert_with(|| Marker {
            in_flight: 0,
            last: Instant::now(),
            is_written: false,
        });
        marker.in_flight += 1;
        drop(markers);
        place
    }

    /// Writes a marker, if it is not there. Without a store the request goes out unmarked.
    pub async fn mark(&self, notes: &dyn Notes, place: &str) {
        if self.is_written(place) {
            return;
        }
        let marked = async {
            let _writing = self.writing.lock().await;
            if !self.is_written(place) {
                let change = NoteChange::put(place, 0_u64.to_be_bytes().to_vec());
                notes.change(vec![change], Survives::PowerLoss).await?;
                self.set_written(place);
            }
            Ok::<_, AppendError>(())
        };
        if !matches!(timeout(TIMEOUT, marked).await, Ok(Ok(()))) {
            tracing::warn!("a request without an id is sent without a marker");
        }
    }

    /// The request has ended, and the store knows what of it matters.
    pub fn end(&self, place: &str) {
        if let Some(marker) = self.markers().get_mut(place) {
            marker.in_flight = marker.in_flight.saturating_sub(1);
            marker.last = Instant::now();
        }
    }

    /// The outcome of a request cannot be written: nothing before this time is certain any more.
    /// Its marker stays.
    pub fn give_up(&self, place: &str, now_ms: u64) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.insert(place.to_owned(), now_ms);
        if let Some(marker) = self.markers().get_mut(place) {
            marker.in_flight += 1;
        }
    }

    /// Whether there are markers that will have to be removed.
    pub fn has_markers(&self) -> bool {
        !self.markers().is_empty()
    }

    /// Removes markers that have stood for nothing for this long.
    pub async fn tidy(&self, notes: &dyn Notes, linger: Duration) -> Result<(), AppendError> {
        let _writing = self.writing.lock().await;
        let idle: Vec<String> = {
            let mut markers = self.markers();
            let is_idle =
                |marker: &Marker| marker.in_flight == 0 && marker.last.elapsed() >= linger;
            let idle = markers.iter_mut().filter(|(_, marker)| is_idle(marker));
            idle.map(|(place, marker)| {
                // Whoever comes from now on writes it anew.
                marker.is_written = false;
                place.clone()
            })
            .collect()
        };
        if idle.is_empty() {
            return Ok(());
        }
        let changes = idle.iter().cloned().map(NoteChange::forget).collect();
        notes.change(changes, Survives::Kill).await?;
        self.markers().retain(|place, marker| {
            marker.is_written || marker.in_flight > 0 || !idle.contains(place)
        });
        Ok(())
    }

    fn place(&self, account: &str, request: &Request) -> String {
        match request {
            Request::CallOut(_) => place(account, "direct"),
            Request::CreateTask(_) => place(account, "create"),
            Request::InsertTaskData(request) => {
                let own = place(account, &name_of_task(&request.task_id));
                let markers = self.markers();
                if markers.contains_key(&own) || markers.len() < MAX_MARKERS {
                    own
                } else {
                    place(account, "tasks")
                }
            }
        }
    }

    fn is_written(&self, place: &str) -> bool {
        self.markers().get(place).is_some_and(|it| it.is_written)
    }

    fn set_written(&self, place: &str) {
        if let Some(marker) = self.markers().get_mut(place) {
            marker.is_written = true;
        }
    }

    fn markers(&self) -> MutexGuard<'_, HashMap<String, Marker>> {
        self.markers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prefix(account: &str) -> String {
    format!("untracked/{account}/")
}

fn name_of_task(task_id: &str) -> String {
    format!("task.{}", hashed(&[task_id]))
}

fn place(account: &str, name: &str) -> String {
    format!("{}{name}", prefix(account))
}

/// Where a marker stands that an earlier process has left.
fn left_place(place: &str) -> String {
    format!("left-{place}")
}

/// Lets one marker stand for all tasks of an account where too many have their own.
fn share(account: &str, left: &mut HashMap<String, u64>, changes: &mut Vec<NoteChange>) {
    let tasks = place(account, "task.");
    let own = left.iter().filter(|(place, _)| place.starts_with(&tasks));
    let own: Vec<_> = own.map(|(place, ms)| (place.clone(), *ms)).collect();
    if own.len() <= MAX_MARKERS {
        return;
    }
    let shared = place(account, "tasks");
    let latest = own.iter().map(|(_, ms)| *ms).max().unwrap_or_default();
    for (place, _) in own {
        changes.push(NoteChange::forget(left_place(&place)));
        left.remove(&place);
    }
    let value = latest.to_be_bytes().to_vec();
    changes.push(NoteChange::put(left_place(&shared), value));
    left.insert(shared, latest);
}

/// Adds the markers that processes before the last one have left.
async fn left_before(
    notes: &dyn Notes,
    account: &str,
    left: &mut HashMap<String, u64>,
) -> Result<(), ReadError> {
    let prefix = left_place(&prefix(account));
    let mut after = String::new();
    loop {
        let found = notes.list(&prefix, &after, SLICE).await?;
        let Some((last, _)) = found.last() else {
            return Ok(());
        };
        after.clone_from(last);
        for (place, value) in found {
            let until_ms = <[u8; 8]>::try_from(value).map_or(u64::MAX, u64::from_be_bytes);
            let place = place.trim_start_matches("left-").to_owned();
            let latest = left.entry(place).or_default();
            *latest = until_ms.max(*latest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{CallOutRequest, InsertTaskDataRequest};
    use crate::push::StoreId;
    use crate::store::memory::{MemoryDisk, MemoryStore};
    use std::sync::Arc;
    use std::time::SystemTime;

    const WINDOW: Duration = Duration::from_secs(7200);
    const NOW: u64 = 1_700_000_000_000;

    fn direct() -> Request {
        Request::CallOut(CallOutRequest::default())
    }

    fn insert(task_id: &str) -> Request {
        Request::InsertTaskData(InsertTaskDataRequest {
            task_id: task_id.to_owned(),
            ..InsertTaskDataRequest::default()
        })
    }

    async fn open(disk: &MemoryDisk) -> (Trust, MemoryStore) {
        let store = MemoryStore::open(disk.clone(), Arc::new(SystemTime::now));
        let trust = Trust::open(&store, &["a".to_owned()], NOW).await;
        (trust.unwrap(), store)
    }

    async fn begin(trust: &Trust, store: &MemoryStore, request: &Request) -> String {
        let place = trust.begin("a", request);
        trust.mark(store, &place).await;
        place
    }

    fn disk() -> MemoryDisk {
        MemoryDisk::new(StoreId([7; 8]))
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_crash_with_direct_calls_in_flight_nothing_is_certain_until_they_are_dialled() {
        let disk = disk();
        let (trust, store) = open(&disk).await;
        begin(&trust, &store, &direct()).await;
        assert!(trust.is_certain("a", "900", NOW, WINDOW));
        disk.lose_power();
        for _ in 0..2 {
            let (trust, _) = open(&disk).await;
            let dialled = NOW + 7_200_000;
            assert!(!trust.is_certain("a", "900", dialled, WINDOW));
            assert!(trust.is_certain("a", "900", dialled + 1, WINDOW));
            assert!(!trust.is_certain("a", "7", dialled, WINDOW));
            assert!(trust.is_certain("b", "900", dialled, WINDOW));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_rows_went_into_at_a_crash_stays_uncertain_and_others_do_not() {
        let disk = disk();
        let (trust, store) = open(&disk).await;
        begin(&trust, &store, &insert("7")).await;
        disk.kill();
        let (trust, _) = open(&disk).await;
        assert!(!trust.is_certain("a", "7", u64::MAX, WINDOW));
        assert!(trust.is_certain("a", "8", NOW, WINDOW));
        assert!(trust.is_certain("a", "900", NOW, WINDOW));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_after_all_requests_have_ended_leaves_everything_certain() {
        let disk = disk();
        let (trust, store) = open(&disk).await;
        let place = begin(&trust, &store, &direct()).await;
        trust.tidy(&store, LINGER).await.unwrap();
        trust.end(&place);
        tokio::time::sleep(LINGER).await;
        trust.tidy(&store, LINGER).await.unwrap();
        assert!(!trust.has_markers());
        disk.kill();
        let (trust, _) = open(&disk).await;
        assert!(trust.is_certain("a", "900", NOW, WINDOW));
    }

    #[tokio::test(start_paused = true)]
    async fn markers_are_bounded_and_so_is_what_a_crash_leaves() {
        let disk = disk();
        let (trust, store) = open(&disk).await;
        for task in 0..MAX_MARKERS + 9 {
            begin(&trust, &store, &insert(&task.to_string())).await;
        }
        let markers = store.list("untracked/a/", "", 2 * MAX_MARKERS).await;
        assert_eq!(markers.unwrap().len(), MAX_MARKERS + 1);
        disk.kill();
        let (trust, store) = open(&disk).await;
        assert!(!trust.is_certain("a", "5000", NOW, WINDOW));
        let left = store.list("left-untracked/a/", "", 2 * MAX_MARKERS).await;
        assert!(left.unwrap().len() <= MAX_MARKERS + 1);
    }
}
