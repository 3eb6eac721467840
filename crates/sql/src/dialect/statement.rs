//! The statements as data. Names are folded, intervals are microseconds, options are checked;
//! queries are `sqlparser` trees whose windows are rewritten already ([`super::rewrite`]).

use super::connector::{AlterConnector, CreateSink, CreateSource};
use crate::catalog::{
    Architecture, BatchMode, CheckDef, ColumnDef, FunctionDef, OnConflict, StreamDef, UniqueDef,
    WatermarkDef,
};
use datafusion::sql::sqlparser::ast;
use kaplan_base::{Lsn, StreamId};
use std::collections::BTreeMap;

/// One statement and its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// What it says.
    pub statement: Statement,
    /// How it was written, without the semicolon.
    pub text: String,
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `CREATE STREAM` or `CREATE TABLE`.
    CreateStream(CreateStream),
    /// `CREATE SOURCE`, and `CREATE TABLE` with a connector.
    CreateSource(Box<CreateSource>),
    /// `CREATE SINK`.
    CreateSink(Box<CreateSink>),
    /// `ALTER SOURCE` and `ALTER SINK`.
    AlterConnector(AlterConnector),
    /// `CREATE MATERIALIZED VIEW`.
    CreateView(CreateView),
    /// `CREATE TABLE t AS SELECT ..`.
    CreateTableAs(CreateQuery),
    /// `CREATE [OR REPLACE] VIEW`.
    CreatePlainView(CreateQuery),
    /// `CREATE INDEX`.
    CreateIndex(CreateIndex),
    /// `CREATE SCHEMA` and `CREATE DATABASE`.
    CreateNamespace {
        /// [`Object::Schema`] or [`Object::Database`].
        object: Object,
        /// An existing one is no error.
        if_not_exists: bool,
        /// The name.
        name: String,
    },
    /// `ALTER MATERIALIZED VIEW .. SET (..)`.
    AlterView(AlterView),
    /// `ALTER {TABLE | STREAM | [MATERIALIZED] VIEW} .. RENAME ..` and the like.
    Alter(Alter),
    /// `TRUNCATE [TABLE] a, b`.
    Truncate(Vec<String>),
    /// `DROP ..`.
    Drop(DropRelations),
    /// `CREATE [OR REPLACE] FUNCTION`.
    CreateFunction {
        /// A known one is replaced.
        or_replace: bool,
        /// The function.
        def: FunctionDef,
    },
    /// `DROP FUNCTION [IF EXISTS] a, b`.
    DropFunction {
        /// Missing ones are no error.
        if_exists: bool,
        /// The names.
        names: Vec<String>,
    },
    /// `INSERT INTO .. VALUES` or `.. SELECT`.
    Insert(Box<ast::Insert>),
    /// `UPDATE ..`: always an [`ast::Statement::Update`].
    Update(Box<ast::Statement>),
    /// `DELETE ..`: always an [`ast::Statement::Delete`].
    Delete(Box<ast::Statement>),
    /// `COPY .. FROM` or `LOAD INTO .. FROM`.
    Load(Load),
    /// `SHOW ..`.
    Show(Show),
    /// `DESCRIBE name`.
    Describe(String),
    /// `EXPLAIN ..`.
    Explain(Explain),
    /// `REFRESH MATERIALIZED VIEW`.
    Refresh {
        /// The views, in order.
        views: Vec<String>,
        /// How; [`BatchMode::Auto`] when not said.
        mode: BatchMode,
    },
    /// `REPLAY MATERIALIZED VIEW v [FROM LSN n]`.
    Replay {
        /// The view.
        view: String,
        /// Where from; the beginning when not said.
        from: Option<Lsn>,
    },
    /// `VERIFY MATERIALIZED VIEW v [AT LSN n]`.
    Verify {
        /// The view.
        view: String,
        /// At which commit; the newest when not said.
        at: Option<Lsn>,
    },
    /// `FLUSH`.
    Flush,
    /// `SET name = value`.
    Set {
        /// The setting.
        name: String,
        /// The value; quotes are taken off when it is one string.
        value: String,
        /// `SET LOCAL`: until the end of the transaction.
        local: bool,
    },
    /// `RESET name` and `SET name = DEFAULT`; `all` is every setting.
    Reset(String),
    /// `BEGIN`, `COMMIT`, `ROLLBACK` in their spellings.
    Transaction(Transaction),
    /// `SAVEPOINT name`, `RELEASE [SAVEPOINT] name`, `ROLLBACK TO [SAVEPOINT] name`.
    Mark(Mark, String),
    /// `COMMENT ON .. IS ..`, which is not kept.
    Comment,
    /// A query.
    Query(Box<ast::Query>),
}

