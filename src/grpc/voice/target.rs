//! Which recording is asked for, and what its push told of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost_types::Timestamp;
use tonic::Status;
use url::Url;

use super::super::status;
use crate::calls::Calls;
use crate::proto::{Call, PushKind, Voice, VoiceInfo};
use crate::store::PushLog;
use crate::voice::metrics::Purpose;
use crate::voice::{Archive, FetchError, Recording, VoiceServer};

/// Finds recordings.
pub struct Targets {
    /// Where they are fetched from.
    pub server: Arc<VoiceServer>,
    /// The gateway's own copies, if it keeps any.
    pub archive: Option<Arc<Archive>>,
    /// What their pushes told.
    pub calls: Arc<Calls>,
    /// Tells which pushes have come.
    pub log: Arc<dyn PushLog>,
}

/// One of them.
pub(super) struct Target {
    pub url: Url,
    /// Where the gateway's own copy is; empty: there is none, or it is not known.
    archived_url: String,
    pub pushed_size: Option<i64>,
    pub announced_at: Option<Timestamp>,
}

type Accounts = Option<BTreeSet<String>>;

impl Targets {
    /// The recording of a call.
    pub(super) async fn of_call(
        &self,
        accounts: &Accounts,
        call_uuid: &str,
    ) -> Result<Target, Status> {
        let end = *self.log.end().borrow();
        let mut call = self.calls.get(accounts.as_ref(), call_uuid).await?;
        if call.as_ref().and_then(announced).is_none() {
            self.calls.soon_applied(end).await;
            call = self.calls.get(accounts.as_ref(), call_uuid).await?;
        }
        let call = call.ok_or_else(|| status::call_not_found(call_uuid))?;
        let voice = announced(&call).ok_or_else(|| status::voice_not_pushed(&call))?;
        let url = self.server.resolve(&voice.url);
        let url = url.map_err(status::bad_pushed_url)?;
        Ok(Target::of(url, Some(&call)))
    }

    /// The recording at an address that a push to one of the accounts has announced. The index has
    /// whole addresses, so that a query counts, too. `any`: also at one that no push has announced,
    /// if it has no query.
    pub(super) async fn at(
        &self,
        accounts: &Accounts,
        address: &str,
        any: bool,
    ) -> Result<Target, Status> {
        let url = self.server.resolve(address);
        let url = url.map_err(status::bad_voice_url)?;
        let end = *self.log.end().borrow();
        let mut call = self.calls.of_voice(accounts.as_ref(), &url).await?;
        if call.is_none() {
            self.calls.soon_applied(end).await;
            call = self.calls.of_voice(accounts.as_ref(), &url).await?;
        }
        if call.is_none() && !(any && url.query().is_none()) {
            return Err(status::voice_not_announced());
        }
        Ok(Target::of(url, call.as_ref()))
    }

    /// Opens a recording from a byte on: at the voice server, or where that has it no more, in the
    /// archive.
    pub(super) async fn open(&self, target: &Target, offset: u64) -> Result<Recording, FetchError> {
        let url = target.url.clone();
        let (purpose, pushed) = (Purpose::Download, target.pushed_size);
        let opened = self.server.open(url, offset, purpose, pushed).await;
        if let (Err(FetchError::NotFound), Some(archive)) = (&opened, &self.archive) {
            let kept = archive.read(&target.archived_url, offset).await?;
            return kept.map(Recording::Kept).ok_or(FetchError::NotFound);
        }
        opened.map(|download| Recording::Fetched(Box::new(download)))
    }
}

/// A call's recording, if it was pushed.
fn announced(call: &Call) -> Option<&Voice> {
    call.voice.as_ref().filter(|voice| !voice.url.is_empty())
}

impl Target {
    fn of(url: Url, call: Option<&Call>) -> Self {
        let of_voice = |kind: i32| kind == PushKind::Voice as i32;
        let mut pushes = call.iter().flat_map(|call| call.pushes.iter().rev());
        let voice = call.and_then(announced);
        Self {
            url,
            archived_url: voice.map_or_else(String::new, |voice| voice.archived_url.clone()),
            pushed_size: voice.and_then(|voice| voice.size),
            announced_at: pushes
                .find(|push| of_voice(push.kind))
                .and_then(|push| push.received_at),
        }
    }

    /// What is told before the bytes.
    pub fn info(&self, recording: &Recording, offset: i64) -> VoiceInfo {
        let size = recording.size().and_then(|size| i64::try_from(size).ok());
        VoiceInfo {
            size,
            content_type: recording.content_type().to_owned(),
            url: recording.url().to_owned(),
            pushed_size: self.pushed_size,
            size_differs: size
                .zip(self.pushed_size)
                .is_some_and(|(size, pushed)| size != pushed),
            announced_at: self.announced_at,
            offset,
        }
    }
}
