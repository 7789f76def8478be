//! Holds what gateways have answered and kept against the platform's own book.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::clients::{CALLER, Client, End, Learned, Plan, ids_of};
use super::gateway::House;
use super::pushes::Carried;
use crate::proto::settle_submission_request::{Outcome as Settled, Which};
use crate::proto::{
    SettleSubmissionRequest, SettledAccepted, SettledNotSent, Submission, SubmissionState,
    UploadRowName,
};
use crate::submissions::SubmissionsError;

/// What was seen, over all worlds.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    submissions: u64,
    rows: u64,
    dialled: u64,
    accepted: u64,
    refused: u64,
    /// Unknown before a person came, and of these found to be received.
    unknown: u64,
    unknown_received: u64,
    by_evidence: u64,
    row_keys: u64,
    settled: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.submissions += other.submissions;
        self.rows += other.rows;
        self.dialled += other.dialled;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.unknown_received += other.unknown_received;
        self.by_evidence += other.by_evidence;
        self.row_keys += other.row_keys;
        self.settled += other.settled;
    }

    /// A simulation in which nothing happens proves nothing.
    pub fn assert_that_much_was_seen(&self, submissions: u64) {
        if submissions < 1000 {
            return;
        }
        for seen in [
            self.accepted,
            self.refused,
            self.unknown,
            self.unknown_received,
            self.by_evidence,
            self.row_keys,
            self.settled,
        ] {
            assert!(seen > submissions / 500, "{self:?}");
        }
    }
}

/// The rows and tasks that the platform has of each submission.
struct Held {
    /// By submission and row values: the ids.
    rows: BTreeMap<(u32, Vec<String>), Vec<String>>,
    /// By id: the submission.
    owners: BTreeMap<String, u32>,
    tasks: BTreeMap<u32, Vec<String>>,
}

impl Held {
    fn of(house: &House) -> Self {
        let book = house.world.book();
        let mut held = Self {
            rows: BTreeMap::new(),
            owners: BTreeMap::new(),
            tasks: BTreeMap::new(),
        };
        for row in &book.rows {
            let rows = held.rows.entry((row.tag, row.values.clone())).or_default();
            rows.push(row.id.clone());
            held.owners.insert(row.id.clone(), row.tag);
        }
        for task in &book.tasks {
            held.tasks
                .entry(task.tag)
                .or_default()
                .push(task.id.clone());
        }
        held
    }

    fn of_row(&self, tag: u32, values: &[String]) -> &[String] {
        let rows = self.rows.get(&(tag, values.to_vec()));
        rows.map_or(&[], Vec::as_slice)
    }
}

/// Checks a world at its end.
pub async fn check(
    house: &Arc<House>,
    clients: &mut [(Client, Learned)],
    carried: &Carried,
) -> Tally {
    let mut tally = Tally::default();
    assert_once(house, clients, &mut tally);
    for (client, learned) in clients.iter_mut() {
        ask_once_more(house, client, learned, &mut tally).await;
    }
    assert_once(house, clients, &mut Tally::default());
    check_row_keys(house, clients, carried, &mut tally);
    for (client, learned) in clients.iter_mut() {
        settle(house, client, learned, &mut tally).await;
    }
    assert_once(house, clients, &mut Tally::default());
    check_bounds(house).await;
    tally
}

/// No row was accepted twice under one id, no task made twice, and what clients were given is what
/// the platform has.
fn assert_once(house: &House, clients: &[(Client, Learned)], tally: &mut Tally) {
    let held = Held::of(house);
    for (client, learned) in clients {
        tally.submissions += 1;
        let tag = client.tag;
        let tasks = held.tasks.get(&tag).map_or(&[][..], Vec::as_slice);
        assert!(
            tasks.len() <= 1,
            "submission {tag} made the tasks {tasks:?}"
        );
        for (key, values) in client.contents() {
            tally.rows += 1;
            let ids = held.of_row(tag, &values);
            assert!(
                ids.len() <= 1,
                "submission {tag} dialled row {key} twice: {ids:?}"
            );
            tally.dialled += ids.len() as u64;
            if let Some(id) = learned.ids.get(&key) {
                let owner = held.owners.get(id);
                assert_eq!(
                    ids,
                    std::slice::from_ref(id),
                    "submission {tag}, row {key}: of {owner:?}"
                );
            }
        }
        if let (Plan::Create(_), Some(id)) = (&client.plan, learned.ids.get("0")) {
            assert_eq!(tasks, std::slice::from_ref(id), "submission {tag}");
        }
        let is_received = !tasks.is_empty() || held.owners.values().any(|owner| *owner == tag);
        if learned.is_accepted {
            assert!(
                is_received,
                "submission {tag} was accepted, and never received"
            );
        }
        if learned.is_refused && !learned.is_accepted {
            assert!(!is_received, "submission {tag} was refused, and accepted");
        }
    }
}

