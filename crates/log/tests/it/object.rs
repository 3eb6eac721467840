//! The log in a bucket: conformance in memory, on local files and on a real S3 server; who has the
//! log when two want it; the simulation.

use crate::s3::S3;
use kaplan_base::Lsn;
use kaplan_log::conformance::{CASES, sample};
use kaplan_log::simulate_objects::simulate;
use kaplan_log::{Error, Log, ObjectLog, ObjectOptions};
use kaplan_store::{Place, wait};
use object_store::memory::InMemory;
use std::sync::Arc;
use url::Url;

fn memory() -> Place {
    Place::over(Url::parse("memory:///bucket/log").unwrap(), Arc::new(InMemory::new())).unwrap()
}

fn small() -> ObjectOptions {
    ObjectOptions { cache_bytes: 3_000, ..ObjectOptions::default() }
}

fn conforms(new_place: impl Fn() -> Place) {
    for case in CASES {
        for options in [small(), ObjectOptions::default()] {
            let place = new_place();
            let open = || Ok(Box::new(ObjectLog::open(&place, &options)?) as Box<dyn Log>);
            (case.run)(&open).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        }
    }
}

#[test]
fn object_log_conforms_in_memory() {
    conforms(memory);
}

#[test]
fn object_log_conforms_on_local_files() {
    let dir = tempfile::tempdir().unwrap();
    let numbers = std::cell::Cell::new(0);
    conforms(|| {
        numbers.set(numbers.get() + 1);
        Place::open(dir.path().to_str().unwrap()).unwrap().below(&numbers.get().to_string())
    });
}

#[test]
fn the_newer_of_two_openings_has_the_log() {
    let place = memory();
    let open = || ObjectLog::open(&place, &ObjectOptions::default()).unwrap();
    let old = open();
    old.append(&[sample(1, 10)]).unwrap();
    let new = open();
    assert!(new.epoch() > old.epoch());
    assert_eq!(new.head(), Lsn(1));
    let refused = old.append(&[sample(2, 10)]).unwrap_err();
    assert!(matches!(refused, Error::Fenced { epoch } if epoch == new.epoch()), "{refused}");
    assert!(!refused.may_have_happened());
    assert!(refused.to_string().contains("another instance has taken over"), "{refused}");
    assert_eq!(old.head(), Lsn(1));
    new.append(&[sample(2, 20)]).unwrap();
    assert!(matches!(old.append(&[sample(2, 10)]), Err(Error::Fenced { .. })));
    assert_eq!(open().read(Lsn(0), 1 << 20).unwrap(), [sample(1, 10), sample(2, 20)]);
}

#[test]
fn an_idle_writer_finds_out_that_it_was_replaced() {
    let place = memory();
    let open = || ObjectLog::open(&place, &ObjectOptions::default()).unwrap();
    let old = open();
    old.mark_durable().unwrap();
    let new = open();
    assert!(matches!(old.mark_durable(), Err(Error::Fenced { .. })));
    new.mark_durable().unwrap();
}

/// The segment that began an epoch stays when everything around it is trimmed, so that a writer of
/// long ago finds its next name taken.
#[test]
fn a_writer_of_long_ago_is_still_fenced_after_everything_was_trimmed() {
    let place = memory();
    let open = || ObjectLog::open(&place, &ObjectOptions::default()).unwrap();
    let old = open();
    old.append(&[sample(1, 10)]).unwrap();
    let new = open();
    for lsn in 2..20 {
        new.append(&[sample(lsn, 10)]).unwrap();
        new.trim(Lsn(lsn)).unwrap();
    }
    assert_eq!(new.start(), Lsn(19));
    assert!(matches!(old.append(&[sample(2, 10)]), Err(Error::Fenced { .. })));
    assert_eq!(open().head(), Lsn(19));
}

