//! What each room is told of the configuration.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Uri;
use http::uri::Scheme;

use crate::backfill;
use crate::calls::AssemblerOptions;
use crate::config::Config;
use crate::edge::EdgeConfig;
use crate::grpc::server::Limits;
use crate::hash_key::HashKey;
use crate::http_server;
use crate::memory::{self, Needs};
use crate::platform::{DownloadConfig, PlatformConfig};
use crate::reconciliation;
use crate::relay::watch;
use crate::secret::Secret;
use crate::store::embedded::{EmbeddedLog, Options};
use crate::submissions::{self, UploadOptions};
use crate::tls::{ServerTls, TlsError};
use crate::voice::{ArchiveOptions, ArchivistOptions, S3Options, ServerOptions};

pub(super) fn account_names(config: &Config) -> Vec<String> {
    config
        .accounts
        .iter()
        .map(|account| account.name.clone())
        .collect()
}

pub(super) fn grpc_tls(config: &Config) -> Result<Option<Arc<ServerTls>>, TlsError> {
    let tls = config.grpc.tls.clone();
    let loaded = tls.map(|tls| ServerTls::load(tls, b"h2")).transpose()?;
    Ok(loaded.map(Arc::new))
}

pub(super) fn grpc_limits(config: &Config) -> Limits {
    let grpc = &config.grpc;
    Limits {
        max_concurrent_requests: grpc.max_concurrent_requests,
        max_request_bytes: grpc.max_request_bytes,
        max_buffered_bytes: grpc.max_buffered_bytes,
        message_timeout: grpc.message_timeout,
        max_connections: grpc.max_connections,
        max_connections_per_address: match grpc.max_connections_per_address {
            0 => grpc.max_connections.div_ceil(2),
            each => each,
        },
        max_connection_age: grpc.max_connection_age,
        max_streams: grpc.max_streams,
        max_streams_per_client: grpc.max_streams_per_client,
        slow_consumer_timeout: grpc.slow_consumer_timeout,
        reflection: grpc.reflection,
    }
}

pub(super) fn store_options(config: &Config) -> Options {
    Options {
        retention: config.store.retention,
        retention_bytes: config.store.retention_bytes,
        min_free_percent: config.store.min_free.0,
        ..Options::new(&config.store.path)
    }
}

pub(super) fn platform_config(config: &Config) -> PlatformConfig {
    let platform = &config.platform;
    PlatformConfig {
        base_url: platform.base_url.to_string(),
        path_prefix: platform.path_prefix.clone(),
        request_timeout: platform.request_timeout,
        connect_timeout: platform.connect_timeout,
        pool_idle_timeout: platform.pool_idle_timeout,
        max_requests_per_second: platform.max_requests_per_second,
        max_concurrent_requests: platform.max_concurrent_requests,
        breaker_failures: platform.breaker_failures,
        ..PlatformConfig::default()
    }
}

pub(super) fn submissions_options(config: &Config, hash_key: HashKey) -> submissions::Options {
    let submissions = &config.submissions;
    submissions::Options {
        keep: submissions.keep,
        keep_rows: submissions.keep_rows,
        numbers: submissions.numbers,
        uploads: UploadOptions {
            duplicate_numbers: submissions.duplicate_numbers,
            duplicate_row_keys: submissions.duplicate_row_keys,
            max_batches: submissions.max_batches,
            patience: submissions.patience,
            max_uploads: submissions.max_uploads,
            idle_timeout: submissions.idle_timeout,
        },
        evidence_window: submissions.evidence_window,
        records_lost: false,
        hash_key,
        clients: config.clients.iter().map(|it| it.name.clone()).collect(),
        accounts: account_names(config),
        clock: Arc::new(SystemTime::now),
    }
}

pub(super) fn edge_config(config: &Config) -> EdgeConfig {
    EdgeConfig {
        max_body_bytes: config.push.max_body_bytes,
        max_buffered_bytes: config.push.max_buffered_bytes,
        append_timeout: config.push.append_timeout,
        trusted_proxies: config.push.trusted_proxies.clone(),
        voice_base_url: config.platform.voice_base_url.to_string(),
    }
}

/// The secrets that are used while the gateway runs.
pub(super) fn secrets(config: &Config) -> impl Iterator<Item = &Secret> {
    let of_accounts = config
        .accounts
        .iter()
        .flat_map(|it| [&it.app_key, &it.app_secret, &it.push_secret]);
    let of_bucket = config.voice.s3.keys.iter().flat_map(|(id, key)| [id, key]);
    of_accounts.chain(of_bucket)
}

pub(super) fn push_limits(config: &Config) -> Result<http_server::Limits, TlsError> {
    let push = &config.push;
    let tls = push.tls.clone();
    let tls = tls
        .map(|tls| ServerTls::load(tls, b"http/1.1"))
        .transpose()?;
    Ok(http_server::Limits {
        name: "push",
        max_connections: push.max_connections,
        // Others can still connect when one address has as many as it may have.
        max_per_address: push.max_connections.div_ceil(2),
        proxies: push.trusted_proxies.clone(),
        header_timeout: push.header_timeout,
        tls: tls.map(Arc::new),
    })
}

