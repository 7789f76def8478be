//! The background jobs of the gateway.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::store::embedded::EmbeddedLog;
use crate::store::{AppendError, PushLog as _};

/// A job that runs until it is stopped. One that ends earlier panics, which ends the process.
pub(super) struct Job {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Job {
    pub fn start<F>(name: &'static str, work: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let work = work(stop.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            work.await;
            assert!(
                stopped.is_cancelled(),
                "the background job {name:?} ended although nobody stopped it"
            );
        });
        Self { stop, task }
    }

    /// Stops the job and waits for its end.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Applies retention at intervals until `stop`, or until the log's writer has ended. `beside` gives
/// the bytes that the rest of the folder takes.
pub(super) async fn retire(
    log: Arc<EmbeddedLog>,
    retention: Duration,
    beside: impl Fn() -> u64,
    stop: CancellationToken,
) {
    const MIN_INTERVAL: Duration = Duration::from_secs(1);
    const MAX_INTERVAL: Duration = Duration::from_secs(30);
    let mut ticks = interval((retention / 100).clamp(MIN_INTERVAL, MAX_INTERVAL));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let retiring = async {
        loop {
            ticks.tick().await;
            log.retire(beside()).await;
            // Appends nothing: it fails like this only without a writer.
            if let Err(AppendError::Closed) = log.append(Vec::new()).await {
                return;
            }
        }
    };
    stop.run_until_cancelled(retiring).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Options;

    #[tokio::test]
    async fn a_job_that_is_stopped_ends_quietly() {
        let job = Job::start("waiting", CancellationToken::cancelled_owned);
        job.stop().await;
    }

    #[tokio::test]
    async fn a_job_that_ends_before_it_is_stopped_panics_with_its_name() {
        let job = Job::start("short", |_| async {});
        let panic = job.task.await.unwrap_err().into_panic();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("\"short\""), "{message}");
    }

    #[tokio::test]
    async fn retention_ends_when_the_logs_writer_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(Options::new(folder.path()))
            .await
            .unwrap();
        log.close().await;
        let stop = CancellationToken::new();
        retire(Arc::new(log), Duration::from_hours(1), || 0, stop.clone()).await;
        assert!(!stop.is_cancelled());
    }
}
