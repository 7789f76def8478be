//! The key of hashes that stand in the store in place of phone numbers and other short values.
//!
//! A plain hash of a phone number is no secret: there are few enough numbers to try them all. So
//! the hashes are HMACs. The key comes from the configuration, or is made once and kept beside the
//! data.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use crate::secret::{Secret, SecretError};
use crate::store::{AppendError, Notes, ReadError};

/// The key of a store's hashes.
#[derive(Clone)]
pub struct HashKey(Hmac<Sha256>);

/// Why a store's hashes cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum HashKeyError {
    /// The configured key cannot be read; correct `store.hash_key_file`.
    #[error("store.hash_key: {0}")]
    Secret(#[from] SecretError),
    /// The file of the key cannot be read or made; correct its rights.
    #[error("the hash key {} cannot be used: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The store was written with another key; configure that one, or restore its file.
    #[error(
        "the store was written with another hash key than {origin}: with this one, requests that \
         were sent would be unknown, and would be sent again"
    )]
    Changed {
        /// Where the present key comes from.
        origin: String,
    },
    /// The store cannot be read or written.
    #[error("the hash key cannot be checked: {0}")]
    Store(String),
}

impl From<ReadError> for HashKeyError {
    fn from(error: ReadError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<AppendError> for HashKeyError {
    fn from(error: AppendError) -> Self {
        Self::Store(error.to_string())
    }
}

/// The name of the key's file, beside the data.
const FILE: &str = "hash-key";
/// Under which key the store keeps the hash that recognizes its key.
const CHECK: &str = "hash-key";

impl HashKey {
    /// The key of these bytes.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// The key of a store: the configured one, or the one beside the data in `folder`, which is
    /// made for a store that has none yet.
    pub async fn open(
        configured: Option<&Secret>,
        folder: &Path,
        notes: &dyn Notes,
    ) -> Result<Self, HashKeyError> {
        let known = notes.get(CHECK).await?;
        let path = folder.join(FILE);
        let (secret, origin) = match configured {
            Some(secret) => (secret.read()?, "store.hash_key".to_owned()),
            None => (in_file(&path, known.is_none())?, path.display().to_string()),
        };
        let key = Self::new(secret.expose_secret().as_bytes());
        let check = key.text(&["check"]);
        match known {
            Some(known) if known == check.as_bytes() => {}
            Some(_) => return Err(HashKeyError::Changed { origin }),
            None => notes.put(CHECK, check.into_bytes()).await?,
        }
        Ok(key)
    }

    /// 128 bits that differ for different lists of texts, and tell nothing of them without the key.
    pub fn digest<T: AsRef<str>>(&self, texts: &[T]) -> [u8; 16] {
        let mut hash = self.0.clone();
        for text in texts {
            let text = text.as_ref();
            hash.update(&(text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        let whole = hash.finalize().into_bytes();
        let mut short = [0; 16];
        short.copy_from_slice(&whole[..16]);
        short
    }

    /// The digest as a part of a store's key.
    pub fn text<T: AsRef<str>>(&self, texts: &[T]) -> String {
        URL_SAFE_NO_PAD.encode(self.digest(texts))
    }
}

/// The key in a file; `may_make`: one is made where there is none.
fn in_file(path: &Path, may_make: bool) -> Result<SecretString, HashKeyError> {
    let failed = |error| HashKeyError::File {
        path: path.into(),
        error,
    };
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => Ok(SecretString::from(text.trim().to_owned())),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
        // Empty: a process was killed before it had written the key, and used none.
        Ok(_) | Err(_) if may_make => make(path).map_err(failed),
        Ok(_) => Err(failed(ErrorKind::InvalidData.into())),
        Err(error) => Err(failed(error)),
    }
}

fn make(path: &Path) -> io::Result<SecretString> {
    let random: [u8; 32] = rand::random();
    let text = URL_SAFE_NO_PAD.encode(random);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = file.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    File::open(folder)?.sync_all()?;
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::store::embedded::{EmbeddedLog, Options};

    #[test]
    fn the_same_texts_have_another_hash_with_another_key() {
        let (one, other) = (HashKey::new(b"one"), HashKey::new(b"other"));
        assert_eq!(one.digest(&["138"]), HashKey::new(b"one").digest(&["138"]));
        assert_ne!(one.digest(&["138"]), other.digest(&["138"]));
        assert_ne!(one.digest(&["a", "b"]), one.digest(&["ab"]));
    }

    #[tokio::test]
    async fn a_key_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let notes = EmbeddedLog::open(Options::new(folder.path()))
            .await
            .unwrap();
        let first = HashKey::open(None, folder.path(), &notes).await.unwrap();
        let again = HashKey::open(None, folder.path(), &notes).await.unwrap();
        assert_eq!(first.text(&["138"]), again.text(&["138"]));
        let mode = fs::metadata(folder.path().join(FILE))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_store_is_not_opened_with_another_key_than_it_was_written_with() {
        let folder = tempfile::tempdir().unwrap();
        let notes = EmbeddedLog::open(Options::new(folder.path()))
            .await
            .unwrap();
        HashKey::open(None, folder.path(), &notes).await.unwrap();
        let configured = Secret::inline("another key");
        let changed = HashKey::open(Some(&configured), folder.path(), &notes).await;
        assert!(matches!(changed, Err(HashKeyError::Changed { .. })));
        fs::remove_file(folder.path().join(FILE)).unwrap();
        let lost = HashKey::open(None, folder.path(), &notes).await;
        assert!(matches!(lost, Err(HashKeyError::File { .. })));
        assert!(!folder.path().join(FILE).exists());
    }
}
