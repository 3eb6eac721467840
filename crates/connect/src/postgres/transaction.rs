//! From messages to whole transactions, without IO: which rows of which table are set and removed,
//! in order, and what could not be read.
//!
//! Invariant: what [`Transactions::take_changes`] gives is the work of whole transactions, and
//! changes of one row keep their order. A row that cannot be read leaves its table (an old version
//! of it would be wrong) and goes to the ledger. A table whose columns do not fit any more is
//! suspended by itself; the others go on.
//!
//! Refused: a transaction of more than [`MAX_TRANSACTION_BYTES`].

use super::catalog::shown as position_text;
use super::pgoutput::{Begin, Cell, Message, Old, Relation, ReplicaIdentity, Tuple};
use super::values::{self, Mapping};
use crate::source::{Change, Kind, MAX_REJECTED_BYTES, Rejected};
use crate::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Most bytes of one transaction: its old and new rows must fit into one commit.
pub const MAX_TRANSACTION_BYTES: usize = 48 << 20;
/// Rows that are turned into one batch.
const SEAL_ROWS: usize = 8_192;
/// What a value costs in memory besides its bytes.
const CELL_BYTES: usize = 40;

/// What helps against transactions that are too large.
pub const COPY_INSTEAD: &str =
    "with transactional = 'false' the tables of such a transaction are copied anew instead";

/// A table that is followed.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its place among the source's targets.
    pub target: usize,
    /// Its name, for messages.
    pub name: String,
    /// Its name upstream, in quotes.
    pub upstream: String,
    /// Its number upstream.
    pub oid: u32,
    /// The declared columns.
    pub schema: SchemaRef,
    /// The places of the key columns.
    pub key: Vec<usize>,
    /// Transactions from here on count; those before are in the copy. None: it is not followed.
    pub since: Option<u64>,
}

/// How a table's changes come at the moment.
#[derive(Debug)]
struct Bound {
    table: usize,
    names: Vec<String>,
    mapping: Mapping,
    key: Mapping,
}

/// Rows of one table that have the same done to them.
struct Run {
    table: usize,
    kind: Kind,
    /// The columns that are set, of a patch.
    set: Vec<bool>,
    bound: Arc<Bound>,
    /// The key of the row that is there, of a patch and of a removal; the tuple.
    rows: Vec<(Option<Tuple>, Tuple)>,
    positions: Vec<u64>,
}

/// Puts messages together.
pub struct Transactions {
    tables: Vec<Table>,
    bound: HashMap<u32, Arc<Bound>>,
    begin: Option<Begin>,
    /// Transactions that were committed before are done.
    position: u64,
    runs: Vec<Run>,
    changes: Vec<Change>,
    rejected: Vec<Rejected>,
    suspended: Vec<(usize, String)>,
    /// A table has columns that are not declared.
    wider: bool,
    bytes: usize,
    rows: usize,
    /// Bytes of the transaction that is open, and the tables that it changed.
    open_bytes: usize,
    touched: BTreeSet<usize>,
    /// A transaction that is too large suspends its tables, instead of ending it all.
    may_split: bool,
}

impl Transactions {
    /// Follows tables from a position on.
    #[must_use]
    pub fn new(tables: Vec<Table>, position: u64) -> Self {
        Self {
            tables,
            bound: HashMap::new(),
            begin: None,
            position,
            runs: Vec::new(),
            changes: Vec::new(),
            rejected: Vec::new(),
            suspended: Vec::new(),
            wider: false,
            bytes: 0,
            rows: 0,
            open_bytes: 0,
            touched: BTreeSet::new(),
            may_split: false,
        }
    }

    /// Lets a transaction that is too large suspend the tables that it changes.
    #[must_use]
    pub fn may_split(self, may_split: bool) -> Self {
        Self { may_split, ..self }
    }

    /// Where reading goes on after the transactions so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves on past log that has nothing for us.
    pub fn advance(&mut self, position: u64) {
        self.position = self.position.max(position);
    }

