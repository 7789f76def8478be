//! Who calls, with which rights, and for which account.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::request::Parts;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::jwt::Jwts;
use super::quota::Usage;
use crate::config::{self, Permission};

/// The header that chooses the account.
const ACCOUNT_KEY: &str = "yeta-account";

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The call has no credentials of a client.
    #[error("no client has these credentials; send `authorization: Bearer <token>`")]
    Unauthenticated,
    /// The client is switched off.
    #[error("client {client:?} is disabled in the gateway's configuration")]
    ClientDisabled {
        /// The client's name.
        client: String,
    },
    /// While the stream was open, the configuration withdrew its credential or changed the
    /// client's rights. Safe to call again with the present credentials.
    #[error("the client's credentials or rights have changed")]
    Revoked,
    /// The client lacks a right.
    #[error("client {client:?} lacks the right {right:?}")]
    RpcForbidden {
        /// The client's name.
        client: String,
        /// The right that the call needs.
        right: &'static str,
    },
    /// No such account is configured.
    #[error("no account named {0:?} is configured")]
    AccountNotFound(String),
    /// The account is not this client's.
    #[error("client {client:?} may not use account {account:?}")]
    AccountForbidden {
        /// The client's name.
        client: String,
        /// The account asked for.
        account: String,
    },
    /// The subscription's name is not among the client's patterns.
    #[error("client {client:?} may not use subscription {subscription:?}")]
    SubscriptionForbidden {
        /// The client's name.
        client: String,
        /// The name asked for.
        subscription: String,
    },
}

/// How a client has shown who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all: no clients are configured.
    None,
    /// By a bearer token.
    Token,
    /// By a certificate.
    Certificate,
    /// By a token of a Kubernetes service account.
    Jwt,
}

impl Method {
    /// The method's name in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Jwt => "jwt",
        }
    }
}

/// The address that a request comes from.
pub(super) fn peer(extensions: &http::Extensions) -> Option<SocketAddr> {
    Some(extensions.get::<Arc<Connection>>()?.peer)
}

/// The clients and accounts of the gateway. The clients can be replaced while it runs.
#[derive(Debug)]
pub struct Clients {
    known: RwLock<Arc<Known>>,
    jwts: Option<Jwts>,
    /// Names of the accounts, the default first.
    accounts: Vec<String>,
}

/// The clients of one version of the configuration.
#[derive(Debug)]
struct Known {
    clients: Vec<Arc<Client>>,
    /// The hash of each token.
    tokens: Vec<([u8; 32], Caller)>,
    /// Certificate names: DNS names in lower case, URIs as they are.
    names: BTreeMap<String, Caller>,
    /// `sub` claims.
    subjects: BTreeMap<String, Caller>,
    /// Stands for everybody when no clients are configured.
    everybody: Option<Caller>,
}

#[derive(Debug)]
struct Client {
    config: config::Client,
    /// The rights, those that others include among them.
    rights: BTreeSet<Permission>,
    /// `None`: every account.
    accounts: Option<BTreeSet<String>>,
    /// Whether it stands for everybody.
    is_everybody: bool,
    /// What it has used; kept when the configuration changes.
    usage: Arc<Usage>,
}

/// A client that has shown who it is.
#[derive(Clone, Debug)]
pub struct Caller {
    client: Arc<Client>,
    method: Method,
    /// Cancelled when its credential is withdrawn or the client's rights change.
    revoked: CancellationToken,
}

impl Caller {
    fn new(client: &Arc<Client>, method: Method) -> Self {
        Self {
            client: client.clone(),
            method,
            revoked: CancellationToken::new(),
        }
    }

    /// Passes the streams of a credential on to its caller in the next configuration. They end if
    /// the credential is withdrawn, or the client or its rights are others.
    fn hand_over(&self, next: Option<&mut Self>) {
        match next.filter(|next| next.client.has_rights_of(&self.client)) {
            Some(next) => next.revoked = self.revoked.clone(),
            None => self.revoked.cancel(),
        }
    }