/// What a statement does with a savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Sets it.
    Savepoint,
    /// Forgets it.
    Release,
    /// Goes back to it.
    RollbackTo,
}

impl Mark {
    /// PostgreSQL's command tag.
    #[must_use]
    pub fn tag(self) -> &'static str {
        match self {
            Mark::Savepoint => "SAVEPOINT",
            Mark::Release => "RELEASE",
            Mark::RollbackTo => "ROLLBACK",
        }
    }
}

/// `CREATE {STREAM | TABLE}`: everything of a [`StreamDef`] but the number and the position.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateStream {
    /// An existing one is no error.
    pub if_not_exists: bool,
    /// The name.
    pub name: String,
    /// The columns, in order; their types in PostgreSQL's spelling.
    pub columns: Vec<ColumnDef>,
    /// A stream: rows are only ever added.
    pub append_only: bool,
    /// The key columns.
    pub primary_key: Vec<String>,
    /// `WATERMARK FOR`.
    pub watermark: Option<WatermarkDef>,
    /// `UNIQUE .. WITHIN`.
    pub unique: Option<UniqueDef>,
    /// The checks, named.
    pub checks: Vec<CheckDef>,
    /// `ON CONFLICT ..`.
    pub on_conflict: OnConflict,
    /// `WITH (..)`, by lower-case name.
    pub options: BTreeMap<String, String>,
}

impl CreateStream {
    /// The definition, once it has a number and a position.
    #[must_use]
    pub fn into_def(self, id: StreamId, created_at: Lsn) -> StreamDef {
        StreamDef {
            id,
            name: self.name,
            columns: self.columns,
            append_only: self.append_only,
            primary_key: self.primary_key,
            watermark: self.watermark,
            unique: self.unique,
            checks: self.checks,
            created_at,
            on_conflict: self.on_conflict,
            stored: None,
            quarantine: None,
        }
    }
}

/// A query with a name: `CREATE VIEW` and `CREATE TABLE .. AS`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateQuery {
    /// `OR REPLACE`.
    pub or_replace: bool,
    /// An existing one is no error.
    pub if_not_exists: bool,
    /// The name.
    pub name: String,
    /// Output column names, when given.
    pub columns: Vec<String>,
    /// The query, windows rewritten.
    pub query: Box<ast::Query>,
    /// The query as written.
    pub query_text: String,
}

/// `CREATE INDEX [IF NOT EXISTS] [name] ON relation (key, ..) [INCLUDE (..)]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateIndex {
    /// An existing one is no error.
    pub if_not_exists: bool,
    /// The name, when given.
    pub name: Option<String>,
    /// The stream, table or view.
    pub relation: String,
    /// The columns that the key names.
    pub columns: Vec<String>,
    /// The key's expressions as written.
    pub key: Vec<String>,
    /// `INCLUDE (..)`.
    pub include: Vec<String>,
}

/// `ALTER .. name action`.
#[derive(Clone, Debug, PartialEq)]
pub struct Alter {
    /// What it is.
    pub object: Object,
    /// A missing one is no error.
    pub if_exists: bool,
    /// The name.
    pub name: String,
    /// What to do.
    pub action: AlterAction,
}

/// What `ALTER` does.
#[derive(Clone, Debug, PartialEq)]
pub enum AlterAction {
    /// `RENAME TO b`.
    Rename(String),
    /// `RENAME [COLUMN] a TO b`.
    RenameColumn {
        /// The column.
        from: String,
        /// Its new name.
        to: String,
    },
    /// `ADD [COLUMN] [IF NOT EXISTS] c type [DEFAULT ..]`.
    AddColumn {
        /// An existing one is no error.
        if_not_exists: bool,
        /// The column.
        column: Box<ColumnDef>,
    },
}

/// `CREATE MATERIALIZED VIEW`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    /// An existing one is no error.
    pub if_not_exists: bool,
    /// The name.
    pub name: String,
    /// Output column names, when given.
    pub columns: Vec<String>,
    /// How it runs.
    pub architecture: Architecture,
    /// Five-field cron expression; only with lambda.
    pub batch_schedule: Option<String>,
    /// How batch runs compute; `Auto` with kappa.
    pub batch_mode: BatchMode,
    /// The query, windows rewritten.
    pub query: Box<ast::Query>,
    /// The query as written.
    pub query_text: String,
}

