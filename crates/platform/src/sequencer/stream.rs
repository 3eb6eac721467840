//! One stream or table inside the sequencer: its definition, its checks, the keys it remembers, its
//! rows if it is a table, and its counters. A write is staged; a mark taken before it takes it back.

use super::checks::{Broken, Verdict, conform, judge, nullable, refuse_nulls, widened};
use super::request::{Counters, Definition, WriteKind, internal};
use super::state::too_large;
use super::table::Table;
use super::unique::{MAX_REMEMBERED_KEYS, Unique};
use crate::{Code, Error, Result};
use arrow::array::temporal_conversions::timestamp_us_to_datetime;
use arrow::array::{Array, AsArray, PrimitiveArray, RecordBatch};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use kaplan_base::{Lsn, StreamId};
use kaplan_circuit::Delta;
use kaplan_sql::catalog::{OnViolation, StreamDef, WatermarkDef};

/// A stream or table.
pub(super) struct Stream {
    pub definition: Definition,
    pub counters: Counters,
    pub unique: Option<Unique>,
    pub table: Option<Table>,
    event_time: Option<EventTime>,
    /// How many columns it had before some were added: rows made by then may still be on their way.
    earlier_widths: Vec<usize>,
}

/// The event time of a stream's rows.
struct EventTime {
    /// The position of its column.
    column: usize,
    mark: WatermarkDef,
}

/// A place to which a stream can go back.
pub(super) struct Mark {
    pub stream: StreamId,
    counters: Counters,
    unique: usize,
    pub table: usize,
    /// The bytes that the stream held.
    pub held: usize,
}

/// What became of the rows of an append or upsert.
pub(super) struct Taken {
    /// Rows of an append-only stream; those of a table are staged in the table.
    pub rows: Option<RecordBatch>,
    pub duplicates: u64,
    pub original: Lsn,
    pub dropped: u64,
    pub quarantined: Option<RecordBatch>,
}

impl Stream {
    /// An empty stream.
    pub fn new(definition: Definition) -> Result<Self> {
        let (def, schema) = (&definition.def, &definition.schema);
        let find = |column: &String| schema.index_of(column).map_err(internal);
        let unique = match &def.unique {
            Some(unique) => {
                let columns = unique.columns.iter().map(find).collect::<Result<_>>()?;
                Some(Unique::new(columns, unique.within_us, MAX_REMEMBERED_KEYS))
            }
            None => None,
        };
        let table = match def.append_only {
            true => None,
            false => {
                let key = def.primary_key.iter().map(find).collect::<Result<_>>()?;
                Some(Table::new(schema, key, def.on_conflict)?)
            }
        };
        let event_time = match &def.watermark {
            Some(mark) => Some(EventTime { column: find(&mark.column)?, mark: mark.clone() }),
            None => None,
        };
        if !def.checks.is_empty() && definition.checks.is_none() {
            return Err(internal(format!("{} came without its compiled checks", def.name)));
        }
        let counters = Counters { last_lsn: Lsn::ZERO, ..Counters::default() };
        Ok(Self { definition, counters, unique, table, event_time, earlier_widths: Vec::new() })
    }

    /// Takes another definition, whose columns are the old ones and perhaps more behind them.
    pub fn redefine(&mut self, definition: Definition) -> Result<()> {
        if let Some(table) = &mut self.table {
            table.widen(&definition.schema)?;
        }
        let width = self.definition.schema.fields().len();
        if definition.schema.fields().len() > width {
            self.earlier_widths.push(width);
        }
        self.definition = definition;
        Ok(())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.definition.def.name
    }

    /// Whether it is a table with a primary key.
    pub fn is_keyed(&self) -> bool {
        self.table.as_ref().is_some_and(|t| !t.key().is_empty())
    }

    /// The bytes of memory that its rows and remembered keys take, about.
    pub fn held(&self) -> usize {
        let table = self.table.as_ref().map_or(0, Table::held);
        table + self.unique.as_ref().map_or(0, Unique::held)
    }

    /// Where to go back to when the write fails.
    pub fn mark(&self) -> Mark {
        Mark {
            stream: self.definition.def.id,
            counters: self.counters,
            unique: self.unique.as_ref().map_or(0, Unique::mark),
            table: self.table.as_ref().map_or(0, Table::mark),
            held: self.held(),
        }
    }

