//! The short way through JSON rows: objects of plain values, read in one pass into their columns. It
//! guesses that a row's fields come in the order of the row before. Whatever is not plain (an escape
//! other than those of one letter, a nested value, a number for text, a field twice, a value that does not
//! fit) it leaves to the decoder of [`super::json`], from the first row of the batch on: what is
//! read here is read to the same values there, and only there is said what is wrong.

use super::text;
use arrow::array::{
    Array, ArrayBuilder, ArrayRef, PrimitiveBuilder, RecordBatch, RecordBatchOptions, StringBuilder,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Int16Type, Int32Type, Int64Type, SchemaRef,
};
use memchr::memchr2;
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of text for which a column has room at first.
const TEXT_BYTES: usize = 16;

/// Reads rows of plain values.
pub(super) struct Plain<'a> {
    body: &'a [u8],
    text: &'a str,
    /// Where the next row begins.
    at: usize,
    schema: SchemaRef,
    columns: HashMap<Vec<u8>, usize>,
    /// For each field of the last row its column, if it has one.
    order: Vec<(&'a [u8], Option<usize>)>,
}

/// A value as it is written.
enum Value<'a> {
    Null,
    /// A number or a truth value.
    Bare(&'a str),
    Text(&'a str),
    /// With the escapes of one letter.
    Escaped(&'a str),
}

/// The values of one column.
enum Column {
    Small(PrimitiveBuilder<Int16Type>),
    Integer(PrimitiveBuilder<Int32Type>),
    Big(PrimitiveBuilder<Int64Type>),
    /// Text as it is.
    Text(StringBuilder),
    /// Text that is read as a value of the column's type.
    Read(StringBuilder),
}

impl<'a> Plain<'a> {
    /// Over a body; None: it is not UTF-8.
    pub(super) fn new(body: &'a [u8], schema: SchemaRef) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let names = schema.fields().iter().enumerate();
        let columns = names.map(|(at, field)| (field.name().as_bytes().to_vec(), at)).collect();
        Some(Self { body, text, at: 0, schema, columns, order: Vec::new() })
    }

    /// The bytes that are not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.body[self.at..]
    }

    /// The next rows, at most so many; none at the end. `Err`: they are not plain, and not read.
    pub(super) fn next(&mut self, most: usize) -> Result<Option<RecordBatch>, ()> {
        let mut at = self.after_space(self.at);
        if at == self.body.len() {
            return Ok(None);
        }
        let mut columns: Vec<Column> =
            self.schema.fields().iter().map(|field| Column::new(field, most)).collect();
        let mut rows = 0;
        while rows < most && at < self.body.len() {
            at = self.row(at, rows, &mut columns)?;
            rows += 1;
            at = self.after_space(at);
        }
        let mut arrays = Vec::with_capacity(columns.len());
        for (column, field) in columns.into_iter().zip(self.schema.fields()) {
            arrays.push(column.finish(field, rows)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = SchemaRef::clone(&self.schema);
        let batch = RecordBatch::try_new_with_options(schema, arrays, &options).map_err(|_| ())?;
        self.at = at;
        Ok(Some(batch))
    }

    /// Reads the object that begins here, the row of this number; returns where it ends.
    fn row(&mut self, at: usize, row: usize, columns: &mut [Column]) -> Result<usize, ()> {
        let mut at = self.expect(at, b'{')?;
        let (mut number, mut known) = (0, false);
        loop {
            at = self.expect(self.after_space(at), b'"')?;
            let column = match self.order.get(number) {
                Some((key, column)) if self.follows(at, key) => {
                    at += key.len() + 1;
                    *column
                }
                _ => {
                    let end = at + memchr2(b'"', b'\\', &self.body[at..]).ok_or(())?;
                    let key = &self.body[at..end];
                    at = self.expect(end, b'"')?;
                    let column = self.columns.get(key).copied();
                    self.order.truncate(number);
                    self.order.push((key, column));
                    column
                }
            };
            number += 1;
            at = self.expect(self.after_space(at), b':')?;
            let (value, end) = self.value(self.after_space(at))?;
            if let Some(column) = column {
                known = true;
                columns[column].push(row, value)?;
            }
            at = self.after_space(end);
            match self.body.get(at) {
                Some(b',') => at += 1,
                Some(b'}') if known => return Ok(at + 1),
                _ => return Err(()),
            }
        }
    }

    /// Whether this key and a quote stand here.
    fn follows(&self, at: usize, key: &[u8]) -> bool {
        self.body.get(at..at + key.len()) == Some(key)
            && self.body.get(at + key.len()) == Some(&b'"')
    }

    fn expect(&self, at: usize, byte: u8) -> Result<usize, ()> {
        if self.body.get(at) == Some(&byte) { Ok(at + 1) } else { Err(()) }
    }

    fn after_space(&self, mut at: usize) -> usize {
        while matches!(self.body.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            at += 1;
        }
        at
    }

    /// The value that begins here, and where it ends.
    fn value(&self, at: usize) -> Result<(Value<'a>, usize), ()> {
        let rest = &self.body[at.min(self.body.len())..];
        let length = match rest.first() {
            Some(b'"') => return self.quoted(at + 1),
            Some(b'-' | b'0'..=b'9') => number(rest).ok_or(())?,
            Some(b't') if rest.starts_with(b"true") => 4,
            Some(b'f') if rest.starts_with(b"false") => 5,
            Some(b'n') if rest.starts_with(b"null") => return Ok((Value::Null, at + 4)),
            _ => return Err(()),
        };
        Ok((Value::Bare(self.slice(at, at + length)?), at + length))
    }

    /// The text that begins here, behind its quote.
    fn quoted(&self, at: usize) -> Result<(Value<'a>, usize), ()> {
        let rest = &self.body[at..];
        let end = memchr2(b'"', b'\\', rest).ok_or(())?;
        if rest[end] == b'"' {
            return Ok((Value::Text(self.slice(at, at + end)?), at + end + 1));
        }
        let mut end = end;
        while rest.get(end) == Some(&b'\\') {
            unescaped(*rest.get(end + 1).ok_or(())?).ok_or(())?;
            end += 2;
            end += memchr2(b'"', b'\\', rest.get(end..).ok_or(())?).ok_or(())?;
        }
        Ok((Value::Escaped(self.slice(at, at + end)?), at + end + 1))
    }

    fn slice(&self, from: usize, to: usize) -> Result<&'a str, ()> {
        self.text.get(from..to).ok_or(())
    }
}

/// What a backslash and this letter stand for.
fn unescaped(letter: u8) -> Option<u8> {
    Some(match letter {
        b'"' | b'\\' | b'/' => letter,
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'b' => 8,
        b'f' => 12,
        _ => return None,
    })
}

/// The length of the JSON number at the beginning.
fn number(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len())
    };
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && bytes[at] == b'0') {
        return None;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        at += 1 + Some(fraction).filter(|n| *n > 0)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at += Some(digits(at)).filter(|n| *n > 0)?;
    }
    Some(at)
}

