//! The log from outside: conformance on disks and buckets, damage, limits of space, simulations.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "../../../platform/tests/it/broker.rs"]
#[allow(dead_code, reason = "the platform's tests share it")]
mod broker;
mod follow;
mod kafka;
mod kafka_group;
mod kafka_reader;
mod local;
mod lying;
mod object;
mod s3;

use kaplan_log::conformance::CASES;
use kaplan_log::sim::SimDisk;
use kaplan_log::simulate::simulate;
use kaplan_log::{LocalLog, Log, Options};
use std::sync::Arc;

fn small() -> Options {
    Options { segment_bytes: 4_000, cache_bytes: 3_000, ..Options::default() }
}

#[test]
fn local_log_conforms_on_the_real_disk() {
    for case in CASES {
        for options in [small(), Options::default()] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("deep/log");
            let open = || Ok(Box::new(LocalLog::open(&path, options.clone())?) as Box<dyn Log>);
            (case.run)(&open).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        }
    }
}

#[test]
fn local_log_conforms_on_the_simulated_disk() {
    for case in CASES {
        let disk = SimDisk::new(1);
        let open = || {
            let disk = Arc::new(disk.clone());
            Ok(Box::new(LocalLog::open_on(disk, small())?) as Box<dyn Log>)
        };
        (case.run)(&open).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    }
}

#[test]
fn no_acknowledged_commit_is_lost_or_doubled() {
    let mut all = [0; 8];
    for seed in 1..=20 {
        let report = simulate(seed, 1_500).unwrap();
        assert_eq!((report.lost, report.doubled), (0, 0));
        let seen = [
            report.crashes,
            report.kills,
            report.recovered,
            report.cut_bytes,
            report.failed_syncs,
            report.disk_full,
            report.trimmed,
            report.flips,
        ];
        all.iter_mut().zip(seen).for_each(|(sum, n)| *sum += n);
    }
    assert!(all.iter().all(|n| *n > 50), "every fault occurs: {all:?}");
}

#[test]
fn a_simulation_repeats_itself() {
    assert_eq!(simulate(5, 500), simulate(5, 500));
    assert_ne!(simulate(5, 500), simulate(6, 500));
}

/// Every seed that ever lost something, with the steps that it took.
#[test]
fn seeds_that_failed_once() {
    // A truncation whose sync failed: the page cache showed a shorter file than the disk had.
    let report = simulate(1_702_046_814, 180_000).unwrap();
    assert_eq!((report.lost, report.doubled), (0, 0));
}