    /// The client's name, for logs.
    pub fn name(&self) -> &str {
        &self.client.config.name
    }

    /// How it has shown who it is.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The client to whom ids of submissions belong; empty where everybody is one.
    pub fn scope(&self) -> &str {
        if self.client.is_everybody {
            ""
        } else {
            self.name()
        }
    }

    /// Whether the client has a right.
    pub fn may(&self, right: Permission) -> bool {
        self.client.rights.contains(&right)
    }

    /// Refuses a client that has none of these rights.
    pub fn require(&self, rights: &[Permission]) -> Result<(), AuthError> {
        if rights.iter().any(|right| self.may(*right)) {
            return Ok(());
        }
        Err(AuthError::RpcForbidden {
            client: self.name().to_owned(),
            right: rights.first().map_or("", |right| right.name()),
        })
    }

    /// Whether the client may use and see this account.
    pub fn may_use(&self, account: &str) -> bool {
        match &self.client.accounts {
            None => true,
            Some(accounts) => accounts.contains(account),
        }
    }

    /// The accounts that the client is held to; `None`: every account.
    pub fn accounts(&self) -> Option<Vec<String>> {
        let accounts = self.client.accounts.as_ref()?;
        Some(accounts.iter().cloned().collect())
    }

    /// Whether the client may use subscriptions of this name.
    pub fn may_name(&self, subscription: &str) -> bool {
        let patterns = &self.client.config.subscriptions;
        patterns.is_empty() || patterns.iter().any(|it| matches(it, subscription))
    }

    /// Makes sure that the client may use subscriptions of this name.
    pub fn check_name(&self, subscription: &str) -> Result<(), AuthError> {
        if self.may_name(subscription) {
            return Ok(());
        }
        Err(AuthError::SubscriptionForbidden {
            client: self.name().to_owned(),
            subscription: subscription.to_owned(),
        })
    }

    /// Whether phone numbers in what the client receives are masked.
    pub fn is_masked(&self) -> bool {
        self.client.config.mask_phones
    }

    /// The client's bounds.
    pub fn bounds(&self) -> &config::Client {
        &self.client.config
    }

    /// What the client has used of its bounds.
    pub fn usage(&self) -> &Arc<Usage> {
        &self.client.usage
    }

    /// Cancelled when the caller's credential is withdrawn or the client's rights change: its
    /// streams end.
    pub fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }
}

