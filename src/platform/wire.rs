//! HTTP to the platform.

use std::{
    error::Error,
    fmt::Write,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    HeaderValue, Method, Request, Uri,
    header::CONTENT_TYPE,
    uri::{Authority, Scheme},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use secrecy::{ExposeSecret, SecretString};
use tower::{BoxError, timeout::Timeout, util::BoxCloneSyncService};

use super::{
    PlatformConfig,
    gate::Gate,
    transport::{HttpAnswer, PostError, Transport},
};

/// More than any answer of the platform: 50 tasks are some 50 KiB.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// More than calls wait for the platform at a time; a connection kept costs
/// less than one made anew, and none is kept for longer than the idle timeout.
const MAX_IDLE_CONNECTIONS: usize = 512;

pub(super) type Connector = BoxCloneSyncService<
    Uri,
    <HttpsConnector<HttpConnector> as tower::Service<Uri>>::Response,
    BoxError,
>;

/// The HTTP client and where it goes.
pub(super) struct Wire {
    client: Client<Connector, GatedBody>,
    scheme: Scheme,
    authority: Authority,
    prefix: String,
    request_timeout: Duration,
}

/// Why a base URL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is not an `http` or `https` URL with a host and without a query.
    #[error("platform.base_url is no http or https address: {0:?}")]
    BadBaseUrl(String),
    /// The same of the address that files are fetched from.
    #[error("platform.push_download_url is no http or https address without credentials")]
    BadDownloadUrl,
    /// The prefix is no path.
    #[error("platform.path_prefix is no path: {0:?}")]
    BadPathPrefix(String),
    /// TLS could not be set up.
    #[error("cannot set up tls: {0}")]
    Tls(String),
}

impl Wire {
    pub(super) fn new(config: &PlatformConfig) -> Result<Self, WireError> {
        let bad_url = || WireError::BadBaseUrl(config.base_url.clone());
        let base = config.base_url.parse::<Uri>().map_err(|_| bad_url())?;
        let parts = base.into_parts();
        let scheme = parts.scheme.ok_or_else(bad_url)?;
        let authority = parts.authority.ok_or_else(bad_url)?;
        let base_path = parts.path_and_query.ok_or_else(bad_url)?;
        let is_http = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
        if !is_http || authority.as_str().contains('@') || base_path.query().is_some() {
            return Err(bad_url());
        }
        let own_prefix = config.path_prefix.trim_matches('/');
        let mut prefix = base_path.path().trim_end_matches('/').to_owned();
        if !own_prefix.is_empty() {
            prefix.push('/');
            prefix.push_str(own_prefix);
        }
        let wire = Self {
            client: client(config)?,
            scheme,
            authority,
            prefix,
            request_timeout: config.request_timeout,
        };
        match wire.uri("/", None) {
            Ok(uri) if uri.query().is_none() => Ok(wire),
            _ => Err(WireError::BadPathPrefix(config.path_prefix.clone())),
        }
    }

    async fn exchange(
        &self,
        path: &str,
        token: Option<&SecretString>,
        body: Bytes,
        gate: &Arc<Gate>,
    ) -> Result<HttpAnswer, PostError> {
        let uri = self
            .uri(path, token)
            .map_err(|()| PostError::NotSent("the token cannot stand in an address".to_owned()))?;
        let try_number = gate.arm();
        let mut request = Request::new(GatedBody {
            bytes: Some(body),
            gate: Arc::clone(gate),
            try_number,
        });
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        request.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/json;charset=UTF-8"),
        );

