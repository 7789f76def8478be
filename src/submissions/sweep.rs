//! Forgets submissions and uploads that are older than they are kept.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::metrics::{AccountLabels, SubmissionsMetrics};
use super::stored::{self, Claims, Fate, Key, KnownFate, KnownUpload};
use super::unsettled::Unsettled as _;
use super::upload::{Uploads, fates};
use super::{Options, SubmissionsError};
use crate::proto::{Submission, SubmissionState};
use crate::store::{NoteChange, Survives};

const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_mins(5);
/// So many are looked at and forgotten at a time.
const SLICE: usize = 256;

/// Forgets what is old now and then, until told to stop.
pub(super) async fn run(
    ledger: &Ledger,
    uploads: &Arc<Uploads>,
    options: &Options,
    metrics: &SubmissionsMetrics,
    end: CancellationToken,
) {
    let mut ticks = interval((options.keep / 100).clamp(OFTEN, SELDOM));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sweeping = async {
        loop {
            ticks.tick().await;
            let swept = sweep(ledger, uploads, options).await;
            if let Err(error) = swept {
                tracing::warn!(%error, "old submissions could not be forgotten; trying again later");
            }
        }
    };
    let counting = count(ledger, options, metrics);
    tokio::select! {
        () = end.cancelled() => {}
        () = sweeping => {}
        () = counting => {}
    }
}