/// Whether a name matches a pattern, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl Clients {
    /// The configured clients; none means that everybody may do everything.
    /// `accounts` are the configured accounts' names, the default first.
    pub fn new(clients: &[config::Client], accounts: Vec<String>) -> Self {
        Self {
            known: RwLock::new(Arc::new(Known::new(clients, None))),
            jwts: None,
            accounts,
        }
    }

    /// The same, which verify tokens of service accounts, too.
    #[must_use]
    pub fn with_jwts(self, jwts: Option<Jwts>) -> Self {
        Self { jwts, ..self }
    }

    /// The number of configured clients.
    pub fn count(&self) -> usize {
        self.known().clients.len()
    }

    /// Takes the right `admin` from everybody where other machines can connect.
    #[must_use]
    pub fn listening_on(mut self, address: SocketAddr) -> Self {
        let known = self.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        let everybody = Arc::get_mut(known).and_then(|known| known.everybody.as_mut());
        if let Some(everybody) = everybody.and_then(|it| Arc::get_mut(&mut it.client))
            && !address.ip().is_loopback()
        {
            everybody.rights.remove(&Permission::Admin);
        }
        self
    }

    /// Puts other clients in the place of the present ones. A stream ends if its credential is gone
    /// or its client's rights have changed; a further credential ends none.
    pub fn replace(&self, clients: &[config::Client]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(Known::new(clients, Some(&known)));
        *known = next;
    }

    fn known(&self) -> Arc<Known> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    /// Finds the client whose credentials stand in the head of a request. A bearer token comes
    /// before a certificate: a wrong token is refused whatever the certificate is.
    pub async fn authenticate(&self, head: &Parts) -> Result<Caller, AuthError> {
        let known = self.known();
        if let Some(everybody) = &known.everybody {
            return Ok(everybody.clone());
        }
        let caller = match head.headers.get(AUTHORIZATION) {
            Some(header) => self.by_token(&known, header).await,
            None => known.by_certificate(head),
        };
        let caller = caller.ok_or(AuthError::Unauthenticated)?;
        if !caller.client.config.enabled {
            let client = caller.name().to_owned();
            return Err(AuthError::ClientDisabled { client });
        }
        Ok(caller)
    }

    async fn by_token(&self, known: &Known, header: &HeaderValue) -> Option<Caller> {
        let token = bearer(header)?;
        let Some(jwts) = self.jwts.as_ref().filter(|_| Jwts::is_jwt(token)) else {
            return known.by_hash(token);
        };
        match jwts.subject(token).await {
            Ok(subject) => known.subjects.get(&subject).cloned(),
            Err(error) => {
                tracing::debug!(%error, "a token of a service account is refused");
                None
            }
        }
    }

    /// The default account, if the caller may use it.
    pub fn default_account(&self, caller: &Caller) -> Result<&str, AuthError> {
        let default = self.accounts.first().map_or("", String::as_str);
        self.check(caller, default)
    }

    /// The account that a request names, if it names one.
    pub fn named_account(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
    ) -> Result<Option<&str>, AuthError> {
        let Some(value) = headers.get(ACCOUNT_KEY).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let name = String::from_utf8_lossy(value.as_bytes());
        self.check(caller, &name).map(Some)
    }

    /// Makes sure that the account exists and is the caller's.
    pub fn check(&self, caller: &Caller, name: &str) -> Result<&str, AuthError> {
        match self.accounts.iter().find(|account| *account == name) {
            None => Err(AuthError::AccountNotFound(name.to_owned())),
            Some(account) if caller.may_use(account) => Ok(account),
            Some(account) => Err(AuthError::AccountForbidden {
                client: caller.name().to_owned(),
                account: account.clone(),
            }),
        }
    }
}

/// The token of an `authorization` header.
fn bearer(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let is_bearer = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
    is_bearer.then_some(token)
}

impl Known {
    /// Builds the clients; what those of `before` have used stays with their names.
    fn new(configs: &[config::Client], before: Option<&Known>) -> Self {
        let clients: Vec<_> = configs
            .iter()
            .map(|config| Arc::new(Client::new(config, before)))
            .collect();
        // A gateway that knew clients is never opened to everybody while it runs.
        let everybody = (clients.is_empty() && before.is_none())
            .then(|| Caller::new(&Arc::new(Client::everybody()), Method::None));
        let (mut tokens, mut names, mut subjects) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for client in &clients {
            for hash in &client.config.token_sha256 {
                tokens.push((*hash, Caller::new(client, Method::Token)));
            }
            for name in &client.config.tls_san {
                names.insert(name.clone(), Caller::new(client, Method::Certificate));
            }
            if let Some(account) = &client.config.kubernetes {
                subjects.insert(account.subject(), Caller::new(client, Method::Jwt));
            }
        }
        let mut known = Self {
            clients,
            tokens,
            names,
            subjects,
            everybody,
        };
        if let Some(before) = before {
            before.hand_over(&mut known);
        }
        known
    }

    /// Passes the streams of each credential on to the next version of the configuration.
    fn hand_over(&self, next: &mut Self) {
        for (hash, caller) in &self.tokens {
            let same = next.tokens.iter_mut().find(|(known, _)| known == hash);
            caller.hand_over(same.map(|(_, caller)| caller));
        }
        for (name, caller) in &self.names {
            caller.hand_over(next.names.get_mut(name));
        }
        for (subject, caller) in &self.subjects {
            caller.hand_over(next.subjects.get_mut(subject));
        }
        if let Some(everybody) = &self.everybody {
            everybody.hand_over(None);
        }
    }

