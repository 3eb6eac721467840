//! The first question to the brokers, and what the client says when it gets no answer.
//!
//! The answer only says that no broker could be reached. Why (a wrong password, a certificate that
//! nobody vouches for) the client says beside, to whoever polls; so that is looked at in between.
//! It names brokers, mechanisms and what they answered, and no secret.

use super::{ASK, explain, trouble};
use crate::Result;
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The first of the waits for an answer; each one is twice as long as the one before.
const LOOK: Duration = Duration::from_secs(1);

/// A consumer that keeps what it says.
pub(super) type Reader = BaseConsumer<Complaints>;

/// The last complaint that says something: its code, and the words.
#[derive(Default)]
pub(super) struct Complaints(Mutex<Option<(Option<RDKafkaErrorCode>, String)>>);

impl ClientContext for Complaints {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        // That all are away follows from what was said of each one.
        if code != Some(RDKafkaErrorCode::AllBrokersDown) {
            let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *last = Some((code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Complaints {}

/// What the brokers say of a topic, asked by a consumer that reads nothing yet.
pub(super) fn reach(reader: &Reader, topic: &str, what: &str) -> Result<Metadata> {
    let (mut wait, mut waited) = (LOOK, Duration::ZERO);
    loop {
        let error = match reader.fetch_metadata(Some(topic), wait) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => error,
        };
        waited += wait;
        wait = (wait * 2).min(ASK.saturating_sub(waited));
        while reader.poll(Duration::ZERO).is_some() {}
        let last = reader.context().0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_final =
            |code| matches!(code, Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL));
        match last {
            Some((code, reason)) if is_final(code) || waited >= ASK => {
                return Err(explain(format!("{what}: {reason}"), code));
            }
            None if waited >= ASK => return Err(trouble(what, &error)),
            _ => {}
        }
    }
}
