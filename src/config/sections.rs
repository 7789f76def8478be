//! The tables of the configuration: what each holds, its defaults and its bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;
use jiff::civil::Time;
use secrecy::ExposeSecret as _;

use super::clients::optional_secret;
use super::reader::{Percent, Section, Setting};
use crate::proto::DuplicateRule;
use crate::secret::Secret;
use crate::submissions::check::Numbers;
use crate::tls::{ServerTls, TlsSettings};
use crate::voice::Template;

/// Lower bounds of durations: below them, a setting does harm and no good.
const TENTH: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
/// Bounds of one message: the least holds any usual push, or fifty rows.
const LEAST_BYTES: usize = 64 << 10;
const MOST_BYTES: usize = 1 << 30;
/// The least length of a hash key, in characters.
const LEAST_HASH_KEY: usize = 32;
/// The least bound of the log's bytes: a smaller one removes pushes as they come.
const LEAST_RETENTION_BYTES: u64 = 1 << 20;

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
    /// How many bytes of request messages are held at once.
    pub max_buffered_bytes: usize,
    /// How long a request message may take to arrive.
    pub message_timeout: Duration,
    /// How many connections may be open.
    pub max_connections: usize,
    /// How many connections may be open from one address; 0: half of all.
    pub max_connections_per_address: usize,
    /// The age at which a connection is closed; zero: none.
    pub max_connection_age: Duration,
    /// How many streams may be open.
    pub max_streams: usize,
    /// How many streams one client may have open; 0: half of all, where there are several clients.
    pub max_streams_per_client: usize,
    /// The time after which a response is ended of which its client takes nothing.
    pub slow_consumer_timeout: Duration,
    /// Whether clients can ask which services there are.
    pub reflection: bool,
    /// `[grpc.tls]`
    pub tls: Option<TlsSettings>,
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
    /// How long a push may take from its head to the answer; then it is refused.
    pub append_timeout: Duration,
    /// The maximum number of connections.
    pub max_connections: usize,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// The networks of proxies that name the client's address in `X-Forwarded-For`.
    pub trusted_proxies: Vec<IpNet>,
    /// `[push.tls]`
    pub tls: Option<TlsSettings>,
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
    /// How many requests each account may send in a second; 0: no bound.
    pub max_requests_per_second: u32,
    /// How many requests of each account may be under way at once; 0: no bound.
    pub max_concurrent_requests: usize,
    /// After so many calls in a row that did not reach the platform, an account's calls are held
    /// back; 0: never.
    pub breaker_failures: u32,
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// The folder of the log.
    pub path: PathBuf,
    /// How long a push is kept.
    pub retention: Duration,
    /// How many bytes of pushes are kept at most; 0: no bound.
    pub retention_bytes: u64,
    /// The part of the volume that stays free.
    pub min_free: Percent,
    /// The key of hashes of phone numbers; `None`: one is made and kept beside the data.
    pub hash_key: Option<Secret>,
}

/// `[subscriptions]`
#[derive(Clone, Debug, PartialEq)]
pub struct Subscriptions {
    /// How many durable subscriptions there may be.
    pub max: usize,
    /// A subscription is called stuck when an event was not dealt with for this long.
    pub stuck_after: Duration,
}

/// `[calls]`
#[derive(Clone, Debug, PartialEq)]
pub struct Calls {
    /// How long a call waits for what is missing before it is closed without.
    pub wait: Duration,
}

/// `[submissions]`
#[derive(Clone, Debug)]
pub struct Submissions {
    /// How long the outcome of a request id is kept.
    pub keep: Duration,
    /// How long uploads and their rows' ids are kept, and what is unknown.
    pub keep_rows: Duration,
    /// How phone numbers are read that name no country.
    pub numbers: Numbers,
    /// What is done with a number that another row of an upload has.
    pub duplicate_numbers: DuplicateRule,
    /// What is done with a row key that another row of an upload has.
    pub duplicate_row_keys: DuplicateRule,
    /// How many batches of an upload are out at once.
    pub max_batches: usize,
    /// How long an upload waits for a platform that cannot be reached.
    pub patience: Duration,
    /// The time after a direct call's submission in which a call record can still settle it.
    pub evidence_window: Duration,
    /// The time without a row after which an upload stream is ended.
    pub idle_timeout: Duration,
    /// The maximum number of live upload streams per client and account.
    pub max_uploads: usize,
}

