//! Where recordings are kept: a bucket or a folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, CredentialProvider, ObjectStore, ObjectStoreExt as _, RetryConfig,
};
use secrecy::ExposeSecret as _;
use tokio::io::AsyncWriteExt as _;
use url::Url;

use crate::secret::Secret;

/// A recording up to this size goes out as one request; a larger one in parts of it.
const PART: usize = 5 << 20;

/// An archive that cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Its address is neither a bucket's nor a folder's.
    #[error("voice.archive is neither s3://BUCKET/PREFIX nor file:///FOLDER")]
    BadAddress,
    /// The folder cannot be made or used.
    #[error("the archive's folder {} cannot be used: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The bucket's client cannot be set up.
    #[error("the archive cannot be set up: {0}")]
    Store(#[from] object_store::Error),
}

/// Where to keep recordings.
#[derive(Clone, Debug)]
pub struct ArchiveOptions {
    /// `s3://bucket/prefix` or `file:///folder`.
    pub url: String,
    /// Of a bucket.
    pub s3: S3Options,
}

/// What a bucket's service has to be told; what is `None` is taken from the environment's `AWS_…`
/// variables, or from the machine's own role.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// The service's address, if it is not Amazon's own.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// The key's id and the key.
    pub keys: Option<(Secret, Secret)>,
}

/// Where recordings are kept.
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    /// What the addresses of objects begin with, up to the slash.
    root: String,
    prefix: Path,
    /// The same as `store`, where it is a folder.
    folder: Option<Arc<LocalFileSystem>>,
}

/// A recording on its way into the archive; there is nothing to be seen of it before
/// [`finish`](Self::finish) has returned.
pub(super) struct Upload(BufWriter);

impl Archive {
    /// Opens an archive. A folder is made if it is not there; of a bucket nothing is asked yet.
    pub fn open(options: &ArchiveOptions) -> Result<Self, ArchiveError> {
        let url = Url::parse(&options.url).map_err(|_| ArchiveError::BadAddress)?;
        let is_bare = url.query().is_none() && url.fragment().is_none();
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        match (url.scheme(), url.host_str()) {
            _ if !is_bare || has_credentials => Err(ArchiveError::BadAddress),
            ("file", None) => Self::folder(&url),
            ("s3", Some(bucket)) => Self::bucket(bucket, &url, &options.s3),
            _ => Err(ArchiveError::BadAddress),
        }
    }

    fn folder(url: &Url) -> Result<Self, ArchiveError> {
        let path = url.to_file_path().map_err(|()| ArchiveError::BadAddress)?;
        let failed = |error| ArchiveError::Folder {
            path: path.clone(),
            error,
        };
        std::fs::create_dir_all(&path).map_err(failed)?;
        let store = LocalFileSystem::new_with_prefix(&path)?.with_fsync(true);
        let folder = Arc::new(store);
        Ok(Self {
            store: folder.clone(),
            root: format!("file://{}", path.display())
                .trim_end_matches('/')
                .to_owned(),
            prefix: Path::default(),
            folder: Some(folder),
        })
    }

    fn bucket(bucket: &str, url: &Url, options: &S3Options) -> Result<Self, ArchiveError> {
        // The HTTP client inside asks for the process's provider.
        let provider = rustls::crypto::ring::default_provider();
        // Somebody else may have set the same before.
        let _ = provider.install_default();
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_retry(RetryConfig {
                max_retries: 3,
                retry_timeout: Duration::from_secs(60),
                ..RetryConfig::default()
            });
        if let Some(endpoint) = &options.endpoint {
            builder = builder
                .with_endpoint(endpoint)
                .with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some(region) = &options.region {
            builder = builder.with_region(region);
        }
        if let Some((id, key)) = &options.keys {
            builder = builder.with_credentials(Arc::new(Keys {
                id: id.clone(),
                key: key.clone(),
            }));
        }
        let prefix = Path::from_url_path(url.path()).map_err(object_store::Error::from)?;
        Ok(Self {
            store: Arc::new(builder.build()?),
            root: format!("s3://{bucket}"),
            prefix,
            folder: None,
        })
    }

    /// Where an object lies, behind the archive's own prefix.
    pub(super) fn path(&self, name: &str) -> object_store::Result<Path> {
        let whole = match self.prefix.as_ref() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        };
        Ok(Path::parse(whole)?)
    }

    /// The address of an object, to be told.
    pub(super) fn url(&self, path: &Path) -> String {
        format!("{}/{path}", self.root)
    }

    /// Where the object of an address lies; `None`: not in this archive.
    pub(super) fn path_of(&self, url: &str) -> Option<Path> {
        let path = url.strip_prefix(&self.root)?.strip_prefix('/')?;
        let path = Path::parse(path).ok()?;
        path.prefix_matches(&self.prefix).then_some(path)
    }

    /// Deletes the object of an address; `None`: it is in another archive.
    pub async fn delete(&self, url: &str) -> Result<Option<()>, String> {
        let Some(path) = self.path_of(url) else {
            return Ok(None);
        };
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(Some(())),
            Err(error) => Err(told(&error)),
        }
    }

    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The size of an object; `None`: there is none.
    pub(super) async fn size(&self, path: &Path) -> object_store::Result<Option<u64>> {
        match self.store.head(path).await {
            Ok(object) => Ok(Some(object.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins an object, which replaces one of the same name.
    pub(super) fn upload(&self, path: &Path, content_type: &str) -> Upload {
        let upload = BufWriter::with_capacity(self.store.clone(), path.clone(), PART);
        let upload = upload.with_max_concurrency(1);
        let Some(folder) = &self.folder else {
            let attributes =
                Attributes::from_iter([(Attribute::ContentType, content_type.to_owned())]);
            return Upload(upload.with_attributes(attributes));
        };
        // What a killed process has left of it. Nobody else writes this object.
        if let Ok(mut left) = folder.path_to_filesystem(path).map(PathBuf::into_os_string) {
            left.push("#1");
            drop(std::fs::remove_file(left));
        }
        Upload(upload)
    }
}

/// An error of the archive as it may be told. What a bucket's service answers stands at its end, and
/// may name keys: it is left out.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 500;
    let text = error.to_string();
    let text = text.split(['<', '{']).next().unwrap_or_default();
    let text = text.trim_end_matches([' ', ':', '\n']);
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

impl Upload {
    /// Adds bytes; waits while too many of them are on their way.
    pub async fn put(&mut self, bytes: Bytes) -> object_store::Result<()> {
        self.0.put(bytes).await
    }

    /// Makes it an object.
    pub async fn finish(mut self) -> std::io::Result<()> {
        self.0.shutdown().await
    }

    /// Removes what there is of it; what cannot be removed is nothing that could be seen.
    pub async fn abort(mut self) {
        drop(self.0.abort().await);
    }
}

/// Keys that are read again when their files change.
#[derive(Debug)]
struct Keys {
    id: Secret,
    key: Secret,
}

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let read = |secret: &Secret| {
            let secret = secret
                .read()
                .map_err(|error| object_store::Error::Generic {
                    store: "S3",
                    source: Box::new(error),
                })?;
            Ok::<_, object_store::Error>(secret.expose_secret().to_owned())
        };
        Ok(Arc::new(AwsCredential {
            key_id: read(&self.id)?,
            secret_key: read(&self.key)?,
            token: None,
        }))
    }
}

#[cfg(test)]
mod tests;
