//! The keys of an issuer, from a file or an address, as they were last read.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::Uri;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

use crate::config::Keys;
use crate::log_limit::LogLimit;
use crate::secret::{Rule, Secret, SecretError};
use crate::tls::{ClientFiles, TlsError};

/// The minimum time between two reads of the keys.
pub(super) const MIN_REFRESH: Duration = Duration::from_secs(60);
/// The maximum time of a request for the keys.
pub(super) const HTTP_TIMEOUT: Duration = Duration::from_secs(4);
/// The maximum time that a caller waits for the keys. Longer than a request for them, so that only
/// a file that hangs takes this long.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// The maximum size of a key set.
pub(super) const MAX_KEY_SET: usize = 1 << 20;

/// The keys of an issuer, by their ids.
pub(super) type KeySet = HashMap<String, Key>;

/// A key that verifies signatures.
#[derive(Debug)]
pub(super) struct Key {
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

/// Why the keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{error}: {}", cause(error))]
    Http { error: reqwest::Error },
    #[error("{0}")]
    Certificates(#[from] TlsError),
    #[error("{0}")]
    Token(#[from] SecretError),
    #[error("HTTP status {0}")]
    Status(reqwest::StatusCode),
    #[error("more than {MAX_KEY_SET} bytes")]
    TooLarge,
    #[error("no JSON Web Key Set: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<reqwest::Error> for KeysError {
    fn from(error: reqwest::Error) -> Self {
        // The address may hold a password.
        let error = error.without_url();
        Self::Http { error }
    }
}

/// The innermost cause of an error: reqwest's own text says only what was done.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The last good keys of an issuer.
#[derive(Debug)]
pub(super) struct KeyCache {
    source: Keys,
    keys: Arc<RwLock<Arc<KeySet>>>,
    /// When the keys were last read or tried to be; held while they are read.
    refreshed: Arc<Mutex<Option<Instant>>>,
    warnings: LogLimit,
}

impl KeyCache {
    /// Has no keys before the first refresh.
    pub fn new(source: Keys) -> Self {
        Self {
            source,
            keys: Arc::default(),
            refreshed: Arc::default(),
            warnings: LogLimit::new(MIN_REFRESH),
        }
    }

    /// The last good keys.
    pub fn present(&self) -> Arc<KeySet> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.clone()
    }

    /// Reads the keys again for an unknown id, unless that was done within the last minute.
    pub async fn refresh(&self, kid: &str) {
        let refreshed = timeout(MAX_WAIT, self.refresh_unbounded(kid)).await;
        if refreshed.is_err() && self.warnings.admit().is_some() {
            tracing::warn!("the files of the keys of service accounts cannot be read in time");
        }
    }

    async fn refresh_unbounded(&self, kid: &str) {
        let mut refreshed = self.refreshed.clone().lock_owned().await;
        let is_recent = refreshed.is_some_and(|at| at.elapsed() < MIN_REFRESH);
        // Another request may have read them while this one waited.
        if is_recent || self.present().contains_key(kid) {
            return;
        }
        *refreshed = Some(Instant::now());
        let reading = read_into(self.source.clone(), self.keys.clone(), refreshed);
        // A task of its own: a caller that goes away must not end a read that others need, and
        // that is not made again for a minute. A panic in it ends the process.
        let _ = tokio::spawn(reading).await;
    }
}

/// Reads the keys. The guard is held to the end, so that a mount that hangs keeps one thread.
async fn read_into(
    source: Keys,
    keys: Arc<RwLock<Arc<KeySet>>>,
    _refreshed: OwnedMutexGuard<Option<Instant>>,
) {
    match read(source).await {
        Ok(read) => {
            let count = read.len();
            tracing::info!(keys = count, "the keys of service accounts have been read");
            *keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
        }
        Err(error) => {
            tracing::warn!(%error, "keeping the keys of service accounts read before");
        }
    }
}

async fn read(source: Keys) -> Result<KeySet, KeysError> {
    match source {
        Keys::File(path) => {
            let mut json = Vec::new();
            let file = tokio::fs::File::open(path).await?;
            let mut file = file.take(MAX_KEY_SET as u64 + 1);
            file.read_to_end(&mut json).await?;
            key_set(&json)
        }
        Keys::Url {
            url,
            ca_file,
            token_file,
        } => {
            let files = tokio::task::spawn_blocking(|| read_files(ca_file, token_file));
            let (client, token) = files.await.map_err(std::io::Error::other)??;
            key_set(&fetch(&client, &url, token).await?)
        }
    }
}

/// A client that trusts the authorities of a file, or the web's, and the token of another file.
fn read_files(
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
) -> Result<(reqwest::Client, Option<SecretString>), KeysError> {
    let files = ClientFiles {
        ca_file,
        identity: None,
    };
    let token = token_file.map(|path| Secret::file(path, Rule::Token).read());
    let loopback = [
        (Ipv4Addr::LOCALHOST, 0).into(),
        (Ipv6Addr::LOCALHOST, 0).into(),
    ];
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(files.read()?)
        // The token of the gateway goes to this address and no other.
        .redirect(reqwest::redirect::Policy::none())
        .resolve_to_addrs("localhost", &loopback)
        .no_proxy()
        .timeout(HTTP_TIMEOUT)
        .build()?;
    Ok((client, token.transpose()?))
}

async fn fetch(
    client: &reqwest::Client,
    url: &Uri,
    token: Option<SecretString>,
) -> Result<Vec<u8>, KeysError> {
    let mut request = client.get(url.to_string());
    if let Some(token) = token {
        request = request.bearer_auth(token.expose_secret());
    }
    let mut answer = request.send().await?;
    if !answer.status().is_success() {
        return Err(KeysError::Status(answer.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > MAX_KEY_SET {
            return Err(KeysError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The usable keys of a set. Others are left out: keys for encryption or of other algorithms.
pub(super) fn key_set(json: &[u8]) -> Result<KeySet, KeysError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    if json.len() > MAX_KEY_SET {
        return Err(KeysError::TooLarge);
    }
    let set: Set = serde_json::from_slice(json)?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        let kid = jwk.common.key_id.clone()?;
        Some((kid, usable(&jwk)?))
    });
    Ok(keys.collect())
}

/// A key for signatures by RS256 or ES256.
fn usable(jwk: &Jwk) -> Option<Key> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        _ => return None,
    };
    let common = &jwk.common;
    let is_for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
    let is_of_algorithm = common
        .key_algorithm
        .is_none_or(|named| Algorithm::try_from(named).is_ok_and(|named| named == algorithm));
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (is_for_signatures && is_of_algorithm).then_some(Key { algorithm, key })
}
