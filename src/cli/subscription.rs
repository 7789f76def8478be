//! `yeta-gateway subscription`: durable subscriptions, and what could not be delivered.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, Subcommand};
use yeta_gateway::proto::subscription_service_client::SubscriptionServiceClient;
use yeta_gateway::proto::{
    CreateSubscriptionRequest, DeadLetter, DeleteSubscriptionRequest, GetSubscriptionRequest,
    ListDeadLettersRequest, ListSubscriptionsRequest, Position, PushFilter, PushKind,
    RedeliveryBackoff, RedriveDeadLettersRequest, SeekSubscriptionRequest, Subscription,
    UpdateSubscriptionRequest, create_subscription_request, seek_subscription_request,
};

use super::print;
use super::remote::{Connection, UnaryArgs, refused};
use super::tail::{Kind, since};

/// Creates, shows, changes, moves and deletes durable subscriptions.
#[derive(Args)]
pub struct SubscriptionArgs {
    #[command(flatten)]
    unary: UnaryArgs,
    #[command(subcommand)]
    command: SubscriptionCommand,
}

#[derive(Subcommand)]
enum SubscriptionCommand {
    /// Creates a subscription ahead of its first subscriber.
    Create {
        /// Its name.
        name: String,
        #[command(flatten)]
        start: StartArgs,
        #[command(flatten)]
        spec: SpecArgs,
    },
    /// Shows one subscription and how far it has come.
    #[command(visible_alias = "get")]
    Show {
        /// Its name.
        name: String,
    },
    /// Shows all subscriptions.
    List,
    /// Changes what is given, and leaves the rest.
    Update {
        /// Its name.
        name: String,
        #[command(flatten)]
        spec: SpecArgs,
    },
    /// Hands nothing out for the time being.
    Pause {
        /// Its name.
        name: String,
    },
    /// Goes on after a pause.
    Resume {
        /// Its name.
        name: String,
    },
    /// Deletes a subscription with its dead letters.
    Delete {
        /// Its name.
        name: String,
    },
    /// Moves a subscription: back, to have events again, or forward, to leave them out.
    Seek {
        /// Its name.
        name: String,
        #[command(flatten)]
        start: StartArgs,
    },
    /// Shows the events that were given up, and why.
    DeadLetters {
        /// The subscription's name.
        name: String,
    },
    /// Delivers dead letters again.
    Redrive {
        /// The subscription's name.
        name: String,
        /// Which, by their event ids.
        #[arg(value_name = "EVENT_ID", required_unless_present = "all")]
        event_ids: Vec<String>,
        /// All that there are.
        #[arg(long, conflicts_with = "event_ids")]
        all: bool,
    },
}

/// A place in the log.
#[derive(Args)]
#[group(multiple = false)]
struct StartArgs {
    /// What was received since then: "10m" ago, or "2026-11-21T08:00:00Z".
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SystemTime>,
    /// The oldest push that the gateway holds.
    #[arg(long)]
    from_start: bool,
    /// What comes from now on.
    #[arg(long)]
    latest: bool,
    /// After the push that carried this cursor.
    #[arg(long)]
    cursor: Option<String>,
}

/// What a subscription is.
#[derive(Args)]
struct SpecArgs {
    /// Only pushes of these kinds.
    #[arg(long, value_name = "KIND")]
    kind: Vec<Kind>,
    /// Only pushes of these tasks.
    #[arg(long, value_name = "ID")]
    task: Vec<String>,
    /// How long a member may keep an event before it is delivered again.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ack_deadline: Option<Duration>,
    /// How often an event is delivered before it is parked; 0: without bound.
    #[arg(long, value_name = "TIMES")]
    max_attempts: Option<u32>,
    /// How long to wait before an event is delivered again, doubled each time.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    backoff: Option<Duration>,
    /// The longest such wait.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[arg(requires = "backoff")]
    backoff_max: Option<Duration>,
}

type Client = SubscriptionServiceClient<Connection>;

/// Does what the arguments ask.
pub async fn run(args: SubscriptionArgs) -> anyhow::Result<()> {
    let mut client = Client::new(args.unary.connect()?).max_decoding_message_size(usize::MAX);
    let json = args.unary.json;
    match args.command {
        SubscriptionCommand::Create { name, start, spec } => {
            let request = CreateSubscriptionRequest {
                subscription: Some(spec.subscription(name)?),
                start: start.start(
                    create_subscription_request::Start::Cursor,
                    create_subscription_request::Start::Since,
                    create_subscription_request::Start::Position,
                ),
            };
            let created = client.create_subscription(request).await;
            show(&created.map_err(refused)?.into_inner(), json)
        }
        SubscriptionCommand::Show { name } => {
            let request = GetSubscriptionRequest { name };
            let found = client.get_subscription(request).await;
            show(&found.map_err(refused)?.into_inner(), json)
        }
        SubscriptionCommand::List => list(client, json).await,
        SubscriptionCommand::Update { name, spec } => {
            update(client, spec.subscription(name)?, json).await
        }
        SubscriptionCommand::Pause { name } => update(client, paused(name, true), json).await,
        SubscriptionCommand::Resume { name } => update(client, paused(name, false), json).await,
        SubscriptionCommand::Delete { name } => delete(client, name, json).await,
        SubscriptionCommand::Seek { name, start } => seek(client, name, &start, json).await,
        SubscriptionCommand::DeadLetters { name } => dead_letters(client, name, json).await,
        SubscriptionCommand::Redrive {
            name, event_ids, ..
        } => redrive(client, name, event_ids, json).await,
    }
}

