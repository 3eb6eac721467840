//! `LocalLog` where the outcome is known exactly: damage, torn tails, failures, limits.

use crate::small;
use kaplan_base::{Lsn, Remedy};
use kaplan_log::conformance::sample;
use kaplan_log::disk::Disk;
use kaplan_log::sim::SimDisk;
use kaplan_log::{Commit, Error, LocalLog, Log, Options};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

fn open(disk: &SimDisk, options: Options) -> Result<LocalLog, Error> {
    LocalLog::open_on(Arc::new(disk.clone()), options)
}

fn filled(disk: &SimDisk, commits: u64) -> LocalLog {
    let log = open(disk, Options::default()).unwrap();
    for lsn in 1..=commits {
        log.append(&[sample(lsn, 100)]).unwrap();
    }
    log
}

const FIRST: &str = "00000000000000000001.log";

fn len(disk: &SimDisk, name: &str) -> u64 {
    disk.open(name).unwrap().len().unwrap()
}

fn flip(disk: &SimDisk, name: &str, at: u64) {
    let file = disk.open(name).unwrap();
    let mut byte = [0];
    file.read_at(at, &mut byte).unwrap();
    file.write_at(at, &[byte[0] ^ 4]).unwrap();
}

fn corrupt<T>(result: Result<T, Error>) -> (String, u64) {
    match result.map(|_| ()) {
        Err(e @ Error::Corrupt { .. }) => {
            assert_eq!((e.remedy(), e.may_have_happened()), (Remedy::Report, false));
            let Error::Corrupt { segment, offset, .. } = e else { unreachable!() };
            (segment, offset)
        }
        other => panic!("expected corruption, found {other:?}"),
    }
}

#[test]
fn a_directory_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = LocalLog::open(dir.path(), small()).unwrap();
    assert!(matches!(LocalLog::open(dir.path(), small()), Err(Error::Locked)));
    drop(log);
    LocalLog::open(dir.path(), small()).unwrap();
}

#[test]
fn an_empty_directory_begins_at_the_lsn_given() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { first_lsn: Lsn(501), ..small() };
    let log = LocalLog::open(dir.path(), options).unwrap();
    assert_eq!((log.head(), log.start()), (Lsn(500), Lsn(501)));
    assert!(matches!(log.append(&[sample(1, 1)]), Err(Error::NotConsecutive { .. })));
    log.append(&[sample(501, 1)]).unwrap();
    drop(log);
    assert_eq!(LocalLog::open(dir.path(), small()).unwrap().head(), Lsn(501));
}

/// The last commit was acknowledged; the mark written on close convicts its damage.
#[test]
fn damage_of_the_last_commit_below_the_mark_is_corruption() {
    let disk = SimDisk::new(1);
    drop(filled(&disk, 3));
    flip(&disk, FIRST, len(&disk, FIRST) - 1);
    assert_eq!(corrupt(open(&disk, small())).0, FIRST);
}

/// Without a mark, the claim in the frame that follows convicts damage, also of a frame's length.
#[test]
fn damage_below_a_later_frames_claim_is_corruption() {
    for field in [4, 12, 20, 26, 30, 40] {
        let disk = SimDisk::new(1);
        let log = filled(&disk, 2);
        let second = 64 + (len(&disk, FIRST) - 64) / 2;
        let at = 64 + field;
        assert!(at < second);
        let disk = disk.kill();
        drop(log);
        flip(&disk, FIRST, at);
        assert_eq!(corrupt(open(&disk, small())), (FIRST.to_owned(), 64));
    }
}

/// The last frame without a mark cannot be told from a torn write, and is cut; the log goes on.
#[test]
fn a_torn_tail_is_cut() {
    let disk = SimDisk::new(1);
    let log = filled(&disk, 3);
    let disk = disk.kill();
    drop(log);
    let file = disk.open(FIRST).unwrap();
    file.truncate(file.len().unwrap() - 1).unwrap();
    let log = open(&disk, small()).unwrap();
    assert_eq!(log.head(), Lsn(2));
    assert!(log.recovery().cut_bytes > 0);
    log.append(&[sample(3, 7)]).unwrap();
    let disk = disk.crash(9);
    assert_eq!(open(&disk, small()).unwrap().read(Lsn(2), 1).unwrap(), [sample(3, 7)]);
}

/// A payload that contains a whole segment file does not confuse the search beyond a torn frame.
#[test]
fn a_payload_cannot_imitate_a_claim() {
    let disk = SimDisk::new(1);
    let log = filled(&disk, 3);
    let file = disk.open(FIRST).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    let other = SimDisk::new(2);
    other.nonce();
    let log_of_other = open(&other, small()).unwrap();
    let mut commit = sample(1, 0);
    commit.writes[0].payload = bytes.into();
    log_of_other.append(&[commit]).unwrap();
    let other = other.kill();
    drop((log, log_of_other));
    flip(&other, FIRST, 100);
    assert_eq!(open(&other, small()).unwrap().head(), Lsn(0));
}

