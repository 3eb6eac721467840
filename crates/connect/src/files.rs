//! Files of a folder or a bucket as a source: `connector = 'file'`, `'s3'` or `'gcs'`.
//!
//! - [`delta`] knows which files a Delta table has;
//! - [`place`] lists the files that match and brings them here;
//! - [`reading`] reads their rows from a position on;
//! - this file goes through them, in order of their names.
//!
//! A file is a split: its position is the number of rows that are read, and with the last one it is
//! done for good ([`DONE`]), its size with it. So each row of each file counts once. Files that
//! appear later are read later, when they are found; a file that grows or changes after it was read
//! is named in `SHOW SOURCES` and not read again. A row that cannot be read goes to the ledger, and
//! so does the rest of a file that is damaged. A file that cannot be opened or read at the moment
//! (permissions, a disk or network that fails) is not done: it is tried again.

mod columns;
mod delta;
pub(crate) mod place;
mod reading;
mod spare;

use crate::source::{
    Discovered, Grown, Lag, MAX_REJECTED_BYTES, POLL_WAIT, Parcel, Positions, Rejected, Source,
    Spec, Target,
};
use crate::{Error, Result, formats};
use async_trait::async_trait;
use delta::Table;
use kaplan_sql::catalog::{ColumnDef, Include};
use place::{Found, Place};
use reading::{Fault, Plan, Reading, Step, unavailable};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The connectors of this module.
pub const CONNECTORS: [&str; 4] = ["file", "posix_fs", "s3", "gcs"];
/// In the position of a file that is done.
pub const DONE: u64 = 1 << 63;
/// Most files of one source: each is remembered for good.
pub const MAX_FILES: usize = 50_000;
/// Longest name of a file, in bytes.
const MAX_NAME_BYTES: usize = 900;
/// How long a local file must stay as it is before it is read: it may still be written.
const SETTLE: Duration = Duration::from_millis(1_000);
const OPTION: &str = "refresh.interval.sec";
const DEFAULT_REFRESH_SEC: u64 = 60;

/// The connector.
pub struct Files {
    place: Place,
    /// Present where the files are those of a Delta table.
    table: Option<Table>,
    /// Positions to go on to before anything else is read.
    marks: VecDeque<Parcel>,
    plan: Option<Plan>,
    target: Option<Target>,
    refresh: Duration,
    known: Positions,
    /// What was found and not read yet, in order.
    pending: VecDeque<Found>,
    reading: Option<Box<Reading>>,
    /// Columns that the file which is read next needs.
    grown: Vec<ColumnDef>,
    listed: Option<Instant>,
    /// Local files as they were at the last look: those that are still the same are read.
    seen: BTreeMap<String, Found>,
    unsettled: bool,
    /// Files that are other ones than those that were read.
    changed: BTreeSet<String>,
}

impl Files {
    /// Reads the definition.
    ///
    /// # Errors
    /// It is wrong.
    pub fn new(spec: Spec) -> Result<Files> {
        let place = Place::of(&spec.def)?;
        let refresh = match spec.def.options.get(OPTION) {
            None => DEFAULT_REFRESH_SEC,
            Some(seconds) => seconds.parse().ok().filter(|s| *s > 0).ok_or_else(|| {
                Error::config(format!("{OPTION} = '{seconds}' is not possible"))
                    .hint("write a number of seconds, such as 60")
            })?,
        };
        let others = [Include::File, Include::Offset, Include::Payload];
        if let Some(include) = spec.def.include.iter().find(|i| !others.contains(&i.what)) {
            let (what, connector) = (include.what.word(), &spec.def.connector);
            return Err(Error::config(format!("INCLUDE {what} is not of connector {connector}"))
                .hint("there is INCLUDE FILE, OFFSET (the row in the file) and PAYLOAD"));
        }
        let table = table(&spec, &place)?;
        let target = spec.targets.first().cloned();
        let plan = match &target {
            Some(target) => Some(Plan::of(&spec, target)?),
            None => None,
        };
        Ok(Files {
            place,
            table,
            marks: VecDeque::new(),
            plan,
            target,
            refresh: Duration::from_secs(refresh),
            known: Positions::new(),
            pending: VecDeque::new(),
            reading: None,
            grown: Vec::new(),
            listed: None,
            seen: BTreeMap::new(),
            unsettled: false,
            changed: BTreeSet::new(),
        })
    }

