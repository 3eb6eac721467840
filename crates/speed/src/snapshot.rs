//! What readers see: all views at one LSN, as lists of immutable batches.

use arrow::array::RecordBatch;
use kaplan_base::Lsn;
use kaplan_circuit::{Clocks, Held, OutputSnapshot, Shelf};
use kaplan_sql::CompiledView;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a view fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewState {
    /// It follows the log.
    Running,
    /// It stopped at an error and must be replayed.
    Failed(String),
}

/// One view at the snapshot's LSN.
#[derive(Debug)]
pub struct ViewSnapshot {
    /// The view.
    pub compiled: Arc<CompiledView>,
    /// The definition's version.
    pub version: u32,
    /// How it fares.
    pub state: ViewState,
    /// The commit up to which this content is true (the snapshot's, unless the view failed).
    pub lsn: Lsn,
    /// The last commit that changed it.
    pub changed: Lsn,
    /// What the clocks that it looks at show there.
    pub clocks: Clocks,
    /// The content.
    pub content: OutputSnapshot,
    /// What keeps state, and how many rows and bytes each.
    pub keepers: Arc<[String]>,
    /// The rows and bytes, in the same order.
    pub sizes: Vec<(usize, usize)>,
    /// The merged rows, once some reader has made them and there is room.
    pub merged: Mutex<Option<Arc<Merged>>>,
    /// Held by the reader who makes them.
    pub merging: Mutex<()>,
    /// Where memory is counted.
    pub shelf: Option<Arc<dyn Shelf>>,
}

/// The rows of a view that a reader has put together.
#[derive(Debug)]
pub struct Merged {
    /// The LSN of the batch view that they include.
    pub base: Lsn,
    /// The rows.
    pub rows: RecordBatch,
    _held: Held,
}

impl ViewSnapshot {
    /// The merged rows that include this batch view, if a reader has made them.
    #[must_use]
    pub fn merged(&self, base: Lsn) -> Option<RecordBatch> {
        let merged = self.merged.lock();
        merged.as_ref().filter(|merged| merged.base == base).map(|merged| merged.rows.clone())
    }

    /// Keeps merged rows for the next reader, if there is room for them.
    pub fn keep_merged(&self, base: Lsn, rows: &RecordBatch) {
        let mut held = Held::on(self.shelf.clone());
        if held.try_count(rows.get_array_memory_size()) {
            let merged = Merged { base, rows: rows.clone(), _held: held };
            *self.merged.lock() = Some(Arc::new(merged));
        }
    }
}

/// All views at one LSN.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The last commit taken in.
    pub lsn: Lsn,
    /// Whether views that are split lack what hands have made of their commits.
    pub apart: bool,
    /// What comes after this commit is needed out of the log, should a hand be lost.
    pub needed: Lsn,
    /// What the clocks show there.
    pub clocks: Clocks,
    /// The views by name.
    pub views: BTreeMap<String, Arc<ViewSnapshot>>,
}