    /// The client whose token this is. Hashes are compared in constant time, and with every
    /// client's, so that the time shows nothing of them.
    fn by_hash(&self, token: &str) -> Option<Caller> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = Choice::from(0);
        let mut place = 0_u32;
        for (number, (known, _)) in (0..).zip(&self.tokens) {
            let is_same = known.ct_eq(&hash);
            place.conditional_assign(&number, is_same);
            found |= is_same;
        }
        let found = bool::from(found).then_some(place)?;
        let (_, caller) = self.tokens.get(found as usize)?;
        Some(caller.clone())
    }

    /// The client of a certificate: of the first of its names that a client has.
    fn by_certificate(&self, head: &Parts) -> Option<Caller> {
        let connection = head.extensions.get::<Arc<Connection>>()?;
        let names = connection.names.as_ref()?;
        let uris = names.uris.iter().filter(|name| config::is_uri(name));
        let mut names = uris.chain(&names.dns);
        names.find_map(|name| self.names.get(name).cloned())
    }
}

impl Client {
    fn new(config: &config::Client, before: Option<&Known>) -> Self {
        let every_account = config.accounts.iter().any(|name| name == "*");
        let included = config.allow.iter().flat_map(|right| right.includes());
        let of_before = before.and_then(|before| {
            let mut clients = before.clients.iter();
            clients.find(|client| client.config.name == config.name)
        });
        Self {
            rights: config.allow.iter().chain(included).copied().collect(),
            accounts: (!every_account).then(|| config.accounts.iter().cloned().collect()),
            is_everybody: false,
            usage: of_before.map(|it| it.usage.clone()).unwrap_or_default(),
            config: config.clone(),
        }
    }

    fn everybody() -> Self {
        Self {
            config: config::Client {
                name: "everybody".to_owned(),
                ..config::Client::default()
            },
            rights: Permission::ALL.into(),
            accounts: None,
            is_everybody: true,
            usage: Arc::default(),
        }
    }

    /// Whether it is the same client with the same rights and bounds, whatever its credentials are.
    fn has_rights_of(&self, other: &Self) -> bool {
        let without_credentials = |client: &Self| config::Client {
            token_sha256: Vec::new(),
            tls_san: Vec::new(),
            kubernetes: None,
            ..client.config.clone()
        };
        without_credentials(self) == without_credentials(other)
    }
}

