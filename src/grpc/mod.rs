//! The front door for services: authenticate, validate, call, answer.

pub mod auth;
mod config;
mod deadline;
mod door;
pub mod observe;
mod outbound;
pub mod overload;
mod push;
pub mod status;
mod validate;

pub use config::config_service;
pub use door::LogEnd;
pub use outbound::outbound_service;
pub use push::push_service;
pub use validate::{Validate, Violations};
