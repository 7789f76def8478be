//! Recordings of calls: fetched from the platform's voice server, and kept where that is asked for.
//!
//! [`VoiceServer`] fetches from the configured base and from nowhere else (`address`), and takes a
//! broken connection up again where it stood (`fetch`). [`Archivist`] is a durable subscriber of the
//! log: it copies each recording that is pushed to an [`Archive`], and adds to the log what came
//! of it.

mod address;
mod archive;
mod archivist;
mod fetch;
pub mod metrics;
mod name;
mod recording;

pub use self::address::AddressError;
pub use self::archive::{Archive, ArchiveError, ArchiveOptions, S3Options};
pub use self::archivist::{Archivist, ArchivistOptions, SUBSCRIPTION, forget};
pub use self::fetch::{Download, FetchError, Head, ServerError, ServerOptions, VoiceServer};
pub use self::name::Template;
pub use self::recording::{KeptCopy, Recording};
