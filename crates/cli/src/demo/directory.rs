//! The demo's data directory: emptied at every start, so that counts are exact.
//!
//! Only a directory that is empty, absent, or marked by an earlier demo is emptied; any other is
//! refused, since it may hold someone's data.

use anyhow::{Context, bail};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// A file that says that the demo made this directory.
const MARKER: &str = "made-by-kaplan-demo";

/// Empties the directory, or makes it.
pub fn wipe(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let path = given.map_or_else(default, Ok)?;
    let shown = path.display();
    if path.exists() {
        let empty = fs::read_dir(&path)
            .with_context(|| format!("{shown} is not a directory"))?
            .next()
            .is_none();
        if !empty && !path.join(MARKER).is_file() {
            bail!("{shown} is not empty and not from a demo: give an empty --data-dir");
        }
        fs::remove_dir_all(&path).with_context(|| format!("cannot empty {shown}"))?;
    }
    fs::create_dir_all(&path).with_context(|| format!("cannot make {shown}"))?;
    fs::write(path.join(MARKER), "The next `kaplan demo` empties this directory.\n")
        .with_context(|| format!("cannot write to {shown}"))?;
    Ok(path)
}

fn default() -> anyhow::Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: give --data-dir")?;
    Ok(cache.join(Path::new("kaplan/demo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_a_demo_are_emptied() {
        let root = tempfile::tempdir().unwrap();
        let made = wipe(Some(root.path().join("a/b"))).unwrap();
        fs::write(made.join("old"), "x").unwrap();
        wipe(Some(made.clone())).unwrap();
        assert!(!made.join("old").exists());

        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("thesis"), "x").unwrap();
        let error = wipe(Some(other.clone())).unwrap_err().to_string();
        assert!(error.contains("not from a demo"), "{error}");
        assert!(other.join("thesis").exists());
    }
}
