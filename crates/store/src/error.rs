//! What can go wrong with stored objects, and what the caller does about it.

use kaplan_base::Remedy;
use std::error::Error as _;
use std::io;

/// An error of the storage.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The place cannot be used.
    #[error("the storage {place} cannot be opened: {reason}")]
    Open {
        /// The place as given.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer opening of the data has written the object.
    #[error(
        "another instance has taken over (epoch {found}, this one has {own}): {object} is its own \
         now, and this instance writes nothing more"
    )]
    Fenced {
        /// The object.
        object: String,
        /// The epoch of the writer that has it.
        found: u64,
        /// The epoch of this writer.
        own: u64,
    },
    /// A process that only reads was asked to write.
    #[error("{object} is written by another process; this one only reads")]
    ReadOnly {
        /// The object.
        object: String,
    },
    /// An object is not what was written.
    #[error("{object} cannot be read: {reason}")]
    Damaged {
        /// The object.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// Other writers changed the object again and again.
    #[error("{object} was changed by others {attempts} times while it was being written")]
    Contended {
        /// The object.
        object: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The storage failed.
    #[error("could not {action} {object}: {source}")]
    Object {
        /// What was tried.
        action: &'static str,
        /// The object.
        object: String,
        /// Why it failed.
        source: object_store::Error,
    },
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What the caller should do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Open { .. } | Self::ReadOnly { .. } => Remedy::FixInput,
            Self::Fenced { .. } => Remedy::Reopen,
            Self::Damaged { .. } => Remedy::Report,
            Self::Contended { .. } | Self::Object { .. } => Remedy::Retry,
        }
    }

    /// Whether there was no space left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let mut cause = self.source();
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return matches!(
                    io.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                );
            }
            cause = error.source();
        }
        false
    }

    pub(crate) fn object(
        action: &'static str,
        object: impl ToString,
    ) -> impl FnOnce(object_store::Error) -> Self {
        move |source| Self::Object { action, object: object.to_string(), source }
    }
}
