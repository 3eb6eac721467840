//! Why a query cannot become a view.

use crate::dialect;
use datafusion::error::DataFusionError;

/// An error of planning or lowering.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text was refused.
    #[error(transparent)]
    Dialect(#[from] dialect::Error),
    /// DataFusion cannot plan the query.
    #[error("{}", .0.strip_backtrace())]
    Plan(#[from] DataFusionError),
    /// The circuit cannot be built.
    #[error(transparent)]
    Circuit(#[from] kaplan_circuit::Error),
    /// A construct that cannot be maintained incrementally.
    #[error("{construct} cannot be kept up to date in a materialized view")]
    Unsupported {
        /// The construct, as SQL names it.
        construct: String,
        /// What to write instead.
        hint: String,
    },
}

impl Error {
    pub(crate) fn unsupported(construct: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Unsupported { construct: construct.into(), hint: hint.into() }
    }

    /// The error on its way through DataFusion's code; [`Error::out_of`] has it back.
    pub(crate) fn inside(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }

    /// See [`Error::inside`].
    pub(crate) fn out_of(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<Error>() {
                Ok(own) => *own,
                Err(other) => Error::Plan(DataFusionError::External(other)),
            },
            other => Error::Plan(other),
        }
    }
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
