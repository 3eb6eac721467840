//! Intervals of a fixed length, as microseconds. Months and years are refused, because their length
//! depends on where they start; a day is 24 hours.

use super::error::{Error, Result};
use datafusion::sql::sqlparser::ast::{DateTimeField, Expr, Interval, UnaryOperator, Value};

const FORM: &str = "write it as INTERVAL '1 day 2 hours' or INTERVAL '15 minutes'";

/// The length of `INTERVAL '..'` or of a bare string such as `'1 day'`, in microseconds.
pub(super) fn micros(expr: &Expr) -> Result<i64> {
    match expr {
        Expr::Interval(interval) => of_interval(interval),
        Expr::Nested(inner) => micros(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Ok(-micros(expr)?),
        _ => match literal(expr) {
            Some(text) => parse(&text),
            None => Err(Error::invalid(format!("{expr} is not an interval")).hint(FORM)),
        },
    }
}

fn of_interval(interval: &Interval) -> Result<i64> {
    let bad = || Error::invalid(format!("{interval} is not a fixed interval")).hint(FORM);
    let text = literal(&interval.value).ok_or_else(bad)?;
    match (&interval.leading_field, &interval.last_field) {
        (None, None) => parse(&text),
        (Some(field), None) => parse(&format!("{text} {}", field_name(field))),
        _ => Err(bad()),
    }
}

/// The parser keeps unit words that are no keywords in another variant with the same spelling.
fn field_name(field: &DateTimeField) -> String {
    field.to_string().to_lowercase()
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            Value::Number(number, _) => Some(number.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// Parses `1 day 02:30:00`, `90 seconds`, `1.5 hours`.
fn parse(text: &str) -> Result<i64> {
    let bad = || Error::invalid(format!("'{text}' is not an interval")).hint(FORM);
    let words = split_words(text);
    let mut words = words.iter().map(String::as_str).peekable();
    let mut total: i64 = 0;
    if words.peek().is_none() {
        return Err(bad());
    }
    while let Some(word) = words.next() {
        let part = if word.contains(':') {
            clock(word).ok_or_else(bad)?
        } else {
            let unit = unit_us(words.next().ok_or_else(bad)?, text)?;
            scaled(word, unit).ok_or_else(bad)?
        };
        total = total.checked_add(part).ok_or_else(bad)?;
    }
    Ok(total)
}

/// Splits at blanks and between a number and its unit, so that `5min` is two words.
fn split_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match word.find(|c: char| c.is_ascii_alphabetic()) {
            Some(at) if at > 0 && !word.contains(':') => {
                words.extend([word[..at].to_owned(), word[at..].to_owned()]);
            }
            _ => words.push(word.to_owned()),
        }
    }
    words
}

fn unit_us(unit: &str, text: &str) -> Result<i64> {
    let unit = unit.to_ascii_lowercase();
    Ok(match unit.as_str() {
        "us" | "microsecond" | "microseconds" => 1,
        "ms" | "millisecond" | "milliseconds" => 1_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000,
        "h" | "hour" | "hours" | "hr" | "hrs" => 3_600_000_000,
        "d" | "day" | "days" => 86_400_000_000,
        "w" | "week" | "weeks" => 604_800_000_000,
        "mon" | "mons" | "month" | "months" | "y" | "year" | "years" | "quarter" | "quarters"
        | "decade" | "decades" | "century" | "centuries" => {
            return Err(Error::invalid(format!(
                "the interval '{text}' has {unit}, whose length is not fixed"
            ))
            .hint("use days, hours, minutes or seconds, for instance INTERVAL '30 days'"));
        }
        _ => {
            return Err(
                Error::invalid(format!("'{unit}' in '{text}' is no unit of time")).hint(FORM)
            );
        }
    })
}

/// `number` times `unit`, exactly; digits below a microsecond are refused.
fn scaled(number: &str, unit: i64) -> Option<i64> {
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |t: &str| t.bytes().all(|b| b.is_ascii_digit()) && t.len() <= 18;
    if !plain(whole) || !plain(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let number_of = |t: &str| if t.is_empty() { Some(0) } else { t.parse::<i128>().ok() };
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let total = (number_of(whole)? * scale + number_of(fraction)?) * i128::from(unit);
    if total % scale != 0 {
        return None;
    }
    let total = i64::try_from(total / scale).ok()?;
    Some(if negative { -total } else { total })
}

/// `[-]HH:MM[:SS[.ffffff]]`.
fn clock(text: &str) -> Option<i64> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let parts: Vec<&str> = rest.split(':').collect();
    if !(2..=3).contains(&parts.len()) || parts.iter().any(|p| p.starts_with(['-', '+'])) {
        return None;
    }
    let mut total = 0_i64;
    for (part, unit) in parts.iter().zip([3_600_000_000, 60_000_000, 1_000_000]) {
        if part.contains('.') && unit != 1_000_000 {
            return None;
        }
        total = total.checked_add(scaled(part, unit)?)?;
    }
    Some(if negative { -total } else { total })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lengths() {
        for (text, us) in [
            ("5 minutes", 300_000_000),
            ("1 day 02:30:00", 95_400_000_000),
            ("1.5 hours", 5_400_000_000),
            ("5min", 300_000_000),
            ("-2 s", -2_000_000),
            ("0.000001 second", 1),
        ] {
            assert_eq!(parse(text), Ok(us), "{text}");
        }
        for text in ["", "5", "minutes", "1 month", "1 fortnight", "1:2:3:4", "1e9 s", "- s", "."] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("999999999999999999 weeks").is_err());
        assert!(parse("2 months").unwrap_err().message.contains("months"));
    }
}
