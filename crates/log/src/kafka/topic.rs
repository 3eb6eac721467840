//! A topic: its creation, what it must be like to be a log, and reading it.
//!
//! A log that could lose records, or has them in more than one order, is refused by name: it would
//! not be found out before the records are missing. Reads see committed transactions only.

use super::complaints::{self, Complaints, Reader};
use crate::held::failed;
use crate::{Error, KafkaOptions};
use kaplan_store::wait;
use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a question to the brokers may take.
pub(crate) const ASK: Duration = Duration::from_secs(20);
/// The first of the waits for an answer before what the client says beside is looked at; each one
/// is twice as long as the one before.
const LOOK: Duration = Duration::from_secs(1);
/// How long nothing may come from the brokers while there is something to read.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
/// The wait for a record before it is looked at the time.
const POLL: Duration = Duration::from_millis(100);
/// The one partition.
pub(crate) const PARTITION: i32 = 0;
/// A topic whose records cannot be this large is refused.
const MIN_MESSAGE_BYTES: usize = 16 << 10;
/// The most that librdkafka can be told to send at once.
const MAX_MESSAGE_BYTES: usize = 1_000_000_000;
/// The largest part of a commit.
const MAX_PART_BYTES: usize = 256 << 10;

/// What a log's configuration must be, because it may lose nothing.
const NEEDED: [(&str, &str); 4] = [
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("unclean.leader.election.enable", "false"),
];
/// Of them, what a topic is created with.
const CREATED: &[(&str, &str)] = NEEDED.split_at(3).0;

/// How the reader of a log in one's own hands reads: an end is told of soon.
const OWN: &[(&str, &str)] = &[("fetch.wait.max.ms", "50")];

/// Properties that are not for the user.
const FIXED: [&str; 13] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "transactional.id",
    "enable.idempotence",
    "acks",
    "request.required.acks",
    "isolation.level",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "enable.partition.eof",
    "allow.auto.create.topics",
];

type Admin = AdminClient<DefaultClientContext>;

/// The topic, to ask and to read.
pub(crate) struct Topic {
    pub name: String,
    /// The brokers and the user's properties.
    pub config: ClientConfig,
    /// The largest batch of records that the broker takes.
    pub message_bytes: usize,
    /// Begun when it is first needed; who only reads never does.
    admin: Mutex<Option<Arc<Admin>>>,
    consumer: Mutex<Reader>,
}

/// What a scan comes to.
pub(crate) enum Next<'a> {
    Record(i64, Option<&'a [u8]>),
    /// The end of what is there now; said again while nothing comes.
    End,
}

/// What a wait for the brokers came to.
pub(crate) enum Heard<'a> {
    Record(BorrowedMessage<'a>),
    /// The end of what is there now; said once.
    End,
    /// What was to be read next is not there any more.
    Gone(KafkaError),
    /// It may pass.
    Trouble(KafkaError),
    Nothing,
}

impl Topic {
    /// Creates the topic if it is not there, and refuses it if it cannot be a log.
    pub fn open(options: &KafkaOptions) -> Result<Self, Error> {
        let mut topic = Self::connect(options, OWN)?;
        topic.create_if_absent(1, CREATED)?;
        topic.check()?;
        Ok(topic)
    }

    /// The log that another process has: nothing is created, nor asked about but its partitions.
    pub fn existing(options: &KafkaOptions, reading: &[(&str, &str)]) -> Result<Self, Error> {
        let topic = Self::connect(options, reading)?;
        match topic.partitions()? {
            0 => Err(topic.refuse(
                "there is no such topic".to_owned(),
                "start the process that writes it first, or name its topic".to_owned(),
            )),
            partitions => topic.check_order(partitions).map(|()| topic),
        }
    }

    /// A client of the topic, whatever it is like. It reads with these properties, unless the
    /// user's say otherwise.
    pub fn connect(options: &KafkaOptions, reading: &[(&str, &str)]) -> Result<Self, Error> {
        let config = client(options)?;
        let name = options.topic.clone();
        let mut own = config.clone();
        for (property, value) in reading.iter().filter(|(name, _)| config.get(name).is_none()) {
            own.set(*property, *value);
        }
        let consumer: Reader = own
            .set("group.id", format!("kaplan-log-{name}"))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false")
            .create_with_context(Complaints::default())
            .map_err(|e| setting(&name, &e))?;
        let (admin, consumer) = (Mutex::default(), Mutex::new(consumer));
        Ok(Self { name, config, message_bytes: 0, admin, consumer })
    }

    fn admin(&self) -> Result<Arc<Admin>, Error> {
        let mut admin = self.admin.lock();
        if let Some(begun) = &*admin {
            return Ok(Arc::clone(begun));
        }
        let begun = self.config.create().map_err(|e| setting(&self.name, &e))?;
        Ok(Arc::clone(admin.insert(Arc::new(begun))))
    }

    /// The largest part of a commit: small enough that a batch that grew past its limit by one is
    /// taken.
    pub fn part_bytes(&self) -> usize {
        (self.message_bytes / 4).min(MAX_PART_BYTES)
    }

