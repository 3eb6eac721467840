//! Records of JSON: one object each. Before many are decoded as one text, each is seen to be one
//! complete object, so that damage in one cannot reach into the next.

use super::options::{Layout, Missing, Unknown};
use super::{batch, sift};
use crate::drift::{self, Guess};
use crate::formats::{DecodeError, Format, decode, typed_text};
use crate::source::Target;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::sync::Arc;

/// Rows of the columns that records hold.
pub(super) fn rows(
    schema: &SchemaRef,
    layout: &Layout,
    bodies: &[&[u8]],
    target: Option<&Target>,
) -> Result<RecordBatch, DecodeError> {
    let mut text = Vec::with_capacity(bodies.iter().map(|b| b.len() + 1).sum());
    for body in bodies {
        check(body)?;
        if layout.unknown != Unknown::Ignore || layout.missing == Missing::Error {
            check_fields(schema, layout, body, target)?;
        }
        text.extend_from_slice(body);
        text.push(b'\n');
    }
    if schema.fields().is_empty() {
        return batch(schema, Vec::new(), bodies.len());
    }
    sift::one(schema, decode(Format::NdJson, schema, &text)?)
}

/// Refuses what is not exactly one object.
pub(super) fn check(body: &[u8]) -> Result<(), DecodeError> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(DecodeError::new("the record is not a JSON object"));
    }
    match serde_json::from_slice::<IgnoredAny>(body) {
        Ok(_) => Ok(()),
        Err(e) => Err(DecodeError::new(format!("the record is not valid JSON: {e}"))),
    }
}

fn check_fields(
    schema: &SchemaRef,
    layout: &Layout,
    body: &[u8],
    target: Option<&Target>,
) -> Result<(), DecodeError> {
    let members = members(body)?;
    let mut unknown = members.iter().filter(|(name, _)| schema.index_of(name).is_err());
    match (layout.unknown, &layout.capture) {
        (Unknown::Error, _) => {
            if let Some((name, _)) = unknown.next() {
                let what = format!("the field \"{name}\" is not known");
                return Err(DecodeError::new(what).field(name));
            }
        }
        (Unknown::Evolve, None) => {
            if let Some((name, _)) = unknown.find(|(_, value)| *value != b"null") {
                let why = target.and_then(|target| drift::refusal(target, name));
                let why = why.unwrap_or_else(|| format!("the field \"{name}\" is not known yet"));
                return Err(DecodeError::new(why).field(name));
            }
        }
        _ => {}
    }
    let missing = |f: &&Arc<Field>| !members.iter().any(|(name, _)| name == f.name());
    if layout.missing == Missing::Error
        && let Some(field) = schema.fields().iter().find(missing)
    {
        let name = field.name();
        return Err(DecodeError::new(format!("the field \"{name}\" is missing")).field(name));
    }
    Ok(())
}

/// Notes the fields that are no columns. A record that is not JSON has none.
pub(super) fn unknown(schema: &SchemaRef, body: &[u8], fields: &mut drift::Fields) {
    let Ok(members) = check(body).and_then(|()| members(body)) else { return };
    for (name, value) in members.iter().filter(|(name, _)| schema.index_of(name).is_err()) {
        fields.saw(name, Guess::of_json(value));
    }
}

/// The fields that are no columns, as one JSON object; NULL where there are none.
pub(super) fn captured(schema: &SchemaRef, bodies: &[&[u8]]) -> Result<ArrayRef, DecodeError> {
    let mut texts = Vec::with_capacity(bodies.len());
    for body in bodies {
        let rest = members(body)?.into_iter().filter(|(n, _)| schema.index_of(n).is_err());
        let rest: Vec<String> = rest
            .map(|(name, value)| {
                let name = serde_json::Value::String(name.into_owned());
                format!("{name}: {}", String::from_utf8_lossy(value))
            })
            .collect();
        texts.push((!rest.is_empty()).then(|| format!("{{{}}}", rest.join(", "))));
    }
    Ok(Arc::new(StringArray::from(texts)))
}

