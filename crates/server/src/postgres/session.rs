//! Statements about the conversation itself: transactions, cursors and prepared statements by
//! name, which clients send unasked.
//!
//! The platform keeps transactions; here is only which statements begin, mark and end them, since
//! the connection reports the state that PostgreSQL would, and after an error it refuses statements
//! until the transaction ends, so that a client never has the second half of what it meant to do as
//! a whole.

use crate::statements::keyword;

/// What a statement does to a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transaction {
    Begin(&'static str),
    Commit,
    Rollback,
    /// `SAVEPOINT`, `RELEASE`.
    Mark(&'static str),
    /// `ROLLBACK TO`.
    Back,
}

fn words(statement: &str) -> Vec<String> {
    let words = statement.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|w| !w.is_empty()).map(str::to_uppercase).collect()
}

pub(super) fn transaction(statement: &str) -> Option<Transaction> {
    Some(match keyword(statement).as_str() {
        "BEGIN" => Transaction::Begin("BEGIN"),
        "START" => Transaction::Begin("START TRANSACTION"),
        "COMMIT" | "END" => Transaction::Commit,
        "ROLLBACK" | "ABORT" if words(statement).iter().any(|w| w == "TO") => Transaction::Back,
        "ROLLBACK" | "ABORT" => Transaction::Rollback,
        "SAVEPOINT" => Transaction::Mark("SAVEPOINT"),
        "RELEASE" => Transaction::Mark("RELEASE"),
        _ => return None,
    })
}

/// Clean-up that there is nothing to do for, with its tag.
pub(super) fn clean_up(statement: &str) -> Option<&'static str> {
    let words = words(statement);
    let words: Vec<&str> = words.iter().map(String::as_str).take(2).collect();
    match words.as_slice() {
        ["CLOSE", "ALL"] => Some("CLOSE CURSOR ALL"),
        ["UNLISTEN", ..] => Some("UNLISTEN"),
        _ => None,
    }
}

/// The prepared statement that `DEALLOCATE` names; `None` inside for all of them.
pub(super) fn deallocate(statement: &str) -> Option<Option<String>> {
    if keyword(statement) != "DEALLOCATE" {
        return None;
    }
    let mut words = statement.split_whitespace().skip(1);
    let mut name = words.next()?.trim_end_matches(';');
    if name.eq_ignore_ascii_case("prepare") {
        name = words.next()?.trim_end_matches(';');
    }
    if name.eq_ignore_ascii_case("all") {
        return Some(None);
    }
    Some(Some(match name.strip_prefix('"') {
        Some(quoted) => quoted.trim_end_matches('"').to_owned(),
        None => name.to_lowercase(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_statements_are_known() {
        let begin = Some(Transaction::Begin("BEGIN"));
        assert_eq!(transaction("begin isolation level serializable"), begin);
        assert_eq!(transaction(" /* x */ END"), Some(Transaction::Commit));
        assert_eq!(transaction("ROLLBACK TO SAVEPOINT a"), Some(Transaction::Back));
        assert_eq!(transaction("ROLLBACK"), Some(Transaction::Rollback));
        assert_eq!(transaction("select 1"), None);
    }

    #[test]
    fn names_of_prepared_statements_are_read() {
        assert_eq!(deallocate("DEALLOCATE ALL"), Some(None));
        assert_eq!(deallocate("deallocate prepare \"S_1\""), Some(Some("S_1".to_owned())));
        assert_eq!(deallocate("DEALLOCATE _Pg3_0;"), Some(Some("_pg3_0".to_owned())));
        assert_eq!(deallocate("SELECT 1"), None);
        assert_eq!(clean_up("close all"), Some("CLOSE CURSOR ALL"));
    }
}
