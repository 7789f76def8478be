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
    /// It has more bytes than its push announced, and the voice server announced no size.
    #[error("the voice server has more than the {pushed} bytes that the push announced")]
    LongerThanPushed {
        /// The size that the push announced.
        pushed: u64,
    },
    /// It has more bytes than a recording may have; raise `voice.max_bytes` if it is a real one.
    #[error("the recording has more than {limit} bytes (voice.max_bytes)")]
    TooLarge {
        /// The setting.
        limit: u64,
    },
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
            Self::LongerThanPushed { .. } => "SIZE_MISMATCH",
            Self::TooLarge { .. } => "VOICE_TOO_LARGE",
            Self::Archive(_) => "ARCHIVE_UNAVAILABLE",
        }
    }

    /// Whether the next moment may be better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Archive(_) => true,
            Self::Status(status) => *status >= 500 || matches!(status, 408 | 429),
            Self::NotFound
            | Self::Redirect(_)
            | Self::BeyondEnd { .. }
            | Self::Changed
            | Self::LongerThanPushed { .. }
            | Self::TooLarge { .. } => false,
        }
    }
}
