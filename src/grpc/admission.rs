//! Decides from a request's head who calls and whether it may.
//!
//! The layer stands outside of everything that reads a message: a request that it refuses costs
//! no permit, no buffer and no decompression.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::auth::{AuthError, Caller, Clients, peer};
use super::connection::Connection;
use super::rpc::{self, Access, Account, Rpc};
use crate::audit::{self, Details, Failures, Sender};
use crate::config::Permission;

/// The caller of a request and the account that the request is for.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The client.
    pub caller: Caller,
    /// The account that the request names.
    named: Option<String>,
    /// The account of an RPC that works on one account.
    account: Option<String>,
}

impl Admitted {
    /// A request that names no account.
    #[cfg(test)]
    pub(super) fn nobody(caller: Caller) -> Self {
        Self {
            caller,
            named: None,
            account: None,
        }
    }

    /// The account that the request is for.
    pub(super) fn account(&self) -> Result<&str, Status> {
        // The RPC's row in the table lacks `one_account`.
        let missing = || Status::internal("the RPC has no account");
        self.account.as_deref().ok_or_else(missing)
    }

    /// The account that the request names.
    pub(super) fn named(&self) -> Option<&str> {
        self.named.as_deref()
    }

    /// The accounts that the caller is shown: the named one, or all of its own; `None`: all.
    pub(super) fn visible(&self) -> Option<BTreeSet<String>> {
        match &self.named {
            Some(account) => Some(BTreeSet::from([account.clone()])),
            None => self.caller.accounts().map(BTreeSet::from_iter),
        }
    }
}

/// What the layer found in the head of a request.
pub(super) fn admitted<T>(request: &tonic::Request<T>) -> Result<&Admitted, Status> {
    let found = request.extensions().get::<Admitted>();
    found.ok_or_else(|| Status::internal("the request was not admitted"))
}

/// Lets in the requests of clients that have the right to the RPC and to the account.
#[derive(Clone)]
pub struct AdmissionLayer {
    clients: Arc<Clients>,
    failures: Arc<Failures>,
}

impl AdmissionLayer {
    /// Lets in requests of `clients`.
    pub fn new(clients: Arc<Clients>) -> Self {
        Self {
            clients,
            failures: Arc::default(),
        }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`AdmissionLayer`].
#[derive(Clone)]
pub struct Admission<S> {
    inner: S,
    layer: AdmissionLayer,
}

impl<S> Service<Request<Body>> for Admission<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let Some(rpc) = rpc::find(head.uri.path()) else {
            return Box::pin(async { Ok(Status::unimplemented("").into_http()) });
        };
        head.extensions.insert(rpc);
        let layer = self.layer.clone();
        let admitting = async move {
            let admitted = admit(&layer.clients, rpc, &head).await;
            layer.decide(rpc, head, admitted)
        };
        let mut admitting = Box::pin(admitting);
        // Only an unknown key of a service account's token takes time. All others are decided at
        // once, so that requests take their permits in the order in which they came.
        match admitting.as_mut().now_or_never() {
            Some(Ok(head)) => Box::pin(self.inner.call(Request::from_parts(head, body))),
            Some(Err(status)) => Box::pin(async { Ok(status.into_http()) }),
            None => {
                // The service that is ready is the present one.
                let next = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, next);
                Box::pin(async move {
                    match admitting.await {
                        Ok(head) => inner.call(Request::from_parts(head, body)).await,
                        Err(status) => Ok(status.into_http()),
                    }
                })
            }
        }
    }
}

/// A request that is not let in.
struct Refused {
    error: AuthError,
    /// The client, where it has shown who it is.
    caller: Option<Caller>,
}

impl AdmissionLayer {
    /// The head with what was found out of it, or the status of a refused request.
    fn decide(
        &self,
        rpc: &'static Rpc,
        mut head: Parts,
        admitted: Result<Option<Admitted>, Refused>,
    ) -> Result<Parts, Status> {
        let admitted = admitted.map_err(|refused| self.refuse(rpc, &head, refused))?;
        if let Some(admitted) = admitted {
            if let Some(connection) = head.extensions.get::<Arc<Connection>>() {
                connection.admit();
            }
            head.extensions.insert(admitted);
        }
        Ok(head)
    }

    /// The status of a refused request, which is written to the audit log.
    fn refuse(&self, rpc: &'static Rpc, head: &Parts, refused: Refused) -> Status {
        let peer = peer(&head.extensions);
        let status = Status::from(refused.error);
        match refused.caller {
            None => self.failures.write(peer, rpc.path, &audit::reason(&status)),
            Some(caller) => {
                let sender = Sender {
                    client: caller.name().to_owned(),
                    auth: caller.method().name(),
                    peer,
                };
                audit::Entry::new(sender, rpc.path, Details::default()).ended(&status);
            }
        }
        status
    }
}