/// Keys: JSON objects with the key's columns (in Kafka Connect's wrapper or not), or the value of
/// the one column as JSON or plain text.
pub(super) fn keys(schema: &SchemaRef, bodies: &[&[u8]]) -> Result<RecordBatch, DecodeError> {
    let mut rows = Vec::with_capacity(bodies.len());
    for body in bodies {
        rows.push(key(schema, body)?);
    }
    let text: Vec<&[u8]> = rows.iter().map(AsRef::as_ref).collect();
    let plain = Layout { unknown: Unknown::Ignore, ..Layout::default() };
    self::rows(schema, &plain, &text, None)
}

/// One key as an object with the key's columns.
fn key<'a>(schema: &SchemaRef, body: &'a [u8]) -> Result<Cow<'a, [u8]>, DecodeError> {
    if body.trim_ascii_start().first() == Some(&b'{') {
        check(body)?;
        return Ok(Cow::Borrowed(payload(body)?.unwrap_or(body)));
    }
    let [field] = schema.fields().iter().as_slice() else {
        return Err(DecodeError::new("the key is not a JSON object with the key's columns"));
    };
    let text = std::str::from_utf8(body).map_err(|_| DecodeError::new("the key is not UTF-8"))?;
    let value = match serde_json::from_str::<String>(text) {
        Ok(text) => text,
        Err(_) => text.to_owned(),
    };
    // Read as the column's type once, so that a wrong one is told by its own words.
    let column = Schema::new(vec![Field::new(field.name(), DataType::Utf8, true)]);
    let column = RecordBatch::try_new(
        Arc::new(column),
        vec![Arc::new(StringArray::from(vec![value.as_str()]))],
    );
    let column = column.map_err(|e| DecodeError::new(e.to_string()))?;
    typed_text(&column, schema, 1)?;
    let name = serde_json::Value::String(field.name().clone());
    let value = serde_json::Value::String(value);
    Ok(Cow::Owned(format!("{{{name}: {value}}}").into_bytes()))
}

/// The payload of Kafka Connect's `{"schema": .., "payload": ..}`.
pub(super) fn payload(body: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let members = members(body)?;
    let find = |name: &str| members.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
    Ok(find("schema").and(find("payload")))
}

/// A name in a JSON object, and its value as it is written.
type Member<'a> = (Cow<'a, str>, &'a [u8]);

/// A JSON object's members.
pub(super) fn members(body: &[u8]) -> Result<Vec<Member<'_>>, DecodeError> {
    let broken = || DecodeError::new("the record is not a JSON object");
    let mut scan = Scan { bytes: body, at: 0 };
    let mut members = Vec::new();
    scan.take(b'{').ok_or_else(broken)?;
    if scan.take(b'}').is_some() {
        return Ok(members);
    }
    loop {
        let name = scan.value().ok_or_else(broken)?;
        let name = match name {
            [b'"', plain @ .., b'"'] if !plain.contains(&b'\\') => {
                Cow::Borrowed(std::str::from_utf8(plain).map_err(|_| broken())?)
            }
            quoted => Cow::Owned(serde_json::from_slice(quoted).map_err(|_| broken())?),
        };
        scan.take(b':').ok_or_else(broken)?;
        members.push((name, scan.value().ok_or_else(broken)?));
        if scan.take(b',').is_none() {
            scan.take(b'}').ok_or_else(broken)?;
            return Ok(members);
        }
    }
}

/// A walk over JSON that is valid.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn skip_space(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found.then_some(())
    }

    /// The bytes of the next value.
    fn value(&mut self) -> Option<&'a [u8]> {
        self.skip_space();
        let from = self.at;
        let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' | b',' | b':' if depth == 0 => break,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
        let value = self.bytes.get(from..self.at)?.trim_ascii_end();
        (!value.is_empty()).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::members;

    #[test]
    fn members_are_as_written() {
        let text = br#" { "a" : 1.50 , "b\n": {"x": [1, "}"]}, "c":"\"," ,"d":null } "#;
        let found = members(text).unwrap();
        let found: Vec<_> =
            found.iter().map(|(n, v)| (n.as_ref(), std::str::from_utf8(v).unwrap())).collect();
        let expected =
            [("a", "1.50"), ("b\n", r#"{"x": [1, "}"]}"#), ("c", r#""\",""#), ("d", "null")];
        assert_eq!(found, expected);
        assert!(members(b"{}").unwrap().is_empty());
        assert!(members(b"[1]").is_err());
    }
}
