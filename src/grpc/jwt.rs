//! Tokens of Kubernetes service accounts: signed by the cluster, for this gateway, and not expired.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper_rustls::ConfigBuilderExt as _;
use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::{Keys, Kubernetes};

/// How far the clocks of the cluster and of this machine may differ, in seconds.
const SKEW: u64 = 60;
/// The least time between two reads of the keys.
const MIN_REFRESH: Duration = Duration::from_secs(60);
/// How long reading the keys may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of a key set.
const MAX_KEY_SET: usize = 1 << 20;

/// Why a token is refused.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// The token names no key of the issuer's.
    #[error("the token names no known key")]
    UnknownKey,
    /// The token is no good: form, algorithm, signature, issuer, audience or time.
    #[error("the token is refused: {0}")]
    Refused(#[from] jsonwebtoken::errors::Error),
}

/// Why the keys cannot be read.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("the certificates cannot be read: {0}")]
    Certificates(String),
    #[error("HTTP status {0}")]
    Status(reqwest::StatusCode),
    #[error("more than {MAX_KEY_SET} bytes")]
    TooLarge,
    #[error("no JSON Web Key Set: {0}")]
    Json(#[from] serde_json::Error),
    #[error("no answer within {TIMEOUT:?}")]
    TimedOut,
}

/// Verifies tokens of service accounts.
#[derive(Debug)]
pub struct Jwts {
    issuer: String,
    audience: String,
    source: Keys,
    keys: RwLock<Arc<KeySet>>,
    /// When the keys were last read or tried to be; held while they are read.
    refreshed: Mutex<Option<Instant>>,
}

/// The keys of an issuer, by their ids.
type KeySet = HashMap<String, Key>;

#[derive(Debug)]
struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Jwts {
    /// Verifies tokens as configured; `None` where no keys are configured. Keys are read when the
    /// first token comes.
    pub fn new(config: &Kubernetes) -> Option<Self> {
        // Another caller in this process has installed it before.
        let _: Result<(), _> = PROVIDER.install_default();
        Some(Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            source: config.keys.clone()?,
            keys: RwLock::default(),
            refreshed: Mutex::default(),
        })
    }

    /// Whether a bearer token has the form of a JWT.
    pub fn is_jwt(token: &str) -> bool {
        // A JSON object in base64 begins so.
        token.starts_with("eyJ") && token.split('.').count() == 3
    }

    /// The `sub` claim of a valid token.
    pub async fn subject(&self, token: &str) -> Result<String, JwtError> {
        let header = jsonwebtoken::decode_header(token)?;
        let kid = header.kid.unwrap_or_default();
        let mut keys = self.keys();
        if !keys.contains_key(&kid) {
            self.refresh(&kid).await;
            keys = self.keys();
        }
        let known = keys.get(&kid).ok_or(JwtError::UnknownKey)?;
        let mut validation = Validation::new(known.algorithm);
        validation.leeway = SKEW;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let token = jsonwebtoken::decode::<Claims>(token, &known.key, &validation)?;
        Ok(token.claims.sub)
    }

    fn keys(&self) -> Arc<KeySet> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.clone()
    }

    /// Reads the keys again for an unknown id, unless that was done a moment ago.
    async fn refresh(&self, kid: &str) {
        let mut refreshed = self.refreshed.lock().await;
        let is_recent = refreshed.is_some_and(|at| at.elapsed() < MIN_REFRESH);
        // Another request may have read them while this one waited.
        if is_recent || self.keys().contains_key(kid) {
            return;
        }
        *refreshed = Some(Instant::now());
        let read = tokio::time::timeout(TIMEOUT, read(&self.source)).await;
        match read.unwrap_or(Err(KeysError::TimedOut)) {
            Ok(keys) => {
                tracing::info!(
                    keys = keys.len(),
                    "the keys of service accounts have been read"
                );
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Err(error) => {
                tracing::warn!(%error, "the keys of service accounts cannot be read");
            }
        }
    }
}