/// `[voice]`
#[derive(Clone, Debug)]
pub struct Voice {
    /// Where recordings are kept; empty: nowhere.
    pub archive: String,
    /// How they are named there.
    pub name: Template,
    /// How long a recording is tried that cannot be fetched, from its push on.
    pub retry_for: Duration,
    /// How long after the first failure it is tried again.
    pub retry_after: Duration,
    /// How many are fetched at once.
    pub max_concurrent: usize,
    /// How long the voice server may send nothing.
    pub stall_timeout: Duration,
    /// Maximum number of bytes of one recording.
    pub max_bytes: u64,
    /// `[voice.s3]`
    pub s3: S3,
}

/// `[voice.s3]`: of an archive that is a bucket; what is not given comes from the environment.
#[derive(Clone, Debug, Default)]
pub struct S3 {
    /// The service's address, if it is not Amazon's own.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// The key's id, and the key.
    pub keys: Option<(Secret, Secret)>,
}

impl Setting for Template {
    const EXPECTED: &'static str = "parts between slashes, of letters, digits, '-', '_', '.' and \
        {account}, {date}, {task_id}, {task_data_id}, {call_relation_id}, {robot_id}, \
        {call_uuid}, {tag_max}, {tag_min}";

    fn read(value: &toml::Value) -> Option<Self> {
        Self::parse(value.as_str()?)
    }
}

impl Setting for Numbers {
    const EXPECTED: &'static str = "a region of two letters, such as \"CN\"";

    fn read(value: &toml::Value) -> Option<Self> {
        Self::new(value.as_str()?)
    }
}

impl Setting for DuplicateRule {
    const EXPECTED: &'static str = "one of warn, refuse";

    fn read(value: &toml::Value) -> Option<Self> {
        Some(match value.as_str()? {
            "warn" => Self::Warn,
            "refuse" => Self::Refuse,
            _ => return None,
        })
    }
}

/// `[backfill]`
#[derive(Clone, Debug, PartialEq)]
pub struct Backfill {
    /// Whether failed-push files are fetched without being asked for.
    pub enabled: bool,
    /// When, besides at the start: a time of day in China.
    pub at: Time,
}

