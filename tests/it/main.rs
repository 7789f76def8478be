//! Integration tests, in one binary: over real sockets, each on its own ports.

// The lint knows test functions, and not the helpers beside them: a panic in
// either is the failure being reported.
#![allow(clippy::unwrap_used)]

mod assembly;
mod at_rest;
mod backfill;
mod bridge;
mod broken_log;
mod calls;
mod codes;
mod conformance;
mod connection_age;
mod crash;
mod deploy;
mod dialog_context;
mod disk;
mod durable;
mod embedded;
mod erase;
mod fake;
mod fault_matrix;
mod hostile;
mod identity;
mod kindness;
mod lossless;
mod open;
mod panics;
mod platform;
mod push_limits;
mod push_tls;
mod push_variants;
mod pushes;
mod reconciliation;
mod relay;
mod rotation;
mod sandbox;
mod secrecy;
mod shutdown;
mod store_damage;
mod store_space;
mod streams;
mod submissions;
mod submit_command;
mod subscription_crash;
mod subscriptions;
mod support;
mod sync_failure;
mod terminal;
mod tls;
mod token;
mod voice;
