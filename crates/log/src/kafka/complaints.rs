//! What the client says of its connections. Its answers only say that no broker could be reached;
//! why (a wrong password, a certificate that nobody vouches for) it says beside, to whoever polls.
//!
//! Invariant: it keeps no secret. The client names brokers, mechanisms and what they answered.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::time::Duration;

/// A consumer that keeps what it says.
pub(crate) type Reader = BaseConsumer<Complaints>;

/// Keeps the last complaint that says something.
#[derive(Default)]
pub(crate) struct Complaints(Mutex<Option<Complaint>>);

/// What the client said.
#[derive(Clone, Debug)]
pub(crate) struct Complaint {
    code: Option<RDKafkaErrorCode>,
    pub reason: String,
}

impl Complaint {
    /// Whether waiting does not help.
    pub fn is_final(&self) -> bool {
        matches!(self.code, Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL))
    }
}

impl ClientContext for Complaints {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        // That all are away follows from what was said of each one.
        if code != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.lock() = Some(Complaint { code, reason: reason.to_owned() });
        }
    }
}

impl ConsumerContext for Complaints {}

/// The last complaint of a consumer that reads nothing at the time.
pub(crate) fn last(reader: &Reader) -> Option<Complaint> {
    while reader.poll(Duration::ZERO).is_some() {}
    reader.context().0.lock().clone()
}
