//! The configuration: what can be set, its defaults, and what is wrong with it.
//!
//! `config.default.toml` is its documentation, and a test holds the two together.

mod clients;
mod dialog_context;
mod env;
mod reader;
mod sections;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Table;

pub(crate) use self::clients::is_uri;
pub use self::clients::{Client, Keys, Kubernetes, Permission, ServiceAccount};
use self::reader::Section;
pub use self::reader::{Fault, Percent};
pub use self::sections::{
    Admin, Backfill, Calls, Grpc, Log, LogFormat, Platform, Push, Reconciliation, S3, Store,
    Submissions, Subscriptions, Voice,
};
use crate::account::Account;
use crate::provider;

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
    /// Durable subscriptions.
    pub subscriptions: Subscriptions,
    /// How calls are put together from their pushes.
    pub calls: Calls,
    /// Request ids and uploads.
    pub submissions: Submissions,
    /// Where recordings are kept.
    pub voice: Voice,
    /// Failed-push files.
    pub backfill: Backfill,
    /// Rows of which no call record has come.
    pub reconciliation: Reconciliation,
    /// Who answers what the platform asks during a call, and what is answered in its place.
    pub dialog_context: provider::Options,
    /// Who may call; none: anybody who can connect.
    pub clients: Vec<Client>,
    /// How tokens of Kubernetes service accounts are verified.
    pub kubernetes: Kubernetes,
    /// What is logged, and how.
    pub log: Log,
    /// How many bytes of memory the bounds may allow in sum; 0: three quarters of the limit of the
    /// control group, if there is one.
    pub memory_budget: u64,
    /// How long calls in flight may take to finish once the gateway is told to stop.
    pub shutdown_grace: Duration,
    /// The file that this was read from, if it was one.
    pub file: Option<PathBuf>,
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
        Ok(Self {
            file: file.map(Path::to_owned),
            ..Self::parse(&text, std::env::vars())?
        })
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
        let store = root.section("store", Store::read);
        let config = Self {
            grpc: root.section("grpc", |s| Grpc::read(s, !clients.is_empty())),
            push: root.section("push", Push::read),
            admin: root.section("admin", |s| Admin {
                listen: s.get("listen", SocketAddr::from(([127, 0, 0, 1], 9090))),
            }),
            platform: root.section("platform", Platform::read),
            accounts: root.sections("accounts", clients::read_account),
            voice: root.section("voice", |s| Voice::read(s, store.retention)),
            store,
            subscriptions: root.section("subscriptions", Subscriptions::read),
            calls: root.section("calls", |s| Calls {
                wait: s.duration("wait", Duration::from_mins(10), Duration::from_secs(1)),
            }),
            submissions: root.section("submissions", Submissions::read),
            backfill: root.section("backfill", Backfill::read),
            reconciliation: root.section("reconciliation", Reconciliation::read),
            dialog_context: root.section("dialog_context", dialog_context::read),
            log: root.section("log", |s| Log {
                filter: s.get("filter", "info,fjall=warn,lsm_tree=warn".into()),
                format: s.get("format", LogFormat::Auto),
            }),
            shutdown_grace: root.duration(
                "shutdown_grace",
                Duration::from_secs(25),
                Duration::from_secs(1),
            ),
            memory_budget: root.get("memory_budget", 0),
            clients,
            kubernetes: root.section("auth", |s| s.section("kubernetes", Kubernetes::read)),
            file: None,
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
        for (i, other) in self.dialog_context.overrides.iter().enumerate() {
            let account = other.account.as_ref();
            if let Some(account) = account.filter(|name| !names.contains(name)) {
                let problem = format!("there is no account named {account:?}");
                root.fault(&format!("dialog_context.overrides[{i}].account"), problem);
            }
        }
        let keys = self.kubernetes.keys.as_ref();
        if keys.is_some_and(Keys::are_exposed) && !self.grpc.insecure {
            let problem = "others on the way can replace keys that come over plain http: use https, \
                           a loopback address, or set grpc.insecure = true";
            root.fault("auth.kubernetes.jwks_url", problem);
        }
        let tls = self.grpc.tls.as_ref();
        let verifies_certificates = tls.is_some_and(|tls| tls.client_ca_file.is_some());
        let kubernetes = &self.kubernetes;
        clients::check(
            &self.clients,
            &names,
            kubernetes,
            verifies_certificates,
            root,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str =
        "[[accounts]]\napp_key = 'k'\napp_secret = 's'\npush_secret = 'p-0123456789abcdef'\n";

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
    fn every_value_out_of_its_bounds_is_reported_with_the_value() {
        let too_small = [
            ("shutdown_grace", "'0s'", "0s is shorter than 1s"),
            ("grpc.max_concurrent_requests", "0", "0 is not between"),
            ("grpc.max_request_bytes", "1000", "1000 is not between"),
            ("grpc.max_buffered_bytes", "1000", "1000 is less than"),
            ("grpc.message_timeout", "'0s'", "0s is shorter than 100ms"),
            ("grpc.max_connections", "0", "0 is not between"),
            ("grpc.max_connection_age", "'1ms'", "neither 0s nor"),
            ("grpc.max_streams", "0", "0 is not between"),
            (
                "grpc.slow_consumer_timeout",
                "'0s'",
                "0s is shorter than 100ms",
            ),
            ("push.max_body_bytes", "0", "0 is not between"),
            ("push.append_timeout", "'0s'", "0s is shorter than 100ms"),
            ("push.max_connections", "15", "15 is not between 16 and"),
            (
                "push.header_timeout",
                "'99ms'",
                "99ms is shorter than 100ms",
            ),
            (
                "platform.request_timeout",
                "'99ms'",
                "99ms is shorter than 100ms",
            ),
            (
                "platform.connect_timeout",
                "'0s'",
                "0s is shorter than 100ms",
            ),
            (
                "platform.pool_idle_timeout",
                "'0s'",
                "0s is shorter than 1s",
            ),
            ("store.retention", "'59s'", "59s is shorter than 1m"),
            (
                "store.retention_bytes",
                "1",
                "1 is neither 0 nor at least 1048576",
            ),
            ("subscriptions.max", "0", "0 is not between 1 and"),
            ("subscriptions.stuck_after", "'0s'", "0s is shorter than 1s"),
            ("calls.wait", "'10ms'", "10ms is shorter than 1s"),
            ("submissions.keep", "'59s'", "59s is shorter than 1m"),
            ("submissions.keep_rows", "'59m'", "59m is shorter than 1h"),
            (
                "submissions.patience",
                "'999ms'",
                "999ms is shorter than 1s",
            ),
            (
                "submissions.evidence_window",
                "'0s'",
                "0s is shorter than 1m",
            ),
            ("submissions.idle_timeout", "'0s'", "0s is shorter than 1s"),
            ("submissions.max_uploads", "0", "0 is not between 1 and"),
            (
                "submissions.max_batches",
                "65",
                "65 is not between 1 and 64",
            ),
            ("reconciliation.keep", "'0s'", "0s is shorter than 1h"),
            ("reconciliation.every", "'10ms'", "10ms is shorter than 1s"),
            ("voice.retry_for", "'1s'", "1s is shorter than 1m"),
            ("voice.retry_after", "'0s'", "0s is shorter than 100ms"),
            ("voice.stall_timeout", "'0s'", "0s is shorter than 1s"),
            ("voice.max_concurrent", "0", "0 is not between 1 and 64"),
            ("voice.max_bytes", "1000", "1000 is not between 65536 and"),
            (
                "dialog_context.timeout",
                "'9ms'",
                "9ms is shorter than 10ms",
            ),
            (
                "dialog_context.connection_age",
                "'0s'",
                "0s is shorter than 1s",
            ),
        ];
        let text = too_small.map(|(key, value, _)| format!("{key} = {value}\n"));
        let faults = parse(&text.concat()).unwrap_err();
        for (key, _, problem) in too_small {
            let expected = format!("{key}: {problem}");
            let is_told = faults.iter().any(|fault| fault.starts_with(&expected));
            assert!(is_told, "{expected} is not among {faults:#?}");
        }
        assert_eq!(faults.len(), too_small.len(), "{faults:#?}");
    }

    #[test]
    fn no_duration_is_so_long_that_times_overflow() {
        for key in [
            "shutdown_grace",
            "push.append_timeout",
            "platform.request_timeout",
            "store.retention",
            "submissions.patience",
            "reconciliation.after_task_end",
            "dialog_context.cache_for",
        ] {
            assert!(parse(&format!("{key} = '3650d'")).is_ok(), "{key}");
            let faults = parse(&format!("{key} = '11years'")).unwrap_err();
            let expected = format!("{key}: 11years is longer than 10 years");
            assert_eq!(faults, [expected]);
            let faults = parse(&format!("{key} = '{}s'", u64::MAX)).unwrap_err();
            assert_eq!(faults.len(), 1, "{faults:?}");
        }
    }

    #[test]
    fn rows_are_kept_no_shorter_than_request_ids() {
        let with = |keep_rows| {
            parse(&format!(
                "[submissions]\nkeep = '2h'\nkeep_rows = '{keep_rows}'"
            ))
        };
        assert!(with("2h").is_ok());
        let expected = "submissions.keep_rows: 1h 59m is shorter than submissions.keep, 2h";
        assert_eq!(with("119m").unwrap_err(), [expected]);
    }

    #[test]
    fn a_hash_key_is_long_and_no_fault_shows_it() {
        let with = |key: &str| parse(&format!("[store]\nhash_key = '{key}'"));
        assert!(with(&"k".repeat(32)).is_ok());
        let expected = "store.hash_key: shorter than 32 characters";
        assert_eq!(with(&"k".repeat(31)).unwrap_err(), [expected]);
    }

    #[test]
    fn push_secrets_are_a_text_or_a_list_and_each_is_held_to_the_rule() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, value: &str| {
            std::fs::write(folder.path().join(name), value).unwrap();
            folder.path().join(name).display().to_string()
        };
        let (new, old) = ("new-0123456789abc", "old-0123456789abc");
        let (new_file, old_file) = (file("new", new), file("old", old));
        let short_file = file("short", "short");
        let with = |setting: &str| {
            let account = "[[accounts]]\napp_key = 'k'\napp_secret = 's'\n";
            parse(&format!("{account}{setting}\n"))
        };
        for setting in [
            format!("push_secret = ['{new}', '{old}']"),
            format!("push_secret_file = ['{new_file}', '{old_file}']"),
        ] {
            let secret = &with(&setting).unwrap().accounts[0].push_secret;
            assert!(secret.is(new).unwrap() && secret.is(old).unwrap());
        }
        for setting in [
            format!("push_secret = '{new}'"),
            format!("push_secret_file = '{new_file}'"),
        ] {
            let secret = &with(&setting).unwrap().accounts[0].push_secret;
            assert!(secret.is(new).unwrap() && !secret.is(old).unwrap());
        }
        for (setting, fault) in [
            (String::new(), "push_secret: missing"),
            ("push_secret = []".to_owned(), "push_secret: empty"),
            ("push_secret = ''".to_owned(), "push_secret: empty"),
            ("push_secret = 7".to_owned(), "push_secret: expected a text"),
            (
                format!("push_secret = ['{new}', 'short']"),
                "push_secret: shorter",
            ),
            (
                format!("push_secret_file = ['{new_file}', '{short_file}']"),
                "push_secret_file: the secret file",
            ),
            (
                "push_secret_file = '/none'".to_owned(),
                "push_secret_file: the secret file",
            ),
        ] {
            let faults = with(&setting).unwrap_err();
            let expected = format!("accounts[0].{fault}");
            let is_reported = faults.iter().any(|it| it.starts_with(&expected));
            assert!(is_reported, "{setting}: {faults:?}");
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
                (
                    "YETA_GATEWAY__ACCOUNTS__0__PUSH_SECRET",
                    "new-0123456789abc,old-0123456789abc",
                ),
                (
                    "YETA_GATEWAY__ACCOUNTS__0__ALLOW_PUSH_FROM",
                    "10.0.0.0/8, 127.0.0.1",
                ),
                ("YETA_GATEWAY__PUSH__MAX_BODY_BYTES", "100000"),
                ("YETA_GATEWAY_BIN", "not ours"),
            ],
        )
        .unwrap();
        assert_eq!(config.grpc.listen.port(), 2);
        assert_eq!(config.accounts[0].name, "default");
        assert_eq!(config.accounts[0].allow_push_from.len(), 2);
        assert_eq!(config.push.max_body_bytes, 100_000);
        let faults = parse_with("", &[("YETA_GATEWAY__GRPC__LISEN", "x")]).unwrap_err();
        assert_eq!(faults, ["grpc.lisen: unknown key"]);
    }

    #[test]
    fn keys_and_their_token_come_and_go_over_tls_or_loopback_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "token-1\n").unwrap();
        let path = file.path().display();
        let with = |settings: &str| parse(&format!("[auth.kubernetes]\n{settings}\n"));
        for good in [
            format!("jwks_url = 'https://host/keys'\ntoken_file = '{path}'"),
            format!("jwks_url = 'http://127.0.0.1:1/keys'\ntoken_file = '{path}'"),
            "jwks_url = 'http://localhost:1/keys'".to_owned(),
            "jwks_url = 'http://host/keys'\n[grpc]\ninsecure = true".to_owned(),
        ] {
            assert!(with(&good).is_ok(), "{good}: {:?}", with(&good));
        }
        for (bad, expected) in [
            (
                "jwks_url = 'http://host/keys'".to_owned(),
                "jwks_url: others on the way can replace keys",
            ),
            (
                format!(
                    "jwks_url = 'http://host/keys'\ntoken_file = '{path}'\n\
                     [grpc]\ninsecure = true"
                ),
                "token_file: a token is sent to an https or a loopback address alone",
            ),
            (
                "jwks_url = 'https://host/keys'\ntoken_file = '/none'".to_owned(),
                "token_file: ",
            ),
            (
                format!("jwks_url = 'https://host/keys'\nca_file = '{path}'"),
                "ca_file: ",
            ),
            (
                format!("jwks_url = 'http://127.0.0.1/keys'\nca_file = '{path}'"),
                "ca_file: certificates belong to an https address alone",
            ),
        ] {
            let faults = with(&bad).unwrap_err();
            let expected = format!("auth.kubernetes.{expected}");
            assert_eq!(faults.len(), 1, "{bad}: {faults:?}");
            assert!(faults[0].starts_with(&expected), "{bad}: {faults:?}");
        }
    }

    #[test]
    fn dns_names_of_clients_are_compared_without_regard_to_case_and_uris_with_it() {
        let with = |first: &str, second: &str| {
            let client = |name: &str, san: &str| {
                format!("[[clients]]\nname = '{name}'\ntls_san = '{san}'\n")
            };
            let (first, second) = (client("a", first), client("b", second));
            parse(&format!("{first}{second}"))
        };
        let shared = |faults: &[String]| {
            let of_both = "clients[1].tls_san: another client has it, too";
            faults.iter().any(|fault| fault == of_both)
        };
        assert!(shared(&with("CRM.svc", "crm.SVC").unwrap_err()));
        let uris = with("spiffe://cluster/CRM", "spiffe://cluster/crm");
        assert!(!shared(&uris.unwrap_err()));
    }

    #[test]
    fn every_fault_of_a_provider_is_told() {
        let faults = parse(&format!(
            "{ACCOUNT}[dialog_context]\nendpoint = 'provider:1'\ntimeout = '0s'\n\
             connection_age = '1ms'\n[[dialog_context.overrides]]\naccount = 'none'\n\
             endpoint = 'https://user:hush@host'\n[[dialog_context.overrides]]\n\
             robot_id = '7'\nca_file = '/none'\n[[dialog_context.overrides]]\ntimeout = '1s'\n\
             [[dialog_context.overrides]]\nrobot_id = '7'\n"
        ))
        .unwrap_err();
        for key in [
            "endpoint",
            "timeout",
            "connection_age",
            "overrides[0].account",
            "overrides[0].endpoint",
            "overrides[1].ca_file",
            "overrides[2]",
            "overrides[3]",
        ] {
            let told = faults
                .iter()
                .any(|fault| fault.starts_with(&format!("dialog_context.{key}: ")));
            assert!(told, "{key} is not among {faults:#?}");
        }
        assert!(!faults.join("\n").contains("hush"), "{faults:#?}");
    }

    #[test]
    fn every_fault_of_a_providers_files_has_its_key_and_no_fault_shows_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        std::fs::write(folder.path().join("token"), "hush hush").unwrap();
        for (settings, expected) in [
            (
                format!("endpoint = 'https://host'\ncert_file = '{path}/cert'"),
                "key_file: missing beside cert_file",
            ),
            (
                format!("endpoint = 'https://host'\nkey_file = '{path}/key'"),
                "cert_file: missing beside key_file",
            ),
            (
                format!(
                    "endpoint = 'https://host'\ncert_file = '{path}/cert'\n\
                     key_file = '{path}/key'"
                ),
                "cert_file: ",
            ),
            (
                format!("endpoint = 'http://host'\nca_file = '{path}/ca'"),
                "endpoint: certificates belong to an https address alone",
            ),
            (
                format!("endpoint = 'http://host'\ntoken_file = '{path}/token'"),
                "token_file: a token is sent to an https or a loopback address alone",
            ),
            (
                format!("endpoint = 'https://host'\ntoken_file = '{path}/token'"),
                "token_file: ",
            ),
            (
                format!("endpoint = 'http://127.0.0.1:1'\ntoken_file = '{path}/none'"),
                "token_file: ",
            ),
            (
                format!("token_file = '{path}/token'"),
                "token_file: there is no endpoint beside it",
            ),
        ] {
            let faults = parse(&format!("{ACCOUNT}[dialog_context]\n{settings}\n")).unwrap_err();
            let [fault] = faults.as_slice() else {
                panic!("{settings}: {faults:#?}");
            };
            assert!(
                fault.starts_with(&format!("dialog_context.{expected}")),
                "{settings}: {fault}"
            );
            assert!(!fault.contains("hush"), "{fault}");
        }
    }

    #[test]
    fn a_timeout_that_leaves_the_answer_no_time_to_arrive_is_a_fault() {
        let with = |timeout| {
            parse(&format!(
                "{ACCOUNT}[dialog_context]\ntimeout = '{timeout}'\n\
                 [[dialog_context.overrides]]\nrobot_id = '7'\ntimeout = '{timeout}'\n"
            ))
        };
        assert!(with("450ms").is_ok());
        let faults = with("451ms").unwrap_err();
        for (fault, key) in faults.iter().zip(["timeout", "overrides[0].timeout"]) {
            let expected = format!("dialog_context.{key}: 451ms is longer than 450ms: ");
            assert!(
                fault.starts_with(&expected) && fault.contains("500ms"),
                "{fault}"
            );
        }
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn an_override_changes_what_it_names_and_may_ask_nobody() {
        let config = parse(&format!(
            "{ACCOUNT}[dialog_context]\nendpoint = 'http://provider:1'\n\
             [[dialog_context.overrides]]\nrobot_id = '7'\nendpoint = ''\n\
             [dialog_context.overrides.fallback]\na = 'b'\n\
             [[dialog_context.overrides]]\naccount = 'default'\ntimeout = '300ms'\n"
        ))
        .unwrap();
        let [robot, account] = &config.dialog_context.overrides[..] else {
            panic!("not two overrides");
        };
        assert_eq!(robot.endpoint, Some(provider::Whom::Nobody));
        assert_eq!(robot.fallback.as_ref().unwrap()["a"], "b");
        assert_eq!(account.endpoint, None);
        assert_eq!(account.timeout, Some(Duration::from_millis(300)));
    }

    #[test]
    fn an_archive_that_cannot_be_is_a_fault_and_none_shows_its_keys() {
        let faults = parse(
            "store.retention = '1d'\n[voice]\narchive = 's3://id:hush@bucket'\nretry_for = '2d'\n\
             name = '{callee}'\nmax_concurrent = 0\n[voice.s3]\naccess_key_id = 'hush'\n",
        )
        .unwrap_err()
        .join("\n");
        for key in [
            "archive",
            "retry_for",
            "name",
            "max_concurrent",
            "s3.secret_access_key",
        ] {
            assert!(
                faults.contains(&format!("voice.{key}: ")),
                "{key}: {faults}"
            );
        }
        assert!(!faults.contains("hush"), "{faults}");
        for archive in ["", "file:///var/voice", "s3://bucket", "s3://bucket/a/b"] {
            assert!(
                parse(&format!("voice.archive = '{archive}'")).is_ok(),
                "{archive}"
            );
        }
        for archive in [
            "file://var/voice",
            "s3://",
            "s3:///a",
            "gs://bucket",
            "/var/voice",
        ] {
            assert!(
                parse(&format!("voice.archive = '{archive}'")).is_err(),
                "{archive}"
            );
        }
    }

    #[test]
    fn accounts_have_names_of_their_own() {
        let faults = parse(&ACCOUNT.repeat(2)).unwrap_err();
        assert_eq!(
            faults,
            [r#"accounts[1].name: "default" is another account's name already"#]
        );
    }

    fn client(name: &str, more: &str) -> String {
        format!("[[clients]]\nname = '{name}'\n{more}\n")
    }

    #[test]
    fn credentials_are_of_one_client_and_not_empty() {
        let hash = |digit: &str| format!("token_sha256 = '{}'", digit.repeat(64));
        let empty =
            "token_sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'";
        let account = "kubernetes = { namespace = 'crm', service_account = 'dialer' }";
        let auth = "[auth.kubernetes]\njwks_file = '/keys'\n";
        for (text, expected) in [
            (
                client("a", empty),
                vec!["clients[0].token_sha256: the hash of an empty token"],
            ),
            (
                client("a", &hash("1")) + &client("b", &hash("1")),
                vec!["clients[1].token_sha256: another client has it, too"],
            ),
            (
                client("a", "tls_san = 'x'") + &client("b", "tls_san = ['y', 'x']"),
                vec![
                    "clients[0].tls_san: needs grpc.tls.client_ca_file",
                    "clients[1].tls_san: another client has it, too",
                    "clients[1].tls_san: needs grpc.tls.client_ca_file",
                ],
            ),
            (
                client("a", account) + &client("b", account) + auth,
                vec!["clients[1].kubernetes: another client has it, too"],
            ),
            (
                client(
                    "a",
                    "kubernetes = { namespace = '', service_account = 'a:b' }",
                ) + auth,
                vec![
                    "clients[0].kubernetes.namespace: not a name of letters, digits, '-' and '.'",
                    "clients[0].kubernetes.service_account: not a name of letters, digits, '-' \
                     and '.'",
                ],
            ),
            (
                client("a", account),
                vec![
                    "clients[0].kubernetes: needs auth.kubernetes.jwks_file or \
                      auth.kubernetes.jwks_url",
                ],
            ),
            (
                client("a", ""),
                vec!["clients[0].token_sha256: missing: give it, tls_san or kubernetes"],
            ),
            (
                client("a", "token_sha256 = ['1', '2', '3']"),
                vec!["clients[0].token_sha256: expected a list, got [\"1\", \"2\", \"3\"]"],
            ),
        ] {
            assert_eq!(parse(&text).unwrap_err(), expected, "{text}");
        }
        let three = ["1", "2", "3"].map(|digit| format!("'{}'", digit.repeat(64)));
        let three = format!("token_sha256 = [{}]", three.join(", "));
        assert_eq!(
            parse(&client("a", &three)).unwrap_err(),
            ["clients[0].token_sha256: 3 hashes, more than 2"]
        );
    }

    #[test]
    fn a_client_has_all_of_its_settings() {
        let two = ["1", "2"].map(|digit| format!("'{}'", digit.repeat(64)));
        let text = client(
            "crm",
            &format!(
                "token_sha256 = [{}]\ntls_san = 'crm.svc'\nallow = ['place', 'consume']\n\
                 accounts = ['default']\nsubscriptions = ['crm-*']\nmask_phones = true\n\
                 max_requests_per_second = 5\nmax_rows_per_day = 1000\nmax_streams = 3\n\
                 enabled = false\nkubernetes = {{ namespace = 'crm', service_account = 'a' }}",
                two.join(", ")
            ),
        );
        let text = format!(
            "{ACCOUNT}enabled = false\n{text}[auth.kubernetes]\njwks_url = 'https://api/keys'\n"
        );
        let faults = parse(&text).unwrap_err();
        assert_eq!(
            faults,
            ["clients[0].tls_san: needs grpc.tls.client_ca_file"]
        );
        let config = parse(&text.replace("tls_san = 'crm.svc'\n", "")).unwrap();
        assert!(!config.accounts[0].enabled);
        let expected = Client {
            name: "crm".into(),
            token_sha256: vec![[0x11; 32], [0x22; 32]],
            tls_san: Vec::new(),
            kubernetes: Some(ServiceAccount {
                namespace: "crm".into(),
                service_account: "a".into(),
            }),
            allow: vec![Permission::Place, Permission::Consume],
            accounts: vec!["default".into()],
            subscriptions: vec!["crm-*".into()],
            mask_phones: true,
            max_requests_per_second: 5,
            max_rows_per_day: 1000,
            max_streams: 3,
            enabled: false,
        };
        assert_eq!(config.clients, [expected]);
        let keys = Keys::Url {
            url: http::Uri::from_static("https://api/keys"),
            ca_file: None,
            token_file: None,
        };
        assert_eq!(config.kubernetes.keys, Some(keys));
    }
}
