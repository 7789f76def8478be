//! A recording on its way to whoever asked for it: from the voice server, or out of the archive.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attribute, GetOptions, ObjectStore};

use super::archive::{Archive, told};
use super::fetch::{Download, FetchError};

/// A recording, from the byte on that was asked for.
pub enum Recording {
    /// From the voice server.
    Fetched(Box<Download>),
    /// Out of the archive.
    Kept(KeptCopy),
}

/// A recording out of the archive.
pub struct KeptCopy {
    store: Arc<dyn ObjectStore>,
    path: Path,
    url: String,
    size: u64,
    content_type: String,
    /// Names the content, if it has a name.
    e_tag: Option<String>,
    position: u64,
}

/// So much of a copy is read at a time: a slow reader holds no request open.
const PIECE: u64 = 1 << 20;

impl Recording {
    /// The size of the whole; `None`: the voice server does not tell.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Fetched(download) => download.head().size,
            Self::Kept(copy) => Some(copy.size),
        }
    }

    /// Its content type; empty: not known.
    pub fn content_type(&self) -> &str {
        match self {
            Self::Fetched(download) => &download.head().content_type,
            Self::Kept(copy) => &copy.content_type,
        }
    }

    /// Where it comes from.
    pub fn url(&self) -> &str {
        match self {
            Self::Fetched(download) => download.head().url.as_str(),
            Self::Kept(copy) => &copy.url,
        }
    }

    /// How far it has come, counted from the beginning of the whole.
    pub fn position(&self) -> u64 {
        match self {
            Self::Fetched(download) => download.position(),
            Self::Kept(copy) => copy.position,
        }
    }

    /// The next bytes; `None` at the end. What has been given out is never given out again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        match self {
            Self::Fetched(download) => download.next().await,
            Self::Kept(copy) => copy.next().await,
        }
    }
}

impl Archive {
    /// Opens a copy from a byte on; `url`: where the call says that it is kept. `None`: there is
    /// none, or it is in another archive than this.
    pub async fn read(&self, url: &str, offset: u64) -> Result<Option<KeptCopy>, FetchError> {
        let Some(path) = self.path_of(url) else {
            return Ok(None);
        };
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let found = match self.store().get_opts(&path, options).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unreadable(&error)),
        };
        let size = found.meta.size;
        if offset > size {
            return Err(FetchError::BeyondEnd { size });
        }
        let content_type = found.attributes.get(&Attribute::ContentType);
        Ok(Some(KeptCopy {
            store: self.store().clone(),
            path,
            url: url.to_owned(),
            size,
            content_type: content_type.map_or("", AsRef::as_ref).to_owned(),
            e_tag: found.meta.e_tag,
            position: offset,
        }))
    }
}

impl KeptCopy {
    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        if self.position >= self.size {
            return Ok(None);
        }
        let end = self.size.min(self.position + PIECE);
        let options = GetOptions {
            range: Some((self.position..end).into()),
            if_match: self.e_tag.clone(),
            ..GetOptions::default()
        };
        let piece = match self.store.get_opts(&self.path, options).await {
            Ok(piece) => piece.bytes().await,
            Err(error) => Err(error),
        };
        let piece = piece.map_err(|error| match error {
            object_store::Error::NotFound { .. } | object_store::Error::Precondition { .. } => {
                FetchError::Changed
            }
            other => unreadable(&other),
        })?;
        if piece.is_empty() {
            return Err(FetchError::Changed);
        }
        self.position += piece.len() as u64;
        Ok(Some(piece))
    }
}

fn unreadable(error: &object_store::Error) -> FetchError {
    FetchError::Archive(told(error))
}
