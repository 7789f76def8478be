//! Decides how much of the log's old end is retired.
//!
//! Four bounds apply, and the strictest wins: the age of an entry, the bytes of the entries, the
//! bytes that the folder takes, and the space that must stay free on its volume.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::disk::{Disk, LogTable};
use super::format::Prefix;
use super::{Shared, read};
use crate::push::Position;
use crate::store::ReadError;

/// The journals of the two databases in the folder. fjall begins another one at 64 MB, and removes
/// an old one only when its content is in tables.
const JOURNALS: u64 = 256 << 20;
/// This part of the bound is always left to the log, however much the rest of the folder takes.
const LEAST_SHARE: u64 = 4;
/// Entries that cannot be read are passed over; as many as this in a row hide what follows.
const LOOK_AHEAD: usize = 4096;

impl Shared {
    /// The position up to which entries are to be retired. `beside` is what the rest of the folder
    /// takes, in bytes.
    pub(super) fn retirable(&self, beside: u64) -> Result<Position, ReadError> {
        let guard = read(&self.disk);
        let disk = guard.as_ref().ok_or_else(|| self.not_open())?;
        let (earliest, end) = (self.earliest(), *self.end.borrow());
        let oldest_ms = self.age_ms().saturating_sub(self.options.retention_ms());
        let by_age = last(disk, earliest, end, |it| it.taken.age_ms < oldest_ms)?;
        let total = self.total_bytes.load(Ordering::Relaxed);
        let most = self.options.retention_bytes;
        let by_bytes = last(disk, earliest, end, |it| {
            most > 0 && total.saturating_sub(it.taken.bytes_before) > most
        })?;
        let tables = disk.log_tables();
        let excess = self.excess(disk, &tables, beside);
        let by_space = first_tables(&tables, excess).unwrap_or_default();
        Ok(earliest.max(by_age).max(by_bytes).max(by_space))
    }

    /// How many bytes the log's tables must give back.
    fn excess(&self, disk: &Disk, tables: &[LogTable], beside: u64) -> u64 {
        let tables: u64 = tables.iter().map(|table| table.bytes).sum();
        let rest = disk.table_bytes().saturating_sub(tables) + beside;
        let room = room_for_log(self.options.retention_bytes, rest);
        let short = match volume(&self.options.path) {
            Ok((total, free)) => {
                let floor = total / 100 * u64::from(self.options.min_free_percent);
                short_of(floor, free, tables)
            }
            Err(error) => {
                tracing::warn!(%error, "how much of the volume is free is not known");
                0
            }
        };
        tables.saturating_sub(room).max(short)
    }
}

/// The bytes and the free bytes of the volume that holds a folder.
fn volume(folder: &Path) -> std::io::Result<(u64, u64)> {
    let found = rustix::fs::statvfs(folder)?;
    Ok((
        found.f_blocks * found.f_frsize,
        found.f_bavail * found.f_frsize,
    ))
}

/// How many bytes the log's tables must give back for this much free space. A log that takes less
/// than the space that shall be free is not what fills the volume: it keeps that much.
fn short_of(floor: u64, free: u64, tables: u64) -> u64 {
    let short = floor.saturating_sub(free);
    short.min(tables.saturating_sub(floor))
}

/// The bytes that the log's tables may take beside `rest` bytes in the same folder.
fn room_for_log(most: u64, rest: u64) -> u64 {
    match most {
        0 => u64::MAX,
        most => {
            let tables = (most / 2).max(most.saturating_sub(JOURNALS));
            tables.saturating_sub(rest).max(most / LEAST_SHARE)
        }
    }
}

/// The last entry of the oldest tables that take this many bytes together.
fn first_tables(tables: &[LogTable], bytes: u64) -> Option<Position> {
    let mut left = bytes;
    let enough = tables.iter().take_while(|table| {
        let more = left > 0;
        left = left.saturating_sub(table.bytes);
        more
    });
    enough.last().map(|table| Position(table.last))
}

/// The position after the last entry for which this holds, if it holds for all before that one.
/// Damaged entries go with the one that follows them.
fn last(
    disk: &Disk,
    earliest: Position,
    end: Position,
    holds: impl Fn(&Prefix) -> bool,
) -> Result<Position, ReadError> {
    let (mut low, mut high) = (earliest.0, end.0);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = disk.first_from(middle + 1, LOOK_AHEAD);
        match found.map_err(super::reading::unavailable)? {
            Some((number, prefix)) if number <= high && holds(&prefix) => low = number,
            Some((number, _)) if number <= high => high = middle,
            _ => high = middle,
        }
    }
    Ok(Position(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_tables_are_retired_until_there_is_room() {
        let tables =
            [(10, 100), (20, 100), (30, 100)].map(|(last, bytes)| LogTable { last, bytes });
        for (excess, expected) in [
            (0, None),
            (1, Some(10)),
            (100, Some(10)),
            (101, Some(20)),
            (300, Some(30)),
            (1000, Some(30)),
        ] {
            let position = first_tables(&tables, excess);
            assert_eq!(position, expected.map(Position), "{excess}");
        }
        assert_eq!(first_tables(&[], 1), None);
    }

    #[test]
    fn free_space_comes_from_a_log_that_fills_the_volume_and_from_no_other() {
        for (floor, free, tables, expected) in [
            (50, 60, 800, 0),
            (50, 50, 800, 0),
            (50, 20, 800, 30),
            (50, 0, 60, 10),
            (50, 0, 50, 0),
            (50, 0, 3, 0),
            (0, 0, 800, 0),
        ] {
            let short = short_of(floor, free, tables);
            assert_eq!(short, expected, "{floor} {free} {tables}");
        }
    }

    #[test]
    fn the_log_has_the_bound_without_journals_and_the_rest_and_never_less_than_a_quarter() {
        const GIB: u64 = 1 << 30;
        for (most, rest, expected) in [
            (0, 5 * GIB, u64::MAX),
            (4 * GIB, 0, 4 * GIB - JOURNALS),
            (4 * GIB, GIB, 3 * GIB - JOURNALS),
            (4 * GIB, 9 * GIB, GIB),
            (JOURNALS, 0, JOURNALS / 2),
        ] {
            assert_eq!(room_for_log(most, rest), expected, "{most} {rest}");
        }
    }
}
