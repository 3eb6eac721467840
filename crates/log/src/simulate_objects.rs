//! A log in a bucket that fails, with writers that do not know that they were replaced, run for
//! random steps against a model of what was promised.
//!
//! Checked after every opening and in random reads: each acknowledged commit is there once, in order,
//! byte for byte; a group whose append failed is there whole or not at all, and what it is stays; a
//! writer that was replaced never acknowledges and is told so; flipped bits are reported. Puts fail
//! before and after they took effect, and take effect late, also after their retry or a trim; listings
//! come in any order. Everything follows from the seed; nothing is printed.

use crate::simulate::{commit, compare};
use crate::{Commit, Error, Log, ObjectLog, ObjectOptions};
use futures::TryStreamExt;
use kaplan_base::Lsn;
use kaplan_store::faulty::{Faults, FaultyStore, Seen};
use kaplan_store::{Place, Retry, Settled, wait};
use object_store::{ObjectStore, ObjectStoreExt};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Steps in one bucket; then another one begins, since every opening leaves an object for ever.
const BUCKET_STEPS: u64 = 2_000;
/// How often opening is tried again after faults that were injected into it.
const OPEN_ATTEMPTS: u32 = 1_000;
/// The model trims when it holds more commits than this, so that checks stay quick.
const MAX_HELD: usize = 100;
/// Replaced writers that go on trying.
const MAX_STALE: usize = 3;
/// Attempts of one operation of a log.
const ATTEMPTS: u32 = 3;

/// What a simulation did. `lost` and `doubled` are zero whenever there is a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Random steps taken.
    pub steps: u64,
    /// Commits acknowledged, or found after an append whose outcome was unknown.
    pub acknowledged: u64,
    /// Acknowledged commits that were absent.
    pub lost: u64,
    /// Commits found at a second LSN, or acknowledged by a writer that had been replaced.
    pub doubled: u64,
    /// Times that the log was opened.
    pub opened: u64,
    /// Appends of replaced writers, all refused.
    pub fenced: u64,
    /// Appends whose outcome stayed unknown.
    pub unknown: u64,
    /// Commits of such appends that were found by the next opening.
    pub recovered: u64,
    /// Commits trimmed.
    pub trimmed: u64,
    /// Random reads compared.
    pub reads: u64,
    /// Flipped bits, each of which was reported.
    pub flips: u64,
    /// What the bucket did wrong.
    pub faults: Seen,
}

/// Runs `steps` random steps.
///
/// # Errors
/// The promise that the log broke, with the seed and the step.
pub fn simulate(seed: u64, steps: u64) -> Result<Report, String> {
    let mut report = Report::default();
    let mut bucket = 0;
    while report.steps < steps {
        let count = BUCKET_STEPS.min(steps - report.steps);
        let mut world = World::new(seed.wrapping_add(bucket));
        let done = world.run(count);
        let at = report.steps + world.report.steps;
        done.map_err(|e| format!("seed {seed}, step {at}: {e}"))?;
        world.report.faults = world.bucket.seen();
        report.add(&world.report);
        bucket += 1;
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.acknowledged += other.acknowledged;
        self.opened += other.opened;
        self.fenced += other.fenced;
        self.unknown += other.unknown;
        self.recovered += other.recovered;
        self.trimmed += other.trimmed;
        self.reads += other.reads;
        self.flips += other.flips;
        self.faults.before += other.faults.before;
        self.faults.after += other.faults.after;
        self.faults.late += other.faults.late;
        self.faults.other += other.faults.other;
    }
}

struct World {
    rng: ChaCha8Rng,
    bucket: FaultyStore,
    log: Option<ObjectLog>,
    stale: VecDeque<ObjectLog>,
    /// The commits from `start` on that are acknowledged.
    held: VecDeque<Commit>,
    start: Lsn,
    head: Lsn,
    /// The last group, if its append failed and may have happened.
    unknown: Vec<Commit>,
    /// Counts the commits ever made, which tells them apart.
    serial: u64,
    report: Report,
}

type Step = Result<(), String>;

