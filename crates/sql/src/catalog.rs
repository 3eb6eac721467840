//! The catalog: every stream, table and view by name, as plain data. It is stored as one JSON file
//! that is replaced atomically, so a statement that was acknowledged is there after a restart.
//! Types are kept in their SQL spelling and planned again on open.

pub use super::connectors::{
    FormatDef, Include, IncludeDef, MASK, PRODUCER_PREFIX, SinkDef, SourceDef, TargetDef,
    is_secret, shown,
};
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
    /// Plain views by name: queries that are put in place where they are read.
    pub plain_views: BTreeMap<String, PlainViewDef>,
    /// Indexes by name. They are recorded and change no plan.
    pub indexes: BTreeMap<String, IndexDef>,
    /// Sources by name.
    pub sources: BTreeMap<String, SourceDef>,
    /// Sinks by name.
    pub sinks: BTreeMap<String, SinkDef>,
    /// The platform's own id, once something outside needs to tell it from others.
    pub platform: String,
    /// Schemas besides `public`.
    pub schemas: BTreeSet<String>,
    /// Databases besides the one that there is; they are names for it.
    pub databases: BTreeSet<String>,
    /// The next free number of a stream or view; never reused.
    pub next_id: u32,
    /// The numbers of dropped streams, whose rows may still be in the log.
    pub dropped: BTreeSet<StreamId>,
    /// Tables of the lake that no stream has, by number: their files are still to be deleted.
    pub leftovers: BTreeMap<StreamId, Leftover>,
}

impl Catalog {
    /// Lets streams of catalogs that tell quarantines by their names know theirs by number.
    pub fn number_quarantines(&mut self) {
        let names = self.streams.iter().map(|(name, def)| (name.clone(), def.id));
        let ids: BTreeMap<String, StreamId> = names.collect();
        let unknown = |def: &&mut StreamDef| def.quarantine.is_none() && def.quarantines();
        for def in self.streams.values_mut().filter(unknown) {
            def.quarantine = ids.get(&quarantine_name(&def.name)).copied();
        }
    }

    /// The stream whose rows a quarantine takes.
    #[must_use]
    pub fn quarantined_by(&self, quarantine: StreamId) -> Option<&StreamDef> {
        self.streams.values().find(|def| def.quarantine == Some(quarantine))
    }
}

/// A table of the lake that no stream has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// The name that the lake knows.
    pub stored: String,
    /// Whether it was a stream's.
    pub append_only: bool,
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
    /// What a row does to the one that has its key already.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// The name that lake and circuits know, where `ALTER .. RENAME` made it differ.
    #[serde(default)]
    pub stored: Option<String>,
    /// The stream that takes the rows that this one keeps out, whatever it is called.
    #[serde(default)]
    pub quarantine: Option<StreamId>,
}

impl StreamDef {
    /// The name that lake and circuits know it by; it never changes.
    #[must_use]
    pub fn stored_name(&self) -> &str {
        self.stored.as_deref().unwrap_or(&self.name)
    }

    /// The definition under the names that lake and circuits know.
    #[must_use]
    pub fn as_stored(&self) -> StreamDef {
        let mut def = self.clone();
        def.name = self.stored_name().to_owned();
        for column in &mut def.columns {
            column.name = column.stored_name().to_owned();
        }
        def
    }

    /// Whether some of its rows go to a quarantine.
    #[must_use]
    pub fn quarantines(&self) -> bool {
        quarantines(&self.checks, self.watermark.as_ref())
    }

    /// A column's position.
    #[must_use]
    pub fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == column)
    }
}

/// The name that a stream's quarantine is created with.
#[must_use]
pub fn quarantine_name(stream: &str) -> String {
    format!("{stream}_quarantine")
}

/// Whether a stream of these rules sends rows to a quarantine.
#[must_use]
pub fn quarantines(checks: &[CheckDef], watermark: Option<&WatermarkDef>) -> bool {
    checks.iter().any(|c| c.on_violation == OnViolation::Quarantine)
        || watermark.is_some_and(WatermarkDef::quarantines)
}

/// What a row with a key that a table has already does: `ON CONFLICT ..` of `CREATE TABLE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// It replaces the old row.
    #[default]
    Overwrite,
    /// It is left out.
    Ignore,
    /// It replaces the old row, but a NULL in it keeps the old value.
    UpdateIfNotNull,
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
    /// The expression over the other columns that gives the value, as SQL.
    #[serde(default)]
    pub generated: Option<String>,
    /// The name that lake and circuits know, where `RENAME COLUMN` made it differ.
    #[serde(default)]
    pub stored: Option<String>,
}

impl ColumnDef {
    /// A column that takes NULL and has no default.
    #[must_use]
    pub fn new(name: impl Into<String>, sql_type: impl Into<String>) -> Self {
        let (name, sql_type) = (name.into(), sql_type.into());
        Self { name, sql_type, nullable: true, default: None, generated: None, stored: None }
    }

    /// The name that lake and circuits know it by; it never changes.
    #[must_use]
    pub fn stored_name(&self) -> &str {
        self.stored.as_deref().unwrap_or(&self.name)
    }
}

/// `WATERMARK FOR column AS column - INTERVAL '..'`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WatermarkDef {
    /// A timestamp column.
    pub column: String,
    /// How far behind, microseconds.
    pub delay_us: i64,
    /// `ALLOWED LATENESS`: rows further behind the watermark are quarantined, microseconds.
    #[serde(default)]
    pub lateness_us: Option<i64>,
    /// `FUTURE LIMIT`: rows further ahead of their commit's time are quarantined, microseconds.
    #[serde(default)]
    pub future_us: Option<i64>,
    /// `IDLE TIMEOUT`: without new rows for this long the watermark goes on with the clock,
    /// microseconds.
    #[serde(default)]
    pub idle_us: Option<i64>,
}

impl WatermarkDef {
    /// Whether some rows are kept out because of their time.
    #[must_use]
    pub fn quarantines(&self) -> bool {
        self.lateness_us.is_some() || self.future_us.is_some()
    }
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
    /// The streams and views that the query names, as it names them.
    pub depends_on: Vec<String>,
    /// What these names stand for, whatever they are called now.
    #[serde(default)]
    pub bound: BTreeMap<String, Bound>,
    /// The name that its files and the circuits know, where `ALTER .. RENAME` made it differ.
    #[serde(default)]
    pub stored: Option<String>,
}

impl ViewDef {
    /// The name that its files and the circuits know it by; it never changes.
    #[must_use]
    pub fn stored_name(&self) -> &str {
        self.stored.as_deref().unwrap_or(&self.name)
    }
}

/// What a name in a stored query stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The number of the stream or view.
    pub id: u32,
    /// Of a stream: its columns' names when the query was stored, by position. A column added later
    /// is not among them, and a renamed one keeps the name that the query knows.
    pub columns: Vec<String>,
}

/// A plain view: a query with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlainViewDef {
    /// The name.
    pub name: String,
    /// The number; never reused.
    pub id: u32,
    /// The query as SQL, as the user wrote it.
    pub query: String,
    /// Output column names, when the definition gives them.
    pub columns: Vec<String>,
    /// What the query's names stand for.
    pub bound: BTreeMap<String, Bound>,
    /// The columns that it had when it was created.
    pub output: Vec<ColumnDef>,
}

/// An index as it was declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexDef {
    /// The name.
    pub name: String,
    /// The number of the stream or view.
    pub on: u32,
    /// The key expressions as SQL, with their order.
    pub key: Vec<String>,
    /// `INCLUDE (..)`.
    pub include: Vec<String>,
}
