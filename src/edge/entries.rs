//! Turns pushes that were read into entries for the log, whichever way they came.

use tokio::time::Instant;

use super::reading::Push;
use crate::proto::PushEvent;
use crate::store::NewEntry;
use crate::submissions::{About, RowKeys};

/// Pushes as entries for the log, with their submitters' own ids of the rows. Waits for the ids
/// no longer than until `deadline`.
pub async fn entries(
    row_keys: &RowKeys,
    account: &str,
    pushes: Vec<Push>,
    deadline: Instant,
) -> Vec<NewEntry> {
    let about: Vec<About<'_>> = pushes.iter().map(about).collect();
    let keys = row_keys.of(account, &about, deadline).await;
    let with_key = |(push, row_key): (Push, Option<String>)| {
        let mut entry = push.entry;
        if let Some(row_key) = row_key {
            entry.amend(&PushEvent {
                row_key,
                ..PushEvent::default()
            });
        }
        entry
    };
    pushes.into_iter().zip(keys).map(with_key).collect()
}

/// The subject of a push.
fn about(push: &Push) -> About<'_> {
    About {
        event_id: push.entry.id.to_string(),
        task_data_id: &push.task_data_id,
        record: push.record.as_deref(),
    }
}
