//! The messages and services of `yeta.v1`, generated from `proto/`.

mod frame;
mod page;

#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
mod generated {
    tonic::include_proto!("yeta.v1");
}

pub use frame::{EncodedDelivery, EncodedEvent, SubscribePushesResponse};
pub use generated::*;
pub use page::ListCallsResponse;

/// The compiled `proto/` files with their comments, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/yeta_descriptor.bin"));
