//! Membership of a group that deals out shares of work: the partitions of a topic without records,
//! by the protocol of consumer groups.
//!
//! ```text
//! topic    shares, partitions 0 1 2 3 4 5          (nobody writes to it)
//! group    kaplan-shares:  member A 0 1   member B 2 3   member C 4 5
//! ```
//!
//! Invariant: among members that the brokers hear of, a share is one member's. A member that joins
//! or leaves moves as few shares as can be; one that has lost a share has said so before another
//! gets it. A member that the brokers do not hear of for six seconds loses its shares, and finds
//! out when it hears of them again: who does what only one may do needs a fence of its own, as the
//! log has one.
//!
//! It reads and commits nothing, and says nothing of what a share is.

use super::topic::{Topic, client, setting};
use crate::{Error, KafkaOptions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long the brokers wait for a sign of life before they give a member's shares to others.
const SESSION_MS: u64 = 6_000;
/// How often a member gives one, and learns that shares are dealt out anew.
const HEARTBEAT_MS: u64 = 500;

/// A member of the group that has the topic's partitions as shares. Dropping it leaves the group at
/// once.
pub struct KafkaGroup {
    topic: String,
    partitions: u32,
    consumer: BaseConsumer,
}

impl KafkaGroup {
    /// Joins the group `kaplan-<topic>`; the topic is created with so many partitions if it is not
    /// there. Of the options, brokers and properties count.
    ///
    /// # Errors
    /// [`Error::Topic`] for a property or a number of partitions that cannot be; [`Error::Io`].
    pub fn join(options: &KafkaOptions, topic: &str, partitions: u32) -> Result<Self, Error> {
        let options = KafkaOptions { topic: topic.to_owned(), ..options.clone() };
        let known = Topic::connect(&options, &[])?;
        let wanted = i32::try_from(partitions).ok().filter(|n| *n > 0).ok_or_else(|| {
            let reason = format!("{partitions} partitions cannot be");
            known.refuse(reason, "give it at least one for each process".to_owned())
        })?;
        known.create_if_absent(wanted, &[])?;
        let partitions = known.partitions()? as u32;
        let refused = |e: KafkaError| setting(topic, &e);
        let consumer: BaseConsumer = client(&options)?
            .set("group.id", format!("kaplan-{topic}"))
            .set("session.timeout.ms", SESSION_MS.to_string())
            .set("heartbeat.interval.ms", HEARTBEAT_MS.to_string())
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "latest")
            .set("allow.auto.create.topics", "false")
            .create()
            .map_err(refused)?;
        consumer.subscribe(&[topic]).map_err(|e| known.trouble("join the group of", e))?;
        Ok(Self { topic: topic.to_owned(), partitions, consumer })
    }

    /// The shares that this member has now, after it has heard of the brokers once, for up to
    /// `wait`. To be called again and again: shares are taken over and given up in it.
    ///
    /// # Errors
    /// [`Error::Topic`] where the brokers refuse the member; it goes on when they do not any more.
    /// Brokers that are away are no error: the member has what it had until it hears of them.
    pub fn shares(&mut self, wait: Duration) -> Result<BTreeSet<u32>, Error> {
        if let Some(Err(error)) = self.consumer.poll(wait) {
            self.check(&error)?;
        }
        let assigned = self.consumer.assignment().map_err(|e| {
            self.refuse(&e, "report it: the client does not know its partitions".to_owned())
        })?;
        let shares = assigned.elements_for_topic(&self.topic);
        Ok(shares.iter().filter_map(|share| u32::try_from(share.partition()).ok()).collect())
    }

    /// How many shares there are: the topic's partitions when this member joined.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Errors that do not pass by themselves.
    fn check(&self, error: &KafkaError) -> Result<(), Error> {
        let fix = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                "it was deleted: start again, which creates it".to_owned()
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                "allow Describe and Read on it".to_owned()
            }
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                format!("allow Read on the group kaplan-{}", self.topic)
            }
            Some(RDKafkaErrorCode::InconsistentGroupProtocol) => {
                format!("let nobody else use the group kaplan-{}", self.topic)
            }
            Some(RDKafkaErrorCode::InvalidSessionTimeout) => {
                format!("let the brokers allow sessions of {SESSION_MS} ms")
            }
            _ => return Ok(()),
        };
        Err(self.refuse(error, fix))
    }

    fn refuse(&self, error: &KafkaError, fix: String) -> Error {
        Error::Topic { topic: self.topic.clone(), reason: error.to_string(), fix }
    }
}
