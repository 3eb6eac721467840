//! What can go wrong in the batch layer.

use datafusion::error::DataFusionError;
use kaplan_base::{Lsn, Remedy};

/// An error of a batch run; nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lake cannot be read.
    #[error(transparent)]
    Lake(#[from] kaplan_lake::Error),
    /// The plan failed.
    #[error("{}", .0.strip_backtrace())]
    Run(#[from] DataFusionError),
    /// States cannot be made or merged.
    #[error(transparent)]
    Circuit(#[from] kaplan_circuit::Error),
    /// The plan cannot be built.
    #[error(transparent)]
    Sql(#[from] kaplan_sql::Error),
    /// The stored batch view cannot be written or read.
    #[error("batch view: {0}")]
    Storage(#[from] kaplan_store::Error),
    /// A published file is not what was written.
    #[error("batch view {view}: {reason}; run REFRESH MATERIALIZED VIEW {view} FULL")]
    Damaged {
        /// The view.
        view: String,
        /// What is wrong.
        reason: String,
    },
    /// Another run was published meanwhile, or the view changed.
    #[error("batch view {view}: a run at LSN {lsn} does not follow the published LSN {published}")]
    Overtaken {
        /// The view.
        view: String,
        /// This run's LSN.
        lsn: Lsn,
        /// The LSN that is published.
        published: Lsn,
    },
    /// The cron expression is wrong.
    #[error("batch_schedule '{expression}': {reason}")]
    Schedule {
        /// The expression.
        expression: String,
        /// What is wrong.
        reason: String,
    },
    /// A thread was lost.
    #[error("a batch task was cancelled or panicked")]
    Lost,
}

impl Error {
    /// What the caller should do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Error::Lake(e) => e.remedy(),
            Error::Storage(e) => e.remedy(),
            Error::Circuit(e) => e.remedy(),
            Error::Schedule { .. } | Error::Sql(_) => Remedy::FixInput,
            Error::Damaged { .. } => Remedy::Report,
            _ => Remedy::Retry,
        }
    }
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
