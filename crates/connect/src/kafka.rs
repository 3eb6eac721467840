//! Apache Kafka, by librdkafka: topics as sources, and relations written to topics.
//!
//! Partitions are assigned, not subscribed to: their offsets are in Kaplan's own commits, and no
//! consumer group decides anything. Every `properties.*` goes to librdkafka as it is.

mod reach;
mod sink;
mod source;

pub use sink::KafkaSink;
pub use source::KafkaSource;

use crate::{Error, Result};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a question to the brokers may take.
const ASK: Duration = Duration::from_secs(10);

/// The prefix of options that librdkafka gets.
const PASSED_ON: &str = "properties.";

/// The client's settings: what the definition passes on, under librdkafka's names.
fn client(options: &BTreeMap<String, String>, fixed: &[(&str, &str)]) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    for (option, value) in options {
        let Some(name) = option.strip_prefix(PASSED_ON) else { continue };
        // RisingWave's name, and Java's.
        let name = match name {
            "bootstrap.server" => "bootstrap.servers",
            "ssl.truststore.location" => "ssl.ca.location",
            name => name,
        };
        if fixed.iter().any(|(taken, _)| *taken == name) {
            return Err(Error::config(format!("{option} cannot be set"))
                .hint("Kaplan sets it: positions are kept with the rows"));
        }
        config.set(name, value);
    }
    for (name, value) in fixed {
        config.set(*name, *value);
    }
    if config.get("bootstrap.servers").is_none_or(|servers| servers.trim().is_empty()) {
        return Err(Error::config("properties.bootstrap.server is missing")
            .hint("write properties.bootstrap.server = 'host:9092'"));
    }
    config.create_native_config().map_err(|e| {
        let error = Error::config(match &e {
            KafkaError::ClientConfig(_, why, name, _) => format!("{PASSED_ON}{name}: {why}"),
            other => other.to_string(),
        });
        error.hint("librdkafka's CONFIGURATION.md lists the properties")
    })?;
    Ok(config)
}

/// An option that must be there.
fn needed<'a>(options: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str> {
    let value = options.get(name).map(String::as_str).filter(|v| !v.is_empty());
    value.ok_or_else(|| {
        Error::config(format!("{name} is missing")).hint(format!("write {name} = '..'"))
    })
}

/// Refuses options that nobody reads.
fn refuse_unknown(options: &BTreeMap<String, String>, known: &[&str]) -> Result<()> {
    let unknown = options
        .keys()
        .find(|o| !o.starts_with(PASSED_ON) && *o != "connector" && !known.contains(&o.as_str()));
    match unknown {
        Some(option) => Err(Error::config(format!("the connector kafka has no option {option}"))
            .hint(format!("its options are {}, and properties.*", known.join(", ")))),
        None => Ok(()),
    }
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let lost = |_| Error::unavailable("a task was lost");
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}

/// What went wrong at the brokers.
fn trouble(what: &str, error: &KafkaError) -> Error {
    let code = error.rdkafka_error_code();
    let message = match code {
        Some(code) => format!("{what}: {code}"),
        None => format!("{what}: {error}"),
    };
    explain(message, code)
}

/// The error with what to do.
fn explain(message: String, code: Option<RDKafkaErrorCode>) -> Error {
    let error = Error::unavailable(message);
    match code {
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition,
        ) => error.hint("create the topic; it is read as soon as it is there"),
        Some(
            RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::Resolve,
        ) => error.hint(
            "check properties.bootstrap.server, properties.security.protocol, and whether the \
             brokers are up",
        ),
        Some(RDKafkaErrorCode::SSL) => error.hint(
            "check properties.ssl.ca.location, and that the certificate names the brokers' host",
        ),
        Some(
            RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed,
        ) => error.hint("check the credentials in properties.sasl.* and what they may do"),
        _ => error,
    }
}
