//! Text to values, as PostgreSQL's input functions read them. Days of months, hours and zones are
//! checked; `infinity` is no date or timestamp here.

use super::calendar::{DAY_US, Zone, checked_date, join_days, time_of};
use super::json::Json;
use super::logical::Logical;
use super::spans::span_of;
use super::value::{Number, Value};
use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::{DataFusionError, Result, exec_datafusion_err, exec_err};

/// The value of a type that a text stands for.
///
/// # Errors
/// The text is of another form, or out of the type's range.
pub fn parse(text: &str, field: &Field) -> Result<Value> {
    let trimmed = text.trim();
    Ok(match field.data_type() {
        DataType::Boolean => Value::Bool(boolean(trimmed).ok_or_else(|| invalid("boolean", text))?),
        DataType::Int8 | DataType::Int16 => integer(text, "smallint", i64::from(i16::MAX))?,
        DataType::Int32 => integer(text, "integer", i64::from(i32::MAX))?,
        DataType::Int64 => integer(text, "bigint", i64::MAX)?,
        DataType::Float32 => {
            let value: f32 = float(trimmed).ok_or_else(|| invalid("real", text))?;
            Value::Real(value)
        }
        DataType::Float64 => {
            Value::Float(float(trimmed).ok_or_else(|| invalid("double precision", text))?)
        }
        DataType::Decimal128(precision, scale) => {
            let number = Number::parse(trimmed).ok_or_else(|| invalid("numeric", text))?;
            Value::Number(number.fit(*precision, *scale)?)
        }
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => of_text(text, field)?,
        DataType::Binary => Value::Bytes(bytes(text)?),
        DataType::Date32 => Value::Date(date(trimmed)?),
        DataType::Time64(_) => Value::Time(time(trimmed)?),
        DataType::Timestamp(TimeUnit::Microsecond, None) => Value::Stamp(stamp(trimmed)?.0),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            let (local, zone) = stamp(trimmed)?;
            Value::Stamptz(match zone {
                Some(zone) => zone.instant(local)?,
                None => local,
            })
        }
        DataType::Interval(_) => Value::Span(span_of(trimmed)?),
        DataType::List(item) => list(trimmed, item)?,
        DataType::Struct(fields) => record(trimmed, fields)?,
        other => return exec_err!("text cannot be read as {other}"),
    })
}

pub(super) fn invalid(what: &str, text: &str) -> DataFusionError {
    exec_datafusion_err!("invalid input syntax for type {what}: \"{text}\"")
}

fn of_text(text: &str, field: &Field) -> Result<Value> {
    Ok(match Logical::of(field) {
        Some(Logical::Jsonb) => Value::Json(Json::parse(text)?.to_string()),
        Some(Logical::Uuid) => Value::Text(uuid(text).ok_or_else(|| invalid("uuid", text))?),
        Some(Logical::Varchar(n)) => Value::Text(text.chars().take(n as usize).collect()),
        Some(Logical::Char(n)) => {
            let cut: String = text.chars().take(n as usize).collect();
            Value::Text(cut.trim_end_matches(' ').to_owned())
        }
        _ => Value::Text(text.to_owned()),
    })
}

fn boolean(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let begins = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if begins("true", 1) || begins("yes", 1) || text == "on" || text == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == "0" {
        Some(false)
    } else {
        None
    }
}

fn integer(text: &str, name: &str, max: i64) -> Result<Value> {
    let digits = text.trim();
    let value: i128 = digits.parse().map_err(|_| invalid(name, text))?;
    if value > i128::from(max) || value < -i128::from(max) - 1 {
        return exec_err!("value \"{digits}\" is out of range for type {name}");
    }
    Ok(Value::Int(value as i64))
}

fn float<T: std::str::FromStr>(text: &str) -> Option<T> {
    let known = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let lower = text.to_ascii_lowercase();
    let word = lower.trim_start_matches(['+', '-']);
    let named = matches!(word, "nan" | "infinity" | "inf");
    (known || named).then(|| text.parse().ok()).flatten()
}