/// Keeps the gauge of what is unknown.
async fn count(ledger: &Ledger, options: &Options, metrics: &SubmissionsMetrics) {
    let mut changed = ledger.changed();
    loop {
        let open = ledger.open_ones();
        for account in &options.accounts {
            let labels = AccountLabels {
                account: account.clone(),
            };
            let count = open
                .iter()
                .filter(|open| open.key.account == *account)
                .count();
            let gauge = metrics.open.get_or_create(&labels);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

async fn sweep(
    ledger: &Ledger,
    uploads: &Arc<Uploads>,
    options: &Options,
) -> Result<(), SubmissionsError> {
    for account in &options.accounts {
        sweep_submissions(ledger, options, account).await?;
        sweep_claims(ledger, options, account).await?;
        sweep_uploads(ledger, uploads, options, account).await?;
    }
    Ok(())
}

/// The moment before which what is kept for so long has become old.
fn before(ledger: &Ledger, kept: Duration) -> u64 {
    let kept = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
    ledger.now_ms().saturating_sub(kept)
}

async fn sweep_submissions(
    ledger: &Ledger,
    options: &Options,
    account: &str,
) -> Result<(), SubmissionsError> {
    let settled_before = before(ledger, options.keep);
    let unknown_before = before(ledger, options.keep_rows.max(options.keep));
    let prefix = stored::all(account);
    let mut after = String::new();
    loop {
        let places = ledger.notes().list(&prefix, &after, SLICE).await?;
        let Some((last, _)) = places.last() else {
            return Ok(());
        };
        after.clone_from(last);
        for (place, _) in &places {
            let Some((created_at_ms, key)) = Key::from_at(account, &prefix, place) else {
                continue;
            };
            if created_at_ms >= settled_before {
                return Ok(());
            }
            let Some(submission) = ledger.load(&key).await? else {
                continue;
            };
            let is_old = match submission.state() {
                SubmissionState::InFlight => false,
                SubmissionState::Unknown => created_at_ms < unknown_before,
                // It may have been unknown for long; its outcome is kept from then on.
                _ => stored::settled_at_ms(&submission) < settled_before,
            };
            if is_old {
                ledger.forget(&key, &submission).await?;
            }
        }
    }
}

/// Forgets whose the platform's ids are, of submissions that were forgotten long ago.
async fn sweep_claims(
    ledger: &Ledger,
    options: &Options,
    account: &str,
) -> Result<(), SubmissionsError> {
    let before = before(ledger, options.keep_rows.max(options.keep));
    let prefix = stored::claims(account);
    loop {
        let places = ledger.notes().list(&prefix, "", SLICE).await?;
        let is_last = places.len() < SLICE;
        let mut changes = Vec::new();
        for (place, bytes) in places {
            let at = Key::from_at(account, &prefix, &place);
            if at.is_some_and(|(ms, _)| ms >= before) {
                ledger.notes().change(changes, Survives::Kill).await?;
                return Ok(());
            }
            let claims = Claims::decode(bytes.as_slice()).unwrap_or_default();
            changes.extend(claims.keys.into_iter().map(NoteChange::forget));
            changes.push(NoteChange::forget(place));
        }
        ledger.notes().change(changes, Survives::Kill).await?;
        if is_last {
            return Ok(());
        }
    }
}

async fn sweep_uploads(
    ledger: &Ledger,
    live: &Arc<Uploads>,
    options: &Options,
    account: &str,
) -> Result<(), SubmissionsError> {
    let before = before(ledger, options.keep_rows);
    let prefix = stored::uploads(account);
    let mut after = String::new();
    loop {
        let uploads = ledger.notes().list(&prefix, &after, SLICE).await?;
        let Some((last, _)) = uploads.last() else {
            return Ok(());
        };
        after.clone_from(last);
        for (place, bytes) in uploads {
            if !is_older(&bytes, before) {
                continue;
            }
            let name = &place[prefix.len()..];
            // Nobody takes it up meanwhile; and if somebody has since it was listed, it is kept.
            let Some(_turn) = live.try_take_turn(name).await else {
                continue;
            };
            let now = ledger.notes().get(&place).await?;
            if now.is_some_and(|bytes| is_older(&bytes, before)) {
                forget_upload(ledger, account, &place, name).await?;
            }
        }
    }
}

/// Whether an upload was last taken up before a time. One that cannot be read is not touched.
fn is_older(upload: &[u8], before_ms: u64) -> bool {
    KnownUpload::decode(upload).is_ok_and(|known| known.last_ms < before_ms)
}

/// Forgets an upload's rows, then itself.
async fn forget_upload(
    ledger: &Ledger,
    account: &str,
    place: &str,
    name: &str,
) -> Result<(), SubmissionsError> {
    let notes = ledger.notes();
    for prefix in stored::upload_prefixes(name) {
        loop {
            let found = notes.list(&prefix, "", SLICE).await?;
            if found.is_empty() {
                break;
            }
            let mut changes = Vec::new();
            for (key, bytes) in found {
                if key.starts_with("upload-row/")
                    && let Ok(known) = KnownFate::decode(bytes.as_slice())
                    && let Some(Fate::Accepted(id)) = known.fate
                {
                    changes.push(NoteChange::forget(stored::row(account, &id)));
                }
                changes.push(NoteChange::forget(key));
            }
            notes.change(changes, Survives::Kill).await?;
        }
    }
    let change = NoteChange::forget(place);
    Ok(notes.change(vec![change], Survives::Kill).await?)
}

/// How a submission is forgotten. Whose the platform's ids are is kept for longer: as long as
/// submissions are whose outcome is unknown, and to which they could be given otherwise. An upload
/// keeps those of its rows.
pub(super) fn forgotten(key: &Key, submission: &Submission) -> Vec<NoteChange> {
    let created_at_ms = stored::created_at_ms(submission);
    let mut changes = stored::forget(key, created_at_ms);
    if submission.upload_id.is_empty() {
        changes.extend(claims(key, submission));
    }
    changes
}

/// Takes note of which claims a submission has made.
pub(super) fn claims(key: &Key, submission: &Submission) -> Option<NoteChange> {
    let claims = fates::claims(submission).into_iter().map(|claim| claim.key);
    let keys: Vec<String> = claims.collect();
    let place = key.at(
        &stored::claims(&key.account),
        stored::created_at_ms(submission),
    );
    (!keys.is_empty()).then(|| NoteChange::put(place, Claims { keys }.encode_to_vec()))
}
