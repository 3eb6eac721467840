//! The words that every other crate shares: positions in the log, identifiers, the clock, and what
//! a caller may do about an error. Nothing here does IO.

mod clock;
pub mod limits;

pub use clock::{Clock, ManualClock, SystemClock};

use serde::{Deserialize, Serialize};
use std::fmt;

/// A log sequence number: the position of one commit. The first commit has LSN 1; [`Lsn::ZERO`] is
/// the position before it. Snapshots, watermark reports and batch views are all named by an LSN.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position before the first commit.
    pub const ZERO: Lsn = Lsn(0);

    /// The position of the commit after this one.
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }

    /// The position of the commit before this one; [`Lsn::ZERO`] stays where it is.
    #[must_use]
    pub fn previous(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// The LSN as the signed 64-bit integer that lake files carry in `_lsn`.
    #[must_use]
    pub fn to_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a stream or table; never reused, so that an old log frame cannot be taken for
/// rows of a stream created later under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the caller of a failed operation should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The same call may succeed later.
    Retry,
    /// The call itself is wrong: change the input.
    FixInput,
    /// The component refuses further work until it is opened again.
    Reopen,
    /// Stored data is damaged or an internal rule was broken: tell the operator.
    Report,
}
