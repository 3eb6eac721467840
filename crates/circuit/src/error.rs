//! What can go wrong inside a circuit.

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use kaplan_base::Remedy;

/// An error of the incremental engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An expression failed on the data of this step; the state is unusable afterwards.
    #[error("evaluation failed: {0}")]
    Evaluate(#[from] DataFusionError),
    /// An Arrow kernel failed.
    #[error("evaluation failed: {0}")]
    Arrow(#[from] ArrowError),
    /// Stored state cannot be used.
    #[error("stored state is not usable: {0}")]
    Damaged(String),
    /// A row was removed more often than it was added, which no sequence of commits can do.
    #[error("integrity: {operator} holds a row with weight {weight}")]
    NegativeWeight {
        /// The operator or view.
        operator: String,
        /// The weight found.
        weight: i64,
    },
}

impl Error {
    /// What the caller should do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Error::Evaluate(_) | Error::Arrow(_) => Remedy::FixInput,
            Error::Damaged(_) => Remedy::Reopen,
            Error::NegativeWeight { .. } => Remedy::Report,
        }
    }
}

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
