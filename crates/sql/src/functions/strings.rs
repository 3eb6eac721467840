//! Functions over text and bytes. Positions count characters, from 1.

use super::define::{Def, Kind, def, strict};
use super::parse;
use super::text::plain_hex;
use super::value::Value;
use datafusion::common::{Result, exec_datafusion_err, exec_err};

const T: Kind = Kind::Text;
const I: Kind = Kind::Int;
const B: Kind = Kind::Bytes;
const I4: Kind = Kind::Int4;

/// The longest text that a row can ask for.
const MAX_CHARS: i64 = 1_000_000;

pub(super) fn all() -> Vec<Def> {
    vec![
        def("initcap", &[strict(&[T], T, |v| Ok(initcap(v[0].str()?).into()))]),
        def("left", &[strict(&[T, I], T, |v| Ok(left(v[0].str()?, v[1].int()?).into()))]),
        def("right", &[strict(&[T, I], T, |v| Ok(right(v[0].str()?, v[1].int()?).into()))]),
        def("repeat", &[strict(&[T, I], T, repeat)]),
        def(
            "lpad",
            &[
                strict(&[T, I], T, |v| pad(v[0].str()?, v[1].int()?, " ", true)),
                strict(&[T, I, T], T, |v| pad(v[0].str()?, v[1].int()?, v[2].str()?, true)),
            ],
        ),
        def(
            "rpad",
            &[
                strict(&[T, I], T, |v| pad(v[0].str()?, v[1].int()?, " ", false)),
                strict(&[T, I, T], T, |v| pad(v[0].str()?, v[1].int()?, v[2].str()?, false)),
            ],
        ),
        def("btrim", &trims()).alias(&["trim"]),
        def("ltrim", &trims_start()),
        def("rtrim", &trims_end()),
        def("substr", &substrings()).alias(&["substring"]),
        def(
            "overlay",
            &[
                strict(&[T, T, I], T, |v| {
                    let length = v[1].str()?.chars().count() as i64;
                    overlay(v[0].str()?, v[1].str()?, v[2].int()?, length)
                }),
                strict(&[T, T, I, I], T, |v| {
                    overlay(v[0].str()?, v[1].str()?, v[2].int()?, v[3].int()?)
                }),
            ],
        ),
        def("translate", &[strict(&[T, T, T], T, translate)]),
        def("split_part", &[strict(&[T, T, I], T, split_part)]),
        def(
            "strpos",
            &[strict(&[T, T], I4, |v| {
                let (text, part) = (v[0].str()?, v[1].str()?);
                let at = text.find(part).map_or(0, |at| text[..at].chars().count() + 1);
                Ok(Value::Int(at as i64))
            })],
        )
        .alias(&["instr", "position"]),
        def(
            "concat",
            &[concat_overload(&[Kind::Any], |v| {
                Ok(v.iter().map(Value::text).collect::<String>().into())
            })],
        ),
        def("concat_ws", &[concat_overload(&[T, Kind::Any], concat_ws)]),
        def(
            "kaplan_concat",
            &[strict(&[Kind::Any, Kind::Any], T, |v| {
                Ok(format!("{}{}", v[0].cast_text(), v[1].cast_text()).into())
            })],
        ),
        def(
            "reverse",
            &[strict(&[T], T, |v| Ok(v[0].str()?.chars().rev().collect::<String>().into()))],
        ),
        def("chr", &[strict(&[I], T, chr)]),
        def(
            "ascii",
            &[strict(&[T], I4, |v| {
                Ok(Value::Int(v[0].str()?.chars().next().map_or(0, |c| i64::from(u32::from(c)))))
            })],
        ),
        def("to_hex", &[strict(&[I], T, |v| Ok(format!("{:x}", v[0].int()?).into()))]),
        def("quote_ident", &[strict(&[T], T, |v| Ok(quote_ident(v[0].str()?).into()))]),
        def(
            "quote_literal",
            &[strict(&[Kind::Any], T, |v| Ok(quote_literal(&v[0].cast_text()).into()))],
        ),
        def(
            "quote_nullable",
            &[concat_overload(&[Kind::Any], |v| {
                Ok(match &v[0] {
                    Value::Null => "NULL".into(),
                    other => quote_literal(&other.cast_text()).into(),
                })
            })],
        ),
        def("format", &[concat_overload(&[T, Kind::Any], format)]),
        def("encode", &[strict(&[B, T], T, encode)]),
        def("decode", &[strict(&[T, T], B, decode)]),
        def(
            "convert_from",
            &[strict(&[B, T], T, |v| match (&v[0], utf8(v[1].str()?)) {
                (Value::Bytes(bytes), true) => {
                    String::from_utf8(bytes.clone()).map(Value::Text).map_err(|_| {
                        exec_datafusion_err!("invalid byte sequence for encoding \"UTF8\"")
                    })
                }
                _ => exec_err!("encoding {} is not supported; UTF8 is", v[1].text()),
            })],
        ),
        def(
            "convert_to",
            &[strict(&[T, T], B, |v| {
                if !utf8(v[1].str()?) {
                    return exec_err!("encoding {} is not supported; UTF8 is", v[1].text());
                }
                Ok(Value::Bytes(v[0].str()?.as_bytes().to_vec()))
            })],
        ),
        def(
            "bit_length",
            &[
                strict(&[T], I4, |v| Ok(Value::Int(v[0].str()?.len() as i64 * 8))),
                strict(&[B], I4, |v| Ok(Value::Int(bytes(&v[0])?.len() as i64 * 8))),
            ],
        ),
        def(
            "octet_length",
            &[
                strict(&[T], I4, |v| Ok(Value::Int(v[0].str()?.len() as i64))),
                strict(&[B], I4, |v| Ok(Value::Int(bytes(&v[0])?.len() as i64))),
            ],
        ),
        def(
            "length",
            &[
                strict(&[T], I4, |v| Ok(Value::Int(v[0].str()?.chars().count() as i64))),
                strict(&[B], I4, |v| Ok(Value::Int(bytes(&v[0])?.len() as i64))),
            ],
        )
        .alias(&["char_length", "character_length"]),
    ]
}

