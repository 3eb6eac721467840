//! What is read from a position: the trait that every source implements, and what it gives.
//!
//! A source has *splits* (partitions of a topic, a replication slot, files), each with a position:
//! a number that only rises and below which everything has been read. The runner
//! (`platform::sources`) commits a [`Parcel`]'s changes and the position after them as one atomic
//! commit, and begins again at the last such position after any failure. So a source is exactly
//! once when it gives the same changes after the same position, and it need not remember anything.
//!
//! Invariants that a source keeps: the parcels of one split come in order, their positions rise;
//! everything between two positions is in the parcel of the second or was refused into its
//! [`Parcel::rejected`]; what cannot be read is never an error of [`Source::poll`]. A source tells
//! the other side that something was read (a slot's `confirmed_flush`, a group's offsets) in
//! [`Source::committed`] only.

use crate::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use kaplan_sql::catalog::{ColumnDef, SourceDef};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest wait of [`Source::poll`] when nothing comes.
pub const POLL_WAIT: Duration = Duration::from_millis(200);
/// About as many rows of one parcel; a commit of them is far below the log's limit.
pub const MAX_PARCEL_ROWS: usize = 65_536;
/// About as many bytes of one parcel, as they arrive.
pub const MAX_PARCEL_BYTES: usize = 8 << 20;

/// Where each split goes on.
pub type Positions = BTreeMap<String, u64>;

/// What a source is made from.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The definition, secrets included.
    pub def: SourceDef,
    /// The streams and tables that it fills, in the order of [`SourceDef::targets`].
    pub targets: Vec<Target>,
}

/// A stream or table that a source fills.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name, for messages.
    pub name: String,
    /// What it is called at the other side, where one source fills several.
    pub upstream: Option<String>,
    /// The columns that a source gives: all but the generated ones. [`Change::rows`] have exactly
    /// this schema.
    pub schema: SchemaRef,
    /// The key columns; empty without a key.
    pub primary_key: Vec<String>,
    /// Whether rows are only ever added.
    pub append_only: bool,
    /// The names of all its columns, the generated ones too.
    pub columns: Vec<String>,
}

impl Target {
    /// The positions of the key columns, in the order of the key.
    #[must_use]
    pub fn key(&self) -> Vec<usize> {
        self.primary_key.iter().filter_map(|c| self.schema.index_of(c).ok()).collect()
    }

    /// The key columns as a schema: what [`Kind::Delete`] rows have.
    #[must_use]
    pub fn key_schema(&self) -> SchemaRef {
        let fields = self.key().into_iter().map(|at| self.schema.fields()[at].clone());
        std::sync::Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
    }
}

/// What the rows of a change do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They are added (an append-only stream, or a table without a key).
    Append,
    /// They are set by primary key.
    Upsert,
    /// They go. With a primary key the rows have the key columns ([`Target::key_schema`]); without
    /// one they are whole rows, of which each takes away one that is equal.
    Delete,
    /// Some columns of rows that are there are set. The batch has the key columns of each row as it
    /// is ([`Target::key_schema`]), then the columns that are set, by name, perhaps those of the key
    /// again. A row that is not there is left out and counted as dropped.
    Patch,
    /// All rows of a table go; the batch has none.
    Truncate,
}

/// Rows for one target, in order.
#[derive(Clone, Debug)]
pub struct Change {
    /// The target, by its place in [`Spec::targets`].
    pub target: usize,
    /// What the rows do.
    pub kind: Kind,
    /// The rows.
    pub rows: RecordBatch,
    /// Where each row came from, for the ledger and for [`Source::after`]: one position a row, and one
    /// of [`Kind::Truncate`]. Empty: the parcel's position, and it stays whole.
    pub origins: Vec<u64>,
}

/// Something that could not become a row. It is kept in the source's ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Where it stands in its split.
    pub position: u64,
    /// Why, in one sentence.
    pub reason: String,
    /// The field concerned.
    pub field: Option<String>,
    /// Its key, as text as far as it is text.
    pub key: Option<String>,
    /// What arrived, as text as far as it is text; cut at [`MAX_REJECTED_BYTES`].
    pub record: Option<String>,
}

/// Most bytes of a refused record that the ledger keeps.
pub const MAX_REJECTED_BYTES: usize = 16 << 10;

