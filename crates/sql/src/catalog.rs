//! The catalog: every stream, table and view by name, as plain data. It is stored as one JSON file
//! that is replaced atomically, so a statement that was acknowledged is there after a restart.
//! Types are kept in their SQL spelling and planned again on open.

use kaplan_base::{Lsn, StreamId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// All definitions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Catalog {
    /// Streams and tables by name.
    pub streams: BTreeMap<String, StreamDef>,
    /// Materialized views by name.
    pub views: BTreeMap<String, ViewDef>,
    /// Functions of SQL by name.
    pub functions: BTreeMap<String, FunctionDef>,
    /// The next free stream id and view version; never reused.
    pub next_id: u32,
    /// The numbers of dropped streams, whose rows may still be in the log.
    pub dropped: BTreeSet<StreamId>,
}

/// A stream (append-only) or a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamDef {
    /// The number that log frames carry.
    pub id: StreamId,
    /// The name.
    pub name: String,
    /// The columns, in order.
    pub columns: Vec<ColumnDef>,
    /// Rows are only ever added. False: updates and deletes enter the log as weighted changes.
    pub append_only: bool,
    /// Key columns of a table; empty for a stream and for a keyless table.
    pub primary_key: Vec<String>,
    /// The event-time column and how far the watermark stays behind its largest value.
    pub watermark: Option<WatermarkDef>,
    /// `UNIQUE (cols) WITHIN interval`: a row whose columns were seen within this time of commits
    /// is dropped and counted.
    pub unique: Option<UniqueDef>,
    /// `CHECK (..) ON VIOLATION ..`, in order of declaration.
    pub checks: Vec<CheckDef>,
    /// The last commit before the stream was created.
    pub created_at: Lsn,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnDef {
    /// The name.
    pub name: String,
    /// The type as SQL spells it, for instance `DECIMAL(10, 2)`.
    pub sql_type: String,
    /// False after `NOT NULL` and for key columns.
    pub nullable: bool,
    /// The default expression as SQL.
    pub default: Option<String>,
}

/// `WATERMARK FOR column AS column - INTERVAL '..'`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatermarkDef {
    /// A timestamp column.
    pub column: String,
    /// How far behind, microseconds.
    pub delay_us: i64,
}

/// `UNIQUE (columns) WITHIN INTERVAL '..'`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UniqueDef {
    /// The columns that name an event.
    pub columns: Vec<String>,
    /// For how long after its commit an event is remembered, microseconds.
    pub within_us: i64,
}

/// `CONSTRAINT name CHECK (condition) ON VIOLATION ..`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckDef {
    /// The constraint's name.
    pub name: String,
    /// The condition as SQL; a row passes unless it is false (as in PostgreSQL, NULL passes).
    pub condition: String,
    /// What happens to a row that fails.
    pub on_violation: OnViolation,
}

/// What happens to a row that breaks a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnViolation {
    /// The whole commit is refused.
    #[default]
    Reject,
    /// The row goes to `<stream>_quarantine`.
    Quarantine,
    /// The row is dropped and counted.
    Drop,
}

/// How a view runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Batch layer over the lake, speed layer over the tail, merged when read.
    Lambda,
    /// One circuit over the whole log.
    #[default]
    Kappa,
}

/// How a view's batch runs compute.
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

/// A function of one SQL expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDef {
    /// The name.
    pub name: String,
    /// The parameters: their names, where they have one, and SQL types.
    pub params: Vec<(Option<String>, String)>,
    /// The SQL type of the result.
    pub returns: String,
    /// NULL where an argument is NULL.
    pub strict: bool,
    /// The expression over the parameters; it calls no other function of SQL.
    pub body: String,
}

/// A materialized view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ViewDef {
    /// The name.
    pub name: String,
    /// Changes with every new definition; never reused.
    pub version: u32,
    /// The query as SQL, as the user wrote it.
    pub query: String,
    /// Output column names, when the definition gives them: `CREATE .. VIEW v (a, b) AS ..`.
    pub columns: Vec<String>,
    /// How it runs.
    pub architecture: Architecture,
    /// Five-field cron expression in UTC.
    pub batch_schedule: Option<String>,
    /// How batch runs compute.
    pub batch_mode: BatchMode,
    /// The streams and views that the query names.
    pub depends_on: Vec<String>,
}
