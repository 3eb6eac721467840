//! Records of a queue to changes of a table: `FORMAT {PLAIN | UPSERT | DEBEZIUM} ENCODE ..`.
//!
//! Invariant: a record becomes exactly its change, or is refused with its position and a reason;
//! a damaged record never takes a good one with it. Many records are decoded at once, and only where
//! that fails are they taken apart.

mod avro;
mod envelope;
mod include;
mod json;
mod options;
mod protobuf;
mod registry;
mod sift;

pub use options::{Encode, Form, Layout, Missing, OPTIONS, Unknown, policy};
pub use protobuf::Protobuf;
pub use registry::Registry;

use crate::drift;
use crate::formats::DecodeError;
use crate::source::{Change, Kind, Rejected, Target, shown};
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Schema, SchemaRef};
use avro::Part;
use kaplan_sql::catalog::ColumnDef;
use std::borrow::Cow;
use std::sync::Arc;

/// A record as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Where it stands in its split.
    pub position: u64,
    /// Its time, microseconds since the Unix epoch.
    pub timestamp_us: Option<i64>,
    /// Its headers, in order.
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// What one record does.
struct Op<'a> {
    /// The record's place.
    record: usize,
    kind: Kind,
    /// The row, or the key's columns, in the encoding.
    body: Cow<'a, [u8]>,
}

/// What becomes of records.
pub type Decoded = (Vec<Change>, Vec<Rejected>);

/// Reads records of one target.
pub struct Decoder {
    target: Target,
    layout: Layout,
    /// The columns that the value holds.
    body: SchemaRef,
    /// The columns of the key.
    key: SchemaRef,
    /// Where rows with a key go.
    put: Kind,
}

impl Decoder {
    /// A decoder for a target.
    #[must_use]
    pub fn new(target: Target, layout: Layout) -> Self {
        let around = |name: &str| {
            layout.include.iter().any(|i| i.column == name)
                || layout.capture.as_deref().is_some_and(|c| c == name)
        };
        let body = target.schema.fields().iter().filter(|f| !around(f.name())).cloned();
        let body = Arc::new(Schema::new(body.collect::<Vec<_>>()));
        let put = if target.primary_key.is_empty() { Kind::Append } else { Kind::Upsert };
        let key = target.key_schema();
        Self { target, layout, body, key, put }
    }

