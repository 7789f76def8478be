//! Files of the platform: fetched from the configured address and from nowhere else.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::time::timeout;

use super::resend;
use super::wire::{Connector, WireError, connector, describe};

/// Where files are fetched from, and how long to wait for them.
#[derive(Clone, Debug)]
pub struct DownloadConfig {
    /// What the files' addresses are relative to: scheme, host, port and path.
    pub base_url: String,
    /// How long a connection may take to come about, TLS included.
    pub connect_timeout: Duration,
    /// How long the answer's head may take, and each further part of its body.
    pub wait: Duration,
}

/// Fetches files from one address.
pub struct Downloads {
    client: Client<Connector, Empty<Bytes>>,
    scheme: Scheme,
    authority: Authority,
    /// Begins and ends with a slash.
    path: String,
    wait: Duration,
}

/// Why a file was not fetched. No text holds an address: its query may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownloadError {
    /// The address leads to another host or out of the configured path, or is none at all.
    #[error("the address is not one below platform.push_download_url: {0}")]
    BadAddress(&'static str),
    /// There is no such file, or none any more.
    #[error("there is no such file (HTTP status {0})")]
    NotFound(u16),
    /// The server sends elsewhere, which is never followed.
    #[error("the server redirects (HTTP status {0}), which is not followed")]
    Redirected(u16),
    /// The file has more bytes than it may have.
    #[error("the file has more than {0} bytes")]
    TooLarge(u64),
    /// It did not come whole, several times; it may later.
    #[error("the file could not be fetched whole: {0}")]
    Broken(String),
    /// It could not be written down.
    #[error("the file could not be written down: {0}")]
    Io(String),
}

/// How often a file is tried, with a pause before each further time.
const MAX_TRIES: u32 = 5;

/// How one try failed.
enum Failed {
    /// Trying again would not help.
    ForGood(DownloadError),
    /// It may help.
    ForNow(String),
}

impl Failed {
    fn io(error: &io::Error) -> Self {
        Self::ForGood(DownloadError::Io(error.to_string()))
    }
}

/// How far a file has come.
#[derive(Default)]
struct Fetched {
    bytes: u64,
    /// Names the version of which these bytes are.
    etag: Option<HeaderValue>,
}