pub(super) fn bytes(value: &Value) -> Result<&[u8]> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        other => super::define::unexpected(other),
    }
}

fn utf8(name: &str) -> bool {
    matches!(name.to_ascii_uppercase().as_str(), "UTF8" | "UTF-8" | "UNICODE")
}

fn concat_overload(
    args: &'static [Kind],
    call: impl Fn(&[Value]) -> Result<Value> + Send + Sync + 'static,
) -> super::define::Overload {
    strict(args, T, call).takes_null().variadic()
}

type Trim = fn(&str, &[char]) -> String;

fn trims() -> [super::define::Overload; 2] {
    [
        strict(&[T], T, |v| Ok(v[0].str()?.trim_matches(' ').into())),
        strict(&[T, T], T, |v| trim_set(v, |text, set| text.trim_matches(set).to_owned())),
    ]
}

fn trims_start() -> [super::define::Overload; 2] {
    [
        strict(&[T], T, |v| Ok(v[0].str()?.trim_start_matches(' ').into())),
        strict(&[T, T], T, |v| trim_set(v, |text, set| text.trim_start_matches(set).to_owned())),
    ]
}

fn trims_end() -> [super::define::Overload; 2] {
    [
        strict(&[T], T, |v| Ok(v[0].str()?.trim_end_matches(' ').into())),
        strict(&[T, T], T, |v| trim_set(v, |text, set| text.trim_end_matches(set).to_owned())),
    ]
}

fn trim_set(v: &[Value], trim: Trim) -> Result<Value> {
    let set: Vec<char> = v[1].str()?.chars().collect();
    Ok(trim(v[0].str()?, &set).into())
}

fn initcap(text: &str) -> String {
    let (mut out, mut inside) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_alphanumeric();
    }
    out
}

fn left(text: &str, n: i64) -> String {
    let keep = if n >= 0 { n } else { text.chars().count() as i64 + n };
    text.chars().take(usize::try_from(keep).unwrap_or(0)).collect()
}

fn right(text: &str, n: i64) -> String {
    let length = text.chars().count() as i64;
    let skip = if n >= 0 { length - n } else { n.saturating_neg() };
    text.chars().skip(usize::try_from(skip).unwrap_or(0)).collect()
}

fn too_long<T>() -> Result<T> {
    exec_err!("requested length too large: at most {MAX_CHARS} characters")
}

fn repeat(v: &[Value]) -> Result<Value> {
    let (text, times) = (v[0].str()?, v[1].int()?.max(0));
    if (text.len() as i64).saturating_mul(times) > MAX_CHARS {
        return too_long();
    }
    Ok(text.repeat(times as usize).into())
}