/// Each submission with an id has an outcome, for its client as for a reader.
async fn ask_once_more(house: &House, client: &Client, learned: &mut Learned, tally: &mut Tally) {
    if !client.is_tracked {
        return;
    }
    let gateway = house.gateway().await;
    let (end, ids) = client.clone().ask(gateway.clone(), None).await;
    client.learn(learned, end, ids);
    let Plan::Upload(_, rows) = &client.plan else {
        let found = gateway.submissions.get(CALLER, &client.request_id()).await;
        let found = found
            .unwrap()
            .expect("it has a record after an ask without faults");
        check_record(house, client, learned, &found, tally);
        return;
    };
    tally.accepted += learned.ids.len() as u64;
    assert!(learned.ids.len() <= rows.len());
}

fn check_record(
    house: &House,
    client: &Client,
    learned: &mut Learned,
    found: &Submission,
    tally: &mut Tally,
) {
    let held = Held::of(house);
    let tag = client.tag;
    let contents = client.contents();
    let is_received = match client.plan {
        Plan::Create(_) => held.tasks.contains_key(&tag),
        _ => contents
            .iter()
            .any(|(_, row)| !held.of_row(tag, row).is_empty()),
    };
    let has_evidence = found.evidence.iter().any(|it| it.settled);
    match found.state() {
        SubmissionState::Accepted => {
            tally.accepted += 1;
            tally.by_evidence += u64::from(has_evidence);
            let owners = ids_of(found);
            let owners: Vec<_> = owners.iter().map(|id| held.owners.get(id)).collect();
            assert!(
                is_received,
                "never received, and ACCEPTED by {owners:?}: {found:?}"
            );
            for (row, id) in ids_of(found).into_iter().enumerate() {
                if !id.is_empty() && !matches!(client.plan, Plan::Create(_)) {
                    let has = held.of_row(tag, &contents[row].1);
                    let owner = held.owners.get(&id);
                    assert_eq!(has, [id], "submission {tag}: an id of {owner:?}: {found:?}");
                }
            }
        }
        SubmissionState::Refused => {
            tally.refused += 1;
            assert!(!is_received, "received, and REFUSED: {found:?}");
        }
        SubmissionState::Unknown => {
            tally.unknown += 1;
            tally.unknown_received += u64::from(is_received);
            let is_undisturbed = !house.is_disturbed.load(Ordering::SeqCst);
            assert!(
                !(is_undisturbed && is_answered(house, tag)),
                "answered, and UNKNOWN: {found:?}"
            );
            let is_safe = house.has_lost_power.load(Ordering::SeqCst);
            assert!(
                is_safe || !learned.is_accepted,
                "was ACCEPTED, and is UNKNOWN: {found:?}"
            );
        }
        state => panic!("{state:?} at the end: {found:?}"),
    }
}

/// Whether everything that the platform has of a submission was answered in full.
fn is_answered(house: &House, tag: u32) -> bool {
    let book = house.world.book();
    let mut rows = book.rows.iter().filter(|row| row.tag == tag).peekable();
    let has_rows = rows.peek().is_some();
    let mut tasks = book.tasks.iter().filter(|task| task.tag == tag);
    has_rows && rows.all(|row| row.answered) || tasks.any(|task| task.answered)
}

