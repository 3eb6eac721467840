//! What can go wrong when a view is read.

use datafusion::error::DataFusionError;
use kaplan_base::{Lsn, Remedy};

/// An error of reading.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// States cannot be merged, or a weight is negative.
    #[error(transparent)]
    Circuit(#[from] kaplan_circuit::Error),
    /// The view's tail failed.
    #[error("{}", .0.strip_backtrace())]
    Run(#[from] DataFusionError),
    /// The tail cannot be planned.
    #[error(transparent)]
    Sql(#[from] kaplan_sql::Error),
    /// The batch layer has not published this view.
    #[error("view {view} has no batch view yet")]
    NoBatch {
        /// The view.
        view: String,
    },
    /// The view has no such layer.
    #[error("view {view} runs as Kappa and has no {layer} layer")]
    NoLayer {
        /// The view.
        view: String,
        /// The layer asked for.
        layer: &'static str,
    },
    /// The view stopped.
    #[error("view {view} stopped at LSN {lsn}: {reason}")]
    Failed {
        /// The view.
        view: String,
        /// The last commit that it took in.
        lsn: Lsn,
        /// Why.
        reason: String,
    },
    /// Batch and speed do not meet; a new snapshot will.
    #[error("the batch view of {view} at LSN {batch} and its speed view do not meet")]
    Gap {
        /// The view.
        view: String,
        /// The batch view's LSN.
        batch: Lsn,
    },
}

impl Error {
    /// What the caller should do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Error::Circuit(e) => e.remedy(),
            Error::NoBatch { .. } | Error::Gap { .. } => Remedy::Retry,
            Error::NoLayer { .. } | Error::Run(_) | Error::Sql(_) => Remedy::FixInput,
            Error::Failed { .. } => Remedy::Report,
        }
    }
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
