//! One recording, byte by byte: asked for, and asked for again from where it stood when the
//! connection breaks.

mod answer;
mod error;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper_rustls::ConfigBuilderExt as _;
use rand::RngExt as _;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, IF_RANGE, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, redirect};
use tokio::time::{sleep, timeout};
use url::Url;

pub use self::answer::Head;
use self::answer::{Answer, Body, read_head};
pub use self::error::FetchError;
use super::address::{AddressError, BadBase, Base};
use super::metrics::{Purpose, VoiceMetrics};

/// How the voice server is reached.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// What recordings' addresses are relative to, and must lie below.
    pub base_url: String,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the server may send nothing.
    pub stall_timeout: Duration,
    /// Maximum number of bytes of one recording.
    pub max_bytes: u64,
}

/// The voice server cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its address is none to fetch from.
    #[error(transparent)]
    Base(#[from] BadBase),
    /// The HTTP client could not be set up.
    #[error("the client of the voice server cannot be set up: {0}")]
    Client(String),
}

/// So many failures in a row, without a byte between them, are the end.
const MAX_FAILURES: u32 = 4;
/// After the first of them; doubled with each further one.
const PAUSE: Duration = Duration::from_millis(200);
/// So many redirects are followed.
const MAX_REDIRECTS: usize = 2;
/// The server that recordings are fetched from, and the only one.
pub struct VoiceServer {
    base: Base,
    client: Client,
    stall_timeout: Duration,
    max_bytes: u64,
    metrics: VoiceMetrics,
}

/// A recording on its way.
pub struct Download {
    server: Arc<VoiceServer>,
    purpose: Purpose,
    asked: Url,
    head: Head,
    /// How much of the whole has been given out, or left out at the beginning.
    position: u64,
    body: Option<Body>,
    failures: u32,
    is_over: bool,
    limit: Limit,
}

/// The most bytes that a recording may have.
#[derive(Clone, Copy)]
enum Limit {
    /// What its push announced.
    Pushed(u64),
    /// `voice.max_bytes`, which holds for what the voice server announces, too.
    Max(u64),
}

impl Limit {
    fn of(head: &Head, pushed: Option<i64>, max: u64) -> Self {
        let pushed = pushed.and_then(|size| u64::try_from(size).ok());
        match pushed.filter(|size| head.size.is_none() && (1..max).contains(size)) {
            Some(size) => Self::Pushed(size),
            None => Self::Max(max),
        }
    }

    /// Checks the position that a recording has reached, or its size.
    fn check(self, position: u64) -> Result<(), FetchError> {
        match self {
            Self::Pushed(pushed) if position > pushed => {
                Err(FetchError::LongerThanPushed { pushed })
            }
            Self::Max(limit) if position > limit => Err(FetchError::TooLarge { limit }),
            Self::Pushed(_) | Self::Max(_) => Ok(()),
        }
    }
}

impl VoiceServer {
    /// The voice server of a configuration. Nothing is sent yet.
    pub fn new(options: &ServerOptions, metrics: VoiceMetrics) -> Result<Self, ServerError> {
        let failed = |error: &dyn std::error::Error| ServerError::Client(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_webpki_roots()
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            // Followed by hand, where they stay below the base.
            .redirect(redirect::Policy::none())
            // A proxy of the environment would be another host.
            .no_proxy()
            .http1_only()
            .connect_timeout(options.connect_timeout)
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Self {
            base: Base::parse(&options.base_url)?,
            client,
            stall_timeout: options.stall_timeout,
            max_bytes: options.max_bytes,
            metrics,
        })
    }

    /// The address of a recording as it was pushed.
    pub fn resolve(&self, given: &str) -> Result<Url, AddressError> {
        self.base.resolve(given)
    }

    /// Asks for a recording from a byte on; `url` comes from [`resolve`](Self::resolve). `pushed`
    /// is the size that its push announced; it holds where the voice server announces none.
    pub async fn open(
        self: &Arc<Self>,
        url: Url,
        offset: u64,
        purpose: Purpose,
        pushed: Option<i64>,
    ) -> Result<Download, FetchError> {
        let mut failures = 0;
        let answer = loop {
            match self.ask(&url, offset, None).await {
                Ok(answer) => break answer,
                Err(error) => pause(error, &mut failures).await?,
            }
        };
        let limit = Limit::of(&answer.head, pushed, self.max_bytes);
        limit.check(answer.head.size.unwrap_or_default())?;
        Ok(Download {
            server: self.clone(),
            purpose,
            asked: url,
            is_over: answer.body.is_none(),
            head: answer.head,
            body: answer.body,
            position: offset,
            failures: 0,
            limit,
        })
    }

