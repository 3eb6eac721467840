//! What every backend of [`Log`] does, as cases that each take an empty place for a log.
//!
//! `open` opens the log of one place, and again after the one opened before was dropped. A case
//! returns what was wrong. Small segments make the cases about trimming say more.

use crate::{Commit, Error, Log, Producer, Write};
use bytes::Bytes;
use kaplan_base::limits::MAX_COMMIT_BYTES;
use kaplan_base::{Lsn, StreamId};
use std::fmt::Debug;
use std::time::Duration;

/// Opens the log of one place.
pub type Open<'a> = dyn Fn() -> Result<Box<dyn Log>, Error> + 'a;

/// A case's outcome; the error says what was wrong.
pub type Outcome = Result<(), String>;

/// A named case.
#[derive(Clone, Copy)]
pub struct Case {
    /// What the case shows.
    pub name: &'static str,
    /// Runs it in an empty place.
    pub run: fn(&Open) -> Outcome,
}

/// All cases.
pub const CASES: &[Case] = &[
    Case { name: "a new log is empty", run: empty },
    Case { name: "commits are read back byte for byte", run: read_back },
    Case { name: "LSNs that do not continue the log are refused", run: not_consecutive },
    Case { name: "commits over the limit are refused", run: too_large },
    Case { name: "a reopened log goes on where it was", run: reopen },
    Case { name: "reads respect the size asked for", run: read_sizes },
    Case { name: "trimming frees old commits and no others", run: trim },
    Case { name: "the head survives trimming everything", run: trim_all },
    Case { name: "waiting ends when a commit comes", run: wait },
    Case { name: "readers beside the writer see whole prefixes", run: concurrent },
];

/// A commit whose content follows from its LSN, for tests.
#[must_use]
pub fn sample(lsn: u64, bytes: usize) -> Commit {
    let byte = |i: usize| (lsn as usize).wrapping_mul(31).wrapping_add(i) as u8;
    let write = |stream, watermark_us, len: usize| Write {
        stream: StreamId(stream),
        rows: lsn as u32,
        watermark_us,
        payload: (0..len).map(byte).collect::<Vec<u8>>().into(),
    };
    let producer = Producer { id: format!("producer-ü-{lsn}"), sequence: lsn * 3 };
    let mut writes = vec![write(1, None, bytes)];
    if lsn.is_multiple_of(2) {
        writes.push(write(2, Some(-(lsn as i64)), 0));
    }
    Commit {
        lsn: Lsn(lsn),
        time_us: 1_000 + lsn as i64,
        producer: lsn.is_multiple_of(3).then_some(producer),
        writes,
    }
}

fn samples(from: u64, to: u64, bytes: usize) -> Vec<Commit> {
    (from..=to).map(|lsn| sample(lsn, bytes)).collect()
}

