//! `yeta.v1.VoiceService`.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use prost_types::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codec::CompressionEncoding};
use url::Url;

use super::auth::Clients;
use super::status::{self, VoiceAt};
use super::validate::{self, Validate, Violations};
use super::{deadline, visible};
use crate::calls::Calls;
use crate::config::Permission;
use crate::proto::download_voice_request::Source;
use crate::proto::download_voice_response::Message;
use crate::proto::voice_service_server::{VoiceService, VoiceServiceServer};
use crate::proto::{Call, DownloadVoiceRequest, DownloadVoiceResponse, PushKind, VoiceInfo};
use crate::voice::metrics::Purpose;
use crate::voice::{Download, FetchError, VoiceServer};

/// The service's implementation.
pub struct VoiceFront {
    server: Arc<VoiceServer>,
    calls: Arc<Calls>,
    clients: Arc<Clients>,
    drain: CancellationToken,
}

/// The service, ready to be served. Its streams end when `drain` is cancelled.
pub fn voice_service(
    server: Arc<VoiceServer>,
    calls: Arc<Calls>,
    clients: Arc<Clients>,
    drain: CancellationToken,
) -> VoiceServiceServer<VoiceFront> {
    VoiceServiceServer::new(VoiceFront {
        server,
        calls,
        clients,
        drain,
    })
    // Nothing is sent compressed: sound hardly gets smaller, and it would take a core for each
    // reader.
    .accept_compressed(CompressionEncoding::Gzip)
    .accept_compressed(CompressionEncoding::Zstd)
}

/// No chunk has more bytes.
const CHUNK: usize = 256 << 10;

type Chunks = Pin<Box<dyn Stream<Item = Result<DownloadVoiceResponse, Status>> + Send>>;

/// Which recording, and what its push told of it.
struct Target {
    url: Url,
    pushed_size: Option<i64>,
    announced_at: Option<Timestamp>,
}

#[tonic::async_trait]
impl VoiceService for VoiceFront {
    type DownloadVoiceStream = Chunks;

    async fn download_voice(
        &self,
        request: Request<DownloadVoiceRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let metadata = request.metadata();
        let caller = self.clients.authorize(metadata, Permission::Voice)?;
        let accounts = visible(&self.clients, &caller, metadata)?;
        validate::check(request.get_ref())?;
        let deadline = deadline::of(metadata);
        let request = request.into_inner();
        let target = match request.source.unwrap_or_else(|| Source::Url(String::new())) {
            Source::CallUuid(call_uuid) => {
                let call = self.calls.get(accounts.as_ref(), &call_uuid).await?;
                let call = call.ok_or_else(|| status::call_not_found(&call_uuid))?;
                self.of_call(&call)?
            }
            Source::Url(url) => Target {
                url: self.server.resolve(&url).map_err(status::bad_voice_url)?,
                pushed_size: None,
                announced_at: None,
            },
        };
        let offset = u64::try_from(request.offset).unwrap_or_default();
        let bounds = Bounds {
            deadline,
            drain: self.drain.clone(),
        };
        let opening = self
            .server
            .open(target.url.clone(), offset, Purpose::Download);
        let at = VoiceAt {
            next_offset: offset,
            announced_at: target.announced_at,
        };
        let opened = bounds.hold(opening, at).await?;
        let download = opened.map_err(|error| status::of_voice(&error, at))?;
        let sending = Sending {
            info: Some(target.info(&download, request.offset)),
            client: caller.name().to_owned(),
            download,
            rest: Bytes::new(),
            target,
            bounds,
        };
        Ok(Response::new(sending.into_stream()))
    }
}

