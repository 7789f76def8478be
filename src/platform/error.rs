//! What can go wrong with an operation, by what its caller can do about it.

use std::time::{Duration, SystemTime};

use super::{code::Code, lines::Occupation};

/// How an operation failed.
///
/// No variant's text holds a URL, a token or a secret. A platform's own message
/// stands as the platform sent it; it may quote a phone number, so logs mask it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// No account of this name is configured.
    #[error("no account named {0:?} is configured")]
    UnknownAccount(String),
    /// The account is switched off in the gateway's configuration. Nothing was sent.
    #[error("account {0:?} is disabled in the gateway's configuration; nothing was sent")]
    AccountDisabled(String),
    /// The platform answered with a code other than success. Where `proven`, it did not do what
    /// was asked; where not, it may have: find out before calling again.
    #[error("{}", refusal_text(code, message, *proven))]
    Refused {
        /// Its code.
        code: Code,
        /// Its message.
        message: String,
        /// The task that occupies the line, where the code is [`Code::NumberOccupied`] and the
        /// gateway has seen the task.
        occupation: Option<Box<Occupation>>,
        /// Whether it was the request for a token that was refused, so that the
        /// operation itself was not sent.
        for_token: bool,
        /// Whether the answer proves that the platform changed nothing. Always true of an
        /// operation that only reads. Of a change, true only for a documented code in an answer
        /// with an HTTP status below 500.
        proven: bool,
    },
    /// The platform refused the token (10001), and the next one too or for this operation alone.
    /// Nothing was done; safe to call again.
    #[error("the platform refused the token, and another was no better: {message}")]
    TokenRefused {
        /// The platform's message.
        message: String,
    },
    /// Nothing was sent; safe to call again.
    #[error("the platform cannot be reached: {detail}")]
    Unreachable {
        /// Why.
        detail: String,
        /// When to call again.
        retry_after: Duration,
    },
    /// The answer could not be read, and nothing was changed by the request;
    /// safe to call again.
    #[error("the platform's answer cannot be read: {detail}")]
    Unreadable {
        /// Why.
        detail: String,
        /// When to call again.
        retry_after: Duration,
    },
    /// The request went out, no answer could be read, and the platform may have
    /// acted on it. Find out before calling again.
    #[error("the request was sent and its outcome is unknown: {detail}")]
    OutcomeUnknown {
        /// Why.
        detail: String,
        /// Whether it was time that ran out.
        timed_out: bool,
    },
    /// Time ran out, and nothing was changed: nothing was sent, or only asked.
    #[error("the deadline passed before the platform answered; nothing was changed")]
    DeadlineExceeded,
    /// The account's key or secret cannot be read. Nothing was sent; somebody
    /// has to mend the gateway's configuration.
    #[error("{0}")]
    CredentialsUnreadable(String),
    /// The account sends as many requests as it may, and there was no room for
    /// this one in time. Nothing was sent; safe to call again, later or with
    /// more time.
    #[error("the account sends as many requests to the platform as it may; nothing was sent")]
    Overloaded {
        /// When to call again.
        retry_after: Duration,
    },
    /// The platform is known to be away, so that the request was not sent; safe
    /// to call again.
    #[error(
        "held back since {}, nothing was sent: {outage}",
        humantime::format_rfc3339_seconds(*since)
    )]
    HeldBack {
        /// What is the matter with the platform.
        outage: Outage,
        /// Since when requests are held back.
        since: SystemTime,
        /// When a request is let through again to see how the platform is.
        retry_after: Duration,
    },
}

/// What an error proves about a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The platform did not act on it: it was not sent, or the platform did not take the token.
    /// It may be sent again.
    NothingSent,
    /// The platform refused it and did not act on it.
    Refused,
    /// The platform may have acted on it.
    Nothing,
}

/// Why requests of an account are held back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outage {
    /// The platform answered that it is under maintenance (10020).
    #[error("the platform refused with code {}: {message}", Code::UnderMaintenance)]
    Maintenance {
        /// Its message.
        message: String,
    },
    /// The answers to several changes in a row could not be read. Only changes are held back.
    #[error("the answers to changes cannot be read: {detail}")]
    Unreadable {
        /// What came in place of a readable answer last.
        detail: String,
    },
    /// The platform could not be reached, several times in a row.
    #[error("the platform cannot be reached: {detail}")]
    Unreachable {
        /// Why.
        detail: String,
    },
}

