//! Regular expressions. PostgreSQL's classes and escapes are those of the crate `regex` but for the
//! ones translated here; a match is the leftmost, and of several there the first alternative's (in
//! PostgreSQL the longest). Refused: back references and look-around.

use super::define::{Def, Kind, def, strict};
use super::value::Value;
use datafusion::common::{Result, exec_datafusion_err, exec_err};
use regex::{Regex, RegexBuilder};
use std::cell::RefCell;
use std::collections::HashMap;

/// The months' names.
pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// The days' names, from Sunday on.
pub(super) const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Most bytes of a compiled pattern.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// Most compiled patterns that a thread keeps.
const MAX_KEPT: usize = 64;

const T: Kind = Kind::Text;
const I: Kind = Kind::Int;
const I4: Kind = Kind::Int4;
const B: Kind = Kind::Bool;

pub(super) fn all() -> Vec<Def> {
    vec![
        def(
            "regexp_match",
            &[
                strict(&[T, T], Kind::Texts, |v| first_match(v, "")),
                strict(&[T, T, T], Kind::Texts, |v| first_match(v, v[2].str()?)),
            ],
        ),
        def(
            "kaplan_regexp_matches",
            &[
                strict(&[T, T], Kind::List, |v| all_matches(v, "")).returning(LISTS),
                strict(&[T, T, T], Kind::List, |v| all_matches(v, v[2].str()?)).returning(LISTS),
            ],
        ),
        def(
            "regexp_replace",
            &[
                strict(&[T, T, T], T, |v| replace(v, "")),
                strict(&[T, T, T, T], T, |v| replace(v, v[3].str()?)),
            ],
        ),
        def(
            "regexp_count",
            &[
                strict(&[T, T], I4, |v| count(v, 1, "")),
                strict(&[T, T, I], I4, |v| count(v, v[2].int()?, "")),
                strict(&[T, T, I, T], I4, |v| count(v, v[2].int()?, v[3].str()?)),
            ],
        ),
        def(
            "regexp_like",
            &[strict(&[T, T], B, |v| like(v, "")), strict(&[T, T, T], B, |v| like(v, v[2].str()?))],
        ),
        def(
            "regexp_substr",
            &[strict(&[T, T], T, |v| {
                Ok(Value::opt(compiled(v[1].str()?, "")?.find(v[0].str()?).map(|m| m.as_str())))
            })],
        ),
        def(
            "regexp_instr",
            &[strict(&[T, T], I4, |v| {
                let text = v[0].str()?;
                let at = compiled(v[1].str()?, "")?.find(text);
                Ok(Value::Int(at.map_or(0, |m| text[..m.start()].chars().count() as i64 + 1)))
            })],
        ),
        def(
            "regexp_split_to_array",
            &[
                strict(&[T, T], Kind::Texts, |v| split(v, "")),
                strict(&[T, T, T], Kind::Texts, |v| split(v, v[2].str()?)),
            ],
        ),
        def(
            "kaplan_similar",
            &[
                strict(&[T, T], B, |v| similar(v, "\\")),
                strict(&[T, T, T], B, |v| similar(v, v[2].str()?)),
            ],
        ),
        def("kaplan_matches", &[strict(&[T, T, T], B, |v| like(v, v[2].str()?))]),
    ]
}

/// `text[][]`.
const LISTS: super::define::Returns = super::define::Returns::By(|_, _| {
    let texts = arrow::datatypes::Field::new_list_field(Kind::Texts.data_type(), true);
    let lists = arrow::datatypes::DataType::List(std::sync::Arc::new(texts));
    Ok(arrow::datatypes::Field::new("", lists, true))
});

thread_local! {
    static KEPT: RefCell<HashMap<(String, String), Regex>> = RefCell::new(HashMap::new());
}

/// The pattern with its flags; `g` is the caller's.
fn compiled(pattern: &str, flags: &str) -> Result<Regex> {
    let key = (pattern.to_owned(), flags.to_owned());
    if let Some(known) = KEPT.with(|kept| kept.borrow().get(&key).cloned()) {
        return Ok(known);
    }
    let regex = compile(pattern, flags)?;
    KEPT.with(|kept| {
        let mut kept = kept.borrow_mut();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, regex.clone());
    });
    Ok(regex)
}

fn compile(pattern: &str, flags: &str) -> Result<Regex> {
    let source = if flags.contains('q') { regex::escape(pattern) } else { translated(pattern) };
    let mut builder = RegexBuilder::new(&source);
    // Without n or p a dot takes the end of a line as well.
    builder.dot_matches_new_line(true).size_limit(MAX_PATTERN_BYTES);
    for flag in flags.chars() {
        match flag {
            'i' => drop(builder.case_insensitive(true)),
            'c' => drop(builder.case_insensitive(false)),
            'n' | 'm' => drop(builder.dot_matches_new_line(false).multi_line(true)),
            'w' => drop(builder.multi_line(true)),
            'p' => drop(builder.dot_matches_new_line(false)),
            's' => drop(builder.dot_matches_new_line(true).multi_line(false)),
            'x' => drop(builder.ignore_whitespace(true)),
            'g' | 'q' | 't' => {}
            other => return exec_err!("invalid regular expression option: \"{other}\""),
        }
    }
    builder.build().map_err(|e| {
        let why = e.to_string();
        let why = why.lines().last().unwrap_or_default().trim().to_owned();
        exec_datafusion_err!("invalid regular expression: {why}")
    })
}

