//! The front door for services: authenticate, validate, call, answer.

mod access;
pub mod admission;
pub mod auth;
mod backfill;
mod call;
mod config;
mod deadline;
mod door;
mod frames;
pub mod jwt;
mod masking;
pub mod observe;
mod outbound;
pub mod overload;
mod push;
pub mod quota;
pub mod rpc;
pub mod server;
mod start;
pub mod status;
mod subscription;
pub mod supervision;
mod validate;
mod voice;

pub use call::call_service;
pub use config::config_service;
pub use door::LogEnd;
pub use outbound::outbound_service;
pub use push::push_service;
pub use subscription::subscription_service;
pub use validate::{Validate, Violations};
pub use voice::{Targets, voice_service};
