//! A gRPC gateway to iFlytek's yeta outbound-call platform.

pub mod sandbox;
