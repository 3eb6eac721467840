//! System tables from a line of `name:type` and rows of values, with the field metadata by which
//! the wire tells object ids and one-byte characters from plain integers and texts.

use crate::postgres::wire_type;
use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Int16Array, Int16Builder, Int32Array, Int64Array,
    ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use std::collections::HashMap;
use std::sync::Arc;

/// One value of a system table.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Int(i64),
    Bool(bool),
    Text(String),
    Ints(Vec<i16>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Value::Text(text.clone())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Value::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// A column's declared type.
fn field(name: &str, declared: &str) -> Field {
    let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
    let data_type = match declared {
        "oid" | "int" => DataType::Int32,
        "bool" => DataType::Boolean,
        "int2" => DataType::Int16,
        "int8" => DataType::Int64,
        "real" => DataType::Float32,
        "int2s" => list(DataType::Int16),
        "texts" => list(DataType::Utf8),
        _ => DataType::Utf8,
    };
    let field = Field::new(name, data_type, true);
    let marked = |key: &str, value: &str| HashMap::from([(key.to_owned(), value.to_owned())]);
    match declared {
        "oid" => field.with_metadata(marked(wire_type::OID, "oid")),
        "char" => field.with_metadata(marked(wire_type::CHAR, "char")),
        _ => field,
    }
}

/// The columns of a table: `oid:oid relname:text ..`.
pub(super) fn schema(columns: &str) -> Schema {
    let fields = columns.split_whitespace().map(|column| {
        let (name, declared) = column.split_once(':').unwrap_or((column, "text"));
        field(name, declared)
    });
    Schema::new(fields.collect::<Vec<_>>())
}

fn int(row: &[(&str, Value)], name: &str) -> Option<i64> {
    match row.iter().find(|(n, _)| *n == name)?.1 {
        Value::Int(value) => Some(value),
        _ => None,
    }
}

fn text<'a>(row: &'a [(&str, Value)], name: &str) -> Option<&'a str> {
    match &row.iter().find(|(n, _)| *n == name)?.1 {
        Value::Text(value) => Some(value),
        _ => None,
    }
}

/// A row: values by column name; a column that is not named is NULL.
pub(super) type Row<'a> = Vec<(&'a str, Value)>;

/// The rows as one batch.
pub(super) fn batch(columns: &str, rows: &[Row<'_>]) -> Result<RecordBatch, ArrowError> {
    let schema = Arc::new(schema(columns));
    let arrays = schema.fields().iter().map(|field| {
        let name = field.name();
        let ints = || rows.iter().map(|row| int(row, name));
        Ok(match field.data_type() {
            DataType::Int16 => {
                let small = ints().map(|v| v.and_then(|v| i16::try_from(v).ok()));
                Arc::new(small.collect::<Int16Array>()) as ArrayRef
            }
            DataType::Int32 => {
                let small = ints().map(|v| v.and_then(|v| i32::try_from(v).ok()));
                Arc::new(small.collect::<Int32Array>())
            }
            DataType::Int64 => Arc::new(ints().collect::<Int64Array>()),
            DataType::Float32 => {
                let reals = ints().map(|v| v.and_then(|v| i16::try_from(v).ok()).map(f32::from));
                Arc::new(reals.collect::<Float32Array>())
            }
            DataType::Boolean => {
                let found = rows.iter().map(|row| {
                    row.iter().find(|(n, _)| n == name).and_then(|(_, v)| match v {
                        Value::Bool(value) => Some(*value),
                        _ => None,
                    })
                });
                Arc::new(found.collect::<BooleanArray>())
            }
            DataType::List(item) => lists(rows, name, item.data_type()),
            _ => Arc::new(rows.iter().map(|row| text(row, name)).collect::<StringArray>()),
        })
    });
    let arrays = arrays.collect::<Result<Vec<_>, ArrowError>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema, arrays, &options)
}

fn lists(rows: &[Row<'_>], name: &str, item: &DataType) -> ArrayRef {
    let value = |row: &Row<'_>| row.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
    if *item == DataType::Int16 {
        let mut builder = ListBuilder::new(Int16Builder::new());
        for row in rows {
            match value(row) {
                Some(Value::Ints(values)) => builder.append_value(values.into_iter().map(Some)),
                _ => builder.append_null(),
            }
        }
        return Arc::new(builder.finish());
    }
    // Lists of texts (privileges, options) are NULL everywhere.
    let mut builder = ListBuilder::new(StringBuilder::new());
    for _ in rows {
        builder.append_null();
    }
    Arc::new(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_a_row_does_not_name_are_null() {
        let rows = [vec![("a", Value::from(7_usize))], vec![("c", Value::Ints(vec![1, 2]))]];
        let batch = batch("a:oid b:bool c:int2s d", &rows).unwrap();
        assert_eq!(batch.num_rows(), 2);
        let nulls: Vec<usize> = batch.columns().iter().map(|c| c.null_count()).collect();
        assert_eq!(nulls, [1, 2, 1, 2]);
        assert_eq!(batch.schema().field(0).metadata()[wire_type::OID], "oid");
    }
}
