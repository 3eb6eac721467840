//! What a relation's changes are written to: the trait that every sink implements.
//!
//! A sink gets the change of a relation over a range of commits and the LSN at its end. It writes
//! both as one, wherever the other side can do that, and tells the LSN when it is opened again; so
//! a crash at any moment neither loses nor repeats a change. A sink whose other side cannot do that
//! says so ([`Sink::exactly_once`]), and then a change may come twice, with the same LSN.

mod delta;
mod parquet;
mod postgres;
mod webhook;

pub use delta::DeltaSink;
pub use parquet::ParquetSink;
pub use postgres::PostgresSink;
pub use webhook::WebhookSink;

use crate::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use kaplan_base::Lsn;
use kaplan_sql::catalog::SinkDef;
use kaplan_store::Place;
use std::time::Duration;

/// What a sink is made from.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The definition, secrets included.
    pub def: SinkDef,
    /// The platform's own id, so that two of them do not take each other's place.
    pub platform: String,
    /// The columns of the rows.
    pub schema: SchemaRef,
    /// The positions of the key columns; empty for a sink that only appends.
    pub key: Vec<usize>,
    /// Where the platform keeps a copy of the sink's position, for what has no place of its own.
    pub place: Place,
}

/// A row's part in a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// It is new (with a key: the key's first row).
    Insert,
    /// It replaces the row of its key.
    Update,
    /// It is gone.
    Delete,
}

/// The net change of a relation over a range of commits: of each key at most one row, which with
/// [`Op::Delete`] is the old one. Without a key there are only inserts.
#[derive(Clone, Debug)]
pub struct Change {
    /// The rows.
    pub rows: RecordBatch,
    /// What becomes of each.
    pub ops: Vec<Op>,
}

/// Something that changes are written to.
#[async_trait]
pub trait Sink: Send {
    /// Connects, and tells the last LSN that the other side has; none when it never had any.
    ///
    /// # Errors
    /// As [`crate::Kind`] has them.
    async fn open(&mut self) -> Result<Option<Lsn>>;

    /// Writes a change and the LSN at its end; returns when both are durable there.
    ///
    /// # Errors
    /// As [`crate::Kind`] has them; the runner opens the sink again and asks where it stands.
    async fn write(&mut self, change: &Change, lsn: Lsn) -> Result<()>;

    /// The least time between two changes, where many small ones would be a burden: those that come
    /// meanwhile become one.
    fn pause(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether change and LSN are written as one.
    fn exactly_once(&self) -> bool {
        true
    }

    /// Gives up what the sink holds at the other side, because it was dropped.
    ///
    /// # Errors
    /// As [`crate::Kind`] has them.
    async fn dropped(&mut self) -> Result<()> {
        Ok(())
    }
}
