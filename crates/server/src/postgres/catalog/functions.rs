//! The functions that clients ask a PostgreSQL server about itself. They take arguments of any type
//! and number, as clients of different versions call them differently, and answer for one
//! connection and the catalog at one moment.

use super::{Identity, relations};
use crate::postgres::settings;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, Int64Builder, ListArray,
    ListBuilder, StringArray, StringBuilder, StructArray, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Int64Type};
use datafusion::common::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};
use kaplan_platform::RelationInfo;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

type Body = Arc<dyn Fn(&[ArrayRef], usize) -> Result<ArrayRef> + Send + Sync>;

/// A function of any arguments; the body gets them as arrays and the number of rows.
struct Function {
    name: &'static str,
    signature: Signature,
    returns: DataType,
    body: Body,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.iter().map(|a| a.to_array(rows)).collect::<Result<Vec<_>>>()?;
        Ok(ColumnarValue::Array((self.body)(&arrays, rows)?))
    }
}

fn function(
    name: &'static str,
    returns: DataType,
    body: impl Fn(&[ArrayRef], usize) -> Result<ArrayRef> + Send + Sync + 'static,
) -> Function {
    let any = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
    let signature = Signature::one_of(any, Volatility::Stable);
    Function { name, signature, returns, body: Arc::new(body) }
}

/// The same text in each row.
fn text(name: &'static str, value: impl Into<String>) -> Function {
    let value = value.into();
    function(name, DataType::Utf8, move |_, rows| {
        Ok(Arc::new(StringArray::from(vec![value.as_str(); rows])))
    })
}

fn flag(name: &'static str, value: bool) -> Function {
    function(name, DataType::Boolean, move |_, rows| {
        Ok(Arc::new(BooleanArray::from(vec![value; rows])))
    })
}

fn null(name: &'static str, returns: DataType) -> Function {
    let data_type = returns.clone();
    function(name, returns, move |_, rows| Ok(new_null_array(&data_type, rows)))
}

fn zero(name: &'static str) -> Function {
    function(name, DataType::Int64, |_, rows| Ok(Arc::new(Int64Array::from(vec![0; rows]))))
}

/// A text for each row, from the arguments as numbers (objects ids, column numbers).
fn described(
    name: &'static str,
    body: impl Fn(&[Option<i64>]) -> Option<String> + Send + Sync + 'static,
) -> Function {
    function(name, DataType::Utf8, move |args, rows| {
        let numbers = args.iter().map(numbers).collect::<Result<Vec<_>>>()?;
        let texts = (0..rows).map(|row| {
            let args: Vec<_> =
                numbers.iter().map(|a| a.is_valid(row).then(|| a.value(row))).collect();
            body(&args)
        });
        Ok(Arc::new(texts.collect::<StringArray>()))
    })
}

