//! Reads what the platform sends, in pushes and in answers: JSON without loss, and fields with
//! each way of being lenient named.

mod fields;
mod json;

pub use self::fields::{Fields, MAX_LIST};
pub use self::json::Json;