/// The canonical form of a UUID in any form that PostgreSQL takes.
pub(super) fn uuid(text: &str) -> Option<String> {
    let text = text.trim();
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let digits: String = inner.chars().filter(|c| *c != '-').collect();
    let plain = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let mut run = 0;
    for c in inner.chars() {
        if c == '-' && (run == 0 || run % 4 != 0) {
            return None;
        }
        run += usize::from(c != '-');
    }
    if !plain || inner.ends_with('-') {
        return None;
    }
    let d = digits.to_ascii_lowercase();
    Some(format!("{}-{}-{}-{}-{}", &d[..8], &d[8..12], &d[12..16], &d[16..20], &d[20..]))
}

/// `\x0aff`, or plain text with `\\` and `\ooo`.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("\\x") {
        return unhex(digits).ok_or_else(|| invalid("bytea", text));
    }
    unescape(text)
}

pub(super) fn unescape(text: &str) -> Result<Vec<u8>> {
    let (source, mut bytes) = (text.as_bytes(), Vec::with_capacity(text.len()));
    let mut at = 0;
    while at < source.len() {
        if source[at] != b'\\' {
            bytes.push(source[at]);
            at += 1;
        } else if source.get(at + 1) == Some(&b'\\') {
            bytes.push(b'\\');
            at += 2;
        } else {
            let octal = text.get(at + 1..at + 4).and_then(|o| u8::from_str_radix(o, 8).ok());
            bytes.push(octal.ok_or_else(|| invalid("bytea", text))?);
            at += 4;
        }
    }
    Ok(bytes)
}

