//! The wire's type of a column: what a client is told of it, and what it stands for in the catalogs.
//!
//! An array type has one object id whatever its dimensions, as in PostgreSQL. Arrow types that no
//! SQL type maps to are text.

use arrow::datatypes::{DataType, Field, SchemaRef};
use kaplan_sql::functions::Logical;
use pgwire::api::Type;
use pgwire::api::portal::Format;
use pgwire::api::results::FieldInfo;

/// The key by which the catalogs mark object ids among integers.
pub(super) const OID: &str = "pg.oid_alias";
/// The key by which the catalogs mark one-byte characters among texts.
pub(super) const CHAR: &str = "pg.char";

/// Types and the arrays of them.
const ARRAYS: [(Type, Type); 22] = [
    (Type::BOOL, Type::BOOL_ARRAY),
    (Type::BYTEA, Type::BYTEA_ARRAY),
    (Type::CHAR, Type::CHAR_ARRAY),
    (Type::INT2, Type::INT2_ARRAY),
    (Type::INT4, Type::INT4_ARRAY),
    (Type::INT8, Type::INT8_ARRAY),
    (Type::OID, Type::OID_ARRAY),
    (Type::FLOAT4, Type::FLOAT4_ARRAY),
    (Type::FLOAT8, Type::FLOAT8_ARRAY),
    (Type::NUMERIC, Type::NUMERIC_ARRAY),
    (Type::TEXT, Type::TEXT_ARRAY),
    (Type::VARCHAR, Type::VARCHAR_ARRAY),
    (Type::BPCHAR, Type::BPCHAR_ARRAY),
    (Type::NAME, Type::NAME_ARRAY),
    (Type::JSONB, Type::JSONB_ARRAY),
    (Type::UUID, Type::UUID_ARRAY),
    (Type::DATE, Type::DATE_ARRAY),
    (Type::TIME, Type::TIME_ARRAY),
    (Type::TIMESTAMP, Type::TIMESTAMP_ARRAY),
    (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
    (Type::INTERVAL, Type::INTERVAL_ARRAY),
    (Type::RECORD, Type::RECORD_ARRAY),
];

/// The array of a type.
fn array_of(item: &Type) -> Type {
    let found = ARRAYS.iter().find(|(one, _)| one == item);
    found.map_or(Type::TEXT_ARRAY, |(_, array)| array.clone())
}

/// The type of an array's items; none of what is no array.
pub(super) fn item_of(array: &Type) -> Option<Type> {
    ARRAYS.iter().find(|(_, many)| many == array).map(|(one, _)| one.clone())
}

/// The wire's type of a column.
pub(super) fn type_of(field: &Field) -> Type {
    if field.metadata().contains_key(OID) {
        return Type::OID;
    }
    if field.metadata().contains_key(CHAR) {
        return Type::CHAR;
    }
    match Logical::of(field) {
        Some(Logical::Jsonb) => return Type::JSONB,
        Some(Logical::Uuid) => return Type::UUID,
        Some(Logical::Varchar(_)) => return Type::VARCHAR,
        Some(Logical::Char(_)) => return Type::BPCHAR,
        Some(Logical::Numeric) | None => {}
    }
    match field.data_type() {
        DataType::Boolean => Type::BOOL,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => Type::INT2,
        DataType::Int32 | DataType::UInt16 => Type::INT4,
        DataType::Int64 | DataType::UInt32 => Type::INT8,
        DataType::UInt64
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => Type::NUMERIC,
        DataType::Float16 | DataType::Float32 => Type::FLOAT4,
        DataType::Float64 => Type::FLOAT8,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => Type::BYTEA,
        DataType::Date32 | DataType::Date64 => Type::DATE,
        DataType::Time32(_) | DataType::Time64(_) => Type::TIME,
        DataType::Timestamp(_, None) => Type::TIMESTAMP,
        DataType::Timestamp(_, Some(_)) => Type::TIMESTAMPTZ,
        DataType::Interval(_) | DataType::Duration(_) => Type::INTERVAL,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            match type_of(item) {
                nested if item_of(&nested).is_some() => nested,
                item => array_of(&item),
            }
        }
        DataType::Struct(_) => Type::RECORD,
        DataType::Dictionary(_, value) => type_of(&Field::new("", (**value).clone(), true)),
        _ => Type::TEXT,
    }
}

/// The wire's type of values of an Arrow type.
pub(super) fn of_data_type(data_type: &DataType) -> Type {
    type_of(&Field::new("", data_type.clone(), true))
}

/// The type modifier: precision and scale, or a length; -1 for none.
pub(super) fn modifier(field: &Field) -> i32 {
    // PostgreSQL counts the four bytes of a value's header in.
    const HEADER: i32 = 4;
    match (Logical::of(field), field.data_type()) {
        (Some(Logical::Varchar(n) | Logical::Char(n)), _) => {
            i32::try_from(n).map_or(-1, |n| n.saturating_add(HEADER))
        }
        (None, DataType::Decimal128(precision, scale)) => {
            ((i32::from(*precision) << 16) | i32::from(*scale)) + HEADER
        }
        _ => -1,
    }
}

/// The bytes of a value; -1 where they vary.
pub(super) fn length(data_type: &Type) -> i16 {
    match *data_type {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL | Type::UUID => 16,
        _ => -1,
    }
}

/// The description of a result's columns.
pub(super) fn described(schema: &SchemaRef, format: &Format) -> Vec<FieldInfo> {
    let column = |(at, field): (usize, &arrow::datatypes::FieldRef)| {
        let data_type = type_of(field);
        let size = length(&data_type);
        FieldInfo::new(field.name().clone(), None, None, data_type, format.format_for(at))
            .with_type_size(size)
            .with_type_modifier(modifier(field))
    };
    schema.fields().iter().enumerate().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(item: DataType) -> DataType {
        DataType::new_list(item, true)
    }

    #[test]
    fn types_are_those_of_postgresql() {
        let of = |t: DataType| of_data_type(&t);
        assert_eq!(of(DataType::Decimal128(10, 2)), Type::NUMERIC);
        assert_eq!(of(list(DataType::Int32)), Type::INT4_ARRAY);
        assert_eq!(of(list(list(DataType::Int32))), Type::INT4_ARRAY);
        assert_eq!(of(DataType::Null), Type::TEXT);
        assert_eq!(of(list(DataType::Null)), Type::TEXT_ARRAY);
        let jsonb = Logical::Jsonb.field("j", true);
        assert_eq!(type_of(&jsonb), Type::JSONB);
        let many = Field::new("js", DataType::List(std::sync::Arc::new(jsonb)), true);
        assert_eq!(type_of(&many), Type::JSONB_ARRAY);
    }

    #[test]
    fn lengths_and_scales_are_modifiers() {
        let numeric = Field::new("n", DataType::Decimal128(10, 2), true);
        assert_eq!(modifier(&numeric), ((10 << 16) | 2) + 4);
        assert_eq!(modifier(&Logical::Numeric.field("n", true)), -1);
        assert_eq!(modifier(&Logical::Varchar(20).field("v", true)), 24);
    }
}
