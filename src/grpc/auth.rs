//! Who may call what, for which account.

use std::{collections::BTreeSet, fmt, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tonic::metadata::MetadataMap;

/// The metadata key that chooses the account.
const ACCOUNT_KEY: &str = "yeta-account";

/// Stands for the hash of a client that has none; the hash of no known text.
const UNKNOWN_HASH: [u8; 32] = [0; 32];

/// A client, as the configuration gives it (`[[clients]]`).
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The client's name, for logs.
    pub name: String,
    /// SHA-256 of its bearer token, 64 hexadecimal digits.
    pub token_sha256: Option<String>,
    /// The name in its TLS certificate. Not supported by this version.
    pub tls_san: Option<String>,
    /// The groups of RPCs that it may call; see [`Group`].
    pub allow: Vec<String>,
    /// The accounts that it may use; `*` for all.
    pub accounts: Vec<String>,
    /// Whether phone numbers are masked in what it reads.
    pub mask_phones: bool,
}

/// A fault in `[[clients]]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {fault}")]
pub struct ClientConfigError {
    /// The key that is wrong, such as `clients[0].allow`.
    pub key: String,
    /// What is wrong with it.
    pub fault: String,
}

/// A group of RPCs that a client is allowed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// `OutboundService`.
    Outbound,
    /// `ConfigService`.
    Config,
    /// `PushService` and subscriptions.
    Subscribe,
    /// `CallService`.
    Calls,
    /// `VoiceService`.
    Voice,
    /// What operators do.
    Admin,
}

impl Group {
    const ALL: [Self; 6] = [
        Self::Outbound,
        Self::Config,
        Self::Subscribe,
        Self::Calls,
        Self::Voice,
        Self::Admin,
    ];

    /// The group's name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Config => "config",
            Self::Subscribe => "subscribe",
            Self::Calls => "calls",
            Self::Voice => "voice",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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
    allow: BTreeSet<Group>,
    /// `None`: every account.
    accounts: Option<BTreeSet<String>>,
    mask_phones: bool,
}

/// A client that has shown who it is.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Client>);

impl Caller {
    /// The client's name, for logs.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the client may use and see this account.
    pub fn may_use(&self, account: &str) -> bool {
        match &self.0.accounts {
            None => true,
            Some(accounts) => accounts.contains(account),
        }
    }

    /// Whether phone numbers are masked in what the client reads.
    pub fn mask_phones(&self) -> bool {
        self.0.mask_phones
    }
}

