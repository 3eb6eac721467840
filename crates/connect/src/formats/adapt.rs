//! Fits columns that have Arrow types already to the stream's types. A value passes only if it is
//! the same value afterwards (times are kept to the microsecond); text is not parsed and numbers
//! are not rounded: types that need that are refused by name.

use super::{DecodeError, columns_of, sql_type, text::shortened};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::sync::Arc;

/// For each field of the stream, its column in the input.
pub(super) struct Plan(Vec<Option<usize>>);

impl Plan {
    /// Finds the columns by name and refuses types that do not fit.
    pub(super) fn new(from: &SchemaRef, to: &SchemaRef) -> Result<Plan, DecodeError> {
        let columns: Vec<_> = to.fields().iter().map(|f| from.index_of(f.name()).ok()).collect();
        if columns.iter().all(Option::is_none) {
            return Err(DecodeError::new(format!(
                "none of the columns in the input is known: {}",
                columns_of(from)
            ))
            .hint(format!("the columns are: {}", columns_of(to))));
        }
        for (field, column) in to.fields().iter().zip(&columns) {
            match column {
                Some(at) if !fits(from.field(*at).data_type(), field.data_type()) => {
                    return Err(wrong_type(field, from.field(*at).data_type()));
                }
                None if !field.is_nullable() => {
                    let name = field.name();
                    let what = format!("the input lacks the NOT NULL column \"{name}\"");
                    return Err(DecodeError::new(what).hint("add the column").field(name));
                }
                _ => {}
            }
        }
        Ok(Plan(columns))
    }
}

fn wrong_type(field: &Field, found: &DataType) -> DecodeError {
    let (name, expected) = (field.name(), sql_type(field.data_type()));
    DecodeError::new(format!("field \"{name}\": expected {expected}, found {found}"))
        .hint(format!("cast the column to {} before sending it", field.data_type()))
        .field(name)
}

/// One batch in the stream's schema; `first_row` is the number of its first row.
pub(super) fn adapt(
    batch: &RecordBatch,
    plan: &Plan,
    schema: &SchemaRef,
    first_row: u64,
) -> Result<RecordBatch, DecodeError> {
    let rows = batch.num_rows();
    let mut arrays = Vec::with_capacity(plan.0.len());
    for (field, column) in schema.fields().iter().zip(&plan.0) {
        let name = field.name();
        let Some(source) = column.map(|at| batch.column(at)) else {
            arrays.push(new_null_array(field.data_type(), rows));
            continue;
        };
        let array =
            fit(source, field.data_type()).map_err(|_| wrong_type(field, source.data_type()))?;
        let nulls = array.null_count();
        if nulls != source.logical_null_count() || (nulls > 0 && !field.is_nullable()) {
            let refused = |row: &usize| array.is_null(*row) && !is_null(source, *row);
            if let Some(row) = (0..rows).find(refused) {
                let what = format!(
                    "field \"{name}\": {} is out of range for {}",
                    shown(source, row),
                    sql_type(field.data_type())
                );
                return Err(DecodeError::in_row(first_row + row as u64, what)
                    .hint("send a value that fits, or declare the column with a wider type")
                    .field(name));
            }
            if let (false, Some(row)) = (field.is_nullable(), (0..rows).find(|r| array.is_null(*r)))
            {
                let what = format!("field \"{name}\" is null");
                return Err(DecodeError::in_row(first_row + row as u64, what)
                    .hint("the column is NOT NULL: give every row a value")
                    .field(name));
            }
        }
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), arrays, &options)
        .map_err(|e| DecodeError::new(e.to_string()))
}

fn is_null(array: &ArrayRef, row: usize) -> bool {
    array.logical_nulls().is_some_and(|nulls| nulls.is_null(row))
}

fn shown(array: &ArrayRef, row: usize) -> String {
    let formatter = ArrayFormatter::try_new(array.as_ref(), &FormatOptions::default());
    formatter.map_or_else(|_| "the value".to_owned(), |f| shortened(&f.value(row).to_string()))
}

/// Whether every value of a type, or every one that is in range, has its equal in the other.
fn fits(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Date32, Decimal32, Decimal64, Decimal128, Dictionary, FixedSizeBinary,
        Float16, Float32, Float64, Int8, Int16, Int32, LargeBinary, LargeList, LargeUtf8, List,
        Null, Time32, Time64, Timestamp, UInt8, UInt16, UInt32, Utf8, Utf8View,
    };
    match (from, to) {
        (from, to) if from == to => true,
        (Null, _) => true,
        (Dictionary(_, value), to) => fits(value, to),
        (LargeUtf8 | Utf8View, Utf8) => true,
        (LargeBinary | BinaryView | FixedSizeBinary(_), Binary) => true,
        (Timestamp(..) | Date32, Timestamp(TimeUnit::Microsecond, _)) => true,
        (Time32(_) | Time64(_), Time64(TimeUnit::Microsecond)) => true,
        // Only the items' name may be another one.
        (List(from) | LargeList(from), List(to)) => from.data_type() == to.data_type(),
        (from, to) if from.is_integer() && to.is_integer() => true,
        (from, Decimal128(_, scale)) if from.is_integer() => *scale >= 0,
        (Int8 | Int16 | UInt8 | UInt16 | Float16, Float32) => true,
        (Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32 | Float16 | Float32, Float64) => true,
        (Decimal32(_, from) | Decimal64(_, from) | Decimal128(_, from), Decimal128(_, to)) => {
            from <= to
        }
        _ => false,
    }
}

/// The column as another type that it [`fits`]; values out of range become NULL.
fn fit(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    let cast = |array: &ArrayRef, to: &DataType| {
        let options = CastOptions { safe: true, format_options: FormatOptions::default() };
        cast_with_options(array, to, &options)
    };
    match (array.data_type(), to) {
        (from, to) if from == to => Ok(array.clone()),
        (DataType::Null, to) => Ok(new_null_array(to, array.len())),
        (DataType::Dictionary(_, value), to) => fit(&cast(array, value)?, to),
        (from @ (DataType::Timestamp(..) | DataType::Date32), DataType::Timestamp(unit, zone)) => {
            // Only the unit is converted: an instant stays the instant, and a time without a zone
            // is taken as UTC, as it is in text.
            let same_zone = match from {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            let micros = cast(array, &DataType::Timestamp(*unit, same_zone))?;
            let micros = micros.as_primitive::<TimestampMicrosecondType>().clone();
            Ok(Arc::new(micros.with_timezone_opt(zone.clone())))
        }
        _ => cast(array, to),
    }
}