#[cfg(test)]
impl Caller {
    /// A client without rights.
    pub(super) fn nobody(name: &str) -> Self {
        let config = config::Client {
            name: name.to_owned(),
            ..config::Client::default()
        };
        Self::new(&Arc::new(Client::new(&config, None)), Method::Token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str, allow: &[Permission], accounts: &[&str]) -> config::Client {
        config::Client {
            name: name.to_owned(),
            token_sha256: vec![Sha256::digest(format!("{name}-token")).into()],
            allow: allow.to_vec(),
            accounts: accounts.iter().map(|&account| account.to_owned()).collect(),
            ..config::Client::default()
        }
    }

    fn clients() -> Clients {
        let configs = [
            client("crm", &[Permission::Outbound, Permission::Config], &["*"]),
            client("bi", &[Permission::Subscribe], &["second"]),
        ];
        Clients::new(&configs, vec!["first".into(), "second".into()])
    }

    fn head(pairs: &[(&'static str, &str)]) -> Parts {
        let mut head = http::Request::new(()).into_parts().0;
        for (name, value) in pairs {
            head.headers.insert(*name, value.parse().unwrap());
        }
        head
    }

    fn bearer_of(token: &str) -> Parts {
        head(&[("authorization", &format!("Bearer {token}"))])
    }

    #[tokio::test]
    async fn without_clients_everybody_may_do_everything() {
        let clients = Clients::new(&[], vec!["first".into()]);
        let caller = clients.authenticate(&head(&[])).await.unwrap();
        assert_eq!(caller.require(&[Permission::Admin]), Ok(()));
        assert_eq!(caller.method(), Method::None);
        assert_eq!(clients.default_account(&caller), Ok("first"));
        let asked = head(&[("yeta-account", "other")]);
        assert_eq!(
            clients.named_account(&caller, &asked.headers),
            Err(AuthError::AccountNotFound("other".into()))
        );
    }

    #[tokio::test]
    async fn without_clients_only_callers_on_this_machine_are_administrators() {
        let may = async |address: &str, right| {
            let clients = Clients::new(&[], vec!["first".into()]);
            let clients = clients.listening_on(address.parse().unwrap());
            let caller = clients.authenticate(&head(&[])).await.unwrap();
            caller.require(&[right]).is_ok()
        };
        for address in ["127.0.0.1:50051", "127.9.9.9:1", "[::1]:50051"] {
            assert!(may(address, Permission::Admin).await, "{address}");
        }
        for address in ["0.0.0.0:50051", "10.0.0.7:50051", "[::]:50051"] {
            assert!(!may(address, Permission::Admin).await, "{address}");
            assert!(may(address, Permission::Outbound).await, "{address}");
        }
    }

    #[tokio::test]
    async fn a_client_is_recognized_by_its_token_alone() {
        let clients = clients();
        for (header, expected) in [
            (Some("Bearer crm-token"), true),
            (Some("bearer crm-token"), true),
            (Some("Bearer crm-tokem"), false),
            (Some("Basic crm-token"), false),
            (Some("crm-token"), false),
            (Some("Bearer "), false),
            (Some(""), false),
            (None, false),
        ] {
            let pairs = header.map(|header| ("authorization", header));
            match clients.authenticate(&head(pairs.as_slice())).await {
                Ok(caller) => assert!(expected && caller.name() == "crm", "{header:?}"),
                Err(error) => {
                    assert!(!expected, "{header:?}");
                    assert_eq!(error, AuthError::Unauthenticated);
                }
            }
        }
    }

    #[tokio::test]
    async fn an_empty_token_is_no_token_even_where_its_hash_is_configured() {
        let mut config = client("crm", &[], &[]);
        config.token_sha256 = vec![Sha256::digest("").into()];
        let clients = Clients::new(&[config], vec![]);
        let empty = head(&[("authorization", "Bearer  ")]);
        let refused = clients.authenticate(&empty).await;
        assert_eq!(refused.unwrap_err(), AuthError::Unauthenticated);
    }

    #[tokio::test]
    async fn a_client_calls_what_it_is_allowed_for_its_own_accounts() {
        let clients = clients();
        let caller = clients.authenticate(&bearer_of("bi-token")).await.unwrap();
        assert!(matches!(
            caller.require(&[Permission::Outbound, Permission::Admin]),
            Err(AuthError::RpcForbidden {
                right: "outbound",
                ..
            })
        ));
        let any = caller.require(&[Permission::Admin, Permission::Subscribe]);
        assert_eq!(any, Ok(()));
        assert!(matches!(
            clients.default_account(&caller),
            Err(AuthError::AccountForbidden { .. })
        ));
        let second = head(&[("yeta-account", "second")]);
        assert_eq!(
            clients.named_account(&caller, &second.headers),
            Ok(Some("second"))
        );
        assert!(caller.may_use("second") && !caller.may_use("first"));
    }

    #[tokio::test]
    async fn a_right_includes_its_finer_ones_and_not_the_other_way_round() {
        let clients = Clients::new(
            &[
                client("all", &[Permission::Outbound, Permission::Subscribe], &[]),
                client("some", &[Permission::Place, Permission::Consume], &[]),
            ],
            vec![],
        );
        let all = clients.authenticate(&bearer_of("all-token")).await.unwrap();
        let some = clients
            .authenticate(&bearer_of("some-token"))
            .await
            .unwrap();
        for (right, of_some) in [
            (Permission::Place, true),
            (Permission::Tasks, false),
            (Permission::Submissions, false),
            (Permission::Consume, true),
            (Permission::Subscriptions, false),
            (Permission::Outbound, false),
            (Permission::Subscribe, false),
        ] {
            assert!(all.may(right), "{right:?}");
            assert_eq!(some.may(right), of_some, "{right:?}");
        }
        assert!(!all.may(Permission::Admin));
    }

    #[tokio::test]
    async fn two_tokens_are_good_during_a_rotation_and_one_after_it() {
        let mut crm = client("crm", &[], &[]);
        crm.token_sha256.push(Sha256::digest("next").into());
        let clients = Clients::new(std::slice::from_ref(&crm), vec![]);
        let old = clients.authenticate(&bearer_of("crm-token")).await.unwrap();
        let next = clients.authenticate(&bearer_of("next")).await.unwrap();
        crm.token_sha256.remove(0);
        clients.replace(&[crm]);
        assert!(old.revoked().is_cancelled() && !next.revoked().is_cancelled());
        clients.authenticate(&bearer_of("next")).await.unwrap();
        let refused = clients.authenticate(&bearer_of("crm-token")).await;
        assert_eq!(refused.unwrap_err(), AuthError::Unauthenticated);
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_credential_or_a_change_of_rights_and_not_with_a_new_credential()
    {
        let crm = client("crm", &[], &["first"]);
        let hash = |token: &str| <[u8; 32]>::from(Sha256::digest(token));
        let more_tokens = config::Client {
            token_sha256: vec![hash("next"), hash("crm-token")],
            ..crm.clone()
        };
        let with_name = config::Client {
            tls_san: vec!["crm.svc".into()],
            ..crm.clone()
        };
        let other_token = config::Client {
            token_sha256: vec![hash("next")],
            ..crm.clone()
        };
        let other_accounts = config::Client {
            accounts: vec!["second".into()],
            ..crm.clone()
        };
        let other_name = config::Client {
            name: "other".into(),
            ..crm.clone()
        };
        for (next, ends) in [
            (crm.clone(), false),
            (more_tokens, false),
            (with_name, false),
            (other_token, true),
            (other_accounts, true),
            (other_name, true),
        ] {
            let clients = Clients::new(std::slice::from_ref(&crm), vec![]);
            let caller = clients.authenticate(&bearer_of("crm-token")).await.unwrap();
            clients.replace(std::slice::from_ref(&next));
            assert_eq!(caller.revoked().is_cancelled(), ends, "{next:?}");
            clients.replace(&[]);
            assert!(caller.revoked().is_cancelled(), "{next:?}");
        }
    }

    #[tokio::test]
    async fn a_disabled_client_is_refused_and_others_go_on() {
        let (mut crm, bi) = (client("crm", &[], &[]), client("bi", &[], &[]));
        let clients = Clients::new(&[crm.clone(), bi.clone()], vec![]);
        let caller = clients.authenticate(&bearer_of("crm-token")).await.unwrap();
        let other = clients.authenticate(&bearer_of("bi-token")).await.unwrap();
        crm.enabled = false;
        clients.replace(&[crm, bi]);
        assert!(caller.revoked().is_cancelled());
        assert!(!other.revoked().is_cancelled());
        let refused = clients.authenticate(&bearer_of("crm-token")).await;
        let client = "crm".to_owned();
        assert_eq!(refused.unwrap_err(), AuthError::ClientDisabled { client });
    }

    #[tokio::test]
    async fn what_a_client_has_used_survives_a_change_of_its_settings() {
        let mut crm = client("crm", &[], &[]);
        let clients = Clients::new(std::slice::from_ref(&crm), vec![]);
        let before = clients.authenticate(&bearer_of("crm-token")).await.unwrap();
        crm.max_streams = 7;
        clients.replace(&[crm]);
        let after = clients.authenticate(&bearer_of("crm-token")).await.unwrap();
        assert!(Arc::ptr_eq(before.usage(), after.usage()));
        assert_eq!(after.bounds().max_streams, 7);
    }

    #[test]
    fn a_pattern_bounds_names() {
        for (pattern, name, expected) in [
            ("crm", "crm", true),
            ("crm", "crm-1", false),
            ("crm-*", "crm-", true),
            ("crm-*", "crm-worker", true),
            ("crm-*", "crm", false),
            ("*-crm", "a-crm", true),
            ("*-crm", "a-crm-b", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-c", false),
            ("ab*ba", "aba", false),
            ("*", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
