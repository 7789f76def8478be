//! Masking of phone numbers in what a client receives: `13800000000` becomes `138****0000`.
//!
//! A field that is known to be a number is masked whatever it holds. Ids stay as they are. In every
//! other text, numbers are looked for. What cannot be read is not sent.

mod field;
mod json;
mod message;
mod text;

pub use self::message::{Masker, status};
pub use self::text::text;

/// Why an answer cannot be masked; it must not be sent.
#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    /// A message is not what its descriptor says.
    #[error("an answer cannot be read for masking: {0}")]
    Unreadable(#[from] prost::DecodeError),
}
