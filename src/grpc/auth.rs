//! Who may call what, for which account.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use http::HeaderMap;
use http::request::Parts;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::config::{self, Permission};

/// The header that chooses the account.
const ACCOUNT_KEY: &str = "yeta-account";

/// Why a call is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It came without the credentials of any client.
    #[error("no client has these credentials; send `authorization: Bearer <token>`")]
    Unauthenticated,
    /// The client may not call this.
    #[error("client {client:?} is not allowed {group:?}")]
    RpcForbidden {
        /// The client's name.
        client: String,
        /// What it would have to be allowed.
        group: &'static str,
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
}

/// Every client and account that the gateway knows.
#[derive(Debug)]
pub struct Clients {
    known: Vec<Arc<Client>>,
    /// Stands for everybody when no clients are configured.
    everybody: Option<Arc<Client>>,
    /// Names of the accounts, the default first.
    accounts: Vec<String>,
}

#[derive(Debug)]
struct Client {
    name: String,
    token_sha256: [u8; 32],
    allow: BTreeSet<Permission>,
    /// `None`: every account.
    accounts: Option<BTreeSet<String>>,
    /// Whether it stands for everybody.
    is_everybody: bool,
}

/// A client that has shown who it is.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Client>);

impl Caller {
    /// The client's name, for logs.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The client to whom ids of submissions belong; empty where everybody is one.
    pub fn scope(&self) -> &str {
        if self.0.is_everybody {
            ""
        } else {
            &self.0.name
        }
    }

    /// Whether the client may call RPCs of this group.
    pub fn may(&self, group: Permission) -> bool {
        self.0.allow.contains(&group)
    }

    /// Refuses a client that has none of these rights.
    pub fn require(&self, rights: &[Permission]) -> Result<(), AuthError> {
        if rights.iter().any(|right| self.may(*right)) {
            return Ok(());
        }
        Err(AuthError::RpcForbidden {
            client: self.name().to_owned(),
            group: rights.first().map_or("", |right| right.name()),
        })
    }

    /// Whether the client may use and see this account.
    pub fn may_use(&self, account: &str) -> bool {
        match &self.0.accounts {
            None => true,
            Some(accounts) => accounts.contains(account),
        }
    }

    /// The accounts that the client is held to; `None`: every account.
    pub fn accounts(&self) -> Option<Vec<String>> {
        let accounts = self.0.accounts.as_ref()?;
        Some(accounts.iter().cloned().collect())
    }
}

impl Clients {
    /// The configured clients; none means that everybody may do everything.
    /// `accounts` are the configured accounts' names, the default first.
    pub fn new(clients: &[config::Client], accounts: Vec<String>) -> Self {
        let everybody = clients.is_empty().then(|| {
            Arc::new(Client {
                name: "everybody".to_owned(),
                token_sha256: [0; 32],
                allow: Permission::ALL.into(),
                accounts: None,
                is_everybody: true,
            })
        });
        let clients = clients.iter().map(|client| Arc::new(Client::new(client)));
        Self {
            known: clients.collect(),
            everybody,
            accounts,
        }
    }

    /// Takes the permission `admin` from everybody where other machines can connect.
    #[must_use]
    pub fn listening_on(mut self, address: SocketAddr) -> Self {
        if let Some(everybody) = self.everybody.as_mut().and_then(Arc::get_mut)
            && !address.ip().is_loopback()
        {
            everybody.allow.remove(&Permission::Admin);
        }
        self
    }

    /// The client whose credentials stand in the head of a request.
    pub fn authenticate(&self, head: &Parts) -> Result<Caller, AuthError> {
        let client = match &self.everybody {
            Some(everybody) => Some(everybody),
            None => self.of_token(&head.headers),
        };
        let client = client.ok_or(AuthError::Unauthenticated)?;
        Ok(Caller(Arc::clone(client)))
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

    /// The client whose token this is. Hashes are compared in constant time, and
    /// with every client's, so that the time tells nothing of them.
    fn of_token(&self, headers: &HeaderMap) -> Option<&Arc<Client>> {
        let header = headers.get("authorization")?.to_str().ok()?;
        let (scheme, token) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(token.trim().as_bytes()).into();
        let mut found = Choice::from(0);
        let mut position = 0;
        for (index, client) in (0_u32..).zip(&self.known) {
            let same = client.token_sha256.ct_eq(&hash);
            position.conditional_assign(&index, same);
            found |= same;
        }
        let found = bool::from(found);
        found.then(|| self.known.get(position as usize)).flatten()
    }
}

impl Client {
    fn new(config: &config::Client) -> Self {
        let every_account = config.accounts.iter().any(|name| name == "*");
        Self {
            name: config.name.clone(),
            token_sha256: config.token_sha256,
            allow: config.allow.iter().copied().collect(),
            accounts: (!every_account).then(|| config.accounts.iter().cloned().collect()),
            is_everybody: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str, allow: &[Permission], accounts: &[&str]) -> config::Client {
        config::Client {
            name: name.to_owned(),
            token_sha256: Sha256::digest(format!("{name}-token")).into(),
            allow: allow.to_vec(),
            accounts: accounts.iter().map(|&account| account.to_owned()).collect(),
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

    #[test]
    fn without_clients_everybody_may_do_everything() {
        let clients = Clients::new(&[], vec!["first".into()]);
        let caller = clients.authenticate(&head(&[])).unwrap();
        assert_eq!(caller.require(&[Permission::Admin]), Ok(()));
        assert_eq!(clients.default_account(&caller), Ok("first"));
        let asked = head(&[("yeta-account", "other")]);
        assert_eq!(
            clients.named_account(&caller, &asked.headers),
            Err(AuthError::AccountNotFound("other".into()))
        );
    }

    #[test]
    fn without_clients_only_callers_on_this_machine_are_administrators() {
        let may = |address: &str, group| {
            let clients = Clients::new(&[], vec!["first".into()]);
            let clients = clients.listening_on(address.parse().unwrap());
            let caller = clients.authenticate(&head(&[])).unwrap();
            caller.require(&[group]).is_ok()
        };
        for address in ["127.0.0.1:50051", "127.9.9.9:1", "[::1]:50051"] {
            assert!(may(address, Permission::Admin), "{address}");
        }
        for address in ["0.0.0.0:50051", "10.0.0.7:50051", "[::]:50051"] {
            assert!(!may(address, Permission::Admin), "{address}");
            assert!(may(address, Permission::Outbound), "{address}");
        }
    }

    #[test]
    fn a_client_is_recognized_by_its_token_alone() {
        let clients = clients();
        for (header, expected) in [
            (Some("Bearer crm-token"), true),
            (Some("bearer crm-token"), true),
            (Some("Bearer crm-tokem"), false),
            (Some("Basic crm-token"), false),
            (Some("crm-token"), false),
            (Some(""), false),
            (None, false),
        ] {
            let pairs = header.map(|header| ("authorization", header));
            match clients.authenticate(&head(pairs.as_slice())) {
                Ok(caller) => assert!(expected && caller.name() == "crm", "{header:?}"),
                Err(error) => {
                    assert!(!expected, "{header:?}");
                    assert_eq!(error, AuthError::Unauthenticated);
                }
            }
        }
    }

    #[test]
    fn a_client_calls_what_it_is_allowed_for_its_own_accounts() {
        let clients = clients();
        let bi = head(&[("authorization", "Bearer bi-token")]);
        let caller = clients.authenticate(&bi).unwrap();
        assert!(matches!(
            caller.require(&[Permission::Outbound, Permission::Admin]),
            Err(AuthError::RpcForbidden {
                group: "outbound",
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
}