pub(super) fn backfill_options(config: &Config) -> backfill::Options {
    backfill::Options {
        at: config.backfill.at,
        folder: config.store.path.clone(),
        voice_base_url: config.platform.voice_base_url.to_string(),
        limits: backfill::file::Limits {
            // What stands around a push on its line has room, too.
            line_bytes: config.push.max_body_bytes.saturating_add(4096),
            ..backfill::file::Limits::default()
        },
        backoff: Duration::from_mins(1),
        clock: Arc::new(SystemTime::now),
    }
}

pub(super) fn download_config(config: &Config) -> DownloadConfig {
    DownloadConfig {
        base_url: config.platform.push_download_url.to_string(),
        connect_timeout: config.platform.connect_timeout,
        wait: config.platform.request_timeout,
    }
}

pub(super) fn voice_server_options(config: &Config) -> ServerOptions {
    ServerOptions {
        base_url: config.platform.voice_base_url.to_string(),
        connect_timeout: config.platform.connect_timeout,
        stall_timeout: config.voice.stall_timeout,
        max_bytes: config.voice.max_bytes,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rough measure")]
pub(super) fn limits(config: &Config, log: Arc<EmbeddedLog>) -> watch::Limits {
    let most = config.store.retention_bytes;
    watch::Limits {
        stuck_after: config.subscriptions.stuck_after,
        retention: config.store.retention,
        fullness: Box::new(move || match most {
            0 => 0.0,
            most => log.stats().bytes as f64 / most as f64,
        }),
    }
}

pub(super) fn archive_options(config: &Config) -> Option<ArchiveOptions> {
    let voice = &config.voice;
    if voice.archive.is_empty() {
        return None;
    }
    Some(ArchiveOptions {
        url: voice.archive.clone(),
        s3: S3Options {
            endpoint: voice.s3.endpoint.clone(),
            region: voice.s3.region.clone(),
            keys: voice.s3.keys.clone(),
        },
    })
}

pub(super) fn archivist_options(config: &Config) -> ArchivistOptions {
    let voice = &config.voice;
    ArchivistOptions {
        name: voice.name.clone(),
        retry_for: voice.retry_for,
        retry_after: voice.retry_after,
        at_once: voice.max_concurrent,
        clock: Arc::new(SystemTime::now),
    }
}

pub(super) fn assembler_options(config: &Config) -> AssemblerOptions {
    AssemblerOptions {
        wait: config.calls.wait,
        clock: Arc::new(SystemTime::now),
    }
}

pub(super) fn reconciliation_options(config: &Config) -> reconciliation::Options {
    let settings = &config.reconciliation;
    reconciliation::Options {
        after_task_end: settings.after_task_end,
        after_submission: settings.after_submission,
        keep: settings.keep,
        keep_awaited: config.submissions.keep_rows,
        every: settings.every,
        report_at: settings.report_at,
        clock: Arc::new(SystemTime::now),
    }
}

/// Logs what a valid configuration leaves open or unused.
pub(super) fn warn_of(config: &Config) {
    let needs = Needs::of(config);
    let mib = needs.total() >> 20;
    tracing::info!(mib, %needs, "the memory that the bounds allow in sum");
    if let Some(problem) = memory::budget(config).and_then(|budget| needs.problem(budget)) {
        tracing::warn!(
            problem,
            "memory_budget is exceeded: lower bounds, or raise the limit"
        );
    }
    if config.accounts.is_empty() {
        tracing::warn!("no [[accounts]] are configured: nothing can be called or pushed");
    }
    if config.clients.is_empty() {
        let address = config.grpc.listen;
        tracing::warn!(
            %address,
            "no [[clients]] are configured: everybody who can connect to {address} can place \
             calls and read phone numbers"
        );
    }
    let platform = &config.platform;
    for (key, address) in [
        ("platform.base_url", &platform.base_url),
        ("platform.push_download_url", &platform.push_download_url),
    ] {
        if is_sent_in_the_clear(address) {
            tracing::warn!(
                key,
                %address,
                "{key} is http: secrets and phone numbers cross the network in the clear"
            );
        }
    }
}

/// Whether requests to the address leave this machine without TLS.
fn is_sent_in_the_clear(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_local = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    address.scheme() == Some(&Scheme::HTTP) && !is_local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_in_the_clear_beyond_this_machine() {
        for (address, expected) in [
            ("http://www.xfyeta.com", true),
            ("http://10.0.0.7:8900/openapi", true),
            ("http://localhost.example.com", true),
            ("https://www.xfyeta.com", false),
            ("http://localhost:8900", false),
            ("http://127.0.0.1:8900", false),
            ("http://[::1]:8900", false),
        ] {
            let uri = address.parse().unwrap();
            assert_eq!(is_sent_in_the_clear(&uri), expected, "{address}");
        }
    }
}
