//! The configuration: what can be set, its defaults, and what is wrong with it.
//!
//! `config.default.toml` is its documentation, and a test holds the two together.

mod env;
mod reader;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use toml::Table;

pub use self::reader::Fault;
use self::reader::Section;
use crate::account::Account;
use crate::secret::Secret;

/// The commented default configuration.
pub const DEFAULT_FILE: &str = include_str!("../config.default.toml");

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gRPC listener.
    pub grpc: Grpc,
    /// The listener for what the platform pushes.
    pub push: Push,
    /// The listener for probes and metrics.
    pub admin: Admin,
    /// The platform and how it is called.
    pub platform: Platform,
    /// The accounts, the default one first.
    pub accounts: Vec<Account>,
    /// The log of pushes.
    pub store: Store,
    /// What a ringing caller's question is answered with.
    pub dialog_context: DialogContext,
    /// Who may call; none: anybody who can connect.
    pub clients: Vec<Client>,
    /// What is logged, and how.
    pub log: Log,
    /// How long calls in flight may take to finish once the gateway is told to stop.
    pub shutdown_grace: Duration,
}

/// `[grpc]`
#[derive(Clone, Debug, PartialEq)]
pub struct Grpc {
    /// Where services connect.
    pub listen: SocketAddr,
    /// Whether to listen beyond loopback without knowing the clients.
    pub insecure: bool,
    /// How many requests are served at once; more are refused with `OVERLOADED`.
    pub max_concurrent_requests: usize,
    /// How many bytes one request message may have.
    pub max_request_bytes: usize,
}

/// `[push]`
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// Where the platform connects.
    pub listen: SocketAddr,
    /// How many bytes one push may have; a larger one is refused with 413.
    pub max_body_bytes: usize,
    /// How many bytes of bodies are held at once; more wait.
    pub max_buffered_bytes: usize,
    /// How long storing may take before the push is refused with 503.
    pub append_timeout: Duration,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where probes and metrics are served.
    pub listen: SocketAddr,
}

/// `[platform]`
#[derive(Clone, Debug, PartialEq)]
pub struct Platform {
    /// Scheme and host of the API.
    pub base_url: Uri,
    /// What stands before each operation's path.
    pub path_prefix: String,
    /// What relative addresses of recordings are relative to.
    pub voice_base_url: Uri,
    /// What addresses of failed-push files are relative to.
    pub push_download_url: Uri,
    /// How long one try may take, all in all.
    pub request_timeout: Duration,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept; shorter than the platform keeps it.
    pub pool_idle_timeout: Duration,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// The folder of the log.
    pub path: PathBuf,
    /// How long a push is kept.
    pub retention: Duration,
    /// How many bytes of pushes are kept at most; 0: no bound.
    pub retention_bytes: u64,
}

/// `[dialog_context]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DialogContext {
    /// What every question is answered with.
    pub fallback: BTreeMap<String, String>,
}

/// `[[clients]]`: a service that may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Its name in logs and metrics.
    pub name: String,
    /// The SHA-256 of its bearer token.
    pub token_sha256: [u8; 32],
    /// The groups of operations that it may call.
    pub allow: Vec<Permission>,
    /// The accounts that it may use; `*` among them: all.
    pub accounts: Vec<String>,
}

/// A group of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// `OutboundService`
    Outbound,
    /// `ConfigService`
    Config,
    /// Reading pushes.
    Subscribe,
    /// `CallService`
    Calls,
    /// `VoiceService`
    Voice,
    /// Changing what others rely on.
    Admin,
}

