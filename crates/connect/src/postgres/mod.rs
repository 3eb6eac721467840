//! Change data capture from PostgreSQL: the tables of a database, kept equal to what they are there.
//!
//! - [`pgoutput`] reads the messages of logical decoding;
//! - [`values`] turns text values into batches of the declared columns;
//! - `catalog` asks what tables, publication and slot are like, and makes the latter two;
//! - `transaction` puts messages together to whole transactions, without IO;
//! - `copy` reads tables as of a position of the log;
//! - [`source`] is the connector: copy, then follow.
//!
//! Invariant: rows and the position in PostgreSQL's log that they lead to are one commit, and the
//! slot is told only positions that are durable here. A transaction there is never spread over
//! commits here, unless the source says `transactional = 'false'`.

mod catalog;
mod copy;
mod options;
pub mod pgoutput;
mod session;
mod source;
mod splits;
pub mod transaction;
pub mod values;

pub use options::{CONNECTOR, OPTIONS, Options};
pub use source::Postgres;
