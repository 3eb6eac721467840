//! The archive's progress: one small JSON object in the lake's root, replaced as a whole.
//!
//! It may lag behind the tables (a crash after the appends and before the progress), never lead
//! them: the archiver sets it after every append that it speaks of has returned.

use kaplan_base::{Lsn, StreamId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The object's name below the lake's root.
pub(crate) const PROGRESS_FILE: &str = "_kaplan_archive.json";

/// How far the archive has come, with what a restart needs of the archived log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Every row at or below this position is in its table; idle tables included.
    pub archived_through: Lsn,
    /// The commit time of that position, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// The last archived commit of each producer, for deduplication after a restart.
    pub producers: BTreeMap<String, Producer>,
    /// Rows archived per stream.
    pub rows: BTreeMap<StreamId, u64>,
    /// The watermark that each stream's last archived commit was stamped with.
    pub stamped: BTreeMap<StreamId, i64>,
    /// Each stream's watermark at `archived_through`, in microseconds since the Unix epoch.
    pub watermarks: BTreeMap<StreamId, i64>,
}

/// The last archived commit of one producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producer {
    /// The producer's own number of the commit.
    pub sequence: u64,
    /// Where the commit is in the log.
    pub lsn: Lsn,
    /// The commit's time, in microseconds since the Unix epoch; 0 where an older version wrote this.
    #[serde(default)]
    pub time_us: i64,
}
