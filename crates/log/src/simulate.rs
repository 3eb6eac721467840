//! A log on a simulated disk, run for random steps against a model of what it promised.
//!
//! Checked after every reopen and in random reads: each acknowledged commit is there once, in
//! order, byte for byte; a group whose append failed is there whole, in part from its beginning, or
//! not at all, and once it was seen it stays; a group whose error said that nothing happened is
//! not there; flipped bits in durable bytes are reported. The error of [`simulate`] names the
//! promise that was broken. Everything follows from the seed; nothing is printed.

use crate::sim::SimDisk;
use crate::{Commit, Disk, Error, LocalLog, Log, Options, Producer, Write};
use bytes::Bytes;
use kaplan_base::{Lsn, StreamId};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use std::sync::Arc;

/// How often opening is tried again after a fault that was injected into it.
const OPEN_ATTEMPTS: u32 = 100;
/// The model trims when it holds more commits than this, so that checks stay quick.
const MAX_HELD: usize = 200;

/// What a simulation did. `lost` and `doubled` are zero whenever there is a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Random steps taken.
    pub steps: u64,
    /// Commits acknowledged, or found after an append whose outcome was unknown.
    pub acknowledged: u64,
    /// Acknowledged commits that were absent.
    pub lost: u64,
    /// Commits found at a second LSN.
    pub doubled: u64,
    /// Losses of power, those within an operation included.
    pub crashes: u64,
    /// Ends of the process that left the page cache.
    pub kills: u64,
    /// Times that the log was opened.
    pub reopened: u64,
    /// Commits of failed appends that were found after reopening.
    pub recovered: u64,
    /// Bytes of torn tails that were cut off.
    pub cut_bytes: u64,
    /// Failed syncs that poisoned the log.
    pub failed_syncs: u64,
    /// Appends refused for lack of space.
    pub disk_full: u64,
    /// Commits trimmed.
    pub trimmed: u64,
    /// Random reads compared.
    pub reads: u64,
    /// Flipped bits in durable bytes, each of which was reported.
    pub flips: u64,
}

/// Runs `steps` random steps.
///
/// # Errors
/// The promise that the log broke, with the seed and the step.
pub fn simulate(seed: u64, steps: u64) -> Result<Report, String> {
    simulate_on(seed, steps, &|disk| Arc::new(disk))
}

/// As [`simulate`], with a disk between the log and the simulated one, such as one that lies.
///
/// # Errors
/// As [`simulate`].
pub fn simulate_on(
    seed: u64,
    steps: u64,
    wrap: &dyn Fn(SimDisk) -> Arc<dyn Disk>,
) -> Result<Report, String> {
    let mut world = World::new(seed, wrap);
    let run = |world: &mut World| {
        world.reopen()?;
        for step in 1..=steps {
            world.report.steps = step;
            world.step()?;
        }
        world.crash()
    };
    run(&mut world).map_err(|e| format!("seed {seed}, step {}: {e}", world.report.steps))?;
    Ok(world.report)
}

struct World<'a> {
    rng: ChaCha8Rng,
    wrap: &'a dyn Fn(SimDisk) -> Arc<dyn Disk>,
    disk: SimDisk,
    log: Option<LocalLog>,
    /// The acknowledged commits from `start` on.
    held: VecDeque<Commit>,
    start: Lsn,
    head: Lsn,
    /// The last group, if its append failed and may have happened.
    unknown: Vec<Commit>,
    /// A trim up to here may have happened.
    trimming: Lsn,
    /// Counts the commits ever made, which tells them apart.
    serial: u64,
    report: Report,
}

type Step = Result<(), String>;

