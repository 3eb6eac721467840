//! From the errors of the parts to the one error that leaves the platform.

use crate::{Code, Error, classify};
use datafusion::common::DataFusionError;
use kaplan_base::Remedy;
use kaplan_sql::dialect;

impl From<dialect::Error> for Error {
    fn from(e: dialect::Error) -> Self {
        let code = match e.kind {
            dialect::Kind::Syntax => Code::Syntax,
            dialect::Kind::Unsupported => Code::Unsupported,
            dialect::Kind::UnknownType => Code::UnknownObject,
            dialect::Kind::UnknownColumn => Code::UnknownColumn,
            dialect::Kind::TooLarge => Code::TooLarge,
            dialect::Kind::DuplicateColumn => Code::DuplicateColumn,
            dialect::Kind::Invalid => Code::InvalidInput,
        };
        let mut error = Error::new(code, e.to_string());
        error.place = (e.line > 0).then_some((e.line, e.column));
        error.hint = e.hint;
        error
    }
}

impl From<DataFusionError> for Error {
    fn from(e: DataFusionError) -> Self {
        match e {
            DataFusionError::External(inner) => match inner.downcast::<kaplan_serving::Error>() {
                Ok(serving) => (*serving).into(),
                Err(other) => Error::new(Code::Internal, other.to_string()),
            },
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
                (*inner).into()
            }
            DataFusionError::Collection(mut errors) if !errors.is_empty() => {
                errors.swap_remove(0).into()
            }
            DataFusionError::Shared(inner) => classify::error(&inner),
            other => classify::error(&other),
        }
    }
}

impl From<kaplan_sql::Error> for Error {
    fn from(e: kaplan_sql::Error) -> Self {
        match e {
            kaplan_sql::Error::Dialect(e) => e.into(),
            kaplan_sql::Error::Plan(e) => e.into(),
            kaplan_sql::Error::Circuit(e) => e.into(),
            kaplan_sql::Error::Unsupported { ref hint, .. } => {
                let hint = hint.clone();
                Error::new(Code::Unsupported, e.to_string()).hint(hint)
            }
        }
    }
}

impl From<kaplan_circuit::Error> for Error {
    fn from(e: kaplan_circuit::Error) -> Self {
        let code = match &e {
            kaplan_circuit::Error::Evaluate(_) | kaplan_circuit::Error::Arrow(_) => {
                Code::InvalidValue
            }
            _ => Code::Corrupted,
        };
        Error::new(code, e.to_string())
    }
}

impl From<kaplan_log::Error> for Error {
    fn from(e: kaplan_log::Error) -> Self {
        let code = match &e {
            kaplan_log::Error::DiskFull { .. } => Code::DiskFull,
            kaplan_log::Error::Corrupt { .. } | kaplan_log::Error::Record { .. } => Code::Corrupted,
            kaplan_log::Error::Topic { .. } => Code::InvalidInput,
            kaplan_log::Error::TooLarge { .. } => Code::TooLarge,
            kaplan_log::Error::Fenced { .. } => return fenced(&e),
            kaplan_log::Error::ReadOnly => return crate::replica::refusal("a write"),
            _ => Code::Unavailable,
        };
        Error::new(code, e.to_string())
    }
}

/// What every request is told once another instance has the data.
fn fenced(error: &impl ToString) -> Error {
    Error::new(Code::Fenced, error.to_string())
        .hint("send the request to the instance that runs now; stop this one")
}

impl From<kaplan_store::Error> for Error {
    fn from(e: kaplan_store::Error) -> Self {
        let code = match &e {
            kaplan_store::Error::Fenced { .. } => return fenced(&e),
            kaplan_store::Error::ReadOnly { .. } => return crate::replica::refusal("a write"),
            kaplan_store::Error::Damaged { .. } => Code::Corrupted,
            kaplan_store::Error::Open { .. } => Code::InvalidInput,
            _ if e.is_full() => Code::DiskFull,
            _ => Code::Unavailable,
        };
        Error::new(code, e.to_string())
    }
}

impl From<kaplan_lake::Error> for Error {
    fn from(e: kaplan_lake::Error) -> Self {
        if let kaplan_lake::Error::Storage(e) = e {
            return e.into();
        }
        let code = match (&e, e.remedy()) {
            (kaplan_lake::Error::Type { .. }, _) => Code::Unsupported,
            (_, Remedy::FixInput) => Code::InvalidInput,
            (_, Remedy::Report) => Code::Corrupted,
            _ => Code::Unavailable,
        };
        Error::new(code, e.to_string())
    }
}

impl From<kaplan_speed::Error> for Error {
    fn from(e: kaplan_speed::Error) -> Self {
        match e {
            kaplan_speed::Error::Log(e) => e.into(),
            kaplan_speed::Error::Lake(e) => e.into(),
            kaplan_speed::Error::Storage(e) => e.into(),
            kaplan_speed::Error::Scan(e) => e.into(),
            kaplan_speed::Error::Circuit(e) => e.into(),
            kaplan_speed::Error::Sql(e) => e.into(),
            other => Error::new(Code::Unavailable, other.to_string()),
        }
    }
}

impl From<kaplan_batch::Error> for Error {
    fn from(e: kaplan_batch::Error) -> Self {
        match e {
            kaplan_batch::Error::Lake(e) => e.into(),
            kaplan_batch::Error::Storage(e) => e.into(),
            kaplan_batch::Error::Run(e) => e.into(),
            kaplan_batch::Error::Circuit(e) => e.into(),
            kaplan_batch::Error::Sql(e) => e.into(),
            kaplan_batch::Error::Damaged { .. } => Error::new(Code::Corrupted, e.to_string()),
            kaplan_batch::Error::Schedule { .. } => Error::new(Code::InvalidInput, e.to_string())
                .hint("five fields in UTC, such as '0 2 * * *' for two o'clock every night"),
            other => Error::new(Code::Unavailable, other.to_string()),
        }
    }
}

impl From<kaplan_serving::Error> for Error {
    fn from(e: kaplan_serving::Error) -> Self {
        use kaplan_serving::Error as E;
        match e {
            E::Circuit(kaplan_circuit::Error::NegativeWeight { operator, weight }) => Error::new(
                Code::Corrupted,
                format!("view {operator} holds a row with weight {weight}"),
            )
            .hint(format!("rebuild it: REPLAY MATERIALIZED VIEW {operator}")),
            E::Circuit(e) => e.into(),
            E::Run(e) => e.into(),
            E::Sql(e) => e.into(),
            E::NoBatch { ref view } => {
                let hint = format!("run REFRESH MATERIALIZED VIEW {view}");
                Error::new(Code::NotReady, e.to_string()).hint(hint)
            }
            E::NoLayer { .. } => Error::new(Code::InvalidInput, e.to_string())
                .hint("only views with architecture = 'lambda' have batch and speed layers"),
            E::Failed { ref view, .. } => {
                let hint = format!("repair it: REPLAY MATERIALIZED VIEW {view}");
                Error::new(Code::NotReady, e.to_string()).hint(hint)
            }
            E::Gap { .. } => Error::new(Code::Unavailable, e.to_string()),
        }
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(e: arrow::error::ArrowError) -> Self {
        DataFusionError::from(e).into()
    }
}

impl From<kaplan_connect::formats::DecodeError> for Error {
    fn from(e: kaplan_connect::formats::DecodeError) -> Self {
        let mut error = Error::new(classify::of_value(&e.message), e.message);
        (error.hint, error.row, error.field) = (e.hint, e.row, e.field);
        error
    }
}
