//! The log in a topic of a real broker: conformance, who has it, what a killed broker leaves, and
//! topics that cannot be a log.

use crate::broker::{Broker, Sent};
use futures::executor::block_on;
use kaplan_base::Lsn;
use kaplan_log::conformance::{CASES, sample};
use kaplan_log::{Commit, Error, KafkaLog, KafkaOptions, Log};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

pub const ID: u64 = 7;

pub fn options(broker: &Broker, topic: &str) -> KafkaOptions {
    KafkaOptions::new(&format!("127.0.0.1:{}", broker.port), topic, ID)
}

pub fn open(broker: &Broker, topic: &str) -> KafkaLog {
    KafkaLog::open(&options(broker, topic)).unwrap()
}

fn drain(log: &KafkaLog) -> Vec<Commit> {
    let (mut all, mut after) = (Vec::new(), log.start().previous());
    while after < log.head() {
        let page = log.read(after, 100_000).unwrap();
        after = page.last().unwrap().lsn;
        all.extend(page);
    }
    all
}

#[test]
fn kafka_log_conforms_on_a_real_broker() {
    let Some(broker) = Broker::shared() else { return };
    let topics = AtomicUsize::new(0);
    for case in CASES {
        for small in [true, false] {
            let topic = format!("conforms-{}", topics.fetch_add(1, Ordering::Relaxed));
            let mut options = options(&broker, &topic);
            if small {
                (options.cache_bytes, options.index_bytes) = (3_000, 4_000);
            }
            let open = || Ok(Box::new(KafkaLog::open(&options)?) as Box<dyn Log>);
            (case.run)(&open).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        }
    }
}

#[test]
fn kafka_the_newer_of_two_openings_has_the_log() {
    let Some(broker) = Broker::shared() else { return };
    let old = open(&broker, "two");
    old.append(&[sample(1, 10)]).unwrap();
    let new = open(&broker, "two");
    assert!(new.epoch() > old.epoch());
    assert_eq!(new.head(), Lsn(1));
    let refused = old.append(&[sample(2, 10)]).unwrap_err();
    assert!(matches!(refused, Error::Fenced { epoch } if epoch == new.epoch()), "{refused}");
    assert!(!refused.may_have_happened());
    assert_eq!(old.head(), Lsn(1));
    new.append(&[sample(2, 20)]).unwrap();
    assert!(matches!(old.append(&[sample(2, 10)]), Err(Error::Fenced { .. })));
    assert_eq!(drain(&open(&broker, "two")), [sample(1, 10), sample(2, 20)]);
}

#[test]
fn kafka_an_idle_writer_finds_out_that_it_was_replaced() {
    let Some(broker) = Broker::shared() else { return };
    let old = open(&broker, "idle");
    old.mark_durable().unwrap();
    old.append(&[sample(1, 10)]).unwrap();
    old.mark_durable().unwrap();
    let new = open(&broker, "idle");
    let told = old.mark_durable().unwrap_err();
    assert!(matches!(told, Error::Fenced { epoch } if epoch == new.epoch()), "{told}");
    new.append(&[sample(2, 10), sample(3, 10)]).unwrap();
    new.mark_durable().unwrap();
}

/// Everything that a writer of long ago knows was trimmed meanwhile.
#[test]
fn kafka_a_writer_of_long_ago_is_fenced() {
    let Some(broker) = Broker::shared() else { return };
    let old = open(&broker, "ago");
    old.append(&[sample(1, 10)]).unwrap();
    let idle = open(&broker, "ago");
    let new = open(&broker, "ago");
    for lsn in 2..20 {
        new.append(&[sample(lsn, 10)]).unwrap();
    }
    new.trim(Lsn(19)).unwrap();
    assert_eq!((new.start(), new.head()), (Lsn(19), Lsn(19)));
    assert!(matches!(idle.mark_durable(), Err(Error::Fenced { .. })));
    assert!(old.append(&[sample(2, 10)]).is_err());
    let again = open(&broker, "ago");
    assert_eq!((again.start(), again.head()), (Lsn(19), Lsn(19)));
    assert!(again.epoch() > new.epoch());
}

