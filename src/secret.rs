//! Secrets: given inline, or in a file that is read again when it changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

/// A secret of the configuration. Its `Debug` shows where it comes from, never what it is.
#[derive(Clone, Debug)]
pub struct Secret(Source);

#[derive(Clone, Debug)]
enum Source {
    Inline(SecretString),
    File(Arc<SecretFile>),
}

#[derive(Debug)]
struct SecretFile {
    path: PathBuf,
    last: Mutex<Option<(Instant, SecretString)>>,
}

/// A mounted secret is replaced rarely and used often: it is looked at again after this long.
const FRESH: Duration = Duration::from_secs(1);

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read; mount it, or correct its path or rights.
    #[error("the secret file {} cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is there and holds nothing.
    #[error("the secret file {} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// A secret given inline.
    pub fn inline(secret: impl Into<String>) -> Self {
        Self(Source::Inline(SecretString::from(secret.into())))
    }

    /// A secret in a file, without the line end that editors leave there.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(Arc::new(SecretFile {
            path: path.into(),
            last: Mutex::default(),
        })))
    }

    /// The secret as it is now. A file that has become unreadable leaves the last one in force.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        match &self.0 {
            Source::Inline(secret) => Ok(secret.clone()),
            Source::File(file) => file.read(),
        }
    }
}

impl SecretFile {
    fn read(&self) -> Result<SecretString, SecretError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, secret)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(secret.clone());
        }
        match (read_file(&self.path), last.take()) {
            (Ok(secret), _) => {
                *last = Some((Instant::now(), secret.clone()));
                Ok(secret)
            }
            (Err(error), Some((_, secret))) => {
                tracing::warn!(%error, "keeping the secret read before");
                *last = Some((Instant::now(), secret.clone()));
                Ok(secret)
            }
            (Err(error), None) => Err(error),
        }
    }
}

fn read_file(path: &Path) -> Result<SecretString, SecretError> {
    let text = std::fs::read_to_string(path).map_err(|error| SecretError::Unreadable {
        path: path.into(),
        error,
    })?;
    let secret = SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned());
    if secret.expose_secret().is_empty() {
        return Err(SecretError::Empty { path: path.into() });
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let secret = Secret::inline("hush-hush");
        assert!(!format!("{secret:?}").contains("hush"));
    }

    #[test]
    fn a_file_is_read_without_its_line_end_and_must_not_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "hush\r\n").unwrap();
        assert_eq!(Secret::file(&path).read().unwrap().expose_secret(), "hush");
        std::fs::write(&path, "\n").unwrap();
        let empty = Secret::file(&path).read();
        assert!(matches!(empty, Err(SecretError::Empty { .. })));
    }
}
