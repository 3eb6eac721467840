//! Parameters of the extended protocol, written into the statement as literals of their types, from
//! text or binary format. A value that does not read as its type is refused with 22P02; a type that
//! has no literal here is refused by name.

use super::sqlstate;
use crate::statements::{parameters, substitute};
use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta};
use kaplan_platform::{Code, Error};
use kaplan_sql::dialect::PointValue;
use pgwire::api::Type;
use pgwire::api::portal::Portal;
use pgwire::error::PgWireResult;

/// The statement with its values in it.
pub(super) fn bound<S: Clone>(
    sql: &str,
    types: &[Type],
    portal: &Portal<S>,
) -> PgWireResult<String> {
    if parameters(sql) != portal.parameter_len() {
        let (has, needs) = (portal.parameter_len(), parameters(sql));
        let what =
            format!("bind message supplies {has} parameters, but the statement takes {needs}");
        return Err(sqlstate::user("08P01", what));
    }
    substitute(sql, |number| {
        let at = number.wrapping_sub(1);
        let data_type = types.get(at).cloned().unwrap_or(Type::TEXT);
        let Some(Some(bytes)) = portal.parameters.get(at) else { return Ok("NULL".to_owned()) };
        let literal = match portal.parameter_format.is_binary(at) {
            true => binary(&data_type, bytes),
            false => match std::str::from_utf8(bytes) {
                Ok(text) => literal(&data_type, text),
                Err(_) => Err(wrong(&data_type, "bytes that are not UTF-8")),
            },
        };
        literal.map_err(|error| {
            sqlstate::error(Error {
                message: format!("parameter ${number}: {}", error.message),
                ..error
            })
        })
    })
}

/// A parameter's value where it has a literal of the same meaning without a cast: whole numbers,
/// texts and truth values. NULL, and what does not read as its type, has none.
pub(super) fn plain<S: Clone>(
    portal: &Portal<S>,
    types: &[Type],
    number: usize,
) -> Option<PointValue> {
    let at = number.checked_sub(1)?;
    let (data_type, bytes) = (types.get(at)?, portal.parameters.get(at)?.as_ref()?);
    let binary = portal.parameter_format.is_binary(at);
    match *data_type {
        Type::INT2 if binary => whole(i16::from_be_bytes(bytes.as_ref().try_into().ok()?)),
        Type::INT4 if binary => whole(i32::from_be_bytes(bytes.as_ref().try_into().ok()?)),
        Type::INT8 if binary => whole(i64::from_be_bytes(bytes.as_ref().try_into().ok()?)),
        Type::INT8 => std::str::from_utf8(bytes).ok()?.parse().ok().and_then(whole::<i64>),
        Type::TEXT | Type::VARCHAR => {
            Some(PointValue::Text(std::str::from_utf8(bytes).ok()?.to_owned()))
        }
        Type::BOOL if binary => match bytes.as_ref() {
            [0] => Some(PointValue::Boolean(false)),
            [1] => Some(PointValue::Boolean(true)),
            _ => None,
        },
        _ => None,
    }
}

fn whole<N: Into<i64>>(number: N) -> Option<PointValue> {
    Some(PointValue::Integer(number.into()))
}

/// The statement with NULL for each parameter, of its type where the client said one: for looking
/// at the columns.
pub(super) fn typed_nulls(statement: &str, given: &[Option<Type>]) -> String {
    let null = |number: usize| {
        let given = given.get(number.wrapping_sub(1)).cloned().flatten();
        Ok(match given.map(|t| t.name().to_owned()).as_deref() {
            Some(name @ ("bool" | "int2" | "int4" | "int8" | "float4" | "float8" | "date")) => {
                format!("CAST(NULL AS {name})")
            }
            _ => "NULL".to_owned(),
        })
    };
    match substitute::<std::convert::Infallible>(statement, null) {
        Ok(text) => text,
        Err(never) => match never {},
    }
}

/// The types of the parameters: what the client said, else what the statement says, else text.
pub(super) fn types(statement: &str, given: &[Option<Type>], known: &[Option<Type>]) -> Vec<Type> {
    let of = |at: usize| {
        let given = given.get(at).cloned().flatten().filter(|t| *t != Type::UNKNOWN);
        given.or_else(|| known.get(at).cloned().flatten()).unwrap_or(Type::TEXT)
    };
    (0..parameters(statement)).map(of).collect()
}

