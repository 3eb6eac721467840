//! A sink's position in a small file, replaced as a whole: for systems that have no place for it.

use crate::{Error, Result};
use kaplan_base::Lsn;
use std::io::Write;
use std::path::Path;

/// The position; none when there is no file.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Option<Lsn>> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(|lsn| Some(Lsn(lsn))).map_err(|_| {
            Error::unavailable(format!("{} holds no position", path.display()))
                .hint("remove the file to write everything again")
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(path, &e)),
    }
}

/// Replaces the position, durably.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, lsn: Lsn) -> Result<()> {
    let replace = || -> std::io::Result<()> {
        let dir = path.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(dir)?;
        let next = path.with_extension("next");
        let mut file = std::fs::File::create(&next)?;
        writeln!(file, "{lsn}")?;
        file.sync_all()?;
        std::fs::rename(&next, path)?;
        std::fs::File::open(dir)?.sync_all()
    };
    replace().map_err(|e| failed(path, &e))
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::unavailable(format!("{}: {error}", path.display()))
}