impl Downloads {
    /// Readies the client.
    pub fn new(config: &DownloadConfig) -> Result<Self, WireError> {
        let bad_url = || WireError::BadDownloadUrl;
        let parts = config.base_url.parse::<Uri>().map_err(|_| bad_url())?;
        let parts = parts.into_parts();
        let scheme = parts.scheme.ok_or_else(bad_url)?;
        let authority = parts.authority.ok_or_else(bad_url)?;
        let is_http = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
        if !is_http || authority.as_str().contains('@') {
            return Err(bad_url());
        }
        let path = parts.path_and_query.ok_or_else(bad_url)?;
        Ok(Self {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(5))
                .build(connector(config.connect_timeout)?),
            scheme,
            authority,
            path: format!("{}/", path.path().trim_end_matches('/')),
            wait: config.wait,
        })
    }

    /// The address of a file as the platform names it: relative to the configured one, or the
    /// same written out.
    ///
    /// Nothing of it can change where the request goes. Scheme, host and port are the
    /// configuration's own, and so is the beginning of the path: a segment that goes up is
    /// refused, however it is written.
    pub fn address(&self, url: &str) -> Result<Uri, DownloadError> {
        let base = format!("{}://{}{}", self.scheme, self.authority, self.path);
        let relative = url.strip_prefix(&base).unwrap_or(url);
        let target = format!("{}{}", self.path, joined(relative)?);
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(target)
            .build()
            .map_err(|_| DownloadError::BadAddress("it is no path"))
    }

    /// Writes the file of this address into `into`, which is empty; tells its size.
    ///
    /// A break is made good by asking for the rest, where the server gives parts of files, or by
    /// beginning again.
    pub async fn fetch(
        &self,
        url: &str,
        into: &mut File,
        max_bytes: u64,
    ) -> Result<u64, DownloadError> {
        let address = self.address(url)?;
        let mut fetched = Fetched::default();
        let mut failed = 0;
        loop {
            let why = match self.try_once(&address, into, max_bytes, &mut fetched).await {
                Ok(()) => return Ok(fetched.bytes),
                Err(Failed::ForGood(error)) => return Err(error),
                Err(Failed::ForNow(why)) => why,
            };
            failed += 1;
            if failed == MAX_TRIES {
                return Err(DownloadError::Broken(why));
            }
            tokio::time::sleep(resend::pause(failed)).await;
        }
    }

    async fn try_once(
        &self,
        address: &Uri,
        into: &mut File,
        max_bytes: u64,
        fetched: &mut Fetched,
    ) -> Result<(), Failed> {
        let request = self.client.request(request(address, fetched));
        let answer = timeout(self.wait, request).await;
        let answer = answer.map_err(|_| Failed::ForNow("no answer in time".to_owned()))?;
        let answer = answer.map_err(|error| Failed::ForNow(describe(&error)))?;
        check(&answer, fetched)?;
        if answer.status() != StatusCode::PARTIAL_CONTENT {
            // The whole file: what was there of it counts no more.
            let etag = answer.headers().get(ETAG).cloned();
            *fetched = Fetched { bytes: 0, etag };
            into.set_len(0).await.map_err(|error| Failed::io(&error))?;
            into.rewind().await.map_err(|error| Failed::io(&error))?;
        }
        let too_large = || Failed::ForGood(DownloadError::TooLarge(max_bytes));
        let mut body = answer.into_body();
        let announced = body.size_hint().lower();
        if fetched.bytes.saturating_add(announced) > max_bytes {
            return Err(too_large());
        }
        loop {
            let frame = timeout(self.wait, body.frame()).await;
            let frame = frame.map_err(|_| Failed::ForNow("the body stopped".to_owned()))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| Failed::ForNow(describe(&error)))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if fetched.bytes + data.len() as u64 > max_bytes {
                return Err(too_large());
            }
            into.write_all(data)
                .await
                .map_err(|error| Failed::io(&error))?;
            fetched.bytes += data.len() as u64;
        }
        into.flush().await.map_err(|error| Failed::io(&error))
    }
}

/// Asks for the file, or for what is missing of it.
fn request(address: &Uri, fetched: &Fetched) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = address.clone();
    if fetched.bytes > 0 {
        let headers = request.headers_mut();
        if let Ok(rest) = HeaderValue::from_str(&format!("bytes={}-", fetched.bytes)) {
            headers.insert(RANGE, rest);
        }
        // Of another version the whole is sent.
        let strong = fetched.etag.clone();
        if let Some(etag) = strong.filter(|etag| !etag.as_bytes().starts_with(b"W/")) {
            headers.insert(IF_RANGE, etag);
        }
    }
    request
}

/// Whether the body that follows is the file, or the rest of it.
fn check(answer: &Response<Incoming>, fetched: &mut Fetched) -> Result<(), Failed> {
    let status = answer.status();
    let number = status.as_u16();
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::PARTIAL_CONTENT if begins_at(answer) == Some(fetched.bytes) => Ok(()),
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            *fetched = Fetched::default();
            Err(Failed::ForNow("another part of it came".to_owned()))
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Err(Failed::ForGood(DownloadError::NotFound(number)))
        }
        _ if status.is_redirection() => Err(Failed::ForGood(DownloadError::Redirected(number))),
        _ => Err(Failed::ForNow(format!("HTTP status {number}"))),
    }
}