fn numbers(array: &ArrayRef) -> Result<Int64Array> {
    match array.data_type() {
        DataType::Boolean | DataType::Null => Ok(Int64Array::new_null(array.len())),
        _ => Ok(arrow::compute::cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
    }
}

fn texts(array: &ArrayRef) -> Result<StringArray> {
    Ok(arrow::compute::cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// The first argument as it is.
fn first(name: &'static str) -> Function {
    function(name, DataType::Utf8, |args, rows| match args.first() {
        Some(array) => Ok(Arc::new(texts(array)?)),
        None => Ok(new_null_array(&DataType::Utf8, rows)),
    })
}

fn current_setting(identity: &Identity) -> Function {
    let variables = identity.variables.clone();
    function("current_setting", DataType::Utf8, move |args, rows| {
        let Some(names) = args.first() else { return Ok(new_null_array(&DataType::Utf8, rows)) };
        let names = texts(names)?;
        let value = |name: Option<&str>| settings::value(name?, &variables);
        Ok(Arc::new(names.iter().map(value).collect::<StringArray>()))
    })
}

/// Gives the value back; settings of the planner and the like have no effect here.
fn set_config() -> Function {
    function("set_config", DataType::Utf8, |args, rows| match args.get(1) {
        Some(values) => Ok(Arc::new(texts(values)?)),
        None => Ok(new_null_array(&DataType::Utf8, rows)),
    })
}

fn to_regclass(relations: Vec<RelationInfo>) -> Function {
    function("to_regclass", DataType::Int32, move |args, rows| {
        let Some(names) = args.first() else { return Ok(new_null_array(&DataType::Int32, rows)) };
        let find = |name: Option<&str>| {
            let name = name?.trim_start_matches("public.").trim_matches('"');
            let relation = relations.iter().find(|r| r.name == name)?;
            i32::try_from(relations::oid(relation)).ok()
        };
        Ok(Arc::new(texts(names)?.iter().map(find).collect::<Int32Array>()))
    })
}

/// `format`: `%s`, `%I` and `%L` in order.
fn format() -> Function {
    function("format", DataType::Utf8, |args, rows| {
        let Some((pattern, values)) = args.split_first() else {
            return Ok(new_null_array(&DataType::Utf8, rows));
        };
        let pattern = texts(pattern)?;
        let values = values.iter().map(texts).collect::<Result<Vec<_>>>()?;
        let one = |row: usize| {
            let mut values = values.iter().map(|v| v.is_valid(row).then(|| v.value(row)));
            let mut out = String::new();
            let mut parts = pattern.is_valid(row).then(|| pattern.value(row))?.split('%');
            out.push_str(parts.next()?);
            while let Some(part) = parts.next() {
                match part.chars().next() {
                    Some('s') => out.push_str(values.next().flatten().unwrap_or_default()),
                    Some('I') => {
                        let name = values.next().flatten().unwrap_or_default();
                        out.push_str(&format!("\"{}\"", name.replace('"', "\"\"")));
                    }
                    Some('L') => match values.next().flatten() {
                        Some(value) => out.push_str(&format!("'{}'", value.replace('\'', "''"))),
                        None => out.push_str("NULL"),
                    },
                    Some(_) => out.push('%'),
                    None => {
                        out.push('%');
                        out.push_str(parts.next().unwrap_or_default());
                        continue;
                    }
                }
                let known = part.starts_with(['s', 'I', 'L']);
                out.push_str(if known { &part[1..] } else { part });
            }
            Some(out)
        };
        Ok(Arc::new((0..rows).map(one).collect::<StringArray>()))
    })
}

fn schemas() -> Function {
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    function("current_schemas", DataType::List(item), |_, rows| {
        let mut builder = ListBuilder::new(StringBuilder::new());
        for _ in 0..rows {
            builder.append_value([Some("pg_catalog"), Some("public")]);
        }
        Ok(Arc::new(builder.finish()))
    })
}

/// Each element of a list of numbers with its place, as a list of rows `(x, n)`.
fn expandarray() -> Function {
    let pair = Fields::from(vec![
        Field::new("x", DataType::Int16, true),
        Field::new("n", DataType::Int64, true),
    ]);
    let item = Arc::new(Field::new("item", DataType::Struct(pair.clone()), true));
    function("_pg_expandarray", DataType::List(Arc::clone(&item)), move |args, rows| {
        let Some(lists) = args.first().and_then(|a| a.as_list_opt::<i32>()) else {
            return Ok(new_null_array(&DataType::List(Arc::clone(&item)), rows));
        };
        let lengths =
            (0..lists.len()).map(|row| if lists.is_null(row) { 0 } else { lists.value(row).len() });
        let lengths: Vec<usize> = lengths.collect();
        let values: Vec<ArrayRef> = (0..lists.len())
            .filter(|row| lists.is_valid(*row))
            .map(|row| lists.value(row))
            .collect();
        let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
        let values = match values.is_empty() {
            true => new_null_array(&DataType::Int16, 0),
            false => arrow::compute::cast(&arrow::compute::concat(&values)?, &DataType::Int16)?,
        };
        let places = lengths.iter().flat_map(|n| 1..=i64::try_from(*n).unwrap_or(i64::MAX));
        let places: ArrayRef = Arc::new(places.collect::<Int64Array>());
        let pairs = StructArray::try_new(pair.clone(), vec![values, places], None)?;
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(Arc::new(ListArray::try_new(Arc::clone(&item), offsets, Arc::new(pairs), None)?))
    })
}

/// The places of a list's elements, from 1.
fn subscripts() -> Function {
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    function("_pg_subscripts", DataType::List(item), |args, rows| {
        let mut builder = ListBuilder::new(Int64Builder::new());
        let lists = args.first().and_then(|a| a.as_list_opt::<i32>());
        for row in 0..rows {
            match lists.filter(|lists| lists.is_valid(row)) {
                Some(lists) => {
                    let length = i64::try_from(lists.value(row).len()).unwrap_or(i64::MAX);
                    builder.append_value((1..=length).map(Some));
                }
                None => builder.append_null(),
            }
        }
        Ok(Arc::new(builder.finish()))
    })
}

/// `pg_size_pretty`, as exact as clients show it.
fn pretty(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes, 0);
    while value.abs() >= 10 * 1024 && unit + 1 < UNITS.len() {
        (value, unit) = ((value + 512) / 1024, unit + 1);
    }
    format!("{value} {}", UNITS[unit])
}

fn of_the_connection(identity: &Identity) -> Vec<Function> {
    let pid = identity.pid;
    let user = &identity.user;
    let mut functions: Vec<Function> = ["current_user", "session_user", "user", "current_role"]
        .map(|name| text(name, user.clone()))
        .into();
    functions.extend([
        text("current_database", identity.database.clone()),
        text("current_catalog", identity.database.clone()),
        text("current_schema", "public"),
        text("version", settings::version()),
        text("pg_get_userbyid", user.clone()),
        function("pg_backend_pid", DataType::Int32, move |_, rows| {
            Ok(Arc::new(Int32Array::from(vec![pid; rows])))
        }),
        flag("pg_is_in_recovery", identity.replica),
        current_setting(identity),
        set_config(),
        schemas(),
        expandarray(),
        subscripts(),
        format(),
    ]);
    functions
}

fn of_the_catalog(catalog: &Arc<Vec<RelationInfo>>) -> Vec<Function> {
    let with = || Arc::clone(catalog);
    let (views, constraints, indexes) = (with(), with(), with());
    vec![
        described("pg_get_viewdef", move |args| {
            let oid = args.first().copied().flatten()?;
            let view = views.iter().find(|r| relations::oid(r) == oid)?;
            view.query.as_ref().map(|query| format!(" {};", query.trim_end_matches(';')))
        }),
        described("pg_get_constraintdef", move |args| {
            relations::constraint_text(&constraints, args.first().copied().flatten()?)
        }),
        described("pg_get_indexdef", move |args| {
            let number = args.get(1).copied().flatten().unwrap_or(0);
            relations::index_text(&indexes, args.first().copied().flatten()?, number)
        }),
        described("pg_size_pretty", |args| args.first().copied().flatten().map(pretty)),
        to_regclass(catalog.to_vec()),
        first("pg_get_expr"),
    ]
}

/// Questions whose answer is the same for every object.
fn of_every_object() -> Vec<Function> {
    let yes = [
        "pg_table_is_visible",
        "pg_type_is_visible",
        "pg_function_is_visible",
        "pg_collation_is_visible",
        "pg_conversion_is_visible",
        "pg_ts_config_is_visible",
        "pg_ts_dict_is_visible",
        "pg_ts_parser_is_visible",
        "pg_ts_template_is_visible",
        "pg_statistics_obj_is_visible",
        "pg_opfamily_is_visible",
        "pg_opclass_is_visible",
        "pg_operator_is_visible",
        "has_table_privilege",
        "has_schema_privilege",
        "has_database_privilege",
        "has_any_column_privilege",
        "has_column_privilege",
        "has_function_privilege",
        "has_sequence_privilege",
        "has_type_privilege",
        "has_tablespace_privilege",
        "has_language_privilege",
        "pg_has_role",
        "pg_try_advisory_lock",
        "pg_advisory_unlock",
    ];
    let no = [
        "row_security_active",
        "pg_is_other_temp_schema",
        "pg_relation_is_publishable",
        "pg_relation_is_updatable",
        "pg_cancel_backend",
        "pg_terminate_backend",
    ];
    let none = [
        "obj_description",
        "col_description",
        "shobj_description",
        "pg_get_partkeydef",
        "pg_get_statisticsobjdef",
        "pg_get_statisticsobjdef_columns",
        "pg_get_ruledef",
        "pg_get_triggerdef",
        "pg_get_functiondef",
        "pg_get_function_arguments",
        "pg_get_function_identity_arguments",
        "pg_get_function_result",
        "pg_get_function_sqlbody",
        "pg_tablespace_location",
        "pg_advisory_unlock_all",
        "inet_server_addr",
        "inet_client_addr",
        "to_regtype",
        "json_build_object",
        "jsonb_build_object",
        "pg_sequence_parameters",
        "pg_get_serial_sequence",
    ];
    let zeros = [
        "pg_relation_size",
        "pg_total_relation_size",
        "pg_table_size",
        "pg_indexes_size",
        "pg_database_size",
        "pg_tablespace_size",
        "pg_stat_get_numscans",
        "txid_current",
        "txid_current_if_assigned",
        "pg_my_temp_schema",
    ];
    let mut functions: Vec<Function> = yes.into_iter().map(|name| flag(name, true)).collect();
    functions.extend(no.into_iter().map(|name| flag(name, false)));
    functions.extend(none.into_iter().map(|name| null(name, DataType::Utf8)));
    functions.extend(zeros.into_iter().map(zero));
    functions
}

/// Puts the functions into a session.
pub(super) fn register(
    state: &mut SessionState,
    identity: &Identity,
    relations: &Arc<Vec<RelationInfo>>,
) -> Result<()> {
    let functions = of_the_connection(identity)
        .into_iter()
        .chain(of_the_catalog(relations))
        .chain(of_every_object());
    for function in functions {
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(function)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::pretty;

    #[test]
    fn sizes_are_short() {
        assert_eq!(pretty(10_239), "10239 bytes");
        assert_eq!(pretty(10_240), "10 kB");
        assert_eq!(pretty(123 << 20), "123 MB");
    }
}
