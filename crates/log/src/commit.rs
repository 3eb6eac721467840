//! What the log holds, and the trait that every backend of it implements.
//!
//! Invariant: LSNs are consecutive; `start() <= head() + 1`, and every commit from `start()` to
//! `head()` can be read. The trait is blocking: one sequencer thread appends, others read.

use crate::Error;
use bytes::Bytes;
use kaplan_base::{Lsn, StreamId};
use std::time::Duration;

/// Longest id of a producer, in bytes.
pub const MAX_PRODUCER_BYTES: usize = 1_024;

/// One atomic set of changes, to one or more streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The position of the commit.
    pub lsn: Lsn,
    /// The commit's time, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// Who sent it, where the sender wants retries to count once.
    pub producer: Option<Producer>,
    /// The changes, one per stream touched.
    pub writes: Vec<Write>,
}

/// The sender of a commit and its own number for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The sender's name, at most [`MAX_PRODUCER_BYTES`] long.
    pub id: String,
    /// The sender's number of this commit.
    pub sequence: u64,
}

/// The change of one stream within a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The stream that changes.
    pub stream: StreamId,
    /// How many rows the payload holds.
    pub rows: u32,
    /// The stream's watermark before this commit, in microseconds since the Unix epoch.
    pub watermark_us: Option<i64>,
    /// The rows, in an encoding that the log does not look into.
    pub payload: Bytes,
}

/// A durable sequence of commits.
pub trait Log: Send + Sync {
    /// Appends commits with consecutive LSNs that begin at `head() + 1`; returns when all of them
    /// are durable. An empty group does nothing.
    ///
    /// # Errors
    /// See [`Error::may_have_happened`] for whether the group may be found after a reopen.
    fn append(&self, group: &[Commit]) -> Result<(), Error>;

    /// The last durable commit.
    fn head(&self) -> Lsn;

    /// The first commit still held; `head() + 1` when there is none.
    fn start(&self) -> Lsn;

    /// The bytes that the held commits take on disk.
    fn bytes(&self) -> u64;

    /// The commits after `after`, in order: at least one if there is one, and as many more as keep
    /// their encoded size within `max_bytes`.
    ///
    /// # Errors
    /// [`Error::Trimmed`] when `after + 1 < start()`; [`Error::Corrupt`]; [`Error::Io`].
    fn read(&self, after: Lsn, max_bytes: usize) -> Result<Vec<Commit>, Error>;

    /// Gives up commits up to and including `through`, as far as whole segments allow. Never
    /// removes a later one, and never forgets the head.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Failed`] or [`Error::Io`]; what was to be removed may be gone.
    fn trim(&self, through: Lsn) -> Result<(), Error>;

    /// Waits until `head() > after` or the timeout ends, and returns the head.
    fn wait(&self, after: Lsn, timeout: Duration) -> Lsn;

    /// Records how far the log is known to be durable, so that later damage there is told from a
    /// torn tail. To be called when idle; costs little when nothing was appended since.
    ///
    /// # Errors
    /// As the backend's storage has it; the log itself stays usable.
    fn mark_durable(&self) -> Result<(), Error> {
        Ok(())
    }
}