    /// Takes back everything after the mark.
    pub fn revert(&mut self, mark: &Mark) {
        self.counters = mark.counters;
        if let Some(unique) = &mut self.unique {
            unique.revert(mark.unique);
        }
        if let Some(table) = &mut self.table {
            table.revert(mark.table);
        }
    }

    /// Makes what was staged stay.
    pub fn confirm(&mut self) {
        if let Some(unique) = &mut self.unique {
            unique.confirm();
        }
        if let Some(table) = &mut self.table {
            table.confirm();
        }
    }

    /// Stages rows that are appended, upserted or inserted. `first_row` numbers the first of them.
    pub fn take(
        &mut self,
        batch: &RecordBatch,
        kind: WriteKind,
        first_row: u64,
        lsn: Lsn,
        time_us: i64,
    ) -> Result<Taken> {
        let Definition { def, schema, checks, .. } = &self.definition;
        self.refuse_null_columns(batch, first_row)?;
        let batch = conform(&def.name, schema, &self.at_full_width(batch)?, first_row)?;
        let untimely = self.untimely(&batch, time_us)?;
        let Verdict { mut admitted, dropped, quarantined } =
            judge(def, checks.as_deref(), batch, first_row, untimely)?;
        let (mut duplicates, mut original) = (0, Lsn::ZERO);
        if let Some(unique) = &mut self.unique {
            let known = unique.admit(&admitted, lsn, time_us).map_err(|e| e.stream(&def.name))?;
            (duplicates, original) = (known.duplicates, known.original);
            if let Some(keep) = &known.keep {
                admitted = filter_record_batch(&admitted, keep).map_err(internal)?;
            }
        }
        let rows = match &mut self.table {
            Some(table) if kind == WriteKind::Insert => {
                if let Some(at) = table.insert(&admitted)? {
                    return Err(duplicate_key(def, &admitted, at));
                }
                None
            }
            Some(table) => {
                table.put(&admitted)?;
                None
            }
            None => Some(admitted),
        };
        Ok(Taken { rows, duplicates, original, dropped, quarantined })
    }

    /// Stages the removal of whole rows, all of which must be there.
    pub fn remove(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = self.at_full_width(batch)?;
        let Definition { def, schema, .. } = &self.definition;
        let Some(table) = &mut self.table else {
            return Err(internal(format!("removal from the stream {}", def.name)));
        };
        let rows = conform(&def.name, &nullable(schema), &batch, 1)?;
        if table.remove(rows.columns())? {
            return Ok(());
        }
        let message = format!("rows of {} were changed by another write meanwhile", def.name);
        Err(Error::new(Code::Conflict, message).stream(&def.name).hint("try again"))
    }

    /// Stages the removal of rows and returns how many there were.
    pub fn delete(&mut self, batch: &RecordBatch, first_row: u64) -> Result<u64> {
        let Definition { def, schema, .. } = &self.definition;
        let Some(table) = &mut self.table else {
            return Err(internal(format!("delete from the stream {}", def.name)));
        };
        let key = table.key().to_vec();
        let expected = match key.is_empty() {
            true => SchemaRef::clone(schema),
            false => SchemaRef::new(schema.project(&key).map_err(internal)?),
        };
        if batch.num_columns() == expected.fields().len() && !key.is_empty() {
            for (field, column) in expected.fields().iter().zip(batch.columns()) {
                refuse_nulls(&def.name, "the primary key", field.name(), column, first_row)?;
            }
        }
        // A whole row with NULL where none can be matches nothing, so it only has to fit by type.
        table.delete(conform(&def.name, &nullable(&expected), batch, first_row)?.columns())
    }

    /// Stages the removal of all rows, if they have at most so many bytes, and returns how many there
    /// were.
    pub fn truncate(&mut self, most: usize) -> Result<u64> {
        let Some(table) = &mut self.table else { return Ok(0) };
        let bytes = table.bytes();
        if bytes > most {
            return Err(too_large(bytes, "bytes", most).stream(&self.definition.def.name));
        }
        Ok(table.clear(usize::MAX))
    }

    /// Stages the removal of rows until about so many bytes are gone; returns how many rows.
    pub fn clear(&mut self, bytes: usize) -> u64 {
        self.table.as_mut().map_or(0, |table| table.clear(bytes))
    }

