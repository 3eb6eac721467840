//! What can go wrong in the speed layer.

use datafusion::error::DataFusionError;
use kaplan_base::{Lsn, Remedy};

/// An error of the speed layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] kaplan_log::Error),
    /// The lake cannot be read.
    #[error(transparent)]
    Lake(#[from] kaplan_lake::Error),
    /// History cannot be scanned.
    #[error("{0}")]
    Scan(#[from] DataFusionError),
    /// A circuit failed.
    #[error(transparent)]
    Circuit(#[from] kaplan_circuit::Error),
    /// A circuit cannot be built.
    #[error(transparent)]
    Sql(#[from] kaplan_sql::Error),
    /// State cannot be stored or read.
    #[error("checkpoint: {0}")]
    Storage(#[from] kaplan_store::Error),
    /// The system has no thread for the circuits.
    #[error("no thread to run views on: {0}")]
    Thread(std::io::Error),
    /// A thread was lost.
    #[error("a checkpoint task was cancelled or panicked")]
    Lost,
    /// The log does not hold what lies between a view and the others, no longer or not yet; go on from
    /// the lake, or try again.
    #[error("the log, which begins at LSN {start}, does not hold what the view needs")]
    Behind {
        /// The first commit that the log holds.
        start: Lsn,
    },
    /// A newer definition of the view follows the log already.
    #[error("view {view} has a newer definition by now")]
    Superseded {
        /// The name that its files and the circuits know it by.
        view: String,
    },
    /// A commit names a stream that the catalog does not know.
    #[error("commit {lsn} is for stream {stream}, which does not exist")]
    UnknownStream {
        /// The commit.
        lsn: Lsn,
        /// The stream's number.
        stream: u32,
    },
    /// The driver has stopped.
    #[error("the speed layer has stopped")]
    Stopped,
}

impl Error {
    /// What the caller should do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Error::Log(e) => e.remedy(),
            Error::Lake(e) => e.remedy(),
            Error::Circuit(e) => e.remedy(),
            Error::Storage(e) => e.remedy(),
            Error::Scan(_) | Error::Thread(_) | Error::Lost | Error::Behind { .. } => Remedy::Retry,
            Error::Superseded { .. } => Remedy::FixInput,
            Error::Sql(_) => Remedy::FixInput,
            Error::UnknownStream { .. } => Remedy::Report,
            Error::Stopped => Remedy::Reopen,
        }
    }
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