/// A push carries the key of its own row, or none.
fn check_row_keys(
    house: &House,
    clients: &[(Client, Learned)],
    carried: &Carried,
    tally: &mut Tally,
) {
    let book = house.world.book();
    let uploads: BTreeMap<u32, &Client> = clients
        .iter()
        .filter(|(client, _)| matches!(client.plan, Plan::Upload(..)))
        .map(|(client, _)| (client.tag, client))
        .collect();
    let carried = carried.lock().unwrap();
    for row in &book.rows {
        let own = uploads.get(&row.tag).and_then(|client| {
            let contents = client.contents().into_iter();
            contents
                .filter(|(_, values)| *values == row.values)
                .map(|(key, _)| key)
                .next()
        });
        for key in carried
            .get(&row.id)
            .into_iter()
            .flatten()
            .filter(|key| !key.is_empty())
        {
            assert_eq!(Some(key), own.as_ref(), "a push of {row:?}");
            tally.row_keys += 1;
        }
    }
}

/// A person looks into the platform's book, and settles what is unknown; then it can go out again.
async fn settle(house: &House, client: &Client, learned: &mut Learned, tally: &mut Tally) {
    if !client.is_tracked {
        return;
    }
    let gateway = house.gateway().await;
    let tag = client.tag;
    let names: Vec<(Which, Vec<String>, String)> = {
        let held = Held::of(house);
        let contents = client.contents();
        match &client.plan {
            Plan::Upload(header, _) => contents
                .into_iter()
                .map(|(row_key, values)| {
                    let ids = held.of_row(tag, &values).to_vec();
                    let upload_id = header.upload_id.clone();
                    let row = UploadRowName { upload_id, row_key };
                    (Which::UploadRow(row), ids, String::new())
                })
                .collect(),
            Plan::Create(_) => {
                let tasks = held.tasks.get(&tag).cloned().unwrap_or_default();
                let task = tasks.first().cloned().unwrap_or_default();
                vec![(Which::RequestId(client.request_id()), Vec::new(), task)]
            }
            _ => {
                let ids = contents
                    .iter()
                    .flat_map(|(_, row)| held.of_row(tag, row).to_vec());
                vec![(
                    Which::RequestId(client.request_id()),
                    ids.collect(),
                    String::new(),
                )]
            }
        }
    };
    for (which, task_data_ids, task_id) in names {
        let is_received = !task_data_ids.is_empty() || !task_id.is_empty();
        let outcome = if is_received {
            let accepted = SettledAccepted {
                task_data_ids,
                task_id,
            };
            Settled::Accepted(accepted)
        } else {
            Settled::NotSent(SettledNotSent {})
        };
        let request = SettleSubmissionRequest {
            which: Some(which),
            outcome: Some(outcome),
            reason: "the platform's book".to_owned(),
            ..SettleSubmissionRequest::default()
        };
        match gateway.submissions.settle("a", "b", &request).await {
            Ok(_) => tally.settled += 1,
            Err(SubmissionsError::NotUnknown | SubmissionsError::NotFound) => {}
            Err(error) => panic!("submission {tag}: {error} for {request:?}"),
        }
    }
    // Everything is known now, and what was not sent goes out.
    let (end, ids) = client.clone().ask(gateway.clone(), None).await;
    let is_upload = matches!(client.plan, Plan::Upload(..));
    assert_eq!(
        matches!(end, End::Ended),
        is_upload,
        "submission {tag} ends early"
    );
    client.learn(learned, end, ids);
    let held = Held::of(house);
    // A refused insert that kept its good rows leaves them unknown once more.
    let can_stay_unknown = house.world.weather.lock().unwrap().keeps_good_rows;
    for (key, values) in client.contents() {
        let is_bad = values[0].starts_with("199");
        let has = held.of_row(tag, &values);
        if is_upload && !is_bad && !can_stay_unknown {
            assert_eq!(has.len(), 1, "submission {tag}: row {key} has no outcome");
            assert_eq!(
                learned.ids.get(&key),
                has.first(),
                "submission {tag}, row {key}"
            );
        }
    }
}

/// What the gateway holds in memory is bounded by what is open.
async fn check_bounds(house: &House) {
    let gateway = house.gateway().await;
    // The last answers are being written.
    tokio::time::sleep(Duration::from_secs(1)).await;
    gateway.submissions.assert_idle();
}