#[test]
fn missing_files_are_named() {
    let names = |disk: &SimDisk| {
        let mut names = disk.list().unwrap();
        names.retain(|name| name.ends_with(".log"));
        names
    };
    for missing in [1, 2, usize::MAX] {
        let disk = SimDisk::new(1);
        let log = open(&disk, small()).unwrap();
        for lsn in 1..=100 {
            log.append(&[sample(lsn, 500)]).unwrap();
        }
        drop(log);
        let names = names(&disk);
        let name = &names[missing.min(names.len() - 1)];
        disk.remove(name).unwrap();
        assert_eq!(&corrupt(open(&disk, small())).0, name);
    }
}

#[test]
fn damage_in_a_sealed_segment_is_reported_by_the_read_that_meets_it() {
    let disk = SimDisk::new(1);
    let log = open(&disk, small()).unwrap();
    for lsn in 1..=100 {
        log.append(&[sample(lsn, 500)]).unwrap();
    }
    flip(&disk, FIRST, 1_000);
    let (segment, offset) = corrupt(log.read(Lsn(0), 1 << 20));
    assert!(segment == FIRST && offset < 1_000, "{segment} {offset}");
    assert_eq!(log.read(Lsn(50), 0).unwrap(), [sample(51, 500)]);
    drop(log);
    let file = disk.open(FIRST).unwrap();
    file.truncate(file.len().unwrap() - 1).unwrap();
    assert_eq!(corrupt(open(&disk, small())).0, FIRST, "its sealed length does not match");
}

#[test]
fn a_full_disk_refuses_and_then_goes_on() {
    let disk = SimDisk::new(1);
    let log = filled(&disk, 3);
    disk.set_capacity(Some(disk.used() + 100));
    for _ in 0..3 {
        let error = log.append(&[sample(4, 50), sample(5, 400)]).unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        assert_eq!((error.remedy(), error.may_have_happened()), (Remedy::Retry, false));
    }
    assert_eq!(log.head(), Lsn(3));
    disk.set_capacity(None);
    log.append(&[sample(4, 9)]).unwrap();
    assert_eq!(open(&disk.crash(1), small()).unwrap().read(Lsn(3), 0).unwrap(), [sample(4, 9)]);
}

/// A failed sync leaves bytes in the page cache that the disk never got. The log neither shows nor
/// extends them, and once a reopened log shows them, they survive a crash.
#[test]
fn a_failed_sync_poisons_until_reopened() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let log = filled(&disk, 3);
        disk.fail_syncs(1);
        let error = log.append(&[sample(4, 3_000)]).unwrap_err();
        assert_eq!((error.remedy(), error.may_have_happened()), (Remedy::Reopen, true));
        let error = log.append(&[sample(4, 1)]).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }) && !error.may_have_happened());
        assert_eq!((log.head(), log.read(Lsn(3), 1).unwrap()), (Lsn(3), vec![]));
        drop(log);
        let log = open(&disk, small()).unwrap();
        assert_eq!(log.head(), Lsn(4), "the cache shows the commit");
        let disk = disk.crash(seed);
        drop(log);
        let log = open(&disk, small()).unwrap();
        assert_eq!(log.read(Lsn(3), 1).unwrap(), [sample(4, 3_000)]);
    }
}

/// Whatever bytes the files hold, opening and reading neither panic nor invent commits.
#[test]
fn mutated_files_are_refused_or_read_truly() {
    let source = SimDisk::new(1);
    let log = open(&source, small()).unwrap();
    for lsn in 1..=20 {
        log.append(&[sample(lsn, 300)]).unwrap();
    }
    drop(log);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut refused = 0;
    for _ in 0..2_000 {
        let disk = source.fork();
        let names = disk.list().unwrap();
        for _ in 0..rng.random_range(1..4) {
            mutate(&disk, &names[rng.random_range(0..names.len())], &mut rng);
        }
        match read_all(&disk) {
            Err(_) => refused += 1,
            Ok(found) => {
                let expected: Vec<Commit> = (1..=20).map(|lsn| sample(lsn, 300)).collect();
                assert_eq!(found, expected);
            }
        }
    }
    assert!(refused > 1_500, "{refused}");
}

fn read_all(disk: &SimDisk) -> Result<Vec<Commit>, Error> {
    let log = open(disk, Options { cache_bytes: 0, ..small() })?;
    let mut found: Vec<Commit> = Vec::new();
    loop {
        let after = found.last().map_or(log.start().previous(), |last| last.lsn);
        let page = log.read(after, 1_000)?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page);
    }
}

fn mutate(disk: &SimDisk, name: &str, rng: &mut ChaCha8Rng) {
    let file = disk.open(name).unwrap();
    let len = file.len().unwrap();
    let at = rng.random_range(0..len.max(1));
    match rng.random_range(0..5) {
        0 => file.truncate(at).unwrap(),
        1 => file.write_at(len, &vec![rng.random(); rng.random_range(1..200)]).unwrap(),
        2 => file.write_at(at, &[0xff; 8]).unwrap(),
        3 => file.write_at(at, &rng.random::<[u8; 4]>()).unwrap(),
        _ => {
            let mut copy = vec![0; rng.random_range(0..=(len - at.min(len)).min(600)) as usize];
            file.read_at(at, &mut copy).unwrap();
            file.write_at(rng.random_range(0..len.max(1)), &copy).unwrap();
        }
    }
}