fn ok<T>(what: &str, result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Outcome {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: found {found:?}, expected {expected:?}"))
}

/// Every commit after `after`, by repeated reads.
fn drain(log: &dyn Log, mut after: Lsn, max_bytes: usize) -> Result<Vec<Commit>, String> {
    let mut all = Vec::new();
    loop {
        let page = ok("read", log.read(after, max_bytes))?;
        let Some(last) = page.last() else { return Ok(all) };
        after = last.lsn;
        all.extend(page);
    }
}

fn empty(open: &Open) -> Outcome {
    let log = ok("open", open())?;
    same("head", log.head(), Lsn(0))?;
    same("start", log.start(), Lsn(1))?;
    same("read", ok("read", log.read(Lsn(0), 1 << 20))?, vec![])?;
    ok("append nothing", log.append(&[]))?;
    ok("trim", log.trim(Lsn(9)))?;
    same("head after a wait", log.wait(Lsn(0), Duration::from_millis(1)), Lsn(0))
}

fn read_back(open: &Open) -> Outcome {
    let log = ok("open", open())?;
    let mut commits = samples(1, 6, 50);
    commits.push(Commit { lsn: Lsn(7), time_us: i64::MIN, producer: None, writes: vec![] });
    ok("append one", log.append(&commits[..1]))?;
    ok("append a group", log.append(&commits[1..]))?;
    same("head", log.head(), Lsn(7))?;
    same("commits", drain(&*log, Lsn(0), 1 << 20)?, commits.clone())?;
    same("later commits", drain(&*log, Lsn(5), 1 << 20)?, commits[5..].to_vec())?;
    same("commits past the head", drain(&*log, Lsn(70), 1 << 20)?, vec![])?;
    let payload: u64 = 6 * 50;
    same("bytes cover the payloads", log.bytes() >= payload, true)
}

fn not_consecutive(open: &Open) -> Outcome {
    let log = ok("open", open())?;
    ok("append", log.append(&samples(1, 2, 10)))?;
    for group in [vec![sample(2, 1)], vec![sample(4, 1)], vec![sample(3, 1), sample(5, 1)]] {
        match log.append(&group) {
            Err(e @ Error::NotConsecutive { .. }) if !e.may_have_happened() => {}
            other => return Err(format!("appending {:?} gave {other:?}", group[0].lsn)),
        }
    }
    same("commits", drain(&*log, Lsn(0), 1 << 20)?, samples(1, 2, 10))
}

fn too_large(open: &Open) -> Outcome {
    let log = ok("open", open())?;
    let mut large = sample(1, 0);
    large.writes[0].payload = Bytes::from(vec![0; MAX_COMMIT_BYTES]);
    let mut named = sample(1, 0);
    named.producer = Some(Producer { id: "x".repeat(70_000), sequence: 1 });
    for commit in [large, named] {
        match log.append(&[commit]) {
            Err(Error::TooLarge { .. }) => {}
            other => return Err(format!("appending a commit over the limit gave {other:?}")),
        }
    }
    ok("append", log.append(&[sample(1, 1)]))
}

fn reopen(open: &Open) -> Outcome {
    for round in 0..5 {
        let log = ok("open", open())?;
        same("head", log.head(), Lsn(round * 20))?;
        ok("append", log.append(&samples(round * 20 + 1, round * 20 + 15, 700)))?;
        ok("append", log.append(&samples(round * 20 + 16, round * 20 + 20, 0)))?;
    }
    let log = ok("open", open())?;
    let expected: Vec<Commit> =
        (1..=100).map(|n| sample(n, if (n - 1) % 20 < 15 { 700 } else { 0 })).collect();
    same("commits", drain(&*log, Lsn(0), 3_000)?, expected)
}

fn read_sizes(open: &Open) -> Outcome {
    let log = ok("open", open())?;
    for lsn in 1..=60 {
        ok("append", log.append(&[sample(lsn, 1_000)]))?;
    }
    for after in [0, 1, 17, 58, 59] {
        let one = ok("read", log.read(Lsn(after), 0))?;
        same("a read of no bytes", one, vec![sample(after + 1, 1_000)])?;
    }
    let few = ok("read", log.read(Lsn(10), 5_000))?;
    same("a read of 5000 bytes holds 3 to 5 commits", (3..=5).contains(&few.len()), true)?;
    same("commits", drain(&*log, Lsn(0), 2_500)?, samples(1, 60, 1_000))
}

fn trim(open: &Open) -> Outcome {
    let log = ok("open", open())?;
    for lsn in 1..=100 {
        ok("append", log.append(&[sample(lsn, 500)]))?;
    }
    let before = log.bytes();
    ok("trim", log.trim(Lsn(60)))?;
    let start = log.start();
    same("the start is not past the trimmed commits", start <= Lsn(61), true)?;
    same("bytes shrink if commits went", log.bytes() < before, start > Lsn(1))?;
    same("commits", drain(&*log, Lsn(60), 4_000)?, samples(61, 100, 500))?;
    if start > Lsn(1) {
        match log.read(Lsn(0), 1_000) {
            Err(Error::Trimmed { start: told }) if told == start => {}
            other => return Err(format!("reading trimmed commits gave {other:?}")),
        }
    }
    drop(log);
    let log = ok("open", open())?;
    same("start after a reopen", log.start(), start)?;
    same("commits", drain(&*log, start.previous(), 4_000)?, samples(start.0, 100, 500))
}

fn trim_all(open: &Open) -> Outcome {
    for round in 0..4 {
        let log = ok("open", open())?;
        same("head", log.head(), Lsn(round * 30))?;
        for lsn in round * 30 + 1..=round * 30 + 30 {
            ok("append", log.append(&[sample(lsn, 500)]))?;
        }
        ok("trim", log.trim(Lsn(u64::MAX)))?;
        same("head", log.head(), Lsn(round * 30 + 30))?;
    }
    same("head", ok("open", open())?.head(), Lsn(120))
}

fn wait(open: &Open) -> Outcome {
    let log = ok("open", open())?;
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| log.wait(Lsn(1), Duration::from_secs(60)));
        let appended = log.append(&[sample(1, 1)]).and_then(|()| log.append(&[sample(2, 1)]));
        ok("append", appended)?;
        let head = waiter.join().map_err(|_| "the waiting thread died".to_owned())?;
        same("head", head, Lsn(2))
    })?;
    same("a wait for what is there", log.wait(Lsn(1), Duration::from_secs(60)), Lsn(2))
}

fn concurrent(open: &Open) -> Outcome {
    let log = ok("open", open())?;
    std::thread::scope(|scope| {
        let follow = || -> Outcome {
            let mut after = Lsn(0);
            while after < Lsn(300) {
                let head = log.wait(after, Duration::from_secs(60));
                same("a commit comes within a minute", head > after, true)?;
                for commit in ok("read", log.read(after, 3_000))? {
                    same("commit", &commit, &sample(after.0 + 1, 200))?;
                    same("the commit is not past the head", commit.lsn <= log.head(), true)?;
                    after = commit.lsn;
                }
            }
            Ok(())
        };
        let readers = [scope.spawn(follow), scope.spawn(follow)];
        for lsn in (1..=300).step_by(3) {
            ok("append", log.append(&samples(lsn, lsn + 2, 200)))?;
        }
        for reader in readers {
            reader.join().map_err(|_| "a reader died".to_owned())??;
        }
        Ok(())
    })
}