impl Permission {
    /// Every group.
    pub const ALL: [Self; 6] = [
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

impl reader::Setting for Permission {
    const EXPECTED: &'static str = "one of outbound, config, subscribe, calls, voice, admin";

    fn read(value: &toml::Value) -> Option<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|group| group.name() == name)
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Which lines are written, as `info` or `info,yeta_gateway::platform=debug`.
    pub filter: String,
    /// In which form.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl reader::Setting for LogFormat {
    const EXPECTED: &'static str = "one of auto, human, json";

    fn read(value: &toml::Value) -> Option<Self> {
        Some(match value.as_str()? {
            "auto" => Self::Auto,
            "human" => Self::Human,
            "json" => Self::Json,
            _ => return None,
        })
    }
}

impl Config {
    /// Reads the file, if one is given, and this process's environment.
    pub fn load(file: Option<&Path>) -> Result<Self, Vec<Fault>> {
        let text = match file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                vec![Fault {
                    key: path.display().to_string(),
                    problem: error.to_string(),
                }]
            })?,
        };
        Self::parse(&text, std::env::vars())
    }

    /// Reads a file's text and variables of an environment; on failure, tells every fault.
    pub fn parse(
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
            // The message alone: the error's own display quotes the line, which may be a secret.
            let line = error
                .span()
                .map(|span| text[..span.start].matches('\n').count() + 1);
            let key = line.map_or_else(|| "file".into(), |line| format!("line {line}"));
            vec![Fault {
                key,
                problem: error.message().to_owned(),
            }]
        })?;
        env::overlay(&mut table, environment, &mut faults);
        let config = Section::root(table, &mut faults).read_whole(Self::read);
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(faults)
        }
    }

    fn read(root: &mut Section<'_>) -> Self {
        let clients = root.sections("clients", Client::read);
        let config = Self {
            grpc: root.section("grpc", |s| Grpc::read(s, !clients.is_empty())),
            push: root.section("push", Push::read),
            admin: root.section("admin", |s| Admin {
                listen: s.get("listen", SocketAddr::from(([127, 0, 0, 1], 9090))),
            }),
            platform: root.section("platform", Platform::read),
            accounts: root.sections("accounts", read_account),
            store: root.section("store", Store::read),
            dialog_context: root.section("dialog_context", DialogContext::read),
            log: root.section("log", |s| Log {
                filter: s.get("filter", "info".into()),
                format: s.get("format", LogFormat::Auto),
            }),
            shutdown_grace: root.get("shutdown_grace", Duration::from_secs(25)),
            clients,
        };
        config.check_names(root);
        config
    }

    /// Checks what no section can check alone.
    fn check_names(&self, root: &mut Section<'_>) {
        let mut names = HashSet::new();
        for (i, account) in self.accounts.iter().enumerate() {
            if !names.insert(&account.name) {
                let problem = format!("{:?} is another account's name already", account.name);
                root.fault(&format!("accounts[{i}].name"), problem);
            }
        }
        let mut clients = HashSet::new();
        for (i, client) in self.clients.iter().enumerate() {
            if !clients.insert(&client.name) {
                let problem = format!("{:?} is another client's name already", client.name);
                root.fault(&format!("clients[{i}].name"), problem);
            }
            for account in client.accounts.iter().filter(|name| *name != "*") {
                if !names.contains(account) {
                    let problem = format!("there is no account named {account:?}");
                    root.fault(&format!("clients[{i}].accounts"), problem);
                }
            }
        }
    }
}

impl Grpc {
    fn read(section: &mut Section<'_>, knows_clients: bool) -> Self {
        let grpc = Self {
            listen: section.get("listen", SocketAddr::from(([127, 0, 0, 1], 50051))),
            insecure: section.get("insecure", false),
            max_concurrent_requests: section.get("max_concurrent_requests", 4096),
            max_request_bytes: section.get("max_request_bytes", 4 << 20),
        };
        if !grpc.listen.ip().is_loopback() && !knows_clients && !grpc.insecure {
            let problem = format!(
                "{} can be reached from other machines: name the [[clients]] that may call, \
                 or set grpc.insecure = true",
                grpc.listen
            );
            section.fault("listen", problem);
        }
        grpc
    }
}

impl Push {
    fn read(section: &mut Section<'_>) -> Self {
        let push = Self {
            listen: section.get("listen", SocketAddr::from(([127, 0, 0, 1], 8080))),
            max_body_bytes: section.get("max_body_bytes", 8 << 20),
            max_buffered_bytes: section.get("max_buffered_bytes", 256 << 20),
            append_timeout: section.get("append_timeout", Duration::from_millis(2500)),
        };
        if push.max_buffered_bytes < push.max_body_bytes {
            let problem = format!(
                "{} is less than push.max_body_bytes, {}",
                push.max_buffered_bytes, push.max_body_bytes
            );
            section.fault("max_buffered_bytes", problem);
        }
        push
    }
}

