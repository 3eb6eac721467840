//! The newest commits in memory, for followers that keep up.
//!
//! Invariant: the commits held are consecutive and end at the log's head, and their frames take at
//! most the limit in bytes.

use crate::{Commit, frame};
use kaplan_base::Lsn;
use std::collections::VecDeque;

pub(crate) struct Ring {
    commits: VecDeque<(Commit, usize)>,
    bytes: usize,
    limit: usize,
}

impl Ring {
    /// An empty ring that holds frames of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { commits: VecDeque::new(), bytes: 0, limit }
    }

    /// Adds the commit after the newest one, and drops the oldest ones that no longer fit.
    pub fn push(&mut self, commit: Commit) {
        let bytes = frame::len(&commit);
        self.bytes += bytes;
        self.commits.push_back((commit, bytes));
        while self.bytes > self.limit {
            let Some((_, dropped)) = self.commits.pop_front() else { break };
            self.bytes -= dropped;
        }
    }

    /// The commits from `from` on, at least one, within `max_bytes`; `None` if `from` is not held.
    pub fn read(&self, from: Lsn, max_bytes: usize) -> Option<Vec<Commit>> {
        let first = self.commits.front()?.0.lsn;
        let skip = usize::try_from(from.0.checked_sub(first.0)?).ok()?;
        let mut found = Vec::new();
        let mut total = 0;
        for (commit, bytes) in self.commits.range(skip.min(self.commits.len())..) {
            total += bytes;
            if total > max_bytes && !found.is_empty() {
                break;
            }
            found.push(commit.clone());
        }
        (!found.is_empty()).then_some(found)
    }
}
