//! Tables as they were at one position of PostgreSQL's log: a transaction that sees exactly what was
//! committed before that position, and the rows of the tables read in it.
//!
//! Invariant: tables that together fit into one commit ([`MAX_ATOMIC_BYTES`]) become one commit,
//! which replaces what was there; the first part of a larger copy empties the tables.

use super::catalog::lsn;
use super::options::Options;
use super::pgoutput::{Cell, Tuple};
use super::session::{SLOT_TIMEOUT, Session, ident, text};
use super::transaction::Table;
use super::values::{self, Mapping};
use crate::source::{Change, Kind, MAX_PARCEL_BYTES, Parcel, Rejected};
use crate::{Error, Result};
use arrow::array::RecordBatch;
use std::time::Duration;

/// Most bytes of tables that are copied as one commit.
pub const MAX_ATOMIC_BYTES: usize = 32 << 20;
/// Bytes that are asked for at once, about.
const FETCH_BYTES: usize = 4 << 20;
/// Rows that are asked for at once, at first and at most.
const FETCH_ROWS: (usize, usize) = (512, 65_536);
/// How long one part may take to come.
const FETCH_TIMEOUT: Duration = Duration::from_secs(600);

/// A copy under way.
pub struct Copy {
    session: Session,
    /// Transactions committed before are in the copy.
    pub at: u64,
    /// The split that tells of it.
    pub split: String,
    /// The last position of that split; parts of the copy count up from it.
    part: u64,
    /// What is to be copied, by place among the tables that are followed, with the columns.
    pub tables: Vec<(usize, Vec<String>)>,
    /// The table that is being read.
    next: usize,
    open: bool,
    split_up: bool,
    rows: usize,
    bytes: usize,
    changes: Vec<Change>,
    rejected: Vec<Rejected>,
}

impl Copy {
    /// Begins the transaction. It waits for the transactions that run upstream at the moment.
    ///
    /// # Errors
    /// PostgreSQL refuses it, for instance because it has no slot left.
    pub async fn begin(
        mut session: Session,
        options: &Options,
        (split, part): (String, u64),
        tables: Vec<(usize, Vec<String>)>,
    ) -> Result<Copy> {
        session.query("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ").await?;
        let name = format!("{}_copy", &options.slot[..options.slot.len().min(58)]);
        let sql = format!(
            "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput USE_SNAPSHOT",
            ident(&name)
        );
        let rows = session.query_within(&sql, SLOT_TIMEOUT).await?;
        let row = rows.first().ok_or_else(|| Error::unavailable("PostgreSQL made no slot"))?;
        let at = lsn(&text(row, 1))?;
        Ok(Copy {
            session,
            at,
            split,
            part,
            tables,
            next: 0,
            open: false,
            split_up: false,
            rows: FETCH_ROWS.0,
            bytes: 0,
            changes: Vec::new(),
            rejected: Vec::new(),
        })
    }

    /// The next commit of the copy; true with the last one.
    ///
    /// # Errors
    /// The connection is lost, or a table cannot be read: then the copy begins again.
    pub async fn next(&mut self, followed: &[Table]) -> Result<(Parcel, bool)> {
        loop {
            let limit = if self.split_up { MAX_PARCEL_BYTES } else { MAX_ATOMIC_BYTES };
            if self.bytes > limit {
                self.split_up = true;
                self.part += 1;
                return Ok((self.parcel(self.part), false));
            }
            let Some((at, columns)) = self.tables.get(self.next).cloned() else {
                return Ok((self.parcel(self.at), true));
            };
            let table = followed.get(at).ok_or_else(|| Error::unavailable("a table is gone"))?;
            if !self.open {
                self.declare(table, &columns).await?;
            }
            if !self.fetch(table, &columns).await? {
                self.session.query("CLOSE kaplan_copy").await?;
                self.open = false;
                self.next += 1;
            }
        }
    }

    fn parcel(&mut self, position: u64) -> Parcel {
        self.bytes = 0;
        Parcel {
            split: self.split.clone(),
            position,
            changes: std::mem::take(&mut self.changes),
            rejected: std::mem::take(&mut self.rejected),
        }
    }

    async fn declare(&mut self, table: &Table, columns: &[String]) -> Result<()> {
        let listed: Vec<String> = columns.iter().map(|c| ident(c)).collect();
        let sql = format!(
            "DECLARE kaplan_copy NO SCROLL CURSOR FOR SELECT {} FROM {}",
            listed.join(", "),
            table.upstream
        );
        self.session.query(&sql).await?;
        self.open = true;
        let rows = RecordBatch::new_empty(table.schema.clone());
        let (target, kind) = (table.target, Kind::Truncate);
        self.changes.push(Change { target, kind, rows, origins: Vec::new() });
        Ok(())
    }

    /// Reads some rows; false when there are none left.
    async fn fetch(&mut self, table: &Table, columns: &[String]) -> Result<bool> {
        let sql = format!("FETCH FORWARD {} FROM kaplan_copy", self.rows);
        let rows = self.session.query_within(&sql, FETCH_TIMEOUT).await?;
        if rows.is_empty() {
            return Ok(false);
        }
        let cell = |value: Option<bytes::Bytes>| value.map_or(Cell::Null, Cell::Text);
        let tuple = |row: Vec<_>| row.into_iter().map(cell).collect::<Tuple>();
        let tuples: Vec<Tuple> = rows.into_iter().map(tuple).collect();
        let bytes: usize = tuples.iter().map(super::transaction::size).sum();
        self.bytes += bytes;
        let each = (bytes / tuples.len()).max(1);
        self.rows = (FETCH_BYTES / each).clamp(1, FETCH_ROWS.1);
        let mapping = Mapping::new(&table.schema, columns);
        let (rows, misfits) = values::batch(&tuples, &mapping, &table.schema);
        for misfit in misfits {
            let row = &tuples[misfit.row];
            self.rejected.push(super::transaction::rejected(table, self.at, misfit, row, columns));
        }
        if rows.num_rows() > 0 {
            let (target, kind) = (table.target, Kind::Upsert);
            self.changes.push(Change { target, kind, rows, origins: Vec::new() });
        }
        Ok(true)
    }
}
