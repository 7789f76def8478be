//! The memory that the bounds of the configuration allow in sum, and the budget for it.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::config::Config;
use crate::grpc::overload::PAGES;

const MIB: u64 = 1 << 20;
/// The program, its database with its cache and tables in memory, and the tail of the log.
const BASE: u64 = 320 * MIB;
/// A request message is held as bytes, by the decoder, and decoded.
const COPIES_OF_A_MESSAGE: u64 = 3;
/// A page is held decoded and encoded; an event may be larger than the page.
const PAGE: u64 = 4 * MIB;
/// A stream whose client takes nothing: its batch of events, and what waits in the connection.
const STREAM: u64 = 128 << 10;
/// An idle HTTP/2 connection.
const CONNECTION: u64 = 16 << 10;
/// A push is held as bytes, parsed, and encoded.
const COPIES_OF_A_PUSH: u64 = 2;
/// A recording on its way into the archive.
const RECORDING: u64 = 15 * MIB;

/// What one group of bounds allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The settings.
    pub of: &'static str,
    /// The memory in bytes.
    pub bytes: u64,
}

/// The most memory that the bounds allow in sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs(pub Vec<Need>);

impl Needs {
    /// Of a configuration.
    pub fn of(config: &Config) -> Self {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let grpc = &config.grpc;
        let needs = [
            ("the program and its store", 1, BASE),
            (
                "grpc.max_buffered_bytes",
                count(grpc.max_buffered_bytes),
                COPIES_OF_A_MESSAGE,
            ),
            ("pages of answers", count(PAGES), PAGE),
            ("grpc.max_streams", count(grpc.max_streams), STREAM),
            (
                "grpc.max_connections",
                count(grpc.max_connections),
                CONNECTION,
            ),
            (
                "push.max_buffered_bytes",
                count(config.push.max_buffered_bytes),
                COPIES_OF_A_PUSH,
            ),
            (
                "voice.max_concurrent",
                count(config.voice.max_concurrent) * u64::from(!config.voice.archive.is_empty()),
                RECORDING,
            ),
            (
                "dialog_context.cache_bytes",
                count(config.dialog_context.cache_bytes),
                1,
            ),
        ];
        let need = |(of, number, each): (&'static str, u64, u64)| Need {
            of,
            bytes: number.saturating_mul(each),
        };
        Self(needs.into_iter().map(need).collect())
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let bytes = self.0.iter().map(|need| need.bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// What is wrong where a budget is too small for it.
    pub fn problem(&self, budget: u64) -> Option<String> {
        let total = self.total();
        (total > budget).then(|| {
            format!(
                "{} MiB is less than the {} MiB that the bounds allow in sum: {self}",
                budget / MIB,
                total.div_ceil(MIB),
            )
        })
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut needs = self.0.clone();
        needs.retain(|need| need.bytes > 0);
        needs.sort_by_key(|need| std::cmp::Reverse(need.bytes));
        for (position, need) in needs.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{} {} MiB", need.of, need.bytes.div_ceil(MIB))?;
        }
        Ok(())
    }
}

/// The budget: the configured one, or three quarters of the limit of the control group.
pub fn budget(config: &Config) -> Option<u64> {
    match config.memory_budget {
        0 => limit(Path::new("/")).map(|limit| limit / 4 * 3),
        configured => Some(configured),
    }
}

/// The limit of the process's control group below a root of the file system, if it has one.
fn limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (folder, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|it| it == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container, the group's own folder may be mounted as the root.
        files.push(root.join(folder).join(path).join(file));
        files.push(root.join(folder).join(file));
    }
    let read = |file: &std::path::PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
    // The first version says "no limit" as a number near 2^63.
    let limits = files.iter().filter_map(read);
    limits.filter(|limit| *limit < 1 << 60).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, std::iter::empty()).unwrap()
    }

    #[test]
    fn larger_bounds_need_more_memory_and_a_smaller_budget_names_them() {
        let default = Needs::of(&config(""));
        let larger = Needs::of(&config("grpc.max_streams = 100000"));
        assert!(larger.total() > default.total());
        assert_eq!(larger.problem(larger.total()), None);
        let problem = larger.problem(larger.total() - 1).unwrap();
        assert!(
            problem.contains(": grpc.max_streams 12500 MiB, "),
            "{problem}"
        );
    }

    #[test]
    fn the_limit_is_that_of_the_control_group_of_either_version() {
        for (groups, files, expected) in [
            (
                "0::/\n",
                &[("sys/fs/cgroup/memory.max", "1073741824\n")][..],
                Some(1 << 30),
            ),
            ("0::/\n", &[("sys/fs/cgroup/memory.max", "max\n")], None),
            (
                "0::/pod/gateway\n",
                &[("sys/fs/cgroup/pod/gateway/memory.max", "4096\n")],
                Some(4096),
            ),
            (
                "5:cpu:/x\n4:memory:/pod\n",
                &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "8192\n")],
                Some(8192),
            ),
            (
                "4:memory:/\n",
                &[(
                    "sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712\n",
                )],
                None,
            ),
            ("", &[], None),
        ] {
            let root = tempfile::tempdir().unwrap();
            let all = [("proc/self/cgroup", groups)]
                .into_iter()
                .chain(files.iter().copied());
            for (file, text) in all {
                let file = root.path().join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            assert_eq!(limit(root.path()), expected, "{groups}");
        }
    }
}
