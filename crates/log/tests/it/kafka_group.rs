//! Shares of work that a real broker deals out among members of a group.

use crate::broker::{Broker, Sent};
use crate::kafka::options;
use futures::executor::block_on;
use kaplan_log::{Error, KafkaGroup};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_millis(50);

fn join(broker: &Broker, topic: &str, partitions: u32) -> KafkaGroup {
    KafkaGroup::join(&options(broker, "the-log"), topic, partitions).unwrap()
}

/// Asks all members in turn until what they have is as it must be. At no time do two have a share.
fn until(
    members: &mut [KafkaGroup],
    done: impl Fn(&[BTreeSet<u32>]) -> bool,
) -> Vec<BTreeSet<u32>> {
    let mut shares = vec![BTreeSet::new(); members.len()];
    let since = Instant::now();
    loop {
        for (at, member) in members.iter_mut().enumerate() {
            shares[at] = member.shares(WAIT).unwrap();
            let (sum, all) = (shares.iter().map(BTreeSet::len).sum::<usize>(), union(&shares));
            assert_eq!(sum, all.len(), "a share has two members: {shares:?}");
        }
        if done(&shares) {
            return shares;
        }
        assert!(since.elapsed() < PATIENCE, "it stays with {shares:?}");
    }
}

fn union(shares: &[BTreeSet<u32>]) -> BTreeSet<u32> {
    shares.iter().flatten().copied().collect()
}

/// Everybody has as many as the others, give or take one, and all are dealt out.
fn even(shares: &[BTreeSet<u32>], partitions: u32) -> bool {
    let sizes = || shares.iter().map(BTreeSet::len);
    let balanced = sizes().max().unwrap_or(0) - sizes().min().unwrap_or(0) <= 1;
    balanced && union(shares) == (0..partitions).collect()
}

#[test]
fn kafka_group_deals_out_all_shares() {
    let Some(broker) = Broker::shared() else { return };
    let mut members = vec![join(&broker, "shares", 6)];
    assert_eq!(members[0].partitions(), 6);
    until(&mut members, |shares| even(shares, 6));
    // The topic stays as it is.
    members.push(join(&broker, "shares", 12));
    assert_eq!(members[1].partitions(), 6);
    let two = until(&mut members, |shares| even(shares, 6));
    members.push(join(&broker, "shares", 6));
    let three = until(&mut members, |shares| even(shares, 6));
    // No more moves than the third one needs.
    assert!(three[0].is_subset(&two[0]) && three[1].is_subset(&two[1]), "{two:?} {three:?}");
    members.remove(0);
    until(&mut members, |shares| even(shares, 6));
    members.remove(1);
    until(&mut members, |shares| even(shares, 6));
}

/// A member that waits has its shares; one of another topic does not matter to it.
#[test]
fn kafka_group_has_more_members_than_shares() {
    let Some(broker) = Broker::shared() else { return };
    let mut members: Vec<_> = (0..3).map(|_| join(&broker, "few-shares", 2)).collect();
    let mut others = vec![join(&broker, "other-shares", 3)];
    until(&mut members, |shares| even(shares, 2));
    until(&mut others, |shares| even(shares, 3));
    // Whoever writes to the topic disturbs nothing.
    let sent = |n| Sent { partition: n, key: None, value: Some("hello") };
    block_on(broker.send("few-shares", &[sent(0), sent(1), sent(0)]));
    until(&mut members, |shares| even(shares, 2));
}

#[test]
fn kafka_group_refuses_what_cannot_be() {
    let Some(broker) = Broker::shared() else { return };
    let refused = |name: &str, partitions| {
        let mut options = options(&broker, "the-log");
        if !name.is_empty() {
            options.properties.insert(name.to_owned(), "secret".to_owned());
        }
        let refused = KafkaGroup::join(&options, "no-shares", partitions).err().unwrap();
        assert!(matches!(refused, Error::Topic { .. }), "{refused}");
        refused.to_string()
    };
    assert!(refused("", 0).contains("topic no-shares is refused: 0 partitions"));
    assert!(refused("group.id", 1).contains("group.id is not free"));
    let wrong = refused("sasl.what", 1);
    assert!(wrong.contains("sasl.what") && !wrong.contains("secret"), "{wrong}");
}
