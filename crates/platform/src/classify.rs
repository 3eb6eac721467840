//! What kind of failure an error of planning or computing is, and PostgreSQL's sentence for it.
//!
//! DataFusion tells its errors apart by a few kinds and by their words; the words are matched here
//! and nowhere else. What is not known keeps its own words and the code of its kind, so an upgrade of
//! DataFusion that rewords a message costs a code and never a wrong one of another class.

use crate::{Code, Error};
use arrow::error::ArrowError;
use datafusion::common::{Column, DataFusionError, SchemaError};

/// Parts of messages of the planner, and what they mean. The first that fits counts.
const OF_PLANS: [(&str, Code); 28] = [
    ("must be in GROUP BY or an aggregate function", Code::Grouping),
    ("must appear in the GROUP BY clause", Code::Grouping),
    ("Aggregate function calls cannot be nested", Code::Grouping),
    ("Aggregate functions are not allowed in", Code::Grouping),
    ("Window function calls are not allowed", Code::Windowing),
    ("Invalid function", Code::UnknownFunction),
    ("failed to match any signature", Code::UnknownFunction),
    ("No function matches the given name", Code::UnknownFunction),
    ("Cannot coerce arithmetic expression", Code::UnknownFunction),
    ("Cannot infer common argument type", Code::UnknownFunction),
    ("Unary operator", Code::UnknownFunction),
    ("operator does not exist", Code::UnknownFunction),
    ("There isn't a common type to coerce", Code::UnknownFunction),
    ("non-boolean predicate", Code::DatatypeMismatch),
    ("to common types in CASE", Code::DatatypeMismatch),
    ("Incompatible inputs for Union", Code::DatatypeMismatch),
    ("Inconsistent data type across values list", Code::DatatypeMismatch),
    ("Inconsistent data length across values list", Code::Syntax),
    ("have different number of columns", Code::Syntax),
    ("must have the same number of columns", Code::Syntax),
    ("Source table contains", Code::Syntax),
    ("LIMIT must be >= 0", Code::InvalidLimit),
    ("OFFSET must be >=0", Code::InvalidOffset),
    ("OFFSET must be >= 0", Code::InvalidOffset),
    ("should only return one column", Code::Syntax),
    ("DISTINCT, ORDER BY expressions", Code::InvalidColumnReference),
    ("is not in select list", Code::InvalidColumnReference),
    ("specified more than once", Code::DuplicateAlias),
];

/// Parts of messages of functions and casts, and what they mean.
const OF_VALUES: [(&str, Code); 22] = [
    ("date/time field value out of range", Code::DatetimeOverflow),
    ("timestamp out of range", Code::DatetimeOverflow),
    ("date out of range", Code::DatetimeOverflow),
    ("interval out of range", Code::DatetimeOverflow),
    ("interval field value out of range", Code::DatetimeOverflow),
    ("division by zero", Code::DivisionByZero),
    ("invalid input syntax for type date", Code::InvalidDatetime),
    ("invalid input syntax for type time", Code::InvalidDatetime),
    ("invalid input syntax for type interval", Code::InvalidDatetime),
    ("invalid value for", Code::InvalidDatetime),
    ("out of range", Code::OutOfRange),
    ("overflow", Code::OutOfRange),
    ("too large", Code::OutOfRange),
    ("value too long for type", Code::StringTruncation),
    ("more than one row returned", Code::Cardinality),
    ("Scalar subquery returned more than one row", Code::Cardinality),
    ("regular expression", Code::InvalidRegex),
    ("regex parse error", Code::InvalidRegex),
    ("time zone", Code::InvalidInput),
    ("cannot cast", Code::CannotCoerce),
    ("square root of a negative", Code::InvalidPower),
    ("logarithm of", Code::InvalidLogarithm),
];

/// Begins of messages that say only where in DataFusion an error was made.
const PREFIXES: [&str; 10] = [
    "Error during planning: ",
    "Execution error: ",
    "Arrow error: ",
    "Schema error: ",
    "Internal error: ",
    "Optimizer rule '",
    "External error: ",
    "Compute error: ",
    "Cast error: ",
    "Invalid argument error: ",
];

fn found(table: &[(&str, Code)], text: &str) -> Option<Code> {
    table.iter().find(|(part, _)| text.contains(part)).map(|(_, code)| *code)
}

