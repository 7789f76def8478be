//! A gRPC gateway to iFlytek's yeta outbound-call platform.
//!
//! Two flows, each walked once downward:
//!
//! ```text
//! call   gRPC request → grpc → platform (account, token, send, read the reply) → grpc
//! push   HTTP POST → edge (secret, lenient reading) → store (durable) → "success"
//!        store → relay (start, filter, progress) → grpc stream
//! ```

pub mod accept;
pub mod account;
pub mod admin;
pub mod app;
pub mod audit;
pub mod backfill;
pub mod calls;
pub mod config;
mod database;
pub mod edge;
pub mod erase;
pub mod grpc;
pub mod hash_key;
pub mod http_server;
pub mod lenient;
mod log_limit;
pub mod logging;
pub mod mask;
pub mod memory;
pub mod panics;
pub mod platform;
pub mod proto;
pub mod provider;
pub mod push;
mod random;
pub mod reconciliation;
pub mod relay;
pub mod sandbox;
pub mod secret;
pub mod store;
pub mod submissions;
pub mod tls;
pub mod voice;