    /// Whether a transaction has begun and not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.begin.is_some()
    }

    /// Bytes and rows that wait in [`Transactions::take_changes`].
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        (self.bytes, self.rows)
    }

    /// The tables that are followed.
    pub fn tables_mut(&mut self) -> &mut [Table] {
        &mut self.tables
    }

    /// Tables that cannot be followed any more, and why.
    pub fn take_suspended(&mut self) -> Vec<(usize, String)> {
        std::mem::take(&mut self.suspended)
    }

    /// Whether a table was described with columns that are not declared, since the last time.
    pub fn take_wider(&mut self) -> bool {
        std::mem::take(&mut self.wider)
    }

    /// A transaction begins.
    pub fn begin(&mut self, begin: Begin) {
        self.begin = Some(begin);
        self.open_bytes = 0;
        self.touched.clear();
    }

    /// A transaction ends; `end` is the position after it.
    pub fn commit(&mut self, end: u64) {
        self.begin = None;
        self.position = self.position.max(end);
    }

    /// Takes a message within a transaction.
    ///
    /// # Errors
    /// The transaction is too large, or the message names a table that was not described.
    pub fn change(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Relation(relation) => self.relation(&relation),
            Message::Insert { relation, new } => {
                if let Some(bound) = self.following(relation)? {
                    self.push(&bound, Kind::Upsert, Vec::new(), None, new)?;
                }
            }
            Message::Update { relation, old, new } => {
                if let Some(bound) = self.following(relation)? {
                    self.update(&bound, old, new)?;
                }
            }
            Message::Delete { relation, old } => {
                if let Some(bound) = self.following(relation)? {
                    self.push(&bound, Kind::Delete, Vec::new(), None, old.tuple().clone())?;
                }
            }
            Message::Truncate { relations } => {
                for relation in relations {
                    if let Some(bound) = self.following(relation)? {
                        self.push(&bound, Kind::Truncate, Vec::new(), None, Vec::new())?;
                    }
                }
            }
            // What a type is called, where a row came from first, and messages of others.
            Message::Type { .. } | Message::Origin(_) | Message::Logical { .. } => {}
            Message::Begin(_) | Message::Commit(_) => {}
        }
        Ok(())
    }

    /// The changes of the transactions that have ended, and what was refused of them.
    ///
    /// # Errors
    /// A defect: rows that do not fit their own columns.
    pub fn take_changes(&mut self) -> Result<(Vec<Change>, Vec<Rejected>)> {
        for run in std::mem::take(&mut self.runs) {
            self.seal(run)?;
        }
        (self.bytes, self.rows) = (0, 0);
        Ok((std::mem::take(&mut self.changes), std::mem::take(&mut self.rejected)))
    }

    /// A table as it is from now on.
    fn relation(&mut self, relation: &Relation) {
        let Some(at) = self.tables.iter().position(|t| t.oid == relation.id) else { return };
        let table = &self.tables[at];
        let names: Vec<String> = relation.columns.iter().map(|c| c.name.clone()).collect();
        self.wider |= names.iter().any(|name| table.schema.index_of(name).is_err());
        match misfit(table, relation, &names) {
            None => {
                let mapping = Mapping::new(&table.schema, &names);
                let key = mapping.project(&table.key);
                let bound = Bound { table: at, names, mapping, key };
                self.bound.insert(relation.id, Arc::new(bound));
            }
            Some(reason) if table.since.is_some() => {
                self.suspended.push((at, reason));
                self.tables[at].since = None;
            }
            Some(_) => {}
        }
    }

    /// How changes of a table are read; none when they do not count.
    fn following(&self, relation: u32) -> Result<Option<Arc<Bound>>> {
        let begin = self.begin.ok_or_else(|| {
            Error::unavailable("PostgreSQL sent a change outside of a transaction")
        })?;
        let Some(table) = self.tables.iter().find(|t| t.oid == relation) else { return Ok(None) };
        let counts = table.since.is_some_and(|since| begin.final_lsn >= since);
        if !counts || begin.final_lsn < self.position {
            return Ok(None);
        }
        let bound = self.bound.get(&relation).cloned();
        bound.map(Some).ok_or_else(|| {
            let name = &table.name;
            Error::unavailable(format!("PostgreSQL sent a change of {name} before its columns"))
        })
    }

    fn update(&mut self, bound: &Arc<Bound>, old: Option<Old>, mut new: Tuple) -> Result<()> {
        if let Some(Old::Row(row)) = &old {
            for (cell, before) in new.iter_mut().zip(row) {
                if *cell == Cell::Unchanged {
                    cell.clone_from(before);
                }
            }
        }
        let old = old.map(|old| old.tuple().clone());
        let moved = old.filter(|old| !bound.key.same(old, &new));
        let unchanged = bound.mapping.unchanged(&new);
        if unchanged.contains(&true) {
            let set = unchanged.into_iter().map(|unchanged| !unchanged).collect();
            let key = moved.unwrap_or_else(|| new.clone());
            return self.push(bound, Kind::Patch, set, Some(key), new);
        }
        if let Some(old) = moved {
            self.push(bound, Kind::Delete, Vec::new(), None, old)?;
        }
        self.push(bound, Kind::Upsert, Vec::new(), None, new)
    }

    /// Adds a row to the last run of its table, or begins another one.
    fn push(
        &mut self,
        bound: &Arc<Bound>,
        kind: Kind,
        set: Vec<bool>,
        key: Option<Tuple>,
        row: Tuple,
    ) -> Result<()> {
        let begin = self.begin.map_or((0, 0), |begin| (begin.final_lsn, begin.xid));
        let bytes = size(&row) + key.as_ref().map_or(0, size);
        self.open_bytes += bytes;
        self.bytes += bytes;
        self.rows += 1;
        self.touched.insert(bound.table);
        if self.open_bytes > MAX_TRANSACTION_BYTES {
            return self.too_large(begin);
        }
        let same = |run: &Run| run.kind == kind && run.set == set && Arc::ptr_eq(&run.bound, bound);
        let last = self.runs.iter().rposition(|run| run.table == bound.table);
        let at = match last {
            Some(at) if same(&self.runs[at]) && self.runs[at].rows.len() < SEAL_ROWS => at,
            _ => {
                self.runs.push(Run {
                    table: bound.table,
                    kind,
                    set,
                    bound: Arc::clone(bound),
                    rows: Vec::new(),
                    positions: Vec::new(),
                });
                self.runs.len() - 1
            }
        };
        self.runs[at].rows.push((key, row));
        self.runs[at].positions.push(begin.0);
        Ok(())
    }

    /// Refuses the transaction that is open, or leaves its tables to be copied.
    fn too_large(&mut self, begin: (u64, u32)) -> Result<()> {
        let error = too_large(begin);
        if !self.may_split {
            return Err(error);
        }
        let touched = std::mem::take(&mut self.touched);
        self.runs.retain(|run| !touched.contains(&run.table));
        for at in touched {
            self.tables[at].since = None;
            self.suspended.push((at, error.message.clone()));
        }
        self.open_bytes = 0;
        Ok(())
    }

    /// Turns the rows of a run into changes.
    fn seal(&mut self, run: Run) -> Result<()> {
        let table = self.tables[run.table].clone();
        if run.kind == Kind::Truncate {
            let rows = RecordBatch::new_empty(table.schema);
            self.add(table.target, Kind::Truncate, rows, run.positions);
            return Ok(());
        }
        let parts = Parts::of(&run, &table);
        let rows: Vec<Tuple> = parts.rows(&run.rows);
        let (batch, misfits) = values::batch(&rows, &parts.mapping, &parts.schema);
        if misfits.is_empty() {
            self.add(table.target, run.kind, batch, run.positions);
            return Ok(());
        }
        let mut from = 0;
        for misfit in misfits {
            let (good, _) = values::batch(&rows[from..misfit.row], &parts.mapping, &parts.schema);
            let positions = run.positions[from..misfit.row].to_vec();
            self.add(table.target, run.kind, good, positions);
            from = misfit.row + 1;
            let (key, row) = &run.rows[misfit.row];
            let key_schema = Arc::new(table.schema.project(&table.key).map_err(defect)?);
            let gone = [key.clone().unwrap_or_else(|| row.clone())];
            let (gone, _) = values::batch(&gone, &run.bound.key, &key_schema);
            let position = run.positions[misfit.row];
            if run.kind != Kind::Delete {
                self.add(table.target, Kind::Delete, gone, vec![position]);
            }
            self.rejected.push(rejected(&table, position, misfit, row, &run.bound.names));
        }
        let (good, _) = values::batch(&rows[from..], &parts.mapping, &parts.schema);
        self.add(table.target, run.kind, good, run.positions[from..].to_vec());
        Ok(())
    }

    fn add(&mut self, target: usize, kind: Kind, rows: RecordBatch, origins: Vec<u64>) {
        if rows.num_rows() > 0 || kind == Kind::Truncate {
            self.changes.push(Change { target, kind, rows, origins });
        }
    }
}

