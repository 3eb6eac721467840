//! From what a source read to commits. A row that its table cannot take goes to the ledger, and
//! the others are committed: one bad row harms only itself, and never stops the source.
//!
//! Invariant: a parcel is one commit, with its position; it is committed whole or not at all. One that
//! is too large for that is cut between the transactions or records that it was made of; never does
//! what is too large go to the ledger, since the removals in it would be lost.

use super::ledger::{self, Entry};
use super::{Running, State};
use crate::platform::Inner;
use crate::sequencer::{Checks, StreamWrite, WriteKind, WriteRequest};
use crate::{Code, Error, Producer, Result, recover, rows};
use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use kaplan_base::Remedy;
use kaplan_connect::source::{Change, Kind, Parcel, Rejected, Source};
use kaplan_sql::catalog::{Catalog, CheckDef, OnViolation, SourceDef, StreamDef};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Rows of one parcel that the sequencer may refuse one by one; beyond it the change with the row goes
/// to the ledger, and no other.
const MAX_REFUSALS: usize = 100;
/// How long a source waits when Kaplan itself takes no more.
const BUSY: Duration = Duration::from_millis(50);
/// The same when the disk is full, and how long being busy lasts before it is told.
const HELD: Duration = Duration::from_millis(500);

/// A table that a source fills, as deliveries need it.
struct Table {
    def: StreamDef,
    /// The checks that refuse rows.
    refusing: Vec<(usize, CheckDef)>,
    checks: Option<Box<dyn Checks>>,
}

/// The way from parcels to commits, for one definition of a source.
pub struct Delivery<'a> {
    inner: &'a Inner,
    running: &'a Running,
    def: SourceDef,
    tables: Vec<Table>,
    errors: StreamDef,
}

/// What became of a parcel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivered {
    /// Rows committed.
    pub rows: u64,
    /// Records and rows put into the ledger.
    pub rejected: u64,
}

/// A parcel on its way: its rows, and what was refused of them.
struct Load {
    parcel: Parcel,
    entries: Vec<Entry>,
    refusals: usize,
    /// Whether the tables that it empties were emptied before it.
    cleared: bool,
}

impl Load {
    /// Where it can be cut in about two halves: what comes from there or before, and the rest.
    fn cut(&self) -> Option<u64> {
        let of_rows = self.parcel.changes.iter().flat_map(|change| &change.origins);
        let of_entries = self.entries.iter().map(|entry| &entry.rejected.position);
        let mut origins: Vec<u64> = of_rows.chain(of_entries).copied().collect();
        origins.sort_unstable();
        let (middle, last) = (*origins.get(origins.len() / 2)?, *origins.last()?);
        match middle < last {
            true => Some(middle),
            false => origins.into_iter().rev().find(|origin| *origin < last),
        }
    }

    /// Takes out what comes after `cut`; `position` is where its split goes on there.
    fn split_off(&mut self, cut: u64, position: u64) -> Result<Load> {
        let end = std::mem::replace(&mut self.parcel.position, position);
        let entries = std::mem::take(&mut self.entries);
        let (entries, later) = entries.into_iter().partition(|e| e.rejected.position <= cut);
        self.entries = entries;
        let parcel = Parcel::at(self.parcel.split.clone(), end);
        let mut rest = Load { parcel, entries: later, refusals: self.refusals, cleared: false };
        for change in std::mem::take(&mut self.parcel.changes) {
            if change.kind == Kind::Truncate {
                let is_first = change.origins.first().is_none_or(|origin| *origin <= cut);
                let of = if is_first { &mut self.parcel } else { &mut rest.parcel };
                of.changes.push(change);
                continue;
            }
            for (of, first) in [(&mut self.parcel, true), (&mut rest.parcel, false)] {
                let keep = change.origins.iter().map(|origin| Some((*origin <= cut) == first));
                let mut part = change.clone();
                filter(&mut part, &keep.collect())?;
                of.changes.push(part);
            }
        }
        Ok(rest)
    }

    /// The targets of its changes of some kind.
    fn targets(&self, of: impl Fn(Kind) -> bool) -> BTreeSet<usize> {
        let changes = self.parcel.changes.iter().filter(|change| of(change.kind));
        changes.map(|change| change.target).collect()
    }
}

