//! The platform's settings: plain data with defaults, units in the names.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the platform is opened. Every field has a default but the data directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where log, lake, batch views, checkpoints and catalog live: a directory, or
    /// `s3://bucket/prefix` or `gs://bucket/prefix`.
    pub data_dir: PathBuf,
    /// The topic of Kafka that is the log, `kafka://host:9092,host:9092/topic`; empty: it is with the
    /// other data.
    pub log_url: String,
    /// Further properties of librdkafka for it, `name=value,name=value`.
    pub log_properties: String,
    /// Follow the log that another process writes in this bucket, and answer reads only.
    pub read_only: bool,
    /// Of a read replica: time between two looks at the log, milliseconds. Shorter: fresher answers,
    /// more requests to the bucket.
    pub follow_interval_ms: u64,
    /// How long the archiver waits between runs, milliseconds. Shorter: a smaller log tail and
    /// more, smaller lake files.
    pub archive_interval_ms: u64,
    /// The archiver also runs when the log's tail exceeds this many bytes.
    pub archive_bytes: u64,
    /// Time between checkpoints of the views' state, milliseconds. Shorter: faster restart, more
    /// writing.
    pub checkpoint_interval_ms: u64,
    /// Most bytes of writes that wait to be committed; beyond it writes are refused with 429.
    pub ingest_queue_bytes: usize,
    /// In a bucket: how long a write waits for others that share its object of the log,
    /// milliseconds. Shorter: faster answers, more and smaller objects.
    pub log_linger_ms: u64,
    /// When the log's tail holds this many bytes that the lake does not have yet, writes are
    /// refused with 429.
    pub log_reserve_bytes: u64,
    /// Longest wait of a read for a commit to become visible, milliseconds.
    pub read_wait_ms: u64,
    /// Multiplies the clock that batch schedules see, for demonstrations: 60 makes an hour a
    /// minute.
    pub schedule_speed: f64,
    /// Most bytes of one commit; what the log can hold in one is the most there can be.
    pub commit_bytes: usize,
    /// Most bytes of memory, about: half for the state of views, a quarter for queries and batch runs;
    /// what exceeds either goes to files. The default is 70 percent of what the machine or container has.
    pub memory_limit_bytes: u64,
    /// Lake files smaller than this many bytes are compacted together.
    pub compact_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("kaplan-data"),
            log_url: String::new(),
            log_properties: String::new(),
            read_only: false,
            follow_interval_ms: 200,
            archive_interval_ms: 5_000,
            archive_bytes: 64 << 20,
            checkpoint_interval_ms: 30_000,
            ingest_queue_bytes: 256 << 20,
            log_linger_ms: 100,
            log_reserve_bytes: 4 << 30,
            read_wait_ms: 30_000,
            schedule_speed: 1.0,
            commit_bytes: kaplan_base::limits::MAX_COMMIT_BYTES,
            memory_limit_bytes: crate::memory::default_limit_bytes(),
            compact_bytes: 32 << 20,
        }
    }
}
