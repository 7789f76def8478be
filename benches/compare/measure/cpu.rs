//! The CPU time that a side takes.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

/// Whose CPU time.
#[derive(Clone, Copy)]
pub enum Cpu<'a> {
    /// That of this process's threads whose names begin with one of these.
    Threads(&'a [&'a str]),
    /// That of a process, with the threads that it had.
    Process(u32),
}

/// CPU times up to a moment, by the place in /proc that tells them.
pub type Times = HashMap<PathBuf, Duration>;

impl Cpu<'_> {
    /// The CPU times up to now; nothing where there is no /proc.
    pub fn so_far(self) -> anyhow::Result<Times> {
        let names = match self {
            Self::Threads(names) => names,
            Self::Process(id) => return read([format!("/proc/{id}").into()], &[""]),
        };
        let Ok(threads) = fs::read_dir("/proc/self/task") else {
            return Ok(Times::new());
        };
        read(threads.flatten().map(|thread| thread.path()), names)
    }

    /// What has been taken since then.
    pub fn since(self, before: &Times) -> anyhow::Result<Duration> {
        let now = self.so_far()?;
        let taken = now.iter().map(|(place, time)| {
            time.saturating_sub(before.get(place).copied().unwrap_or_default())
        });
        Ok(taken.sum())
    }
}

fn read(places: impl IntoIterator<Item = PathBuf>, names: &[&str]) -> anyhow::Result<Times> {
    // In ticks of 10 ms on every Linux that there is.
    const TICK: Duration = Duration::from_millis(10);
    let mut times = Times::new();
    for place in places {
        // A thread may end meanwhile.
        let Ok(stat) = fs::read_to_string(place.join("stat")) else {
            continue;
        };
        let (name, fields) = stat
            .split_once('(')
            .and_then(|(_, rest)| rest.rsplit_once(')'))
            .context("a name in its stat")?;
        if names.iter().any(|wanted| name.starts_with(wanted)) {
            // After the name, utime and stime are the 12th and the 13th.
            let mut ticks = 0;
            for field in fields.split_whitespace().skip(11).take(2) {
                ticks += field.parse::<u32>()?;
            }
            times.insert(place, TICK * ticks);
        }
    }
    Ok(times)
}