fn pad(text: &str, length: i64, fill: &str, before: bool) -> Result<Value> {
    if length > MAX_CHARS {
        return too_long();
    }
    let (length, has) = (length.max(0) as usize, text.chars().count());
    if has >= length || fill.is_empty() {
        return Ok(text.chars().take(length).collect::<String>().into());
    }
    let padding: String = fill.chars().cycle().take(length - has).collect();
    Ok(if before { format!("{padding}{text}") } else { format!("{text}{padding}") }.into())
}

fn substrings() -> [super::define::Overload; 6] {
    [
        strict(&[T, I], T, |v| Ok(substring(v[0].str()?, v[1].int()?, i64::MAX).into())),
        strict(&[T, I, I], T, |v| {
            let (from, length) = (v[1].int()?, v[2].int()?);
            if length < 0 {
                return exec_err!("negative substring length not allowed");
            }
            Ok(substring(v[0].str()?, from, from.saturating_add(length)).into())
        }),
        strict(&[T, T], T, |v| super::patterns::substring(v[0].str()?, v[1].str()?)),
        strict(&[T, T, T], T, |v| {
            super::patterns::similar_substring(v[0].str()?, v[1].str()?, v[2].str()?)
        }),
        strict(&[B, I], B, |v| Ok(Value::Bytes(cut(bytes(&v[0])?, v[1].int()?, i64::MAX)))),
        strict(&[B, I, I], B, |v| {
            let from = v[1].int()?;
            Ok(Value::Bytes(cut(bytes(&v[0])?, from, from.saturating_add(v[2].int()?.max(0)))))
        }),
    ]
}

/// The characters from a position to before another.
fn substring(text: &str, from: i64, end: i64) -> String {
    let skip = from.max(1) - 1;
    let take = end.max(1) - 1 - skip;
    let amount = |n: i64| usize::try_from(n).unwrap_or(0);
    text.chars().skip(amount(skip)).take(amount(take)).collect()
}

fn cut(bytes: &[u8], from: i64, end: i64) -> Vec<u8> {
    let skip = from.max(1) - 1;
    let take = end.max(1) - 1 - skip;
    let amount = |n: i64| usize::try_from(n).unwrap_or(0);
    bytes.iter().skip(amount(skip)).take(amount(take)).copied().collect()
}

fn overlay(text: &str, with: &str, from: i64, length: i64) -> Result<Value> {
    if from < 1 {
        return exec_err!("negative substring length not allowed");
    }
    let head = substring(text, 1, from);
    let tail = substring(text, from.saturating_add(length), i64::MAX);
    Ok(format!("{head}{with}{tail}").into())
}

fn translate(v: &[Value]) -> Result<Value> {
    let (text, from, to) = (v[0].str()?, v[1].str()?, v[2].str()?);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match from.chars().position(|f| f == c) {
            None => out.push(c),
            Some(at) => out.extend(to.chars().nth(at)),
        }
    }
    Ok(out.into())
}

fn split_part(v: &[Value]) -> Result<Value> {
    let (text, delimiter, n) = (v[0].str()?, v[1].str()?, v[2].int()?);
    if n == 0 {
        return exec_err!("field position must not be zero");
    }
    let parts: Vec<&str> =
        if delimiter.is_empty() { vec![text] } else { text.split(delimiter).collect() };
    let at = super::json::index(if n > 0 { n - 1 } else { n }, parts.len());
    Ok(at.map_or("", |at| parts[at]).into())
}

fn concat_ws(v: &[Value]) -> Result<Value> {
    let Some((separator, values)) = v.split_first() else { return Ok(Value::Null) };
    if *separator == Value::Null {
        return Ok(Value::Null);
    }
    let texts: Vec<String> =
        values.iter().filter(|v| **v != Value::Null).map(Value::text).collect();
    Ok(texts.join(separator.str()?).into())
}

fn chr(v: &[Value]) -> Result<Value> {
    let code = v[0].int()?;
    match u32::try_from(code).ok().and_then(char::from_u32) {
        Some('\0') => exec_err!("null character not permitted"),
        Some(c) => Ok(c.to_string().into()),
        None => exec_err!("requested character too large for encoding: {code}"),
    }
}

/// Words that are reserved in PostgreSQL, which names must be quoted for.
const RESERVED: &str = " all analyse analyze and any array as asc asymmetric authorization between \
    binary both case cast check collate collation column concurrently constraint create cross \
    current_catalog current_date current_role current_schema current_time current_timestamp \
    current_user default deferrable desc distinct do else end except false fetch for foreign freeze \
    from full grant group having ilike in initially inner intersect into is isnull join lateral \
    leading left like limit localtime localtimestamp natural not notnull null offset on only or \
    order outer overlaps placing primary references returning right select session_user similar \
    some symmetric table tablesample then to trailing true union unique user using variadic verbose \
    when where window with ";