pub(super) fn unhex(digits: &str) -> Option<Vec<u8>> {
    let plain: Vec<u8> = digits.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    plain
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

fn out_of_range(text: &str) -> DataFusionError {
    exec_datafusion_err!("date/time field value out of range: \"{text}\"")
}

/// Days since 1970 of `2024-01-31`, `20240131`, `2024/01/31`, `Jan 31, 2024`, `31 Jan 2024`.
pub(super) fn date(text: &str) -> Result<i32> {
    // A time after the date is read and left out.
    let days = match stamp(text) {
        Ok((micros, _)) => micros.div_euclid(DAY_US),
        Err(_) => day_of(text)?,
    };
    i32::try_from(days).map_err(|_| out_of_range(text))
}

fn day_of(text: &str) -> Result<i64> {
    let (text, bc) = match text.strip_suffix(" BC") {
        Some(rest) => (rest.trim(), true),
        None => (text, false),
    };
    let wrong = || invalid("date", text);
    let parts: Vec<&str> =
        text.split(['-', '/', '.', ' ', ',']).filter(|part| !part.is_empty()).collect();
    let number = |s: &str| -> Result<i64> {
        let plain = !s.is_empty() && s.len() <= 6 && s.bytes().all(|b| b.is_ascii_digit());
        if plain { s.parse().map_err(|_| wrong()) } else { Err(wrong()) }
    };
    let (year, month, day) = match parts.as_slice() {
        [one] if one.len() == 8 && one.bytes().all(|b| b.is_ascii_digit()) => {
            (number(&one[..4])?, number(&one[4..6])?, number(&one[6..])?)
        }
        [month, day, year] if month_of(month).is_some() => {
            (number(year)?, month_of(month).unwrap_or(0), number(day)?)
        }
        [a, month, b] if month_of(month).is_some() => {
            let month = month_of(month).unwrap_or(0);
            if a.len() > 2 {
                (number(a)?, month, number(b)?)
            } else {
                (number(b)?, month, number(a)?)
            }
        }
        [year, month, day] if year.len() >= 3 => (number(year)?, number(month)?, number(day)?),
        // The order of PostgreSQL's default DateStyle, MDY.
        [month, day, year] if year.len() >= 3 => (number(year)?, number(month)?, number(day)?),
        _ => return Err(wrong()),
    };
    let year = if bc { 1 - year } else { year };
    checked_date(year, month as u32, day as u32).ok_or_else(|| out_of_range(text))
}

/// The month whose name begins so.
pub(super) fn month_of(name: &str) -> Option<i64> {
    let lower = name.to_ascii_lowercase();
    if lower.len() < 3 {
        return None;
    }
    let at = super::patterns::MONTHS
        .iter()
        .position(|month| month.to_ascii_lowercase().starts_with(&lower))?;
    i64::try_from(at).ok().map(|at| at + 1)
}

/// Microseconds since midnight.
pub(super) fn time(text: &str) -> Result<i64> {
    match clock(text) {
        Ok((micros, _)) => Ok(micros),
        // A timestamp has a time as well.
        Err(error) => match stamp(text) {
            Ok((micros, _)) if text.contains(':') => Ok(micros.rem_euclid(DAY_US)),
            _ => Err(error),
        },
    }
}

/// A time of day and the zone after it.
fn clock(text: &str) -> Result<(i64, Option<Zone>)> {
    let wrong = || invalid("time", text);
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(text.len());
    let (digits, mut rest) = (&text[..end], text[end..].trim());
    let mut afternoon = None;
    for (word, pm) in [("AM", false), ("PM", true)] {
        if rest.get(..2).is_some_and(|r| r.eq_ignore_ascii_case(word)) {
            (afternoon, rest) = (Some(pm), rest[2..].trim());
        }
    }
    let zone = match rest {
        "" => None,
        name => Some(Zone::parse(name).ok_or_else(wrong)?),
    };
    let parts: Vec<&str> = digits.split(':').collect();
    let number = |s: &str| s.parse::<i64>().map_err(|_| wrong());
    let (mut hour, minute, seconds) = match parts.as_slice() {
        [one] if one.len() == 6 && afternoon.is_none() => {
            (number(&one[..2])?, number(&one[2..4])?, number(&one[4..])? * 1_000_000)
        }
        [hour] if afternoon.is_some() => (number(hour)?, 0, 0),
        [hour, minute] => (number(hour)?, number(minute)?, 0),
        [hour, minute, seconds] => {
            (number(hour)?, number(minute)?, micros_of(seconds).ok_or_else(wrong)?)
        }
        _ => return Err(wrong()),
    };
    if let Some(pm) = afternoon {
        if !(1..=12).contains(&hour) {
            return Err(out_of_range(text));
        }
        hour = hour % 12 + if pm { 12 } else { 0 };
    }
    let micros = time_of(hour, minute, seconds).map_err(|_| out_of_range(text))?;
    Ok((micros, zone))
}

/// `12.345678` seconds in microseconds.
pub(super) fn micros_of(seconds: &str) -> Option<i64> {
    let number = Number::parse(seconds)?.round(6).ok()?;
    i64::try_from(number.digits).ok()
}

/// A timestamp as clocks show it, and the zone that the text names.
pub(super) fn stamp(text: &str) -> Result<(i64, Option<Zone>)> {
    let wrong = || invalid("timestamp", text);
    let bytes = text.as_bytes();
    // The time begins at the last blank or T before the first colon.
    let Some(colon) = text.find(':') else {
        // `2024-01-31T12` and zones after a bare date do not occur.
        return Ok((join_days(day_of(text)?, 0)?, None));
    };
    let start = bytes[..colon].iter().rposition(|b| matches!(b, b' ' | b'T' | b't'));
    let start = start.ok_or_else(wrong)?;
    let (day, rest) = (text[..start].trim(), text[start + 1..].trim());
    let (rest, bc) = match rest.strip_suffix(" BC") {
        Some(rest) => (rest, " BC"),
        None => (rest, ""),
    };
    let days = day_of(&format!("{day}{bc}"))?;
    let (micros, zone) = clock(rest).map_err(|e| match e.strip_backtrace().contains("range") {
        true => out_of_range(text),
        false => wrong(),
    })?;
    Ok((join_days(days, micros)?, zone))
}

/// An array literal, `{1,2}`, with the bounds before it left out.
fn list(text: &str, item: &Field) -> Result<Value> {
    let wrong = || exec_datafusion_err!("malformed array literal: \"{text}\"");
    let body = match text.strip_prefix('[') {
        Some(_) => text.split_once('=').ok_or_else(wrong)?.1.trim(),
        None => text,
    };
    let mut reader = Items { text: body, at: 0 };
    let value = reader.list(item, 0)?.ok_or_else(wrong)?;
    if reader.at == body.len() { Ok(value) } else { Err(wrong()) }
}

/// Reads `{..}`.
struct Items<'a> {
    text: &'a str,
    at: usize,
}

