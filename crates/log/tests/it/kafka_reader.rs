//! Reading along in a topic of a real broker that another process writes.

use crate::broker::{Broker, Sent};
use crate::kafka::{ID, open, options};
use futures::executor::block_on;
use kaplan_base::Lsn;
use kaplan_log::conformance::sample;
use kaplan_log::{Commit, Error, KafkaLog, KafkaOptions, KafkaReader, Log};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn reader(broker: &Broker, topic: &str, after: u64) -> KafkaReader {
    KafkaReader::open(&options(broker, topic), Lsn(after)).unwrap()
}

/// The next commits, as many as these; the test fails when they do not come.
fn take(reader: &mut KafkaReader, count: usize) -> Vec<Commit> {
    (0..count).map(|n| reader.next(PATIENCE).unwrap().unwrap_or_else(|| panic!("no {n}"))).collect()
}

fn nothing_more(reader: &mut KafkaReader) {
    assert_eq!(reader.next(Duration::from_millis(300)).unwrap(), None);
}

/// Sizes from a few bytes to such that are cut into parts.
fn commits(from: u64, to: u64) -> Vec<Commit> {
    let sizes = [0, 10, 70_000, 300, 1 << 20, 5, 5_000, 3 << 20];
    (from..=to).map(|lsn| sample(lsn, sizes[lsn as usize % sizes.len()])).collect()
}

#[test]
fn kafka_reader_reads_along_while_another_appends() {
    let Some(broker) = Broker::shared() else { return };
    let log = open(&broker, "along");
    let all = commits(1, 60);
    log.append(&all[..3]).unwrap();
    // One reads from the beginning, one has the first ten already.
    let mut readers = [0, 10].map(|after| (after, reader(&broker, "along", after as u64)));
    std::thread::scope(|scope| {
        let written = &all;
        scope.spawn(move || {
            let mut rest = &written[3..];
            for size in [1, 2, 5].into_iter().cycle() {
                let (group, later) = rest.split_at(size.min(rest.len()));
                log.append(group).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
        });
        for (after, reader) in &mut readers {
            scope.spawn(|| assert!(take(reader, all.len() - *after) == all[*after..]));
        }
    });
    for (_, reader) in &mut readers {
        nothing_more(reader);
    }
}

#[test]
fn kafka_reader_passes_a_change_of_epochs() {
    let Some(broker) = Broker::shared() else { return };
    let old = open(&broker, "epochs");
    let mut reader = reader(&broker, "epochs", 0);
    nothing_more(&mut reader);
    old.append(&commits(1, 3)).unwrap();
    assert_eq!(take(&mut reader, 3), commits(1, 3));
    for epoch in 1..5 {
        let log = open(&broker, "epochs");
        let lsn = 3 + epoch;
        log.append(&[sample(lsn, 10)]).unwrap();
        assert_eq!(take(&mut reader, 1), [sample(lsn, 10)]);
        // What the one before writes is nobody's commit.
        assert!(matches!(old.append(&[sample(4, 99)]), Err(Error::Fenced { .. })));
    }
    nothing_more(&mut reader);
    // It took nothing over.
    assert_eq!(open(&broker, "epochs").epoch(), 6);
}

#[test]
fn kafka_reader_sees_no_transaction_before_its_end() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let Some(broker) = Broker::shared() else { return };
    open(&broker, "undone").append(&[sample(1, 10)]).unwrap();
    let mut reader = reader(&broker, "undone", 0);
    let producer: BaseProducer =
        broker.config().set("transactional.id", "kaplan-log-undone").create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<(), str>::to("undone").payload("half a commit")).unwrap();
    producer.flush(PATIENCE).unwrap();
    assert_eq!(take(&mut reader, 1), [sample(1, 10)]);
    nothing_more(&mut reader);
    open(&broker, "undone").append(&[sample(2, 10)]).unwrap();
    assert_eq!(take(&mut reader, 1), [sample(2, 10)]);
}

fn start(error: &Error) -> Lsn {
    match error {
        Error::Trimmed { start } => *start,
        other => panic!("{other}"),
    }
}

#[test]
fn kafka_reader_says_what_was_trimmed() {
    let Some(broker) = Broker::shared() else { return };
    let options = KafkaOptions { index_bytes: 1, ..options(&broker, "trimmed") };
    let log = KafkaLog::open(&options).unwrap();
    for lsn in 1..=10 {
        log.append(&[sample(lsn, 10)]).unwrap();
    }
    let mut caught_up = reader(&broker, "trimmed", 0);
    assert_eq!(take(&mut caught_up, 10).len(), 10);
    log.trim(Lsn(5)).unwrap();
    assert_eq!(log.start(), Lsn(6));
    let mut late = reader(&broker, "trimmed", 4);
    // It is said as often as it is asked.
    for _ in 0..2 {
        assert_eq!(start(&late.next(PATIENCE).unwrap_err()), Lsn(6));
    }
    let mut just_in_time = reader(&broker, "trimmed", 5);
    assert_eq!(take(&mut just_in_time, 1), [sample(6, 10)]);
    // Who has everything misses nothing.
    log.trim(Lsn(10)).unwrap();
    log.append(&[sample(11, 10)]).unwrap();
    assert_eq!(take(&mut caught_up, 1), [sample(11, 10)]);
}

