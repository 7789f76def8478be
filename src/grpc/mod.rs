//! The front door for services: authenticate, validate, call, answer.

mod access;
pub mod auth;
mod backfill;
mod call;
mod config;
mod deadline;
mod door;
mod frames;
pub mod jwt;
pub mod observe;
mod outbound;
pub mod overload;
mod push;
pub mod quota;
pub mod server;
mod start;
pub mod status;
mod subscription;
mod validate;
mod voice;

use std::collections::BTreeSet;

use tonic::metadata::MetadataMap;

pub use call::call_service;
pub use config::config_service;
pub use door::LogEnd;
pub use outbound::outbound_service;
pub use push::push_service;
pub use subscription::subscription_service;
pub use validate::{Validate, Violations};
pub use voice::{Targets, voice_service};

/// The accounts whose calls a caller is shown: the one that it names, or all that are its own;
/// `None`: all.
fn visible(
    clients: &auth::Clients,
    caller: &auth::Caller,
    metadata: &MetadataMap,
) -> Result<Option<BTreeSet<String>>, auth::AuthError> {
    if let Some(account) = clients.named_account(caller, metadata)? {
        return Ok(Some(BTreeSet::from([account.to_owned()])));
    }
    Ok(caller.accounts().map(BTreeSet::from_iter))
}