impl Clients {
    /// Reads the configured clients; none means that everybody may do
    /// everything. `accounts` are the configured accounts' names, the default
    /// first. Reports every fault at once.
    pub fn new(
        configs: &[ClientConfig],
        accounts: Vec<String>,
    ) -> Result<Self, Vec<ClientConfigError>> {
        let mut faults = Vec::new();
        let mut clients: Vec<Arc<Client>> = Vec::new();
        for (index, config) in configs.iter().enumerate() {
            let mut fault = |key: &str, fault: String| {
                faults.push(ClientConfigError {
                    key: format!("clients[{index}].{key}"),
                    fault,
                });
            };
            let client = client(config, &accounts, &mut fault);
            if clients.iter().any(|other| other.name == client.name) {
                fault("name", format!("{:?} is another client's too", client.name));
            }
            let same_hash = |other: &Arc<Client>| other.token_sha256 == client.token_sha256;
            if client.token_sha256 != UNKNOWN_HASH && clients.iter().any(same_hash) {
                fault("token_sha256", "is another client's too".to_owned());
            }
            clients.push(Arc::new(client));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let everybody = clients.is_empty().then(|| {
            Arc::new(Client {
                name: "everybody".to_owned(),
                token_sha256: UNKNOWN_HASH,
                allow: Group::ALL.into(),
                accounts: None,
                mask_phones: false,
            })
        });
        Ok(Self {
            known: clients,
            everybody,
            accounts,
        })
    }

    /// Whether every caller is let in.
    pub fn is_open(&self) -> bool {
        self.everybody.is_some()
    }

    /// Tells who calls, and that it may call RPCs of `group`.
    pub fn authorize(&self, metadata: &MetadataMap, group: Group) -> Result<Caller, AuthError> {
        let client = match &self.everybody {
            Some(everybody) => everybody,
            None => self
                .authenticate(metadata)
                .ok_or(AuthError::Unauthenticated)?,
        };
        if !client.allow.contains(&group) {
            return Err(AuthError::RpcForbidden {
                client: client.name.clone(),
                group: group.name(),
            });
        }
        Ok(Caller(Arc::clone(client)))
    }

    /// The account that the call is for.
    pub fn account(&self, caller: &Caller, metadata: &MetadataMap) -> Result<&str, AuthError> {
        let asked = match metadata.get(ACCOUNT_KEY) {
            Some(value) => String::from_utf8_lossy(value.as_bytes()),
            None => "".into(),
        };
        let account = if asked.is_empty() {
            self.accounts.first()
        } else {
            self.accounts.iter().find(|name| **name == asked)
        };
        match account {
            None => Err(AuthError::AccountNotFound(asked.into_owned())),
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
            let same = client.token_sha256.ct_eq(&hash);
            position.conditional_assign(&index, same);
            found |= same;
        }
        let found = bool::from(found);
        found.then(|| self.known.get(position as usize)).flatten()
    }
}

fn client(
    config: &ClientConfig,
    known_accounts: &[String],
    fault: &mut impl FnMut(&str, String),
) -> Client {
    if config.name.is_empty() {
        fault("name", "is empty".to_owned());
    }
    if config.tls_san.is_some() {
        fault(
            "tls_san",
            "client certificates are not supported by this version yet; use token_sha256"
                .to_owned(),
        );
    }
    let token_sha256 = match config.token_sha256.as_deref().map(hash) {
        Some(Some(hash)) => hash,
        Some(None) => {
            fault(
                "token_sha256",
                "is no sha-256 of 64 hexadecimal digits".to_owned(),
            );
            UNKNOWN_HASH
        }
        None => {
            fault("token_sha256", "is missing".to_owned());
            UNKNOWN_HASH
        }
    };
    let mut allow = BTreeSet::new();
    for name in &config.allow {
        match Group::ALL.into_iter().find(|group| group.name() == name) {
            Some(group) => {
                allow.insert(group);
            }
            None => fault(
                "allow",
                format!(
                    "{name:?} is none of {}",
                    Group::ALL.map(Group::name).join(", ")
                ),
            ),
        }
    }
    for name in &config.accounts {
        if name != "*" && !known_accounts.contains(name) {
            fault(
                "accounts",
                format!("no account named {name:?} is configured"),
            );
        }
    }
    let every_account = config.accounts.iter().any(|name| name == "*");
    Client {
        name: config.name.clone(),
        token_sha256,
        allow,
        accounts: (!every_account).then(|| config.accounts.iter().cloned().collect()),
        mask_phones: config.mask_phones,
    }
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(token: &str) -> String {
        Sha256::digest(token.as_bytes())
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    fn config(name: &str, allow: &[&str], accounts: &[&str]) -> ClientConfig {
        ClientConfig {
            name: name.to_owned(),
            token_sha256: Some(sha256(&format!("{name}-token"))),
            tls_san: None,
            allow: allow.iter().map(|&group| group.to_owned()).collect(),
            accounts: accounts.iter().map(|&account| account.to_owned()).collect(),
            mask_phones: false,
        }
    }

    fn clients() -> Clients {
        let configs = [
            config("crm", &["outbound", "config"], &["*"]),
            config("bi", &["subscribe"], &["second"]),
        ];
        Clients::new(&configs, vec!["first".into(), "second".into()]).unwrap()
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
        let clients = Clients::new(&[], vec!["first".into()]).unwrap();
        let caller = clients.authorize(&metadata(&[]), Group::Admin).unwrap();
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
            let known = clients.authorize(&metadata(pairs.as_slice()), Group::Outbound);
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
            clients.authorize(&bi, Group::Outbound),
            Err(AuthError::RpcForbidden {
                group: "outbound",
                ..
            })
        ));
        let caller = clients.authorize(&bi, Group::Subscribe).unwrap();
        assert!(matches!(
            clients.account(&caller, &bi),
            Err(AuthError::AccountForbidden { .. })
        ));
        let second = metadata(&[("yeta-account", "second")]);
        assert_eq!(clients.account(&caller, &second), Ok("second"));
        assert!(caller.may_use("second") && !caller.may_use("first"));
    }

    #[test]
    fn every_fault_of_the_clients_is_reported_with_its_key() {
        let mut bad = config("crm", &["everything"], &["third"]);
        bad.token_sha256 = Some("beef".into());
        let mut worse = config("crm", &[], &[]);
        worse.tls_san = Some("crm.svc".into());
        worse.token_sha256 = None;
        let faults = Clients::new(&[bad, worse], vec!["first".into()]).unwrap_err();
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
        for key in [
            "clients[0].token_sha256",
            "clients[0].allow",
            "clients[0].accounts",
            "clients[1].tls_san",
            "clients[1].token_sha256",
            "clients[1].name",
        ] {
            assert!(keys.contains(&key), "{key} not in {keys:?}");
        }
    }
}
