//! What several modules share: whole gateways, in this process or in one of their own, and
//! clients for their three ports.

mod app;
mod http;
mod process;
mod stream;

use std::time::Duration;

pub use self::app::TestApp;
pub use self::http::{Answer, Http};
pub use self::process::{Addresses, Process, binary};
pub use self::stream::{
    Pushes, earliest, from_cursor, next_event, next_message, pushed, pushes_client,
};

/// Long enough for anything here on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The secret in the push address of every gateway here.
pub const PUSH_SECRET: &str = "push-secret-9f31";

/// Looks until there is something to be seen.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Bounds a wait that must end.
pub async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A call record's body with a `call_uuid` of its own. Of an outbound call the other record is
/// awaited, so that the gateway adds no event of the call to those that are pushed.
pub fn record(call_uuid: &str) -> String {
    serde_json::json!({ "call_uuid": call_uuid, "app_id": "app", "direction": 2, "duration_call": 7 })
        .to_string()
}
