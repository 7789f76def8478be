//! Secrets of the configuration.

use std::{fs, io, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};

/// A secret, as the configuration gives it: itself, or the file that holds it.
#[derive(Clone, Debug)]
pub enum Secret {
    /// The secret itself.
    Inline(SecretString),
    /// A file that holds it, read anew whenever the secret is needed, so that a
    /// mounted secret can change under a running gateway.
    File(PathBuf),
}

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the secret file {path}: {source}", path = path.display())]
pub struct SecretError {
    path: PathBuf,
    source: io::Error,
}

impl Secret {
    /// A secret that stands in the configuration itself.
    pub fn inline(value: impl Into<String>) -> Self {
        Self::Inline(SecretString::from(value.into()))
    }

    /// The secret's present value, without the line end that a file closes with.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Inline(value) => Ok(value.expose_secret().into()),
            Self::File(path) => match fs::read_to_string(path) {
                Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).into()),
                Err(source) => Err(SecretError {
                    path: path.clone(),
                    source,
                }),
            },
        }
    }
}