async fn read(source: &Keys) -> Result<KeySet, KeysError> {
    match source {
        Keys::File(path) => key_set(&tokio::fs::read(path).await?),
        Keys::Url {
            url,
            ca_file,
            token_file,
        } => {
            let client = client(ca_file.as_deref())?;
            let mut request = client.get(url.to_string());
            if let Some(path) = token_file {
                let token = tokio::fs::read_to_string(path).await?;
                request = request.bearer_auth(token.trim());
            }
            let mut answer = request.send().await.map_err(reqwest::Error::without_url)?;
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
            key_set(&body)
        }
    }
}

/// A client that trusts the authorities of a file, or the web's.
fn client(ca_file: Option<&Path>) -> Result<reqwest::Client, KeysError> {
    let failed = |error: &dyn std::error::Error| KeysError::Certificates(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let tls = match ca_file {
        None => tls.with_webpki_roots(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path).map_err(|it| failed(&it))? {
                let certificate = certificate.map_err(|error| failed(&error))?;
                roots.add(certificate).map_err(|error| failed(&error))?;
            }
            tls.with_root_certificates(roots)
        }
    };
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls.with_no_client_auth())
        // The token of the gateway goes to this address and no other.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(TIMEOUT)
        .build()?)
}

/// The usable keys of a set. Others are left out: keys for encryption or of other algorithms.
fn key_set(json: &[u8]) -> Result<KeySet, KeysError> {
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

/// Verification by *ring*, which is in the tree already. Nothing is signed here.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm, key| verifier(*algorithm, key),
    key_utils: KeyUtils::new_unimplemented(),
};

fn verifier(
    algorithm: Algorithm,
    key: &DecodingKey,
) -> jsonwebtoken::errors::Result<Box<dyn JwtVerifier>> {
    let key = match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            PublicKey::Rsa(RsaPublicKeyComponents {
                n: n.clone(),
                e: e.clone(),
            })
        }
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => PublicKey::Ec(point.clone()),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(RingVerifier { algorithm, key }))
}

enum PublicKey {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Ec(Vec<u8>),
}

