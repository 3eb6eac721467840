//! Recovery: the state as it was after the log's last commit, rebuilt from the lake and the log's
//! tail before any write is accepted.
//!
//! First the definitions, then history up to the archive in any order, then
//! [`State::absorb_commit`] for every commit after the archive in order, and [`State::open`].
//! A tail with a gap, or changes of a table that do not sum to rows, are refused as damage.

use super::key::Hashes;
use super::producers::Last;
use super::request::internal;
use super::state::State;
use super::stream::{Stream, unknown};
use crate::{Code, Error, Result};
use kaplan_base::{Lsn, StreamId};
use kaplan_circuit::{Delta, decode_delta};
use kaplan_log::Commit;

/// The commits that rows of history came with.
#[derive(Clone, Copy, Debug)]
pub enum Positions<'a> {
    /// All rows came with one commit.
    One {
        /// The commit.
        lsn: Lsn,
        /// Its time, microseconds since the Unix epoch.
        time_us: i64,
    },
    /// One value a row.
    PerRow {
        /// The rows' commits.
        lsns: &'a [i64],
        /// The commits' times, microseconds since the Unix epoch.
        times_us: &'a [i64],
    },
}

impl Positions<'_> {
    fn get(&self, row: usize) -> (Lsn, i64) {
        match self {
            Positions::One { lsn, time_us } => (*lsn, *time_us),
            Positions::PerRow { lsns, times_us } => {
                (Lsn(u64::try_from(lsns[row]).unwrap_or(0)), times_us[row])
            }
        }
    }

    fn covers(&self, rows: usize) -> bool {
        match self {
            Positions::One { .. } => true,
            Positions::PerRow { lsns, times_us } => lsns.len() == rows && times_us.len() == rows,
        }
    }
}

impl State {
    /// Takes in rows of the lake: all changes of a table; of a stream with `UNIQUE` at least the
    /// rows committed within its interval. Row counts and watermark are absorbed apart.
    ///
    /// # Errors
    /// The stream is unknown or the rows do not have its columns.
    pub fn absorb_history(
        &mut self,
        stream: StreamId,
        positions: Positions<'_>,
        delta: &Delta,
    ) -> Result<()> {
        if !positions.covers(delta.len()) {
            return Err(internal("history without a commit for each row"));
        }
        let found = self.streams.get_mut(&stream).ok_or_else(|| unknown(stream))?;
        for row in 0..delta.len() {
            let (lsn, time_us) = positions.get(row);
            self.time_us = self.time_us.max(time_us);
            found.counters.last_lsn = found.counters.last_lsn.max(lsn);
        }
        remember(found, positions, delta)
    }

    /// Counts rows (of a table: changes) that the lake holds.
    ///
    /// # Errors
    /// The stream is unknown.
    pub fn absorb_rows(&mut self, stream: StreamId, rows: u64) -> Result<()> {
        let stream = self.streams.get_mut(&stream).ok_or_else(|| unknown(stream))?;
        stream.counters.rows += rows;
        Ok(())
    }

    /// Takes in the largest event time of the rows that the lake holds, microseconds since the Unix
    /// epoch.
    ///
    /// # Errors
    /// The stream is unknown.
    pub fn absorb_watermark(&mut self, stream: StreamId, max_event_time_us: i64) -> Result<()> {
        let stream = self.streams.get_mut(&stream).ok_or_else(|| unknown(stream))?;
        stream.absorb_time(max_event_time_us);
        Ok(())
    }

    /// Takes in a producer's last write, as it was archived; its time is 0 when it is not known.
    pub fn absorb_producer(&mut self, id: &str, last: Last) {
        self.producers.absorb(id, last.sequence, last.lsn, last.time_us);
    }

    /// Takes in the time of a durable commit, so that later ones are not before it.
    pub fn absorb_time(&mut self, time_us: i64) {
        self.time_us = self.time_us.max(time_us);
    }

    /// Takes in a commit of the log's tail, in order. Streams that are not defined are passed over:
    /// they were dropped.
    ///
    /// # Errors
    /// A gap in the tail, or a payload that cannot be read.
    pub fn absorb_commit(&mut self, commit: &Commit) -> Result<()> {
        if self.absorbed && commit.lsn != self.head.next() {
            let message = format!("commit {} of the log follows {}", commit.lsn, self.head);
            return Err(Error::new(Code::Corrupted, message));
        }
        self.absorbed = true;
        self.begin(commit.lsn);
        self.absorb_time(commit.time_us);
        if let Some(p) = &commit.producer {
            self.producers.absorb(&p.id, p.sequence, commit.lsn, commit.time_us);
        }
        for write in &commit.writes {
            let Some(stream) = self.streams.get_mut(&write.stream) else { continue };
            stream.counters.rows += u64::from(write.rows);
            stream.counters.last_lsn = commit.lsn;
            stream.counters.watermark_us = stream.counters.watermark_us.max(write.watermark_us);
            if stream.reads_rows() {
                let delta = decode_delta(&stream.definition.schema, &write.payload);
                let delta = delta.map_err(|e| unreadable(stream.name(), commit.lsn, &e))?;
                stream.pass_time(&delta)?;
                let (lsn, time_us) = (commit.lsn, commit.time_us);
                remember(stream, Positions::One { lsn, time_us }, &delta)?;
            }
        }
        Ok(())
    }

    /// Ends recovery: tables are settled and the next commit follows the log's `head`.
    ///
    /// # Errors
    /// The log's tail was not absorbed to its end, or a table's changes do not sum to rows.
    pub fn open(&mut self, head: Lsn) -> Result<()> {
        if self.head > head || (self.absorbed && self.head < head) {
            let message = format!("recovery ended at commit {}, the log at {head}", self.head);
            return Err(Error::new(Code::Corrupted, message));
        }
        self.begin(head);
        self.producers.open(self.time_us);
        for stream in self.streams.values_mut() {
            let name = stream.definition.def.name.clone();
            if let Some(table) = &mut stream.table {
                table.settle().map_err(|e| e.stream(name))?;
            }
        }
        self.count();
        Ok(())
    }
}

/// Files rows where later writes look for them.
fn remember(stream: &mut Stream, positions: Positions<'_>, delta: &Delta) -> Result<()> {
    if let Some(unique) = &mut stream.unique {
        let hashes = Hashes::of(&delta.rows, unique.columns())?;
        for row in (0..delta.len()).filter(|row| delta.weight(*row) > 0) {
            let (lsn, time_us) = positions.get(row);
            unique.remember(&hashes, row, lsn, time_us);
        }
    }
    match &mut stream.table {
        Some(table) => table.absorb(delta),
        None => Ok(()),
    }
}

fn unreadable(stream: &str, lsn: Lsn, error: &kaplan_circuit::Error) -> Error {
    let message = format!("the rows of {stream} in commit {lsn} cannot be read: {error}");
    Error::new(Code::Corrupted, message).stream(stream)
}
