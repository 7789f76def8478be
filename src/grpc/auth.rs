//! Who may call what, for which account.

use std::{collections::BTreeSet, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tonic::metadata::MetadataMap;

use crate::config::{self, Permission};

/// The metadata key that chooses the account.
const ACCOUNT_KEY: &str = "yeta-account";

/// Why a call is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It came without the credentials of any client.
    #[error("no client has these credentials; send `authorization: Bearer <token>`")]
    Unauthenticated,
    /// The client may not call this.
    #[error("client {client:?} lacks the right {right:?}")]
    RpcForbidden {
        /// The client's name.
        client: String,
        /// What it would have to be allowed.
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
    token_sha256: Vec<[u8; 32]>,
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
                token_sha256: Vec::new(),
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

    /// Tells who calls, and that it may call RPCs of `group`.
    pub fn authorize(
        &self,
        metadata: &MetadataMap,
        group: Permission,
    ) -> Result<Caller, AuthError> {
        let client = match &self.everybody {
            Some(everybody) => everybody,
            None => self
                .authenticate(metadata)
                .ok_or(AuthError::Unauthenticated)?,
        };
        if !client.allow.contains(&group) {
            return Err(AuthError::RpcForbidden {
                client: client.name.clone(),
                right: group.name(),
            });
        }
        Ok(Caller(Arc::clone(client)))
    }

    /// The account that the call is for: the one it names, or the default.
    pub fn account(&self, caller: &Caller, metadata: &MetadataMap) -> Result<&str, AuthError> {
        if let Some(named) = self.named_account(caller, metadata)? {
            return Ok(named);
        }
        let default = self.accounts.first().map_or("", String::as_str);
        self.check(caller, default)
    }

    /// The account that the call names, if it names one.
    pub fn named_account(
        &self,
        caller: &Caller,
        metadata: &MetadataMap,
    ) -> Result<Option<&str>, AuthError> {
        let Some(value) = metadata.get(ACCOUNT_KEY).filter(|value| !value.is_empty()) else {
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
    fn authenticate(&self, metadata: &MetadataMap) -> Option<&Arc<Client>> {
        let header = metadata.get("authorization")?.to_str().ok()?;
        let (scheme, token) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(token.trim().as_bytes()).into();
        let mut found = Choice::from(0);
        let mut position = 0;
        for (index, client) in (0_u32..).zip(&self.known) {
            for known in &client.token_sha256 {
                let same = known.ct_eq(&hash);
                position.conditional_assign(&index, same);
                found |= same;
            }
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
            token_sha256: config.token_sha256.clone(),
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

    fn metadata(pairs: &[(&'static str, &str)]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for (key, value) in pairs {
            metadata.insert(*key, value.parse().unwrap());
        }
        metadata
    }

    #[test]
    fn without_clients_everybody_may_do_everything() {
        let clients = Clients::new(&[], vec!["first".into()]);
        let caller = clients
            .authorize(&metadata(&[]), Permission::Admin)
            .unwrap();
        assert_eq!(clients.account(&caller, &metadata(&[])), Ok("first"));
        let asked = metadata(&[("yeta-account", "other")]);
        assert_eq!(
            clients.account(&caller, &asked),
            Err(AuthError::AccountNotFound("other".into()))
        );
    }

    #[test]
    fn a_client_is_told_by_its_token_alone() {
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
            let known = clients.authorize(&metadata(pairs.as_slice()), Permission::Outbound);
            match known {
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
        let bi = metadata(&[("authorization", "Bearer bi-token")]);
        assert!(matches!(
            clients.authorize(&bi, Permission::Outbound),
            Err(AuthError::RpcForbidden {
                right: "outbound",
                ..
            })
        ));
        let caller = clients.authorize(&bi, Permission::Subscribe).unwrap();
        assert!(matches!(
            clients.account(&caller, &bi),
            Err(AuthError::AccountForbidden { .. })
        ));
        let second = metadata(&[("yeta-account", "second")]);
        assert_eq!(clients.account(&caller, &second), Ok("second"));
        assert!(caller.may_use("second") && !caller.may_use("first"));
    }
}