/// `[reconciliation]`
#[derive(Clone, Debug, PartialEq)]
pub struct Reconciliation {
    /// How long after the end of its task a row without a record is overdue.
    pub after_task_end: Duration,
    /// The same after its submission, for one that is called directly.
    pub after_submission: Duration,
    /// How long overdue rows are told.
    pub keep: Duration,
    /// How often rows are looked at.
    pub every: Duration,
    /// From when on yesterday is reported: a time of day in China.
    pub report_at: Time,
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

impl Setting for LogFormat {
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
impl Grpc {
    pub(super) fn read(section: &mut Section<'_>, knows_clients: bool) -> Self {
        let grpc = Self {
            listen: section.get("listen", SocketAddr::from(([127, 0, 0, 1], 50051))),
            insecure: section.get("insecure", false),
            max_concurrent_requests: section.number("max_concurrent_requests", 4096, 1..=1_000_000),
            max_request_bytes: section.number(
                "max_request_bytes",
                4 << 20,
                LEAST_BYTES..=MOST_BYTES,
            ),
            max_buffered_bytes: section.get("max_buffered_bytes", 64 << 20),
            message_timeout: section.duration("message_timeout", Duration::from_secs(10), TENTH),
            max_connections: section.number("max_connections", 10_000, 1..=1_000_000),
            max_connections_per_address: section.get("max_connections_per_address", 0),
            max_connection_age: section.get("max_connection_age", Duration::ZERO),
            max_streams: section.number("max_streams", 1000, 1..=1_000_000),
            max_streams_per_client: section.get("max_streams_per_client", 0),
            slow_consumer_timeout: section.duration(
                "slow_consumer_timeout",
                Duration::from_mins(1),
                TENTH,
            ),
            reflection: section.get("reflection", true),
            tls: read_tls(section, "tls", b"h2"),
        };
        let names_clients = grpc.tls.as_ref().is_some_and(|tls| tls.requires_client);
        let is_open = !knows_clients && !names_clients;
        if !grpc.listen.ip().is_loopback() && is_open && !grpc.insecure {
            let problem = format!(
                "{} can be reached from other machines: name the [[clients]] that may call, \
                 require client certificates in [grpc.tls], or set grpc.insecure = true",
                grpc.listen
            );
            section.fault("listen", problem);
        }
        // One client has half of it, and needs room for one message.
        let least = grpc
            .max_request_bytes
            .saturating_add(1024)
            .saturating_mul(2);
        if grpc.max_buffered_bytes < least {
            let problem = format!(
                "{} is less than {least}, twice grpc.max_request_bytes and 2048",
                grpc.max_buffered_bytes
            );
            section.fault("max_buffered_bytes", problem);
        }
        let shortest = Duration::from_secs(1);
        if !grpc.max_connection_age.is_zero() && grpc.max_connection_age < shortest {
            section.fault("max_connection_age", "neither 0s nor at least 1s");
        }
        grpc
    }
}

/// Reads the table of a listener's TLS, and tries its files; `protocol` is what is negotiated.
pub(super) fn read_tls(
    section: &mut Section<'_>,
    name: &str,
    protocol: &'static [u8],
) -> Option<TlsSettings> {
    if !section.has(name) {
        return None;
    }
    section.section(name, |tls| {
        let cert_file: Option<PathBuf> = tls.optional("cert_file");
        let key_file: Option<PathBuf> = tls.optional("key_file");
        let client_ca_file: String = tls.get("client_ca_file", String::new());
        let client_auth: String = tls.get("client_auth", "require".into());
        if !matches!(client_auth.as_str(), "require" | "optional") {
            tls.fault("client_auth", "expected one of require, optional");
        }
        for (key, file) in [("cert_file", &cert_file), ("key_file", &key_file)] {
            if file.is_none() {
                tls.fault(key, "missing");
            }
        }
        let client_ca_file = (!client_ca_file.is_empty()).then(|| client_ca_file.into());
        let settings = TlsSettings {
            requires_client: client_ca_file.is_some() && client_auth == "require",
            cert_file: cert_file?,
            key_file: key_file?,
            client_ca_file,
        };
        if let Err(error) = ServerTls::load(settings.clone(), protocol) {
            let key = match error.file() {
                file if file == settings.key_file => "key_file",
                file if Some(file) == settings.client_ca_file.as_deref() => "client_ca_file",
                _ => "cert_file",
            };
            tls.fault(key, error.to_string());
        }
        Some(settings)
    })
}

impl Push {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let push = Self {
            listen: section.get("listen", SocketAddr::from(([127, 0, 0, 1], 8080))),
            max_body_bytes: section.number("max_body_bytes", 8 << 20, LEAST_BYTES..=MOST_BYTES),
            max_buffered_bytes: section.get("max_buffered_bytes", 256 << 20),
            append_timeout: section.duration("append_timeout", Duration::from_millis(2800), TENTH),
            max_connections: section.number("max_connections", 4096, 16..=1_000_000),
            header_timeout: section.duration("header_timeout", Duration::from_secs(5), TENTH),
            trusted_proxies: section.get("trusted_proxies", Vec::new()),
            tls: read_tls(section, "tls", b"http/1.1"),
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
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let uri = Uri::from_static;
        let platform = Self {
            base_url: section.get("base_url", uri("https://www.xfyeta.com")),
            path_prefix: section.get("path_prefix", "/openapi".into()),
            voice_base_url: section.get("voice_base_url", uri("http://voice.kxjlcc.com:9000/")),
            push_download_url: section.get(
                "push_download_url",
                uri("https://www.xfyeta.com/push_download/"),
            ),
            request_timeout: section.duration("request_timeout", Duration::from_secs(10), TENTH),
            connect_timeout: section.duration("connect_timeout", Duration::from_secs(3), TENTH),
            pool_idle_timeout: section.duration(
                "pool_idle_timeout",
                Duration::from_secs(10),
                SECOND,
            ),
            max_requests_per_second: section.get("max_requests_per_second", 500),
            max_concurrent_requests: section.get("max_concurrent_requests", 128),
            breaker_failures: section.get("breaker_failures", 5),
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
    pub(super) fn read(section: &mut Section<'_>) -> Self {
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
        let store = Self {
            path: section.get("path", "./data".into()),
            retention: section.duration("retention", Duration::from_hours(7 * 24), MINUTE),
            retention_bytes: section.get("retention_bytes", 0),
            min_free: section.get("min_free", Percent(5)),
            hash_key: optional_secret(section, "hash_key"),
        };
        if let Some(Ok(key)) = store.hash_key.as_ref().map(Secret::read)
            && key.expose_secret().len() < LEAST_HASH_KEY
        {
            let problem = format!("shorter than {LEAST_HASH_KEY} characters");
            section.fault("hash_key", problem);
        }
        if (1..LEAST_RETENTION_BYTES).contains(&store.retention_bytes) {
            let problem = format!(
                "{} is neither 0 nor at least {LEAST_RETENTION_BYTES}",
                store.retention_bytes
            );
            section.fault("retention_bytes", problem);
        }
        store
    }
}

impl Subscriptions {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            max: section.number("max", 10_000, 1..=1_000_000),
            stuck_after: section.duration("stuck_after", Duration::from_secs(300), SECOND),
        }
    }
}

impl Submissions {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let submissions = Self {
            keep: section.duration("keep", Duration::from_hours(24), MINUTE),
            keep_rows: section.duration("keep_rows", Duration::from_hours(30 * 24), HOUR),
            numbers: section.get("phone_region", Numbers::default()),
            duplicate_numbers: section.get("duplicate_numbers", DuplicateRule::Refuse),
            duplicate_row_keys: section.get("duplicate_row_keys", DuplicateRule::Refuse),
            max_batches: section.number("max_batches", 4, 1..=64),
            patience: section.duration("patience", Duration::from_secs(30), SECOND),
            evidence_window: section.duration("evidence_window", Duration::from_hours(2), MINUTE),
            idle_timeout: section.duration("idle_timeout", Duration::from_mins(5), SECOND),
            max_uploads: section.number("max_uploads", 64, 1..=10_000),
        };
        if submissions.keep_rows < submissions.keep {
            let problem = format!(
                "{} is shorter than submissions.keep, {}",
                humantime::format_duration(submissions.keep_rows),
                humantime::format_duration(submissions.keep)
            );
            section.fault("keep_rows", problem);
        }
        submissions
    }
}

impl Setting for Time {
    const EXPECTED: &'static str = "a time of day such as \"06:00\"";

