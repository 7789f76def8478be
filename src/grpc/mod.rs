//! The front door for services: authenticate, validate, call, answer.

pub mod auth;
mod config;
mod deadline;
mod door;
mod outbound;
pub mod status;
mod validate;

pub use config::config_service;
pub use door::LogEnd;
pub use outbound::outbound_service;
pub use validate::{Validate, Violations};
