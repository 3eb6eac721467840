//! A relation written to a topic. A change is one transaction, and in it the sink's position: the
//! LSN as the offset of a consumer group of its own. After a crash the broker ends the transaction
//! that was open, one way or the other, and tells the position that holds; so nothing is written
//! twice or not at all, for readers with `isolation.level = read_committed`.
//!
//! A broker forgets the offsets of a group that is silent for long (`offsets.retention.minutes`, a
//! week), so the position is written again from time to time, and a copy is kept here.

use super::reach::{Complaints, Reader, reach};
use super::{ASK, blocking, client, needed, refuse_unknown, trouble};
use crate::sink::{Change, Op, Sink, Spec};
use crate::{Error, Result, encode, position};
use async_trait::async_trait;
use kaplan_base::Lsn;
use rdkafka::consumer::{Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a transaction may take to end.
const COMMIT: Duration = Duration::from_secs(60);
/// The wait for deliveries before they are looked at the time.
const POLL: Duration = Duration::from_millis(1);
/// The wait for room in the client's queue.
const ROOM: Duration = Duration::from_millis(20);

/// A topic that changes are written to.
pub struct KafkaSink {
    spec: Spec,
    topic: String,
    config: ClientConfig,
    group: String,
    open: Option<Arc<Open>>,
}

struct Open {
    producer: ThreadedProducer<DefaultProducerContext>,
    member: ConsumerGroupMetadata,
}

const KNOWN: [&str; 5] = ["topic", "type", "primary_key", "force_append_only", "snapshot"];

impl KafkaSink {
    /// A sink to a topic, without connecting.
    ///
    /// # Errors
    /// The definition is wrong.
    pub fn new(spec: Spec) -> Result<Self> {
        let options = &spec.def.options;
        refuse_unknown(options, &KNOWN)?;
        let group = format!("kaplan-sink-{}-{}", spec.platform, spec.def.id);
        let fixed =
            [("transactional.id", group.as_str()), ("enable.idempotence", "true"), ("acks", "all")];
        let mut config = client(options, &fixed)?;
        if config.get("partitioner").is_none() {
            // As Java's clients place keys, so that topics of both can be joined.
            config.set("partitioner", "murmur2_random");
        }
        if let Some(format) = &spec.def.format
            && format.encode != "json"
        {
            let encode = format.encode.to_uppercase();
            return Err(Error::config(format!("ENCODE {encode} is not supported in a sink"))
                .hint("write ENCODE JSON"));
        }
        let topic = needed(options, "topic")?.to_owned();
        Ok(Self { spec, topic, config, group, open: None })
    }

    fn place(&self, offset: Offset) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, 0, offset)
            .map_err(|e| trouble("the sink's position", &e))?;
        Ok(list)
    }
}

fn connect(config: &ClientConfig, group: &str, topic: &str) -> Result<(Open, Reader)> {
    let what = format!("cannot write to the topic {topic}");
    let failed = |e: KafkaError| trouble(&what, &e);
    let wrong = |e: KafkaError| Error::config(e.to_string());
    let mut reading = config.clone();
    for of_producers in ["transactional.id", "enable.idempotence", "acks", "partitioner"] {
        reading.remove(of_producers);
    }
    reading.set("group.id", group).set("isolation.level", "read_committed");
    let consumer: Reader = reading.create_with_context(Complaints::default()).map_err(wrong)?;
    let metadata = reach(&consumer, topic, &what)?;
    let known = metadata.topics().iter().any(|t| t.name() == topic && !t.partitions().is_empty());
    if !known {
        return Err(failed(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopic)));
    }
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().map_err(wrong)?;
    // Ends what an earlier run left open, and keeps that run from writing more.
    producer.init_transactions(COMMIT).map_err(failed)?;
    let member = consumer.group_metadata();
    let member = member.ok_or_else(|| Error::unavailable("the sink's group has no metadata"))?;
    Ok((Open { producer, member }, consumer))
}

#[async_trait]
impl Sink for KafkaSink {
    async fn open(&mut self) -> Result<Option<Lsn>> {
        self.open = None;
        let (config, group, topic) = (self.config.clone(), self.group.clone(), self.topic.clone());
        let place = self.place(Offset::Invalid)?;
        let (open, at) = blocking(move || {
            let (open, consumer) = connect(&config, &group, &topic)?;
            let found = consumer.committed_offsets(place, ASK);
            let found = found.map_err(|e| trouble("cannot read the sink's position", &e))?;
            let at = found.elements_for_topic(&topic).first().map(|e| e.offset());
            Ok((open, at))
        })
        .await?;
        self.open = Some(Arc::new(open));
        let there = match at {
            Some(Offset::Offset(lsn)) => u64::try_from(lsn).ok().map(Lsn),
            _ => None,
        };
        // The broker may have forgotten; the copy is at most one transaction behind.
        let kept = position::read(&self.spec.place, self.spec.def.id).await?;
        if there.is_none() && kept.is_some() {
            tracing::warn!(sink = self.spec.def.name, "the broker forgot the sink's position");
        }
        Ok(there.or(kept))
    }

    async fn write(&mut self, change: &Change, lsn: Lsn) -> Result<()> {
        let open = self.open.clone().ok_or_else(|| Error::unavailable("the sink is not open"))?;
        let all: Vec<usize> = (0..change.rows.num_columns()).collect();
        let values = encode::objects(&change.rows, &all)?;
        let keys = match self.spec.key.is_empty() {
            true => None,
            false => Some(encode::objects(&change.rows, &self.spec.key)?),
        };
        let ops = change.ops.clone();
        let offset = Offset::Offset(lsn.to_i64());
        let (place, topic) = (self.place(offset)?, self.topic.clone());
        blocking(move || {
            let rows = Rows { values, keys, ops };
            let written = transaction(&open, &topic, &rows, &place);
            if written.is_err() {
                // The runner opens the sink again, which ends the transaction for sure.
                let _ = open.producer.abort_transaction(ASK);
            }
            written.map_err(|e| trouble(&format!("cannot write to the topic {topic}"), &e))
        })
        .await?;
        position::write(&self.spec.place, self.spec.def.id, lsn).await
    }
}

struct Rows {
    values: Vec<String>,
    keys: Option<Vec<String>>,
    ops: Vec<Op>,
}

fn transaction(
    open: &Open,
    topic: &str,
    rows: &Rows,
    place: &TopicPartitionList,
) -> Result<(), KafkaError> {
    let producer = &open.producer;
    producer.begin_transaction()?;
    for (at, op) in rows.ops.iter().enumerate() {
        let mut record: BaseRecord<'_, String, String> = BaseRecord::to(topic);
        record.key = rows.keys.as_ref().map(|keys| &keys[at]);
        // A record without value is what deletes a key.
        record.payload = (*op != Op::Delete).then(|| &rows.values[at]);
        while let Err((error, again)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error);
            }
            std::thread::sleep(ROOM);
            record = again;
        }
    }
    producer.send_offsets_to_transaction(place, &open.member, ASK)?;
    // The client's own flush looks every 100 ms only.
    let deadline = Instant::now() + COMMIT;
    while producer.in_flight_count() > 0 && Instant::now() < deadline {
        producer.poll(POLL);
    }
    producer.commit_transaction(COMMIT)
}