/// The columns of a run's batch and where they are in its rows.
struct Parts {
    schema: SchemaRef,
    mapping: Mapping,
    /// Rows are the key's tuple and then the row's.
    keyed: bool,
    width: usize,
}

impl Parts {
    fn of(run: &Run, table: &Table) -> Parts {
        let fields = table.schema.fields();
        let width = run.bound.names.len();
        let whole =
            |schema: SchemaRef, mapping: Mapping| Parts { schema, mapping, keyed: false, width };
        let key = || table.key.iter().filter_map(|at| fields.get(*at).cloned());
        match run.kind {
            Kind::Delete => {
                let schema = Arc::new(Schema::new(key().collect::<Vec<_>>()));
                whole(schema, run.bound.key.clone())
            }
            Kind::Patch => {
                let set = (0..fields.len()).filter(|at| run.set.get(*at) == Some(&true));
                let set: Vec<usize> = set.collect();
                let of_set = set.iter().filter_map(|at| fields.get(*at).cloned());
                let schema = Arc::new(Schema::new(key().chain(of_set).collect::<Vec<_>>()));
                let mapping = run.bound.key.then(&run.bound.mapping.project(&set), width);
                Parts { schema, mapping, keyed: true, width }
            }
            _ => whole(table.schema.clone(), run.bound.mapping.clone()),
        }
    }

