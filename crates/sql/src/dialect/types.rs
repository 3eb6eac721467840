//! The SQL types of columns and casts, and how Arrow stores them. Every name that [`sql_type_of`]
//! gives for a field made by [`column_field`] is read back as that same field. Types that share an
//! Arrow type are told apart by the field's metadata ([`Logical`]).
//!
//! `NUMERIC` without precision is `NUMERIC(38, 10)`. `TIMESTAMP(p)` and `TIME(p)` keep microseconds
//! for any `p`; `JSON` is `JSONB`. Refused: enums, ranges, and other names that are no type.

use super::cursor::Cursor;
use super::error::{Error, Kind, Result};
use super::source::Source;
use crate::catalog::{ColumnDef, StreamDef};
use crate::functions::Logical;
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, Schema, SchemaRef, TimeUnit};
use datafusion::common::plan_datafusion_err;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{
    self, ArrayElemTypeDef, CharacterLength, ExactNumberInfo, TimezoneInfo,
};
use std::sync::Arc;

/// Precision and scale of `NUMERIC` without either.
pub const DEFAULT_NUMERIC: (u8, i8) = (38, 10);
/// Largest length of `varchar(n)`, as in PostgreSQL.
const MAX_CHARACTERS: u32 = 10_485_760;
/// Largest precision of `NUMERIC`.
const MAX_PRECISION: u64 = 38;

const TYPES: &str = "use one of boolean, smallint, integer, bigint, real, double precision, \
     numeric(p, s), text, varchar(n), bytea, date, time, timestamp, timestamptz, interval, uuid, \
     jsonb, an array of one of them, struct<name type, ..>";

/// The Arrow type of a column whose type is spelled `sql_type`.
///
/// # Errors
/// The text is no type, or a type that columns cannot have.
pub fn arrow_type(sql_type: &str) -> Result<DataType> {
    Ok(column_field("", sql_type, true)?.data_type().clone())
}

/// The Arrow field of a column whose type is spelled `sql_type`.
///
/// # Errors
/// The text is no type, or a type that columns cannot have.
pub fn column_field(name: &str, sql_type: &str, nullable: bool) -> Result<Field> {
    let (source, tokens) = Source::read(sql_type)?;
    let mut cursor = Cursor::new(&source, tokens);
    let parsed = cursor.data_type()?;
    if !cursor.at_end() {
        return Err(cursor.expected("the end of the type"));
    }
    Ok(of_ast(&parsed)?.with_name(name).with_nullable(nullable))
}

/// The Arrow schema of a stream: its columns in order.
///
/// # Errors
/// A column's type cannot be read; the message names the column.
pub fn schema_of(stream: &StreamDef) -> Result<SchemaRef> {
    schema_of_columns(&stream.name, &stream.columns)
}

/// The Arrow schema of a relation's columns.
///
/// # Errors
/// As [`schema_of`] has them.
pub fn schema_of_columns(relation: &str, columns: &[ColumnDef]) -> Result<SchemaRef> {
    let mut fields = Vec::with_capacity(columns.len());
    for column in columns {
        let field = column_field(&column.name, &column.sql_type, column.nullable);
        fields.push(field.map_err(|mut e| {
            e.message = format!("column {} of {relation}: {}", column.name, e.message);
            e
        })?);
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The PostgreSQL name of a field's type, as `format_type` spells it.
#[must_use]
pub fn sql_type_of(field: &Field) -> String {
    match (Logical::of(field), field.data_type()) {
        (Some(logical), _) => logical.name(),
        (None, DataType::List(item)) => format!("{}[]", sql_type_of(item)),
        (None, DataType::Struct(fields)) => {
            let parts: Vec<_> = fields
                .iter()
                .map(|f| format!("\"{}\" {}", f.name().replace('"', "\"\""), sql_type_of(f)))
                .collect();
            format!("struct<{}>", parts.join(", "))
        }
        (None, other) => sql_type_name(other),
    }
}

/// The PostgreSQL name of an Arrow type. Types that share it with another have the plainer name.
#[must_use]
pub fn sql_type_name(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => "smallint",
        DataType::UInt16 | DataType::Int32 => "integer",
        DataType::UInt32 | DataType::Int64 => "bigint",
        DataType::UInt64 => "numeric(20,0)",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => return format!("numeric({p},{s})"),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "bytea",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Timestamp(_, None) => "timestamp without time zone",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Time32(_) | DataType::Time64(_) => "time without time zone",
        DataType::Interval(_) | DataType::Duration(_) => "interval",
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            return format!("{}[]", sql_type_name(item.data_type()));
        }
        DataType::Dictionary(_, value) => return sql_type_name(value),
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => "record",
        _ => "text",
    };
    name.to_owned()
}

