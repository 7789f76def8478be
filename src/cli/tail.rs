//! `yeta-gateway tail`: prints the pushes of a running gateway as they come.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use tonic::{Code, Status};
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{
    AckPushesRequest, Position, PushEvent, PushFilter, PushKind, SubscribePushesRequest,
    SubscribePushesResponse,
};

use super::print;
use super::remote::{Connection, RemoteArgs, refused};

/// Prints pushes as they come, like `tail -f`.
///
/// With --subscription it is a member of that durable subscription, created if it is not there:
/// each event goes to it or to another member, and is acknowledged once it has been printed, some
/// at a time. What was printed just before the end may come again.
#[derive(Args)]
pub struct TailArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Only pushes of these kinds.
    #[arg(long, value_name = "KIND")]
    kind: Vec<Kind>,
    /// Only pushes to these accounts.
    #[arg(long, value_name = "NAME")]
    account: Vec<String>,
    /// Only pushes of these tasks.
    #[arg(long, value_name = "ID")]
    task: Vec<String>,
    /// Begins with what was received since then: "10m" ago, or "2026-11-21T08:00:00Z".
    #[arg(long, value_name = "TIME", value_parser = since, conflicts_with = "from_start")]
    since: Option<SystemTime>,
    /// Begins with the oldest push that the gateway holds.
    #[arg(long)]
    from_start: bool,
    /// Takes events as a member of this durable subscription. What it starts with and takes was
    /// settled when it was created.
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// Acknowledges nothing: prints up to 256 events of the subscription, and gives them back at
    /// the end.
    #[arg(long, requires = "subscription")]
    no_ack: bool,
    /// Prints one JSON object a line, phone numbers in full.
    #[arg(long)]
    json: bool,
}

/// What a push can be; also by its name in events.
#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    /// What is known of a call after its end.
    #[value(aliases = ["call_record", "PUSH_KIND_CALL_RECORD"])]
    CallRecord,
    /// Where a recording lies.
    #[value(alias = "PUSH_KIND_VOICE")]
    Voice,
    /// What was said.
    #[value(alias = "PUSH_KIND_DIALOG")]
    Dialog,
    /// What fits nothing else.
    #[value(alias = "PUSH_KIND_UNRECOGNIZED")]
    Unrecognized,
    /// A call put together.
    #[value(alias = "PUSH_KIND_CALL")]
    Call,
    /// What became of a recording that the gateway was to keep.
    #[value(aliases = ["voice_archived", "PUSH_KIND_VOICE_ARCHIVED"])]
    VoiceArchived,
}

impl From<Kind> for i32 {
    fn from(kind: Kind) -> Self {
        let kind = match kind {
            Kind::CallRecord => PushKind::CallRecord,
            Kind::Voice => PushKind::Voice,
            Kind::Dialog => PushKind::Dialog,
            Kind::Unrecognized => PushKind::Unrecognized,
            Kind::Call => PushKind::Call,
            Kind::VoiceArchived => PushKind::VoiceArchived,
        };
        kind.into()
    }
}

/// After losing the gateway, it is tried again this often.
pub const RETRY: Duration = Duration::from_secs(1);
/// Events are acknowledged so many at a time, or when nothing has come for this long.
const ACK_AT: usize = 64;
const ACK_AFTER: Duration = Duration::from_millis(100);

/// Follows until interrupted.
pub async fn run(args: TailArgs) -> anyhow::Result<()> {
    let mut start = args.start();
    loop {
        let ended = args.follow(&mut start).await?;
        print::note(format_args!("{}, trying again", ended.message()));
        tokio::time::sleep(RETRY).await;
    }
}

impl TailArgs {
    /// Prints one stream to its end, and moves `start` along; returns why it ended if that can pass.
    async fn follow(&self, start: &mut Start) -> anyhow::Result<Status> {
        let request = SubscribePushesRequest {
            subscription: self.subscription.clone().unwrap_or_default(),
            start: Some(start.clone()),
            filter: Some(self.filter()),
            include_raw: self.json,
            ..SubscribePushesRequest::default()
        };
        let mut client = self.client()?;
        let mut stream = match client.subscribe_pushes(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return lasting(status),
        };
        let mut printed = Vec::new();
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = tokio::time::sleep(ACK_AFTER), if !printed.is_empty() => {
                    if let Err(status) = self.ack(&mut client, &mut printed).await {
                        return lasting(status);
                    }
                    continue;
                }
            };
            match message {
                Ok(Some(SubscribePushesResponse::Event(event))) => {
                    self.print(&event)?;
                    if self.subscription.is_none() {
                        *start = Start::Cursor(event.cursor);
                    } else if !self.no_ack {
                        printed.push(event.ack_id);
                    }
                }
                Ok(Some(SubscribePushesResponse::Progress(progress))) => {
                    if self.subscription.is_none() {
                        *start = Start::Cursor(progress.cursor);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Status::unavailable("the gateway ended the stream")),
                Err(status) => {
                    // The stream's end is the news; what can't be acknowledged comes again.
                    let _ = self.ack(&mut client, &mut printed).await;
                    return lasting(status);
                }
            }
            if printed.len() >= ACK_AT
                && let Err(status) = self.ack(&mut client, &mut printed).await
            {
                return lasting(status);
            }
        }
    }

    fn print(&self, event: &PushEvent) -> anyhow::Result<()> {
        if self.json {
            print::out(print::json("PushEvent", event)?)
        } else {
            print::styled(print::line(event))
        }
    }

    /// Acknowledges what has been printed.
    async fn ack(
        &self,
        client: &mut PushServiceClient<Connection>,
        printed: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(subscription) = self.subscription.clone().filter(|_| !printed.is_empty()) else {
            return Ok(());
        };
        let ack_ids = std::mem::take(printed);
        let request = AckPushesRequest {
            subscription,
            ack_ids,
        };
        client.ack_pushes(request).await.map(drop)
    }

    fn client(&self) -> anyhow::Result<PushServiceClient<Connection>> {
        let client = PushServiceClient::new(self.remote.connect(None)?);
        Ok(client.max_decoding_message_size(usize::MAX))
    }

    fn start(&self) -> Start {
        match self.since {
            Some(time) => Start::Since(time.into()),
            None if self.from_start => Start::Position(Position::Earliest.into()),
            None => Start::Position(Position::Latest.into()),
        }
    }

    fn filter(&self) -> PushFilter {
        PushFilter {
            kinds: self.kind.iter().copied().map(Into::into).collect(),
            accounts: self.account.clone(),
            task_ids: self.task.clone(),
            ..PushFilter::default()
        }
    }
}

/// Passes on a failure that may pass by itself, and ends with any other.
pub fn lasting(status: Status) -> anyhow::Result<Status> {
    if status.code() == Code::Unavailable {
        return Ok(status);
    }
    Err(refused(status))
}

/// A time, or how long ago it was.
pub fn since(text: &str) -> anyhow::Result<SystemTime> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return SystemTime::now()
            .checked_sub(ago)
            .context("that long ago there was no time");
    }
    let time: Timestamp = text.parse().context("neither a duration nor a time")?;
    Ok(time.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_also_known_by_its_name_in_events() {
        for kind in Kind::value_variants() {
            let of_events = PushKind::try_from(i32::from(*kind)).unwrap().as_str_name();
            let short = of_events.trim_start_matches("PUSH_KIND_").to_lowercase();
            for name in [of_events, &short] {
                let read = Kind::from_str(name, false).map(i32::from);
                assert_eq!(read, Ok(i32::from(*kind)), "{name}");
            }
        }
    }
}