/// The options of a view that a statement names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewOptions {
    /// `architecture = 'lambda' | 'kappa'`.
    pub architecture: Option<Architecture>,
    /// `batch_schedule = '0 2 * * *'`.
    pub batch_schedule: Option<String>,
    /// `batch_mode = 'auto' | 'full' | 'incremental'`.
    pub batch_mode: Option<BatchMode>,
}

/// `ALTER MATERIALIZED VIEW [IF EXISTS] name SET (..)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterView {
    /// A missing one is no error.
    pub if_exists: bool,
    /// The view.
    pub name: String,
    /// What changes.
    pub options: ViewOptions,
}

/// What a name in `DROP` or `SHOW CREATE` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// `STREAM`.
    Stream,
    /// `TABLE`: a stream is accepted too.
    Table,
    /// `[MATERIALIZED] VIEW`.
    View,
    /// `INDEX`.
    Index,
    /// `SCHEMA`.
    Schema,
    /// `DATABASE`.
    Database,
    /// `SOURCE`.
    Source,
    /// `SINK`.
    Sink,
}

/// `DROP {STREAM | TABLE | [MATERIALIZED] VIEW | INDEX | SCHEMA | DATABASE} [IF EXISTS] a, b
/// [CASCADE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropRelations {
    /// What they are.
    pub object: Object,
    /// Missing ones are no error.
    pub if_exists: bool,
    /// The names.
    pub names: Vec<String>,
    /// Drop what depends on them too.
    pub cascade: bool,
}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values.
    Csv,
    /// One JSON object per line.
    Ndjson,
}

/// `COPY t FROM` (always appends) and `LOAD INTO t FROM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The stream or table.
    pub target: String,
    /// The columns that the file has, in order; empty: by name.
    pub columns: Vec<String>,
    /// A path or a glob pattern.
    pub path: String,
    /// The format, from the path's extension when not said.
    pub format: Format,
    /// Whether a CSV file begins with the column names; true unless `HEADER false`.
    pub header: bool,
    /// `MODE OVERWRITE`: the rows replace what is there.
    pub overwrite: bool,
}

/// `SHOW ..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// `SHOW STREAMS`.
    Streams,
    /// `SHOW TABLES`.
    Tables,
    /// `SHOW VIEWS`: plain ones and materialized ones.
    Views,
    /// `SHOW MATERIALIZED VIEWS`.
    MaterializedViews,
    /// `SHOW SOURCES`.
    Sources,
    /// `SHOW SINKS`.
    Sinks,
    /// `SHOW WORKERS`.
    Workers,
    /// `SHOW INDEXES [FROM relation]`.
    Indexes(Option<String>),
    /// `SHOW SCHEMAS`.
    Schemas,
    /// `SHOW DATABASES`.
    Databases,
    /// `SHOW COLUMNS FROM relation`.
    Columns(String),
    /// `SHOW BATCH RUNS [FOR view]`.
    BatchRuns {
        /// Only those of this view.
        view: Option<String>,
    },
    /// `SHOW ALL`: every setting.
    All,
    /// `SHOW setting`.
    Variable(String),
    /// `SHOW CREATE {STREAM | TABLE | MATERIALIZED VIEW} name`.
    Create(Object, String),
}

/// `EXPLAIN [ANALYZE] [VERBOSE] ..`.
#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    /// Run it and count.
    pub analyze: bool,
    /// Everything.
    pub verbose: bool,
    /// What to explain.
    pub target: ExplainTarget,
}

/// What `EXPLAIN` explains.
#[derive(Clone, Debug, PartialEq)]
pub enum ExplainTarget {
    /// A query.
    Query(Box<ast::Query>),
    /// `MATERIALIZED VIEW name`.
    View(String),
    /// `CREATE MATERIALIZED VIEW ..`, without creating it.
    CreateView(Box<CreateView>),
}

/// The beginning or end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// `BEGIN` or `START TRANSACTION`.
    Begin,
    /// `COMMIT` or `END`.
    Commit,
    /// `ROLLBACK` or `ABORT`.
    Rollback,
}

impl Transaction {
    /// The command tag that PostgreSQL answers with.
    #[must_use]
    pub fn tag(self) -> &'static str {
        match self {
            Transaction::Begin => "BEGIN",
            Transaction::Commit => "COMMIT",
            Transaction::Rollback => "ROLLBACK",
        }
    }
}
