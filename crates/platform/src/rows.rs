//! From the rows of a statement to rows with all columns of a stream: defaults and generated
//! columns are filled in, values are cast as in an assignment. A value that does not fit names its
//! row and column.

use crate::classify::of_value;
use crate::platform::Inner;
use crate::{Code, Error, Result};
use arrow::array::{Array, ArrayRef, Int32Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::Expr;
use kaplan_sql::catalog::{ColumnDef, StreamDef};
use kaplan_sql::{dialect, functions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The table that default expressions are computed over: a row for each row that is inserted.
const ROWS: &str = "_rows";

/// The columns that writers give: all but the generated ones.
pub(crate) fn written_schema(def: &StreamDef) -> Result<SchemaRef> {
    let schema = dialect::schema_of(def)?;
    let written = schema.fields().iter().zip(&def.columns).filter(|(_, c)| c.generated.is_none());
    Ok(Arc::new(Schema::new(written.map(|(f, _)| Arc::clone(f)).collect::<Vec<_>>())))
}

/// Rows with the columns of [`written_schema`] as rows with all columns.
pub(crate) fn with_generated(
    inner: &Inner,
    def: &StreamDef,
    rows: RecordBatch,
) -> Result<RecordBatch> {
    if def.columns.iter().all(|c| c.generated.is_none()) {
        return Ok(rows);
    }
    let mut given = rows.columns().iter();
    let columns = def.columns.iter().map(|c| match &c.generated {
        Some(_) => None,
        None => given.next().cloned(),
    });
    generate(inner, def, columns.collect(), rows.num_rows(), 1)
}

/// Computes the generated ones of the columns; all others are there.
fn generate(
    inner: &Inner,
    def: &StreamDef,
    columns: Vec<Option<ArrayRef>>,
    rows: usize,
    first: u64,
) -> Result<RecordBatch> {
    let schema = dialect::schema_of(def)?;
    let nullable = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    let nullable: SchemaRef = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    let filled = nullable.fields().iter().zip(columns);
    let filled = filled
        .map(|(f, column)| column.unwrap_or_else(|| new_null_array(f.data_type(), rows)))
        .collect();
    let plain = RecordBatch::try_new(Arc::clone(&nullable), filled)?;
    let mut columns = plain.columns().to_vec();
    // Expressions know the names that the columns had when the stream was created.
    let known = dialect::schema_of(&def.as_stored())?;
    for (at, column) in def.columns.iter().enumerate() {
        let Some(sql) = &column.generated else { continue };
        let value = if dialect::is_proctime(sql) {
            ScalarValue::TimestampMicrosecond(Some(inner.clock.now_us()), Some("+00:00".into()))
                .to_array_of_size(rows)?
        } else {
            inner.planner.condition(sql, &known)?.evaluate(&plain)?.into_array(rows)?
        };
        columns[at] = convert(def, schema.field(at), &value, &unnamed(&value), first)?;
    }
    Ok(RecordBatch::try_new(nullable, columns)?)
}

/// The columns that values without a column list go to: as in RisingWave not the generated ones,
/// unless there is a value for every column (PostgreSQL takes DEFAULT there).
pub(crate) fn positional(def: &StreamDef, has: usize) -> Vec<&str> {
    let all = has == def.columns.len();
    let columns = def.columns.iter().filter(|c| all || c.generated.is_none());
    columns.map(|c| c.name.as_str()).collect()
}

/// The names that values of an `INSERT` go to, in their order.
fn targets<'a>(def: &'a StreamDef, columns: &'a [String], has: usize) -> Result<Vec<&'a str>> {
    let names: Vec<&str> = match columns.is_empty() {
        true => positional(def, has),
        false => columns.iter().map(String::as_str).collect(),
    };
    if has > names.len() || (!columns.is_empty() && has < names.len()) {
        let message =
            format!("INSERT has {has} values for {} columns of {}", names.len(), def.name);
        return Err(Error::new(Code::Syntax, message).stream(&def.name));
    }
    for (at, name) in names.iter().enumerate() {
        if def.position(name).is_none() {
            let message = format!("column \"{name}\" of relation \"{}\" does not exist", def.name);
            let known = def.columns.iter().map(|c| &c.name);
            let error = Error::new(Code::UnknownColumn, message).stream(&def.name).field(*name);
            let known: Vec<String> = known.cloned().collect();
            return Err(error.hint(format!("its columns are {}", known.join(", "))));
        }
        if names[..at].contains(name) {
            let message = format!("column \"{name}\" is named twice");
            return Err(Error::new(Code::DuplicateColumn, message).stream(&def.name).field(*name));
        }
    }
    Ok(names)
}

/// The rows of an `INSERT` with all columns of the stream; `first` is the number of the first row.
pub(crate) async fn complete(
    inner: &Inner,
    def: &StreamDef,
    names: &[String],
    batch: &RecordBatch,
    first: u64,
) -> Result<RecordBatch> {
    let schema = dialect::schema_of(def)?;
    let names = targets(def, names, batch.num_columns())?;
    let missing: Vec<&ColumnDef> = def
        .columns
        .iter()
        .filter(|c| !names[..batch.num_columns()].contains(&c.name.as_str()))
        .collect();
    let defaults = defaults(inner, def, &missing, batch.num_rows()).await?;
    let mut columns = Vec::with_capacity(def.columns.len());
    for (field, column) in schema.fields().iter().zip(&def.columns) {
        let given = names.iter().position(|n| *n == column.name);
        let given = given.filter(|at| *at < batch.num_columns());
        let given = given.map(|at| (batch.column(at), batch.schema_ref().field(at)));
        columns.push(match given {
            Some((values, _)) if column.generated.is_some() => {
                if values.logical_null_count() < values.len() {
                    return Err(refuse_generated(def, column));
                }
                None
            }
            Some((values, given)) => Some(convert(def, field, values, given, first)?),
            None if column.generated.is_some() => None,
            None => match defaults.get(&column.name) {
                Some(values) => Some(convert(def, field, values, &unnamed(values), first)?),
                None => Some(new_null_array(field.data_type(), batch.num_rows())),
            },
        });
    }
    generate(inner, def, columns, batch.num_rows(), first)
}

/// The error of a value for a generated column.
pub(crate) fn refuse_generated(def: &StreamDef, column: &ColumnDef) -> Error {
    let message = format!("cannot give a value to the generated column \"{}\"", column.name);
    Error::new(Code::GeneratedAlways, message)
        .stream(&def.name)
        .field(&column.name)
        .hint("leave it out: it is computed from the other columns")
}

/// The defaults of columns, one value a row: a default such as `random()` differs from row to row.
async fn defaults(
    inner: &Inner,
    def: &StreamDef,
    missing: &[&ColumnDef],
    rows: usize,
) -> Result<BTreeMap<String, ArrayRef>> {
    let with: Vec<&&ColumnDef> = missing.iter().filter(|c| c.default.is_some()).collect();
    if with.is_empty() || rows == 0 {
        return Ok(BTreeMap::new());
    }
    let expressions: Vec<String> = with
        .iter()
        .enumerate()
        .map(|(at, c)| format!("({}) AS c{at}", c.default.as_deref().unwrap_or_default()))
        .collect();
    let text = format!("SELECT {} FROM \"{ROWS}\"", expressions.join(", "));
    let numbers = Int32Array::from_iter_values(0..i32::try_from(rows).unwrap_or(i32::MAX));
    let numbers: ArrayRef = Arc::new(numbers);
    let table = RecordBatch::try_from_iter([("_n", numbers)])?;
    let table = MemTable::try_new(table.schema(), vec![vec![table]])?;
    let state = inner.planner.session(vec![(None, ROWS.to_owned(), Arc::new(table))])?;
    let plan = inner.planner.plan(&state, &*dialect::parse_query(&text)?).await?;
    let schema = Arc::clone(plan.schema().inner());
    let batches = inner.on_query_threads(crate::query::collect(state, plan)).await?;
    let all = arrow::compute::concat_batches(&schema, &batches)?;
    if all.num_rows() != rows {
        let message = format!("a DEFAULT of {} gives {} rows", def.name, all.num_rows());
        return Err(Error::new(Code::InvalidInput, message).stream(&def.name));
    }
    let named = with.iter().zip(all.columns()).map(|(c, v)| (c.name.clone(), Arc::clone(v)));
    Ok(named.collect())
}

/// The expression that `DEFAULT` stands for in a column.
pub(crate) fn default_of(def: &StreamDef, column: &str) -> Result<Expr> {
    let column = def.columns.iter().find(|c| c.name == column);
    match column.and_then(|c| c.default.as_ref()) {
        Some(sql) => Ok(dialect::parse_expr(sql)?),
        None => Ok(Expr::Value(datafusion::sql::sqlparser::ast::Value::Null.into())),
    }
}

/// Refuses defaults and generated columns that cannot be computed or do not fit their columns.
pub(crate) async fn check_expressions(inner: &Inner, def: &StreamDef) -> Result<()> {
    let schema = dialect::schema_of(def)?;
    for (field, column) in schema.fields().iter().zip(&def.columns) {
        let context = |error: Error| {
            let message = format!("column {} of {}: {}", column.name, def.name, error.message);
            Error { message, row: None, ..error }.stream(&def.name).field(&column.name)
        };
        if column.default.is_some() {
            let values = defaults(inner, def, &[column], 1).await.map_err(context)?;
            for value in values.values() {
                convert(def, field, value, &unnamed(value), 1).map_err(context)?;
            }
        }
    }
    let none = def.columns.iter().zip(schema.fields()).map(|(c, f)| match c.generated {
        Some(_) => None,
        None => Some(new_null_array(f.data_type(), 0)),
    });
    generate(inner, def, none.collect(), 0, 1).map(drop)
}

/// A column in the declared type; `given` tells what its values are. The error names the first row
/// that has no such value.
pub(crate) fn convert(
    def: &StreamDef,
    field: &Field,
    values: &ArrayRef,
    given: &Field,
    first: u64,
) -> Result<ArrayRef> {
    if values.data_type() == field.data_type() {
        return Ok(Arc::clone(values));
    }
    let (have, want) = (dialect::sql_type_of(given), dialect::sql_type_of(field));
    let wrong = |code: Code, row: Option<usize>, why: String| {
        let message = format!("column {} is {want}, and the {have}{why}", field.name());
        let error = Error::new(code, message)
            .stream(&def.name)
            .field(field.name())
            .hint(format!("give a {want}, or cast it: CAST(.. AS {want})"));
        match row {
            Some(row) => error.row(first + row as u64),
            None => error,
        }
    };
    let boolean = |t: &DataType| *t == DataType::Boolean;
    let (from, to) = (values.data_type(), field.data_type());
    let mixed = (boolean(to) && from.is_numeric()) || (boolean(from) && to.is_numeric());
    if mixed && values.logical_null_count() < values.len() {
        return Err(wrong(Code::DatatypeMismatch, None, " is not".to_owned()));
    }
    let values = match values.data_type().is_floating() && field.data_type().is_integer() {
        true => rounded(values)?,
        false => Arc::clone(values),
    };
    functions::assign(&values, given, field).map_err(|misfit| {
        let value = functions::sql_text(&values, given, misfit.row).ok().flatten();
        let value = value.map(|v| format!(" '{v}'")).unwrap_or_default();
        wrong(of_value(&misfit.message), Some(misfit.row), format!("{value} is not"))
    })
}

/// What an expression's values are, when nothing but their Arrow type is known.
fn unnamed(values: &ArrayRef) -> Field {
    Field::new("", values.data_type().clone(), true)
}

/// Floats rounded to the nearest whole number, halves to the even one, as PostgreSQL assigns them.
fn rounded(values: &ArrayRef) -> Result<ArrayRef> {
    use arrow::array::AsArray;
    use arrow::datatypes::Float64Type;
    let doubles = arrow::compute::cast(values, &DataType::Float64)?;
    Ok(Arc::new(
        doubles.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round_ties_even),
    ))
}
