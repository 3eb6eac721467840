//! The catalog's object: replaced whole and durably before a definition is acknowledged, by one process
//! at a time.

use crate::{Code, Error, Result};
use bytes::Bytes;
use kaplan_sql::catalog::Catalog;
use kaplan_store::{Document, Place, READER};
use std::path::Path;

/// The catalog's object.
pub const FILE: &str = "catalog.json";

/// Reads the catalog, which is this process's alone from now on; an absent one is empty.
pub async fn claim(place: &Place, epoch: u64) -> Result<(Document, Catalog)> {
    let claimed = Document::claim::<Catalog>(place, FILE, epoch).await;
    let (document, mut catalog) = claimed.map_err(|e| match &e {
        kaplan_store::Error::Damaged { .. } => Error::new(Code::Corrupted, e.to_string())
            .hint("restore the file from a backup; it is small JSON"),
        _ => e.into(),
    })?;
    catalog.number_quarantines();
    Ok((document, catalog))
}

/// The catalog as another process has stored it.
pub async fn bytes(place: &Place) -> Result<Bytes> {
    let missing = || {
        Error::new(Code::Unavailable, format!("there is no catalog in {place}"))
            .hint("start the writer first: `kaplan start` without --read-only")
    };
    place.get(FILE).await?.ok_or_else(missing)
}

/// What those bytes say.
pub fn parse(bytes: &Bytes) -> Result<Catalog> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::new(Code::Corrupted, format!("{FILE} cannot be read: {e}"))
            .hint("restore the file from a backup; it is small JSON")
    })
}

/// A catalog's object that this process reads and never replaces.
pub async fn read_only(place: &Place) -> Result<Document> {
    let opened = Document::open::<serde_json::Value>(place, FILE, READER).await?;
    Ok(opened.0)
}

/// An error of a file.
pub fn io(path: &Path, e: &std::io::Error) -> Error {
    let code = match e.kind() {
        std::io::ErrorKind::StorageFull => Code::DiskFull,
        _ => Code::Unavailable,
    };
    Error::new(code, format!("{}: {e}", path.display()))
}
