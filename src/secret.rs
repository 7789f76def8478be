//! Secrets: given inline, or in files that are read again when they change.
//!
//! A file is read when the configuration is, and from then on by one thread of its own
//! ([`keep_fresh`]). Using a secret never touches the disk, so that a mount that hangs delays
//! nobody.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};

use crate::log_limit::LogLimit;

/// A secret of the configuration: one value, or several that are all good. Its `Debug` shows where
/// it comes from, never what it is.
#[derive(Clone, Debug)]
pub struct Secret(Vec<Source>);

#[derive(Clone, Debug)]
enum Source {
    Inline(SecretString),
    File(Arc<SecretFile>),
}

#[derive(Debug)]
struct SecretFile {
    path: PathBuf,
    rule: Rule,
    /// The last good value.
    last: Mutex<Option<SecretString>>,
    warnings: LogLimit,
}

/// What a value must be, wherever it comes from and whenever it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anything that is not empty.
    Any,
    /// A segment of the push URL that cannot be guessed.
    PushSecret,
    /// A bearer token of an `authorization` header.
    Token,
}

/// The minimum length of a push secret.
const MIN_PUSH_SECRET: usize = 16;
/// The maximum size of a secret's file.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// Files are read again after this time.
const INTERVAL: Duration = Duration::from_secs(1);
/// A file that cannot be used is logged once in this time.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read; mount it, or correct its path or rights.
    #[error("the secret file {} cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is there and holds nothing.
    #[error("the secret file {} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The value in the file cannot be used; write another one.
    #[error("the secret file {} holds a value that is {problem}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Rule {
    /// What is wrong with a value.
    pub fn check(self, value: &str) -> Result<(), &'static str> {
        let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
        match self {
            _ if value.is_empty() => Err("empty"),
            Self::PushSecret if !value.chars().all(is_safe) => {
                Err("not made of letters, digits, '-', '_', '.', '~'")
            }
            Self::PushSecret if value.len() < MIN_PUSH_SECRET => Err("shorter than 16 characters"),
            Self::Token if !value.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err("not made of visible ASCII characters")
            }
            Self::Any | Self::PushSecret | Self::Token => Ok(()),
        }
    }
}

impl Secret {
    /// A secret given inline.
    pub fn inline(secret: impl Into<String>) -> Self {
        Self(vec![Source::Inline(SecretString::from(secret.into()))])
    }

    /// A secret in a file, without the line end that editors leave there.
    pub fn file(path: impl Into<PathBuf>, rule: Rule) -> Self {
        Self(vec![Source::File(Arc::new(SecretFile {
            path: path.into(),
            rule,
            last: Mutex::default(),
            warnings: LogLimit::new(WARNING_INTERVAL),
        }))])
    }

    /// A secret whose values are those of several others.
    pub fn any_of(secrets: impl IntoIterator<Item = Self>) -> Self {
        let sources = secrets.into_iter().flat_map(|Self(sources)| sources);
        Self(sources.collect())
    }

    /// The secret, of several values the first. The disk is read only if a file never was.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let mut all = self.read_all()?;
        if all.is_empty() {
            return Ok(SecretString::default());
        }
        Ok(all.swap_remove(0))
    }

    /// Every value of the secret.
    pub fn read_all(&self) -> Result<Vec<SecretString>, SecretError> {
        let values = self.0.iter().map(|source| match source {
            Source::Inline(secret) => Ok(secret.clone()),
            Source::File(file) => file.value(),
        });
        values.collect()
    }

    /// Whether a text is one of the values. The time it takes does not depend on how near it is.
    pub fn is(&self, text: &str) -> Result<bool, SecretError> {
        let is_any = |is_any: Choice, value: &SecretString| {
            is_any | value.expose_secret().as_bytes().ct_eq(text.as_bytes())
        };
        let values = self.read_all()?;
        Ok(values.iter().fold(Choice::from(0), is_any).into())
    }

    fn files(&self) -> impl Iterator<Item = &Arc<SecretFile>> {
        self.0.iter().filter_map(|source| match source {
            Source::File(file) => Some(file),
            Source::Inline(_) => None,
        })
    }
}

impl SecretFile {
    fn value(&self) -> Result<SecretString, SecretError> {
        let last = self.lock().clone();
        if let Some(value) = last {
            return Ok(value);
        }
        let value = read_file(&self.path, self.rule)?;
        *self.lock() = Some(value.clone());
        Ok(value)
    }

