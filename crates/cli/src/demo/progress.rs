//! Shows how the play goes: a bar on a terminal, else a line every few seconds.

use super::report::{grouped, instant, percentile};
use indicatif::{ProgressBar, ProgressStyle};
use kaplan_base::Lsn;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal, and between two looks of the bar.
const LINE_EVERY: Duration = Duration::from_secs(5);
const BAR_EVERY: Duration = Duration::from_millis(200);

/// The bar, or the lines.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    sent: u64,
    shown_sent: u64,
    shown_at: Instant,
}

impl Progress {
    /// Starts at nothing of `total` events.
    pub fn new(total: u64) -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:32} {percent:>3}% {msg}");
            let bar = ProgressBar::new(total);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, total, sent: 0, shown_sent: 0, shown_at: Instant::now() }
    }

    /// Counts `events`, the last of which reached the log at `at_us`.
    pub fn show(&mut self, at_us: i64, events: u64, freshness_us: &[u64], batch: Option<Lsn>) {
        self.sent += events;
        let elapsed = self.shown_at.elapsed();
        if elapsed < if self.bar.is_some() { BAR_EVERY } else { LINE_EVERY } {
            return;
        }
        let rate = (self.sent - self.shown_sent) as f64 / elapsed.as_secs_f64();
        let recent = &freshness_us[freshness_us.len().saturating_sub(64)..];
        let fresh = percentile(recent, 50).map_or("-".into(), |us| format!("{} us", grouped(us)));
        let batch = batch.map_or("-".into(), |lsn| lsn.to_string());
        let line = format!(
            "{}  {} events/s  visible after {fresh}  batch LSN {batch}",
            instant(at_us),
            grouped(rate as u64),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.sent);
                bar.set_message(line);
            }
            // A closed pipe must not end the demo.
            None => {
                let percent = self.sent * 100 / self.total.max(1);
                let _ = writeln!(std::io::stdout(), "{percent:>3}%  {line}");
            }
        }
        (self.shown_at, self.shown_sent) = (Instant::now(), self.sent);
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
