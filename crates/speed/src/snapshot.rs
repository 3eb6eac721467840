//! What readers see: all views at one LSN, as lists of immutable batches.

use arrow::array::RecordBatch;
use kaplan_base::Lsn;
use kaplan_circuit::{Clocks, OutputSnapshot};
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
    /// The merged rows, once some reader has made them: the LSN of the batch view they include, and
    /// the rows.
    pub merged: Mutex<Option<(Lsn, RecordBatch)>>,
}

/// All views at one LSN.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The last commit taken in.
    pub lsn: Lsn,
    /// What the clocks show there.
    pub clocks: Clocks,
    /// The views by name.
    pub views: BTreeMap<String, Arc<ViewSnapshot>>,
}