    /// Looks what the table has that is not read yet.
    async fn list_table(&mut self) -> Result<()> {
        let Some(table) = &mut self.table else { return Ok(()) };
        let next = table.next(&mut self.known, DONE).await?;
        // There is more at once, unless it was the last version.
        self.listed = next.ended.then(Instant::now);
        self.marks.extend(next.marks);
        self.pending = next.files.into();
        check_count(self.pending.len())
    }

    /// Looks what files there are.
    async fn list(&mut self) -> Result<()> {
        if self.table.is_some() {
            return self.list_table().await;
        }
        let found = self.place.list().await?;
        self.listed = Some(Instant::now());
        check_count(found.len())?;
        (self.pending, self.unsettled) = (VecDeque::new(), false);
        self.changed.clear();
        let mut seen = BTreeMap::new();
        for file in found {
            match self.known.get(&file.name) {
                Some(position) if *position >= DONE => {
                    if *position & !DONE != file.size {
                        self.changed.insert(file.name.clone());
                    }
                }
                _ if self.place.is_local() && self.seen.get(&file.name) != Some(&file) => {
                    self.unsettled = true;
                    seen.insert(file.name.clone(), file);
                }
                _ => {
                    seen.insert(file.name.clone(), file.clone());
                    self.pending.push_back(file);
                }
            }
        }
        if self.unsettled {
            // In order: what comes before a file that is still written may be read, not more.
            let first = seen.values().find(|f| self.seen.get(&f.name) != Some(f));
            let first = first.map(|f| f.name.clone());
            self.pending.retain(|f| first.as_ref().is_none_or(|first| f.name < *first));
        }
        self.seen = seen;
        Ok(())
    }

    fn is_due(&self) -> bool {
        let wait = if self.unsettled { SETTLE.min(self.refresh) } else { self.refresh };
        self.listed.is_none_or(|at| at.elapsed() >= wait)
    }

    /// Begins with the next file; a parcel when it cannot be read at all.
    async fn begin(&mut self, file: Found) -> Result<Option<Parcel>> {
        let (Some(plan), Some(target)) = (&self.plan, &self.target) else { return Ok(None) };
        let at = self.known.get(&file.name).copied().unwrap_or(0);
        if file.name.len() > MAX_NAME_BYTES || file.name.ends_with(".gz") {
            let reason = match file.name.ends_with(".gz") {
                true => "compressed text files are not read: unpack them, or write Parquet",
                false => "the file's name is too long",
            };
            return Ok(Some(self.refused(&file, reason.to_owned())));
        }
        let Some(local) = self.place.fetch(&file).await? else {
            return if self.table.is_some() { Err(Table::missing(&file)) } else { Ok(None) };
        };
        match plan.open(file.clone(), local, target.clone(), at).await {
            Ok(reading) => self.reading = Some(Box::new(reading)),
            Err(Fault::Passing(reason)) => return Err(unavailable(&file.name, &reason)),
            Err(Fault::Damaged(reason, field)) => {
                let mut parcel = self.refused(&file, reason);
                parcel.rejected.iter_mut().for_each(|entry| entry.field.clone_from(&field));
                return Ok(Some(parcel));
            }
        }
        Ok(None)
    }

    fn refused(&mut self, file: &Found, reason: String) -> Parcel {
        let mut name = file.name.clone();
        name.truncate(
            (0..=MAX_NAME_BYTES).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0),
        );
        let position = DONE | file.size;
        self.known.insert(name.clone(), position);
        let record = Some(file.name.chars().take(MAX_REJECTED_BYTES / 4).collect());
        let reason = format!("{}: {reason}", file.name);
        let rejected = Rejected { position: 0, reason, record, ..Rejected::default() };
        Parcel { rejected: vec![rejected], ..Parcel::at(name, position) }
    }
}

fn check_count(files: usize) -> Result<()> {
    if files <= MAX_FILES {
        return Ok(());
    }
    let message = format!("{files} files match, more than {MAX_FILES}");
    Err(Error::unavailable(message).hint("narrow match_pattern, or write fewer, larger files"))
}

