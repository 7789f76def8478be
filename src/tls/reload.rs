//! Values that are built from files, and built again when the files change.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout};

use super::TlsError;

/// The minimum time between two checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The time that a connection waits for a check; after it, the connection uses what is loaded.
const CHECK_TIMEOUT: Duration = Duration::from_millis(100);
/// The maximum size of one file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a value is built from.
pub(super) trait Source: Send + Sync + 'static {
    /// The value.
    type Value: Clone + Send + 'static;

    /// The files; none: the value never changes.
    fn paths(&self) -> Vec<&Path>;

    /// Builds the value from the content of the files.
    fn build(&self, contents: &Contents) -> Result<Self::Value, TlsError>;
}

/// The content of files, by their paths.
#[derive(PartialEq, Eq)]
pub(super) struct Contents(BTreeMap<PathBuf, Vec<u8>>);

impl Contents {
    /// Reads the files of a source.
    pub fn read(source: &impl Source) -> Result<Self, TlsError> {
        let paths = source.paths().into_iter();
        let read = paths.map(|path| Ok((path.to_owned(), read(path)?)));
        Ok(Self(read.collect::<Result<_, TlsError>>()?))
    }

    /// The content of a file of the source.
    pub fn of(&self, path: &Path) -> &[u8] {
        self.0.get(path).map_or(&[], Vec::as_slice)
    }
}

/// The present value of a source.
///
/// Files that cannot be used leave the last good value in force, and a warning in the log.
pub(super) struct Reloaded<S: Source>(Arc<Inner<S>>);

struct Inner<S: Source> {
    source: S,
    value: Mutex<S::Value>,
    /// Held during a check, so that a mount that hangs keeps one thread at most.
    check: Arc<tokio::sync::Mutex<Check>>,
}

struct Check {
    at: Instant,
    contents: Contents,
    /// The last fault, which is logged once.
    fault: Option<String>,
}

impl<S: Source> Reloaded<S> {
    /// Reads the files for the first time.
    pub fn load(source: S) -> Result<Self, TlsError> {
        let contents = Contents::read(&source)?;
        let value = source.build(&contents)?;
        let check = Check {
            at: Instant::now(),
            contents,
            fault: None,
        };
        Ok(Self(Arc::new(Inner {
            source,
            value: Mutex::new(value),
            check: Arc::new(tokio::sync::Mutex::new(check)),
        })))
    }

    /// The present value. Checks the files first if the last check was some time ago.
    pub async fn value(&self) -> S::Value {
        let has_files = !self.0.source.paths().is_empty();
        // During a check by another caller, the loaded value is good enough.
        if let Ok(check) = self.0.check.clone().try_lock_owned()
            && has_files
            && check.at.elapsed() >= CHECK_INTERVAL
        {
            let inner = self.0.clone();
            let done = tokio::task::spawn_blocking(move || inner.check(check));
            // The check goes on without the caller if it takes too long.
            let _ = timeout(CHECK_TIMEOUT, done).await;
        }
        self.0.lock().clone()
    }
}

impl<S: Source> Inner<S> {
    fn check(&self, mut check: OwnedMutexGuard<Check>) {
        let changed = match Contents::read(&self.source) {
            Ok(contents) if contents == check.contents => Ok(None),
            Ok(contents) => {
                let built = self.source.build(&contents);
                built.map(|value| Some((contents, value)))
            }
            Err(error) => Err(error),
        };
        check.at = Instant::now();
        match changed {
            Ok(None) => check.fault = None,
            Ok(Some((contents, value))) => {
                check.contents = contents;
                check.fault = None;
                *self.lock() = value;
                let files = self.source.paths();
                tracing::info!(?files, "the TLS files have been read again");
            }
            Err(error) => {
                let fault = error.to_string();
                if check.fault.as_ref() != Some(&fault) {
                    tracing::warn!(fault, "the TLS files cannot be used; the last ones stay");
                }
                check.fault = Some(fault);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, S::Value> {
        // Replaced in one step: a panic elsewhere leaves it whole.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        let mut content = Vec::new();
        File::open(path)?
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other("it has more than 1 MiB"));
        }
        Ok(content)
    };
    read().map_err(|error| TlsError::Read {
        file: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source whose value is its file's text; `bad` in it is a fault.
    struct Text(PathBuf);

    impl Source for Text {
        type Value = String;

        fn paths(&self) -> Vec<&Path> {
            vec![&self.0]
        }

        fn build(&self, contents: &Contents) -> Result<String, TlsError> {
            let text = String::from_utf8_lossy(contents.of(&self.0)).into_owned();
            if text.contains("bad") {
                let (file, problem) = (self.0.clone(), "bad".to_owned());
                return Err(TlsError::Bad { file, problem });
            }
            Ok(text)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_follows_its_file_and_a_bad_or_missing_file_leaves_the_last_good_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("first");
        let value = Reloaded::load(Text(path.clone())).unwrap();
        write("second");
        assert_eq!(value.value().await, "first", "checked too early");
        tokio::time::advance(CHECK_INTERVAL).await;
        assert_eq!(value.value().await, "second");
        write("bad");
        tokio::time::advance(CHECK_INTERVAL).await;
        assert_eq!(value.value().await, "second");
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(CHECK_INTERVAL).await;
        assert_eq!(value.value().await, "second");
        write("third");
        tokio::time::advance(CHECK_INTERVAL).await;
        assert_eq!(value.value().await, "third");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_hangs_keeps_one_thread_and_delays_nobody_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "first").unwrap();
        let value = Reloaded::load(Text(path.clone())).unwrap();
        // Opening a pipe without a writer blocks, as a mount that hangs does.
        std::fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        tokio::time::resume();
        let check = value.0.check.clone();
        check.lock().await.at -= CHECK_INTERVAL;
        assert_eq!(value.value().await, "first");
        assert!(check.try_lock().is_err(), "the first check is over");
        for _ in 0..10 {
            assert_eq!(value.value().await, "first");
        }
        // Lets the thread end.
        std::fs::write(&path, "second").unwrap();
        check.lock().await.at += CHECK_INTERVAL;
        assert_eq!(value.value().await, "second");
    }

    #[test]
    fn a_file_of_more_than_a_mebibyte_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |bytes: u64| {
            file.as_file().set_len(bytes).unwrap();
            Reloaded::load(Text(file.path().to_owned()))
        };
        assert!(with(MAX_FILE_BYTES).is_ok());
        assert!(matches!(
            with(MAX_FILE_BYTES + 1),
            Err(TlsError::Read { .. })
        ));
    }
}
