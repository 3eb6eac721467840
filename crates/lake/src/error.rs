//! What can go wrong in the lake, and what the caller does about it ([`Error::remedy`]).
//!
//! Every failed write leaves the table readable. Whether the write happened is decided by the
//! table's app transaction when the table is next loaded, never guessed.

use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use deltalake::DeltaTableError;
use kaplan_base::{Lsn, Remedy, StreamId};

/// An error of the lake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A column has a type that the lake does not store.
    #[error(
        "column {column} of {table} has type {data_type}, which the lake cannot store; use \
         boolean, smallint, integer, bigint, real, double precision, numeric(p, s), text, bytea, \
         date or timestamp(6) with or without time zone"
    )]
    Type {
        /// The stream.
        table: String,
        /// The column.
        column: String,
        /// Its Arrow type.
        data_type: DataType,
    },
    /// Two columns of the table have one name.
    #[error(
        "column {column} of {table} is defined twice; the lake adds the columns that begin with _ itself"
    )]
    Duplicate {
        /// The stream.
        table: String,
        /// The column.
        column: String,
    },
    /// A column has a name that other readers of Delta tables do not take.
    #[error(
        "column {column} of {table} has a name that Delta tables do not take; name it with AS, in \
         letters, digits and _"
    )]
    Name {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// Rows, or the stored table, do not have the declared column.
    #[error("column {column} of {table} is declared as {expected}, but was found as {found}")]
    Column {
        /// The stream.
        table: String,
        /// The column.
        column: String,
        /// Declared type and nullability.
        expected: String,
        /// What is there instead.
        found: String,
    },
    /// There is no such table.
    #[error("the lake has no table for {table}; create it first")]
    Missing {
        /// The stream.
        table: String,
    },
    /// The table's directory belongs to another stream.
    #[error(
        "directory {directory} of the lake belongs to stream {found}, not to {table} (stream \
         {expected}); choose another name or drop the other stream"
    )]
    Occupied {
        /// The stream.
        table: String,
        /// The directory below the root.
        directory: String,
        /// Whose directory it is, as its metadata say.
        found: String,
        /// The stream that asked for it.
        expected: StreamId,
    },
    /// The table lets app transactions expire, which would let rows repeat.
    #[error(
        "the Delta table of {table} has the property delta.setTransactionRetentionDuration = \
         {value}: rows could be archived twice; unset the property"
    )]
    TransactionsExpire {
        /// The stream.
        table: String,
        /// The property's value.
        value: String,
    },
    /// Another writer appended to the table since this one loaded it.
    #[error(
        "another process has archived rows of {table} beyond {archived}: this writer stops; open \
         the lake again if it should be the writer"
    )]
    Fenced {
        /// The stream.
        table: String,
        /// How far this writer knew the table to be.
        archived: Lsn,
    },
    /// An append has rows that it does not account for.
    #[error("an append to {table} through {through} contains a row of {lsn}")]
    Beyond {
        /// The stream.
        table: String,
        /// The row's position.
        lsn: i64,
        /// The position that the append claims.
        through: Lsn,
    },
    /// Compaction kept losing against other writers of the table.
    #[error("compaction of {table} gave way to other writers of the table; try again later")]
    Contended {
        /// The stream.
        table: String,
    },
    /// Delta refused an operation or failed.
    #[error("{operation} of {table} failed: {source}")]
    Delta {
        /// The stream.
        table: String,
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        source: Box<DeltaTableError>,
    },
    /// The place of the lake, or its progress, cannot be used.
    #[error("lake: {0}")]
    Storage(#[from] kaplan_store::Error),
    /// Storage failed.
    #[error("lake storage: {0}")]
    Store(#[from] object_store::Error),
    /// Rows could not be read.
    #[error("reading the lake: {0}")]
    Read(#[from] DataFusionError),
    /// Rows do not fit the table.
    #[error("rows of {table} do not fit its columns: {source}")]
    Rows {
        /// The stream.
        table: String,
        /// Why.
        source: ArrowError,
    },
    /// The changes of a table do not add up.
    #[error("integrity: {0}")]
    Integrity(String),
    /// A background thread was lost.
    #[error("a lake task was cancelled or panicked: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// What the caller should do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Type { .. }
            | Self::Name { .. }
            | Self::Duplicate { .. }
            | Self::Missing { .. }
            | Self::Occupied { .. } => Remedy::FixInput,
            Self::Fenced { .. } => Remedy::Reopen,
            Self::Storage(e) => e.remedy(),
            Self::Contended { .. } | Self::Store(_) | Self::Delta { .. } | Self::Read(_) => {
                Remedy::Retry
            }
            Self::Column { .. }
            | Self::TransactionsExpire { .. }
            | Self::Beyond { .. }
            | Self::Rows { .. }
            | Self::Integrity(_)
            | Self::Task(_) => Remedy::Report,
        }
    }

    /// Names the table and the operation that failed.
    pub(crate) fn delta(
        table: &str,
        operation: &'static str,
    ) -> impl FnOnce(DeltaTableError) -> Self {
        move |source| Self::Delta { table: table.to_owned(), operation, source: Box::new(source) }
    }
}
