//! Why a recording cannot be had.

use crate::voice::address::AddressError;

/// Why a recording cannot be had, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The voice server has not got it.
    #[error("the voice server has not got the recording")]
    NotFound,
    /// The voice server points elsewhere; nothing was fetched from there.
    #[error("the voice server redirects, and where to is refused: {0}")]
    Redirect(AddressError),
    /// The voice server answered with an error, after some tries where that may pass.
    #[error("the voice server answered with status {0}")]
    Status(u16),
    /// The voice server could not be reached, or broke off, some times in a row.
    #[error("the voice server cannot be reached, or breaks off: {0}")]
    Unreachable(String),
    /// What was to be left out is more than there is.
    #[error("the recording ends at byte {size}")]
    BeyondEnd {
        /// The size of the whole.
        size: u64,
    },
    /// It is not the file any more that it was at the beginning.
    #[error("the recording has changed where it lies")]
    Changed,
    /// The archive, which it would have come from, cannot be read.
    #[error("the archive cannot be read: {0}")]
    Archive(String),
}

impl FetchError {
    /// The reason by which programs know it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound => "VOICE_NOT_FOUND",
            Self::Redirect(_) => "VOICE_REDIRECT_REFUSED",
            Self::Status(_) => "VOICE_SERVER_ERROR",
            Self::Unreachable(_) => "VOICE_SERVER_UNREACHABLE",
            Self::BeyondEnd { .. } => "OFFSET_BEYOND_END",
            Self::Changed => "VOICE_CHANGED",
            Self::Archive(_) => "ARCHIVE_UNAVAILABLE",
        }
    }

    /// Whether the next moment may be better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Archive(_) => true,
            Self::Status(status) => *status >= 500 || matches!(status, 408 | 429),
            Self::NotFound | Self::Redirect(_) | Self::BeyondEnd { .. } | Self::Changed => false,
        }
    }
}
