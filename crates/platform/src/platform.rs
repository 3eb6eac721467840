//! The platform: one handle, cheap to clone.

use crate::{
    Ack, BatchRequest, BatchRun, Code, Error, Outcome, Producer, Result, RowSet, Session, Settings,
    Status, ViewRead,
};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use kaplan_base::{Clock, Lsn};
use std::sync::Arc;

/// A running platform.
#[derive(Clone)]
pub struct Platform {}

fn later<T>() -> Result<T> {
    Err(Error::new(Code::Unsupported, "not there yet"))
}

impl Platform {
    /// Opens the data directory, recovers, and starts the layers.
    pub async fn open(_settings: Settings, _clock: Arc<dyn Clock>) -> Result<Platform> {
        later()
    }

    /// Stops taking writes, drains, writes a checkpoint and stops the layers.
    pub async fn close(&self) -> Result<()> {
        later()
    }

    /// Runs one or several SQL statements, in order; stops at the first error.
    pub async fn execute(&self, _session: &mut Session, _sql: &str) -> Result<Vec<Outcome>> {
        later()
    }

    /// The columns of a stream or table, as writers must supply them.
    pub fn stream_schema(&self, _stream: &str) -> Result<SchemaRef> {
        later()
    }

    /// Commits rows to a stream (append) or table (upsert); returns when they are durable.
    /// The batches have the columns of [`Platform::stream_schema`].
    pub async fn append(
        &self,
        _stream: &str,
        _batches: Vec<RecordBatch>,
        _producer: Option<Producer>,
    ) -> Result<Ack> {
        later()
    }

    /// Reads one view.
    pub async fn read_view(&self, _read: ViewRead) -> Result<RowSet> {
        later()
    }

    /// Waits until every running view has taken in the commit.
    pub async fn wait_visible(&self, _lsn: Lsn) -> Result<()> {
        later()
    }

    /// Starts a batch run; `trigger` says who asked (`manual`, `schedule`, `http`).
    pub async fn start_batch_run(&self, _r: BatchRequest, _trigger: &str) -> Result<BatchRun> {
        later()
    }

    /// A batch run by id.
    #[must_use]
    pub fn batch_run(&self, _id: &str) -> Option<BatchRun> {
        None
    }

    /// What the platform holds and how it fares.
    pub fn status(&self) -> Result<Status> {
        later()
    }
}