/// The types as DataFusion's planner meets them in casts.
#[derive(Debug)]
pub(crate) struct Types;

impl TypePlanner for Types {
    fn plan_type_field(
        &self,
        sql_type: &ast::DataType,
    ) -> datafusion::common::Result<Option<FieldRef>> {
        match of_ast(sql_type) {
            Ok(field) => Ok(Some(Arc::new(field))),
            // DataFusion has types besides, such as unsigned integers.
            Err(error) if matches!(sql_type, ast::DataType::Custom(..)) => {
                Err(plan_datafusion_err!("{error}"))
            }
            Err(_) => Ok(None),
        }
    }
}

/// The nullable, nameless Arrow field of a parsed SQL type.
pub(super) fn of_ast(parsed: &ast::DataType) -> Result<Field> {
    use ast::DataType as Sql;
    let data_type = match parsed {
        Sql::Boolean | Sql::Bool => DataType::Boolean,
        Sql::SmallInt(None) | Sql::Int2(None) => DataType::Int16,
        Sql::Int(None) | Sql::Integer(None) | Sql::Int4(None) => DataType::Int32,
        Sql::BigInt(None) | Sql::Int8(None) => DataType::Int64,
        Sql::Real | Sql::Float4 => DataType::Float32,
        Sql::Float(ExactNumberInfo::Precision(1..=24)) => DataType::Float32,
        Sql::DoublePrecision
        | Sql::Float8
        | Sql::Double(ExactNumberInfo::None)
        | Sql::Float(ExactNumberInfo::None | ExactNumberInfo::Precision(25..=53)) => {
            DataType::Float64
        }
        Sql::Numeric(ExactNumberInfo::None)
        | Sql::Decimal(ExactNumberInfo::None)
        | Sql::Dec(ExactNumberInfo::None) => return Ok(Logical::Numeric.field("", true)),
        Sql::Numeric(info) | Sql::Decimal(info) | Sql::Dec(info) => numeric(*info)?,
        Sql::Text | Sql::String(None) => DataType::Utf8,
        Sql::Varchar(length) | Sql::CharacterVarying(length) | Sql::CharVarying(length) => {
            match characters(*length)? {
                Some(n) => return Ok(Logical::Varchar(n).field("", true)),
                None => DataType::Utf8,
            }
        }
        Sql::Char(length) | Sql::Character(length) => match characters(*length)? {
            Some(n) => return Ok(Logical::Char(n).field("", true)),
            None => DataType::Utf8,
        },
        Sql::JSON | Sql::JSONB => return Ok(Logical::Jsonb.field("", true)),
        Sql::Uuid => return Ok(Logical::Uuid.field("", true)),
        Sql::Bytea => DataType::Binary,
        Sql::Date => DataType::Date32,
        Sql::Time(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone)
            if precision.is_none_or(|p| p <= 6) =>
        {
            DataType::Time64(TimeUnit::Microsecond)
        }
        Sql::Timestamp(precision, zone) => timestamp(parsed, *precision, *zone)?,
        Sql::TimestampNtz(precision) => timestamp(parsed, *precision, TimezoneInfo::None)?,
        Sql::Interval { .. } => DataType::Interval(IntervalUnit::MonthDayNano),
        Sql::Array(
            ArrayElemTypeDef::SquareBracket(item, _)
            | ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => {
            let item = of_ast(item)?.with_name(Field::LIST_FIELD_DEFAULT_NAME);
            DataType::List(Arc::new(item))
        }
        Sql::Struct(fields, _) => structure(parsed, fields)?,
        _ => return Err(refused(parsed)),
    };
    Ok(Field::new("", data_type, true))
}

fn structure(parsed: &ast::DataType, fields: &[ast::StructField]) -> Result<DataType> {
    let mut parts = Vec::with_capacity(fields.len());
    for field in fields {
        let Some(name) = &field.field_name else { return Err(refused(parsed)) };
        let name = match name.quote_style {
            Some(_) => name.value.clone(),
            None => name.value.to_lowercase(),
        };
        parts.push(of_ast(&field.field_type)?.with_name(name));
    }
    if parts.is_empty() { Err(refused(parsed)) } else { Ok(DataType::Struct(parts.into())) }
}

/// The length of a text type.
fn characters(length: Option<CharacterLength>) -> Result<Option<u32>> {
    let length = match length {
        Some(CharacterLength::IntegerLength { length, .. }) => length,
        None | Some(CharacterLength::Max) => return Ok(None),
    };
    match u32::try_from(length) {
        Ok(n) if (1..=MAX_CHARACTERS).contains(&n) => Ok(Some(n)),
        _ => Err(Error::new(Kind::UnknownType, format!("a length of {length} is out of range"))
            .hint(format!("a length is 1 to {MAX_CHARACTERS}; text has none"))),
    }
}

fn timestamp(
    parsed: &ast::DataType,
    precision: Option<u64>,
    zone: TimezoneInfo,
) -> Result<DataType> {
    if precision.is_some_and(|p| p > 6) {
        return Err(Error::new(Kind::UnknownType, format!("{parsed} is finer than microseconds"))
            .hint("timestamps have microseconds: use timestamp or timestamptz"));
    }
    let zone = match zone {
        TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => None,
        TimezoneInfo::WithTimeZone | TimezoneInfo::Tz => Some("UTC".into()),
    };
    Ok(DataType::Timestamp(TimeUnit::Microsecond, zone))
}

fn numeric(info: ExactNumberInfo) -> Result<DataType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => {
            return Ok(DataType::Decimal128(DEFAULT_NUMERIC.0, DEFAULT_NUMERIC.1));
        }
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    let fits = (1..=MAX_PRECISION).contains(&precision);
    match (u8::try_from(precision), u64::try_from(scale), i8::try_from(scale)) {
        (Ok(p), Ok(above), Ok(s)) if fits && above <= precision => Ok(DataType::Decimal128(p, s)),
        _ => Err(Error::new(
            Kind::UnknownType,
            format!("numeric({precision}, {scale}) is out of range"),
        )
        .hint("the precision is 1 to 38 and the scale 0 to the precision")),
    }
}