/// Bytes as the ledger shows them: text as far as it is text, cut where it is too long.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(MAX_REJECTED_BYTES)];
    String::from_utf8_lossy(cut).replace('\0', "\u{fffd}")
}

/// What becomes one commit.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// The split.
    pub split: String,
    /// Where the split goes on after this. A parcel without changes only moves the position.
    pub position: u64,
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// What could not be read.
    pub rejected: Vec<Rejected>,
}

impl Parcel {
    /// Nothing but a position.
    #[must_use]
    pub fn at(split: impl Into<String>, position: u64) -> Self {
        Self { split: split.into(), position, changes: Vec::new(), rejected: Vec::new() }
    }
}

/// Columns that a target lacks and records have.
#[derive(Clone, Debug, PartialEq)]
pub struct Grown {
    /// The target, by its place in [`Spec::targets`].
    pub target: usize,
    /// The columns.
    pub columns: Vec<ColumnDef>,
}

/// How far a source is behind the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// How much.
    pub amount: u64,
    /// Of what: `messages`, `bytes`, `files`.
    pub unit: &'static str,
}

/// What the other side says a relation is.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovered {
    /// The columns.
    pub columns: Vec<ColumnDef>,
    /// The key columns.
    pub primary_key: Vec<String>,
}

/// Something that is read from a position.
#[async_trait]
pub trait Source: Send {
    /// The columns of what is read, for a definition that leaves them out; `upstream` names it where
    /// a source fills several tables. Without [`Source::open`] before.
    ///
    /// # Errors
    /// As [`crate::Kind`] has them; a source that cannot know says so.
    async fn discover(&mut self, upstream: Option<&str>) -> Result<Discovered> {
        let _ = upstream;
        Err(Error::config("the columns are not declared, and the source does not tell them")
            .hint("declare the columns: CREATE SOURCE name (column type, ..) WITH (..)"))
    }

    /// Connects, and goes on after these positions. Splits that have none begin where the
    /// definition says; their positions are the answer, and are committed before anything is read,
    /// so that "latest" stays what it was.
    ///
    /// # Errors
    /// As [`crate::Kind`] has them.
    async fn open(&mut self, committed: &Positions) -> Result<Positions>;

    /// The next changes; nothing after [`POLL_WAIT`] when none come. A split that appears gives a
    /// parcel without changes first.
    ///
    /// # Errors
    /// As [`crate::Kind`] has them; the runner opens the source again.
    async fn poll(&mut self) -> Result<Vec<Parcel>>;

    /// The columns that the targets are to have before what the last [`Source::poll`] read can be
    /// taken. Where there are some its parcels are not committed: the columns are added, and the
    /// source is made and opened again at what is committed, so that it reads the same once more.
    fn grown(&mut self) -> Vec<Grown> {
        Vec::new()
    }

    /// Everything of a split below `position` is durable.
    ///
    /// # Errors
    /// As [`crate::Kind`] has them; what was read stays read.
    async fn committed(&mut self, split: &str, position: u64) -> Result<()>;

    /// Where a split goes on after everything that has this origin ([`Change::origins`]): a parcel
    /// that is too large for one commit is cut there.
    fn after(&self, origin: u64) -> u64 {
        origin.saturating_add(1)
    }

    /// What of one origin changes these targets is too much for one commit. Answers with parcels that
    /// say what is to be read in another way, from other splits; then the source is opened again.
    ///
    /// # Errors
    /// There is no other way: the source waits.
    fn too_large(&mut self, split: &str, targets: &BTreeSet<usize>) -> Result<Vec<Parcel>> {
        let _ = targets;
        let message = format!("a change in {split} is too much for one commit");
        Err(Error::new(crate::Kind::Refused, message))
    }

    /// How far behind it is, as far as it knows.
    fn lag(&self) -> Option<Lag>;

    /// What holds up a part of it, in a sentence, while the rest is read.
    fn note(&self) -> Option<String> {
        None
    }

    /// Gives up what the source holds at the other side, because it was dropped: a replication
    /// slot that it made, for instance.
    ///
    /// # Errors
    /// As [`crate::Kind`] has them; the source is dropped all the same, with a notice.
    async fn dropped(&mut self) -> Result<()> {
        Ok(())
    }
}