    fn read(value: &toml::Value) -> Option<Self> {
        Self::strptime("%H:%M", value.as_str()?).ok()
    }
}

impl Backfill {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            enabled: section.get("enabled", true),
            at: section.get("at", Time::constant(6, 0, 0, 0)),
        }
    }
}

impl Reconciliation {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            after_task_end: section.duration(
                "after_task_end",
                Duration::from_mins(10),
                Duration::ZERO,
            ),
            after_submission: section.duration(
                "after_submission",
                Duration::from_hours(2),
                Duration::ZERO,
            ),
            keep: section.duration("keep", Duration::from_hours(7 * 24), HOUR),
            every: section.duration("every", Duration::from_mins(1), SECOND),
            report_at: section.get("report_at", Time::constant(9, 0, 0, 0)),
        }
    }
}

impl Voice {
    /// `retention`: the log's, which must hold what is tried again.
    pub(super) fn read(section: &mut Section<'_>, retention: Duration) -> Self {
        let voice = Self {
            archive: section.get("archive", String::new()),
            name: section.get("name", Template::default()),
            retry_for: section.duration("retry_for", Duration::from_hours(5 * 24), MINUTE),
            retry_after: section.duration("retry_after", Duration::from_secs(10), TENTH),
            max_concurrent: section.number("max_concurrent", 4, 1..=64),
            stall_timeout: section.duration("stall_timeout", Duration::from_secs(15), SECOND),
            max_bytes: section.number("max_bytes", 512 << 20, LEAST_BYTES as u64..=1 << 40),
            s3: section.section("s3", S3::read),
        };
        if voice.archive.is_empty() {
            return voice;
        }
        if !is_archive(&voice.archive) {
            // It is not shown: somebody may have put keys into it.
            section.fault("archive", "neither s3://BUCKET/PREFIX nor file:///FOLDER");
        }
        if voice.retry_for >= retention {
            let problem = format!(
                "{} is not shorter than store.retention, {}: what is tried again must still be \
                 in the log",
                humantime::format_duration(voice.retry_for),
                humantime::format_duration(retention)
            );
            section.fault("retry_for", problem);
        }
        voice
    }
}

fn is_archive(archive: &str) -> bool {
    let is_plain = !archive.contains(['@', '?', '#', '\\']);
    let folder = archive.strip_prefix("file://");
    let bucket = archive.strip_prefix("s3://");
    is_plain
        && (folder.is_some_and(|path| path.starts_with('/'))
            || bucket.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')))
}

impl S3 {
    fn read(section: &mut Section<'_>) -> Self {
        let id = optional_secret(section, "access_key_id");
        let key = optional_secret(section, "secret_access_key");
        let keys = match (id, key) {
            (Some(id), Some(key)) => Some((id, key)),
            (None, None) => None,
            (Some(_), None) => {
                section.fault("secret_access_key", "missing beside access_key_id");
                None
            }
            (None, Some(_)) => {
                section.fault("access_key_id", "missing beside secret_access_key");
                None
            }
        };
        Self {
            endpoint: section.optional("endpoint"),
            region: section.optional("region"),
            keys,
        }
    }
}