impl PlatformError {
    /// A short name of the outcome, for logs and metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::UnknownAccount(_) => "unknown_account",
            Self::AccountDisabled(_) => "account_disabled",
            Self::Refused { .. } => "refused",
            Self::TokenRefused { .. } => "token_refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Unreadable { .. } => "unreadable",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::CredentialsUnreadable(_) => "credentials_unreadable",
            Self::Overloaded { .. } => "overloaded",
            Self::HeldBack { .. } => "held_back",
        }
    }

    /// What this error proves about a change.
    pub fn proof(&self) -> Proof {
        match self {
            Self::UnknownAccount(_)
            | Self::AccountDisabled(_)
            | Self::TokenRefused { .. }
            | Self::Unreachable { .. }
            | Self::DeadlineExceeded
            | Self::CredentialsUnreadable(_)
            | Self::Overloaded { .. }
            | Self::HeldBack { .. }
            // A change ends so only when the request for its token did.
            | Self::Unreadable { .. }
            | Self::Refused { for_token: true, .. } => Proof::NothingSent,
            Self::Refused { for_token: false, proven: true, .. } => Proof::Refused,
            Self::Refused { for_token: false, proven: false, .. }
            | Self::OutcomeUnknown { .. } => Proof::Nothing,
        }
    }

    /// When to call again, where that can help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unreachable { retry_after, .. }
            | Self::Unreadable { retry_after, .. }
            | Self::Overloaded { retry_after }
            | Self::HeldBack { retry_after, .. } => Some(*retry_after),
            Self::UnknownAccount(_)
            | Self::AccountDisabled(_)
            | Self::Refused { .. }
            | Self::TokenRefused { .. }
            | Self::OutcomeUnknown { .. }
            | Self::DeadlineExceeded
            | Self::CredentialsUnreadable(_) => None,
        }
    }

    /// Whether the outcome is unknown because time ran out.
    pub fn timed_out(&self) -> bool {
        matches!(
            self,
            Self::OutcomeUnknown {
                timed_out: true,
                ..
            }
        )
    }
}

/// An answer with a code other than success, in words.
pub(crate) fn refusal_text(code: &Code, message: &str, proven: bool) -> String {
    if proven {
        format!("the platform refused with code {code}: {message}")
    } else {
        format!("an answer with code {code} does not prove that nothing was done: {message}")
    }
}

/// `text` for a log: runs of seven digits and more, which may be phone numbers,
/// keep their last two.
pub(crate) fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut digits = String::new();
    for c in text.chars().map(Some).chain([None]) {
        if let Some(digit) = c.filter(char::is_ascii_digit) {
            digits.push(digit);
            continue;
        }
        if digits.len() >= 7 {
            out.extend(std::iter::repeat_n('*', digits.len() - 2));
            out.push_str(&digits[digits.len() - 2..]);
        } else {
            out.push_str(&digits);
        }
        digits.clear();
        out.extend(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_error_proves_about_a_change_is_this_table() {
        use Proof::{Nothing, NothingSent, Refused};
        let (text, retry_after) = (String::new, Duration::ZERO);
        let held_back = |outage| PlatformError::HeldBack {
            outage,
            since: SystemTime::UNIX_EPOCH,
            retry_after,
        };
        let refused = |code, for_token, proven| PlatformError::Refused {
            code,
            message: text(),
            occupation: None,
            for_token,
            proven,
        };
        let unknown = |timed_out| PlatformError::OutcomeUnknown {
            detail: text(),
            timed_out,
        };
        let (detail, message) = (text(), text());
        let unreadable = Outage::Unreadable { detail: text() };
        for (error, expected) in [
            (PlatformError::UnknownAccount(text()), NothingSent),
            (PlatformError::AccountDisabled(text()), NothingSent),
            (refused(Code::Busy, false, true), Refused),
            (refused(Code::Busy, false, false), Nothing),
            (refused(Code::InvalidToken, false, false), Nothing),
            (refused(Code::Other(text()), false, false), Nothing),
            (refused(Code::Busy, true, true), NothingSent),
            (refused(Code::Busy, true, false), NothingSent),
            (PlatformError::TokenRefused { message: text() }, NothingSent),
            (
                PlatformError::Unreachable {
                    detail: text(),
                    retry_after,
                },
                NothingSent,
            ),
            (
                PlatformError::Unreadable {
                    detail: text(),
                    retry_after,
                },
                NothingSent,
            ),
            (unknown(false), Nothing),
            (unknown(true), Nothing),
            (PlatformError::DeadlineExceeded, NothingSent),
            (PlatformError::CredentialsUnreadable(text()), NothingSent),
            (PlatformError::Overloaded { retry_after }, NothingSent),
            (held_back(Outage::Unreachable { detail }), NothingSent),
            (held_back(unreadable), NothingSent),
            (held_back(Outage::Maintenance { message }), NothingSent),
        ] {
            assert_eq!(error.proof(), expected, "{error:?}");
        }
    }

    #[test]
    fn a_call_held_back_says_so_with_the_reason_and_since_when() {
        let outage = Outage::Maintenance {
            message: "接口维护".to_owned(),
        };
        let error = PlatformError::HeldBack {
            outage,
            since: SystemTime::UNIX_EPOCH,
            retry_after: Duration::ZERO,
        };
        assert_eq!(
            error.to_string(),
            "held back since 1970-01-01T00:00:00Z, nothing was sent: \
             the platform refused with code 10020: 接口维护"
        );
    }

    #[test]
    fn long_runs_of_digits_are_masked_and_short_ones_kept() {
        assert_eq!(
            masked("号码13000000001不合规, code 200203"),
            "号码*********01不合规, code 200203"
        );
        assert_eq!(masked("1234567"), "*****67");
        assert_eq!(masked("123456"), "123456");
        assert_eq!(masked(""), "");
    }
}