impl VoiceFront {
    /// The recording of a call.
    fn of_call(&self, call: &Call) -> Result<Target, Status> {
        let voice = call.voice.as_ref().filter(|voice| !voice.url.is_empty());
        let voice = voice.ok_or_else(|| status::voice_not_pushed(call))?;
        let of_voice = |kind: i32| kind == PushKind::Voice as i32;
        let mut pushes = call.pushes.iter().rev();
        Ok(Target {
            url: self
                .server
                .resolve(&voice.url)
                .map_err(status::bad_pushed_url)?,
            pushed_size: voice.size,
            announced_at: pushes
                .find(|push| of_voice(push.kind))
                .and_then(|push| push.received_at),
        })
    }
}

impl Target {
    fn info(&self, download: &Download, offset: i64) -> VoiceInfo {
        let head = download.head();
        let size = head.size.and_then(|size| i64::try_from(size).ok());
        VoiceInfo {
            size,
            content_type: head.content_type.clone(),
            url: head.url.to_string(),
            pushed_size: self.pushed_size,
            size_differs: size
                .zip(self.pushed_size)
                .is_some_and(|(size, pushed)| size != pushed),
            announced_at: self.announced_at,
            offset,
        }
    }
}

/// How long a stream may last.
struct Bounds {
    deadline: Option<Instant>,
    drain: CancellationToken,
}

impl Bounds {
    /// Waits for a step, no longer than the stream may last; `at`: how far it has come.
    async fn hold<T>(&self, step: impl Future<Output = T>, at: VoiceAt) -> Result<T, Status> {
        let late = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.drain.cancelled() => Err(status::voice_draining(at)),
            () = late => Err(status::voice_late(at)),
            done = step => Ok(done),
        }
    }
}

/// A recording on its way to a client.
struct Sending {
    client: String,
    target: Target,
    download: Download,
    /// What comes first.
    info: Option<VoiceInfo>,
    /// Of what was received, what has not been sent yet.
    rest: Bytes,
    bounds: Bounds,
}

impl Sending {
    fn into_stream(self) -> Chunks {
        // Made one by one, as the client's flow control asks for them.
        let chunks = stream::try_unfold(self, |mut sending| async {
            let message = sending.next().await.inspect_err(|status| {
                let client = &sending.client;
                let sent = sending.position();
                tracing::info!(client, sent, %status, "a recording was not sent to its end");
            })?;
            Ok(message.map(|message| {
                let message = Some(message);
                (DownloadVoiceResponse { message }, sending)
            }))
        });
        Box::pin(chunks)
    }

    /// How far it has been sent.
    fn position(&self) -> u64 {
        self.download.position() - self.rest.len() as u64
    }

    async fn next(&mut self) -> Result<Option<Message>, Status> {
        if let Some(info) = self.info.take() {
            return Ok(Some(Message::Info(info)));
        }
        if self.rest.is_empty() {
            let at = VoiceAt {
                next_offset: self.position(),
                announced_at: self.target.announced_at,
            };
            let step = self.bounds.hold(self.download.next(), at).await?;
            let step = step.map_err(|error: FetchError| status::of_voice(&error, at))?;
            let Some(bytes) = step else {
                return self.end().map(|()| None);
            };
            self.rest = bytes;
        }
        let chunk = self.rest.split_to(CHUNK.min(self.rest.len()));
        Ok(Some(Message::Chunk(chunk)))
    }

    /// At the end: says what could not be said at the beginning.
    fn end(&self) -> Result<(), Status> {
        let size = self.download.position();
        tracing::debug!(client = self.client, size, "a recording was sent");
        let pushed = self
            .target
            .pushed_size
            .filter(|_| self.download.head().size.is_none());
        match pushed {
            Some(pushed) if u64::try_from(pushed) != Ok(size) => {
                Err(status::voice_size_mismatch(size, pushed))
            }
            _ => Ok(()),
        }
    }
}

impl Validate for DownloadVoiceRequest {
    fn validate(&self, violations: &mut Violations) {
        match &self.source {
            Some(Source::CallUuid(call_uuid)) => violations.required("call_uuid", call_uuid),
            Some(Source::Url(url)) => violations.required("url", url),
            None => violations.add("source", "is required: call_uuid or url"),
        }
        violations.at_least("offset", Some(self.offset), 0);
    }
}
