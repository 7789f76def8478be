//! Why a recording was not kept this time.

use crate::proto::Voice;
use crate::store::End;
use crate::voice::address::AddressError;
use crate::voice::archive::told;
use crate::voice::fetch::FetchError;

/// Why a recording was not kept this time.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("VOICE_ADDRESS_REFUSED: {0}")]
    Address(#[from] AddressError),
    #[error("{reason}: {0}", reason = .0.reason())]
    Fetch(#[from] FetchError),
    #[error("SIZE_MISMATCH: the voice server has {actual} bytes, the push told {pushed}")]
    Size { actual: u64, pushed: i64 },
    #[error("ARCHIVE_UNAVAILABLE: {0}")]
    Archive(String),
    /// The gateway's own store; says nothing of the recording.
    #[error(transparent)]
    End(#[from] End),
}

impl Failure {
    /// Whether another try can change it.
    pub fn may_pass(&self) -> bool {
        !matches!(
            self,
            Self::Address(_) | Self::Fetch(FetchError::TooLarge { .. })
        )
    }

    /// What the call says of it when it is given up: the same however it came about, as the log
    /// holds the same word once.
    pub fn told(&self) -> String {
        match self {
            Self::Fetch(FetchError::Unreachable(_)) => {
                let reason = FetchError::Unreachable(String::new());
                format!("{}: the voice server cannot be reached", reason.reason())
            }
            Self::Archive(_) => "ARCHIVE_UNAVAILABLE: the archive took it not".to_owned(),
            Self::Address(_) | Self::Fetch(_) | Self::Size { .. } | Self::End(_) => {
                self.to_string()
            }
        }
    }
}

/// What is wrong with a recording of this size.
pub(super) fn mismatch(voice: &Voice, actual: u64) -> Option<Failure> {
    let pushed = voice.size?;
    (i64::try_from(actual) != Ok(pushed)).then_some(Failure::Size { actual, pushed })
}

pub(super) fn unavailable(error: impl std::error::Error) -> Failure {
    Failure::Archive(told(&error))
}