impl Platform {
    fn read(section: &mut Section<'_>) -> Self {
        let uri = Uri::from_static;
        let platform = Self {
            base_url: section.get("base_url", uri("https://www.xfyeta.com")),
            path_prefix: section.get("path_prefix", "/openapi".into()),
            voice_base_url: section.get("voice_base_url", uri("http://voice.kxjlcc.com:9000/")),
            push_download_url: section.get(
                "push_download_url",
                uri("https://www.xfyeta.com/push_download/"),
            ),
            request_timeout: section.get("request_timeout", Duration::from_secs(10)),
            connect_timeout: section.get("connect_timeout", Duration::from_secs(3)),
            pool_idle_timeout: section.get("pool_idle_timeout", Duration::from_secs(10)),
        };
        if !platform.path_prefix.is_empty() && !platform.path_prefix.starts_with('/') {
            section.fault(
                "path_prefix",
                format!("{:?} does not begin with /", platform.path_prefix),
            );
        }
        platform
    }
}

impl Store {
    fn read(section: &mut Section<'_>) -> Self {
        let engine: String = section.get("engine", "embedded".into());
        if engine != "embedded" {
            section.fault("engine", format!("{engine:?} is not one of: embedded"));
        }
        // Settings of an engine that is still to come: known, so that files for it can be shared.
        section.section("nats", |nats| {
            nats.optional::<String>("url");
            nats.optional::<u64>("replicas");
            nats.optional::<String>("durability");
        });
        Self {
            path: section.get("path", "./data".into()),
            retention: section.get("retention", Duration::from_hours(7 * 24)),
            retention_bytes: section.get("retention_bytes", 0),
        }
    }
}

impl DialogContext {
    fn read(section: &mut Section<'_>) -> Self {
        let endpoint: String = section.get("endpoint", String::new());
        if !endpoint.is_empty() {
            section.fault(
                "endpoint",
                "asking a provider is not supported by this version",
            );
        }
        section.optional::<Duration>("timeout");
        let fallback = section.texts("fallback");
        Self {
            fallback: fallback.into_iter().collect(),
        }
    }
}

impl Client {
    fn read(section: &mut Section<'_>) -> Self {
        if !section.get("tls_san", String::new()).is_empty() {
            section.fault("tls_san", "TLS is not supported by this version");
        }
        if section.get("mask_phones", false) {
            section.fault("mask_phones", "masking is not supported by this version");
        }
        let name = section.get("name", String::new());
        if name.is_empty() {
            section.fault("name", "missing");
        }
        let hash = section.optional::<String>("token_sha256");
        let token_sha256 = hash.as_deref().and_then(decode_sha256);
        if token_sha256.is_none() {
            let problem = if hash.is_none() {
                "missing"
            } else {
                "expected 64 hexadecimal digits"
            };
            section.fault("token_sha256", problem);
        }
        Self {
            name,
            token_sha256: token_sha256.unwrap_or_default(),
            allow: section.get("allow", Vec::new()),
            accounts: section.get("accounts", Vec::new()),
        }
    }
}

