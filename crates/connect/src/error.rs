//! Why a connector could not do what it was asked. Every error says what the runner does next; no
//! error ends a source or sink for good, since the cause may go away by itself.

use std::fmt;

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The definition is wrong: an unknown option, a value that means nothing. `CREATE` is refused.
    Config,
    /// The other side is not there, is slow, refuses us or lost something: tried again with backoff.
    Unavailable,
    /// What was to be read next is not there any more (a trimmed topic, a dropped slot). Going on
    /// would lose rows in silence, so the source waits, visibly, until somebody decides.
    Gap,
    /// The other side cannot take what it was given.
    Refused,
}

/// Why a source or sink could not go on.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Error {
    /// What kind of trouble it is.
    pub kind: Kind,
    /// One sentence that names the thing.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// A connector's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a kind, with its sentence.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// A definition that is wrong.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// The other side does not answer as it should.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// What was to be read next is gone.
    pub fn gap(message: impl Into<String>) -> Self {
        Self::new(Kind::Gap, message)
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}
