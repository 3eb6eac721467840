//! Why a log that others can take over appends nothing more until it is opened again.

use crate::Error;

/// The reason, told to every later append.
pub(crate) enum Stopped {
    /// An opening with this epoch has the log.
    Fenced(u64),
    /// What became of a write is not known.
    Poisoned(String),
}

impl Stopped {
    pub fn error(&self) -> Error {
        match self {
            Self::Fenced(epoch) => Error::Fenced { epoch: *epoch },
            Self::Poisoned(cause) => Error::Poisoned { cause: cause.clone() },
        }
    }
}
