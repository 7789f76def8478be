//! Tokens of Kubernetes service accounts: signed by the cluster, for this gateway, and not expired.

mod keys;
#[cfg(test)]
mod tests;

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

use self::keys::{KeyCache, KeySet};
use crate::config::Kubernetes;

/// How far the clocks of the cluster and of this machine may differ, in seconds.
const SKEW: u64 = 60;

/// Why a token is refused.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// The token names no key of the issuer's. The name is not shown.
    #[error("the token names no known key")]
    UnknownKey(String),
    /// The token is no good: form, algorithm, signature, issuer, audience or time.
    #[error("the token is refused: {0}")]
    Refused(#[from] jsonwebtoken::errors::Error),
}

/// Verifies tokens of service accounts.
#[derive(Debug)]
pub struct Jwts {
    rules: Rules,
    keys: KeyCache,
}

/// What the claims of a token must be.
#[derive(Debug)]
struct Rules {
    issuer: String,
    audience: String,
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
            rules: Rules {
                issuer: config.issuer.clone(),
                audience: config.audience.clone(),
            },
            keys: KeyCache::new(config.keys.clone()?),
        })
    }

    /// Whether a bearer token has the form of a JWT.
    pub fn is_jwt(token: &str) -> bool {
        // A JSON object in base64 begins so.
        token.starts_with("eyJ") && token.split('.').count() == 3
    }

    /// The `sub` claim of a valid token. Waits only for an unknown key, while the keys are read.
    pub async fn subject(&self, token: &str) -> Result<String, JwtError> {
        match self.rules.subject(token, &self.keys.present()) {
            Err(JwtError::UnknownKey(kid)) => {
                self.keys.refresh(&kid).await;
                self.rules.subject(token, &self.keys.present())
            }
            decided => decided,
        }
    }
}

impl Rules {
    fn subject(&self, token: &str, keys: &KeySet) -> Result<String, JwtError> {
        let header = jsonwebtoken::decode_header(token)?;
        let kid = header.kid.unwrap_or_default();
        let Some(known) = keys.get(&kid) else {
            return Err(JwtError::UnknownKey(kid));
        };
        let mut validation = Validation::new(known.algorithm);
        validation.leeway = SKEW;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let token = jsonwebtoken::decode::<Claims>(token, &known.key, &validation)?;
        Ok(token.claims.sub)
    }
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
