//! `yeta-gateway tail`: prints the pushes of a running gateway as they come.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use tonic::{Code, Status};
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{
    Position, PushFilter, PushKind, SubscribePushesRequest, SubscribePushesResponse,
};

use super::print;
use super::remote::{Connection, RemoteArgs, refused};

/// Prints pushes as they come, like `tail -f`.
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
    /// Prints one JSON object a line, phone numbers in full.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    CallRecord,
    Voice,
    Dialog,
    Unrecognized,
}

/// After losing the gateway, it is tried again this often.
pub const RETRY: Duration = Duration::from_secs(1);

/// Follows until interrupted.
pub async fn run(args: TailArgs) -> anyhow::Result<()> {
    let mut start = args.start();
    loop {
        let ended = args.follow(&mut start).await?;
        anstream::eprintln!("yeta-gateway: {}, trying again", ended.message());
        tokio::time::sleep(RETRY).await;
    }
}

impl TailArgs {
    /// Prints one stream to its end, and moves `start` along; returns why it ended if that can pass.
    async fn follow(&self, start: &mut Start) -> anyhow::Result<Status> {
        let request = SubscribePushesRequest {
            start: Some(start.clone()),
            filter: Some(self.filter()),
            include_raw: self.json,
            ..SubscribePushesRequest::default()
        };
        let mut stream = match self.client()?.subscribe_pushes(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return lasting(status),
        };
        loop {
            match stream.message().await {
                Ok(Some(SubscribePushesResponse::Event(event))) => {
                    let line = if self.json {
                        print::json("PushEvent", event.as_ref())?
                    } else {
                        print::line(&event)
                    };
                    anstream::println!("{line}");
                    *start = Start::Cursor(event.cursor);
                }
                Ok(Some(SubscribePushesResponse::Progress(progress))) => {
                    *start = Start::Cursor(progress.cursor);
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Status::unavailable("the gateway ended the stream")),
                Err(status) => return lasting(status),
            }
        }
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
        let kinds = self.kind.iter().map(|kind| match kind {
            Kind::CallRecord => PushKind::CallRecord.into(),
            Kind::Voice => PushKind::Voice.into(),
            Kind::Dialog => PushKind::Dialog.into(),
            Kind::Unrecognized => PushKind::Unrecognized.into(),
        });
        PushFilter {
            kinds: kinds.collect(),
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

/// A time: that long ago, or as it is written.
pub fn since(text: &str) -> anyhow::Result<SystemTime> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return SystemTime::now()
            .checked_sub(ago)
            .context("that long ago there was no time");
    }
    let time: Timestamp = text.parse().context("neither a duration nor a time")?;
    Ok(time.into())
}