impl World {
    fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            bucket: FaultyStore::new(seed, Faults::default()),
            log: None,
            stale: VecDeque::new(),
            held: VecDeque::new(),
            start: Lsn(1),
            head: Lsn::ZERO,
            unknown: Vec::new(),
            serial: 0,
            report: Report::default(),
        }
    }

    fn run(&mut self, steps: u64) -> Step {
        self.reopen()?;
        for step in 1..=steps {
            self.report.steps = step;
            self.step()?;
        }
        self.reopen()
    }

    fn step(&mut self) -> Step {
        match self.rng.random_range(0..100) {
            0..55 => self.append(),
            55..70 => self.read(),
            70..74 => self.trim(),
            74..82 => self.stale_append(),
            82..86 => self.check_owner(),
            86..90 => self.reopen(),
            90..94 => self.land(),
            94..98 => {
                self.change_faults();
                Ok(())
            }
            _ => self.flip(),
        }
    }

    fn change_faults(&mut self) {
        let part = |rng: &mut ChaCha8Rng| [0.0, 0.05, 0.4][rng.random_range(0..3)];
        let (before, after) = (part(&mut self.rng) / 2.0, part(&mut self.rng) / 2.0);
        let (late, other) = (part(&mut self.rng) / 2.0, part(&mut self.rng));
        self.bucket.set(Faults { before, after, late, other, reorder: true });
    }

    fn place(&self, store: Arc<dyn ObjectStore>) -> Result<Place, String> {
        let url = Url::parse("memory:///bucket/log").map_err(|e| e.to_string())?;
        Place::over(url, store).map_err(|e| e.to_string())
    }

    fn log(&self) -> Result<&ObjectLog, String> {
        self.log.as_ref().ok_or_else(|| "no log is open".to_owned())
    }

    fn group(&mut self, after: Lsn) -> Vec<Commit> {
        let size = if self.rng.random() { 1 } else { self.rng.random_range(2..9) };
        (1..=size).map(|n| commit(&mut self.rng, &mut self.serial, Lsn(after.0 + n))).collect()
    }

    fn append(&mut self) -> Step {
        let group = self.group(self.head);
        match self.log()?.append(&group) {
            Ok(()) => {
                self.acknowledge(group);
                if self.held.len() > MAX_HELD { self.trim() } else { Ok(()) }
            }
            Err(e @ Error::Failed { .. }) if e.may_have_happened() => {
                self.report.unknown += 1;
                self.unknown = group;
                let next = self.group(self.head);
                match self.log()?.append(&next) {
                    Err(Error::Poisoned { .. }) => self.reopen(),
                    other => Err(format!("an append to a poisoned log gave {other:?}")),
                }
            }
            Err(e) => Err(format!("the owner's append failed: {e}")),
        }
    }

    fn acknowledge(&mut self, group: Vec<Commit>) {
        self.report.acknowledged += group.len() as u64;
        self.head = Lsn(self.head.0 + group.len() as u64);
        self.held.extend(group);
    }

    /// A writer that was replaced goes on as if it had not been.
    fn stale_append(&mut self) -> Step {
        if self.stale.is_empty() {
            return Ok(());
        }
        let which = self.rng.random_range(0..self.stale.len());
        let group = self.group(self.stale[which].head());
        match self.stale[which].append(&group) {
            Ok(()) => Err(format!("doubled: a replaced writer acknowledged {}", group[0].lsn)),
            Err(Error::Fenced { .. } | Error::Poisoned { .. }) => {
                self.report.fenced += 1;
                Ok(())
            }
            // Its outcome is unknown to it, and it is poisoned: so it has not acknowledged.
            Err(Error::Failed { .. }) => Ok(()),
            Err(e) => Err(format!("a replaced writer was told: {e}")),
        }
    }

    fn check_owner(&mut self) -> Step {
        match self.log()?.mark_durable() {
            Ok(()) | Err(Error::Io { .. }) => {}
            Err(e) => return Err(format!("the owner was told: {e}")),
        }
        for stale in &self.stale {
            match stale.mark_durable() {
                Err(Error::Fenced { .. } | Error::Poisoned { .. } | Error::Io { .. }) => {}
                other => return Err(format!("a replaced writer was told {other:?}")),
            }
        }
        Ok(())
    }

    /// Opens the log again, as another process would; the one before may not know.
    fn reopen(&mut self) -> Step {
        for _ in 0..OPEN_ATTEMPTS {
            let retry =
                Retry { attempts: ATTEMPTS, pause: Duration::ZERO, longest: Duration::ZERO };
            let place = self.place(Arc::new(Settled::new(Arc::new(self.bucket.clone()), retry)))?;
            let cache_bytes = [0, 5_000, 1 << 20][self.rng.random_range(0..3)];
            let options = ObjectOptions { cache_bytes, ..ObjectOptions::default() };
            match ObjectLog::open(&place, &options) {
                Ok(log) => {
                    self.report.opened += 1;
                    if let Some(before) = self.log.replace(log) {
                        if self.stale.len() == MAX_STALE {
                            self.stale.pop_front();
                        }
                        if self.rng.random() {
                            self.stale.push_back(before);
                        }
                    }
                    return self.check();
                }
                Err(Error::Io { .. }) => {}
                Err(e) => return Err(format!("lost: the log does not open any more: {e}")),
            }
        }
        Err(format!("the log does not open after {OPEN_ATTEMPTS} attempts"))
    }

    /// Compares all of an opened log with the model, and takes over what was unknown.
    fn check(&mut self) -> Step {
        let (start, head) = (self.log()?.start(), self.log()?.head());
        if start > self.start {
            return Err(format!("lost: the log begins at {start}, trimmed to {}", self.start));
        }
        if head < self.head {
            return Err(format!("lost: commits after {head} up to {} are absent", self.head));
        }
        let found = self.read_all(self.start)?;
        let mut expected: Vec<&Commit> = self.held.iter().collect();
        expected.extend(&self.unknown);
        for (commit, expected) in found.iter().zip(&expected) {
            compare(commit, expected, &self.held)?;
        }
        let extra = found.len().checked_sub(self.held.len()).ok_or("lost: commits are absent")?;
        if extra != 0 && extra != self.unknown.len() {
            return Err(format!("{extra} commits of a group of {} appeared", self.unknown.len()));
        }
        let kept: Vec<Commit> = self.unknown.drain(..).take(extra).collect();
        self.report.recovered += kept.len() as u64;
        self.acknowledge(kept);
        Ok(())
    }

    /// All commits from `start` on, through faults injected into reading.
    fn read_all(&self, start: Lsn) -> Result<Vec<Commit>, String> {
        let log = self.log()?;
        let (mut after, mut found) = (start.previous(), Vec::new());
        loop {
            let page = match log.read(after, 3_000) {
                Err(Error::Io { .. }) => continue,
                page => page.map_err(|e| format!("lost: read: {e}"))?,
            };
            let Some(last) = page.last() else { return Ok(found) };
            after = last.lsn;
            found.extend(page);
        }
    }

    fn trim(&mut self) -> Step {
        let through = Lsn(self.rng.random_range(self.start.0.saturating_sub(1)..=self.head.0));
        match self.log()?.trim(through) {
            // What could not be removed is no longer read, and may be there after an opening.
            Ok(()) | Err(Error::Io { .. }) => {}
            Err(e) => return Err(format!("trim: {e}")),
        }
        let start = self.log()?.start();
        if start > self.start && start > through.next() {
            return Err(format!("lost: the log begins at {start}, trimmed to {through}"));
        }
        if start > self.start {
            let count = (start.0 - self.start.0) as usize;
            self.report.trimmed += count as u64;
            self.held.drain(..count.min(self.held.len()));
            self.start = start;
        }
        Ok(())
    }

    fn read(&mut self) -> Step {
        self.report.reads += 1;
        let after = Lsn(self.rng.random_range(self.start.0 - 1..=self.head.0 + 1));
        let max_bytes = self.rng.random_range(0..6_000);
        let found = match self.log()?.read(after, max_bytes) {
            Err(Error::Io { .. }) => return Ok(()),
            found => found.map_err(|e| format!("read after {after}: {e}"))?,
        };
        if found.is_empty() != (after >= self.head) {
            return Err(format!("{} commits after {after}, head {}", found.len(), self.head));
        }
        let skip = (after.next().0 - self.start.0) as usize;
        for (commit, expected) in found.iter().zip(self.held.range(skip.min(self.held.len())..)) {
            compare(commit, expected, &self.held)?;
        }
        Ok(())
    }

    /// Writes that are on their way arrive.
    fn land(&mut self) -> Step {
        let bucket = self.bucket.clone();
        wait(async move { bucket.settle().await }).map_err(|e| e.to_string())
    }

    /// Flips one bit of a segment in a copy of the bucket; the copy's log must say so.
    fn flip(&mut self) -> Step {
        let copied = wait(copy(self.bucket.clone())).map_err(|e| e.to_string())??;
        let place = self.place(Arc::new(copied.clone()))?;
        let names = {
            let place = place.clone();
            wait(async move { place.list().await }).map_err(|e| e.to_string())?
        };
        let mut names = names.map_err(|e| e.to_string())?;
        // Only what the log reads: the segments from its start on.
        let start = self.log()?.start();
        names.retain(|(name, _)| {
            crate::stored::Place::parse(name).is_some_and(|place| place.first >= start)
        });
        let Some((name, bytes)) = names.pop() else { return Ok(()) };
        let bit = self.rng.random_range(0..bytes * 8);
        let at = place.clone();
        let flipped = wait(async move {
            let mut bytes = at.get(&name).await.ok().flatten().unwrap_or_default().to_vec();
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            at.put(&name, bytes).await
        });
        flipped.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        self.report.flips += 1;
        let options = ObjectOptions { cache_bytes: 0, ..ObjectOptions::default() };
        match ObjectLog::open(&place, &options).map(|log| log.head()) {
            Err(Error::Corrupt { .. }) => Ok(()),
            other => Err(format!("a bit of the last segment was flipped: {other:?}")),
        }
    }
}

/// A faultless copy of a bucket.
async fn copy(bucket: FaultyStore) -> Result<FaultyStore, String> {
    let copied = FaultyStore::new(0, Faults::default());
    let objects: Vec<_> = bucket.list(None).try_collect().await.map_err(|e| e.to_string())?;
    for object in objects {
        let bytes = loop {
            if let Ok(found) = bucket.get(&object.location).await {
                break found.bytes().await.map_err(|e| e.to_string())?;
            }
        };
        copied.put(&object.location, bytes.into()).await.map_err(|e| e.to_string())?;
    }
    Ok(copied)
}
