//! Values as PostgreSQL prints them, in its ISO styles.

use super::calendar::{DAY_US, civil_from_days, split_days};
use super::value::{Number, Span, Value, read};
use arrow::array::Array;
use arrow::datatypes::Field;
use datafusion::common::Result;
use std::fmt::Write;

/// One value of a column as PostgreSQL prints it; None for NULL.
///
/// # Errors
/// The column has a type that SQL does not have.
pub fn sql_text(array: &dyn Array, field: &Field, row: usize) -> Result<Option<String>> {
    Ok(match read(array, field, row)? {
        Value::Null => None,
        value => Some(value.text()),
    })
}

impl Value {
    /// The value as text; NULL is empty.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Bool(value) => if *value { "t" } else { "f" }.to_owned(),
            Value::Int(value) => value.to_string(),
            Value::Real(value) => float_text(f64::from(*value), &format!("{value:e}"), 6),
            Value::Float(value) => float_text(*value, &format!("{value:e}"), 15),
            Value::Number(value) => value.text(),
            Value::Text(value) | Value::Json(value) => value.clone(),
            Value::Bytes(value) => hex(value),
            Value::Date(days) => date_text(*days),
            Value::Time(micros) => time_text(*micros),
            Value::Stamp(micros) => stamp_text(*micros, ""),
            Value::Stamptz(micros) => stamp_text(*micros, "+00"),
            Value::Span(span) => span_text(*span),
            Value::List(items) => list_text(items),
            Value::Record(fields) => record_text(fields),
        }
    }

    /// As `::text` gives it: booleans are words there.
    pub(super) fn cast_text(&self) -> String {
        match self {
            Value::Bool(value) => value.to_string(),
            other => other.text(),
        }
    }
}

/// Shortest digits, in scientific form from `10^digits` on and below `10^-4`.
fn float_text(value: f64, scientific: &str, digits: i32) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    if (-4..digits).contains(&exponent) {
        let sign = if mantissa.starts_with('-') { "-" } else { "" };
        let plain: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        let whole = exponent + 1;
        return if whole <= 0 {
            format!("{sign}0.{}{plain}", "0".repeat(whole.unsigned_abs() as usize))
        } else if plain.len() <= whole as usize {
            format!("{sign}{plain}{}", "0".repeat(whole as usize - plain.len()))
        } else {
            let (whole, fraction) = plain.split_at(whole as usize);
            format!("{sign}{whole}.{fraction}")
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// `\x` and the bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    text.push_str(&plain_hex(bytes));
    text
}

pub(super) fn plain_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn year_and_era(year: i64) -> (String, &'static str) {
    if year > 0 { (format!("{year:04}"), "") } else { (format!("{:04}", 1 - year), " BC") }
}

pub(super) fn date_text(days: i32) -> String {
    match days {
        i32::MAX => return "infinity".to_owned(),
        i32::MIN => return "-infinity".to_owned(),
        _ => {}
    }
    let (year, month, day) = civil_from_days(i64::from(days));
    let (year, era) = year_and_era(year);
    format!("{year}-{month:02}-{day:02}{era}")
}

fn fraction(micros: i64) -> String {
    if micros == 0 {
        return String::new();
    }
    format!(".{}", format!("{micros:06}").trim_end_matches('0'))
}

pub(super) fn time_text(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}{}", fraction(micros % 1_000_000))
}

fn stamp_text(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => return "infinity".to_owned(),
        i64::MIN => return "-infinity".to_owned(),
        _ => {}
    }
    let (days, rest) = split_days(micros);
    let (year, month, day) = civil_from_days(days);
    let (year, era) = year_and_era(year);
    debug_assert!((0..DAY_US).contains(&rest));
    format!("{year}-{month:02}-{day:02} {}{zone}{era}", time_text(rest))
}

fn span_text(span: Span) -> String {
    let mut text = String::new();
    let (years, months) = (span.months / 12, span.months % 12);
    let mut before_negative = false;
    let mut part = |amount: i64, unit: &str| {
        if amount == 0 {
            return;
        }
        let space = if text.is_empty() { "" } else { " " };
        let sign = if before_negative && amount > 0 { "+" } else { "" };
        let plural = if amount == 1 { "" } else { "s" };
        let _ = write!(text, "{space}{sign}{amount} {unit}{plural}");
        before_negative = amount < 0;
    };
    part(i64::from(years), "year");
    part(i64::from(months), "mon");
    part(i64::from(span.days), "day");
    if span.micros != 0 || text.is_empty() {
        let space = if text.is_empty() { "" } else { " " };
        let sign = match span.micros {
            ..0 => "-",
            _ if before_negative => "+",
            _ => "",
        };
        let micros = span.micros.unsigned_abs();
        let seconds = micros / 1_000_000;
        let _ = write!(
            text,
            "{space}{sign}{:02}:{:02}:{:02}{}",
            seconds / 3_600,
            seconds / 60 % 60,
            seconds % 60,
            fraction((micros % 1_000_000) as i64)
        );
    }
    text
}

fn list_text(items: &[Value]) -> String {
    let mut text = String::from("{");
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        match item {
            Value::Null => text.push_str("NULL"),
            Value::List(inner) => text.push_str(&list_text(inner)),
            other => {
                let plain = other.text();
                let special =
                    |c: char| c.is_ascii_whitespace() || matches!(c, ',' | '{' | '}' | '"' | '\\');
                if plain.is_empty() || plain.eq_ignore_ascii_case("null") || plain.contains(special)
                {
                    let escaped = plain.replace('\\', "\\\\").replace('"', "\\\"");
                    let _ = write!(text, "\"{escaped}\"");
                } else {
                    text.push_str(&plain);
                }
            }
        }
    }
    text.push('}');
    text
}

fn record_text(fields: &[(String, Value)]) -> String {
    let mut text = String::from("(");
    for (at, (_, value)) in fields.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        if *value == Value::Null {
            continue;
        }
        let plain = value.text();
        let special =
            |c: char| c.is_ascii_whitespace() || matches!(c, ',' | '(' | ')' | '"' | '\\');
        if plain.is_empty() || plain.contains(special) {
            let escaped = plain.replace('\\', "\\\\").replace('"', "\"\"");
            let _ = write!(text, "\"{escaped}\"");
        } else {
            text.push_str(&plain);
        }
    }
    text.push(')');
    text
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}
