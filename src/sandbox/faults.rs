//! Faults on demand: a queue of things that shall go wrong.

use std::collections::VecDeque;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::delivery::MODULES;
use super::operation::Operation;

/// What goes wrong. The first group is for requests, then come those for
/// pushes and those for recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Latency,
    RefuseToken,
    Code,
    Busy,
    #[serde(rename = "http_500")]
    Http500,
    Html,
    WrongContentType,
    NumbersAsStrings,
    StringsAsNumbers,
    NullFields,
    UnknownFields,
    InvalidJsonStrings,
    NoIds,
    Hold,
    CutBeforeReading,
    CutAfterReading,
    CutMidAnswer,
    CloseAfterAnswer,
    Duplicate,
    Reorder,
    Delay,
    Lose,
    NotFound,
    Redirect,
    IgnoreRange,
    WrongSize,
    Slow,
}

impl Kind {
    fn is_for_pushes(self) -> bool {
        matches!(
            self,
            Self::Duplicate | Self::Reorder | Self::Delay | Self::Lose
        )
    }

    fn is_for_recordings(self) -> bool {
        matches!(
            self,
            Self::NotFound
                | Self::Redirect
                | Self::IgnoreRange
                | Self::WrongSize
                | Self::Slow
                | Self::Latency
                | Self::Http500
                | Self::CutBeforeReading
                | Self::CutMidAnswer
        )
    }

    fn is_for_requests(self) -> bool {
        let is_own = matches!(
            self,
            Self::NotFound | Self::Redirect | Self::IgnoreRange | Self::WrongSize | Self::Slow
        );
        !is_own && !self.is_for_pushes()
    }
}

/// One order: which requests or pushes, what, and how often.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// An operation's name, `any`, a push module, `push` for all modules, or
    /// `voice` for recordings.
    #[serde(default = "any")]
    pub operation: String,
    #[serde(rename = "fault")]
    pub kind: Kind,
    #[serde(default = "once")]
    pub times: u64,
    /// Latency before the answer, beside any fault; the wait of a delayed push.
    #[serde(default)]
    pub millis: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether the operation is carried out although its answer says nothing
    /// of it (code, busy, http_500, html).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<bool>,
    /// For refuse_token: ends the present tokens too.
    #[serde(default)]
    pub kill: bool,
    /// For redirect: where to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// For http_500: plain text instead of a JSON error body.
    #[serde(default)]
    pub text: bool,
    /// For code, busy and html: the HTTP status of the answer; 200 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// For no_ids: how many `task_data_ids` the answer keeps.
    #[serde(default)]
    pub ids: usize,
}

/// What faults of recordings name as their operation.
const VOICE: &str = "voice";

fn any() -> String {
    "any".to_owned()
}

fn once() -> u64 {
    1
}

impl Fault {
    /// Says what is wrong with an order.
    pub fn check(&self) -> Result<(), String> {
        let name = self.operation.as_str();
        let for_push = name == "push" || MODULES.contains(&name);
        let for_voice = name == VOICE;
        let is_known = for_push || for_voice || name == "any";
        if !is_known && Operation::named(name).is_none() {
            return Err(format!("there is no operation {name}"));
        }
        if name == "token" && self.kind == Kind::RefuseToken {
            return Err("the token operation takes no token that it could refuse".to_owned());
        }
        let fits = match (for_push, for_voice) {
            (true, _) => self.kind.is_for_pushes(),
            (_, true) => self.kind.is_for_recordings(),
            _ => self.kind.is_for_requests(),
        };
        if !fits {
            return Err(format!(
                "the fault {:?} does not fit the operation {name}",
                self.kind
            ));
        }
        if self.kind == Kind::Redirect && self.location.is_none() {
            return Err("the fault redirect needs a location".to_owned());
        }
        if self.kind == Kind::Code && self.code.is_none() {
            return Err("the fault code needs a code".to_owned());
        }
        self.check_status()
    }

    fn check_status(&self) -> Result<(), String> {
        let Some(status) = self.status else {
            return Ok(());
        };
        if !matches!(self.kind, Kind::Code | Kind::Busy | Kind::Html) {
            return Err(format!("the fault {:?} takes no status", self.kind));
        }
        // A status below 200 announces another answer.
        match StatusCode::from_u16(status) {
            Ok(status) if !status.is_informational() => Ok(()),
            _ => Err(format!("{status} is no status of an answer")),
        }
    }

    /// HTTP status of an answer that takes the place of the operation's own.
    pub fn http_status(&self) -> StatusCode {
        let status = self.status.and_then(|it| StatusCode::from_u16(it).ok());
        status.unwrap_or_default()
    }
}

/// The orders not yet used up, oldest first.
#[derive(Default)]
pub(super) struct Faults {
    queue: VecDeque<Fault>,
    /// Changes when all faults are dropped, which releases the held answers.
    cleared: watch::Sender<()>,
}

impl Faults {
    pub fn add(&mut self, fault: Fault) {
        if fault.times > 0 {
            self.queue.push_back(fault);
        }
    }

    pub fn list(&self) -> Vec<Fault> {
        self.queue.iter().cloned().collect()
    }

    pub fn clear(&mut self) {
        self.queue.clear();
        self.cleared.send_replace(());
    }

    /// Resolves after the next `clear`, or when these faults are dropped.
    pub fn until_cleared(&self) -> impl Future<Output = ()> + use<> {
        let mut cleared = self.cleared.subscribe();
        async move {
            // An error means that a reset has dropped the sender.
            let _ = cleared.changed().await;
        }
    }

    pub fn take(&mut self, operation: Operation) -> Option<Fault> {
        self.take_first(|fault| {
            let name = fault.operation.as_str();
            // The token's own endpoint takes no token that it could refuse.
            let refusable = fault.kind != Kind::RefuseToken || operation != Operation::Token;
            refusable && (name == "any" || name == operation.name())
        })
    }

    pub fn take_for_push(&mut self, module: &str) -> Option<Fault> {
        self.take_first(|fault| fault.operation == "push" || fault.operation == module)
    }

    pub fn take_for_voice(&mut self) -> Option<Fault> {
        self.take_first(|fault| fault.operation == VOICE)
    }

    fn take_first(&mut self, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let at = self.queue.iter().position(fits)?;
        let fault = self.queue.get_mut(at)?;
        fault.times -= 1;
        let taken = fault.clone();
        if fault.times == 0 {
            self.queue.remove(at);
        }
        Some(taken)
    }
}