    pub fn trouble(&self, action: &'static str, error: impl ToString) -> Error {
        trouble(&self.name, action, error)
    }

    pub fn refuse(&self, reason: String, fix: String) -> Error {
        Error::Topic { topic: self.name.clone(), reason, fix }
    }

    /// Number of partitions; 0 if there is no such topic.
    pub fn partitions(&self) -> Result<usize, Error> {
        let metadata = self.metadata()?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == self.name) else {
            return Ok(0);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(found.partitions().len()),
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => Ok(0),
            Some(error) => Err(self.trouble("look for", error)),
        }
    }

    /// What the brokers say of the topic, or why they do not; nothing is read at the time.
    fn metadata(&self) -> Result<Metadata, Error> {
        let (consumer, mut wait, mut waited) = (self.consumer.lock(), LOOK, Duration::ZERO);
        loop {
            let error = match consumer.fetch_metadata(Some(&self.name), wait) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => error,
            };
            waited += wait;
            wait = (wait * 2).min(ASK.saturating_sub(waited));
            let complaint = complaints::last(&consumer);
            if let Some(refused) = complaint.as_ref().filter(|c| c.is_final()) {
                let fix = "check the properties security.protocol, sasl.* and ssl.*".to_owned();
                return Err(self.refuse(refused.reason.clone(), fix));
            }
            if waited >= ASK {
                let reason = complaint.map_or_else(|| error.to_string(), |c| c.reason);
                let fix = "check that the brokers are up, and the property security.protocol";
                return Err(self.trouble("look for", format!("{reason}; {fix}")));
            }
        }
    }

    /// Creates the topic if it is not there, with as many partitions and this configuration.
    pub fn create_if_absent(
        &self,
        partitions: i32,
        properties: &'static [(&str, &str)],
    ) -> Result<(), Error> {
        if self.partitions()? > 0 {
            return Ok(());
        }
        let (name, admin) = (self.name.clone(), self.admin()?);
        let done = self.ask("create", async move {
            // A replication factor of -1 is the broker's default.
            let mut new = NewTopic::new(&name, partitions, TopicReplication::Fixed(-1));
            new = properties.iter().fold(new, |new, (key, value)| new.set(key, value));
            let options = AdminOptions::new().operation_timeout(Some(ASK));
            admin.create_topics([&new], &options).await
        })?;
        match done.first() {
            Some(Err((_, error))) if *error != RDKafkaErrorCode::TopicAlreadyExists => {
                return Err(self.trouble("create", error));
            }
            _ => {}
        }
        let since = Instant::now();
        while self.partitions()? == 0 {
            if since.elapsed() > ASK {
                return Err(self.trouble("create", "it did not appear"));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn check_order(&self, partitions: usize) -> Result<(), Error> {
        if partitions == 1 {
            return Ok(());
        }
        let reason = format!("it has {partitions} partitions, and a log has one order");
        Err(self.refuse(reason, "name a topic with one, or one to be created".into()))
    }

    fn check(&mut self) -> Result<(), Error> {
        self.check_order(self.partitions()?)?;
        let (name, admin) = (self.name.clone(), self.admin()?);
        let described = self.ask("describe", async move {
            let topic = ResourceSpecifier::Topic(&name);
            admin.describe_configs([&topic], &AdminOptions::new()).await
        })?;
        let found = match described.first() {
            Some(Ok(found)) => found,
            Some(Err(error)) => return Err(self.trouble("describe", error)),
            None => return Err(self.trouble("describe", "the broker did not say anything")),
        };
        let value = |key| found.get(key).and_then(|entry| entry.value.as_deref());
        for (key, needed) in NEEDED {
            match value(key) {
                Some(value) if value != needed => {
                    let reason = format!("its {key} is {value}, so that it may lose commits");
                    let name = &self.name;
                    let fix = format!(
                        "kafka-configs.sh --alter --topic {name} --add-config {key}={needed}"
                    );
                    return Err(self.refuse(reason, fix));
                }
                _ => {}
            }
        }
        let limit = value("max.message.bytes").and_then(|v| v.parse().ok()).unwrap_or(0);
        if limit < MIN_MESSAGE_BYTES {
            let reason = format!("its max.message.bytes is {limit}");
            let fix = format!("make it at least {MIN_MESSAGE_BYTES}");
            return Err(self.refuse(reason, fix));
        }
        self.message_bytes = limit.min(MAX_MESSAGE_BYTES);
        Ok(())
    }

    /// Asks the brokers by the admin client.
    fn ask<T: Send + 'static>(
        &self,
        action: &'static str,
        question: impl Future<Output = KafkaResult<T>> + Send + 'static,
    ) -> Result<T, Error> {
        let answer = wait(question).map_err(|e| self.trouble(action, e))?;
        answer.map_err(|e| self.trouble(action, e))
    }

    fn place(&self, offset: i64) -> Result<TopicPartitionList, Error> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, PARTITION, Offset::Offset(offset))
            .map_err(|e| self.trouble("find a place in", e))?;
        Ok(list)
    }

    /// The first offset that is there, and the one after the last that committed readers see.
    pub fn bounds(&self) -> Result<(i64, i64), Error> {
        let bounds = self.consumer.lock().fetch_watermarks(&self.name, PARTITION, ASK);
        bounds.map_err(|e| self.trouble("measure", e))
    }

    /// Removes the records below an offset.
    pub fn delete_below(&self, offset: i64) -> Result<(), Error> {
        let (list, admin) = (self.place(offset)?, self.admin()?);
        let done = self
            .ask("trim", async move { admin.delete_records(&list, &AdminOptions::new()).await })?;
        let result = done.find_partition(&self.name, PARTITION).map(|found| found.error());
        result.unwrap_or(Ok(())).map_err(|e| self.trouble("trim", e))
    }

    /// Begins to read at an offset; [`Topic::hear`] waits for what comes.
    pub fn begin(&self, from: i64) -> Result<(), Error> {
        let consumer = self.consumer.lock();
        let place = self.place(from)?;
        let begun = consumer.unassign().and_then(|()| consumer.assign(&place));
        begun.map_err(|e| self.trouble("read", e))
    }

    /// Waits for what comes next of what [`Topic::begin`] began to read.
    pub fn hear(&mut self, wait: Duration) -> Result<Heard<'_>, Error> {
        hear(self.consumer.get_mut(), wait).map_err(|e| trouble(&self.name, "read", e))
    }

    /// Reads records from an offset on until told to stop.
    pub fn scan<T>(
        &self,
        from: i64,
        mut each: impl FnMut(Next<'_>) -> Result<ControlFlow<T>, Error>,
    ) -> Result<T, Error> {
        let consumer = self.consumer.lock();
        consumer.assign(&self.place(from)?).map_err(|e| self.trouble("read", e))?;
        let found = self.follow(&consumer, &mut each);
        let ended = consumer.unassign().map_err(|e| self.trouble("read", e));
        let found = found?;
        ended.map(|()| found)
    }

    fn follow<T>(
        &self,
        consumer: &Reader,
        each: &mut impl FnMut(Next<'_>) -> Result<ControlFlow<T>, Error>,
    ) -> Result<T, Error> {
        let (mut heard, mut trouble, mut at_end) = (Instant::now(), None, false);
        loop {
            let next = match hear(consumer, POLL).map_err(|e| self.trouble("read", e))? {
                Heard::Record(record) => {
                    (heard, at_end) = (Instant::now(), false);
                    each(Next::Record(record.offset(), record.payload()))?
                }
                Heard::End => {
                    at_end = true;
                    each(Next::End)?
                }
                Heard::Nothing if at_end => each(Next::End)?,
                Heard::Nothing => ControlFlow::Continue(()),
                Heard::Gone(error) => return Err(self.trouble("read", error)),
                Heard::Trouble(error) => {
                    trouble = Some(error.to_string());
                    ControlFlow::Continue(())
                }
            };
            if let ControlFlow::Break(found) = next {
                return Ok(found);
            }
            if heard.elapsed() > SILENCE {
                let quiet = "nothing came; does somebody else write to it in a transaction?";
                return Err(self.trouble("read", trouble.unwrap_or_else(|| quiet.to_owned())));
            }
        }
    }
}

fn hear(consumer: &Reader, wait: Duration) -> Result<Heard<'_>, KafkaError> {
    Ok(match consumer.poll(wait) {
        Some(Ok(record)) => Heard::Record(record),
        Some(Err(KafkaError::PartitionEOF(_))) => Heard::End,
        Some(Err(error)) => match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Heard::Gone(error)
            }
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::TopicAuthorizationFailed,
            ) => return Err(error),
            _ => Heard::Trouble(error),
        },
        None => Heard::Nothing,
    })
}

