//! `jsonb`: a tree in PostgreSQL's canonical form. Keys are in its order (shorter first, then by
//! bytes), the last of equal keys counts, numbers keep their digits, and the text has one form, so
//! that equal values have equal text. Numbers of more than 38 digits are refused.

use super::value::Number;
use datafusion::common::{DataFusionError, Result, exec_datafusion_err, exec_err};
use std::cmp::Ordering;
use std::fmt::{Display, Formatter, Write};

/// Deepest nesting.
const MAX_DEPTH: usize = 512;

/// A JSON value.
#[derive(Clone, Debug)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Json::Null, Json::Null) => true,
            (Json::Bool(a), Json::Bool(b)) => a == b,
            (Json::Number(a), Json::Number(b)) => a.compare(*b).is_ok_and(Ordering::is_eq),
            (Json::Text(a), Json::Text(b)) => a == b,
            (Json::List(a), Json::List(b)) => a == b,
            (Json::Object(a), Json::Object(b)) => a == b,
            _ => false,
        }
    }
}

fn malformed() -> DataFusionError {
    exec_datafusion_err!("invalid input syntax for type json")
}

impl Json {
    /// Reads a text.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.skip();
        if reader.at == text.len() { Ok(value) } else { Err(malformed()) }
    }

    /// An object with its keys in order, the last of equal ones kept.
    pub(super) fn object(mut fields: Vec<(String, Json)>) -> Self {
        let order = |a: &(String, Json), b: &(String, Json)| {
            a.0.len().cmp(&b.0.len()).then_with(|| a.0.as_bytes().cmp(b.0.as_bytes()))
        };
        fields.sort_by(order);
        let mut kept: Vec<(String, Json)> = Vec::with_capacity(fields.len());
        for field in fields {
            match kept.last_mut() {
                Some(last) if last.0 == field.0 => *last = field,
                _ => kept.push(field),
            }
        }
        Json::Object(kept)
    }

    /// The element or field of this name; a number counts in lists, from the end when negative.
    pub(super) fn step(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(fields) => fields.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            Json::List(_) => self.at(key.trim().parse().ok()?),
            _ => None,
        }
    }

    /// The element at a position, from the end when negative.
    pub(super) fn at(&self, position: i64) -> Option<&Json> {
        let Json::List(items) = self else { return None };
        items.get(index(position, items.len())?)
    }

    /// The text without quotes; NULL for JSON's null.
    pub(super) fn plain(&self) -> Option<String> {
        match self {
            Json::Null => None,
            Json::Text(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "boolean",
            Json::Number(_) => "number",
            Json::Text(_) => "string",
            Json::List(_) => "array",
            Json::Object(_) => "object",
        }
    }

    /// PostgreSQL's `@>`.
    pub(super) fn contains(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Object(mine), Json::Object(theirs)) => theirs
                .iter()
                .all(|(key, value)| mine.iter().any(|(k, v)| k == key && v.contains_inside(value))),
            (Json::List(mine), Json::List(theirs)) => {
                theirs.iter().all(|value| mine.iter().any(|v| v.contains_inside(value)))
            }
            // A list contains a bare value, as an exception at the top.
            (Json::List(mine), Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_)) => {
                mine.contains(other)
            }
            (mine, theirs) => mine == theirs,
        }
    }

    fn contains_inside(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::List(_), Json::List(_)) | (Json::Object(_), Json::Object(_)) => {
                self.contains(other)
            }
            (mine, theirs) => mine == theirs,
        }
    }

    /// Whether a key, or a text in a list, is there.
    pub(super) fn has(&self, key: &str) -> bool {
        match self {
            Json::Object(fields) => fields.iter().any(|(k, _)| k == key),
            Json::List(items) => items.iter().any(|v| matches!(v, Json::Text(t) if t == key)),
            Json::Text(text) => text == key,
            _ => false,
        }
    }

    /// Without the fields that are null, at any depth.
    pub(super) fn strip_nulls(self) -> Self {
        match self {
            Json::Object(fields) => Json::Object(
                fields
                    .into_iter()
                    .filter(|(_, v)| !matches!(v, Json::Null))
                    .map(|(k, v)| (k, v.strip_nulls()))
                    .collect(),
            ),
            Json::List(items) => Json::List(items.into_iter().map(Json::strip_nulls).collect()),
            other => other,
        }
    }

    /// Over several lines, four blanks a level.
    pub(super) fn pretty(&self) -> String {
        let mut out = String::new();
        self.write_pretty(&mut out, 0);
        out
    }

    fn write_pretty(&self, out: &mut String, depth: usize) {
        let line = |out: &mut String, depth: usize| {
            out.push('\n');
            out.push_str(&" ".repeat(4 * depth));
        };
        match self {
            Json::Object(fields) => {
                out.push('{');
                for (at, (key, value)) in fields.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    line(out, depth + 1);
                    quote(out, key);
                    out.push_str(": ");
                    value.write_pretty(out, depth + 1);
                }
                line(out, depth);
                out.push('}');
            }
            Json::List(items) => {
                out.push('[');
                for (at, value) in items.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    line(out, depth + 1);
                    value.write_pretty(out, depth + 1);
                }
                line(out, depth);
                out.push(']');
            }
            // Writing to a string does not fail.
            other => drop(write!(out, "{other}")),
        }
    }

    /// `||`.
    pub(super) fn concat(self, other: Self) -> Self {
        match (self, other) {
            (Json::Object(mut mine), Json::Object(theirs)) => {
                mine.extend(theirs);
                Json::object(mine)
            }
            (left, right) => {
                let items = |value| match value {
                    Json::List(items) => items,
                    other => vec![other],
                };
                let mut all = items(left);
                all.extend(items(right));
                Json::List(all)
            }
        }
    }

    /// Without what lies at a path.
    pub(super) fn remove(self, path: &[String]) -> Self {
        let Some((key, rest)) = path.split_first() else { return self };
        self.change(
            key,
            |found| {
                if rest.is_empty() { None } else { found.map(|value| value.remove(rest)) }
            },
        )
    }

    /// With a value at a path, put in if `create` says so.
    pub(super) fn set(self, path: &[String], value: &Json, create: bool) -> Self {
        let Some((key, rest)) = path.split_first() else { return self };
        self.change(key, |found| match (found, rest.is_empty()) {
            (Some(_), true) => Some(value.clone()),
            (Some(inner), false) => Some(inner.set(rest, value, create)),
            (None, true) if create => Some(value.clone()),
            (None, _) => None,
        })
    }

    /// One element or field replaced, added or, by None, taken out.
    fn change(self, key: &str, with: impl FnOnce(Option<Json>) -> Option<Json>) -> Self {
        match self {
            Json::Object(mut fields) => {
                let found = fields.iter().position(|(k, _)| k == key).map(|at| fields.remove(at));
                if let Some(value) = with(found.map(|(_, v)| v)) {
                    fields.push((key.to_owned(), value));
                }
                Json::object(fields)
            }
            Json::List(mut items) => {
                let Ok(position) = key.trim().parse::<i64>() else { return Json::List(items) };
                match index(position, items.len()) {
                    Some(at) => {
                        let found = items.remove(at);
                        if let Some(value) = with(Some(found)) {
                            items.insert(at, value);
                        }
                    }
                    None => {
                        if let Some(value) = with(None) {
                            let at = if position < 0 { 0 } else { items.len() };
                            items.insert(at, value);
                        }
                    }
                }
                Json::List(items)
            }
            other => other,
        }
    }
}

