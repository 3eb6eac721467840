//! Fields that a table has no column for, where its source says `unknown_fields = 'evolve'`: which
//! of them become columns, and of which type.
//!
//! A column's type comes from the first values that are seen, all those that were read at once. It
//! takes each of them as it was written: whole numbers are `bigint` (`numeric(38,0)` beyond it),
//! numbers are `double precision` if that has all of them exactly, times with a zone are `timestamp
//! with time zone`, `true` and `false` are `boolean`, arrays and objects `jsonb`; what is mixed or
//! none of these is `text`. A type never changes later: a value that does not fit goes to the ledger.
//! A field that is always NULL becomes no column.

use crate::source::Target;
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::TimestampMicrosecondType;
use kaplan_base::limits::MAX_NAME_BYTES;
use kaplan_sql::catalog::ColumnDef;

/// Most columns that a table comes to have by records that add some.
pub const MAX_EVOLVED_COLUMNS: usize = 256;
/// Most digits of a `numeric`.
const MAX_DIGITS: usize = 38;
/// Whole numbers up to this have a double of their own.
const EXACT: u64 = 1 << 53;

/// What the values of a field say its type is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guess {
    /// There is no value yet.
    #[default]
    Nothing,
    /// `true` and `false`.
    Boolean,
    /// Whole numbers that a double has too.
    Small,
    /// Whole numbers of 64 bits.
    Whole,
    /// Whole numbers of at most 38 digits.
    Large,
    /// Numbers that a double has exactly.
    Double,
    /// Times with a zone, to the microsecond.
    Time,
    /// Anything that is text, and what has no other type in common.
    Text,
    /// Arrays and objects.
    Nested,
}

impl Guess {
    /// Of a value as JSON writes it.
    #[must_use]
    pub fn of_json(value: &[u8]) -> Guess {
        match value.first() {
            Some(b'{' | b'[') => Guess::Nested,
            Some(b'"') => serde_json::from_slice::<String>(value)
                .map_or(Guess::Text, |text| if is_time(&text) { Guess::Time } else { Guess::Text }),
            _ => Guess::of_text(&String::from_utf8_lossy(value)),
        }
    }

    /// Of a value that is written without quotes; an empty one is none.
    #[must_use]
    pub fn of_text(value: &str) -> Guess {
        match value {
            "" | "null" => Guess::Nothing,
            "true" | "false" => Guess::Boolean,
            value if is_time(value) => Guess::Time,
            value => number(value).unwrap_or(Guess::Text),
        }
    }

    /// The type of both.
    #[must_use]
    pub fn and(self, other: Guess) -> Guess {
        use Guess::{Double, Large, Nested, Nothing, Small, Text, Whole};
        match (self, other) {
            (a, b) if a == b => a,
            (Nothing, one) | (one, Nothing) => one,
            (Nested, _) | (_, Nested) => Nested,
            (Small, Double) | (Double, Small) => Double,
            (Large, Small | Whole) | (Small | Whole, Large) => Large,
            (Small, Whole) | (Whole, Small) => Whole,
            _ => Text,
        }
    }

    /// The type as SQL spells it; none without a value.
    #[must_use]
    pub fn sql_type(self) -> Option<&'static str> {
        Some(match self {
            Guess::Nothing => return None,
            Guess::Boolean => "boolean",
            Guess::Small | Guess::Whole => "bigint",
            Guess::Large => "numeric(38,0)",
            Guess::Double => "double precision",
            Guess::Time => "timestamp with time zone",
            Guess::Text => "text",
            Guess::Nested => "jsonb",
        })
    }
}

/// RFC 3339 with a zone, and no more than microseconds.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let at = |place: usize, byte: u8| bytes.get(place) == Some(&byte);
    let shape = at(4, b'-') && at(7, b'-') && at(10, b'T') && at(13, b':') && at(16, b':');
    let rest = bytes.get(19..).unwrap_or_default();
    let fraction = rest.iter().skip(1).take_while(|b| b.is_ascii_digit()).count();
    let zone = match (rest.first(), fraction) {
        (Some(b'.'), 1..=6) => rest.get(1 + fraction..).unwrap_or_default(),
        (Some(b'.'), _) => return false,
        _ => rest,
    };
    let has_zone = zone == b"Z" || (zone.len() == 6 && matches!(zone.first(), Some(b'+' | b'-')));
    shape && has_zone && TimestampMicrosecondType::parse(text).is_some()
}

/// The type of a number, if it is written as one is: `007` and `+1` are text.
fn number(text: &str) -> Option<Guess> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let all = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !all(whole) || (whole.len() > 1 && whole.starts_with('0')) || !fraction.is_none_or(all) {
        return None;
    }
    if fraction.is_none() && exponent.is_none() {
        return Some(match text.parse::<i64>() {
            Ok(0) if text.starts_with('-') => Guess::Text,
            Ok(value) if value.unsigned_abs() <= EXACT => Guess::Small,
            Ok(_) => Guess::Whole,
            Err(_) if whole.len() <= MAX_DIGITS => Guess::Large,
            Err(_) => Guess::Text,
        });
    }
    let value: f64 = digits.parse().ok().filter(|v: &f64| v.is_finite())?;
    let same = significant(digits)? == significant(&format!("{value:e}"))?;
    Some(if same { Guess::Double } else { Guess::Text })
}