impl<'a> Delivery<'a> {
    pub fn new(
        inner: &'a Inner,
        running: &'a Running,
        catalog: &Catalog,
        def: &SourceDef,
    ) -> Result<Self> {
        let stream = |id| catalog.streams.values().find(|s| s.id == id).cloned();
        let gone =
            || Error::new(Code::UnknownRelation, format!("a stream of {} is gone", def.name));
        let mut tables = Vec::with_capacity(def.targets.len());
        for target in &def.targets {
            let stream = stream(target.stream).ok_or_else(gone)?;
            let checks = recover::definition(&inner.planner, catalog, &stream)?.checks;
            let refusing = stream.checks.iter().cloned().enumerate();
            let refusing = refusing.filter(|(_, c)| c.on_violation == OnViolation::Reject);
            tables.push(Table { refusing: refusing.collect(), def: stream, checks });
        }
        let errors = stream(def.errors).ok_or_else(gone)?;
        Ok(Self { inner, running, def: def.clone(), tables, errors })
    }

    /// Commits parcels, in order; `after` says where each one's split stood. Waits as long as Kaplan
    /// takes no more: that is what holds a fast source back.
    /// What is too much for one commit becomes several, as far as `source` says how.
    pub async fn deliver(
        &self,
        source: &mut dyn Source,
        parcels: Vec<(Parcel, Option<u64>)>,
    ) -> Result<Vec<Delivered>> {
        let mut done = vec![None; parcels.len()];
        let mut loads = Vec::with_capacity(parcels.len());
        for (parcel, after) in parcels {
            loads.push((self.load(parcel)?, after));
        }
        let mut busy: Option<Instant> = None;
        loop {
            let waiting: Vec<usize> = (0..loads.len()).filter(|at| done[*at].is_none()).collect();
            if waiting.is_empty() {
                if busy.is_some_and(|since| since.elapsed() >= HELD) {
                    self.running.set(State::Running, self.inner.clock.now_us());
                }
                return Ok(done.into_iter().flatten().collect());
            }
            let requests = waiting
                .iter()
                .map(|at| self.request(&loads[*at].0, loads[*at].1))
                .collect::<Result<Vec<_>>>()?;
            let requests = requests.into_iter().map(|r| self.inner.sequencer.submit(r));
            let answers = futures::future::join_all(requests).await;
            let mut first_error = None;
            for (at, answer) in waiting.into_iter().zip(answers) {
                match answer {
                    Ok(ack) => {
                        let rejected = loads[at].0.entries.len() as u64;
                        let rows = ack.rows.saturating_sub(rejected);
                        done[at] = Some(Delivered { rows, rejected });
                    }
                    Err(error) if first_error.is_none() => first_error = Some((at, error)),
                    // What follows a refused parcel in its split is tried again after it.
                    Err(_) => {}
                }
            }
            if let Some((at, error)) = first_error {
                match error.code {
                    _ if is_full(&error) => {
                        let since = *busy.get_or_insert_with(Instant::now);
                        self.held(&error, since).await;
                    }
                    Code::TooLarge => {
                        if self.lessen(source, &mut loads, at, error).await? {
                            done.insert(at, None);
                        }
                    }
                    Code::Conflict => return Err(error),
                    _ if error.remedy() != Remedy::FixInput => return Err(error),
                    Code::UnknownRelation => return Err(error),
                    _ => self.refuse(&mut loads[at].0, &error)?,
                }
            }
        }
    }

    /// Waits for Kaplan to take more; says so when it takes long, since nothing else would.
    async fn held(&self, error: &Error, since: Instant) {
        if since.elapsed() >= HELD {
            self.running.failed(error, self.inner.clock.now_us());
        }
        let full = error.code != Code::Overloaded;
        tokio::time::sleep(if full { HELD } else { BUSY }).await;
    }

    /// Has a load that is too much for one commit become two, or empties the tables that it empties
    /// before it; true when it became two. What cannot be cut is for the source to decide.
    async fn lessen(
        &self,
        source: &mut dyn Source,
        loads: &mut Vec<(Load, Option<u64>)>,
        at: usize,
        error: Error,
    ) -> Result<bool> {
        let load = &mut loads[at].0;
        let cut = load.cut().map(|cut| (cut, source.after(cut)));
        if let Some((cut, position)) = cut.filter(|(_, at)| *at < load.parcel.position) {
            let rest = load.split_off(cut, position)?;
            loads.insert(at + 1, (rest, Some(position)));
            return Ok(true);
        }
        let emptied: BTreeSet<usize> = load.targets(|kind| kind == Kind::Truncate);
        if !emptied.is_empty() && !std::mem::replace(&mut load.cleared, true) {
            for target in emptied {
                self.clear(self.table(target)?).await?;
            }
            return Ok(false);
        }
        let (split, targets) = (load.parcel.split.clone(), load.targets(|_| true));
        for parcel in source.too_large(&split, &targets)? {
            let load = self.load(parcel)?;
            self.inner.sequencer.submit(self.request(&load, None)?).await?;
        }
        Err(error)
    }