impl<'a> World<'a> {
    fn new(seed: u64, wrap: &'a dyn Fn(SimDisk) -> Arc<dyn Disk>) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            wrap,
            disk: SimDisk::new(seed),
            log: None,
            held: VecDeque::new(),
            start: Lsn(1),
            head: Lsn::ZERO,
            unknown: Vec::new(),
            trimming: Lsn::ZERO,
            serial: 0,
            report: Report::default(),
        }
    }

    fn step(&mut self) -> Step {
        match self.rng.random_range(0..100) {
            0..60 => self.append(),
            60..75 => self.read(),
            75..78 => self.trim(),
            78..82 => self.mark(),
            82..85 => self.crash(),
            85..87 => self.kill(),
            87..89 => self.reopen(),
            89..92 => {
                let changes = self.rng.random_range(0..12);
                self.disk.power_off_after(changes);
                Ok(())
            }
            92..94 => {
                self.disk.fail_syncs(1);
                Ok(())
            }
            94..96 => {
                let room = self.rng.random_range(0..4_000);
                self.disk.set_capacity(Some(self.disk.used() + room));
                Ok(())
            }
            96..98 => {
                self.disk.set_capacity(None);
                Ok(())
            }
            _ => self.flip(),
        }
    }

    fn log(&self) -> Result<&LocalLog, String> {
        self.log.as_ref().ok_or_else(|| "no log is open".to_owned())
    }

    fn commit(&mut self, lsn: Lsn) -> Commit {
        commit(&mut self.rng, &mut self.serial, lsn)
    }

    fn append(&mut self) -> Step {
        let size = if self.rng.random() { 1 } else { self.rng.random_range(2..9) };
        let group: Vec<Commit> = (1..=size).map(|n| self.commit(Lsn(self.head.0 + n))).collect();
        match self.log()?.append(&group) {
            Ok(()) => {
                self.acknowledge(group);
                if self.held.len() > MAX_HELD { self.trim() } else { Ok(()) }
            }
            Err(e) if self.disk.is_off() => {
                self.unknown = if e.may_have_happened() { group } else { vec![] };
                self.crash()
            }
            Err(Error::DiskFull { .. }) => {
                self.report.disk_full += 1;
                self.check_head()?;
                if self.rng.random() {
                    self.disk.set_capacity(None);
                }
                Ok(())
            }
            Err(e @ Error::Failed { .. }) => {
                self.report.failed_syncs += 1;
                self.unknown = if e.may_have_happened() { group } else { vec![] };
                self.reopen_poisoned()
            }
            Err(e) => Err(format!("an append failed without an injected fault: {e}")),
        }
    }

    fn acknowledge(&mut self, group: Vec<Commit>) {
        self.report.acknowledged += group.len() as u64;
        self.head = Lsn(self.head.0 + group.len() as u64);
        self.held.extend(group);
    }

    fn check_head(&self) -> Step {
        let head = self.log()?.head();
        if head == self.head {
            return Ok(());
        }
        Err(format!("the head is {head}, and {} is acknowledged", self.head))
    }

    fn reopen_poisoned(&mut self) -> Step {
        let next = self.commit(self.head.next());
        match self.log()?.append(&[next]) {
            Err(Error::Poisoned { .. }) => {}
            other => return Err(format!("an append to a poisoned log gave {other:?}")),
        }
        self.check_head()?;
        match self.rng.random_range(0..3) {
            0 => self.crash(),
            1 => self.kill(),
            _ => self.reopen(),
        }
    }

    fn crash(&mut self) -> Step {
        self.report.crashes += 1;
        self.disk = self.disk.crash(self.rng.random());
        self.reopen()
    }

    fn kill(&mut self) -> Step {
        if self.disk.is_off() {
            return self.crash();
        }
        self.report.kills += 1;
        self.disk = self.disk.kill();
        self.reopen()
    }

    /// Closes the log and opens it again, through faults injected into that.
    fn reopen(&mut self) -> Step {
        self.log = None;
        for _ in 0..OPEN_ATTEMPTS {
            if self.disk.is_off() {
                self.report.crashes += 1;
                self.disk = self.disk.crash(self.rng.random());
            }
            let options = Options {
                segment_bytes: 8_000,
                cache_bytes: [0, 5_000, 1 << 20][self.rng.random_range(0..3)],
                ..Options::default()
            };
            match LocalLog::open_on((self.wrap)(self.disk.clone()), options) {
                Ok(log) => {
                    self.report.reopened += 1;
                    self.report.cut_bytes += log.recovery().cut_bytes;
                    self.log = Some(log);
                    return self.check();
                }
                Err(Error::DiskFull { .. }) => self.disk.set_capacity(None),
                Err(Error::Io { .. }) => {}
                Err(e) if self.disk.is_off() => drop(e),
                Err(e) => return Err(format!("lost: the log does not open any more: {e}")),
            }
        }
        Err(format!("the log does not open after {OPEN_ATTEMPTS} attempts"))
    }

    /// Compares all of a reopened log with the model, and takes over what was unknown.
    fn check(&mut self) -> Step {
        let (start, head) = (self.log()?.start(), self.log()?.head());
        self.forget_to(start)?;
        let found = self.read_all(start)?;
        let mut expected: Vec<&Commit> = self.held.iter().collect();
        expected.extend(&self.unknown);
        for (commit, expected) in found.iter().zip(&expected) {
            compare(commit, expected, &self.held)?;
        }
        if head < self.head {
            return Err(format!("lost: commits after {head} up to {} are absent", self.head));
        }
        if found.len() > expected.len() || found.len() as u64 != head.0 + 1 - start.0 {
            return Err(format!(
                "doubled: {} commits where {} are due",
                found.len(),
                expected.len()
            ));
        }
        let kept = found.len() - self.held.len();
        let kept: Vec<Commit> = self.unknown.drain(..).take(kept).collect();
        self.report.recovered += kept.len() as u64;
        self.acknowledge(kept);
        Ok(())
    }

    fn read_all(&self, start: Lsn) -> Result<Vec<Commit>, String> {
        let log = self.log()?;
        let (mut after, mut found) = (start.previous(), Vec::new());
        loop {
            let page = log.read(after, 3_000).map_err(|e| format!("lost: read: {e}"))?;
            let Some(last) = page.last() else { return Ok(found) };
            after = last.lsn;
            found.extend(page);
        }
    }

    /// Drops from the model what a trim removed.
    fn forget_to(&mut self, start: Lsn) -> Step {
        if start < self.start {
            return Err(format!("trimmed commits came back: {start} before {}", self.start));
        }
        if start > self.start && start > self.trimming.next() {
            return Err(format!("lost: the log begins at {start}, trimmed to {}", self.trimming));
        }
        let count = (start.0 - self.start.0) as usize;
        self.report.trimmed += count as u64;
        self.held.drain(..count.min(self.held.len()));
        self.start = start;
        Ok(())
    }

    fn trim(&mut self) -> Step {
        let through = Lsn(self.rng.random_range(self.start.0.saturating_sub(1)..=self.head.0));
        self.trimming = self.trimming.max(through);
        match self.log()?.trim(through) {
            Ok(()) => self.forget_to(self.log()?.start()),
            Err(_) if self.disk.is_off() => self.crash(),
            Err(Error::Failed { .. }) => {
                self.report.failed_syncs += 1;
                self.reopen_poisoned()
            }
            Err(e) => Err(format!("trim: {e}")),
        }
    }

    fn mark(&mut self) -> Step {
        match self.log()?.mark_durable() {
            Err(_) if self.disk.is_off() => self.crash(),
            // A full disk or a failed sync of the mark leaves the log as it was.
            Ok(()) | Err(Error::Io { .. }) => Ok(()),
            Err(e) => Err(format!("mark: {e}")),
        }
    }

    fn read(&mut self) -> Step {
        self.report.reads += 1;
        let after = Lsn(self.rng.random_range(0..=self.head.0 + 1));
        let max_bytes = self.rng.random_range(0..6_000);
        let found = match self.log()?.read(after, max_bytes) {
            Err(_) if self.disk.is_off() => return self.crash(),
            Err(Error::Trimmed { start }) if start == self.start && after.next() < start => {
                return Ok(());
            }
            found => found.map_err(|e| format!("read after {after}: {e}"))?,
        };
        if after.next() < self.start {
            return Err(format!("trimmed commits after {after} were read"));
        }
        if found.is_empty() != (after >= self.head) {
            return Err(format!("{} commits after {after}, head {}", found.len(), self.head));
        }
        let skip = (after.next().0 - self.start.0) as usize;
        for (commit, expected) in found.iter().zip(self.held.range(skip.min(self.held.len())..)) {
            compare(commit, expected, &self.held)?;
        }
        Ok(())
    }

    /// Flips one bit of what is durable in a copy of the disk; the copy's log must say so.
    fn flip(&mut self) -> Step {
        match self.log()?.mark_durable() {
            Err(_) if self.disk.is_off() => return self.crash(),
            // Without a new mark, damage of the last group would rightly count as a torn tail.
            Err(_) => return Ok(()),
            Ok(()) => {}
        }
        let copy = self.disk.fork();
        copy.power_off_after(u64::MAX);
        copy.fail_syncs(0);
        let flipped = self.flip_bit(&copy);
        let Some((name, bit)) = flipped.map_err(|e| format!("flip: {e}"))? else { return Ok(()) };
        self.report.flips += 1;
        let options = Options { cache_bytes: 0, ..Options::default() };
        let read = LocalLog::open_on(Arc::new(copy), options).and_then(|log| {
            let mut after = log.start().previous();
            while let Some(last) = log.read(after, 1 << 20)?.last() {
                after = last.lsn;
            }
            Ok(after)
        });
        match read {
            Err(Error::Corrupt { .. }) => Ok(()),
            other => Err(format!("bit {bit} of {name} was flipped, and reading gave {other:?}")),
        }
    }

    fn flip_bit(&mut self, disk: &SimDisk) -> std::io::Result<Option<(String, u64)>> {
        if disk.is_off() {
            return Ok(None);
        }
        let mut names = disk.list()?;
        names.retain(|name| !name.ends_with(crate::disk::STAGED));
        let name = names.swap_remove(self.rng.random_range(0..names.len()));
        let file = disk.open(&name)?;
        let bit = self.rng.random_range(0..file.len()? * 8);
        let mut byte = [0];
        file.read_at(bit / 8, &mut byte)?;
        file.write_at(bit / 8, &[byte[0] ^ (1 << (bit % 8))])?;
        Ok(Some((name, bit)))
    }
}