/// The code of a value that cannot be computed or read, by its message.
pub(crate) fn of_value(message: &str) -> Code {
    found(&OF_VALUES, message).unwrap_or(Code::InvalidValue)
}

/// A query that found no memory, with the operator that asked for it as DataFusion calls it.
fn out_of_memory(reason: &str) -> Error {
    let asked =
        reason.split_once("allocation failed for ").and_then(|(_, rest)| rest.split_once(' '));
    let by = asked.map(|(operator, _)| format!(" ({operator})")).unwrap_or_default();
    let message = format!("the query needs more memory than there is for queries{by}");
    Error::new(Code::OutOfMemory, message).hint(
        "raise memory_limit_bytes, of which queries and batch runs have a quarter, read less at a time, or run \
         fewer queries at once; sorts and groups go to files, hash joins and distinct values cannot",
    )
}

/// The error as the platform tells it.
pub(crate) fn error(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::SchemaError(inner, _) => of_schema(inner),
        other if matches!(other.find_root(), DataFusionError::ResourcesExhausted(_)) => {
            out_of_memory(&other.find_root().strip_backtrace())
        }
        other => {
            let text = plain(&other.strip_backtrace());
            let code = code_of(other, &text);
            reworded(Error::new(code, text))
        }
    }
}

/// The first line, without what says where in DataFusion it was made.
fn plain(text: &str) -> String {
    let mut line = text.lines().next().unwrap_or_default();
    while let Some(rest) = PREFIXES.iter().find_map(|p| {
        let rest = line.strip_prefix(p)?;
        // A rule's name ends before the message.
        if *p == "Optimizer rule '" { rest.split_once("' failed").map(|_| "") } else { Some(rest) }
    }) {
        if rest.is_empty() {
            break;
        }
        line = rest;
    }
    line.to_owned()
}

fn code_of(error: &DataFusionError, text: &str) -> Code {
    match error {
        DataFusionError::SQL(..) => Code::Syntax,
        DataFusionError::Plan(_) => match found(&OF_PLANS, text) {
            Some(code) => code,
            None if text.starts_with("function ") && text.ends_with("does not exist") => {
                Code::UnknownFunction
            }
            None if text.contains("not found") => Code::UnknownRelation,
            None => found(&OF_VALUES, text).unwrap_or(Code::InvalidInput),
        },
        DataFusionError::NotImplemented(_)
            if text.contains("does not support logical expression WindowFunction") =>
        {
            Code::Windowing
        }
        DataFusionError::NotImplemented(_) => Code::Unsupported,
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::DivideByZero => Code::DivisionByZero,
            ArrowError::ArithmeticOverflow(_) => Code::OutOfRange,
            ArrowError::CastError(text) if text.contains("Can't cast value") => Code::OutOfRange,
            _ => of_value(text),
        },
        DataFusionError::Execution(_) => of_value(text),
        _ => Code::Internal,
    }
}

fn of_schema(error: &SchemaError) -> Error {
    match error {
        SchemaError::AmbiguousReference { field } => {
            let message = format!("column reference \"{}\" is ambiguous", field.name);
            Error::new(Code::AmbiguousColumn, message).hint("put the table's name in front of it")
        }
        SchemaError::DuplicateQualifiedField { qualifier, .. } => {
            let message = format!("table name \"{}\" specified more than once", qualifier.table());
            Error::new(Code::DuplicateAlias, message).hint("give one of them another name with AS")
        }
        SchemaError::DuplicateUnqualifiedField { name } => {
            let message = format!("column \"{name}\" specified more than once");
            Error::new(Code::DuplicateColumn, message).field(name)
        }
        SchemaError::FieldNotFound { field, valid_fields } => not_found(field, valid_fields),
    }
}

fn not_found(field: &Column, known: &[Column]) -> Error {
    if let Some(relation) = &field.relation {
        let table = relation.table();
        let there = |c: &Column| c.relation.as_ref().is_some_and(|r| r.table() == table);
        if !known.iter().any(there) {
            let message = format!("missing FROM-clause entry for table \"{table}\"");
            return Error::new(Code::UnknownRelation, message);
        }
    }
    let message = match &field.relation {
        Some(relation) => format!("column {}.{} does not exist", relation.table(), field.name),
        None => format!("column \"{}\" does not exist", field.name),
    };
    let error = Error::new(Code::UnknownColumn, message).field(&field.name);
    let names: Vec<String> = known.iter().map(|c| c.name.clone()).collect();
    let like = crate::platform::closest(&field.name, names.iter());
    let like = like.and_then(|name| known.iter().find(|c| c.name == *name));
    match like {
        Some(column) => {
            let table = column.relation.as_ref().map(|r| format!("{}.", r.table()));
            let name = format!("{}{}", table.unwrap_or_default(), column.name);
            error.hint(format!("Perhaps you meant to reference the column \"{name}\"."))
        }
        None => error,
    }
}

