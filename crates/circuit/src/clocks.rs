//! What time it is at one LSN, for the filters of views that compare with it. Nothing here reads a
//! real clock: the time of a commit and the watermarks that it was stamped with are in the log, so a
//! view has the same answer live, in a replay and in a batch run.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The clock of commits: the time of the last one.
pub const NOW: &str = "now";

/// Clocks by name, each in microseconds since the Unix epoch. They never go back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks(BTreeMap<String, i64>);

impl Clocks {
    /// The name of the clock of a stream's watermark: the watermark that its last commit was
    /// stamped with, which is the one before that commit.
    #[must_use]
    pub fn watermark(stream: &str) -> String {
        format!("watermark {stream}")
    }

    /// What a clock shows. Before the first commit it is 1970, and there is no watermark.
    #[must_use]
    pub fn get(&self, clock: &str) -> Option<i64> {
        self.0.get(clock).copied().or_else(|| (clock == NOW).then_some(0))
    }

    /// Sets a clock to this time, unless it is past it.
    pub fn advance(&mut self, clock: &str, us: i64) {
        match self.0.get_mut(clock) {
            Some(shown) => *shown = us.max(*shown),
            None => {
                self.0.insert(clock.to_owned(), us);
            }
        }
    }
}
