//! What goes on beside the listeners, each with its own end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::backfill::Backfill;
use crate::config::Config;
use crate::http_server;
use crate::reconciliation::Reconciliation;
use crate::relay::watch::Watch;
use crate::store::embedded::EmbeddedLog;
use crate::submissions::Submissions;

/// What goes on until the very end: probes and metrics, the retention of the log, and the watch
/// over subscriptions.
pub(super) struct Background {
    end: CancellationToken,
    admin: JoinHandle<()>,
    retention: JoinHandle<()>,
    watch: JoinHandle<()>,
}

impl Background {
    pub fn start(
        listener: TcpListener,
        admin: Router,
        log: Arc<EmbeddedLog>,
        retention: Duration,
        watch: Watch,
    ) -> Self {
        let end = CancellationToken::new();
        let admin = http_server::serve(listener, admin, end.clone().cancelled_owned());
        Self {
            admin: tokio::spawn(admin),
            retention: tokio::spawn(retire(log, retention, end.clone())),
            watch: tokio::spawn(watch.run(end.clone())),
            end,
        }
    }

    pub async fn stop(self) {
        self.end.cancel();
        // A panic in one of them has been reported; the gateway ends either way.
        let _ = tokio::join!(self.admin, self.retention, self.watch);
    }
}

/// Work that goes on as long as anything can come in.
pub(super) struct Task {
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Task {
    pub fn start<F>(work: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let end = CancellationToken::new();
        Self {
            task: tokio::spawn(work(end.clone())),
            end,
        }
    }

    pub async fn stop(self) {
        self.end.cancel();
        // A panic in it has been reported; the gateway ends either way.
        let _ = self.task.await;
    }
}

/// Applies retention now and then, until told to stop.
async fn retire(log: Arc<EmbeddedLog>, retention: Duration, end: CancellationToken) {
    const OFTEN: Duration = Duration::from_secs(1);
    const SELDOM: Duration = Duration::from_secs(30);
    let mut ticks = interval((retention / 100).clamp(OFTEN, SELDOM));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = ticks.tick() => log.retire().await,
        }
    }
}

/// What the gateway asks of the platform without being asked itself.
pub(super) fn errands(
    config: &Config,
    submissions: &Arc<Submissions>,
    backfill: Arc<Backfill>,
    reconciliation: Arc<Reconciliation>,
) -> Task {
    let is_backfilling = config.backfill.enabled;
    let submissions = submissions.clone();
    Task::start(|end| async move {
        let backfilling = async {
            if is_backfilling {
                backfill.run(end.clone()).await;
            }
        };
        tokio::join!(
            submissions.run(end.clone()),
            backfilling,
            reconciliation.run(end.clone())
        );
    })
}