/// Deepest nesting of an array literal.
const MAX_DEPTH: usize = 6;

impl Items<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn accept(&mut self, c: char) -> bool {
        self.skip();
        let found = self.rest().starts_with(c);
        self.at += usize::from(found);
        found
    }

    /// None: the text is malformed.
    fn list(&mut self, item: &Field, depth: usize) -> Result<Option<Value>> {
        if depth > MAX_DEPTH || !self.accept('{') {
            return Ok(None);
        }
        let mut values = Vec::new();
        if self.accept('}') {
            return Ok(Some(Value::List(values)));
        }
        loop {
            self.skip();
            if let DataType::List(inner) = item.data_type() {
                match self.list(inner, depth + 1)? {
                    Some(value) => values.push(value),
                    None => return Ok(None),
                }
            } else {
                match self.item() {
                    Some(Some(text)) => values.push(parse(&text, item)?),
                    Some(None) => values.push(Value::Null),
                    None => return Ok(None),
                }
            }
            if self.accept('}') {
                return Ok(Some(Value::List(values)));
            }
            if !self.accept(',') {
                return Ok(None);
            }
        }
    }

    /// One item; Some(None) is NULL, None a malformed one.
    fn item(&mut self) -> Option<Option<String>> {
        let mut text = String::new();
        if self.accept('"') {
            let mut chars = self.rest().char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        self.at += at + 1;
                        return Some(Some(text));
                    }
                    '\\' => text.push(chars.next()?.1),
                    c => text.push(c),
                }
            }
            return None;
        }
        let end = self.rest().find([',', '}'])?;
        let raw = self.rest()[..end].trim_end();
        if raw.is_empty() || raw.contains(['{', '"']) {
            return None;
        }
        let mut chars = raw.chars();
        while let Some(c) = chars.next() {
            text.push(if c == '\\' { chars.next()? } else { c });
        }
        let null = raw.eq_ignore_ascii_case("null");
        self.at += end;
        Some((!null).then_some(text))
    }
}

/// A composite literal, `(1,"a b",)`.
fn record(text: &str, fields: &arrow::datatypes::Fields) -> Result<Value> {
    let wrong = || exec_datafusion_err!("malformed record literal: \"{text}\"");
    let body = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')).ok_or_else(wrong)?;
    let (mut parts, mut part, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' => (quoted, any) = (!quoted, true),
            '\\' => part.push(chars.next().ok_or_else(wrong)?),
            ',' if !quoted => {
                parts.push((any || !part.is_empty()).then(|| std::mem::take(&mut part)));
                any = false;
            }
            c => part.push(c),
        }
    }
    if quoted {
        return Err(wrong());
    }
    parts.push((any || !part.is_empty()).then_some(part));
    if parts.len() != fields.len() {
        return Err(wrong());
    }
    let mut values = Vec::with_capacity(parts.len());
    for (field, part) in fields.iter().zip(parts) {
        let value = part.map_or(Ok(Value::Null), |text| parse(&text, field))?;
        values.push((field.name().clone(), value));
    }
    Ok(Value::Record(values))
}
