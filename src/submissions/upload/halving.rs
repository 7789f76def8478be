//! Whether a refused insert may be halved.
//!
//! The platform documents for callout alone that one bad row fails the whole batch. An insert that
//! keeps the good rows would take them again with each half. So before an upload halves a refused
//! insert, the task's own count has to show that nothing of it was kept.

use crate::platform::Platform;
use crate::proto::QueryTasksRequest;

/// Whether the task's count shows that refused inserts have left nothing, where `before` rows were
/// in the task at first and `accepted` were accepted since.
pub(super) fn has_not_grown(
    before: Option<i64>,
    accepted: Option<i64>,
    after: Option<i64>,
) -> bool {
    match (before, accepted, after) {
        (Some(before), Some(accepted), Some(after)) => before + accepted == after,
        _ => false,
    }
}

/// How many rows a task has; `None`: that cannot be had.
pub(super) async fn rows_in(platform: &Platform, account: &str, task_id: &str) -> Option<i64> {
    let query = QueryTasksRequest {
        task_id: task_id.to_owned(),
        ..QueryTasksRequest::default()
    };
    let answer = platform.call(account, &query, None).await.ok()?;
    let mut tasks = answer.rows.iter();
    let task = tasks.find(|task| task.task_id == task_id)?;
    task.count_tel.map(i64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_insert_is_halved_only_if_the_task_has_provably_not_grown() {
        assert!(has_not_grown(Some(5), Some(50), Some(55)));
        assert!(!has_not_grown(Some(5), Some(50), Some(104)));
        for (before, accepted, after) in [
            (None, Some(0), Some(0)),
            (Some(0), None, Some(0)),
            (Some(0), Some(0), None),
        ] {
            assert!(!has_not_grown(before, accepted, after));
        }
    }
}