/// Writers append as fast as they can while others take the log over: what each one acknowledged is
/// there, once and in order.
#[test]
fn kafka_of_writers_that_race_only_the_owner_acknowledges() {
    let Some(broker) = Broker::shared() else { return };
    let mut acknowledged = std::thread::scope(|scope| {
        let writers = (0..3).map(|n| {
            let broker = &broker;
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(n * 1_500));
                let log = open(broker, "race");
                let mut own = Vec::new();
                while own.len() < 150 {
                    let commit = sample(log.head().0 + 1, 20 + n as usize);
                    match log.append(std::slice::from_ref(&commit)) {
                        Ok(()) => own.push(commit),
                        Err(error) => {
                            assert!(matches!(error, Error::Fenced { .. }), "{error}");
                            break;
                        }
                    }
                }
                own
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().flat_map(|w| w.join().unwrap()).collect::<Vec<_>>()
    });
    acknowledged.sort_by_key(|commit| commit.lsn);
    assert_eq!(drain(&open(&broker, "race")), acknowledged);
}

#[test]
fn kafka_a_commit_of_many_mebibytes_is_cut_and_put_together() {
    let Some(broker) = Broker::shared() else { return };
    let options = KafkaOptions { cache_bytes: 0, ..options(&broker, "large") };
    let commits = [sample(1, 9 << 20), sample(2, 100), sample(3, 3 << 20)];
    let log = KafkaLog::open(&options).unwrap();
    log.append(&commits).unwrap();
    assert_eq!(drain(&log), commits);
    log.trim(Lsn(1)).unwrap();
    drop(log);
    let log = KafkaLog::open(&options).unwrap();
    assert_eq!(log.start(), Lsn(2));
    assert_eq!(drain(&log), commits[1..]);
}

/// A writer that died in the middle of a transaction: nobody sees it.
#[test]
fn kafka_a_transaction_left_open_is_undone() {
    let Some(broker) = Broker::shared() else { return };
    open(&broker, "left").append(&[sample(1, 10)]).unwrap();
    let producer: BaseProducer =
        broker.config().set("transactional.id", "kaplan-log-left").create().unwrap();
    producer.init_transactions(Duration::from_secs(30)).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<(), str>::to("left").payload("half a commit")).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
    let log = open(&broker, "left");
    log.append(&[sample(2, 10)]).unwrap();
    assert_eq!(drain(&log), [sample(1, 10), sample(2, 10)]);
}

/// The broker is killed again and again while a writer appends: what was acknowledged is there once,
/// and what nobody knows of is there once or not at all.
#[test]
fn kafka_a_killed_broker_loses_nothing() {
    let Some(broker) = Broker::new() else { return };
    let (stop, appended) = (AtomicBool::new(false), AtomicUsize::new(0));
    let acknowledged = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut log, mut acknowledged) = (open(&broker, "killed"), Vec::<Commit>::new());
            let mut size = 0;
            while !stop.load(Ordering::Relaxed) {
                size += 1;
                let first = log.head().0 + 1;
                let group = [sample(first, size), sample(first + 1, size)];
                match log.append(&group) {
                    Ok(()) => {
                        acknowledged.extend(group);
                        appended.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        assert!(!matches!(error, Error::Fenced { .. }), "{error}");
                        assert!(log.append(&group).is_err(), "it takes no more");
                        drop(log);
                        log = open(&broker, "killed");
                        if log.head().0 > first {
                            assert!(error.may_have_happened(), "{error}");
                            acknowledged.extend(group);
                        }
                    }
                }
            }
            acknowledged
        });
        for round in 1..=3 {
            while appended.load(Ordering::Relaxed) < round * 40 && !writer.is_finished() {
                std::thread::sleep(Duration::from_millis(5));
            }
            broker.kill();
            broker.start();
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    let log = open(&broker, "killed");
    assert!(acknowledged.len() >= 240);
    assert_eq!(drain(&log), acknowledged);
}

#[test]
fn kafka_records_of_others_are_refused() {
    let Some(broker) = Broker::shared() else { return };
    let log = open(&broker, "foreign");
    log.append(&[sample(1, 10)]).unwrap();
    let other = KafkaOptions { id: ID + 1, ..options(&broker, "foreign") };
    let refused = KafkaLog::open(&other).err().unwrap();
    assert!(matches!(refused, Error::Record { offset: 0, .. }), "{refused}");
    log.append(&[sample(2, 10)]).unwrap();
    let sent = Sent { partition: 0, key: None, value: Some("hello") };
    block_on(broker.send("foreign", &[sent]));
    let refused = KafkaLog::open(&options(&broker, "foreign")).err().unwrap().to_string();
    assert!(refused.contains("topic foreign") && refused.contains("offset 6"), "{refused}");
    assert!(refused.contains("somebody else wrote it"), "{refused}");
}

#[test]
fn kafka_topics_that_cannot_be_a_log_are_refused() {
    let Some(broker) = Broker::shared() else { return };
    let admin: AdminClient<DefaultClientContext> = broker.config().create().unwrap();
    let refused = |topic: &str, partitions, key, value| {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1)).set(key, value);
        let options_ = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        block_on(admin.create_topics([&new], &options_)).unwrap()[0].as_ref().unwrap();
        let refused = KafkaLog::open(&options(&broker, topic)).err().unwrap();
        assert!(matches!(refused, Error::Topic { .. }), "{refused}");
        refused.to_string()
    };
    assert!(refused("wide", 3, "retention.ms", "-1").contains("it has 3 partitions"));
    assert!(refused("compact", 1, "cleanup.policy", "compact").contains("cleanup.policy=delete"));
    assert!(refused("week", 1, "retention.ms", "604800000").contains("retention.ms=-1"));
    let wrong = |name: &str, value: &str| {
        let mut options = options(&broker, "wrong");
        options.properties.insert(name.to_owned(), value.to_owned());
        KafkaLog::open(&options).err().unwrap().to_string()
    };
    assert!(wrong("sasl.what", "secret").contains("sasl.what"));
    assert!(!wrong("sasl.what", "secret").contains("secret"));
    assert!(wrong("acks", "1").contains("acks is not free"));
    let gone = KafkaOptions { begun: true, ..options(&broker, "gone") };
    assert!(KafkaLog::open(&gone).err().unwrap().to_string().contains("it is empty"));
}
