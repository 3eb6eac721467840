//! A disk that says it has synced and has not: the simulation must notice, or it would not notice
//! a sync missing from the log either.

use kaplan_log::disk::{Disk, File};
use kaplan_log::sim::SimDisk;
use kaplan_log::simulate::simulate_on;
use std::any::Any;
use std::io;
use std::sync::Arc;

/// Which syncs do nothing.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    None,
    /// Those of segments that are appended to and recovered.
    Opened,
    /// Those of files that are being prepared.
    Created,
    /// Those of the directory.
    Names,
}

struct Lying {
    disk: SimDisk,
    lie: Lie,
}

impl Lying {
    fn file(&self, file: Arc<dyn File>, lie: Lie) -> Arc<dyn File> {
        if self.lie == lie { Arc::new(LyingFile(file)) } else { file }
    }
}

impl Disk for Lying {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.disk.open(name)?, Lie::Opened))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.disk.create(name)?, Lie::Created))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        if self.lie == Lie::Names { Ok(()) } else { self.disk.sync_dir() }
    }
    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }
}

struct LyingFile(Arc<dyn File>);

impl File for LyingFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn violations(lie: Lie) -> Vec<String> {
    let run = |seed| simulate_on(seed, 1_500, &|disk| Arc::new(Lying { disk, lie })).unwrap_err();
    (1..=10).map(run).collect()
}

#[test]
fn commits_lost_by_an_append_that_does_not_sync_are_reported() {
    let found = violations(Lie::Opened);
    assert!(found.iter().all(|violation| violation.contains("lost: ")), "{found:#?}");
    assert!(found.iter().any(|violation| violation.contains("are absent")), "{found:#?}");
}

#[test]
fn commits_lost_by_a_segment_whose_header_is_not_synced_are_reported() {
    let found = violations(Lie::Created);
    assert!(found.iter().all(|violation| violation.contains("lost: ")), "{found:#?}");
}

#[test]
fn commits_lost_by_a_directory_that_is_not_synced_are_reported() {
    let found = violations(Lie::Names);
    assert!(found.iter().any(|violation| violation.contains("are absent")), "{found:#?}");
}

#[test]
fn a_wrapper_that_does_not_lie_breaks_nothing() {
    for seed in 1..=3 {
        simulate_on(seed, 1_500, &|disk| Arc::new(Lying { disk, lie: Lie::None })).unwrap();
    }
}
