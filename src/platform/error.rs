//! What can go wrong with an operation, by what its caller can do about it.

use std::time::Duration;

use super::code::Code;

/// How an operation failed.
///
/// No variant's text holds a URL, a token or a secret. A platform's own message
/// stands as the platform sent it; it may quote a phone number, so logs mask it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// No account of this name is configured.
    #[error("no account named {0:?} is configured")]
    UnknownAccount(String),
    /// The platform answered with a code: it did not do what was asked.
    #[error("the platform refused with code {code}: {message}")]
    Refused {
        /// Its code.
        code: Code,
        /// Its message.
        message: String,
    },
    /// The platform refused a fresh token as well. Nothing was done; the next
    /// call begins with another token.
    #[error("the platform refused the token, and the next one too: {message}")]
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
}

impl PlatformError {
    /// A short name of the outcome, for logs and metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::UnknownAccount(_) => "unknown_account",
            Self::Refused { .. } => "refused",
            Self::TokenRefused { .. } => "token_refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Unreadable { .. } => "unreadable",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::CredentialsUnreadable(_) => "credentials_unreadable",
        }
    }
}

/// `text` for a log: runs of seven digits and more, which may be phone numbers,
/// keep their last two.
pub(super) fn masked(text: &str) -> String {
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
