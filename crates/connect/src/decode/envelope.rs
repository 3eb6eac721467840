//! Debezium's envelope: a row before and after a change, and what the change was; inside of Kafka
//! Connect's `{"schema": .., "payload": ..}` or bare.

use super::json::{check, members, payload};
use crate::formats::DecodeError;
use std::borrow::Cow;

/// What an envelope says.
pub(super) enum Event<'a> {
    /// The row is so now.
    Put(Cow<'a, [u8]>),
    /// The row with this key is gone.
    Delete(Cow<'a, [u8]>),
}

/// Reads an envelope; none where it changes no row.
pub(super) fn read<'a>(
    value: &'a [u8],
    key: Option<&'a [u8]>,
) -> Result<Option<Event<'a>>, DecodeError> {
    if value.trim_ascii() == b"null" {
        return Ok(None);
    }
    check(value)?;
    let body = payload(value)?.unwrap_or(value);
    if body == b"null" {
        return Ok(None);
    }
    let members = members(body)?;
    let find = |name: &str| members.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
    let row = |name: &str| find(name).filter(|row| *row != b"null").map(Cow::Borrowed);
    let lacks = |what: &str| DecodeError::new(format!("the Debezium envelope has no {what}"));
    let op = find("op")
        .ok_or_else(|| lacks("op").hint("FORMAT PLAIN takes rows without an envelope"))?;
    match op {
        br#""c""# | br#""r""# | br#""u""# => {
            row("after").map(|row| Some(Event::Put(row))).ok_or_else(|| lacks("after"))
        }
        br#""d""# => {
            let gone = row("before").or(key.map(Cow::Borrowed));
            gone.map(|row| Some(Event::Delete(row))).ok_or_else(|| lacks("before, nor a key"))
        }
        br#""m""# => Ok(None),
        br#""t""# => Err(DecodeError::new("the upstream table was truncated")
            .hint("TRUNCATE the table here as well, or load it again")),
        other => {
            let op = String::from_utf8_lossy(other);
            Err(DecodeError::new(format!("the Debezium envelope has the unknown op {op}")))
        }
    }
}