/// A whole number without an exponent or a fraction, if it fits.
fn whole(number: &str) -> Option<i64> {
    let (negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number),
    };
    // Eighteen digits fit in any case.
    if digits.len() > 18 {
        return number.parse().ok();
    }
    let mut value = 0;
    for byte in digits.bytes() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(if negative { -value } else { value })
}

impl Column {
    fn new(field: &Field, rows: usize) -> Self {
        let text = || StringBuilder::with_capacity(rows, rows * TEXT_BYTES);
        match field.data_type() {
            DataType::Int16 => Self::Small(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int32 => Self::Integer(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int64 => Self::Big(PrimitiveBuilder::with_capacity(rows)),
            DataType::Utf8 => Self::Text(text()),
            _ => Self::Read(text()),
        }
    }

    /// Adds the value of this row, with NULL in the rows before that had none.
    fn push(&mut self, row: usize, value: Value<'_>) -> Result<(), ()> {
        match self {
            Self::Small(values) => integer(values, row, value),
            Self::Integer(values) => integer(values, row, value),
            Self::Big(values) => integer(values, row, value),
            Self::Text(values) => {
                // How a number looks as text is not said here.
                if matches!(value, Value::Bare(_)) {
                    return Err(());
                }
                texts(values, row, value)
            }
            Self::Read(values) => texts(values, row, value),
        }
    }

    fn finish(self, field: &Field, rows: usize) -> Result<ArrayRef, ()> {
        let array: ArrayRef = match self {
            Self::Small(mut values) => finished(&mut values, rows),
            Self::Integer(mut values) => finished(&mut values, rows),
            Self::Big(mut values) => finished(&mut values, rows),
            Self::Text(mut values) => {
                fill(&mut values, rows);
                Arc::new(values.finish())
            }
            Self::Read(mut values) => {
                fill(&mut values, rows);
                return text::typed_column(Some(&values.finish()), field, rows).map_err(|_| ());
            }
        };
        if array.null_count() > 0 && !field.is_nullable() { Err(()) } else { Ok(array) }
    }
}

/// NULL in all rows up to this one.
fn fill(values: &mut StringBuilder, row: usize) {
    for _ in values.len()..row {
        values.append_null();
    }
}

fn texts(values: &mut StringBuilder, row: usize, value: Value<'_>) -> Result<(), ()> {
    fill(values, row);
    if values.len() > row {
        return Err(());
    }
    match value {
        Value::Null => values.append_null(),
        Value::Bare(text) | Value::Text(text) => values.append_value(text),
        Value::Escaped(text) => {
            let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
            while let Some((before, after)) = rest.split_once('\\') {
                plain.push_str(before);
                let mut after = after.chars();
                let letter = after.next().and_then(|letter| u8::try_from(letter).ok());
                plain.push(letter.and_then(unescaped).ok_or(())?.into());
                rest = after.as_str();
            }
            plain.push_str(rest);
            values.append_value(plain);
        }
    }
    Ok(())
}

fn integer<T: ArrowPrimitiveType>(
    values: &mut PrimitiveBuilder<T>,
    row: usize,
    value: Value<'_>,
) -> Result<(), ()>
where
    T::Native: TryFrom<i64>,
{
    if values.len() < row {
        values.append_nulls(row - values.len());
    }
    if values.len() > row {
        return Err(());
    }
    match value {
        Value::Null => values.append_null(),
        Value::Bare(number) => {
            let value = whole(number).and_then(|value| T::Native::try_from(value).ok());
            values.append_value(value.ok_or(())?);
        }
        Value::Text(_) | Value::Escaped(_) => return Err(()),
    }
    Ok(())
}

fn finished<T: ArrowPrimitiveType>(values: &mut PrimitiveBuilder<T>, rows: usize) -> ArrayRef {
    values.append_nulls(rows - values.len());
    Arc::new(values.finish())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;
    use crate::formats::{Input, json};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Schema, TimeUnit};
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn schema() -> SchemaRef {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let fields = [
            ("small", DataType::Int16),
            ("number", DataType::Int32),
            ("id", DataType::Int64),
            ("name", DataType::Utf8),
            ("at", micros),
            ("ratio", DataType::Float64),
            ("price", DataType::Decimal128(12, 2)),
            ("yes", DataType::Boolean),
        ];
        let field = |(at, (name, of)): (usize, (&str, _))| Field::new(name, of, at != 2);
        Arc::new(Schema::new(fields.into_iter().enumerate().map(field).collect::<Vec<_>>()))
    }

    const PLAIN: [(&str, &[&str]); 9] = [
        ("small", &["1", "-0", "32767", "null"]),
        ("number", &["12", "-2147483648"]),
        ("id", &["9223372036854775807", "-9223372036854775808", "0", "123456789012345678"]),
        ("name", &[r#""""#, r#""a b""#, r#""π\n\"\/x""#, r#""\\\\""#, "null"]),
        ("at", &[r#""2024-01-31T12:00:00Z""#, r#""2024-01-31 12:00:00.123456""#, "null"]),
        ("ratio", &["1", "-0.5", "1e-3", "123456.789E+2", r#""NaN""#]),
        ("price", &["1", "1.25", r#""-3.5""#]),
        ("yes", &["true", "false", "null"]),
        ("other", &["1", r#""x""#, "true", "null"]),
    ];
    const ODD: [&str; 22] = [
        "1.0",
        "1e2",
        "007",
        "-",
        "+1",
        "99999999999999999999",
        "32768",
        "{}",
        "[1]",
        r#""\u00e9""#,
        r#""\ud83d\ude00""#,
        r#""12""#,
        "tru",
        "nullx",
        "1 2",
        r#""a"#,
        "",
        "01",
        "1.",
        ".5",
        "truefalse",
        r#""\q""#,
    ];

    fn line(rng: &mut ChaCha8Rng, odd: bool) -> String {
        let mut fields: Vec<String> = Vec::new();
        let space = |rng: &mut ChaCha8Rng| *["", "", " ", "\t", "\r\n"].choose(rng).unwrap();
        for (name, values) in PLAIN {
            if name != "id" && rng.random_ratio(1, 4) {
                continue;
            }
            let strange = odd && rng.random_ratio(1, 8);
            let value = if strange { ODD.choose(rng) } else { values.choose(rng) }.unwrap();
            let [a, b, c, d] = [space(rng), space(rng), space(rng), space(rng)];
            fields.push(format!("{a}\"{name}\"{b}:{c}{value}{d}"));
        }
        if rng.random_ratio(1, 5) {
            fields.reverse();
        }
        if odd && rng.random_ratio(1, 10) {
            fields.push(fields[0].clone());
        }
        format!("{{{}}}", fields.join(","))
    }

    #[test]
    fn plain_rows_are_read_as_the_decoder_reads_them() {
        let (mut short, mut same) = (0, 0);
        for seed in 0..3_000 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let odd = seed % 2 == 0;
            let lines: Vec<String> =
                (0..rng.random_range(0..6)).map(|_| line(&mut rng, odd)).collect();
            let mut body = lines.join(if rng.random_bool(0.5) { "\n" } else { "" }).into_bytes();
            if odd && !body.is_empty() && rng.random_ratio(1, 5) {
                let at = rng.random_range(0..body.len());
                body[at] = *b"\"\\{}[]:,\x00\xff1e".choose(&mut rng).unwrap();
            }
            let text = String::from_utf8_lossy(&body).into_owned();
            let most = rng.random_range(1..5);
            let all = |batches: Vec<RecordBatch>| concat_batches(&schema(), &batches).unwrap();
            let expected = json::decoded(Input::Body(&body), schema(), most).unwrap();
            let expected = expected.collect::<Result<Vec<_>, _>>().map(all);
            let found = json::lines(Input::Body(&body), schema(), most).unwrap();
            let found = found.collect::<Result<Vec<_>, _>>().map(all);
            assert_eq!(found, expected, "seed {seed}: {text}");
            same += usize::from(expected.is_ok());
            let mut plain = Vec::new();
            let mut reader = Plain::new(&body, schema());
            while let Some(Ok(Some(batch))) = reader.as_mut().map(|reader| reader.next(most)) {
                plain.push(batch);
            }
            let is_short =
                reader.is_some_and(|reader| reader.rest().iter().all(u8::is_ascii_whitespace));
            short += usize::from(is_short);
            assert!(odd || is_short, "seed {seed} is not plain: {text}");
            if is_short {
                assert_eq!(Ok(all(plain)), expected, "seed {seed}: {text}");
            }
        }
        assert!(short > 1_700 && same > short, "{short} of 3000 are plain, {same} can be read");
    }
}