/// A writer that had the log before trims what it had archived while the newer one opens it.
#[test]
fn what_the_writer_before_trimmed_meanwhile_is_trimmed() {
    let place = memory();
    let options = ObjectOptions { cache_bytes: 0, ..ObjectOptions::default() };
    let old = ObjectLog::open(&place, &options).unwrap();
    for lsn in 1..=5 {
        old.append(&[sample(lsn, 10)]).unwrap();
    }
    let new = ObjectLog::open(&place, &options).unwrap();
    old.trim(Lsn(3)).unwrap();
    assert!(matches!(new.read(Lsn(0), 0), Err(Error::Trimmed { start: Lsn(4) })));
    assert_eq!(new.start(), Lsn(4));
    assert_eq!(new.read(Lsn(3), 1 << 20).unwrap(), [sample(4, 10), sample(5, 10)]);
}

#[test]
fn a_missing_segment_is_not_skipped() {
    let place = memory();
    let log = ObjectLog::open(&place, &ObjectOptions::default()).unwrap();
    for lsn in 1..=5 {
        log.append(&[sample(lsn, 10)]).unwrap();
    }
    let at = place.clone();
    let names = wait(async move { at.list().await }).unwrap().unwrap();
    let third =
        names.into_iter().map(|(name, _)| name).find(|n| n.starts_with(&format!("{:020}", 3)));
    let at = place.clone();
    wait(async move { at.remove(third).await }).unwrap().unwrap();
    let log = ObjectLog::open(&place, &ObjectOptions::default()).unwrap();
    assert_eq!((log.start(), log.head()), (Lsn(4), Lsn(5)));
    assert!(matches!(log.read(Lsn(0), 1 << 20), Err(Error::Trimmed { start: Lsn(4) })));
}

#[test]
fn no_acknowledged_commit_is_lost_or_doubled_in_a_bucket_that_fails() {
    let mut all = [0; 10];
    for seed in 1..=20 {
        let report = simulate(seed, 1_000).unwrap();
        assert_eq!((report.lost, report.doubled), (0, 0));
        let faults = report.faults;
        let seen = [
            report.opened,
            report.fenced,
            report.unknown,
            report.recovered,
            report.trimmed,
            report.flips,
            faults.before,
            faults.after,
            faults.late,
            faults.other,
        ];
        all.iter_mut().zip(seen).for_each(|(sum, n)| *sum += n);
    }
    assert!(all.iter().all(|n| *n > 50), "every fault occurs: {all:?}");
}

#[test]
fn a_simulation_of_a_bucket_repeats_itself() {
    assert_eq!(simulate(5, 500), simulate(5, 500));
    assert_ne!(simulate(5, 500), simulate(6, 500));
}

#[test]
fn object_log_conforms_on_an_s3_server_and_fences_there() {
    let Some(s3) = S3::start() else { return };
    let numbers = std::cell::Cell::new(0);
    conforms(|| {
        numbers.set(numbers.get() + 1);
        s3.place(&format!("log/{}", numbers.get()))
    });
    two_writers_race(&s3.place("race"));
}

#[test]
fn of_two_writers_that_race_only_the_owner_acknowledges() {
    two_writers_race(&memory());
}

/// A writer appends as fast as it can while others take the log over: what each one acknowledged is
/// there, once and in order, and nobody acknowledges after it was replaced.
fn two_writers_race(place: &Place) {
    let options = ObjectOptions::default();
    let acknowledged = std::thread::scope(|scope| {
        let writers = (0..3).map(|n| {
            let options = options.clone();
            scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(n * 300));
                let log = ObjectLog::open(place, &options).unwrap();
                let mut own = Vec::new();
                while own.len() < 400 {
                    let commit = sample(log.head().0 + 1, 20 + n as usize);
                    match log.append(std::slice::from_ref(&commit)) {
                        Ok(()) => own.push(commit),
                        Err(Error::Fenced { epoch }) => {
                            assert!(epoch > log.epoch());
                            break;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                own
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().flat_map(|w| w.join().unwrap()).collect::<Vec<_>>()
    });
    let log = ObjectLog::open(place, &options).unwrap();
    let mut stored = Vec::new();
    let mut after = Lsn(0);
    while after < log.head() {
        let page = log.read(after, 1 << 20).unwrap();
        after = page.last().unwrap().lsn;
        stored.extend(page);
    }
    let mut sorted = acknowledged;
    sorted.sort_by_key(|commit| commit.lsn);
    assert!(sorted.len() >= 400, "the last writer was never replaced");
    assert_eq!(stored, sorted);
}
