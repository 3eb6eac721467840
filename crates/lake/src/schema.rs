//! Columns of lake tables: which types are stored, which system columns follow the user's, and
//! which rows an append admits.
//!
//! Types are stored without conversion, so that what is read is what was written. What changes:
//! Delta knows UTC, and `+00:00` is stored as such; it has neither times of day nor intervals, which
//! are stored as text that casts back exactly; the items of arrays have its name, `element`. Types
//! that differ from text by Arrow metadata only (`jsonb`, `uuid`) are stored as text.

use crate::{Error, TableSpec};
use arrow::array::{AsArray, Int64Array, RecordBatch, Scalar};
use arrow::compute::kernels::{aggregate, cmp};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, IntervalUnit, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use deltalake::kernel::{ArrayType, DataType as DeltaType, PrimitiveType, StructField, StructType};
use kaplan_base::Lsn;
use std::sync::Arc;

/// System column: the row's position in the log, bigint.
pub const LSN: &str = "_lsn";
/// System column: the row's number within its commit, integer.
pub const SEQ: &str = "_seq";
/// System column: when the row was committed, timestamp with time zone.
pub const INGESTED_AT: &str = "_ingested_at";
/// System column: the stream's watermark before the row's commit, timestamp with time zone or null.
pub const WATERMARK: &str = "_wm";
/// System column of change tables: +1 for an added row, -1 for a removed one, bigint.
pub const WEIGHT: &str = "_weight";

const UTC: &str = "UTC";
/// Delta's name of an array's items.
const ELEMENT: &str = "element";

/// The user's columns followed by the system columns.
#[must_use]
pub fn system_schema(user: &SchemaRef, changes: bool) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
    let mut fields: Vec<Arc<Field>> = user.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(LSN, DataType::Int64, false)));
    fields.push(Arc::new(Field::new(SEQ, DataType::Int32, false)));
    fields.push(Arc::new(Field::new(INGESTED_AT, time.clone(), false)));
    fields.push(Arc::new(Field::new(WATERMARK, time, true)));
    if changes {
        fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
    }
    Arc::new(Schema::new(fields))
}