/// A random commit; its serial number is its time.
pub(crate) fn commit(rng: &mut ChaCha8Rng, serial: &mut u64, lsn: Lsn) -> Commit {
    *serial += 1;
    let mut writes = Vec::new();
    for _ in 0..rng.random_range(1..3) {
        let len = [0, 10, 100, 2_000][rng.random_range(0..4)];
        let mut payload = serial.to_le_bytes().to_vec();
        payload.extend((0..rng.random_range(0..=len)).map(|_| rng.random::<u8>()));
        writes.push(Write {
            stream: StreamId(rng.random_range(0..4)),
            rows: rng.random(),
            watermark_us: rng.random::<bool>().then_some(*serial as i64),
            payload: Bytes::from(payload),
        });
    }
    let producer = Producer { id: format!("p{}", *serial % 7), sequence: *serial };
    let producer = rng.random::<bool>().then_some(producer);
    Commit { lsn, time_us: *serial as i64, producer, writes }
}

/// Tells a doubled commit from a damaged one by its serial number, which is its time.
pub(crate) fn compare(found: &Commit, expected: &Commit, held: &VecDeque<Commit>) -> Step {
    if found == expected {
        return Ok(());
    }
    let same = |commit: &&Commit| commit.time_us == found.time_us && commit.lsn != found.lsn;
    match held.iter().find(same) {
        Some(first) => {
            Err(format!("doubled: commit {} is found again at {}", first.lsn, found.lsn))
        }
        None => Err(format!("lost: commit {} is not the one acknowledged", expected.lsn)),
    }
}