impl StartArgs {
    /// The start as a request's type has it.
    fn start<S>(
        &self,
        cursor: impl FnOnce(String) -> S,
        since: impl FnOnce(prost_types::Timestamp) -> S,
        position: impl FnOnce(i32) -> S,
    ) -> Option<S> {
        if let Some(text) = &self.cursor {
            return Some(cursor(text.clone()));
        }
        if let Some(time) = self.since {
            return Some(since(time.into()));
        }
        if self.from_start {
            return Some(position(Position::Earliest.into()));
        }
        self.latest.then(|| position(Position::Latest.into()))
    }
}

impl SpecArgs {
    fn subscription(self, name: String) -> anyhow::Result<Subscription> {
        let proto = |duration: Option<Duration>| {
            let duration = duration.map(prost_types::Duration::try_from);
            duration.transpose().context("a duration is too long")
        };
        let filter = PushFilter {
            kinds: self.kind.into_iter().map(Into::into).collect(),
            task_ids: self.task,
            ..PushFilter::default()
        };
        let backoff = RedeliveryBackoff {
            minimum: proto(self.backoff)?,
            maximum: proto(self.backoff_max)?,
        };
        Ok(Subscription {
            name,
            filter: (filter != PushFilter::default()).then_some(filter),
            ack_deadline: proto(self.ack_deadline)?,
            max_delivery_attempts: self.max_attempts,
            backoff: self.backoff.map(|_| backoff),
            ..Subscription::default()
        })
    }
}

fn paused(name: String, paused: bool) -> Subscription {
    Subscription {
        name,
        paused: Some(paused),
        ..Subscription::default()
    }
}

async fn update(mut client: Client, subscription: Subscription, json: bool) -> anyhow::Result<()> {
    let request = UpdateSubscriptionRequest {
        subscription: Some(subscription),
        update_mask: None,
    };
    let updated = client.update_subscription(request).await;
    show(&updated.map_err(refused)?.into_inner(), json)
}

async fn delete(mut client: Client, name: String, json: bool) -> anyhow::Result<()> {
    let request = DeleteSubscriptionRequest { name: name.clone() };
    let deleted = client.delete_subscription(request).await.map_err(refused)?;
    if json {
        let deleted = deleted.into_inner();
        print::out(print::json("DeleteSubscriptionResponse", &deleted)?)?;
    } else {
        print::out(format_args!("subscription {name} deleted"))?;
    }
    Ok(())
}

async fn seek(
    mut client: Client,
    name: String,
    start: &StartArgs,
    json: bool,
) -> anyhow::Result<()> {
    let request = SeekSubscriptionRequest {
        name: name.clone(),
        start: start.start(
            seek_subscription_request::Start::Cursor,
            seek_subscription_request::Start::Since,
            seek_subscription_request::Start::Position,
        ),
    };
    let moved = client.seek_subscription(request).await;
    let moved = moved.map_err(refused)?.into_inner();
    if json {
        print::out(print::json("SeekSubscriptionResponse", &moved)?)?;
    } else {
        print::out(format_args!(
            "subscription {name} goes on after cursor {}",
            moved.cursor
        ))?;
    }
    Ok(())
}

async fn redrive(
    mut client: Client,
    subscription: String,
    event_ids: Vec<String>,
    json: bool,
) -> anyhow::Result<()> {
    let request = RedriveDeadLettersRequest {
        subscription,
        event_ids,
    };
    let answer = client.redrive_dead_letters(request).await;
    let answer = answer.map_err(refused)?.into_inner();
    if json {
        print::out(print::json("RedriveDeadLettersResponse", &answer)?)?;
    } else {
        print::out(format_args!("{} delivered again", answer.redriven))?;
    }
    Ok(())
}