    fn rows(&self, rows: &[(Option<Tuple>, Tuple)]) -> Vec<Tuple> {
        let row = |(key, row): &(Option<Tuple>, Tuple)| match (self.keyed, key) {
            (true, Some(key)) => {
                let mut both = key.clone();
                both.resize(self.width, Cell::Null);
                both.extend(row.iter().cloned());
                both
            }
            _ => row.clone(),
        };
        rows.iter().map(row).collect()
    }
}

/// Why a table as it is now does not fit its declaration.
fn misfit(table: &Table, relation: &Relation, names: &[String]) -> Option<String> {
    let key: BTreeSet<&str> =
        table.key.iter().map(|at| table.schema.field(*at).name().as_str()).collect();
    let has = |name: &str| names.iter().any(|known| known == name);
    if let Some(gone) = key.iter().find(|name| !has(name)) {
        return Some(format!("the key column \"{gone}\" was dropped or renamed upstream"));
    }
    let needed = table.schema.fields().iter().find(|f| !f.is_nullable() && !has(f.name()));
    if let Some(gone) = needed {
        let name = gone.name();
        return Some(format!("the NOT NULL column \"{name}\" was dropped or renamed upstream"));
    }
    let of_key = relation.columns.iter().filter(|c| c.key).map(|c| c.name.as_str());
    let identity: BTreeSet<&str> = of_key.collect();
    let by_key = matches!(relation.identity, ReplicaIdentity::Default | ReplicaIdentity::Index);
    if by_key && identity != key {
        let listed = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(", ");
        return Some(format!(
            "changes upstream name rows by ({}), and the primary key here is ({})",
            listed(&identity),
            listed(&key)
        ));
    }
    None
}

/// What the ledger keeps of a row that does not fit.
pub(super) fn rejected(
    table: &Table,
    position: u64,
    misfit: values::Misfit,
    row: &Tuple,
    names: &[String],
) -> Rejected {
    Rejected {
        position,
        reason: format!("{}: column \"{}\": {}", table.name, misfit.column, misfit.reason),
        field: Some(misfit.column),
        key: Some(record(row, names, Some(table))),
        record: Some(record(row, names, None)),
    }
}

/// What a row takes in memory.
pub(super) fn size(tuple: &Tuple) -> usize {
    let bytes = |cell: &Cell| match cell {
        Cell::Text(bytes) | Cell::Binary(bytes) => bytes.len() + CELL_BYTES,
        Cell::Null | Cell::Unchanged => CELL_BYTES,
    };
    tuple.iter().map(bytes).sum()
}

/// A row as JSON for the ledger: all of it, or its key.
fn record(row: &Tuple, names: &[String], key_of: Option<&Table>) -> String {
    let wanted = |name: &String| match key_of {
        Some(table) => table.key.iter().any(|at| table.schema.field(*at).name() == name),
        None => true,
    };
    let value = |cell: &Cell| match cell {
        Cell::Text(bytes) | Cell::Binary(bytes) => Some(crate::source::shown(bytes)),
        Cell::Null | Cell::Unchanged => None,
    };
    let parts: BTreeMap<&String, Option<String>> = names
        .iter()
        .zip(row)
        .filter(|(name, _)| wanted(name))
        .map(|(name, cell)| (name, value(cell)))
        .collect();
    let mut text = serde_json::to_string(&parts).unwrap_or_default();
    if text.len() > MAX_REJECTED_BYTES {
        text = crate::source::shown(text.as_bytes());
    }
    text
}

fn too_large((lsn, xid): (u64, u32)) -> Error {
    let mib = MAX_TRANSACTION_BYTES >> 20;
    let at = position_text(lsn);
    Error::new(
        crate::Kind::Refused,
        format!("transaction {xid} at {at} changes more than {mib} MiB, too much for one commit"),
    )
    .hint(COPY_INSTEAD)
}

fn defect(error: arrow::error::ArrowError) -> Error {
    Error::unavailable(format!("a defect: {error}"))
}
