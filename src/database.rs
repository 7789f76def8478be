//! What must be known of fjall, which every database here is.

use fjall::{AbstractTree, Keyspace, LsmError};

/// Fewer than the 4 sealed memtables, and the 30 runs of tables not yet compacted, at which fjall
/// makes a commit wait; one commit adds at most one of them.
const MAX_SEALED: usize = 3;
const MAX_RUNS: usize = 28;

/// The bytes of sealed journals at which fjall flushes what holds the oldest of them back; the least
/// that it accepts.
pub(crate) const MAX_JOURNALS: u64 = 64 << 20;

/// Whether background work is so far behind that a commit may have to wait for it. fjall waits
/// without a bound, and forever if that work has failed meanwhile: whoever commits looks here
/// first.
pub(crate) fn is_behind<'a>(keyspaces: impl IntoIterator<Item = &'a Keyspace>) -> bool {
    keyspaces.into_iter().any(|keyspace| {
        keyspace.tree.sealed_memtable_count() >= MAX_SEALED
            || keyspace.tree.l0_run_count() >= MAX_RUNS
    })
}

/// Whether an error says that files are out of reach for now, as when the process has no
/// descriptor left; any other says that they are missing or are not what they were.
pub(crate) fn is_out_of_reach(error: &fjall::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => {
            !matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
        }
        _ => false,
    }
}