fn quote_ident(name: &str) -> String {
    let first = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if first && name.chars().all(plain) && !RESERVED.contains(&format!(" {name} ")) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quote_literal(text: &str) -> String {
    let escaped = text.replace('\'', "''").replace('\\', "\\\\");
    if text.contains('\\') { format!("E'{escaped}'") } else { format!("'{escaped}'") }
}

/// `format('%1$-10s', ..)`: s, I and L, with widths.
fn format(v: &[Value]) -> Result<Value> {
    if v[0] == Value::Null {
        return Ok(Value::Null);
    }
    let (text, values) = (v[0].str()?, &v[1..]);
    let (mut out, mut next) = (String::new(), 0);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let (mut digits, mut left, mut position) = (String::new(), false, None);
        let kind = loop {
            match chars.next() {
                Some('-') => left = true,
                Some('$') => position = std::mem::take(&mut digits).parse::<usize>().ok(),
                Some('*') => {
                    let width = values.get(next).map_or(Ok(0), Value::int)?;
                    next += 1;
                    left |= width < 0;
                    digits = width.unsigned_abs().to_string();
                }
                Some(d) if d.is_ascii_digit() => digits.push(d),
                Some(kind @ ('s' | 'I' | 'L')) => break kind,
                Some(other) => {
                    return exec_err!("unrecognized format() type specifier \"{other}\"");
                }
                None => return exec_err!("unterminated format() type specifier"),
            }
        };
        let at = position.map_or(next, |p| p.wrapping_sub(1));
        let Some(value) = values.get(at) else {
            return exec_err!("too few arguments for format()");
        };
        next = at + 1;
        let shown = match (kind, value) {
            ('L', Value::Null) => "NULL".to_owned(),
            ('I', Value::Null) => {
                return exec_err!("null values cannot be formatted as an SQL identifier");
            }
            ('L', value) => quote_literal(&value.text()),
            ('I', value) => quote_ident(&value.text()),
            (_, value) => value.text(),
        };
        let width = digits.parse().unwrap_or(0);
        out.push_str(pad_to(&shown, width, left)?.str()?);
    }
    Ok(out.into())
}

fn pad_to(text: &str, width: i64, left: bool) -> Result<Value> {
    let width = width.max(text.chars().count() as i64);
    pad(text, width, " ", !left)
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Characters of base64 on a line.
const LINE: usize = 76;

fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (at, group) in bytes.chunks(3).enumerate() {
        if at > 0 && at % (LINE / 4) == 0 {
            out.push('\n');
        }
        let word = group.iter().fold(0_u32, |word, b| word << 8 | u32::from(*b));
        let word = word << (8 * (3 - group.len()));
        for place in 0..4 {
            out.push(match place <= group.len() {
                true => char::from(BASE64[(word >> (18 - 6 * place) & 63) as usize]),
                false => '=',
            });
        }
    }
    out
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut word, mut bits) = (Vec::new(), 0_u32, 0);
    let plain = text.bytes().filter(|b| !b.is_ascii_whitespace());
    for byte in plain.take_while(|b| *b != b'=') {
        let digit = BASE64.iter().position(|b| *b == byte)?;
        word = (word << 6 | digit as u32) & 0xff_ffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits & 255) as u8);
        }
    }
    Some(out)
}

fn encode(v: &[Value]) -> Result<Value> {
    let (bytes, format) = (bytes(&v[0])?, v[1].str()?);
    Ok(match format.to_ascii_lowercase().as_str() {
        "hex" => plain_hex(bytes),
        "base64" => base64(bytes),
        "escape" => bytes
            .iter()
            .map(|b| match b {
                b'\\' => "\\\\".to_owned(),
                0 | 128.. => format!("\\{b:03o}"),
                b => char::from(*b).to_string(),
            })
            .collect(),
        _ => return exec_err!("unrecognized encoding: \"{format}\""),
    }
    .into())
}

fn decode(v: &[Value]) -> Result<Value> {
    let (text, format) = (v[0].str()?, v[1].str()?);
    let bytes = match format.to_ascii_lowercase().as_str() {
        "hex" => parse::unhex(text),
        "base64" => unbase64(text),
        "escape" => Some(parse::unescape(text)?),
        _ => return exec_err!("unrecognized encoding: \"{format}\""),
    };
    bytes.map(Value::Bytes).ok_or_else(|| parse::invalid(format, text))
}
