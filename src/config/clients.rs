//! `[[clients]]` and `[[accounts]]`: who may call, and as whom the gateway calls the platform.

use std::collections::HashSet;
use std::path::PathBuf;

use http::Uri;
use sha2::{Digest as _, Sha256};

use super::reader::{Section, Setting};
use crate::account::Account;
use crate::provider::is_loopback;
use crate::secret::{Rule, Secret};
use crate::tls::ClientFiles;

/// `[[clients]]`: a service that may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// The name in logs, metrics and submissions.
    pub name: String,
    /// The SHA-256 of its bearer tokens: one, or during a rotation two.
    pub token_sha256: Vec<[u8; 32]>,
    /// DNS names of its certificate in lower case, and URI names as they are.
    pub tls_san: Vec<String>,
    /// The service account of its pods.
    pub kubernetes: Option<ServiceAccount>,
    /// The rights that it has.
    pub allow: Vec<Permission>,
    /// The accounts that it may use; `*` among them: all.
    pub accounts: Vec<String>,
    /// The names of subscriptions that it may use, with `*` for any characters; empty: all.
    pub subscriptions: Vec<String>,
    /// Whether phone numbers in what it receives are masked.
    pub mask_phones: bool,
    /// The maximum number of its requests in a second; 0: no bound.
    pub max_requests_per_second: u32,
    /// The maximum number of rows that it submits in a day of China's calendar; 0: no bound.
    pub max_rows_per_day: u64,
    /// The maximum number of its open streams; 0: no bound.
    pub max_streams: usize,
    /// Whether it is let in at all.
    pub enabled: bool,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            name: String::new(),
            token_sha256: Vec::new(),
            tls_san: Vec::new(),
            kubernetes: None,
            allow: Vec::new(),
            accounts: Vec::new(),
            subscriptions: Vec::new(),
            mask_phones: false,
            max_requests_per_second: 0,
            max_rows_per_day: 0,
            max_streams: 0,
            enabled: true,
        }
    }
}

/// A service account of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
}

/// A right of a client: a group of RPCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// All of `OutboundService`, settling aside.
    Outbound,
    /// `ConfigService`
    Config,
    /// All of pushes and subscriptions.
    Subscribe,
    /// `CallService`
    Calls,
    /// `VoiceService`
    Voice,
    /// What changes the work of others: settling, backfills, the gateway's own subscriptions.
    Admin,
    /// Submitting rows and creating tasks.
    Place,
    /// Starting, pausing, deleting and querying tasks.
    Tasks,
    /// Reading submissions.
    Submissions,
    /// Reading pushes, and using a subscription: join, ack, nack.
    Consume,
    /// Creating, changing, deleting, moving and redriving subscriptions.
    Subscriptions,
}

impl Permission {
    /// Every right.
    pub const ALL: [Self; 11] = [
        Self::Outbound,
        Self::Config,
        Self::Subscribe,
        Self::Calls,
        Self::Voice,
        Self::Admin,
        Self::Place,
        Self::Tasks,
        Self::Submissions,
        Self::Consume,
        Self::Subscriptions,
    ];

    /// The right's name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Config => "config",
            Self::Subscribe => "subscribe",
            Self::Calls => "calls",
            Self::Voice => "voice",
            Self::Admin => "admin",
            Self::Place => "place",
            Self::Tasks => "tasks",
            Self::Submissions => "submissions",
            Self::Consume => "consume",
            Self::Subscriptions => "subscriptions",
        }
    }

    /// The finer rights that this one includes.
    pub fn includes(self) -> &'static [Self] {
        match self {
            Self::Outbound => &[Self::Place, Self::Tasks, Self::Submissions],
            Self::Subscribe => &[Self::Consume, Self::Subscriptions],
            _ => &[],
        }
    }
}

impl Setting for Permission {
    const EXPECTED: &'static str = "one of outbound, config, subscribe, calls, voice, admin, \
                                    place, tasks, submissions, consume, subscriptions";

    fn read(value: &toml::Value) -> Option<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|right| right.name() == name)
    }
}

