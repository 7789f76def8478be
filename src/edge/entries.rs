//! Pushes that were read become entries for the log, by whichever way they came.

use tokio::time::Instant;

use super::reading::Push;
use crate::proto::push_event::Payload;
use crate::store::NewEntry;
use crate::submissions::{About, RowKeys};

/// Pushes as entries for the log, with their submitters' own ids of the rows. Waits for the ids
/// no longer than until `deadline`.
pub async fn entries(
    row_keys: &RowKeys,
    account: &str,
    mut pushes: Vec<Push>,
    deadline: Instant,
) -> Vec<NewEntry> {
    let about: Vec<About<'_>> = pushes.iter().map(about).collect();
    let keys = row_keys.of(account, &about, deadline).await;
    for (push, row_key) in pushes.iter_mut().zip(keys) {
        push.event.row_key = row_key.unwrap_or_default();
    }
    pushes.into_iter().map(NewEntry::from).collect()
}

/// The subject of a push.
fn about(push: &Push) -> About<'_> {
    let (task_data_id, record) = match &push.event.payload {
        Some(Payload::CallRecord(record)) => (record.task_data_id.as_str(), Some(record)),
        Some(Payload::Voice(voice) | Payload::VoiceArchived(voice)) => {
            (voice.task_data_id.as_str(), None)
        }
        Some(Payload::Dialog(dialog)) => (dialog.task_data_id.as_str(), None),
        Some(Payload::Unrecognized(_) | Payload::Call(_)) | None => ("", None),
    };
    About {
        event_id: push.id.to_string(),
        task_data_id,
        record,
    }
}