fn trouble(topic: &str, action: &'static str, error: impl ToString) -> Error {
    Error::io(action, &format!("topic {topic}"), failed(error.to_string()))
}

/// Brokers and properties, checked.
pub(crate) fn client(options: &KafkaOptions) -> Result<ClientConfig, Error> {
    let refuse = |reason: String, fix: &str| Error::Topic {
        topic: options.topic.clone(),
        reason,
        fix: fix.to_owned(),
    };
    let mut config = ClientConfig::new();
    for (name, value) in &options.properties {
        if FIXED.contains(&name.as_str()) {
            return Err(refuse(format!("the property {name} is not free"), "leave it out"));
        }
        config.set(name, value);
    }
    config.set("bootstrap.servers", &options.brokers);
    config.create_native_config().map_err(|e| setting(&options.topic, &e))?;
    Ok(config)
}

/// What is wrong with a property; values may be secret.
pub(crate) fn setting(topic: &str, error: &KafkaError) -> Error {
    let reason = match error {
        KafkaError::ClientConfig(_, _, name, _) => {
            format!("librdkafka refuses the property {name}")
        }
        other => other.to_string(),
    };
    let fix = "librdkafka's CONFIGURATION.md lists the properties and their values".to_owned();
    Error::Topic { topic: topic.to_owned(), reason, fix }
}
