//! Following a log that others write: every commit once and in order, through trims and changes of the
//! writer, and no other history than the one that was read.

use kaplan_base::Lsn;
use kaplan_log::conformance::sample;
use kaplan_log::{Error, Follower, Log, ObjectLog, ObjectOptions};
use kaplan_store::Place;
use object_store::memory::InMemory;
use std::sync::Arc;
use url::Url;

fn memory() -> Place {
    Place::over(Url::parse("memory:///bucket/log").unwrap(), Arc::new(InMemory::new())).unwrap()
}

fn open(place: &Place) -> ObjectLog {
    ObjectLog::open(place, &ObjectOptions::default()).unwrap()
}

fn append(log: &ObjectLog, lsns: std::ops::RangeInclusive<u64>) {
    for lsn in lsns {
        log.append(&[sample(lsn, 10)]).unwrap();
    }
}

/// Looks until there is nothing new.
fn keep_up(follower: &Follower, archived: Lsn) {
    while let Some(found) = follower.look(archived).unwrap() {
        follower.show(found);
    }
}

#[test]
fn a_follower_sees_what_is_appended_and_who_appends_it() {
    let place = memory();
    assert!(Follower::open(&place).unwrap().is_none());
    let log = open(&place);
    append(&log, 1..=3);
    let follower = Follower::open(&place).unwrap().unwrap();
    assert_eq!((follower.start(), follower.head(), follower.epoch()), (Lsn(1), Lsn(3), 1));
    append(&log, 4..=5);
    let found = follower.look(Lsn::ZERO).unwrap().unwrap();
    // Nothing is seen before it is shown.
    assert_eq!((follower.head(), found.restarts_at()), (Lsn(3), None));
    follower.show(found);
    assert!(follower.look(Lsn::ZERO).unwrap().is_none());
    // The writer is replaced in the middle of it.
    let newer = open(&place);
    assert!(matches!(log.append(&[sample(6, 10)]), Err(Error::Fenced { .. })));
    append(&newer, 6..=40);
    keep_up(&follower, Lsn::ZERO);
    assert_eq!((follower.head(), follower.epoch()), (Lsn(40), 2));
    let all: Vec<_> = (1..=40).map(|lsn| sample(lsn, 10)).collect();
    let mut seen = Vec::new();
    while seen.len() < all.len() {
        seen.extend(follower.read(Lsn(seen.len() as u64), 1 << 20).unwrap());
    }
    assert_eq!(seen, all);
    assert!(matches!(follower.append(&[sample(41, 10)]), Err(Error::ReadOnly)));
}

#[test]
fn a_follower_that_fell_behind_a_trim_goes_on_after_it() {
    let place = memory();
    let log = open(&place);
    append(&log, 1..=2);
    let follower = Follower::open(&place).unwrap().unwrap();
    append(&log, 3..=20);
    log.trim(Lsn(15)).unwrap();
    // Without word of the lake it waits: the next segment may be still to come.
    assert!(follower.look(Lsn(2)).unwrap().is_none());
    let found = follower.look(Lsn(15)).unwrap().unwrap();
    assert_eq!(found.restarts_at(), Some(Lsn(16)));
    follower.show(found);
    assert!(matches!(follower.read(Lsn(2), 100), Err(Error::Trimmed { start: Lsn(16) })));
    assert_eq!(follower.read(Lsn(19), 100).unwrap(), [sample(20, 10)]);
    // What it held may be trimmed under its eyes.
    append(&log, 21..=22);
    log.trim(Lsn(20)).unwrap();
    assert!(matches!(follower.read(Lsn(16), 100), Err(Error::Trimmed { start: Lsn(21) })));
    keep_up(&follower, Lsn(20));
    assert_eq!(follower.read(Lsn(20), 1 << 20).unwrap(), [sample(21, 10), sample(22, 10)]);
}

#[test]
fn forgetting_removes_nothing() {
    let place = memory();
    let log = open(&place);
    append(&log, 1..=5);
    let follower = Follower::open(&place).unwrap().unwrap();
    follower.trim(Lsn(4)).unwrap();
    assert_eq!((follower.start(), follower.head()), (Lsn(5), Lsn(5)));
    assert_eq!((log.start(), log.head()), (Lsn(1), Lsn(5)));
    assert_eq!(Follower::open(&place).unwrap().unwrap().start(), Lsn(1));
}

#[test]
fn another_history_in_the_place_of_the_one_that_was_read_is_refused() {
    let (place, copy) = (memory(), memory());
    let log = open(&place);
    append(&log, 1..=3);
    let follower = Follower::open(&place).unwrap().unwrap();
    append(&log, 4..=6);
    keep_up(&follower, Lsn::ZERO);
    // A segment with the right name that continues another one.
    let other = open(&copy);
    append(&other, 1..=7);
    let move_over = |from: &Place, to: &Place, lsn: u64| {
        let (from, to) = (from.clone(), to.clone());
        let work = async move {
            let names = from.list().await.unwrap();
            let prefix = format!("{lsn:020}");
            let (name, _) = names.into_iter().rev().find(|(n, _)| n.starts_with(&prefix)).unwrap();
            to.put(&name, from.get(&name).await.unwrap().unwrap()).await.unwrap();
        };
        kaplan_store::wait(work).unwrap();
    };
    move_over(&copy, &place, 7);
    let refused = follower.look(Lsn::ZERO).err().unwrap().to_string();
    assert!(refused.contains("does not continue"), "{refused}");
    // The log of an older copy.
    let at = place.clone();
    kaplan_store::wait(async move { at.clear().await.unwrap() }).unwrap();
    for lsn in 1..=2 {
        move_over(&copy, &place, lsn);
    }
    let refused = follower.look(Lsn(7)).err().unwrap().to_string();
    assert!(refused.contains("was a copy restored"), "{refused}");
}
