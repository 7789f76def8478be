//! The front door for yeta.

mod fields;
mod json;
mod payloads;
pub mod reading;