fn wrong(data_type: &Type, value: &str) -> Error {
    let message = format!("invalid input syntax for type {}: \"{value}\"", data_type.name());
    Error::new(Code::InvalidValue, message)
}

fn refused(data_type: &Type) -> Error {
    let what = format!("type {} is not supported", data_type.name());
    Error::new(Code::Unsupported, what).hint("cast the parameter in the statement: $1::text")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A negative number in brackets, so that `- $1` does not begin a comment.
fn number(text: &str) -> String {
    if text.starts_with('-') { format!("({text})") } else { text.to_owned() }
}

fn float(value: f64) -> String {
    match value.is_finite() {
        true => number(&format!("{value:e}")),
        false => format!("CAST('{value}' AS DOUBLE PRECISION)"),
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_lowercase().as_str() {
        "t" | "true" | "on" | "yes" | "y" | "1" => Some(true),
        "f" | "false" | "off" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// `CAST('12.50' AS NUMERIC(4, 2))`, or a double for what numeric cannot hold.
fn numeric(text: &str) -> Option<String> {
    let text = text.trim();
    if let Ok(value) = text.parse::<f64>()
        && !value.is_finite()
    {
        return Some(float(value));
    }
    let digits = text.trim_start_matches(['-', '+']);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + part.len() == 0 {
        return None;
    }
    if !plain(whole) || !plain(part) {
        return text.parse::<f64>().ok().map(float);
    }
    let precision = (whole.len() + part.len()).max(1);
    match precision <= 38 {
        true => Some(format!("CAST('{text}' AS NUMERIC({precision}, {}))", part.len())),
        false => text.parse::<f64>().ok().map(float),
    }
}

/// The literal of a value in text format.
fn literal(data_type: &Type, text: &str) -> Result<String, Error> {
    let bad = || wrong(data_type, text);
    Ok(match *data_type {
        Type::BOOL => boolean(text).ok_or_else(bad)?.to_string(),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => {
            let value: i64 = text.trim().parse().map_err(|_| bad())?;
            let fits = match *data_type {
                Type::INT2 => i16::try_from(value).is_ok(),
                Type::INT4 => i32::try_from(value).is_ok(),
                Type::OID => u32::try_from(value).is_ok(),
                _ => true,
            };
            if !fits {
                return Err(bad());
            }
            number(&value.to_string())
        }
        Type::FLOAT4 | Type::FLOAT8 => float(text.trim().parse().map_err(|_| bad())?),
        Type::NUMERIC => numeric(text).ok_or_else(bad)?,
        Type::DATE => format!("CAST({} AS DATE)", quoted(text)),
        Type::TIME => format!("CAST({} AS TIME)", quoted(text)),
        Type::TIMESTAMP => format!("CAST({} AS TIMESTAMP(6))", quoted(text)),
        Type::TIMESTAMPTZ => format!("CAST({} AS TIMESTAMP(6) WITH TIME ZONE)", quoted(text)),
        Type::INTERVAL => format!("INTERVAL {}", quoted(text)),
        Type::JSON | Type::JSONB => format!("CAST({} AS JSONB)", quoted(text)),
        Type::UUID => format!("CAST({} AS UUID)", quoted(text)),
        Type::BYTEA => match text.strip_prefix("\\x") {
            Some(hex) if hex.len() % 2 == 0 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                format!("X'{hex}'")
            }
            Some(_) => return Err(bad()),
            None => hex(text.as_bytes()),
        },
        _ => match item(data_type) {
            Some(item) => array_of(&item, elements(text).ok_or_else(bad)?)?,
            None if is_text(data_type) => quoted(text),
            None => return Err(refused(data_type)),
        },
    })
}

/// The type of an array's elements.
fn item(data_type: &Type) -> Option<Type> {
    Some(match *data_type {
        Type::BOOL_ARRAY => Type::BOOL,
        Type::INT2_ARRAY => Type::INT2,
        Type::INT4_ARRAY => Type::INT4,
        Type::INT8_ARRAY => Type::INT8,
        Type::OID_ARRAY => Type::OID,
        Type::FLOAT4_ARRAY => Type::FLOAT4,
        Type::FLOAT8_ARRAY => Type::FLOAT8,
        Type::NUMERIC_ARRAY => Type::NUMERIC,
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::NAME_ARRAY => Type::TEXT,
        Type::DATE_ARRAY => Type::DATE,
        Type::TIMESTAMP_ARRAY => Type::TIMESTAMP,
        Type::TIMESTAMPTZ_ARRAY => Type::TIMESTAMPTZ,
        Type::UUID_ARRAY => Type::UUID,
        _ => return None,
    })
}

fn is_text(data_type: &Type) -> bool {
    const TEXTS: [Type; 11] = [
        Type::TEXT,
        Type::VARCHAR,
        Type::BPCHAR,
        Type::NAME,
        Type::UNKNOWN,
        Type::CHAR,
        Type::UUID,
        Type::JSON,
        Type::JSONB,
        Type::REGCLASS,
        Type::REGTYPE,
    ];
    TEXTS.contains(data_type)
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("X'{digits}'")
}

fn array_of(item: &Type, values: Vec<Option<String>>) -> Result<String, Error> {
    let literals = values.into_iter().map(|value| match value {
        Some(text) => literal(item, &text),
        None => Ok("NULL".to_owned()),
    });
    Ok(format!("ARRAY[{}]", literals.collect::<Result<Vec<_>, _>>()?.join(", ")))
}

/// The elements of `{a,"b c",NULL}`; none when it is not a flat array.
pub(super) fn elements(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut values = Vec::new();
    let mut characters = inner.chars().peekable();
    if inner.trim().is_empty() {
        return Some(values);
    }
    loop {
        let (mut value, mut was_quoted, mut open) = (String::new(), false, false);
        let mut more = false;
        while let Some(c) = characters.next() {
            match c {
                '"' => (open, was_quoted) = (!open, true),
                '\\' => value.push(characters.next()?),
                ',' if !open => {
                    more = true;
                    break;
                }
                '{' | '}' if !open => return None,
                other => value.push(other),
            }
        }
        if open {
            return None;
        }
        let null = !was_quoted && value.trim().eq_ignore_ascii_case("null");
        let value = if was_quoted { value } else { value.trim().to_owned() };
        values.push((!null).then_some(value));
        if !more {
            return Some(values);
        }
    }
}

/// The literal of a value in binary format.
fn binary(data_type: &Type, bytes: &[u8]) -> Result<String, Error> {
    match item(data_type) {
        Some(item) => {
            let bad = || Err(wrong(data_type, &format!("{} bytes", bytes.len())));
            array(&item, bytes).unwrap_or_else(bad)
        }
        None => literal(data_type, &text_of(data_type, bytes)?),
    }
}

/// The text form of a value in binary format.
pub(super) fn text_of(data_type: &Type, bytes: &[u8]) -> Result<String, Error> {
    let bad = || wrong(data_type, &format!("{} bytes", bytes.len()));
    let number = |size: usize| int(bytes, size).ok_or_else(bad);
    Ok(match *data_type {
        Type::UUID => uuid(bytes).ok_or_else(bad)?,
        Type::JSONB => utf8(bytes.get(1..).ok_or_else(bad)?).ok_or_else(bad)?.to_owned(),
        _ if is_text(data_type) => utf8(bytes).ok_or_else(bad)?.to_owned(),
        Type::BYTEA => {
            let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            format!("\\x{digits}")
        }
        Type::BOOL => (number(1)? != 0).to_string(),
        Type::INT2 => number(2)?.to_string(),
        Type::INT4 => number(4)?.to_string(),
        Type::INT8 => number(8)?.to_string(),
        Type::OID => u32::from_be_bytes(bytes.try_into().map_err(|_| bad())?).to_string(),
        Type::FLOAT4 => f32::from_be_bytes(bytes.try_into().map_err(|_| bad())?).to_string(),
        Type::FLOAT8 => f64::from_be_bytes(bytes.try_into().map_err(|_| bad())?).to_string(),
        Type::NUMERIC => binary_numeric(bytes).ok_or_else(bad)?,
        Type::DATE => date(number(4)?).ok_or_else(bad)?.to_string(),
        Type::TIME => (NaiveTime::MIN + TimeDelta::microseconds(number(8)?)).to_string(),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let micros = number(8)?.checked_add(EPOCH_US).ok_or_else(bad)?;
            let instant = DateTime::from_timestamp_micros(micros).ok_or_else(bad)?;
            match *data_type {
                Type::TIMESTAMP => instant.naive_utc().to_string(),
                _ => instant.to_rfc3339(),
            }
        }
        Type::INTERVAL => {
            let micros = int(bytes.get(..8).ok_or_else(bad)?, 8).ok_or_else(bad)?;
            let days = int(bytes.get(8..12).ok_or_else(bad)?, 4).ok_or_else(bad)?;
            let months = int(bytes.get(12..).ok_or_else(bad)?, 4).ok_or_else(bad)?;
            format!("{months} months {days} days {micros} microseconds")
        }
        _ => return Err(refused(data_type)),
    })
}

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const EPOCH_US: i64 = 946_684_800_000_000;

fn date(days: i64) -> Option<NaiveDate> {
    let epoch = NaiveDate::from_ymd_opt(2000, 1, 1)?;
    match days < 0 {
        true => epoch.checked_sub_days(Days::new(days.unsigned_abs())),
        false => epoch.checked_add_days(Days::new(days.unsigned_abs())),
    }
}

fn utf8(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn uuid(bytes: &[u8]) -> Option<String> {
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let (a, b, c, d, e) =
        (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
    Some(format!("{a}-{b}-{c}-{d}-{e}"))
}

/// A big-endian signed integer of exactly this many bytes.
fn int(bytes: &[u8], size: usize) -> Option<i64> {
    if bytes.len() != size {
        return None;
    }
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    let start = if negative { -1 } else { 0 };
    Some(bytes.iter().fold(start, |value: i64, byte| (value << 8) | i64::from(*byte)))
}

/// Groups of four decimal digits, the first one worth 10000^weight.
fn binary_numeric(bytes: &[u8]) -> Option<String> {
    let part = |at: usize| int(bytes.get(at * 2..at * 2 + 2)?, 2);
    let (count, weight, scale) = (usize::try_from(part(0)?).ok()?, part(1)?, part(3)?);
    let sign = match u16::from_be_bytes(bytes.get(4..6)?.try_into().ok()?) {
        0 => "",
        0x4000 => "-",
        0xC000 => return Some("NaN".to_owned()),
        0xD000 => return Some("Infinity".to_owned()),
        _ => return Some("-Infinity".to_owned()),
    };
    let scale = usize::try_from(scale).ok()?;
    let group = |index: i64| -> Option<i64> {
        match usize::try_from(index) {
            Ok(index) if index < count => part(4 + index),
            _ => Some(0),
        }
    };
    let mut text = String::from(sign);
    for index in 0..=weight.max(0) {
        let digits = if weight < 0 { 0 } else { group(index)? };
        text.push_str(&if index == 0 { digits.to_string() } else { format!("{digits:04}") });
    }
    if scale > 0 {
        let mut part = String::new();
        let mut index = weight + 1;
        while part.len() < scale {
            // Groups before the first one are zeros.
            part.push_str(&format!("{:04}", group(index)?));
            index += 1;
        }
        text.push('.');
        text.push_str(&part[..scale]);
    }
    Some(text)
}

/// A one-dimensional array: dimensions, flags, type, length, lower bound, then the values.
fn array(item: &Type, bytes: &[u8]) -> Option<Result<String, Error>> {
    let dimensions = int(bytes.get(..4)?, 4)?;
    if dimensions == 0 {
        return Some(Ok("ARRAY[]".to_owned()));
    }
    if dimensions != 1 {
        return None;
    }
    let length = usize::try_from(int(bytes.get(12..16)?, 4)?).ok()?;
    let (mut at, mut literals) = (20, Vec::new());
    for _ in 0..length {
        let size = int(bytes.get(at..at + 4)?, 4)?;
        at += 4;
        let Ok(size) = usize::try_from(size) else {
            literals.push("NULL".to_owned());
            continue;
        };
        match binary(item, bytes.get(at..at.checked_add(size)?)?) {
            Ok(text) => literals.push(text),
            Err(error) => return Some(Err(error)),
        }
        at += size;
    }
    Some(Ok(format!("ARRAY[{}]", literals.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_leave_their_quotes() {
        assert_eq!(literal(&Type::TEXT, "a'; drop table t --").unwrap(), "'a''; drop table t --'");
        assert_eq!(literal(&Type::INT4, " -7 ").unwrap(), "(-7)");
        assert!(literal(&Type::INT8, "1); drop table t").is_err());
        assert!(literal(&Type::INT2, "40000").is_err());
        assert_eq!(literal(&Type::FLOAT8, "NaN").unwrap(), "CAST('NaN' AS DOUBLE PRECISION)");
        assert_eq!(literal(&Type::NUMERIC, "-1.50").unwrap(), "CAST('-1.50' AS NUMERIC(3, 2))");
        assert_eq!(literal(&Type::BYTEA, "\\x0aff").unwrap(), "X'0aff'");
        assert!(literal(&Type::BYTEA, "\\x0'").is_err());
        assert!(literal(&Type::POINT, "(1,2)").is_err());
    }

    #[test]
    fn binary_values_have_their_text() {
        assert_eq!(binary(&Type::INT4, &[255, 255, 255, 254]).unwrap(), "(-2)");
        let stamp = 1_i64.to_be_bytes();
        let expected = "CAST('2000-01-01 00:00:00.000001' AS TIMESTAMP(6))";
        assert_eq!(binary(&Type::TIMESTAMP, &stamp).unwrap(), expected);
        let day = binary(&Type::DATE, &(-1_i32).to_be_bytes()).unwrap();
        assert_eq!(day, "CAST('1999-12-31' AS DATE)");
        // 12345.678 is 1 | 2345 . 6780, and 0.00012 is . 0001 2000
        let digits = |parts: &[i16]| parts.iter().flat_map(|p| p.to_be_bytes()).collect::<Vec<_>>();
        assert_eq!(binary_numeric(&digits(&[3, 1, 0, 3, 1, 2345, 6780])).unwrap(), "12345.678");
        assert_eq!(binary_numeric(&digits(&[2, -1, 0x4000, 5, 1, 2000])).unwrap(), "-0.00012");
        assert_eq!(binary_numeric(&digits(&[1, -2, 0, 8, 12])).unwrap(), "0.00000012");
        assert_eq!(binary_numeric(&digits(&[1, 1, 0, 0, 3])).unwrap(), "30000");
        assert!(binary(&Type::INT8, &[1]).is_err());
    }

    #[test]
    fn arrays_are_read_in_both_formats() {
        let read = literal(&Type::TEXT_ARRAY, "{a,\"b,\\\"c\",NULL,\"null\"}").unwrap();
        assert_eq!(read, "ARRAY['a', 'b,\"c', NULL, 'null']");
        assert_eq!(literal(&Type::INT4_ARRAY, "{1,-2}").unwrap(), "ARRAY[1, (-2)]");
        assert!(literal(&Type::INT4_ARRAY, "{{1},{2}}").is_err());
        let mut bytes = Vec::new();
        for word in [1_i32, 0, 23, 2, 1, 4, 7, -1] {
            bytes.extend(word.to_be_bytes());
        }
        assert_eq!(binary(&Type::INT4_ARRAY, &bytes).unwrap(), "ARRAY[7, NULL]");
        assert!(binary(&Type::INT4_ARRAY, &bytes[..22]).is_err());
    }

    #[test]
    fn parameters_have_the_given_types() {
        let given = [None, Some(Type::INT4)];
        let known = [Some(Type::BOOL), Some(Type::INT8)];
        let types = types("select $1, $2, $3", &given, &known);
        assert_eq!(types, [Type::BOOL, Type::INT4, Type::TEXT]);
        assert_eq!(typed_nulls("select $1, $2", &given), "select NULL, CAST(NULL AS int4)");
    }
}