/// The hash of a token.
struct TokenHash([u8; 32]);

impl Setting for TokenHash {
    const EXPECTED: &'static str = "64 hexadecimal digits";

    fn read(value: &toml::Value) -> Option<Self> {
        decode_sha256(value.as_str()?).map(Self)
    }
}

/// The most tokens of one client: the old and the new one.
const MAX_TOKENS: usize = 2;

impl Client {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let name = section.get("name", String::new());
        if name.is_empty() {
            section.fault("name", "missing");
        }
        Self {
            name,
            token_sha256: read_tokens(section),
            tls_san: read_names(section),
            kubernetes: section
                .has("kubernetes")
                .then(|| section.section("kubernetes", ServiceAccount::read)),
            allow: section.get("allow", Vec::new()),
            accounts: section.get("accounts", Vec::new()),
            subscriptions: section.get("subscriptions", Vec::new()),
            mask_phones: section.get("mask_phones", false),
            max_requests_per_second: section.get("max_requests_per_second", 0),
            max_rows_per_day: section.get("max_rows_per_day", 0),
            max_streams: section.get("max_streams", 0),
            enabled: section.get("enabled", true),
        }
    }
}

/// Reads the names of certificates. DNS names are compared without regard to case, URIs exactly.
fn read_names(section: &mut Section<'_>) -> Vec<String> {
    let names: Vec<String> = section.get("tls_san", Vec::new());
    if names.iter().any(String::is_empty) {
        section.fault("tls_san", "empty");
    }
    let normal = |name: String| {
        if is_uri(&name) {
            name
        } else {
            name.to_ascii_lowercase()
        }
    };
    names.into_iter().map(normal).collect()
}

/// Whether a name of a certificate is a URI: only those have a colon.
pub(crate) fn is_uri(name: &str) -> bool {
    name.contains(':')
}

/// Reads the hashes of tokens; a client without any credential is a fault of this setting.
fn read_tokens(section: &mut Section<'_>) -> Vec<[u8; 32]> {
    if !["token_sha256", "tls_san", "kubernetes"]
        .iter()
        .any(|key| section.has(key))
    {
        section.fault("token_sha256", "missing: give it, tls_san or kubernetes");
        return Vec::new();
    }
    let hashes = section.optional::<Vec<TokenHash>>("token_sha256");
    if hashes.as_ref().is_some_and(Vec::is_empty) {
        section.fault("token_sha256", "empty: give the hash of the client's token");
    }
    let hashes = hashes.unwrap_or_default();
    let hashes: Vec<_> = hashes.into_iter().map(|hash| hash.0).collect();
    if hashes.len() > MAX_TOKENS {
        let problem = format!("{} hashes, more than {MAX_TOKENS}", hashes.len());
        section.fault("token_sha256", problem);
    }
    let empty: [u8; 32] = Sha256::digest(b"").into();
    if hashes.contains(&empty) {
        section.fault("token_sha256", "the hash of an empty token");
    }
    hashes
}

impl ServiceAccount {
    fn read(section: &mut Section<'_>) -> Self {
        let account = Self {
            namespace: section.get("namespace", String::new()),
            service_account: section.get("service_account", String::new()),
        };
        for (key, value) in [
            ("namespace", &account.namespace),
            ("service_account", &account.service_account),
        ] {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
            if value.is_empty() || !value.chars().all(is_name) {
                section.fault(key, "not a name of letters, digits, '-' and '.'");
            }
        }
        account
    }

    /// The `sub` claim of its tokens.
    pub fn subject(&self) -> String {
        let Self {
            namespace,
            service_account,
        } = self;
        format!("system:serviceaccount:{namespace}:{service_account}")
    }
}