/// Messages that PostgreSQL has other words for.
fn reworded(error: Error) -> Error {
    let text = error.message.as_str();
    let message = match error.code {
        Code::DivisionByZero => "division by zero".to_owned(),
        Code::Cardinality => {
            "more than one row returned by a subquery used as an expression".to_owned()
        }
        Code::InvalidLimit => "LIMIT must not be negative".to_owned(),
        Code::InvalidOffset => "OFFSET must not be negative".to_owned(),
        Code::Windowing => {
            "window functions are not allowed in WHERE, GROUP BY or HAVING".to_owned()
        }
        Code::OutOfRange if text.starts_with("Can't cast value") => {
            let data_type = text.rsplit(' ').next().unwrap_or_default();
            let name = match data_type {
                "Int16" => "smallint",
                "Int32" => "integer",
                "Int64" => "bigint",
                "Float32" => "real",
                other => other,
            };
            format!("{name} out of range")
        }
        Code::UnknownFunction if text.starts_with("Invalid function '") => {
            let name = text.trim_start_matches("Invalid function '");
            let name = name.split('\'').next().unwrap_or_default();
            format!("function {name} does not exist")
        }
        Code::Grouping if text.contains("column \"") => {
            let column = text.rsplit_once("column \"").and_then(|(_, rest)| rest.split_once('"'));
            match column {
                Some((column, _)) => format!(
                    "column \"{column}\" must appear in the GROUP BY clause or be used in an \
                     aggregate function"
                ),
                None => return error,
            }
        }
        Code::Grouping if text.contains("cannot be nested") => {
            "aggregate function calls cannot be nested".to_owned()
        }
        Code::Grouping if text.contains("not allowed in the WHERE") => {
            "aggregate functions are not allowed in WHERE".to_owned()
        }
        Code::Syntax if text.contains("number of columns") => {
            "each UNION, INTERSECT or EXCEPT query must have the same number of columns".to_owned()
        }
        _ => return error,
    };
    Error { message, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: DataFusionError) -> (Code, String) {
        let error = super::error(&error);
        (error.code, error.message)
    }

    #[test]
    fn errors_have_the_codes_and_words_of_postgresql() {
        let plan = |text: &str| told(DataFusionError::Plan(text.to_owned()));
        let ran = |text: &str| told(DataFusionError::Execution(text.to_owned()));
        assert_eq!(
            plan("Invalid function 'f'.\nDid you mean 'g'?"),
            (Code::UnknownFunction, "function f does not exist".to_owned())
        );
        assert_eq!(plan("table 'kaplan.public.x' not found").0, Code::UnknownRelation);
        assert_eq!(ran("bigint out of range").0, Code::OutOfRange);
        assert_eq!(ran("invalid input syntax for type date: \"x\"").0, Code::InvalidDatetime);
        assert_eq!(ran("invalid input syntax for type integer: \"x\"").0, Code::InvalidValue);
        let cast = ArrowError::CastError("Can't cast value 70000 to type Int16".to_owned());
        let cast = DataFusionError::ArrowError(Box::new(cast), None);
        assert_eq!(told(cast), (Code::OutOfRange, "smallint out of range".to_owned()));
    }

    #[test]
    fn a_column_is_missing_or_its_table_is() {
        let known = vec![Column::new(Some("en"), "a"), Column::new(Some("en"), "b")];
        let told = |field: Column| not_found(&field, &known);
        let error = told(Column::new_unqualified("aa"));
        assert_eq!(error.message, "column \"aa\" does not exist");
        let hint = "Perhaps you meant to reference the column \"en.a\".";
        assert_eq!(error.hint.as_deref(), Some(hint));
        assert_eq!(told(Column::new(Some("x"), "a")).code, Code::UnknownRelation);
    }
}
