//! What goes into the sequencer: definitions of streams, and writes of Arrow batches. Plain data;
//! nothing here decides anything.

use crate::{Code, Error, Producer};
use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use kaplan_base::limits::MAX_COMMIT_BYTES;
use kaplan_base::{Lsn, StreamId};
use kaplan_sql::catalog::StreamDef;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

/// Rows for one or several streams that become one atomic commit.
#[derive(Clone, Debug, Default)]
pub struct WriteRequest {
    /// The writes, resolved in this order.
    pub writes: Vec<StreamWrite>,
    /// Who sends it, where a retry must count once.
    pub producer: Option<Producer>,
    /// Of a source: the producer's last sequence before this one, 0 when there is none. Any other is
    /// refused with [`Code::Conflict`], so that no two readers of one split count its rows twice;
    /// and there is a commit even when nothing changes, since it holds the position.
    pub after: Option<u64>,
    /// A commit without rows, which only tells the time and the watermarks; these streams' go on to
    /// what is given.
    pub tick: Option<BTreeMap<StreamId, i64>>,
}

/// Rows for one stream.
#[derive(Clone, Debug)]
pub struct StreamWrite {
    /// The stream or table.
    pub stream: StreamId,
    /// The rows, with all columns of the stream (for [`WriteKind::Delete`] see there).
    pub rows: Vec<RecordBatch>,
    /// What the rows do.
    pub kind: WriteKind,
}

/// What the rows of a write do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// Adds the rows to a stream or to a table without primary key.
    Append,
    /// Sets the rows of a table with primary key; what wins says the table's `ON CONFLICT`, the last
    /// row of a key unless it says otherwise.
    Upsert,
    /// Adds rows to a table; a row whose primary key is there already refuses the request.
    Insert,
    /// Removes whole rows of a table, each of which must be there as it is given, as often as it is
    /// given; else the request is refused with [`Code::Conflict`] and nothing of it stays.
    Remove,
    /// Removes rows of a table. With a primary key the batches hold the key columns, in the order
    /// of the key; without one they hold whole rows, each of which removes one matching row.
    Delete,
    /// Sets some columns of rows of a table with primary key. The batches hold the key columns of
    /// each row as it is, in the order of the key, then the columns that are set, by name, perhaps
    /// those of the key again. A row that is not there counts as dropped.
    Patch,
    /// Removes all rows of a table; there are no batches. Refused with [`Code::TooLarge`] when they
    /// are too many for one commit: then [`WriteKind::Clear`] comes before.
    Truncate,
    /// Removes as many rows of a table as one commit takes with ease, whichever they are; there are
    /// no batches. The acknowledgement says how many: none when the table is empty.
    Clear,
}

/// The compiled `CHECK` conditions of one stream.
pub trait Checks: Send + Sync {
    /// One array per check, in order of declaration, one value a row. A row breaks a check whose
    /// value is false; NULL passes.
    ///
    /// # Errors
    /// A condition that cannot be computed on these rows, such as a division by zero.
    fn evaluate(&self, rows: &RecordBatch) -> Result<Vec<BooleanArray>, String>;
}

/// A stream or table as the sequencer must know it.
pub struct Definition {
    /// The catalog's definition.
    pub def: StreamDef,
    /// Its columns as Arrow types.
    pub schema: SchemaRef,
    /// Its compiled checks; needed when the definition has any.
    pub checks: Option<Box<dyn Checks>>,
    /// The stream that takes rows quarantined by a check, with the columns `reason`,
    /// `constraint_name`, `row_number` and `row` in this order.
    pub quarantine: Option<StreamId>,
}

/// What happened to a stream's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rows committed since the stream was created (a table: changes).
    pub rows: u64,
    /// Duplicates dropped since start.
    pub duplicates: u64,
    /// Late rows since start.
    pub late: u64,
    /// Rows quarantined since start.
    pub quarantined: u64,
    /// Rows dropped by a check since start.
    pub dropped: u64,
    /// The watermark, microseconds since the Unix epoch.
    pub watermark_us: Option<i64>,
    /// The last commit that touched it.
    pub last_lsn: Lsn,
}

/// The bounds of the sequencer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of requests that wait; beyond it requests are refused.
    pub queue_bytes: usize,
    /// A group takes requests until it holds this many bytes.
    pub group_bytes: usize,
    /// Most requests of one group.
    pub group_requests: usize,
    /// How long the first request of a group waits for others.
    pub linger: Duration,
    /// Most bytes of the log that are not archived yet; beyond it requests are refused.
    pub log_reserve_bytes: u64,
    /// Most bytes of one commit, at most [`MAX_COMMIT_BYTES`].
    pub commit_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_bytes: 256 << 20,
            group_bytes: 32 << 20,
            group_requests: 4_096,
            linger: Duration::ZERO,
            log_reserve_bytes: 4 << 30,
            commit_bytes: MAX_COMMIT_BYTES,
        }
    }
}

impl WriteRequest {
    /// The rows that arrive.
    pub(super) fn rows(&self) -> u64 {
        self.writes.iter().map(StreamWrite::count).sum()
    }

    /// The memory that the rows take, in bytes; of sliced batches only the slice.
    pub(crate) fn bytes(&self) -> usize {
        let batches = self.writes.iter().flat_map(|w| &w.rows);
        let columns = batches.flat_map(|b| b.columns());
        columns
            .map(|c| {
                c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size())
            })
            .sum()
    }
}

impl StreamWrite {
    /// The rows that arrive.
    pub(super) fn count(&self) -> u64 {
        self.rows.iter().map(|b| b.num_rows() as u64).sum()
    }
}

/// A defect: a kernel failed on rows that had been checked.
pub(super) fn internal(error: impl Display) -> Error {
    Error::new(Code::Internal, format!("sequencer: {error}"))
}