/// Where the part begins that was sent: `bytes 100-199/1000`.
fn begins_at(answer: &Response<Incoming>) -> Option<u64> {
    let range = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (from, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    from.parse().ok()
}

/// A relative address that leads nowhere but down, in the characters that addresses may have.
fn joined(relative: &str) -> Result<String, DownloadError> {
    let bad = |why| Err(DownloadError::BadAddress(why));
    let (path, query) = match relative.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (relative, None),
    };
    if path.starts_with("//") {
        return bad("it names a host");
    }
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.is_empty() {
        return bad("it is empty");
    }
    let first = path.split('/').next().unwrap_or_default();
    if first.contains(':') {
        return bad("it names a scheme");
    }
    if relative.contains(['\\', '#']) || relative.chars().any(char::is_control) {
        return bad("it has characters that no path has");
    }
    for segment in path.split('/') {
        let plain = decoded(segment);
        if plain == b"." || plain == b".." {
            return bad("it goes up");
        }
        if plain.iter().any(|byte| b"/\\\0\r\n".contains(byte)) {
            return bad("it hides characters that no path has");
        }
    }
    let mut target = String::with_capacity(relative.len());
    encode(path, &mut target);
    if let Some(query) = query {
        target.push('?');
        encode(query, &mut target);
    }
    Ok(target)
}

/// The bytes of a segment, its escapes resolved.
fn decoded(segment: &str) -> Vec<u8> {
    let mut rest = segment.as_bytes();
    let mut plain = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        let escaped = escaped.and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            plain.push(byte);
            rest = &after[2..];
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    plain
}

/// Writes a text with everything escaped that may not stand in an address; escapes stay.
fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%?".contains(&byte) {
            into.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn downloads() -> Downloads {
        Downloads::new(&DownloadConfig {
            base_url: "https://files.example:8443/push_download/".to_owned(),
            connect_timeout: Duration::from_secs(1),
            wait: Duration::from_secs(1),
        })
        .unwrap()
    }

    #[test]
    fn relative_addresses_are_joined_below_the_configured_one() {
        for (url, expected) in [
            ("a.zip", "a.zip"),
            ("2026/11/a.zip", "2026/11/a.zip"),
            ("/2026/a.zip", "2026/a.zip"),
            ("失败 1.zip?sign=a+b", "%E5%A4%B1%E8%B4%A5%201.zip?sign=a+b"),
            ("a%20b..c/d.zip", "a%20b..c/d.zip"),
            ("a@b/c:d.zip", "a@b/c:d.zip"),
            ("https://files.example:8443/push_download/a.zip", "a.zip"),
        ] {
            let address = downloads().address(url).unwrap();
            let expected = format!("https://files.example:8443/push_download/{expected}");
            assert_eq!(address.to_string(), expected);
        }
    }

    #[test]
    fn addresses_that_lead_elsewhere_are_refused() {
        for url in [
            "",
            "/",
            "//evil.example/a.zip",
            "https://evil.example/a.zip",
            "http://files.example:8443/push_download/a.zip",
            "https://files.example:8443/other/a.zip",
            "https://files.example:8443@evil.example/push_download/a.zip",
            "https:a.zip",
            "file:///etc/passwd",
            "../a.zip",
            "a/../../b.zip",
            "a/%2e%2E/b.zip",
            "a/.%2e/b.zip",
            "a%2f..%2fb.zip",
            "..\\a.zip",
            "a%5c..%5cb.zip",
            "a.zip#b",
            "a\r\nHost: evil.example\r\n.zip",
            "a%0d%0ab.zip",
            "user:secret@evil.example/a.zip",
        ] {
            let refused = downloads().address(url);
            assert!(
                matches!(refused, Err(DownloadError::BadAddress(_))),
                "{url}: {refused:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_address_is_taken_stays_on_the_host_and_below_the_path(
            url in prop_oneof!["\\PC{0,40}", "[a./%2eE5cf:@?#\\\\-]{0,30}"],
        ) {
            if let Ok(address) = downloads().address(&url) {
                prop_assert_eq!(address.authority().unwrap(), "files.example:8443");
                let path = address.path();
                prop_assert!(path.starts_with("/push_download/"), "{}", path);
                for segment in path.split('/') {
                    let plain = decoded(segment);
                    prop_assert!(plain != b".." && plain != b".", "{}", path);
                }
            }
        }
    }
}