/// `[auth.kubernetes]`: how tokens of service accounts are verified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kubernetes {
    /// The `iss` claim.
    pub issuer: String,
    /// A value of the `aud` claim.
    pub audience: String,
    /// Where the keys are.
    pub keys: Option<Keys>,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// A JWKS file.
    File(PathBuf),
    /// An address that serves a JWKS.
    Url {
        /// The address.
        url: Uri,
        /// The authority of its certificate; none: the web's.
        ca_file: Option<PathBuf>,
        /// A bearer token for it; read at each request.
        token_file: Option<PathBuf>,
    },
}

impl Kubernetes {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let file = section
            .optional::<String>("jwks_file")
            .filter(|file| !file.is_empty());
        let url = section
            .optional::<String>("jwks_url")
            .filter(|url| !url.is_empty());
        let mut path = |key: &str| {
            let path = section.optional::<String>(key);
            path.filter(|path| !path.is_empty()).map(PathBuf::from)
        };
        let (ca_file, token_file) = (path("ca_file"), path("token_file"));
        let keys = match (file, url) {
            (None, None) => None,
            (Some(file), None) => Some(Keys::File(file.into())),
            (None, Some(url)) => {
                let url = Uri::read(&toml::Value::String(url));
                if url.is_none() {
                    section.fault("jwks_url", format!("expected {}", Uri::EXPECTED));
                }
                url.map(|url| read_url(section, url, ca_file, token_file))
            }
            (Some(_), Some(_)) => {
                section.fault("jwks_url", "given twice: also as jwks_file");
                None
            }
        };
        Self {
            issuer: section.get("issuer", "https://kubernetes.default.svc".into()),
            audience: section.get("audience", "yeta-gateway".into()),
            keys,
        }
    }
}

/// Checks the files beside an address.
fn read_url(
    section: &mut Section<'_>,
    url: Uri,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
) -> Keys {
    let is_tls = url.scheme_str() == Some("https");
    if let Some(path) = &ca_file {
        let files = ClientFiles {
            ca_file: Some(path.clone()),
            identity: None,
        };
        if !is_tls {
            section.fault("ca_file", "certificates belong to an https address alone");
        } else if let Err(error) = files.read() {
            section.fault("ca_file", error.to_string());
        }
    }
    if let Some(path) = &token_file {
        if !is_tls && !is_loopback(&url) {
            let problem = "a token is sent to an https or a loopback address alone";
            section.fault("token_file", problem);
        } else if let Err(error) = Secret::file(path, Rule::Token).read() {
            section.fault("token_file", error.to_string());
        }
    }
    Keys::Url {
        url,
        ca_file,
        token_file,
    }
}

impl Keys {
    /// Whether others on the way can replace the keys.
    pub(super) fn are_exposed(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Url { url, .. } => url.scheme_str() != Some("https") && !is_loopback(url),
        }
    }
}

/// Checks what clients must not share, and what they refer to.
pub(super) fn check(
    clients: &[Client],
    accounts: &HashSet<&String>,
    kubernetes: &Kubernetes,
    verifies_certificates: bool,
    root: &mut Section<'_>,
) {
    let (mut names, mut credentials) = (HashSet::new(), HashSet::new());
    for (i, client) in clients.iter().enumerate() {
        if !names.insert(&client.name) {
            let problem = format!("{:?} is another client's name already", client.name);
            root.fault(&format!("clients[{i}].name"), problem);
        }
        for account in client.accounts.iter().filter(|name| *name != "*") {
            if !accounts.contains(account) {
                let problem = format!("there is no account named {account:?}");
                root.fault(&format!("clients[{i}].accounts"), problem);
            }
        }
        for (key, credential) in client.credentials() {
            if !credentials.insert(credential) {
                root.fault(&format!("clients[{i}].{key}"), "another client has it, too");
            }
        }
        if !client.tls_san.is_empty() && !verifies_certificates {
            let problem = "needs grpc.tls.client_ca_file";
            root.fault(&format!("clients[{i}].tls_san"), problem);
        }
        if client.kubernetes.is_some() && kubernetes.keys.is_none() {
            let problem = "needs auth.kubernetes.jwks_file or auth.kubernetes.jwks_url";
            root.fault(&format!("clients[{i}].kubernetes"), problem);
        }
    }
}

