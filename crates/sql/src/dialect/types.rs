//! The column types: which SQL types a column may have, and how Arrow stores them. Every name that
//! [`sql_type_name`] gives for a type made by [`arrow_type`] is read back as that same type.
//!
//! `NUMERIC` without precision is `NUMERIC(38, 10)`. `TIMESTAMP(p)` keeps microseconds for any `p`.

use super::cursor::Cursor;
use super::error::{Error, Kind, Result};
use super::source::Source;
use crate::catalog::StreamDef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::sql::sqlparser::ast::{self, ExactNumberInfo, TimezoneInfo};
use std::sync::Arc;

/// Precision and scale of `NUMERIC` without either.
pub const DEFAULT_NUMERIC: (u8, i8) = (38, 10);
/// Largest precision of `NUMERIC`.
const MAX_PRECISION: u64 = 38;

const TYPES: &str = "use one of boolean, smallint, integer, bigint, real, double precision, \
     numeric(p, s), text, bytea, date, timestamp, timestamptz";

/// The Arrow type of a column whose type is spelled `sql_type`.
///
/// # Errors
/// The text is no type, or a type that columns cannot have.
pub fn arrow_type(sql_type: &str) -> Result<DataType> {
    let (source, tokens) = Source::read(sql_type)?;
    let mut cursor = Cursor::new(&source, tokens);
    let parsed = cursor.data_type()?;
    if !cursor.at_end() {
        return Err(cursor.expected("the end of the type"));
    }
    of_ast(&parsed)
}

/// The Arrow schema of a stream: its columns in order.
///
/// # Errors
/// A column's type cannot be read; the message names the column.
pub fn schema_of(stream: &StreamDef) -> Result<SchemaRef> {
    let mut fields = Vec::with_capacity(stream.columns.len());
    for column in &stream.columns {
        let data_type = arrow_type(&column.sql_type).map_err(|mut e| {
            e.message = format!("column {} of {}: {}", column.name, stream.name, e.message);
            e
        })?;
        fields.push(Field::new(&column.name, data_type, column.nullable));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The PostgreSQL name of an Arrow type, as `format_type` spells it.
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

/// The Arrow type of a parsed SQL type.
pub(super) fn of_ast(parsed: &ast::DataType) -> Result<DataType> {
    use ast::DataType as Sql;
    Ok(match parsed {
        Sql::Boolean | Sql::Bool => DataType::Boolean,
        Sql::SmallInt(None) | Sql::Int2(None) => DataType::Int16,
        Sql::Int(None) | Sql::Integer(None) | Sql::Int4(None) => DataType::Int32,
        Sql::BigInt(None) | Sql::Int8(None) => DataType::Int64,
        Sql::Real | Sql::Float4 => DataType::Float32,
        Sql::DoublePrecision
        | Sql::Float8
        | Sql::Double(ExactNumberInfo::None)
        | Sql::Float(ExactNumberInfo::None) => DataType::Float64,
        Sql::Numeric(info) | Sql::Decimal(info) | Sql::Dec(info) => numeric(*info)?,
        Sql::Text
        | Sql::Varchar(None)
        | Sql::CharacterVarying(None)
        | Sql::CharVarying(None)
        | Sql::Char(None)
        | Sql::Character(None)
        | Sql::String(None) => DataType::Utf8,
        Sql::Bytea => DataType::Binary,
        Sql::Date => DataType::Date32,
        Sql::Timestamp(precision, zone) => timestamp(parsed, *precision, *zone)?,
        _ => return Err(refused(parsed)),
    })
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
    use ast::DataType as Sql;
    let hint = match parsed {
        Sql::Uuid | Sql::JSON | Sql::JSONB => "use text",
        Sql::Varchar(Some(_))
        | Sql::CharacterVarying(Some(_))
        | Sql::CharVarying(Some(_))
        | Sql::Char(Some(_))
        | Sql::Character(Some(_))
        | Sql::String(Some(_)) => "use text, with CHECK (char_length(column) <= n) for the length",
        Sql::Array(_) => "use one row per element, or text",
        _ => TYPES,
    };
    Error::new(Kind::UnknownType, format!("columns cannot have the type {parsed}")).hint(hint)
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
        ] {
            let first = arrow_type(name).unwrap_or_else(|e| panic!("{name}: {e}"));
            let spelled = sql_type_name(&first);
            assert_eq!(arrow_type(&spelled), Ok(first), "{name} as {spelled}");
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
            ("uuid", "use text"),
            ("jsonb", "use text"),
            ("varchar(10)", "char_length"),
            ("int[]", "element"),
            ("time", "use one of"),
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
