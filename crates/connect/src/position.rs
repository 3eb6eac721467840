//! A sink's position in a small document of the platform's storage, replaced as a whole: for systems that
//! have no place for it. An instance that was replaced does not replace it any more.

use crate::{Error, Result};
use kaplan_base::Lsn;
use kaplan_store::{Document, Place};
use serde::{Deserialize, Serialize};

/// Where a position is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Where the documents of sinks are.
    pub place: Place,
    /// The document's name.
    pub name: String,
    /// The epoch of the platform's opening: see [`Document`].
    pub epoch: u64,
}

/// A kept position.
pub struct Position(Document);

#[derive(Serialize, Deserialize)]
struct Stored {
    lsn: Lsn,
}

impl Position {
    /// Opens the document, and reads the position; none when nothing is kept.
    ///
    /// # Errors
    /// The document cannot be read.
    pub async fn open(kept: &Kept) -> Result<(Self, Option<Lsn>)> {
        let opened = Document::open::<Stored>(&kept.place, &kept.name, kept.epoch).await;
        let (document, stored) = opened.map_err(|e| {
            Error::unavailable(e.to_string()).hint("remove the object to write everything again")
        })?;
        Ok((Self(document), stored.map(|stored| stored.lsn)))
    }

    /// Replaces the position, durably.
    ///
    /// # Errors
    /// The document cannot be written.
    pub async fn write(&self, lsn: Lsn) -> Result<()> {
        let written = self.0.replace(&Stored { lsn }).await;
        written.map_err(|e| Error::unavailable(e.to_string()))
    }
}