fn refused(parsed: &ast::DataType) -> Error {
    Error::new(Kind::UnknownType, format!("columns cannot have the type {parsed}")).hint(TYPES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_as_the_same_type() {
        for name in [
            "boolean",
            "smallint",
            "int2",
            "int",
            "integer",
            "int4",
            "bigint",
            "INT8",
            "real",
            "float4",
            "double precision",
            "double",
            "float8",
            "float",
            "decimal",
            "numeric(12, 2)",
            "decimal(5)",
            "text",
            "varchar",
            "char",
            "string",
            "bytea",
            "date",
            "timestamp",
            "timestamp(3)",
            "timestamptz",
            "timestamp with time zone",
            "timestamp without time zone",
            "character varying",
            "varchar(10)",
            "character(3)",
            "time",
            "interval",
            "uuid",
            "json",
            "jsonb",
            "int[]",
            "varchar(5)[]",
            "float(10)",
            "struct<a int, \"B c\" text[], d struct<e varchar(3)>>",
        ] {
            let first = column_field("c", name, true).unwrap_or_else(|e| panic!("{name}: {e}"));
            let spelled = sql_type_of(&first);
            assert_eq!(column_field("c", &spelled, true), Ok(first), "{name} as {spelled}");
        }
        assert_eq!(arrow_type("numeric"), Ok(DataType::Decimal128(38, 10)));
        assert_eq!(
            arrow_type("timestamptz"),
            Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
        );
    }

    #[test]
    fn other_types_are_refused_with_advice() {
        for (name, hint) in [
            ("varchar(0)", "a length is 1"),
            ("timetz", "use one of"),
            ("tinyint", "use one of"),
            ("numeric(39, 2)", "1 to 38"),
            ("numeric(5, 6)", "1 to 38"),
            ("timestamp(9)", "microseconds"),
            ("blurb", "use one of"),
        ] {
            let error = arrow_type(name).unwrap_err();
            assert_eq!(error.kind, Kind::UnknownType, "{name}");
            assert!(error.hint.unwrap().contains(hint), "{name}");
        }
        assert_eq!(arrow_type("int not null").unwrap_err().kind, Kind::Syntax);
    }
}