        // The exchange must be gone before the gate is closed and its verdict
        // taken, or its body might still go out.
        let exchange = async {
            let answer = self.client.request(request).await?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), MAX_ANSWER)
                .collect()
                .await?;
            let body = body.to_bytes();
            Ok::<_, BoxError>(HttpAnswer { status, body })
        };
        let outcome = tokio::time::timeout(self.request_timeout, exchange).await;
        let sent = gate.close();
        match outcome {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if sent => Err(PostError::NoAnswer(describe(error.as_ref()))),
            Ok(Err(error)) => Err(PostError::NotSent(describe(error.as_ref()))),
            Err(_) if sent => Err(PostError::TimedOut),
            Err(_) => Err(PostError::NotSent(format!(
                "no connection within {}",
                humantime::format_duration(self.request_timeout)
            ))),
        }
    }

    /// The only place where the token is part of an address. Addresses made
    /// here are handed to the HTTP client and printed nowhere.
    fn uri(&self, path: &str, token: Option<&SecretString>) -> Result<Uri, ()> {
        let mut target = format!("{}{path}", self.prefix);
        if let Some(token) = token {
            target.push_str("?token=");
            for byte in token.expose_secret().bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    target.push(char::from(byte));
                } else {
                    let _ = write!(target, "%{byte:02X}");
                }
            }
        }
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(target)
            .build()
            .map_err(|_| ())
    }
}

impl Transport for Wire {
    fn post<'a>(
        &'a self,
        path: &'a str,
        token: Option<&'a SecretString>,
        body: Bytes,
        gate: &'a Arc<Gate>,
    ) -> BoxFuture<'a, Result<HttpAnswer, PostError>> {
        Box::pin(self.exchange(path, token, body, gate))
    }
}

/// What makes connections, plain or with TLS, within this time.
pub(super) fn connector(connect_timeout: Duration) -> Result<Connector, WireError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let https = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
        .map_err(|error| WireError::Tls(error.to_string()))?
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    // Around both, so that it bounds the TCP and the TLS handshake together.
    Ok(BoxCloneSyncService::new(Timeout::new(
        https,
        connect_timeout,
    )))
}

fn client(config: &PlatformConfig) -> Result<Client<Connector, GatedBody>, WireError> {
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(config.pool_idle_timeout)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        // Takes up again only a request that came back from its connection
        // whole, unstarted: the connection was found closed before anything of
        // it was written. The gate would stop anything else.
        .retry_canceled_requests(true)
        .build(connector(config.connect_timeout)?))
}

/// The error with its causes. None of them names the address's path or query.
pub(super) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// A request's body, which goes out through the gate or not at all.
struct GatedBody {
    bytes: Option<Bytes>,
    gate: Arc<Gate>,
    try_number: u32,
}

#[derive(Debug, thiserror::Error)]
#[error("the request was given up before it was sent")]
struct GateClosed;

impl Body for GatedBody {
    type Data = Bytes;
    type Error = GateClosed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GateClosed>>> {
        let Some(bytes) = self.bytes.take() else {
            return Poll::Ready(None);
        };
        if self.gate.open(self.try_number) {
            Poll::Ready(Some(Ok(Frame::data(bytes))))
        } else {
            Poll::Ready(Some(Err(GateClosed)))
        }
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(base_url: &str, path_prefix: &str) -> Result<Wire, WireError> {
        Wire::new(&PlatformConfig {
            base_url: base_url.to_owned(),
            path_prefix: path_prefix.to_owned(),
            ..PlatformConfig::default()
        })
    }

    #[test]
    fn base_and_prefix_are_joined_by_single_slashes() {
        for (base, prefix, expected) in [
            (
                "https://www.xfyeta.com",
                "/openapi",
                "https://www.xfyeta.com/openapi/x?token=a%2Bb",
            ),
            (
                "https://www.xfyeta.com/",
                "openapi/",
                "https://www.xfyeta.com/openapi/x?token=a%2Bb",
            ),
            (
                "http://127.0.0.1:1/a/",
                "",
                "http://127.0.0.1:1/a/x?token=a%2Bb",
            ),
            ("http://h/a", "/b/c", "http://h/a/b/c/x?token=a%2Bb"),
        ] {
            let wire = wire(base, prefix).unwrap();
            let uri = wire.uri("/x", Some(&"a+b".into())).unwrap();
            assert_eq!(uri.to_string(), expected);
        }
    }

    #[test]
    fn addresses_that_cannot_be_posted_to_are_refused() {
        for base in [
            "",
            "www.xfyeta.com",
            "ftp://h",
            "http://u:p@h",
            "http://h/?a=b",
            "/x",
        ] {
            assert!(wire(base, "/openapi").is_err(), "{base}");
        }
        assert!(wire("http://h", "/a?b").is_err());
        assert!(wire("http://h", "/a b").is_err());
    }
}
