//! The seam between the client and the network: one POST, and what is known after it.
//!
//! [`Wire`](super::wire::Wire) implements it over HTTP. Tests implement it with a simulated
//! network.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use secrecy::SecretString;

use super::gate::Gate;

/// Carries requests to the platform.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Posts `body` to `path`, once at most, and gives the whole answer whatever its HTTP status.
    ///
    /// An implementation arms `gate` first, opens it immediately before the request takes effect
    /// and sends nothing where it does not open. It closes the gate before it returns an answer
    /// or an error. It returns within the configured request timeout.
    fn post<'a>(
        &'a self,
        path: &'a str,
        token: Option<&'a SecretString>,
        body: Bytes,
        gate: &'a Arc<Gate>,
    ) -> BoxFuture<'a, Result<HttpAnswer, PostError>>;
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpAnswer {
    /// The HTTP status.
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// How a POST failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PostError {
    /// Nothing was sent.
    NotSent(String),
    /// Something was sent, and no whole answer came back.
    NoAnswer(String),
    /// Something was sent, and time ran out.
    TimedOut,
}