    /// Reads the file again. A file that cannot be used leaves the last good value in force.
    fn refresh(&self) {
        match read_file(&self.path, self.rule) {
            Ok(value) => *self.lock() = Some(value),
            Err(error) => {
                if self.warnings.admit().is_some() {
                    tracing::warn!(%error, "keeping the secret read before");
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SecretString>> {
        // Replaced in one step: a panic elsewhere leaves it whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the files of these secrets again every second, until nobody has the secrets any more. The
/// thread belongs to nothing that waits for its end, as a mount can hang for ever.
pub fn keep_fresh<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> io::Result<()> {
    let files: Vec<Weak<SecretFile>> = secrets
        .into_iter()
        .flat_map(Secret::files)
        .map(Arc::downgrade)
        .collect();
    if files.is_empty() {
        return Ok(());
    }
    let refresh = move || {
        loop {
            std::thread::sleep(INTERVAL);
            let mut is_any = false;
            for file in files.iter().filter_map(Weak::upgrade) {
                is_any = true;
                file.refresh();
            }
            if !is_any {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("secrets".into())
        .spawn(refresh)?;
    Ok(())
}

fn read_file(path: &Path, rule: Rule) -> Result<SecretString, SecretError> {
    let read = || {
        let mut text = String::new();
        File::open(path)?
            .take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other("it has more than 64 KiB"));
        }
        Ok(text)
    };
    let text = read().map_err(|error| SecretError::Unreadable {
        path: path.into(),
        error,
    })?;
    let value = text.trim_end_matches(['\r', '\n']);
    if value.is_empty() {
        return Err(SecretError::Empty { path: path.into() });
    }
    rule.check(value).map_err(|problem| SecretError::Unfit {
        path: path.into(),
        problem,
    })?;
    Ok(SecretString::from(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "0123456789abcdef";
    const BETTER: &str = "fedcba9876543210";

    fn refresh(secret: &Secret) {
        secret.files().for_each(|file| file.refresh());
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = Secret::inline("hush-hush");
        assert!(!format!("{secret:?}").contains("hush"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "hush-hush").unwrap();
        let secret = Secret::file(&path, Rule::Any);
        secret.read().unwrap();
        assert!(!format!("{secret:?}").contains("hush"));
    }

    #[test]
    fn a_file_is_read_without_its_line_end_and_must_not_be_empty_or_too_large() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let read = |content: &str| {
            std::fs::write(&path, content).unwrap();
            Secret::file(&path, Rule::Any).read()
        };
        assert_eq!(read("hush\r\n").unwrap().expose_secret(), "hush");
        assert!(matches!(read("\n"), Err(SecretError::Empty { .. })));
        let large = read(&"x".repeat(65_537));
        assert!(matches!(large, Err(SecretError::Unreadable { .. })));
    }

    #[test]
    fn a_push_secret_is_long_and_fit_for_a_url() {
        let check = |value| Rule::PushSecret.check(value);
        assert_eq!(check(GOOD), Ok(()));
        assert_eq!(check("0123456789abcde"), Err("shorter than 16 characters"));
        assert!(check("0123456789abcde/").is_err());
        assert!(check("").is_err());
    }

    #[test]
    fn a_rotated_file_counts_once_it_is_good_and_until_then_the_last_value_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, GOOD).unwrap();
        let secret = Secret::file(&path, Rule::PushSecret);
        let is = |value| secret.is(value).unwrap();
        assert!(is(GOOD));
        for bad in ["short", "", "with a space in it"] {
            std::fs::write(&path, bad).unwrap();
            refresh(&secret);
            assert!(is(GOOD) && !is(bad), "{bad:?}");
        }
        std::fs::remove_file(&path).unwrap();
        refresh(&secret);
        assert!(is(GOOD));
        std::fs::write(&path, BETTER).unwrap();
        refresh(&secret);
        assert!(is(BETTER) && !is(GOOD));
    }

    #[test]
    fn each_of_several_values_is_good() {
        let secret = Secret::any_of([Secret::inline(GOOD), Secret::inline(BETTER)]);
        for (value, expected) in [(GOOD, true), (BETTER, true), ("", false), ("0", false)] {
            assert_eq!(secret.is(value).unwrap(), expected, "{value:?}");
        }
        assert_eq!(secret.read().unwrap().expose_secret(), GOOD);
    }

    #[test]
    fn a_file_that_hangs_delays_nobody_who_uses_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, GOOD).unwrap();
        let secret = Secret::file(&path, Rule::PushSecret);
        assert!(secret.is(GOOD).unwrap());
        std::fs::remove_file(&path).unwrap();
        // Opening a pipe that nobody writes to waits for ever.
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let file = secret.files().next().unwrap().clone();
        let reading = std::thread::spawn(move || file.refresh());
        assert!(secret.is(GOOD).unwrap());
        assert!(!reading.is_finished());
        // Ends the wait, so that the thread can be joined.
        std::fs::write(&path, BETTER).unwrap();
        reading.join().unwrap();
        assert!(secret.is(BETTER).unwrap());
    }

    #[test]
    fn files_are_kept_fresh_by_a_thread_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, GOOD).unwrap();
        let secret = Secret::file(&path, Rule::PushSecret);
        assert!(secret.is(GOOD).unwrap());
        keep_fresh([&secret]).unwrap();
        std::fs::write(&path, BETTER).unwrap();
        let started = std::time::Instant::now();
        while !secret.is(BETTER).unwrap() {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "never read again"
            );
            std::thread::yield_now();
        }
    }
}
