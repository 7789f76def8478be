//! `[dialog_context]`: who answers what the platform asks during a call.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use super::reader::Section;
use crate::provider::{Endpoint, Options, Override, Whom};

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
    let ca_file: Option<PathBuf> = section.optional("ca_file");
    let given = address.is_some();
    let Some(address) = address.filter(|address| !address.is_empty()) else {
        if ca_file.is_some() {
            section.fault("ca_file", "there is no endpoint beside it");
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
    let Some(ca_file) = ca_file else {
        return Some(Whom::Service(endpoint));
    };
    match endpoint.with_ca_file(ca_file) {
        Ok(endpoint) => Some(Whom::Service(endpoint)),
        Err(error) => {
            section.fault("ca_file", error.to_string());
            None
        }
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