    /// Stages changes of some columns, row by row, since one may build on the one before. The checks
    /// see each row as it becomes.
    pub fn patch(&mut self, batch: &RecordBatch, first_row: u64, time_us: i64) -> Result<Taken> {
        let key = self.table.as_ref().map_or(&[][..], Table::key).to_vec();
        let expected = SchemaRef::new(self.definition.schema.project(&key).map_err(internal)?);
        let mut taken =
            Taken { rows: None, duplicates: 0, original: Lsn::ZERO, dropped: 0, quarantined: None };
        let mut quarantined = Vec::new();
        let width = key.len().min(batch.num_columns());
        let keys = batch.project(&(0..width).collect::<Vec<_>>()).map_err(internal)?;
        for at in 0..batch.num_rows() {
            let (row, number) = (batch.slice(at, 1), first_row + at as u64);
            let name = &self.definition.def.name;
            let old = conform(name, &nullable(&expected), &keys.slice(at, 1), number)?;
            let Some(table) = &mut self.table else { return Ok(taken) };
            let Some(before) = table.get(old.columns())? else {
                taken.dropped += 1;
                continue;
            };
            let mut columns = before.columns().to_vec();
            let set = row.schema();
            for (field, column) in set.fields().iter().zip(row.columns()).skip(width) {
                let place = self.definition.schema.index_of(field.name()).map_err(internal)?;
                columns[place] = column.clone();
            }
            let schema = nullable(&self.definition.schema);
            let row = RecordBatch::try_new(schema, columns).map_err(internal)?;
            self.refuse_null_columns(&row, number)?;
            let row = conform(name, &self.definition.schema, &row, number)?;
            let untimely = self.untimely(&row, time_us)?;
            let Definition { def, checks, .. } = &self.definition;
            let verdict = judge(def, checks.as_deref(), row, number, untimely)?;
            taken.dropped += verdict.dropped;
            quarantined.extend(verdict.quarantined);
            if verdict.admitted.num_rows() == 0 {
                continue;
            }
            let Some(table) = &mut self.table else { return Ok(taken) };
            table.delete(old.columns())?;
            table.put(&verdict.admitted)?;
        }
        if let Some(first) = quarantined.first() {
            let all = concat_batches(&first.schema(), &quarantined).map_err(internal)?;
            taken.quarantined = Some(all);
        }
        Ok(taken)
    }

    /// How many of the added rows are older than the watermark; then moves the watermark.
    pub fn pass_time(&mut self, delta: &Delta) -> Result<u64> {
        let Some(EventTime { column, mark }) = &self.event_time else { return Ok(0) };
        let times = micros(delta.rows.column(*column).as_ref())?;
        let delay_us = mark.delay_us;
        let before = self.counters.watermark_us;
        let (mut newest, mut late) = (None, 0);
        for row in (0..times.len()).filter(|row| times.is_valid(*row) && delta.weight(*row) > 0) {
            let time = times.value(row);
            newest = newest.max(Some(time));
            if before.is_some_and(|b| time < b) {
                late += delta.weight(row).unsigned_abs();
            }
        }
        self.advance(newest, delay_us);
        Ok(late)
    }

    /// What is wrong with the time of each row: too far behind the watermark, or ahead of the time
    /// of its commit. None if nothing is.
    fn untimely(&self, rows: &RecordBatch, time_us: i64) -> Result<Option<Vec<Option<Broken>>>> {
        let Some(EventTime { column, mark }) = &self.event_time else { return Ok(None) };
        let watermark = mark.lateness_us.and(self.counters.watermark_us);
        let oldest = watermark.map(|w| w.saturating_sub(mark.lateness_us.unwrap_or(0)));
        let newest = mark.future_us.map(|limit| time_us.saturating_add(limit));
        let is_late = |time: i64| oldest.is_some_and(|oldest| time < oldest);
        let is_ahead = |time: i64| newest.is_some_and(|newest| time > newest);
        let times = micros(rows.column(*column).as_ref())?;
        if !times.iter().flatten().any(|time| is_late(time) || is_ahead(time)) {
            return Ok(None);
        }
        let name = self.name();
        let why = |time: i64| {
            let shown = shown_time(time);
            let (name, reason) = match (is_late(time), is_ahead(time)) {
                (true, _) => (
                    format!("{name}_allowed_lateness"),
                    format!(
                        "{} {shown} is before {}, which is ALLOWED LATENESS behind the watermark",
                        mark.column,
                        shown_time(oldest?)
                    ),
                ),
                (false, true) => (
                    format!("{name}_future_limit"),
                    format!(
                        "{} {shown} is after {}, which is FUTURE LIMIT ahead of the commit",
                        mark.column,
                        shown_time(newest?)
                    ),
                ),
                (false, false) => return None,
            };
            Some(Broken { on_violation: OnViolation::Quarantine, name, reason })
        };
        Ok(Some(times.iter().map(|time| time.and_then(why)).collect()))
    }

