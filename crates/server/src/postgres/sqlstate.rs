//! The one place where a [`Code`] becomes an SQLSTATE, and an error PostgreSQL's error fields.

use kaplan_platform::{Code, Error};
use pgwire::error::{ErrorInfo, PgWireError};

pub(super) fn sqlstate(code: Code) -> &'static str {
    match code {
        Code::Syntax => "42601",
        Code::UnknownRelation => "42P01",
        Code::UnknownColumn => "42703",
        Code::UnknownFunction => "42883",
        Code::AmbiguousColumn => "42702",
        Code::DuplicateAlias => "42712",
        Code::DatatypeMismatch => "42804",
        Code::CannotCoerce => "42846",
        Code::Grouping => "42803",
        Code::Windowing => "42P20",
        Code::InvalidColumnReference => "42P10",
        Code::GeneratedAlways => "428C9",
        Code::OutOfRange => "22003",
        Code::InvalidDatetime => "22007",
        Code::DatetimeOverflow => "22008",
        Code::StringTruncation => "22001",
        Code::InvalidRegex => "2201B",
        Code::InvalidLogarithm => "2201E",
        Code::InvalidPower => "2201F",
        Code::InvalidLimit => "2201W",
        Code::InvalidOffset => "2201X",
        Code::Cardinality => "21000",
        Code::FailedTransaction => "25P02",
        Code::ReadOnly => "25006",
        Code::NoTransaction => "25P01",
        Code::UnknownSavepoint => "3B001",
        Code::DivisionByZero => "22012",
        Code::WrongObject => "42809",
        Code::UnknownObject => "42704",
        Code::UnknownSchema => "3F000",
        Code::DuplicateRelation => "42P07",
        Code::DuplicateSchema => "42P06",
        Code::DuplicateColumn => "42701",
        Code::Dependency => "2BP01",
        Code::Unsupported => "0A000",
        Code::InvalidValue => "22P02",
        Code::ConstraintViolation => "23514",
        Code::NotNullViolation => "23502",
        Code::UniqueViolation => "23505",
        Code::Conflict => "40001",
        Code::InvalidInput => "22023",
        Code::TooLarge => "54000",
        Code::Overloaded => "53300",
        Code::DiskFull => "53100",
        Code::OutOfMemory => "53200",
        Code::Unavailable | Code::Fenced => "57P03",
        Code::NotReady => "55000",
        Code::Corrupted => "XX001",
        Code::Internal => "XX000",
    }
}

pub(super) fn info(error: Error) -> ErrorInfo {
    let code = sqlstate(error.code).to_owned();
    let mut info = ErrorInfo::new("ERROR".to_owned(), code, error.message);
    (info.hint, info.column, info.constraint) = (error.hint, error.field, error.constraint);
    if let Some(stream) = error.stream {
        let (schema, table) = stream.split_once('.').unwrap_or(("public", &stream));
        (info.schema, info.table) = (Some(schema.to_owned()), Some(table.to_owned()));
    }
    info.where_context = error.row.map(|row| format!("row {row}"));
    info
}

pub(super) fn error(error: Error) -> PgWireError {
    PgWireError::UserError(Box::new(info(error)))
}

/// An error of a statement: a place in it is told as PostgreSQL does, in characters from 1.
pub(super) fn of_statement(error: Error, statement: &str) -> PgWireError {
    let place = error.place;
    let mut info = info(error);
    info.position = place.map(|place| position(statement, place).to_string());
    PgWireError::UserError(Box::new(info))
}

fn position(statement: &str, (line, column): (u64, u64)) -> u64 {
    let before = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let lines = statement.split('\n').take(before);
    lines.map(|line| line.chars().count() as u64 + 1).sum::<u64>() + column
}

/// An error that only this wire knows.
pub(super) fn user(code: &str, message: impl Into<String>) -> PgWireError {
    let info = ErrorInfo::new("ERROR".to_owned(), code.to_owned(), message.into());
    PgWireError::UserError(Box::new(info))
}

/// What the client is told of an error of the protocol's own parts.
pub(super) fn shown(error: PgWireError) -> PgWireError {
    match error {
        PgWireError::QueryCanceled => {
            let state = "57014".to_owned();
            let text = "canceling statement due to user request".to_owned();
            let mut info = ErrorInfo::new("ERROR".to_owned(), state, text);
            info.hint =
                Some("a change that was under way may have happened: read first".to_owned());
            PgWireError::UserError(Box::new(info))
        }
        // These end no connection in PostgreSQL.
        PgWireError::StatementNotFound(name) => {
            user("26000", format!("prepared statement \"{name}\" does not exist"))
        }
        PgWireError::PortalNotFound(name) => {
            user("34000", format!("portal \"{name}\" does not exist"))
        }
        PgWireError::ParameterIndexOutOfBound(at) => {
            user("08P01", format!("parameter ${} was not given", at + 1))
        }
        other => other,
    }
}

/// The same error, after which the connection ends.
pub(super) fn ending(error: PgWireError) -> PgWireError {
    let mut info = ErrorInfo::from(shown(error));
    info.severity = "FATAL".to_owned();
    PgWireError::UserError(Box::new(info))
}

/// An error after which the connection ends.
pub(super) fn fatal(code: &str, message: impl Into<String>) -> ErrorInfo {
    ErrorInfo::new("FATAL".to_owned(), code.to_owned(), message.into())
}

/// A remark beside an answer.
pub(super) fn notice(text: impl Into<String>) -> ErrorInfo {
    ErrorInfo::new("NOTICE".to_owned(), "00000".to_owned(), text.into())
}

/// A remark that the user should not miss.
pub(super) fn warning(text: impl Into<String>) -> ErrorInfo {
    ErrorInfo::new("WARNING".to_owned(), "01000".to_owned(), text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters() {
        assert_eq!(position("select 1 1", (1, 10)), 10);
        assert_eq!(position("select \u{e9}\n  x y", (2, 5)), 14);
    }

    #[test]
    fn every_fact_has_its_field() {
        let error = Error::new(Code::InvalidValue, "row 3: wrong")
            .hint("fix it")
            .stream("flights")
            .row(3)
            .field("delay");
        let info = info(error);
        assert_eq!((info.severity.as_str(), info.code.as_str()), ("ERROR", "22P02"));
        assert_eq!(info.message, "row 3: wrong");
        assert_eq!(info.hint.as_deref(), Some("fix it"));
        assert_eq!(info.table.as_deref(), Some("flights"));
        assert_eq!(info.column.as_deref(), Some("delay"));
        assert_eq!(info.where_context.as_deref(), Some("row 3"));
    }
}
