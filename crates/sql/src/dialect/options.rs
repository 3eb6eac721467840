//! `WITH (key = value, ..)` lists and the options of views. An option that is not known is refused
//! with the names of those that are.

use super::cursor::Cursor;
use super::error::{Error, Result};
use super::statement::ViewOptions;
use crate::catalog::{Architecture, BatchMode};
use datafusion::sql::sqlparser::tokenizer::Token;
use std::collections::BTreeMap;

/// `(key = value, ..)`; keys fold to lower case, values are strings, numbers or words.
pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<BTreeMap<String, String>> {
    let mut options = BTreeMap::new();
    cursor.parenthesized(|cursor| {
        let key = key(cursor)?;
        cursor.expect_symbol(&Token::Eq)?;
        let value = value(cursor)?;
        if options.insert(key.clone(), value).is_some() {
            return Err(cursor.here(Error::invalid(format!("the option {key} is given twice"))));
        }
        Ok(())
    })?;
    Ok(options)
}

fn key(cursor: &mut Cursor<'_>) -> Result<String> {
    if let Token::SingleQuotedString(_) = cursor.peek() {
        return Ok(cursor.string("option name")?.to_lowercase());
    }
    let mut key = cursor.name("option name")?;
    while cursor.accept_symbol(&Token::Period) {
        key = format!("{key}.{}", cursor.name("option name")?);
    }
    Ok(key)
}

fn value(cursor: &mut Cursor<'_>) -> Result<String> {
    match cursor.peek().clone() {
        Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_) => cursor.string("value"),
        Token::Number(number, _) => {
            cursor.skip();
            Ok(number)
        }
        Token::Word(word) => {
            cursor.skip();
            Ok(word.value)
        }
        _ => Err(cursor.expected("a value in single quotes")),
    }
}

/// The options of a view.
pub(super) fn view(cursor: &mut Cursor<'_>) -> Result<ViewOptions> {
    let at = cursor.location();
    let mut options = ViewOptions::default();
    for (key, value) in read(cursor)? {
        set(&mut options, &key, value).map_err(|e| e.at(at.line, at.column))?;
    }
    Ok(options)
}

fn set(options: &mut ViewOptions, key: &str, value: String) -> Result<()> {
    let one_of = |known: &str| {
        Err(Error::invalid(format!("{key} = '{value}' is not possible"))
            .hint(format!("{key} is one of {known}")))
    };
    let folded = value.to_lowercase();
    match key {
        "architecture" => {
            options.architecture = Some(match folded.as_str() {
                "lambda" => Architecture::Lambda,
                "kappa" => Architecture::Kappa,
                _ => return one_of("'lambda', 'kappa'"),
            });
        }
        "batch_mode" => {
            options.batch_mode = Some(match folded.as_str() {
                "auto" => BatchMode::Auto,
                "full" => BatchMode::Full,
                "incremental" => BatchMode::Incremental,
                _ => return one_of("'auto', 'full', 'incremental'"),
            });
        }
        "batch_schedule" => {
            if value.split_whitespace().count() != 5 {
                return Err(Error::invalid(format!("batch_schedule = '{value}' is no schedule"))
                    .hint("write five cron fields in UTC: '0 2 * * *' is every day at 02:00"));
            }
            options.batch_schedule = Some(value);
        }
        _ => {
            return Err(Error::invalid(format!("a view has no option {key}"))
                .hint("the options are architecture, batch_schedule, batch_mode"));
        }
    }
    Ok(())
}

/// The architecture of a new view; options of batch runs are refused on a view that has none.
pub(super) fn architecture(options: &ViewOptions) -> Result<Architecture> {
    let architecture = options.architecture.unwrap_or_default();
    let batch = [
        ("batch_schedule", options.batch_schedule.is_some()),
        ("batch_mode", options.batch_mode.is_some()),
    ];
    match batch.iter().find(|(_, given)| *given) {
        Some((name, _)) if architecture == Architecture::Kappa => {
            Err(Error::invalid(format!("{name} needs a lambda view; this one is kappa"))
                .hint("add architecture = 'lambda', or remove it: a kappa view has no batch runs"))
        }
        _ => Ok(architecture),
    }
}
