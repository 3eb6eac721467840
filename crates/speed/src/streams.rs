//! The streams by number and name, shared by all who decode the log. Dropped streams stay known as
//! long as the log may hold their rows.

use arrow::datatypes::SchemaRef;
use kaplan_base::{Lsn, StreamId};
use kaplan_circuit::{Clocks, Delta, NOW, decode_delta};
use kaplan_lake::TableSpec;
use kaplan_log::Commit;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a reader of the log needs to know of a stream.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// The number.
    pub id: StreamId,
    /// The name.
    pub name: String,
    /// The columns.
    pub schema: SchemaRef,
    /// Whether rows are only added.
    pub append_only: bool,
    /// Set when the stream was dropped: its rows are skipped.
    pub dropped: bool,
}

impl StreamInfo {
    /// The stream's table in the lake.
    #[must_use]
    pub fn table(&self) -> TableSpec {
        TableSpec {
            name: self.name.clone(),
            id: self.id,
            schema: SchemaRef::clone(&self.schema),
            changes: !self.append_only,
        }
    }
}

/// All streams. Cheap to clone; clones share the content.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<RwLock<BTreeMap<StreamId, StreamInfo>>>);

impl Streams {
    /// Adds or changes a stream.
    pub fn set(&self, info: StreamInfo) {
        self.0.write().insert(info.id, info);
    }

    /// Marks a stream as dropped.
    pub fn drop_stream(&self, id: StreamId) {
        if let Some(info) = self.0.write().get_mut(&id) {
            info.dropped = true;
        }
    }

    /// A stream by number.
    #[must_use]
    pub fn get(&self, id: StreamId) -> Option<StreamInfo> {
        self.0.read().get(&id).cloned()
    }

    /// A stream that was not dropped, by name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<StreamInfo> {
        self.0.read().values().find(|s| s.name == name && !s.dropped).cloned()
    }

    /// All streams that were not dropped.
    #[must_use]
    pub fn all(&self) -> Vec<StreamInfo> {
        self.0.read().values().filter(|s| !s.dropped).cloned().collect()
    }

    /// Sets the clocks to what they show after these commits.
    pub fn tick(&self, clocks: &mut Clocks, commits: &[Commit]) {
        let mut marks: BTreeMap<StreamId, i64> = BTreeMap::new();
        for commit in commits {
            clocks.advance(NOW, commit.time_us);
            for write in &commit.writes {
                if let Some(us) = write.watermark_us {
                    marks.insert(write.stream, us);
                }
            }
        }
        self.mark(clocks, &marks);
    }

    /// Sets the clocks of streams to these watermarks.
    pub fn mark(&self, clocks: &mut Clocks, watermarks: &BTreeMap<StreamId, i64>) {
        let streams = self.0.read();
        for (id, us) in watermarks {
            if let Some(info) = streams.get(id).filter(|s| !s.dropped) {
                clocks.advance(&Clocks::watermark(&info.name), *us);
            }
        }
    }

    /// The rows of a group of commits, by stream name. A stream that is not known at all is an
    /// error: rows are never skipped in silence.
    pub fn decode(&self, commits: &[Commit]) -> crate::Result<Changes> {
        let mut deltas = Changes::new();
        let streams = self.0.read();
        for commit in commits {
            for write in &commit.writes {
                let unknown =
                    crate::Error::UnknownStream { lsn: commit.lsn, stream: write.stream.0 };
                let info = streams.get(&write.stream).ok_or(unknown)?;
                if !info.dropped {
                    let delta = decode_delta(&info.schema, &write.payload)?;
                    deltas.entry(info.name.clone()).or_default().push((commit.lsn, delta));
                }
            }
        }
        Ok(deltas)
    }
}

/// What each stream has in some commits, in order.
pub type Changes = BTreeMap<String, Vec<(Lsn, Delta)>>;

/// The last commit of a group.
#[must_use]
pub(crate) fn last_lsn(commits: &[Commit], before: Lsn) -> Lsn {
    commits.last().map_or(before, |c| c.lsn)
}
