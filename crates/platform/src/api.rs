//! What the wires and the program may ask of the platform: plain data in, plain data out. Nothing
//! here knows HTTP, PostgreSQL or a terminal.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use kaplan_base::Lsn;
use serde::{Deserialize, Serialize};

/// The identity of an idempotent write: a second write with the same producer and a sequence not
/// above the last one is acknowledged with the first one's LSN and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Producer {
    /// The producer's own name.
    pub id: String,
    /// Increases by at least one with every new write of this producer.
    pub sequence: u64,
}

/// The answer to a durable write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ack {
    /// The commit that holds the rows (for a duplicate: the commit that held the original).
    pub lsn: Lsn,
    /// Rows that arrived.
    pub rows: u64,
    /// Rows that were dropped because `UNIQUE (..) WITHIN ..` or the producer's sequence had seen
    /// them before.
    pub duplicates: u64,
    /// Rows that were older than the stream's watermark; they count all the same.
    pub late: u64,
    /// Rows that a `CHECK .. ON VIOLATION QUARANTINE` moved to `<stream>_quarantine`.
    pub quarantined: u64,
    /// Rows that a `CHECK .. ON VIOLATION DROP` dropped.
    pub dropped: u64,
}

/// The state of one client's conversation.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Variables set with `SET name = value`.
    pub variables: std::collections::BTreeMap<String, String>,
    /// The last commit this session wrote; its reads see at least that.
    pub last_write: Lsn,
    /// What it has begun.
    pub transaction: crate::Transaction,
}

/// The result of one SQL statement.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A result set.
    Rows(RowSet),
    /// A statement without rows.
    Done {
        /// The command tag, as PostgreSQL spells it (`CREATE TABLE`, `INSERT 0 3`).
        tag: String,
        /// The commit that the statement made, when it made one.
        lsn: Option<Lsn>,
        /// Remarks for the user, such as an ignored option.
        notices: Vec<String>,
    },
}

/// Rows at one LSN.
#[derive(Clone, Debug)]
pub struct RowSet {
    /// The columns; also present when there are no rows.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// The LSN at which they were true.
    pub lsn: Lsn,
}

/// The layer that a read asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Batch and speed merged: the answer.
    #[default]
    Served,
    /// What the last batch run published.
    Batch,
    /// What came after the last batch run.
    Speed,
}

/// A read of one view without SQL.
#[derive(Clone, Debug, Default)]
pub struct ViewRead {
    /// The view's name.
    pub view: String,
    /// Which layer.
    pub layer: Layer,
    /// Equality filters: column name and value as text.
    pub filters: Vec<(String, String)>,
    /// At most this many rows.
    pub limit: Option<usize>,
    /// Wait until this commit is visible.
    pub at: Option<Lsn>,
}

/// How a batch run computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchMode {
    /// Incremental where the view allows it, else full.
    #[default]
    Auto,
    /// Recompute from the lake.
    Full,
    /// Only what came since the last run.
    Incremental,
}

/// A request for a batch run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchRequest {
    /// The views to run; empty means every Lambda view.
    pub views: Vec<String>,
    /// How to compute.
    pub mode: BatchMode,
    /// A second request with the same key answers with the first one's run.
    pub key: Option<String>,
}

/// Where a batch run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// At work.
    Running,
    /// Published.
    Succeeded,
    /// Nothing was published; the error says why.
    Failed,
}

/// One batch run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchRun {
    /// The run's id.
    pub id: String,
    /// What asked for it: `manual`, `schedule`, `http`.
    pub trigger: String,
    /// The views it covers.
    pub views: Vec<String>,
    /// How it computes.
    pub mode: BatchMode,
    /// The LSN it computes up to, once decided.
    pub lsn: Option<Lsn>,
    /// Where it stands.
    pub state: RunState,
    /// Why it failed.
    pub error: Option<String>,
    /// Start, microseconds since the Unix epoch.
    pub started_us: i64,
    /// End, microseconds since the Unix epoch.
    pub ended_us: Option<i64>,
    /// Rows read from the lake.
    pub rows_read: u64,
}

