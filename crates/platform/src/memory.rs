//! How the process's memory is shared: a part for the state of views, a part for queries and batch runs,
//! the rest for what is on its way. What does not fit goes to files that nobody else sees.

use crate::{MemoryStatus, Result, catalog};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use kaplan_speed::Memory;
use kaplan_store::Place;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Of the memory that there is, when no limit is set.
const DEFAULT_PERCENT: u64 = 70;
/// What there is where the system does not say.
const UNKNOWN_BYTES: u64 = 4 << 30;
/// The state of views has this many quarters of the limit, queries have one.
const STATE_QUARTERS: usize = 2;
/// How many consumers an error names when a query finds no memory.
const NAMED_CONSUMERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);
/// The directory of files below the data directory.
const DIRECTORY: &str = "spill";

/// The shares, and where their files are.
pub(crate) struct Shares {
    /// Of the state of views.
    pub state: Arc<Memory>,
    /// Of queries and batch runs.
    pub queries: Arc<RuntimeEnv>,
    /// Removed with the process where there is no data directory.
    _temporary: Option<TempDir>,
}

impl Shares {
    /// What is held.
    pub fn status(&self) -> MemoryStatus {
        let bytes = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        MemoryStatus {
            state_limit_bytes: bytes(self.state.limit()),
            state_bytes: bytes(self.state.held()),
            state_file_bytes: bytes(self.state.mapped()),
            query_bytes: bytes(self.queries.memory_pool.reserved()),
        }
    }
}

/// Shares out so many bytes.
pub(crate) fn share(limit_bytes: u64, data: &Place) -> Result<Shares> {
    let (directory, temporary) = directory(data)?.unzip();
    let quarter = usize::try_from(limit_bytes / 4).unwrap_or(usize::MAX / 4);
    let pool = TrackConsumersPool::new(FairSpillPool::new(quarter), NAMED_CONSUMERS);
    let files = match &directory {
        Some(directory) => DiskManagerMode::Directories(vec![directory.clone()]),
        None => DiskManagerMode::Disabled,
    };
    let queries = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(files))
        .build_arc()?;
    let state = Arc::new(Memory::new(STATE_QUARTERS * quarter, directory));
    Ok(Shares { state, queries, _temporary: temporary.flatten() })
}

/// A directory, and what removes it in the end.
type Directory = (PathBuf, Option<TempDir>);

/// An empty directory: below the data directory, or a temporary one where the data is in a bucket; None
/// where a container can write nowhere.
fn directory(data: &Place) -> Result<Option<Directory>> {
    let Some(local) = data.local() else {
        return Ok(match tempfile::Builder::new().prefix("kaplan-spill-").tempdir() {
            Ok(directory) => Some((directory.path().to_owned(), Some(directory))),
            Err(error) => {
                tracing::warn!(%error, directory = %std::env::temp_dir().display(),
                    "there is no place for what exceeds the memory limit: state stays in memory, queries fail");
                None
            }
        });
    };
    let directory = local.join(DIRECTORY);
    // What a process that was killed has left.
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(catalog::io(&directory, &error));
        }
        _ => {}
    }
    std::fs::create_dir_all(&directory).map_err(|e| catalog::io(&directory, &e))?;
    Ok(Some((directory, None)))
}

/// The limit when none is set: most of what the machine has, or the container.
pub(crate) fn default_limit_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text));
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let container = container.iter().filter_map(|path| number_in(Path::new(path)));
    let available = container.chain(machine).min().unwrap_or(UNKNOWN_BYTES);
    available / 100 * DEFAULT_PERCENT
}

/// `MemTotal` of `/proc/meminfo`.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The number that a file holds; None where it says `max`.
fn number_in(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_has_is_read() {
        let text = "MemTotal:       24642368 kB\nMemFree:         1000 kB\n";
        assert_eq!(total_of(text), Some(24_642_368 << 10));
        assert_eq!(total_of("MemFree: 1 kB"), None);
        assert!(default_limit_bytes() > 0);
    }
}
