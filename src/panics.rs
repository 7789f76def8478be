//! A panic ends the process: no part of the gateway stops while the others go on.
//!
//! The process entry installs the hook with [`end_process`]. Code that lives in the library alone,
//! as its tests do, keeps the hook that it has. [`contained`] is the one exception.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use crate::platform::masked;

/// The exit code after a panic; the same that Rust gives to a panic of the main thread.
pub const EXIT_CODE: i32 = 101;

/// The time for the last line. A log reader that has stopped reading blocks the line longer.
const LAST_LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// The most characters of a payload that are reported. A payload may quote a whole push.
const MAX_PAYLOAD: usize = 500;

/// One panic, fit for a log: long numbers are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PanicReport {
    /// The source file, line and column.
    pub location: String,
    /// The thread's name.
    pub thread: String,
    /// The message of the panic.
    pub payload: String,
}

impl PanicReport {
    fn new(info: &PanicHookInfo<'_>) -> Self {
        let payload = info.payload_as_str().unwrap_or("not a text");
        Self {
            location: location(info),
            thread: thread::current().name().unwrap_or("unnamed").to_owned(),
            payload: masked(payload).chars().take(MAX_PAYLOAD).collect(),
        }
    }
}

fn location(info: &PanicHookInfo<'_>) -> String {
    info.location().map(ToString::to_string).unwrap_or_default()
}

/// Makes every panic of this process end it, after `report` has written the last line.
///
/// A thread of its own writes the line and exits with [`EXIT_CODE`]. It holds no locks and no
/// destructors of the thread that panicked. The exit code is preferred to an abort, as a core dump
/// would hold secrets and phone numbers. The thread that panicked aborts the process only if it
/// still runs after a second: the line is blocked, `report` panicked, or the exit hangs.
///
/// # Errors
///
/// The reporting thread cannot be started.
pub fn end_process(report: impl Fn(&PanicReport) + Send + 'static) -> io::Result<()> {
    // Room for one: the process ends with the first panic, and further ones are not reported.
    let (reports, first) = sync_channel(1);
    thread::Builder::new()
        .name("panic-reporter".into())
        .spawn(move || report_first(&first, report))?;
    set_hook(Box::new(move |info| {
        if note_contained(info) {
            return;
        }
        // An error means that another panic is being reported.
        let _ = reports.try_send(PanicReport::new(info));
        thread::sleep(LAST_LINE_TIMEOUT);
        std::process::abort();
    }));
    Ok(())
}

fn report_first(first: &Receiver<PanicReport>, report: impl Fn(&PanicReport)) {
    if let Ok(panic) = first.recv() {
        report(&panic);
        std::process::exit(EXIT_CODE);
    }
}

thread_local! {
    /// `Some` within [`contained`]: the location of the last panic in it, empty before one.
    static CONTAINED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic of contained work. Its message is dropped, as it may quote what was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("panicked at {location}")]
pub struct Contained {
    /// The source file, line and column; empty if [`end_process`] was not called.
    pub location: String,
}

/// Runs `work` on this thread and turns its panic into an error: the process goes on.
///
/// For crates that parse files of strangers and may panic on a malformed one. `work` must hold no
/// lock and must not leave shared state half changed. Threads and tasks that it starts are not
/// contained.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Contained> {
    let outer = CONTAINED.replace(Some(String::new()));
    let done = catch_unwind(AssertUnwindSafe(work));
    let location = CONTAINED.replace(outer).unwrap_or_default();
    done.map_err(|_| Contained { location })
}

/// Notes the location of a contained panic; false if nothing on this thread contains it.
fn note_contained(info: &PanicHookInfo<'_>) -> bool {
    // A thread that is ending has no such variable any more, and contains nothing.
    let noted = CONTAINED.try_with(|contained| {
        let mut contained = contained.borrow_mut();
        let is_contained = contained.is_some();
        if is_contained {
            *contained = Some(location(info));
        }
        is_contained
    });
    noted.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contained_work_gives_its_value_or_the_error_of_its_panic() {
        assert_eq!(contained(|| 7), Ok(7));
        let outcome = contained(|| panic!("13000000001"));
        assert!(!outcome.unwrap_err().to_string().contains("13000000001"));
        assert!(CONTAINED.take().is_none(), "the scope is left open");
    }
}
