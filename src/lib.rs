//! A gRPC gateway to iFlytek's yeta outbound-call platform.

pub mod account;
pub mod grpc;
pub mod platform;
pub mod proto;
pub mod sandbox;
pub mod secret;
