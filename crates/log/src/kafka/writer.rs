//! The one producer: a group of records is one transaction.
//!
//! Invariant: what `write` says did not happen never does. A transaction that the broker ended
//! otherwise than was asked, or of which nobody knows the end, poisons the log.

use super::topic::{ASK, PARTITION, Topic, setting};
use crate::Error;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, NoCustomPartitioner, Producer, ProducerContext};
use std::time::{Duration, Instant};

/// How long the broker keeps a transaction that nobody ends.
const TRANSACTION_MS: u64 = 60_000;
/// How long the end of a transaction may take: longer than the broker waits.
const COMMIT: Duration = Duration::from_millis(TRANSACTION_MS + 15_000);
/// The wait for deliveries before they are looked at the time.
const POLL: Duration = Duration::from_millis(1);
/// A batch of records of this size is sent at once.
const BATCH_BYTES: usize = 1_000_000;

/// What became of the records of a transaction.
#[derive(Default)]
struct Deliveries(Mutex<Vec<Result<i64, KafkaError>>>);

impl ClientContext for Deliveries {}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    /// The number of the record in its transaction.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        if let Some(slot) = self.0.lock().get_mut(number) {
            *slot = match result {
                Ok(record) => Ok(record.offset()),
                Err((error, _)) => Err(error.clone()),
            };
        }
    }
}

/// The producer that has the log until another one is opened.
pub(crate) struct Writer(BaseProducer<Deliveries>);

/// Why a transaction failed.
pub(crate) struct Failed {
    pub error: KafkaError,
    /// Another producer has the log.
    pub fenced: bool,
    pub may_have_happened: bool,
}

impl Writer {
    /// Takes the log over from whoever has it; the last transaction of the one before is settled.
    pub fn open(topic: &Topic) -> Result<Self, Error> {
        let refused = |e: KafkaError| setting(&topic.name, &e);
        let producer = topic
            .config
            .clone()
            .set("transactional.id", format!("kaplan-log-{}", topic.name))
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("transaction.timeout.ms", TRANSACTION_MS.to_string())
            .set("linger.ms", "0")
            .set("message.max.bytes", topic.message_bytes.to_string())
            .set("batch.size", BATCH_BYTES.min(topic.message_bytes / 2).to_string())
            .create_with_context::<_, BaseProducer<Deliveries>>(Deliveries::default())
            .map_err(refused)?;
        producer.init_transactions(COMMIT).map_err(|e| topic.trouble("take over", e))?;
        Ok(Self(producer))
    }

    /// Writes records in one transaction; returns their offsets when it is committed.
    pub fn write(&self, topic: &str, values: &[Vec<u8>]) -> Result<Vec<i64>, Failed> {
        self.transact(topic, values).map_err(|(error, committing)| {
            let fenced = self.fenced(&error);
            // A transaction that could be aborted was not committed.
            let aborted = !fenced && self.0.abort_transaction(ASK).is_ok();
            Failed { error, fenced, may_have_happened: committing && !aborted }
        })
    }

    /// The error comes with whether the transaction may have been committed.
    fn transact(&self, topic: &str, values: &[Vec<u8>]) -> Result<Vec<i64>, (KafkaError, bool)> {
        let before = |error| (error, false);
        let unknown = KafkaError::MessageProduction(RDKafkaErrorCode::InProgress);
        *self.0.context().0.lock() = vec![Err(unknown.clone()); values.len()];
        self.0.begin_transaction().map_err(before)?;
        let deadline = Instant::now() + COMMIT;
        for (number, value) in values.iter().enumerate() {
            let mut record = BaseRecord::<(), [u8], usize>::with_opaque_to(topic, number);
            record = record.partition(PARTITION).payload(value);
            while let Err((error, again)) = self.0.send(record) {
                let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                if !full || Instant::now() > deadline {
                    return Err(before(error));
                }
                self.0.poll(POLL);
                record = again;
            }
        }
        // The client's own flush looks every 100 ms only.
        while self.0.in_flight_count() > 0 && Instant::now() < deadline {
            self.0.poll(POLL);
        }
        self.0.commit_transaction(COMMIT).map_err(|e| (e, true))?;
        let delivered = std::mem::take(&mut *self.0.context().0.lock());
        delivered.into_iter().collect::<Result<_, _>>().map_err(|e| (e, true))
    }

    fn fenced(&self, error: &KafkaError) -> bool {
        let fenced = |code| {
            matches!(
                code,
                RDKafkaErrorCode::Fenced
                    | RDKafkaErrorCode::ProducerFenced
                    | RDKafkaErrorCode::InvalidProducerEpoch
            )
        };
        error.rdkafka_error_code().is_some_and(fenced)
            || self.0.client().fatal_error().is_some_and(|(code, _)| fenced(code))
    }
}