impl Client {
    /// Its credentials, each with the setting that it is of.
    fn credentials(&self) -> impl Iterator<Item = (&'static str, Credential)> {
        let hashes: HashSet<_> = self.token_sha256.iter().copied().collect();
        let names: HashSet<_> = self.tls_san.iter().cloned().collect();
        let hashes = hashes.into_iter().map(Credential::Token);
        let account = self.kubernetes.clone().map(Credential::Kubernetes);
        hashes
            .map(|hash| ("token_sha256", hash))
            .chain(names.into_iter().map(|it| ("tls_san", Credential::San(it))))
            .chain(account.map(|account| ("kubernetes", account)))
    }
}

/// What only one client may have.
#[derive(PartialEq, Eq, Hash)]
enum Credential {
    Token([u8; 32]),
    San(String),
    Kubernetes(ServiceAccount),
}

fn decode_sha256(hex: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if hex.len() != 2 * hash.len() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(hash)
}

pub(super) fn read_account(section: &mut Section<'_>) -> Account {
    let name = section.get("name", "default".to_owned());
    let is_segment = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(is_segment) {
        section.fault(
            "name",
            format!("{name:?} is not made of letters, digits, '-', '_', '.'"),
        );
    }
    Account {
        name,
        app_key: read_secret(section, "app_key"),
        app_secret: read_secret(section, "app_secret"),
        push_secret: read_push_secret(section),
        allow_push_from: section.get("allow_push_from", Vec::new()),
        enabled: section.get("enabled", true),
    }
}

/// Reads the push secrets: one or several, all inline or all in files.
fn read_push_secret(section: &mut Section<'_>) -> Secret {
    const NAME: &str = "push_secret";
    const FILE: &str = "push_secret_file";
    let inline = section.optional_secrets(NAME);
    let files = section.optional::<Vec<PathBuf>>(FILE);
    match (inline, files) {
        (Some(_), Some(_)) => section.fault(NAME, format!("given twice: also as {FILE}")),
        (Some(values), None) if !values.is_empty() => {
            for value in &values {
                if let Err(problem) = Rule::PushSecret.check(value) {
                    section.fault(NAME, problem);
                }
            }
            return Secret::any_of(values.into_iter().map(Secret::inline));
        }
        (None, Some(paths)) if !paths.is_empty() => {
            let files = paths.into_iter().map(|path| {
                let secret = Secret::file(path, Rule::PushSecret);
                if let Err(error) = secret.read() {
                    section.fault(FILE, error.to_string());
                }
                secret
            });
            return Secret::any_of(files.collect::<Vec<_>>());
        }
        (Some(_), None) => section.fault(NAME, "empty"),
        (None, Some(_)) => section.fault(FILE, "empty"),
        (None, None) => section.fault(NAME, format!("missing: give it, or {FILE}")),
    }
    Secret::inline("")
}

/// Reads a secret that stands inline or, as `NAME_file`, in a file.
fn read_secret(section: &mut Section<'_>, name: &str) -> Secret {
    optional_secret(section, name).unwrap_or_else(|| {
        section.fault(name, format!("missing: give it, or {name}_file"));
        Secret::inline("")
    })
}

/// Reads a secret like [`read_secret`] that need not be there.
pub(super) fn optional_secret(section: &mut Section<'_>, name: &str) -> Option<Secret> {
    let file_name = format!("{name}_file");
    let inline = section.optional_secret(name);
    let file = section.optional::<PathBuf>(&file_name);
    Some(match (inline, file) {
        (Some(_), Some(_)) => {
            section.fault(name, format!("given twice: also as {file_name}"));
            Secret::inline("")
        }
        (Some(secret), None) => {
            if secret.is_empty() {
                section.fault(name, "empty");
            }
            Secret::inline(secret)
        }
        (None, Some(path)) => {
            let secret = Secret::file(path, Rule::Any);
            if let Err(error) = secret.read() {
                section.fault(&file_name, error.to_string());
            }
            secret
        }
        (None, None) => return None,
    })
}