/// A stream or table as the catalog and the counters see it.
#[derive(Clone, Debug, Serialize)]
pub struct StreamStatus {
    /// Name.
    pub name: String,
    /// `stream` (append-only) or `table` (primary key).
    pub kind: String,
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

/// A view as the status page shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ViewStatus {
    /// Name.
    pub name: String,
    /// `lambda` or `kappa`.
    pub architecture: String,
    /// `running`, `replaying` or `failed`.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// The LSN up to which the view has taken in the log.
    pub lsn: Lsn,
    /// The LSN of the published batch view.
    pub batch_lsn: Option<Lsn>,
    /// When the batch view was published, microseconds since the Unix epoch.
    pub batch_published_us: Option<i64>,
    /// Rows of state (groups, or rows kept).
    pub state_rows: u64,
    /// Bytes of state in memory.
    pub state_bytes: u64,
    /// What keeps state in it.
    pub operators: Vec<OperatorStatus>,
    /// The batch schedule, a cron expression.
    pub batch_schedule: Option<String>,
    /// The query.
    pub query: String,
}

/// The state that an operator of a view's circuit keeps.
#[derive(Clone, Debug, Serialize)]
pub struct OperatorStatus {
    /// A number in the order of `EXPLAIN`, and what it is; `0 View` is the view itself.
    pub name: String,
    /// Rows.
    pub state_rows: u64,
    /// Bytes in memory.
    pub state_bytes: u64,
}

/// How a read replica follows its writer.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaStatus {
    /// The number of the writer's opening; it rises when another process takes over.
    pub writer_epoch: u64,
    /// The newest commit that is known to be in the bucket.
    pub newest_lsn: Lsn,
    /// Commits between that and what is served here.
    pub commits_behind: u64,
    /// Microseconds since the bucket was looked at.
    pub looked_us_ago: Option<u64>,
    /// Why the last look failed.
    pub error: Option<String>,
}

/// A source or a sink as the status page shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectorStatus {
    /// Name.
    pub name: String,
    /// `kafka`, `postgres-cdc` and so on.
    pub connector: String,
    /// `starting`, `running`, `paused`, `retrying` or `stuck`.
    pub state: String,
    /// Since when it is in this state, microseconds since the Unix epoch.
    pub since_us: i64,
    /// What holds it up now; while it runs, the last error.
    pub message: Option<String>,
    /// How far it is behind, in [`ConnectorStatus::lag_unit`].
    pub lag: Option<u64>,
    /// `records`, `bytes`, `files` or `commits`.
    pub lag_unit: Option<String>,
    /// Rows read or written since start.
    pub rows: u64,
    /// Of a source: records that its ledger holds.
    pub errors: u64,
}

/// What is held against the memory limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatus {
    /// Most bytes of memory that state may take: views', and rows of tables and keys of `UNIQUE`.
    pub state_limit_bytes: u64,
    /// Bytes of memory that it takes.
    pub state_bytes: u64,
    /// Bytes of it in files, for which there is no room in memory.
    pub state_file_bytes: u64,
    /// Bytes of memory that running queries and batch runs have reserved.
    pub query_bytes: u64,
}

/// Everything the status page and `kaplan status` show.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Whether reads and writes are accepted.
    pub ready: bool,
    /// Present on a read replica.
    pub replica: Option<ReplicaStatus>,
    /// Why they are not, when something failed.
    pub error: Option<String>,
    /// The last durable commit.
    pub durable_lsn: Lsn,
    /// The last commit that every running view has taken in.
    pub served_lsn: Lsn,
    /// The last commit that the lake holds.
    pub archived_lsn: Lsn,
    /// The first commit that the log's tail still holds.
    pub log_start_lsn: Lsn,
    /// Bytes of the log's tail on disk.
    pub log_bytes: u64,
    /// Acknowledged-to-visible latency over the last minutes, microseconds: p50 and p99.
    pub freshness_us: Option<(u64, u64)>,
    /// Microseconds since start.
    pub uptime_us: u64,
    /// Memory and files of the state of views and of queries.
    pub memory: MemoryStatus,
    /// Streams and tables.
    pub streams: Vec<StreamStatus>,
    /// Views.
    pub views: Vec<ViewStatus>,
    /// The last batch runs, newest first.
    pub runs: Vec<BatchRun>,
    /// Sources.
    pub sources: Vec<ConnectorStatus>,
    /// Sinks.
    pub sinks: Vec<ConnectorStatus>,
    /// Processes that take in a share of the commits.
    pub workers: Vec<crate::workers::WorkerStatus>,
}