/// One subscription, a line for each thing to know.
fn show(subscription: &Subscription, json: bool) -> anyhow::Result<()> {
    if json {
        print::out(print::json("Subscription", subscription)?)?;
        return Ok(());
    }
    let stats = subscription.stats.unwrap_or_default();
    let backoff = subscription.backoff.unwrap_or_default();
    let filter = subscription.filter.as_ref();
    let rows = [
        ("name", subscription.name.clone()),
        ("takes", filter.map_or_else(|| "all".into(), of_filter)),
        ("state", state(subscription).into()),
        ("ack deadline", print::duration(subscription.ack_deadline)),
        (
            "attempts",
            print::or_dash(subscription.max_delivery_attempts),
        ),
        (
            "backoff",
            format!(
                "{} to {}",
                print::duration(backoff.minimum),
                print::duration(backoff.maximum)
            ),
        ),
        ("created", print::moment(subscription.create_time)),
        ("place", subscription.cursor.clone()),
        ("lag", with_age(stats.lag_events, stats.lag)),
        ("unacked", with_age(stats.unacked, stats.oldest_unacked)),
        ("members", stats.members.to_string()),
        ("dead letters", stats.dead_letters.to_string()),
        ("redelivered", stats.redelivered.to_string()),
        ("lost", stats.lost_events.to_string()),
    ];
    let rows = rows.map(|(what, value)| [what.to_owned(), value]);
    print::lines(print::table(["", "subscription"], rows))?;
    Ok(())
}

async fn list(mut client: Client, json: bool) -> anyhow::Result<()> {
    let mut all = Vec::new();
    let mut request = ListSubscriptionsRequest::default();
    loop {
        let page = client.list_subscriptions(request.clone()).await;
        let page = page.map_err(refused)?.into_inner();
        all.extend(page.subscriptions);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if json {
        for subscription in &all {
            print::out(print::json("Subscription", subscription)?)?;
        }
        return Ok(());
    }
    let head = [
        "name",
        "takes",
        "state",
        "lag",
        "unacked",
        "members",
        "dead letters",
        "lost",
    ];
    print::lines(print::table(head, all.into_iter().map(row)))?;
    Ok(())
}

fn row(subscription: Subscription) -> [String; 8] {
    let stats = subscription.stats.unwrap_or_default();
    let filter = subscription.filter.as_ref();
    let takes = filter.map_or_else(|| "all".into(), of_filter);
    let state = state(&subscription).into();
    [
        subscription.name,
        takes,
        state,
        with_age(stats.lag_events, stats.lag),
        with_age(stats.unacked, stats.oldest_unacked),
        stats.members.to_string(),
        stats.dead_letters.to_string(),
        stats.lost_events.to_string(),
    ]
}

async fn dead_letters(mut client: Client, name: String, json: bool) -> anyhow::Result<()> {
    let mut all = Vec::new();
    let mut request = ListDeadLettersRequest {
        subscription: name,
        include_raw: json,
        ..ListDeadLettersRequest::default()
    };
    loop {
        let page = client.list_dead_letters(request.clone()).await;
        let page = page.map_err(refused)?.into_inner();
        all.extend(page.dead_letters);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if json {
        for letter in &all {
            print::out(print::json("DeadLetter", letter)?)?;
        }
        return Ok(());
    }
    let head = ["event", "event id", "attempts", "why", "parked"];
    print::lines(print::table(head, all.into_iter().map(letter_row)))?;
    Ok(())
}

fn letter_row(letter: DeadLetter) -> [String; 5] {
    let event = letter.event.unwrap_or_default();
    [
        print::plain_line(&event),
        event.event_id,
        letter.attempts.to_string(),
        letter.reason,
        print::moment(letter.parked_at),
    ]
}

fn state(subscription: &Subscription) -> &'static str {
    if subscription.paused == Some(true) {
        "paused"
    } else {
        "open"
    }
}

/// A count, and how old the oldest of what is counted is.
fn with_age(count: i64, oldest: Option<prost_types::Duration>) -> String {
    match oldest {
        // To the second: it is older already.
        Some(oldest) => {
            let seconds = prost_types::Duration { nanos: 0, ..oldest };
            format!("{count}, the oldest {} old", print::duration(Some(seconds)))
        }
        None => count.to_string(),
    }
}

/// What a filter takes, in few words.
fn of_filter(filter: &PushFilter) -> String {
    let kinds: Vec<_> = filter
        .kinds
        .iter()
        .map(|kind| {
            PushKind::try_from(*kind).map_or_else(
                |_| kind.to_string(),
                |kind| {
                    let name = kind.as_str_name().trim_start_matches("PUSH_KIND_");
                    name.to_lowercase()
                },
            )
        })
        .collect();
    let parts: Vec<_> = [
        ("kind", &kinds),
        ("account", &filter.accounts),
        ("app", &filter.app_ids),
        ("robot", &filter.robot_ids),
        ("task", &filter.task_ids),
        ("task data", &filter.task_data_ids),
        ("call relation", &filter.call_relation_ids),
        ("call", &filter.call_uuids),
    ]
    .into_iter()
    .filter(|(_, values)| !values.is_empty())
    .map(|(what, values)| format!("{what} {}", values.join(", ")))
    .collect();
    if parts.is_empty() {
        "all".into()
    } else {
        parts.join("; ")
    }
}