    /// Asks once, and follows redirects below the base. `known`: what was said of it before.
    async fn ask(
        &self,
        url: &Url,
        position: u64,
        known: Option<&Head>,
    ) -> Result<Answer, FetchError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.get(&url, position, known).await?;
            if !response.status().is_redirection() {
                let answer = read_head(response, url, position)?;
                let is_same = known.is_none_or(|known| known.may_be(&answer.head));
                return is_same.then_some(answer).ok_or(FetchError::Changed);
            }
            let status = response.status().as_u16();
            let location = response.headers().get(LOCATION);
            let location = location.ok_or(FetchError::Status(status))?;
            let location = String::from_utf8_lossy(location.as_bytes());
            let next = self.base.follow(&url, &location);
            url = next.map_err(FetchError::Redirect)?;
        }
        Err(FetchError::Status(StatusCode::LOOP_DETECTED.as_u16()))
    }

    async fn get(
        &self,
        url: &Url,
        position: u64,
        known: Option<&Head>,
    ) -> Result<Response, FetchError> {
        let mut headers = HeaderMap::new();
        // Sizes and ranges are of the file as it is.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if position > 0 {
            let range = HeaderValue::from_str(&format!("bytes={position}-"));
            headers.extend(range.ok().map(|range| (RANGE, range)));
            let etag = known.and_then(|known| known.etag.clone());
            headers.extend(etag.map(|etag| (IF_RANGE, etag)));
        }
        let request = self.client.get(url.clone()).headers(headers).send();
        match timeout(self.stall_timeout, request).await {
            Ok(response) => response.map_err(|error| FetchError::Unreachable(describe(error))),
            Err(_) => Err(self.stalled()),
        }
    }

    fn stalled(&self) -> FetchError {
        let time = humantime::format_duration(self.stall_timeout);
        FetchError::Unreachable(format!("nothing came for {time}"))
    }
}

impl Download {
    /// What the voice server says of it.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// How far it has come, counted from the beginning of the whole.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes; `None` at the end. What has been given out is never given out again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        while !self.is_over {
            match self.step().await {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    self.limit.check(self.position + bytes.len() as u64)?;
                    self.failures = 0;
                    self.position += bytes.len() as u64;
                    self.server.metrics.received(self.purpose, bytes.len());
                    return Ok(Some(bytes));
                }
                Err(error) => {
                    self.body = None;
                    self.server.metrics.interrupted();
                    pause(error, &mut self.failures).await?;
                }
            }
        }
        Ok(None)
    }

    /// Reads on, or asks again for what is left; `None`: look again.
    async fn step(&mut self) -> Result<Option<Bytes>, FetchError> {
        let Some(body) = &mut self.body else {
            let known = Some(&self.head);
            let answer = self.server.ask(&self.asked, self.position, known).await?;
            self.is_over = answer.body.is_none();
            self.body = answer.body;
            return Ok(None);
        };
        match body.next(self.server.stall_timeout).await {
            Ok(Some(bytes)) => return Ok(Some(bytes)),
            Ok(None) => {}
            Err(Some(error)) => return Err(FetchError::Unreachable(describe(error))),
            Err(None) => return Err(self.server.stalled()),
        }
        let skip = body.skip;
        self.body = None;
        if skip > 0 {
            let size = self.position.saturating_sub(skip);
            return Err(FetchError::BeyondEnd { size });
        }
        if self.head.size.is_some_and(|size| self.position < size) {
            return Err(FetchError::Unreachable("the answer ended early".into()));
        }
        self.is_over = true;
        Ok(None)
    }
}

/// Waits a little after a failure that may pass; gives back one that may not, or one too many.
async fn pause(error: FetchError, failures: &mut u32) -> Result<(), FetchError> {
    *failures += 1;
    if !error.may_pass() || *failures >= MAX_FAILURES {
        return Err(error);
    }
    let longest = PAUSE * 2_u32.pow(*failures - 1);
    let part = rand::rng().random_range(0.5..1.0);
    sleep(longest.mul_f64(part)).await;
    Ok(())
}

/// The error with its causes, and without the address.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
