//! Who may call what, what each client is shown, and what is written about it.

mod audit;
pub mod jwks;
mod masking;
mod quotas;
mod reload;
mod rights;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;
use yeta_gateway::account::Account;
use yeta_gateway::config::{Client, Permission};
use yeta_gateway::secret::Secret;

use crate::hostile::raw::address;
use crate::tls::{Authority, Signed, client_config};

pub fn channel(grpc: &str) -> Channel {
    Endpoint::from_shared(grpc.to_owned())
        .unwrap()
        .connect_lazy()
}

/// A channel over TLS, with a client's certificate if one is given.
pub fn tls_channel(grpc: &str, trusted: &Authority, client: Option<&Signed>) -> Channel {
    let tls = Arc::new(client_config(&[trusted], client));
    let address = address(grpc);
    let connect = tower::service_fn(move |_: http::Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("gateway.test").unwrap();
            let stream = TlsConnector::from(tls).connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_shared(grpc.to_owned())
        .unwrap()
        .connect_with_connector_lazy(connect)
}

/// A client whose token is its name.
pub fn client(name: &str, allow: &[Permission], accounts: &[&str]) -> Client {
    Client {
        name: name.to_owned(),
        token_sha256: vec![Sha256::digest(name).into()],
        allow: allow.to_vec(),
        accounts: accounts.iter().map(|&account| account.to_owned()).collect(),
        ..Client::default()
    }
}

pub fn second_account() -> Account {
    Account {
        name: "second".into(),
        app_key: Secret::inline("key"),
        app_secret: Secret::inline("secret"),
        push_secret: Secret::inline("second-secret-of-pushes"),
        allow_push_from: Vec::new(),
        enabled: true,
    }
}

pub fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// The machine-readable reason of an error.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

pub fn hex(token: &str) -> String {
    let hash = Sha256::digest(token);
    hash.iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// An issuer of tokens of service accounts.
pub struct Issuer(EcdsaKeyPair);

impl Issuer {
    pub fn new() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    /// The key set that verifies its tokens.
    pub fn jwks(&self) -> String {
        let point = self.0.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (part(&point[1..33]), part(&point[33..]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": x, "y": y}]}).to_string()
    }

    /// A token of the service account `crm/NAME`, good for so many seconds.
    pub fn token(&self, name: &str, audience: &str, seconds: i64) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({
            "iss": "https://cluster", "aud": [audience], "exp": now + seconds,
            "sub": format!("system:serviceaccount:crm:{name}"),
        });
        let header = json!({"alg": "ES256", "kid": "k"});
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.unwrap()))
    }
}
