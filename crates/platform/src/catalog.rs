//! The catalog's file: replaced whole and durably before a definition is acknowledged.

use crate::{Code, Error, Result};
use kaplan_sql::catalog::Catalog;
use std::path::Path;

const FILE: &str = "catalog.json";

/// Reads the catalog; an absent file is an empty one.
pub fn load(dir: &Path) -> Result<Catalog> {
    let path = dir.join(FILE);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| {
            Error::new(Code::Corrupted, format!("{} cannot be read: {e}", path.display()))
                .hint("restore the file from a backup; it is small JSON")
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Catalog::default()),
        Err(e) => Err(io(&path, &e)),
    }
}

/// Replaces the catalog's file.
pub fn save(dir: &Path, catalog: &Catalog) -> Result<()> {
    let text = serde_json::to_vec_pretty(catalog)
        .map_err(|e| Error::new(Code::Internal, format!("catalog: {e}")))?;
    Ok(kaplan_speed::checkpoint::replace(&dir.join(FILE), &text)?)
}

/// An error of a file.
pub fn io(path: &Path, e: &std::io::Error) -> Error {
    let code = match e.kind() {
        std::io::ErrorKind::StorageFull => Code::DiskFull,
        _ => Code::Unavailable,
    };
    Error::new(code, format!("{}: {e}", path.display()))
}