struct RingVerifier {
    algorithm: Algorithm,
    key: PublicKey,
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], given: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match &self.key {
            PublicKey::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, given),
            PublicKey::Ec(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, given)
            }
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::{Value, json};

    use super::*;

    /// An issuer with one key.
    pub struct Issuer {
        key: EcdsaKeyPair,
        kid: &'static str,
    }

    impl Issuer {
        pub fn new(kid: &'static str) -> Self {
            let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
            Self { key, kid }
        }

        pub fn jwk(&self) -> Value {
            let point = self.key.public_key().as_ref();
            let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            json!({
                "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
                "x": part(&point[1..33]), "y": part(&point[33..]),
            })
        }

        pub fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let message = format!("{}.{}", part(header), part(claims));
            let signature = self.key.sign(&SystemRandom::new(), message.as_bytes());
            let signature = URL_SAFE_NO_PAD.encode(signature.unwrap());
            format!("{message}.{signature}")
        }

        pub fn token(&self, change: impl FnOnce(&mut Value)) -> String {
            let mut claims = claims();
            change(&mut claims);
            self.sign(&json!({"alg": "ES256", "kid": self.kid}), &claims)
        }
    }

    fn now() -> u64 {
        jsonwebtoken::get_current_timestamp()
    }

    fn claims() -> Value {
        json!({
            "iss": "https://cluster", "aud": ["other", "gateway"], "exp": now() + 600,
            "nbf": now(), "iat": now(), "sub": "system:serviceaccount:crm:dialer",
        })
    }

    fn jwts(file: &Path) -> Jwts {
        Jwts::new(&Kubernetes {
            issuer: "https://cluster".into(),
            audience: "gateway".into(),
            keys: Some(Keys::File(file.to_owned())),
        })
        .unwrap()
    }

    fn write(file: &Path, keys: &[Value]) {
        std::fs::write(file, json!({ "keys": keys }).to_string()).unwrap();
    }

    #[tokio::test]
    async fn a_token_is_good_only_with_signature_issuer_audience_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jwks.json");
        let (issuer, stranger) = (Issuer::new("a"), Issuer::new("a"));
        write(&file, &[issuer.jwk()]);
        let jwts = jwts(&file);
        let good = issuer.token(|_| {});
        let subject = jwts.subject(&good).await.unwrap();
        assert_eq!(subject, "system:serviceaccount:crm:dialer");
        let set = |key: &'static str, value: Value| move |claims: &mut Value| claims[key] = value;
        for good in [
            issuer.token(set("exp", json!(now() - 30))),
            issuer.token(set("nbf", json!(now() + 30))),
            issuer.token(set("aud", json!("gateway"))),
        ] {
            assert!(jwts.subject(&good).await.is_ok());
        }
        let none = json!({"alg": "none", "kid": "a"});
        let hmac = json!({"alg": "HS256", "kid": "a"});
        let rsa = json!({"alg": "RS256", "kid": "a"});
        for (what, bad) in [
            ("expired", issuer.token(set("exp", json!(now() - 90)))),
            ("not yet", issuer.token(set("nbf", json!(now() + 90)))),
            ("audience", issuer.token(set("aud", json!(["other"])))),
            ("no audience", issuer.token(set("aud", Value::Null))),
            ("issuer", issuer.token(set("iss", json!("https://else")))),
            (
                "no expiry",
                issuer.token(|claims| {
                    claims.as_object_mut().unwrap().remove("exp");
                }),
            ),
            (
                "no subject",
                issuer.token(|claims| {
                    claims.as_object_mut().unwrap().remove("sub");
                }),
            ),
            ("signature", stranger.token(|_| {})),
            ("alg none", issuer.sign(&none, &claims())),
            ("alg hmac", issuer.sign(&hmac, &claims())),
            ("alg of another key", issuer.sign(&rsa, &claims())),
            ("no kid", issuer.sign(&json!({"alg": "ES256"}), &claims())),
            ("cut", good[..good.len() - 2].to_owned()),
            ("no signature", good[..=good.rfind('.').unwrap()].to_owned()),
            ("no json", "eyJ.e30.x".to_owned()),
        ] {
            assert!(jwts.subject(&bad).await.is_err(), "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_has_the_keys_read_again_at_most_once_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jwks.json");
        let (old, new) = (Issuer::new("old"), Issuer::new("new"));
        write(&file, &[old.jwk()]);
        let jwts = jwts(&file);
        assert!(jwts.subject(&old.token(|_| {})).await.is_ok());
        write(&file, &[old.jwk(), new.jwk()]);
        let unknown = jwts.subject(&new.token(|_| {})).await;
        assert!(matches!(unknown, Err(JwtError::UnknownKey)));
        tokio::time::advance(MIN_REFRESH).await;
        assert!(jwts.subject(&new.token(|_| {})).await.is_ok());
        std::fs::write(&file, "broken").unwrap();
        tokio::time::advance(MIN_REFRESH).await;
        assert!(
            jwts.subject(&Issuer::new("third").token(|_| {}))
                .await
                .is_err()
        );
        assert!(jwts.subject(&old.token(|_| {})).await.is_ok());
    }

    #[test]
    fn only_keys_for_signatures_of_the_two_algorithms_are_used() {
        let key = Issuer::new("a").jwk();
        let with = |name: &str, value: Value| {
            let mut key = key.clone();
            key[name] = value;
            key
        };
        let symmetric = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"});
        let keys = [
            symmetric,
            with("use", json!("enc")),
            with("alg", json!("RS256")),
            with("kid", Value::Null),
            json!({"kty": "unheard of", "kid": "x"}),
        ];
        let set = key_set(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        assert!(set.is_empty(), "{:?}", set.keys());
        let set = key_set(json!({ "keys": [key] }).to_string().as_bytes()).unwrap();
        assert!(set.contains_key("a"));
    }

    #[test]
    fn a_jwt_is_recognized_by_its_form() {
        assert!(Jwts::is_jwt("eyJhbGciOiJFUzI1NiJ9.e30.c2ln"));
        for other in ["token", "eyJhbGciOiJFUzI1NiJ9", "a.b.c", "eyJ.b.c.d"] {
            assert!(!Jwts::is_jwt(other), "{other}");
        }
    }
}