    /// Moves the watermark for an event time seen earlier.
    pub fn absorb_time(&mut self, event_us: i64) {
        if let Some(EventTime { mark, .. }) = &self.event_time {
            self.advance(Some(event_us), mark.delay_us);
        }
    }

    /// Moves the watermark to here, unless it is there already.
    pub fn advance_watermark(&mut self, watermark_us: i64) {
        if self.event_time.is_some() {
            self.advance(Some(watermark_us), 0);
        }
    }

    /// Whether recovery needs the rows of this stream's commits.
    pub fn reads_rows(&self) -> bool {
        self.event_time.is_some() || self.unique.is_some() || self.table.is_some()
    }

    /// Rows that were made before columns were added have NULL in these.
    fn at_full_width(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        match self.earlier_widths.contains(&batch.num_columns()) {
            true => widened(&self.definition.schema, batch),
            false => Ok(batch.clone()),
        }
    }

    fn advance(&mut self, newest_us: Option<i64>, delay_us: i64) {
        let watermark = newest_us.map(|t| t.saturating_sub(delay_us));
        self.counters.watermark_us = self.counters.watermark_us.max(watermark);
    }

    fn refuse_null_columns(&self, batch: &RecordBatch, first_row: u64) -> Result<()> {
        let key = self.table.as_ref().map_or(&[][..], Table::key);
        let fields = self.definition.schema.fields().iter().zip(batch.columns());
        for (index, (field, column)) in fields.enumerate() {
            let rule = match key.contains(&index) {
                true => "the primary key",
                false if !field.is_nullable() => "NOT NULL",
                false => continue,
            };
            refuse_nulls(self.name(), rule, field.name(), column, first_row)?;
        }
        Ok(())
    }
}

/// A row whose key is there already, in PostgreSQL's words.
fn duplicate_key(def: &StreamDef, rows: &RecordBatch, at: usize) -> Error {
    let value = |column: &String| {
        let column = def.position(column).map(|c| rows.column(c));
        column.and_then(|c| arrow::util::display::array_value_to_string(c, at).ok())
    };
    let values: Vec<String> = def.primary_key.iter().filter_map(value).collect();
    let name = &def.name;
    let message = format!("duplicate key value violates unique constraint \"{name}_pkey\"");
    let (keys, values) = (def.primary_key.join(", "), values.join(", "));
    Error::new(Code::UniqueViolation, message)
        .stream(name)
        .constraint(format!("{name}_pkey"))
        .hint(format!("the key ({keys})=({values}) exists already"))
}

/// A time in an account of a row.
fn shown_time(us: i64) -> String {
    timestamp_us_to_datetime(us).map_or_else(|| format!("{us} us"), |time| time.to_string())
}

/// A column of times as microseconds since the Unix epoch.
fn micros(column: &dyn Array) -> Result<PrimitiveArray<TimestampMicrosecondType>> {
    // A cast that drops the zone would shift to local time, so the zone stays.
    let target = match column.data_type() {
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        _ => DataType::Timestamp(TimeUnit::Microsecond, None),
    };
    if *column.data_type() == target {
        return Ok(column.as_primitive().clone());
    }
    Ok(cast(column, &target).map_err(internal)?.as_primitive().clone())
}

/// A stream that is not defined (any more).
pub(super) fn unknown(stream: StreamId) -> Error {
    Error::new(Code::UnknownRelation, format!("there is no stream or table with number {stream}"))
        .hint("it may have been dropped; look up its name again")
}
