//! `[[clients]]` and `[[accounts]]`: who may call, and as whom the gateway calls the platform.

use std::path::PathBuf;

use super::reader::{Section, Setting};
use crate::account::Account;
use crate::secret::{Rule, Secret};

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

impl Setting for Permission {
    const EXPECTED: &'static str = "one of outbound, config, subscribe, calls, voice, admin";

    fn read(value: &toml::Value) -> Option<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|group| group.name() == name)
    }
}
impl Client {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
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