/// Who calls, if the RPC needs to know.
async fn admit(clients: &Clients, rpc: &Rpc, head: &Parts) -> Result<Option<Admitted>, Refused> {
    let Access::Any(rights) = rpc.access else {
        return Ok(None);
    };
    let caller = clients.authenticate(head).await;
    let caller = caller.map_err(|error| Refused {
        error,
        caller: None,
    })?;
    match admit_caller(clients, rpc, rights, head, &caller) {
        Ok(admitted) => Ok(Some(admitted)),
        Err(error) => Err(Refused {
            error,
            caller: Some(caller),
        }),
    }
}

fn admit_caller(
    clients: &Clients,
    rpc: &Rpc,
    rights: &[Permission],
    head: &Parts,
    caller: &Caller,
) -> Result<Admitted, AuthError> {
    caller.require(rights)?;
    let named = clients.named_account(caller, &head.headers)?;
    let account = match (rpc.account, named) {
        (Account::One, Some(named)) => Some(named.to_owned()),
        (Account::One, None) => Some(clients.default_account(caller)?.to_owned()),
        (Account::Named, _) => None,
    };
    Ok(Admitted {
        named: named.map(ToOwned::to_owned),
        account,
        caller: caller.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use sha2::{Digest, Sha256};
    use tonic::Code;

    use super::*;
    use crate::config;

    /// A body that fails the test when it is read.
    struct Unread;

    impl http_body::Body for Unread {
        type Data = bytes::Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Infallible>>> {
            panic!("the body was read");
        }
    }

    /// What a request gets: the status that it is refused with, or the caller and its account.
    async fn answer(
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Option<(String, Option<String>)>, Code> {
        let client = config::Client {
            name: "bi".to_owned(),
            token_sha256: vec![Sha256::digest("bi-token").into()],
            allow: vec![Permission::Subscribe, Permission::Config],
            accounts: vec!["second".to_owned()],
            ..config::Client::default()
        };
        let clients = Clients::new(&[client], vec!["first".into(), "second".into()]);
        let inner = tower::service_fn(async |request: Request<Body>| {
            let mut response = Response::new(Body::empty());
            if let Some(admitted) = request.extensions().get::<Admitted>() {
                response.extensions_mut().insert(admitted.clone());
            }
            Ok::<_, Infallible>(response)
        });
        let mut service = AdmissionLayer::new(Arc::new(clients)).layer(inner);
        let mut request = Request::builder().method("POST").uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = service.call(request.body(Body::new(Unread)).unwrap());
        let response = response.await.unwrap();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return Err(status.code());
        }
        let admitted = response.extensions().get::<Admitted>();
        Ok(admitted.map(|it| (it.caller.name().to_owned(), it.account.clone())))
    }

    #[tokio::test]
    async fn a_request_is_decided_upon_by_its_head_and_its_body_stays_unread() {
        const TOKEN: (&str, &str) = ("authorization", "Bearer bi-token");
        const SECOND: (&str, &str) = ("yeta-account", "second");
        let list = "/yeta.v1.PushService/ListPushes";
        let query = "/yeta.v1.ConfigService/QueryConfig";
        let (bi, second) = ("bi".to_owned(), Some("second".to_owned()));
        for (path, headers, expected) in [
            (list, &[][..], Err(Code::Unauthenticated)),
            (
                list,
                &[("authorization", "Bearer x")],
                Err(Code::Unauthenticated),
            ),
            (list, &[TOKEN], Ok(Some((bi.clone(), None)))),
            (list, &[TOKEN, SECOND], Ok(Some((bi.clone(), None)))),
            (query, &[TOKEN, SECOND], Ok(Some((bi.clone(), second)))),
            // The default account is not this client's.
            (query, &[TOKEN], Err(Code::PermissionDenied)),
            (
                list,
                &[TOKEN, ("yeta-account", "first")],
                Err(Code::PermissionDenied),
            ),
            (
                list,
                &[TOKEN, ("yeta-account", "other")],
                Err(Code::NotFound),
            ),
            (
                "/yeta.v1.OutboundService/CallOut",
                &[TOKEN],
                Err(Code::PermissionDenied),
            ),
            (
                "/yeta.v1.PushService/NoSuch",
                &[TOKEN],
                Err(Code::Unimplemented),
            ),
            ("/grpc.health.v1.Health/Check", &[], Ok(None)),
        ] {
            assert_eq!(answer(path, headers).await, expected, "{path} {headers:?}");
        }
    }
}
