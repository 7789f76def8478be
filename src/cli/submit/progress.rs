//! How far an upload has come, for whoever waits.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::print;

/// A bar on a terminal; elsewhere a line now and then. On stderr, without anything of the rows.
pub struct Progress {
    bar: ProgressBar,
    total: u64,
    is_terminal: bool,
    told: Instant,
}

/// Where there is no terminal, a line is written this often.
const EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// Nothing of so many rows.
    pub fn of(total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let style = "{wide_bar} {human_pos} of {human_len} rows, {per_sec:0}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self {
            bar,
            total,
            is_terminal: std::io::stderr().is_terminal(),
            told: Instant::now(),
        }
    }

    /// Shows that so many rows have come to an end.
    pub fn at(&mut self, settled: u64) {
        self.bar.set_position(settled);
        if !self.is_terminal && self.told.elapsed() >= EVERY {
            print::note(format_args!("{settled} of {} rows", self.total));
            self.told = Instant::now();
        }
    }

    /// Writes a line, above the bar where there is one.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| print::note(line));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