fn decode_sha256(hex: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if hex.len() != 2 * hash.len() || !hex.is_ascii() {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(hash)
}

fn read_account(section: &mut Section<'_>) -> Account {
    let name = section.get("name", "default".to_owned());
    let is_segment = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(is_segment) {
        section.fault(
            "name",
            format!("{name:?} is not made of letters, digits, '-', '_', '.'"),
        );
    }
    let account = Account {
        name,
        app_key: read_secret(section, "app_key"),
        app_secret: read_secret(section, "app_secret"),
        push_secret: read_secret(section, "push_secret"),
        allow_push_from: section.get("allow_push_from", Vec::new()),
    };
    if let Ok(secret) = account.push_secret.read() {
        use secrecy::ExposeSecret;
        if !secret
            .expose_secret()
            .chars()
            .all(|c| is_segment(c) || c == '~')
        {
            section.fault(
                "push_secret",
                "not made of letters, digits, '-', '_', '.', '~'",
            );
        }
    }
    account
}

/// Reads a secret that stands inline or, as `NAME_file`, in a file.
fn read_secret(section: &mut Section<'_>, name: &str) -> Secret {
    let file_name = format!("{name}_file");
    let inline = section.optional_secret(name);
    let file = section.optional::<PathBuf>(&file_name);
    match (inline, file) {
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
            let secret = Secret::file(path);
            if let Err(error) = secret.read() {
                section.fault(&file_name, error.to_string());
            }
            secret
        }
        (None, None) => {
            section.fault(name, format!("missing: give it, or {file_name}"));
            Secret::inline("")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "[[accounts]]\napp_key = 'k'\napp_secret = 's'\npush_secret = 'p'\n";

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        parse_with(text, &[])
    }

    fn parse_with(text: &str, env: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(text, env).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_default_file_says_what_the_defaults_are() {
        let from_file = parse(DEFAULT_FILE).unwrap();
        let built_in = parse("").unwrap();
        assert_eq!(format!("{from_file:#?}"), format!("{built_in:#?}"));
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_key() {
        let faults = parse(
            "[grpc]\nlisten = 'nowhere'\nspeed = 3\n[push]\nmax_body_bytes = -1\n\
             [store]\nengine = 'tape'\nretention = 7\n[[accounts]]\nname = 'a/b'\napp_key = 5\n\
             [[clients]]\nallow = ['fly']\ntoken_sha256 = 'short'\n",
        )
        .unwrap_err();
        for key in [
            "grpc.listen",
            "grpc.speed",
            "push.max_body_bytes",
            "store.engine",
            "store.retention",
            "accounts[0].name",
            "accounts[0].app_key",
            "accounts[0].app_secret",
            "accounts[0].push_secret",
            "clients[0].name",
            "clients[0].allow",
            "clients[0].token_sha256",
        ] {
            let told = faults
                .iter()
                .any(|fault| fault.starts_with(&format!("{key}: ")));
            assert!(told, "{key} is not among {faults:#?}");
        }
    }

    #[test]
    fn no_fault_shows_a_secret() {
        let text =
            format!("{ACCOUNT}app_key_file = '/none'\n[[accounts]]\npush_secret = 'a b&c'\n");
        let faults = parse(&text).unwrap_err().join("\n");
        assert!(!faults.contains("a b&c"), "{faults}");
        let faults = parse("[[accounts]]\napp_secret = hush\n")
            .unwrap_err()
            .join("\n");
        assert!(!faults.contains("hush"), "{faults}");
    }

    #[test]
    fn a_listener_for_everybody_needs_clients_or_a_word_of_consent() {
        let open = "[grpc]\nlisten = '0.0.0.0:50051'\n";
        assert!(parse(open).is_err());
        assert!(parse(&format!("{open}insecure = true\n")).is_ok());
        let client = format!(
            "{open}[[clients]]\nname = 'crm'\ntoken_sha256 = '{}'\n",
            "0".repeat(64)
        );
        assert!(parse(&client).is_ok());
    }

    #[test]
    fn the_environment_overrides_the_file_and_can_stand_alone() {
        let config = parse_with(
            "[grpc]\nlisten = '127.0.0.1:1'\n",
            &[
                ("YETA_GATEWAY__GRPC__LISTEN", "127.0.0.1:2"),
                ("YETA_GATEWAY__ACCOUNTS__0__APP_KEY", "k"),
                ("YETA_GATEWAY__ACCOUNTS__0__APP_SECRET", "s"),
                ("YETA_GATEWAY__ACCOUNTS__0__PUSH_SECRET", "p"),
                (
                    "YETA_GATEWAY__ACCOUNTS__0__ALLOW_PUSH_FROM",
                    "10.0.0.0/8, 127.0.0.1",
                ),
                ("YETA_GATEWAY__PUSH__MAX_BODY_BYTES", "1000"),
                ("YETA_GATEWAY_BIN", "not ours"),
            ],
        )
        .unwrap();
        assert_eq!(config.grpc.listen.port(), 2);
        assert_eq!(config.accounts[0].name, "default");
        assert_eq!(config.accounts[0].allow_push_from.len(), 2);
        assert_eq!(config.push.max_body_bytes, 1000);
        let faults = parse_with("", &[("YETA_GATEWAY__GRPC__LISEN", "x")]).unwrap_err();
        assert_eq!(faults, ["grpc.lisen: unknown key"]);
    }

    #[test]
    fn accounts_have_names_of_their_own() {
        let faults = parse(&ACCOUNT.repeat(2)).unwrap_err();
        assert_eq!(
            faults,
            [r#"accounts[1].name: "default" is another account's name already"#]
        );
    }
}