/// PostgreSQL's escapes that are spelled otherwise.
fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let pattern = pattern.strip_prefix("***:").unwrap_or(pattern);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('y') => out.push_str("\\b"),
            Some('Y') => out.push_str("\\B"),
            Some('m') => out.push_str("\\b{start}"),
            Some('M') => out.push_str("\\b{end}"),
            Some('Z') => out.push_str("\\z"),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

/// The groups of a match, or all of it where there are none.
fn groups(captures: &regex::Captures<'_>) -> Value {
    let part = |m: Option<regex::Match<'_>>| Value::opt(m.map(|m| m.as_str()));
    let from = usize::from(captures.len() > 1);
    Value::List(captures.iter().skip(from).map(part).collect())
}

fn first_match(v: &[Value], flags: &str) -> Result<Value> {
    if flags.contains('g') {
        return exec_err!("regexp_match() does not support the \"global\" option");
    }
    let regex = compiled(v[1].str()?, flags)?;
    Ok(regex.captures(v[0].str()?).map_or(Value::Null, |c| groups(&c)))
}

fn all_matches(v: &[Value], flags: &str) -> Result<Value> {
    let regex = compiled(v[1].str()?, flags)?;
    let most = if flags.contains('g') { usize::MAX } else { 1 };
    Ok(Value::List(regex.captures_iter(v[0].str()?).take(most).map(|c| groups(&c)).collect()))
}

fn replace(v: &[Value], flags: &str) -> Result<Value> {
    let (text, with) = (v[0].str()?, v[2].str()?);
    let regex = compiled(v[1].str()?, flags)?;
    let most = if flags.contains('g') { 0 } else { 1 };
    let replaced = regex.replacen(text, most, |captures: &regex::Captures<'_>| {
        let mut out = String::new();
        let mut chars = with.chars();
        let group = |at: usize| captures.get(at).map_or("", |m| m.as_str());
        while let Some(c) = chars.next() {
            match (c, (c == '\\').then(|| chars.next()).flatten()) {
                ('\\', Some('&')) => out.push_str(group(0)),
                ('\\', Some(d)) if d.is_ascii_digit() => {
                    out.push_str(group(d.to_digit(10).unwrap_or(0) as usize));
                }
                ('\\', Some('\\') | None) => out.push('\\'),
                ('\\', Some(other)) => out.extend(['\\', other]),
                (c, _) => out.push(c),
            }
        }
        out
    });
    Ok(replaced.into_owned().into())
}

fn count(v: &[Value], from: i64, flags: &str) -> Result<Value> {
    if from < 1 {
        return exec_err!("invalid value for parameter \"start\": {from}");
    }
    let rest: String = v[0].str()?.chars().skip(from as usize - 1).collect();
    Ok(Value::Int(compiled(v[1].str()?, flags)?.find_iter(&rest).count() as i64))
}

fn like(v: &[Value], flags: &str) -> Result<Value> {
    Ok(Value::Bool(compiled(v[1].str()?, flags)?.is_match(v[0].str()?)))
}

fn split(v: &[Value], flags: &str) -> Result<Value> {
    let text = v[0].str()?;
    let (mut parts, mut from) = (Vec::new(), 0);
    for found in compiled(v[1].str()?, flags)?.find_iter(text) {
        // Empty matches at the ends split nothing off.
        if found.is_empty() && (found.start() == 0 || found.end() == text.len()) {
            continue;
        }
        parts.push(text[from..found.start()].into());
        from = found.end();
    }
    parts.push(text[from..].into());
    Ok(Value::List(parts))
}

/// `substring(text from pattern)`.
pub(super) fn substring(text: &str, pattern: &str) -> Result<Value> {
    let regex = compiled(pattern, "")?;
    let found = regex.captures(text).and_then(|c| if c.len() > 1 { c.get(1) } else { c.get(0) });
    Ok(Value::opt(found.map(|m| m.as_str())))
}

/// `substring(text from pattern for escape)`: the part between two `escape"`.
pub(super) fn similar_substring(text: &str, pattern: &str, escape: &str) -> Result<Value> {
    let mark = format!("{escape}\"");
    let parts: Vec<&str> = pattern.split(mark.as_str()).collect();
    let [before, inside, after] = parts.as_slice() else {
        return exec_err!("SQL regular expression needs two escape-double-quote separators");
    };
    let escape = escape.chars().next();
    let part = |p: &str| similar_source(p, escape);
    let source = format!("^(?:{})({})(?:{})$", part(before)?, part(inside)?, part(after)?);
    let found =
        compiled(&source, "")?.captures(text).and_then(|c| c.get(1).map(|m| m.as_str().to_owned()));
    Ok(Value::opt(found))
}

fn similar(v: &[Value], escape: &str) -> Result<Value> {
    let source = similar_source(v[1].str()?, escape.chars().next())?;
    Ok(Value::Bool(compiled(&format!("^(?:{source})$"), "")?.is_match(v[0].str()?)))
}

/// A pattern of `SIMILAR TO` as a regular expression.
fn similar_source(pattern: &str, escape: Option<char>) -> Result<String> {
    let (mut out, mut inside) = (String::new(), false);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            let Some(next) = chars.next() else {
                return exec_err!("invalid escape string in pattern");
            };
            out.push_str(&regex::escape(&next.to_string()));
            continue;
        }
        match c {
            '[' | ']' => {
                inside = c == '[';
                out.push(c);
            }
            c if inside => out.push(c),
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '(' => out.push_str("(?:"),
            '.' | '^' | '$' | '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    Ok(out)
}