/// The table that a definition names with `ENCODE DELTA`.
fn table(spec: &Spec, place: &Place) -> Result<Option<Table>> {
    let (options, format) = (&spec.def.options, spec.def.format.as_ref());
    let skip = match options.get(delta::SKIP).map(|value| value.to_lowercase()).as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(Error::config(format!("{} = '{other}' is not possible", delta::SKIP))
                .hint("write 'true' or 'false'"));
        }
    };
    if format.is_none_or(|format| format.encode != "delta") {
        return match options.get(delta::SKIP) {
            Some(_) => Err(Error::config(format!("{} is of Delta tables", delta::SKIP))
                .hint("write FORMAT PLAIN ENCODE DELTA")),
            None => Ok(None),
        };
    }
    if options.contains_key("match_pattern") {
        return Err(Error::config("a Delta table says itself which files it has")
            .hint("leave match_pattern out, and name the table's folder"));
    }
    Table::new(place, skip).map(Some)
}

#[async_trait]
impl Source for Files {
    async fn discover(&mut self, _upstream: Option<&str>) -> Result<Discovered> {
        if let Some(table) = &self.table {
            let columns = table.columns().await?;
            let columns = columns
                .fields()
                .iter()
                .map(|field| ColumnDef::new(field.name(), formats::sql_type(field.data_type())));
            return Ok(Discovered { columns: columns.collect(), primary_key: Vec::new() });
        }
        let found = self.place.list().await?;
        let Some(first) = found.into_iter().next() else {
            return Err(Error::config("no file matches, so the columns are not known")
                .hint("declare the columns, or write a file first"));
        };
        let Some(local) = self.place.fetch(&first).await? else {
            return Err(Error::unavailable(format!("{} went away", first.name)));
        };
        let schema = formats::infer_schema(local.path()).map_err(|e| {
            let error = Error::config(format!("{}: {}", first.name, e.message));
            e.hint.map_or(error.clone(), |hint| error.hint(hint))
        })?;
        let column = |f: &std::sync::Arc<arrow::datatypes::Field>| {
            ColumnDef::new(f.name(), formats::sql_type(f.data_type()))
        };
        let columns = schema.fields().iter().map(column).collect();
        Ok(Discovered { columns, primary_key: Vec::new() })
    }

    async fn open(&mut self, committed: &Positions) -> Result<Positions> {
        self.known.clone_from(committed);
        (self.reading, self.listed) = (None, None);
        self.marks.clear();
        self.list().await?;
        Ok(Positions::new())
    }

    async fn poll(&mut self) -> Result<Vec<Parcel>> {
        if !self.marks.is_empty() {
            return Ok(self.marks.drain(..).collect());
        }
        if let Some(reading) = self.reading.take() {
            match reading.next().await? {
                Step::Rows(mut parcel, reading) => {
                    if let Some(table) = &self.table {
                        table.fill(&mut parcel)?;
                    }
                    self.known.insert(parcel.split.clone(), parcel.position);
                    self.reading = reading;
                    return Ok(vec![*parcel]);
                }
                Step::Grown(columns) => self.grown = columns,
            }
            return Ok(Vec::new());
        }
        if let Some(file) = self.pending.pop_front() {
            return Ok(self.begin(file).await?.into_iter().collect());
        }
        if self.is_due() {
            self.list().await?;
        }
        if self.pending.is_empty() && self.marks.is_empty() {
            tokio::time::sleep(POLL_WAIT).await;
        }
        Ok(Vec::new())
    }

    fn grown(&mut self) -> Vec<Grown> {
        let columns = std::mem::take(&mut self.grown);
        if columns.is_empty() { Vec::new() } else { vec![Grown { target: 0, columns }] }
    }

    async fn committed(&mut self, _split: &str, _position: u64) -> Result<()> {
        Ok(())
    }

    fn after(&self, origin: u64) -> u64 {
        // Rows are counted from 1, so that the position is the number of the last one.
        origin
    }

    fn lag(&self) -> Option<Lag> {
        let amount = self.pending.len() as u64 + u64::from(self.reading.is_some());
        Some(Lag { amount, unit: "files" })
    }

    fn note(&self) -> Option<String> {
        const SHOWN: usize = 3;
        let shown: Vec<&str> = self.changed.iter().take(SHOWN).map(String::as_str).collect();
        let more = if self.changed.len() > SHOWN { " and others" } else { "" };
        (!shown.is_empty()).then(|| {
            format!("changed after it was read, and is not read again: {}{more}", shown.join(", "))
        })
    }
}
