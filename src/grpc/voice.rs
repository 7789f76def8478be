//! `yeta.v1.VoiceService`.

mod target;

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codec::CompressionEncoding};

use self::target::Target;
pub use self::target::Targets;
use super::admission::admitted;
use super::deadline;
use super::status::{self, VoiceAt};
use super::validate::{self, Validate, Violations};
use crate::audit::Details;
use crate::config::Permission;
use crate::proto::download_voice_request::Source;
use crate::proto::download_voice_response::Message;
use crate::proto::voice_service_server::{VoiceService, VoiceServiceServer};
use crate::proto::{DownloadVoiceRequest, DownloadVoiceResponse, VoiceInfo};
use crate::voice::{FetchError, Recording};

/// The service's implementation.
pub struct VoiceFront {
    targets: Targets,
    drain: CancellationToken,
}

/// The service, ready to be served. Its streams end when `drain` is cancelled.
pub fn voice_service(targets: Targets, drain: CancellationToken) -> VoiceServiceServer<VoiceFront> {
    VoiceServiceServer::new(VoiceFront { targets, drain })
        // Nothing is sent compressed: sound hardly gets smaller, and it would take a core for each
        // reader.
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
}

/// No chunk has more bytes.
const CHUNK: usize = 256 << 10;

type Chunks = Pin<Box<dyn Stream<Item = Result<DownloadVoiceResponse, Status>> + Send>>;

#[tonic::async_trait]
impl VoiceService for VoiceFront {
    type DownloadVoiceStream = Chunks;

    async fn download_voice(
        &self,
        request: Request<DownloadVoiceRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let admitted = admitted(&request)?;
        let details = Details::of(&request);
        let (client, accounts) = (admitted.caller.name().to_owned(), admitted.visible());
        let may_any = accounts.is_none() && admitted.caller.may(Permission::Admin);
        validate::check(request.get_ref())?;
        let deadline = deadline::of(request.metadata());
        let request = request.into_inner();
        let offset = u64::try_from(request.offset).unwrap_or_default();
        let bounds = Bounds {
            deadline,
            drain: self.drain.clone(),
        };
        let at = VoiceAt {
            next_offset: offset,
            announced_at: None,
        };
        let found = async {
            match request.source.unwrap_or_else(|| Source::Url(String::new())) {
                Source::CallUuid(call_uuid) => {
                    details.object(&call_uuid);
                    self.targets.of_call(&accounts, &call_uuid).await
                }
                Source::Url(url) => {
                    details.object(&url);
                    self.targets.at(&accounts, &url, may_any).await
                }
            }
        };
        let target = bounds.hold(found, at).await??;
        let at = VoiceAt {
            next_offset: offset,
            announced_at: target.announced_at,
        };
        let opened = bounds.hold(self.targets.open(&target, offset), at).await?;
        let recording = opened.map_err(|error| status::of_voice(&error, at))?;
        let sending = Sending {
            info: Some(target.info(&recording, request.offset)),
            client,
            recording,
            rest: Bytes::new(),
            target,
            bounds,
        };
        Ok(Response::new(sending.into_stream()))
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
    recording: Recording,
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
        self.recording.position() - self.rest.len() as u64
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
            let step = self.bounds.hold(self.recording.next(), at).await?;
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
        let size = self.recording.position();
        tracing::debug!(client = self.client, size, "a recording was sent");
        let pushed = self
            .target
            .pushed_size
            .filter(|_| self.recording.size().is_none());
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