/// The schema as the data files have it: UTC spelt as Delta spells it, no Arrow metadata.
pub(crate) fn storage_schema(declared: &Schema) -> SchemaRef {
    let fields = declared.fields().iter().map(|field| {
        Field::new(field.name(), storage_type(field.data_type()), field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn storage_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if is_utc(zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
        }
        DataType::Time64(TimeUnit::Microsecond)
        | DataType::Interval(IntervalUnit::MonthDayNano) => DataType::Utf8,
        DataType::List(item) => {
            DataType::List(Arc::new(Field::new(ELEMENT, storage_type(item.data_type()), true)))
        }
        DataType::Struct(fields) => {
            let parts =
                fields.iter().map(|f| Field::new(f.name(), storage_type(f.data_type()), true));
            DataType::Struct(parts.collect())
        }
        other => other.clone(),
    }
}

fn is_utc(zone: &str) -> bool {
    zone == UTC || zone == "+00:00"
}

/// The Delta columns of a table.
pub(crate) fn delta_columns(spec: &TableSpec) -> Result<Vec<StructField>, Error> {
    let declared = spec.declared();
    let mut columns = Vec::with_capacity(declared.fields().len());
    for (at, field) in declared.fields().iter().enumerate() {
        let same = |other: &Arc<Field>| other.name().eq_ignore_ascii_case(field.name());
        if declared.fields()[..at].iter().any(same) {
            let (table, column) = (spec.name.clone(), field.name().clone());
            return Err(Error::Duplicate { table, column });
        }
        let data_type =
            delta_type(&storage_type(field.data_type())).ok_or_else(|| Error::Type {
                table: spec.name.clone(),
                column: field.name().clone(),
                data_type: field.data_type().clone(),
            })?;
        columns.push(StructField::new(field.name(), data_type, field.is_nullable()));
    }
    Ok(columns)
}

fn delta_type(data_type: &DataType) -> Option<DeltaType> {
    Some(match data_type {
        DataType::Boolean => DeltaType::BOOLEAN,
        DataType::Int16 => DeltaType::SHORT,
        DataType::Int32 => DeltaType::INTEGER,
        DataType::Int64 => DeltaType::LONG,
        DataType::Float32 => DeltaType::FLOAT,
        DataType::Float64 => DeltaType::DOUBLE,
        DataType::Decimal128(precision, scale) => {
            let scale = u8::try_from(*scale).ok()?;
            DeltaType::Primitive(PrimitiveType::decimal(*precision, scale).ok()?)
        }
        DataType::Utf8 => DeltaType::STRING,
        DataType::Binary => DeltaType::BINARY,
        DataType::Date32 => DeltaType::DATE,
        DataType::Timestamp(TimeUnit::Microsecond, None) => DeltaType::TIMESTAMP_NTZ,
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if is_utc(zone) => {
            DeltaType::TIMESTAMP
        }
        DataType::List(item) => {
            DeltaType::Array(Box::new(ArrayType::new(delta_type(item.data_type())?, true)))
        }
        DataType::Struct(fields) => {
            let mut parts = Vec::with_capacity(fields.len());
            for field in fields {
                parts.push(StructField::new(field.name(), delta_type(field.data_type())?, true));
            }
            DeltaType::Struct(Box::new(StructType::try_new(parts).ok()?))
        }
        _ => return None,
    })
}

/// The Delta columns of rows whose types are those of files. Names are those that readers take
/// without a mapping of columns.
pub(crate) fn plain_columns(table: &str, storage: &Schema) -> Result<Vec<StructField>, Error> {
    let mut columns = Vec::with_capacity(storage.fields().len());
    for (at, field) in storage.fields().iter().enumerate() {
        let (table, column) = (table.to_owned(), field.name().clone());
        let same = |other: &Arc<Field>| other.name().eq_ignore_ascii_case(&column);
        if storage.fields()[..at].iter().any(same) {
            return Err(Error::Duplicate { table, column });
        }
        if column.contains([' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '=']) {
            return Err(Error::Name { table, column });
        }
        let data_type = delta_type(field.data_type()).ok_or_else(|| Error::Type {
            table,
            column,
            data_type: field.data_type().clone(),
        })?;
        columns.push(StructField::new(field.name(), data_type, field.is_nullable()));
    }
    Ok(columns)
}

/// Checks that a table has the columns of rows and no others that take no NULL.
pub(crate) fn check_plain(table: &str, rows: &Schema, stored: &Schema) -> Result<(), Error> {
    let show =
        |f: &Field| format!("{}{}", f.data_type(), if f.is_nullable() { "" } else { " not null" });
    let wrong = |column: &Field, expected: String, found: String| Error::Column {
        table: table.to_owned(),
        column: column.name().clone(),
        expected,
        found,
    };
    for field in rows.fields() {
        let found = stored.field_with_name(field.name()).ok();
        let fits = |f: &&Field| {
            f.data_type() == field.data_type() && (f.is_nullable() || !field.is_nullable())
        };
        if found.filter(fits).is_none() {
            return Err(wrong(field, show(field), found.map_or("missing".to_owned(), show)));
        }
    }
    match stored.fields().iter().find(|f| rows.field_with_name(f.name()).is_err()) {
        Some(more) => Err(wrong(more, "absent".to_owned(), show(more))),
        None => Ok(()),
    }
}

/// Checks that a stored table has every declared column with its type.
pub(crate) fn check_stored(spec: &TableSpec, stored: &Schema) -> Result<(), Error> {
    for field in storage_schema(&spec.declared()).fields() {
        let found = stored.field_with_name(field.name()).ok();
        if found.is_none_or(|f| {
            f.data_type() != field.data_type() || (f.is_nullable() && !field.is_nullable())
        }) {
            return Err(mismatch(spec, field, found));
        }
    }
    Ok(())
}

fn mismatch(spec: &TableSpec, expected: &Field, found: Option<&Field>) -> Error {
    let show =
        |f: &Field| format!("{}{}", f.data_type(), if f.is_nullable() { "" } else { " not null" });
    Error::Column {
        table: spec.name.clone(),
        column: expected.name().clone(),
        expected: show(expected),
        found: found.map_or_else(|| "missing".to_owned(), show),
    }
}

/// The rows of `batches` beyond `archived`, in storage types. Rows beyond `through` are refused:
/// the app transaction would not account for them.
pub(crate) fn admit(
    spec: &TableSpec,
    batches: &[RecordBatch],
    archived: Lsn,
    through: Lsn,
) -> Result<Vec<RecordBatch>, Error> {
    let declared = spec.declared();
    let storage = storage_schema(&declared);
    let rows = |source| Error::Rows { table: spec.name.clone(), source };
    let mut admitted = Vec::with_capacity(batches.len());
    for batch in batches {
        check_batch(spec, &declared, batch)?;
        // First of all, since this is what refuses nulls where none are allowed.
        let batch = to_storage(batch, &storage).map_err(rows)?;
        let lsns = batch.column(spec.schema.fields().len()).as_primitive::<Int64Type>();
        let Some((first, last)) = aggregate::min(lsns).zip(aggregate::max(lsns)) else { continue };
        if last > through.to_i64() {
            return Err(Error::Beyond { table: spec.name.clone(), lsn: last, through });
        }
        if first > archived.to_i64() {
            admitted.push(batch);
        } else if last > archived.to_i64() {
            let bound = Scalar::new(Int64Array::from(vec![archived.to_i64()]));
            let fresh = cmp::gt(lsns, &bound).and_then(|fresh| filter_record_batch(&batch, &fresh));
            admitted.push(fresh.map_err(rows)?);
        }
    }
    Ok(admitted)
}

fn check_batch(spec: &TableSpec, declared: &Schema, batch: &RecordBatch) -> Result<(), Error> {
    let schema = batch.schema();
    for (at, field) in declared.fields().iter().enumerate() {
        let found = schema.fields().get(at).map(AsRef::as_ref);
        if found.is_none_or(|f| f.name() != field.name() || f.data_type() != field.data_type()) {
            return Err(mismatch(spec, field, found));
        }
    }
    match schema.fields().get(declared.fields().len()) {
        None => Ok(()),
        Some(extra) => Err(Error::Column {
            table: spec.name.clone(),
            column: extra.name().clone(),
            expected: "absent".to_owned(),
            found: extra.data_type().to_string(),
        }),
    }
}

fn to_storage(batch: &RecordBatch, storage: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(storage.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()));
    RecordBatch::try_new(storage.clone(), columns.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaplan_base::StreamId;

    fn spec(data_type: DataType) -> TableSpec {
        let schema = Arc::new(Schema::new(vec![Field::new("v", data_type, true)]));
        TableSpec { name: "s".into(), id: StreamId(1), schema, changes: false }
    }

    #[test]
    fn types_that_delta_cannot_hold_are_refused_by_name() {
        for refused in [
            DataType::UInt8,
            DataType::UInt64,
            DataType::Int8,
            DataType::Float16,
            DataType::LargeUtf8,
            DataType::Utf8View,
            DataType::Time64(TimeUnit::Nanosecond),
            DataType::Date64,
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Berlin".into())),
            DataType::Decimal128(10, -2),
            DataType::Decimal256(50, 2),
        ] {
            match delta_columns(&spec(refused.clone())) {
                Err(Error::Type { column, data_type, .. }) => {
                    assert_eq!((column.as_str(), data_type), ("v", refused));
                }
                other => panic!("{refused} gave {other:?}"),
            }
        }
    }

    #[test]
    fn times_and_intervals_come_back_from_text() {
        use arrow::array::{ArrayRef, IntervalMonthDayNanoArray, Time64MicrosecondArray};
        use arrow::datatypes::IntervalMonthDayNano;
        let spans: Vec<_> = [
            (0, 0, 0),
            (14, -3, 3_600_000_000_000),
            (-1, 40, -1_000),
            (0, 0, -90_061_000_001_000),
            (i32::MAX, i32::MIN, 9_000_000_000_000_000),
        ]
        .map(|(m, d, n)| IntervalMonthDayNano::new(m, d, n))
        .to_vec();
        let arrays: [ArrayRef; 2] = [
            Arc::new(Time64MicrosecondArray::from(vec![0, 1, 86_399_999_999, 45_296_789_000])),
            Arc::new(IntervalMonthDayNanoArray::from(spans)),
        ];
        for array in arrays {
            let stored = cast(&array, &storage_type(array.data_type())).unwrap();
            assert_eq!(&cast(&stored, array.data_type()).unwrap(), &array);
        }
    }

    #[test]
    fn a_user_column_cannot_take_a_system_column_s_name() {
        let schema = Arc::new(Schema::new(vec![Field::new("_LSN", DataType::Int64, true)]));
        let spec = TableSpec { name: "s".into(), id: StreamId(1), schema, changes: false };
        assert!(
            matches!(delta_columns(&spec), Err(Error::Duplicate { column, .. }) if column == LSN)
        );
    }
}
