use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::keys::{MIN_REFRESH, key_set};
use super::*;
use crate::config::Keys;
use crate::fuzz::bent;

mod served;

/// An issuer with one key.
struct Issuer {
    key: EcdsaKeyPair,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        Self { key, kid }
    }

    fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": part(&point[1..33]), "y": part(&point[33..]),
        })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_bytes(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    fn sign_bytes(&self, header: &[u8], claims: &[u8]) -> String {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.unwrap());
        format!("{message}.{signature}")
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
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

fn jwts_of(keys: Keys) -> Jwts {
    Jwts::new(&Kubernetes {
        issuer: "https://cluster".into(),
        audience: "gateway".into(),
        keys: Some(keys),
    })
    .unwrap()
}

fn jwts(file: &Path) -> Jwts {
    jwts_of(Keys::File(file.to_owned()))
}

/// Moves the clock of a runtime whose clock runs.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
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
    assert!(matches!(unknown, Err(JwtError::UnknownKey(_))));
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

#[tokio::test]
async fn a_file_that_hangs_delays_tokens_with_an_unknown_key_alone_and_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let (known, unknown) = (Issuer::new("known"), Issuer::new("unknown"));
    write(&file, &[known.jwk()]);
    let jwts = std::sync::Arc::new(jwts(&file));
    assert!(jwts.subject(&known.token(|_| {})).await.is_ok());
    // Opening a pipe without a writer blocks, as a mount that hangs does.
    std::fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    pass(MIN_REFRESH).await;
    let waiting = tokio::spawn({
        let (jwts, token) = (jwts.clone(), unknown.token(|_| {}));
        async move { jwts.subject(&token).await }
    });
    tokio::task::yield_now().await;
    assert!(jwts.subject(&known.token(|_| {})).await.is_ok());
    assert!(!waiting.is_finished());
    while !waiting.is_finished() {
        pass(Duration::from_secs(5)).await;
    }
    assert!(waiting.await.unwrap().is_err());
    assert!(jwts.subject(&known.token(|_| {})).await.is_ok());
    // Lets the thread end.
    std::fs::write(&file, json!({ "keys": [] }).to_string()).unwrap();
}

/// The example of RFC 7515, A.2.
mod rfc_7515 {
    pub const MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-\
                               Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6\
                               b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-\
                               KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I\
                               5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb\
                               54h4FRWyuXpoQ";
    pub const MESSAGE: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsD\
                               QogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    pub const SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7\
                                 AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4\
                                 BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K\
                                 0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv\
                                 hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB\
                                 p0igcN_IoypGlUPQGe77Rw";
}

fn rsa_jwk() -> Value {
    json!({ "kty": "RSA", "alg": "RS256", "kid": "r", "n": rfc_7515::MODULUS, "e": "AQAB" })
}

#[test]
fn a_signature_by_rs256_is_verified() {
    let _: Result<(), _> = PROVIDER.install_default();
    let set = key_set(json!({ "keys": [rsa_jwk()] }).to_string().as_bytes()).unwrap();
    let known = &set["r"];
    let is_good = |message: &str| {
        let (signature, message) = (rfc_7515::SIGNATURE, message.as_bytes());
        jsonwebtoken::crypto::verify(signature, message, &known.key, known.algorithm)
    };
    assert!(is_good(rfc_7515::MESSAGE).unwrap());
    assert!(!is_good(&rfc_7515::MESSAGE[1..]).unwrap());
}

/// An issuer that every case shares, its token, and its keys.
static FUZZED: std::sync::LazyLock<(Issuer, String, KeySet)> = std::sync::LazyLock::new(|| {
    let _: Result<(), _> = PROVIDER.install_default();
    let issuer = Issuer::new("a");
    // Good for as long as the longest run.
    let token = issuer.token(|claims| claims["exp"] = json!(now() + 360_000));
    let set = json!({ "keys": [issuer.jwk(), rsa_jwk()] }).to_string();
    let keys = key_set(set.as_bytes()).unwrap();
    (issuer, token, keys)
});

fn rules() -> Rules {
    Rules {
        issuer: "https://cluster".into(),
        audience: "gateway".into(),
    }
}

/// A token of the RSA key with a signature of another message.
fn rsa_token() -> String {
    let (_, token, _) = &*FUZZED;
    let claims = token.split('.').nth(1).unwrap();
    let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "RS256", "kid": "r" }).to_string());
    format!("{header}.{claims}.{}", rfc_7515::SIGNATURE)
}

proptest! {
    #[test]
    fn fuzz_a_bent_jwt_is_refused(
        text in bent(vec![FUZZED.1.clone().into_bytes(), rsa_token().into_bytes()]),
    ) {
        let (_, good, keys) = &*FUZZED;
        let text = String::from_utf8_lossy(&text);
        let is_jwt = Jwts::is_jwt(&text);
        let subject = rules().subject(&text, keys);
        prop_assert_eq!(subject.is_ok(), text == good.as_str());
        prop_assert!(is_jwt || subject.is_err());
    }

    #[test]
    fn fuzz_a_jwt_is_good_only_with_the_claims_and_the_key_of_the_issuer(
        header in bent(vec![
            br#"{"alg":"ES256","kid":"a"}"#.to_vec(),
            br#"{"alg":"RS256","kid":"r","typ":"JWT","jwk":{},"x5c":[""]}"#.to_vec(),
        ]),
        claims in bent(vec![claims().to_string().into_bytes()]),
    ) {
        let (issuer, _, keys) = &*FUZZED;
        let text = issuer.sign_bytes(&header, &claims);
        if let Ok(subject) = rules().subject(&text, keys) {
            let header: Value = serde_json::from_slice(&header).unwrap();
            prop_assert_eq!((&header["alg"], &header["kid"]), (&json!("ES256"), &json!("a")));
            let claims: Value = serde_json::from_slice(&claims).unwrap();
            prop_assert_eq!(&claims["sub"], &json!(subject));
            prop_assert_eq!(&claims["iss"], &json!("https://cluster"));
            let aud = &claims["aud"];
            let is_named = |aud: &Value| *aud == json!("gateway");
            prop_assert!(is_named(aud) || aud.as_array().is_some_and(|all| all.iter().any(is_named)));
            prop_assert!(claims["exp"].as_f64().unwrap() > 0.0);
        }
    }

    #[test]
    fn fuzz_a_bent_key_set_verifies_nothing_that_its_issuer_did_not_sign(
        set in bent(vec![json!({ "keys": [FUZZED.0.jwk(), rsa_jwk()] }).to_string().into_bytes()]),
    ) {
        let (_, good, _) = &*FUZZED;
        if let Ok(keys) = key_set(&set) {
            prop_assert!(keys.keys().all(|kid| kid.len() <= set.len()));
            if let Ok(subject) = rules().subject(good, &keys) {
                prop_assert_eq!(subject, "system:serviceaccount:crm:dialer");
            }
            prop_assert!(rules().subject(&rsa_token(), &keys).is_err());
        }
    }
}
