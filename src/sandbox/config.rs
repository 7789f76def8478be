//! What a sandbox can be told at its start.

use std::io;
use std::time::Duration;

/// Settings of a sandbox. The defaults suit a program under development.
///
/// There is no `Debug`: push addresses and credentials are secrets.
#[derive(Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches that have nothing to do with each other"
)]
pub struct SandboxConfig {
    /// Base URLs (plain HTTP) to which pushes go. A URL whose last path segment
    /// is a module (`receiveCallRecord`, `receiveVoice`, `receiveDialog`) gets
    /// that module alone; to any other, `/{module}` is appended.
    pub push_to: Vec<String>,
    /// `app_key` and `app_secret`; others are refused with 200101. None: any
    /// pair that is not empty is good.
    pub credentials: Option<(String, String)>,
    /// Decides how calls go. Tokens do not depend on it.
    pub seed: u64,
    /// 1.0 is real time, 100.0 a hundred times faster: calls, the waits between
    /// retries of pushes and of rows, and the way to a task's `time_begin`.
    pub speed: f64,
    /// How long a token is good, reported as `time_expire`. Not sped up.
    pub token_life: Duration,
    /// Whether a new token ends the older ones.
    pub kill_old_tokens: bool,
    /// Base of the absolute recording URL in the quirk that has one.
    pub voice_base_url: Option<String>,
    /// Calls that the account can pay for. None: no bound.
    pub balance: Option<u64>,
    /// Whether lines and tasks keep their hours (Beijing time): callout is then
    /// refused with 200222, and a task waits in state 6. Off by default, so
    /// that nobody's program fails at night.
    pub enforce_hours: bool,
    /// Whether create refuses a task without `time_range`, as the live
    /// platform has come to do.
    pub require_time_range: bool,
    /// Whether insert keeps the good rows of a batch that it refuses because of
    /// a bad row. Otherwise it keeps none. The documents say which of both only
    /// for callout, which keeps none.
    pub insert_keeps_good_rows: bool,
    /// Whether accepted rows are dialled. Otherwise they are counted, get their
    /// ids and are forgotten, so that there may be any number of them.
    pub dial: bool,
    /// Wait before a push that was not acknowledged is sent again.
    pub push_retry_wait: Duration,
    /// The `business_id` of all pushes.
    pub business_id: String,
    /// The `app_id` of all pushes.
    pub app_id: String,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            push_to: Vec::new(),
            credentials: None,
            seed: 0,
            speed: 1.0,
            token_life: Duration::from_secs(3600),
            kill_old_tokens: true,
            voice_base_url: None,
            balance: None,
            enforce_hours: false,
            require_time_range: false,
            insert_keeps_good_rows: false,
            dial: true,
            push_retry_wait: Duration::from_secs(5),
            business_id: "10527".to_owned(),
            app_id: "123".to_owned(),
        }
    }
}

impl SandboxConfig {
    pub(super) fn check(&self) -> io::Result<()> {
        if self.speed.is_finite() && self.speed > 0.0 {
            return Ok(());
        }
        let message = format!("speed {} is not above zero", self.speed);
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }

    /// Simulated time as real time.
    pub(super) fn scaled(&self, time: Duration) -> Duration {
        Duration::try_from_secs_f64(time.as_secs_f64() / self.speed).unwrap_or(Duration::MAX)
    }
}
