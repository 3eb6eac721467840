//! The lake: all history, as Delta Lake tables that Spark, DuckDB, BigQuery and Polars read as
//! they lie.
//!
//! ```text
//! <root>/_kaplan_archive.json      how far the archive has come (Progress)
//! <root>/<stream>/                 an append-only stream: user columns, then system columns
//! <root>/<table>_changes/          a mutable table: the same and _weight
//! <root>/.../_delta_log/           every append is one Delta transaction with the app
//!                                  transaction ("kaplan", LSN)
//! ```
//!
//! Invariant: a row of the log is in its table exactly once, whatever is repeated after a crash,
//! and it is on stable storage when [`Lake::append`] returns. The lake refuses column types that
//! Delta cannot hold, rows beyond the position that an append claims, a writer that lost its
//! table to another one, and tables whose app transactions may expire.

mod compact;
mod error;
mod files;
mod inlet;
mod lake;
mod outlet;
mod progress;
mod provider;
mod relation;
mod schema;
mod table;

pub use compact::CompactReport;
pub use error::Error;
pub use inlet::{Inlet, InletFile, InletVersion};
pub use lake::{Lake, TableSpec};
pub use outlet::{Outlet, outlet_columns};
pub use progress::{Producer, Progress};
pub use relation::relation;
pub use schema::{INGESTED_AT, LSN, SEQ, WATERMARK, WEIGHT, system_schema};
