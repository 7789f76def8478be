//! `[dialog_context]`: who answers what the platform asks during a call.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use super::reader::Section;
use crate::provider::{Endpoint, EndpointError, Options, Override, Whom};
use crate::tls::{ClientFiles, Identity};

/// The platform waits for 500 ms, which the way of the question and of the answer is a part of.
const LONGEST_TIMEOUT: Duration = Duration::from_millis(450);
/// No service answers over a network within less.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
/// A connection must live long enough to be of use.
const SHORTEST_AGE: Duration = Duration::from_secs(1);

pub(super) fn read(section: &mut Section<'_>) -> Options {
    let defaults = Options::default();
    let options = Options {
        endpoint: whom(section).and_then(|whom| whom.service().cloned()),
        timeout: timeout(section).unwrap_or(defaults.timeout),
        fallback: fallback(section).unwrap_or_default(),
        second_try_after: section.duration(
            "second_try_after",
            defaults.second_try_after,
            Duration::ZERO,
        ),
        connection_age: section.duration("connection_age", defaults.connection_age, SHORTEST_AGE),
        cache_for: section.duration("cache_for", defaults.cache_for, Duration::ZERO),
        cache_bytes: section.get("cache_bytes", defaults.cache_bytes),
        overrides: section.sections("overrides", read_override),
    };
    let mut seen = HashSet::new();
    for (i, other) in options.overrides.iter().enumerate() {
        let name = format!("overrides[{i}]");
        if other.account.is_none() && other.robot_id.is_none() {
            section.fault(&name, "names neither an account nor a robot_id");
        }
        if !seen.insert((&other.account, &other.robot_id)) {
            section.fault(&name, "is about the same as an earlier one");
        }
    }
    options
}

fn read_override(section: &mut Section<'_>) -> Override {
    Override {
        account: section.optional("account"),
        robot_id: section.optional("robot_id"),
        endpoint: whom(section),
        timeout: timeout(section),
        fallback: fallback(section),
    }
}

/// Whom an address that was given leads to; "" is nobody. Messages do not repeat the
/// address, as a password may stand in it.
fn whom(section: &mut Section<'_>) -> Option<Whom> {
    let address: Option<String> = section.optional("endpoint");
    let paths = FILES.map(|key| section.optional::<PathBuf>(key));
    let given = address.is_some();
    let Some(address) = address.filter(|address| !address.is_empty()) else {
        for (key, _) in FILES.iter().zip(&paths).filter(|(_, path)| path.is_some()) {
            section.fault(key, "there is no endpoint beside it");
        }
        return given.then_some(Whom::Nobody);
    };
    let endpoint = match Endpoint::parse(&address) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            section.fault("endpoint", error.to_string());
            return None;
        }
    };
    Some(Whom::Service(with_files(section, endpoint, paths)))
}

/// The files that belong to an endpoint.
const FILES: [&str; 4] = ["ca_file", "cert_file", "key_file", "token_file"];

/// An endpoint with its files, which are read to find faults.
fn with_files(
    section: &mut Section<'_>,
    mut endpoint: Endpoint,
    [ca_file, cert_file, key_file, token_file]: [Option<PathBuf>; 4],
) -> Endpoint {
    match (&cert_file, &key_file) {
        (Some(_), None) => section.fault("key_file", "missing beside cert_file"),
        (None, Some(_)) => section.fault("cert_file", "missing beside key_file"),
        _ => {}
    }
    let identity = cert_file.zip(key_file);
    let identity = identity.map(|(cert_file, key_file)| Identity {
        cert_file,
        key_file,
    });
    let files = ClientFiles { ca_file, identity };
    if !files.is_empty() {
        match endpoint.clone().with_certificates(files.clone()) {
            Ok(with) => endpoint = with,
            Err(error) => section.fault(key(&error, &files), error.to_string()),
        }
    }
    if let Some(path) = token_file {
        match endpoint.clone().with_token_file(path) {
            Ok(with) => endpoint = with,
            Err(error) => section.fault("token_file", error.to_string()),
        }
    }
    endpoint
}

/// The setting that an error is about.
fn key(error: &EndpointError, files: &ClientFiles) -> &'static str {
    let EndpointError::Certificates(error) = error else {
        return "endpoint";
    };
    match &files.identity {
        Some(identity) if error.file() == identity.key_file => "key_file",
        Some(identity) if error.file() == identity.cert_file => "cert_file",
        _ => "ca_file",
    }
}

fn timeout(section: &mut Section<'_>) -> Option<Duration> {
    let timeout: Duration = section.optional("timeout")?;
    if timeout < SHORTEST_TIMEOUT {
        let problem = format!(
            "{} is shorter than {}",
            humantime::format_duration(timeout),
            humantime::format_duration(SHORTEST_TIMEOUT)
        );
        section.fault("timeout", problem);
    }
    if timeout > LONGEST_TIMEOUT {
        let problem = format!(
            "{} is longer than {}: the platform waits for 500ms itself, and the answer has yet to \
             reach it",
            humantime::format_duration(timeout),
            humantime::format_duration(LONGEST_TIMEOUT)
        );
        section.fault("timeout", problem);
    }
    Some(timeout)
}

fn fallback(section: &mut Section<'_>) -> Option<BTreeMap<String, String>> {
    let given = section.has("fallback");
    let texts = section.texts("fallback");
    given.then(|| texts.into_iter().collect())
}