    /// Empties a table, a commit at a time. Until the parcel that empties it is committed it is read
    /// again after any failure, so that it makes no difference where this one ended.
    async fn clear(&self, table: &Table) -> Result<()> {
        let since = Instant::now();
        loop {
            let kind = WriteKind::Clear;
            let write = StreamWrite { stream: table.def.id, rows: Vec::new(), kind };
            let request = WriteRequest { writes: vec![write], ..WriteRequest::default() };
            match self.inner.sequencer.submit(request).await {
                Ok(ack) if ack.rows == 0 => return Ok(()),
                Ok(_) => {}
                Err(error) if is_full(&error) => {
                    self.held(&error, since).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sorts out what its tables would refuse.
    fn load(&self, parcel: Parcel) -> Result<Load> {
        let position = parcel.position;
        let entry = |rejected| Entry { relation: None, rejected };
        let mut load = Load {
            entries: parcel.rejected.iter().cloned().map(entry).collect(),
            parcel: Parcel { changes: Vec::new(), rejected: Vec::new(), ..parcel.clone() },
            refusals: 0,
            cleared: false,
        };
        for mut change in parcel.changes {
            if change.kind == Kind::Truncate {
                load.parcel.changes.push(change);
                continue;
            }
            if change.rows.num_rows() == 0 {
                continue;
            }
            if change.origins.is_empty() {
                change.origins = vec![position; change.rows.num_rows()];
            }
            let table = self.table(change.target)?;
            if change.kind == Kind::Patch {
                self.patchable(table, &mut change, &mut load.entries);
            } else if change.kind != Kind::Delete {
                change.rows = rows::with_generated(self.inner, &table.def, change.rows)?;
                self.sift(table, &mut change, &mut load.entries)?;
            }
            load.parcel.changes.push(change);
        }
        Ok(load)
    }

    fn table(&self, target: usize) -> Result<&Table> {
        let message = || format!("source {} filled a table that it has not", self.def.name);
        self.tables.get(target).ok_or_else(|| Error::new(Code::Internal, message()))
    }

    /// Refuses changes of some columns of a table that computes others of them.
    fn patchable(&self, table: &Table, change: &mut Change, entries: &mut Vec<Entry>) {
        if table.def.columns.iter().all(|c| c.generated.is_none()) {
            return;
        }
        for row in 0..change.rows.num_rows() {
            let reason = "a large value that the update did not change was not sent, and the table \
                          has generated columns; ALTER TABLE .. REPLICA IDENTITY FULL upstream";
            entries.push(entry(table, change, row, reason.to_owned(), None));
        }
        change.rows = change.rows.slice(0, 0);
        change.origins.clear();
    }

    /// Takes out rows with NULL where none may be, and rows that break a check.
    fn sift(&self, table: &Table, change: &mut Change, entries: &mut Vec<Entry>) -> Result<()> {
        let mut wrong: Vec<Option<(String, Option<String>)>> = vec![None; change.rows.num_rows()];
        for (column, values) in table.def.columns.iter().zip(change.rows.columns()) {
            if column.nullable || values.null_count() == 0 {
                continue;
            }
            for row in (0..values.len()).filter(|row| values.is_null(*row)) {
                let reason = format!(
                    "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                    column.name, table.def.name
                );
                wrong[row].get_or_insert((reason, Some(column.name.clone())));
            }
        }
        broken(table, &change.rows, &mut wrong);
        if wrong.iter().all(Option::is_none) {
            return Ok(());
        }
        let keep: BooleanArray = wrong.iter().map(|w| Some(w.is_none())).collect();
        for (row, wrong) in wrong.into_iter().enumerate() {
            if let Some((reason, field)) = wrong {
                entries.push(entry(table, change, row, reason, field));
            }
        }
        filter(change, &keep)
    }

    /// Moves the row that the sequencer refused into the ledger; the rows that came with it when it
    /// has refused many, and the whole rest of the parcel for its table when it does not say which
    /// row it is.
    fn refuse(&self, load: &mut Load, error: &Error) -> Result<()> {
        load.refusals += 1;
        let named = error.stream.as_deref();
        let table = self.tables.iter().find(|t| Some(t.def.name.as_str()) == named);
        let (mut row, many) = (error.row.filter(|_| table.is_some()), load.refusals > MAX_REFUSALS);
        let mut moved = 0;
        for change in &mut load.parcel.changes {
            let of = self.table(change.target)?;
            if table.is_some_and(|t| t.def.id != of.def.id) {
                continue;
            }
            let count = change.rows.num_rows() as u64;
            let range = match row {
                Some(at) if at > count => {
                    row = Some(at - count);
                    continue;
                }
                Some(at) if !many => at.saturating_sub(1) as usize..at as usize,
                Some(_) => 0..change.rows.num_rows(),
                None => 0..change.rows.num_rows(),
            };
            let (reason, field) = (error.message.clone(), error.field.clone());
            for at in range.clone() {
                load.entries.push(entry(of, change, at, reason.clone(), field.clone()));
            }
            moved += range.len();
            let keep: BooleanArray =
                (0..change.rows.num_rows()).map(|at| Some(!range.contains(&at))).collect();
            filter(change, &keep)?;
            if row.is_some() {
                break;
            }
        }
        // Nothing to take out: the error is not of a row.
        if moved == 0 { Err(error.clone()) } else { Ok(()) }
    }

    fn request(&self, load: &Load, after: Option<u64>) -> Result<WriteRequest> {
        let mut writes = Vec::with_capacity(load.parcel.changes.len() + 1);
        let does = |c: &&Change| c.kind == Kind::Truncate || c.rows.num_rows() > 0;
        for change in load.parcel.changes.iter().filter(does) {
            let table = &self.table(change.target)?.def;
            let kind = match change.kind {
                Kind::Patch => WriteKind::Patch,
                Kind::Truncate => WriteKind::Truncate,
                Kind::Delete => WriteKind::Delete,
                Kind::Upsert => WriteKind::Upsert,
                Kind::Append => WriteKind::Append,
            };
            writes.push(StreamWrite { stream: table.id, rows: vec![change.rows.clone()], kind });
        }
        if !load.entries.is_empty() {
            let now_us = self.inner.clock.now_us();
            let rows = ledger::rows(&self.errors, &load.parcel.split, &load.entries, now_us)?;
            let kind = WriteKind::Append;
            writes.push(StreamWrite { stream: self.errors.id, rows: vec![rows], kind });
        }
        let id = self.def.producer(&load.parcel.split);
        let producer = Producer { id, sequence: load.parcel.position.saturating_add(1) };
        let after = after.map_or(0, |position| position.saturating_add(1));
        Ok(WriteRequest { writes, producer: Some(producer), after: Some(after), tick: None })
    }
}

/// Marks the rows that break a check which refuses rows.
fn broken(table: &Table, rows: &RecordBatch, wrong: &mut [Option<(String, Option<String>)>]) {
    let (Some(checks), false) = (&table.checks, table.refusing.is_empty()) else { return };
    let reason = |check: &CheckDef| {
        let name = &table.def.name;
        format!("new row for relation \"{name}\" violates check constraint \"{}\"", check.name)
    };
    match checks.evaluate(rows) {
        Ok(verdicts) => {
            for (at, check) in &table.refusing {
                let Some(verdict) = verdicts.get(*at) else { continue };
                let fails = |row: &usize| verdict.is_valid(*row) && !verdict.value(*row);
                for row in (0..rows.num_rows()).filter(fails) {
                    wrong[row].get_or_insert((reason(check), None));
                }
            }
        }
        // Some row cannot be computed: one by one it is found.
        Err(message) if rows.num_rows() == 1 => {
            wrong[0].get_or_insert((message, None));
        }
        Err(_) => {
            for (row, wrong) in wrong.iter_mut().enumerate() {
                broken(table, &rows.slice(row, 1), std::slice::from_mut(wrong));
            }
        }
    }
}

/// Whether a commit has no room now, and is right otherwise.
fn is_full(error: &Error) -> bool {
    matches!(error.code, Code::Overloaded | Code::DiskFull | Code::OutOfMemory)
}

fn entry(
    table: &Table,
    change: &Change,
    row: usize,
    reason: String,
    field: Option<String>,
) -> Entry {
    let position = change.origins.get(row).copied().unwrap_or_default();
    let record = ledger::row_text(&change.rows, row);
    let rejected = Rejected { position, reason, field, key: None, record };
    Entry { relation: Some(table.def.name.clone()), rejected }
}

fn filter(change: &mut Change, keep: &BooleanArray) -> Result<()> {
    change.rows = filter_record_batch(&change.rows, keep)?;
    let mut kept = keep.values().iter();
    change.origins.retain(|_| kept.next().unwrap_or(true));
    Ok(())
}