/// Little is fetched ahead, so that the rest goes while the reader stands before it.
#[test]
fn kafka_reader_notices_what_is_trimmed_underneath() {
    let Some(broker) = Broker::shared() else { return };
    let mut options = KafkaOptions { index_bytes: 1, ..options(&broker, "underneath") };
    let log = KafkaLog::open(&options).unwrap();
    for lsn in 1..=20 {
        log.append(&[sample(lsn, 20_000)]).unwrap();
    }
    let few = [("queued.min.messages", "1"), ("queued.max.messages.kbytes", "1")];
    let few = few.into_iter().chain([("fetch.message.max.bytes", "1000")]);
    options.properties = few.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let mut behind = KafkaReader::open(&options, Lsn(0)).unwrap();
    let mut ahead = KafkaReader::open(&options, Lsn(19)).unwrap();
    assert_eq!(take(&mut behind, 1), [sample(1, 20_000)]);
    log.trim(Lsn(19)).unwrap();
    assert_eq!(log.start(), Lsn(20));
    let mut next = 2;
    let error = loop {
        match behind.next(PATIENCE) {
            Ok(Some(commit)) => assert_eq!(commit, sample(next, 20_000)),
            Ok(None) => panic!("it waits for commit {next}, which is gone"),
            Err(error) => break error,
        }
        next += 1;
    };
    assert!(next < 20, "nothing was trimmed underneath");
    assert_eq!(start(&error), Lsn(20));
    assert_eq!(take(&mut ahead, 1), [sample(20, 20_000)]);
}

#[test]
fn kafka_reader_refuses_what_is_not_its_log() {
    let Some(broker) = Broker::shared() else { return };
    let refused = |options: KafkaOptions| match KafkaReader::open(&options, Lsn(0)) {
        Ok(_) => panic!("{options:?} should be refused"),
        Err(error) => error,
    };
    let absent = refused(options(&broker, "absent"));
    assert!(matches!(absent, Error::Topic { .. }), "{absent}");
    assert!(absent.to_string().contains("topic absent is refused: there is no such"), "{absent}");
    // It was not created by asking.
    assert!(matches!(refused(options(&broker, "absent")), Error::Topic { .. }));
    let log = open(&broker, "another");
    log.append(&[sample(1, 10)]).unwrap();
    let other = refused(KafkaOptions { id: ID + 1, ..options(&broker, "another") });
    assert!(matches!(other, Error::Record { offset: 0, .. }), "{other}");
    block_on(broker.create("many", 3));
    assert!(refused(options(&broker, "many")).to_string().contains("3 partitions"));
    block_on(broker.create("empty", 1));
    let begun = KafkaOptions { begun: true, ..options(&broker, "empty") };
    assert!(refused(begun).to_string().contains("it is empty, although it was the log"));
    // A record of somebody else is found where it is, and found again.
    let mut reader = reader(&broker, "another", 0);
    let sent = Sent { partition: 0, key: None, value: Some("hello") };
    block_on(broker.send("another", &[sent]));
    log.append(&[sample(2, 10)]).unwrap();
    assert_eq!(take(&mut reader, 1), [sample(1, 10)]);
    for _ in 0..2 {
        let foreign = reader.next(PATIENCE).unwrap_err();
        assert!(matches!(foreign, Error::Record { offset: 4, .. }), "{foreign}");
    }
}

/// A broker that goes and comes back is waited for.
#[test]
fn kafka_reader_goes_on_after_its_broker_was_killed() {
    let Some(broker) = Broker::new() else { return };
    open(&broker, "back").append(&commits(1, 3)).unwrap();
    let mut reader = reader(&broker, "back", 0);
    assert_eq!(take(&mut reader, 2), commits(1, 2));
    broker.kill();
    assert_eq!(take(&mut reader, 1), commits(3, 3));
    nothing_more(&mut reader);
    broker.start();
    open(&broker, "back").append(&commits(4, 5)).unwrap();
    let since = Instant::now();
    let mut found = Vec::new();
    while found.len() < 2 {
        assert!(since.elapsed() < PATIENCE, "only {} came", found.len());
        found.extend(reader.next(Duration::from_secs(1)).unwrap());
    }
    assert_eq!(found, commits(4, 5));
}