    /// Fetches what records need to be read. Blocks, on a thread that may.
    ///
    /// # Errors
    /// It cannot be fetched now; the records are as good as before.
    pub fn prepare(&self, records: &[Record<'_>]) -> crate::Result<()> {
        match &self.layout.registry {
            Some(registry) => registry.prepare(records, self.layout.form == Form::Debezium),
            None => Ok(()),
        }
    }

    /// Notes the fields of records that are no columns, where they may become some.
    pub fn unknown(&self, records: &[Record<'_>], fields: &mut drift::Fields) {
        if self.layout.unknown != Unknown::Evolve || self.layout.encode != Encode::Json {
            return;
        }
        for (at, record) in records.iter().enumerate() {
            let op = self.op(at, record, None).ok().flatten();
            if let Some(op) = op.filter(|op| op.kind != Kind::Delete) {
                json::unknown(&self.body, op.body.as_ref(), fields);
            }
        }
    }

    /// The columns that the table is to have for fields.
    #[must_use]
    pub fn grown(&self, fields: &drift::Fields) -> Vec<ColumnDef> {
        fields.columns(&self.target)
    }

    /// The changes that records make, in order. `split` is the name of their split.
    #[must_use]
    pub fn decode(&self, split: &str, records: &[Record<'_>]) -> Decoded {
        let Some(protobuf) = &self.layout.protobuf else {
            return self.decode_all(split, records, Vec::new());
        };
        // From here on its records are JSON.
        let json = |r: &Record<'_>| r.value.map(|value| protobuf.json(value)).transpose();
        let texts: Vec<_> = records.iter().map(json).collect();
        let (mut read, mut rejected) = (Vec::with_capacity(records.len()), Vec::new());
        for (record, text) in records.iter().zip(&texts) {
            match text {
                Ok(text) => read.push(Record { value: text.as_deref(), ..record.clone() }),
                Err(error) => rejected.push(refused(record, error)),
            }
        }
        self.decode_all(split, &read, rejected)
    }

    fn decode_all(
        &self,
        split: &str,
        records: &[Record<'_>],
        mut rejected: Vec<Rejected>,
    ) -> Decoded {
        let events = self.events(records);
        let mut ops = Vec::with_capacity(records.len());
        for (at, record) in records.iter().enumerate() {
            match self.op(at, record, events.get(at)) {
                Ok(op) => ops.extend(op),
                Err(error) => rejected.push(refused(record, &error)),
            }
        }
        let (puts, deletes): (Vec<Op<'_>>, Vec<Op<'_>>) =
            ops.into_iter().partition(|op| op.kind != Kind::Delete);
        let puts = self.rows(split, records, &puts, &mut rejected);
        let deletes = self.keys(records, &deletes, &mut rejected);
        rejected.sort_by_key(|r| r.position);
        (self.in_order(records, puts, deletes), rejected)
    }

    /// What envelopes of Avro say; nothing of other encodings, which are read one by one.
    fn events(&self, records: &[Record<'_>]) -> Vec<avro::Event> {
        match (self.layout.form, self.layout.encode, &self.layout.registry) {
            (Form::Debezium, Encode::Avro, Some(registry)) => {
                let bodies: Vec<&[u8]> =
                    records.iter().map(|r| r.value.unwrap_or_default()).collect();
                avro::events(registry, &bodies)
            }
            _ => Vec::new(),
        }
    }

    /// What a record does; nothing when it says nothing.
    fn op<'a>(
        &self,
        at: usize,
        record: &Record<'a>,
        event: Option<&avro::Event>,
    ) -> Result<Option<Op<'a>>, DecodeError> {
        let op = |kind, body| Ok(Some(Op { record: at, kind, body }));
        match (self.layout.form, record.value) {
            (Form::Plain, Some(value)) => op(self.put, Cow::Borrowed(value)),
            (Form::Plain, None) => Err(DecodeError::new("the record has no value")
                .hint("FORMAT UPSERT takes a record without value for a deletion")),
            (Form::Upsert, Some(value)) => op(Kind::Upsert, Cow::Borrowed(value)),
            (Form::Upsert, None) => {
                let key = record
                    .key
                    .ok_or_else(|| DecodeError::new("the record has neither key nor value"))?;
                op(Kind::Delete, Cow::Borrowed(key))
            }
            // A tombstone follows a deletion that was an event of its own.
            (Form::Debezium, None) => Ok(None),
            (Form::Debezium, Some(value)) if event.is_some() => match event.cloned().transpose()? {
                Some(Some((Kind::Delete, false))) => {
                    let lacks = "the Debezium envelope has no before, nor a key";
                    let key = record.key.ok_or_else(|| DecodeError::new(lacks))?;
                    op(Kind::Delete, Cow::Borrowed(key))
                }
                Some(Some((kind, _))) => op(kind, Cow::Borrowed(value)),
                _ => Ok(None),
            },
            (Form::Debezium, Some(value)) => match envelope::read(value, record.key)? {
                Some(envelope::Event::Put(row)) => op(Kind::Upsert, row),
                Some(envelope::Event::Delete(row)) => op(Kind::Delete, row),
                None => Ok(None),
            },
        }
    }

    /// The rows that are put, each with its record's place.
    fn rows(
        &self,
        split: &str,
        records: &[Record<'_>],
        ops: &[Op<'_>],
        rejected: &mut Vec<Rejected>,
    ) -> (Vec<usize>, Option<RecordBatch>) {
        let decode = |ops: &[Op<'_>]| self.whole_rows(split, records, ops);
        sift::sift(ops, &decode, &mut |op, error| {
            rejected.push(refused(&records[op.record], &error));
        })
    }

    fn whole_rows(
        &self,
        split: &str,
        records: &[Record<'_>],
        ops: &[Op<'_>],
    ) -> Result<RecordBatch, DecodeError> {
        let bodies: Vec<&[u8]> = ops.iter().map(|op| op.body.as_ref()).collect();
        let body = match self.layout.encode {
            Encode::Json | Encode::Protobuf => {
                json::rows(&self.body, &self.layout, &bodies, Some(&self.target))?
            }
            Encode::Avro => match &self.layout.registry {
                Some(registry) => {
                    let debezium = self.layout.form == Form::Debezium;
                    let part = if debezium { Part::Field("after") } else { Part::Whole };
                    avro::rows(registry, &self.body, &bodies, part)?
                }
                None => return Err(DecodeError::new("there is no schema registry")),
            },
            Encode::Csv => sift::csv(&self.body, &bodies)?,
            Encode::Bytes => sift::bytes(&self.body, &bodies)?,
        };
        let captured = match &self.layout.capture {
            Some(column) => Some((column, json::captured(&self.body, &bodies)?)),
            None => None,
        };
        let mut columns = Vec::with_capacity(self.target.schema.fields().len());
        let mut from_body = body.columns().iter();
        for field in self.target.schema.fields() {
            let name = field.name();
            let column = match self.layout.include.iter().find(|i| i.column == *name) {
                Some(include) => {
                    let records = ops.iter().map(|op| &records[op.record]);
                    include::column(include, field, split, records)?
                }
                None => match &captured {
                    Some((column, values)) if *column == name => Arc::clone(values),
                    _ => from_body
                        .next()
                        .cloned()
                        .unwrap_or_else(|| new_null_array(field.data_type(), ops.len())),
                },
            };
            columns.push(column);
        }
        batch(&self.target.schema, columns, ops.len())
    }

    /// The keys that are deleted.
    fn keys(
        &self,
        records: &[Record<'_>],
        ops: &[Op<'_>],
        rejected: &mut Vec<Rejected>,
    ) -> (Vec<usize>, Option<RecordBatch>) {
        let include = match self.key.fields().iter().as_slice() {
            [field] => self.layout.include.iter().find(|i| i.column == *field.name()),
            _ => None,
        };
        let decode = |ops: &[Op<'_>]| match (include, self.layout.form) {
            (Some(include), Form::Upsert) => {
                let records = ops.iter().map(|op| &records[op.record]);
                let column = include::column(include, &self.key.fields()[0], "", records)?;
                batch(&self.key, vec![column], ops.len())
            }
            _ => match (&self.layout.registry, self.layout.form, self.layout.encode) {
                (Some(registry), Form::Debezium, Encode::Avro) => {
                    self.avro_keys(registry, records, ops)
                }
                _ => {
                    let bodies: Vec<&[u8]> = ops.iter().map(|op| op.body.as_ref()).collect();
                    json::keys(&self.key, &bodies)
                }
            },
        };
        sift::sift(ops, &decode, &mut |op, error| {
            rejected.push(refused(&records[op.record], &error));
        })
    }

    /// Keys of Avro: of the row before, or the record's own.
    fn avro_keys(
        &self,
        registry: &Registry,
        records: &[Record<'_>],
        ops: &[Op<'_>],
    ) -> Result<RecordBatch, DecodeError> {
        let key = |op: &Op<'_>| {
            let envelope = records[op.record].value == Some(op.body.as_ref());
            let part = if envelope { Part::Field("before") } else { Part::Whole };
            avro::rows(registry, &self.key, &[op.body.as_ref()], part)
        };
        let keys = ops.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        sift::one(&self.key, keys)
    }

    /// Puts and deletes in the order of their records, as few changes as that allows.
    fn in_order(
        &self,
        records: &[Record<'_>],
        (put_of, puts): (Vec<usize>, Option<RecordBatch>),
        (delete_of, deletes): (Vec<usize>, Option<RecordBatch>),
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let (mut p, mut d) = (0, 0);
        let mut run = |of: &[usize], rows: &Option<RecordBatch>, from: usize, to: usize, kind| {
            if let Some(rows) = rows.as_ref().filter(|_| to > from) {
                let origins = of[from..to].iter().map(|r| records[*r].position).collect();
                let rows = rows.slice(from, to - from);
                changes.push(Change { target: 0, kind, rows, origins });
            }
        };
        while p < put_of.len() || d < delete_of.len() {
            let until = delete_of.get(d).copied().unwrap_or(usize::MAX);
            let from = p;
            while put_of.get(p).is_some_and(|r| *r < until) {
                p += 1;
            }
            run(&put_of, &puts, from, p, self.put);
            let until = put_of.get(p).copied().unwrap_or(usize::MAX);
            let from = d;
            while delete_of.get(d).is_some_and(|r| *r < until) {
                d += 1;
            }
            run(&delete_of, &deletes, from, d, Kind::Delete);
        }
        changes
    }
}

/// A batch whose number of rows is known, also without columns.
fn batch(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, DecodeError> {
    for (field, column) in schema.fields().iter().zip(&columns) {
        if !field.is_nullable()
            && let Some(row) = (0..column.len()).find(|row| column.is_null(*row))
        {
            let name = field.name();
            return Err(DecodeError::new(format!("field \"{name}\" is missing or null"))
                .field(name)
                .at_row(row as u64 + 1));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)
        .map_err(|e| DecodeError::new(e.to_string()))
}

fn refused(record: &Record<'_>, error: &DecodeError) -> Rejected {
    // The row's number means nothing outside of the batch that it was decoded in.
    let message = error.message.as_str();
    let reason = match (error.row, message.split_once(": ")) {
        (Some(_), Some((row, rest))) if row.starts_with("row ") => rest.to_owned(),
        _ => message.to_owned(),
    };
    Rejected {
        position: record.position,
        reason,
        field: error.field.clone(),
        key: record.key.map(shown),
        record: record.value.map(shown),
    }
}