/// A position in a list, from the end when negative.
pub(super) fn index(position: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    let at = if position < 0 { position + length } else { position };
    (0..length).contains(&at).then(|| usize::try_from(at).ok()).flatten()
}

impl Display for Json {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Number(value) => write!(f, "{value}"),
            Json::Text(text) => {
                let mut quoted = String::new();
                quote(&mut quoted, text);
                f.write_str(&quoted)
            }
            Json::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Json::Object(fields) => {
                f.write_str("{")?;
                for (at, (key, value)) in fields.iter().enumerate() {
                    let mut quoted = String::new();
                    quote(&mut quoted, key);
                    write!(f, "{}{quoted}: {value}", if at > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            // Writing to a string does not fail.
            c if u32::from(c) < 0x20 => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self) {
        let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.rest().bytes().take_while(blank).count();
    }

    fn accept(&mut self, word: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn value(&mut self, depth: usize) -> Result<Json> {
        if depth > MAX_DEPTH {
            return exec_err!("json is nested deeper than {MAX_DEPTH} levels");
        }
        self.skip();
        match self.rest().as_bytes().first().copied() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.accept("true") => Ok(Json::Bool(true)),
            _ if self.accept("false") => Ok(Json::Bool(false)),
            _ if self.accept("null") => Ok(Json::Null),
            _ => Err(malformed()),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json> {
        self.at += 1;
        let mut fields = Vec::new();
        if self.accept("}") {
            return Ok(Json::Object(fields));
        }
        loop {
            self.skip();
            if !self.rest().starts_with('"') {
                return Err(malformed());
            }
            let key = self.string()?;
            if !self.accept(":") {
                return Err(malformed());
            }
            fields.push((key, self.value(depth + 1)?));
            if self.accept("}") {
                return Ok(Json::object(fields));
            }
            if !self.accept(",") {
                return Err(malformed());
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json> {
        self.at += 1;
        let mut items = Vec::new();
        if self.accept("]") {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.accept("]") {
                return Ok(Json::List(items));
            }
            if !self.accept(",") {
                return Err(malformed());
            }
        }
    }

    fn number(&mut self) -> Result<Json> {
        let part = |b: &u8| b.is_ascii_digit() || b"+-.eE".contains(b);
        let length = self.rest().bytes().take_while(part).count();
        let text = &self.rest()[..length];
        let digits = text.strip_prefix('-').unwrap_or(text);
        let zero = digits.len() > 1
            && digits.starts_with('0')
            && !digits[1..].starts_with(['.', 'e', 'E']);
        let point = digits.split_once('.').is_some_and(|(whole, fraction)| {
            whole.is_empty() || !fraction.starts_with(|c: char| c.is_ascii_digit())
        });
        if zero || point || !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(malformed());
        }
        let number = Number::parse(text);
        let number = number.ok_or_else(|| exec_datafusion_err!("{text} does not fit a numeric"))?;
        self.at += length;
        Ok(Json::Number(number))
    }

    fn string(&mut self) -> Result<String> {
        let mut out = String::new();
        let text = self.text;
        let mut chars = text.get(self.at + 1..).unwrap_or_default().char_indices();
        let start = self.at + 1;
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = start + at + 1;
                    return Ok(out);
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some('r') => out.push('\r'),
                    Some('b') => out.push('\u{8}'),
                    Some('f') => out.push('\u{c}'),
                    Some(c @ ('"' | '\\' | '/')) => out.push(c),
                    Some('u') => {
                        let mut unit = || {
                            let hex: String = chars.by_ref().take(4).map(|(_, c)| c).collect();
                            u16::from_str_radix(&hex, 16).map_err(|_| malformed())
                        };
                        let first = unit()?;
                        let units = if (0xd800..0xdc00).contains(&first) {
                            let mut skip = || chars.next().map(|(_, c)| c);
                            if skip() != Some('\\') || skip() != Some('u') {
                                return Err(malformed());
                            }
                            let hex: String = chars.by_ref().take(4).map(|(_, c)| c).collect();
                            let low = u16::from_str_radix(&hex, 16).map_err(|_| malformed())?;
                            vec![first, low]
                        } else {
                            vec![first]
                        };
                        if first == 0 {
                            return exec_err!("\\u0000 cannot be converted to text");
                        }
                        out.push_str(&String::from_utf16(&units).map_err(|_| malformed())?);
                    }
                    _ => return Err(malformed()),
                },
                c if u32::from(c) < 0x20 => return Err(malformed()),
                c => out.push(c),
            }
        }
        Err(malformed())
    }
}
