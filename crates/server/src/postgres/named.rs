//! `PREPARE name [(type, ..)] AS statement` and `EXECUTE name [(value, ..)]`: statements that are kept
//! in the session under a name, with the text of their values put in the place of `$1`, `$2`, ..
//!
//! A statement is looked at when it is executed, not when it is prepared.

use super::sqlstate;
use crate::statements::{arguments, keyword, parameters, substitute};
use pgwire::error::PgWireResult;
use std::collections::BTreeMap;

/// A statement under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    sql: String,
    /// The types that its parameters were given, as written.
    types: Vec<String>,
}

/// The statements of one session.
#[derive(Debug, Default)]
pub(super) struct NamedStatements(BTreeMap<String, Named>);

/// Cuts a name off a text: the name as it is kept, and the rest.
fn name(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    if let Some(rest) = text.strip_prefix('"') {
        let (name, rest) = rest.split_once('"')?;
        return Some((name.to_owned(), rest.trim_start()));
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    (!name.is_empty()).then(|| (name.to_lowercase(), rest.trim_start()))
}

/// What follows the first word.
fn tail<'a>(statement: &'a str, word: &str) -> Option<&'a str> {
    let at = statement.to_uppercase().find(word)?;
    statement.get(at + word.len()..)
}

fn syntax(form: &str) -> pgwire::error::PgWireError {
    sqlstate::user("42601", format!("syntax error: expected {form}"))
}

impl NamedStatements {
    /// Takes a `PREPARE`.
    pub fn prepare(&mut self, statement: &str) -> PgWireResult<()> {
        const FORM: &str = "PREPARE name [(type, ..)] AS statement";
        let rest = tail(statement, "PREPARE").ok_or_else(|| syntax(FORM))?;
        let (name, mut rest) = name(rest).ok_or_else(|| syntax(FORM))?;
        if name == "transaction" && rest.starts_with('\'') {
            return Err(sqlstate::user("0A000", "PREPARE TRANSACTION is not supported"));
        }
        let mut types = Vec::new();
        if rest.starts_with('(') {
            let (inner, behind) = arguments(rest).ok_or_else(|| syntax(FORM))?;
            (types, rest) = (inner.into_iter().map(str::to_owned).collect(), behind.trim_start());
        }
        let begins = rest.get(..2).is_some_and(|w| w.eq_ignore_ascii_case("as"));
        let sql = rest.get(2..).unwrap_or_default().trim();
        if !begins
            || !["SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE"]
                .contains(&keyword(sql).as_str())
        {
            return Err(syntax(FORM));
        }
        if self.0.contains_key(&name) {
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(sqlstate::user("42P05", text));
        }
        self.0.insert(name, Named { sql: sql.to_owned(), types });
        Ok(())
    }

    /// The statement that an `EXECUTE` runs.
    pub fn executed(&self, statement: &str) -> PgWireResult<String> {
        const FORM: &str = "EXECUTE name [(value, ..)]";
        let rest = tail(statement, "EXECUTE").ok_or_else(|| syntax(FORM))?;
        let (name, rest) = name(rest).ok_or_else(|| syntax(FORM))?;
        let Some(named) = self.0.get(&name) else {
            let text = format!("prepared statement \"{name}\" does not exist");
            return Err(sqlstate::user("26000", text));
        };
        let values = match rest.is_empty() {
            true => Vec::new(),
            false => arguments(rest).ok_or_else(|| syntax(FORM))?.0,
        };
        let wanted = parameters(&named.sql).max(named.types.len());
        if values.len() != wanted {
            let text = format!("wrong number of parameters for prepared statement \"{name}\"");
            let mut error = pgwire::error::ErrorInfo::new("ERROR".into(), "42601".into(), text);
            error.detail = Some(format!("Expected {wanted} parameters but got {}.", values.len()));
            return Err(pgwire::error::PgWireError::UserError(Box::new(error)));
        }
        substitute(&named.sql, |number| {
            let at = number.wrapping_sub(1);
            let value = values.get(at).copied().unwrap_or("NULL");
            Ok(match named.types.get(at) {
                Some(data_type) => format!("CAST({value} AS {data_type})"),
                None => format!("({value})"),
            })
        })
    }

    /// Forgets one, or all.
    pub fn forget(&mut self, name: Option<&str>) {
        match name {
            Some(name) => drop(self.0.remove(name)),
            None => self.0.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_the_place_of_parameters() {
        let mut named = NamedStatements::default();
        named.prepare("PREPARE p AS select b from t where a = $1 or c = '$1'").unwrap();
        let executed = named.executed("execute P (f(1, 2))").unwrap();
        assert_eq!(executed, "select b from t where a = (f(1, 2)) or c = '$1'");
        named
            .prepare("prepare \"Q\" (int, numeric(4, 1)) as insert into t values ($1, $2)")
            .unwrap();
        let executed = named.executed("EXECUTE \"Q\"(3, '1,5')").unwrap();
        assert_eq!(executed, "insert into t values (CAST(3 AS int), CAST('1,5' AS numeric(4, 1)))");
        assert!(named.executed("EXECUTE p").is_err());
        assert!(named.prepare("PREPARE p AS SELECT 1").is_err());
        named.forget(Some("p"));
        assert!(named.executed("EXECUTE p(1)").is_err());
        assert!(named.prepare("PREPARE x AS CREATE TABLE t (a INT)").is_err());
    }
}