/// The digits of a number without zeros around them, and the power of ten of the first one.
fn significant(number: &str) -> Option<(String, i64)> {
    let (mantissa, exponent) = match number.find(['e', 'E']) {
        Some(at) => (&number[..at], number[at + 1..].parse::<i64>().ok()?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let zeros = digits.bytes().take_while(|b| *b == b'0').count();
    let digits = digits.trim_start_matches('0').trim_end_matches('0').to_owned();
    let first = whole.len() as i64 - zeros as i64 + exponent;
    Some(if digits.is_empty() { (digits, 0) } else { (digits, first) })
}

/// Why a field cannot become a column of a table; none when it can.
#[must_use]
pub fn refusal(target: &Target, name: &str) -> Option<String> {
    let table = &target.name;
    let odd = |c: char| c.is_control() || c == '"' || c == '\\';
    let why = if target.columns.iter().any(|c| c == name) {
        format!("{table} has a column of this name that it fills itself")
    } else if name.is_empty() || name.len() > MAX_NAME_BYTES {
        format!("names of columns have 1 to {MAX_NAME_BYTES} bytes")
    } else if name.starts_with('_') || name.contains(odd) {
        "names of columns have no quotes or control characters and do not begin with _".to_owned()
    } else if target.columns.len() >= MAX_EVOLVED_COLUMNS {
        format!("{table} has {} columns already, and this would be one more", target.columns.len())
    } else {
        return None;
    };
    Some(format!("the field \"{name}\" is not known and cannot become a column: {why}"))
}

/// Fields without a column, in the order in which they were seen first.
#[derive(Debug, Default)]
pub struct Fields(Vec<(String, Guess)>);

impl Fields {
    /// A value of a field.
    pub fn saw(&mut self, name: &str, value: Guess) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, guess)) => *guess = guess.and(value),
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The columns that a table is to have for them, as far as it takes some.
    #[must_use]
    pub fn columns(&self, target: &Target) -> Vec<ColumnDef> {
        let room = MAX_EVOLVED_COLUMNS.saturating_sub(target.columns.len());
        let named = self.0.iter().filter(|(name, _)| refusal(target, name).is_none());
        let typed = named.filter_map(|(name, guess)| Some(ColumnDef::new(name, guess.sql_type()?)));
        typed.take(room).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Guess::{self, *};

    #[test]
    fn the_first_values_say_the_type() {
        for (value, guess) in [
            ("null", Nothing),
            ("true", Boolean),
            ("0", Small),
            ("-9007199254740992", Small),
            ("9007199254740993", Whole),
            ("-9223372036854775808", Whole),
            ("9223372036854775808", Large),
            (&"9".repeat(38), Large),
            (&"9".repeat(39), Text),
            ("-0", Text),
            ("1.5", Double),
            ("0.1", Double),
            ("-1.50e3", Double),
            ("0.0", Double),
            ("100e-2", Double),
            ("0.30000000000000004", Double),
            ("0.12345678901234567890", Text),
            ("1e400", Text),
            ("[1]", Nested),
            ("{}", Nested),
            ("\"x\"", Text),
            ("\"12\"", Text),
            ("\"\"", Text),
            ("\"2024-01-31T12:00:00Z\"", Time),
            ("\"2024-01-31T12:00:00.123456+02:00\"", Time),
            ("\"2024-01-31T12:00:00.1234567Z\"", Text),
            ("\"2024-01-31T12:00:00\"", Text),
            ("\"2024-01-31\"", Text),
            ("\"2024-13-31T12:00:00Z\"", Text),
        ] {
            assert_eq!(Guess::of_json(value.as_bytes()), guess, "{value}");
        }
        for (value, guess) in [("", Nothing), ("007", Text), ("+1", Text), ("7", Small)] {
            assert_eq!(Guess::of_text(value), guess, "{value}");
        }
    }

    #[test]
    fn mixed_values_have_a_type_that_keeps_each() {
        for (values, sql_type) in [
            (vec![Nothing, Small, Whole], Some("bigint")),
            (vec![Small, Double], Some("double precision")),
            (vec![Whole, Double], Some("text")),
            (vec![Large, Whole], Some("numeric(38,0)")),
            (vec![Time, Text], Some("text")),
            (vec![Boolean, Small], Some("text")),
            (vec![Small, Nested], Some("jsonb")),
            (vec![Nothing], None),
        ] {
            let guess = values.iter().fold(Nothing, |all, one| all.and(*one));
            assert_eq!(guess.sql_type(), sql_type, "{values:?}");
        }
    }
}
