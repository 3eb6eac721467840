//! The catalog's object: replaced whole and durably before a definition is acknowledged, by one process
//! at a time.

use crate::{Code, Error, Result};
use kaplan_sql::catalog::Catalog;
use kaplan_store::{Document, Place};
use std::path::Path;

const FILE: &str = "catalog.json";

/// Reads the catalog, which is this process's alone from now on; an absent one is empty.
pub async fn claim(place: &Place, epoch: u64) -> Result<(Document, Catalog)> {
    Document::claim(place, FILE, epoch).await.map_err(|e| match &e {
        kaplan_store::Error::Damaged { .. } => Error::new(Code::Corrupted, e.to_string())
            .hint("restore the file from a backup; it is small JSON"),
        _ => e.into(),
    })
}

/// An error of a file.
pub fn io(path: &Path, e: &std::io::Error) -> Error {
    let code = match e.kind() {
        std::io::ErrorKind::StorageFull => Code::DiskFull,
        _ => Code::Unavailable,
    };
    Error::new(code, format!("{}: {e}", path.display()))
}
