//! Which connectors there are: by name, from a definition to something that reads or writes.
//!
//! A connector checks every option of its definition when it is made, without IO; an unknown option
//! or a value that means nothing refuses `CREATE`. Systems that Kaplan has no connector for are
//! refused by name, with the list of those that are there.

use crate::kafka::{KafkaSink, KafkaSource};
use crate::sink::{DeltaSink, ParquetSink, PostgresSink, Sink, WebhookSink};
use crate::source::Source;
use crate::{Error, Result, files, postgres, sink, source};
use kaplan_sql::catalog::SourceDef;

/// The connectors of sources.
pub const SOURCES: [&str; 5] = ["kafka", postgres::CONNECTOR, "file", "s3", "gcs"];

/// The connectors of sinks.
pub const SINKS: [&str; 5] = ["kafka", "postgres", "webhook", "file", "delta"];

/// Makes a sink, without connecting.
///
/// # Errors
/// [`crate::Kind::Config`]: the definition is wrong.
pub fn sink(spec: sink::Spec) -> Result<Box<dyn Sink>> {
    match spec.def.connector.as_str() {
        "kafka" => Ok(Box::new(KafkaSink::new(spec)?)),
        "postgres" => Ok(Box::new(PostgresSink::new(spec)?)),
        "webhook" => Ok(Box::new(WebhookSink::new(spec)?)),
        "file" => Ok(Box::new(ParquetSink::new(spec)?)),
        "delta" | "deltalake" => Ok(Box::new(DeltaSink::new(spec)?)),
        "jdbc" => Err(Error::config("there is no sink connector 'jdbc'")
            .hint("for PostgreSQL write connector = 'postgres' with host, port, database, table")),
        other => Err(unknown("sink", other, &SINKS)),
    }
}

/// Makes a source, without connecting.
///
/// # Errors
/// [`crate::Kind::Config`]: the definition is wrong.
pub fn source(spec: source::Spec) -> Result<Box<dyn Source>> {
    match spec.def.connector.as_str() {
        "kafka" => Ok(Box::new(KafkaSource::new(&spec)?)),
        postgres::CONNECTOR => Ok(Box::new(postgres::Postgres::new(spec)?)),
        name if files::CONNECTORS.contains(&name) => Ok(Box::new(files::Files::new(spec)?)),
        "delta" | "deltalake" => Err(Error::config("Delta tables are read as files")
            .hint("write connector = 'file', 's3' or 'gcs' with FORMAT PLAIN ENCODE DELTA")),
        "mysql-cdc" => Err(Error::config("there is no connector for MySQL's binlog")
            .hint("read it with Debezium into Kafka: connector = 'kafka' .. FORMAT DEBEZIUM")),
        other => Err(unknown("source", other, &SOURCES)),
    }
}

/// Whether a source fills one stream or table that is created with it, or several that are
/// attached with `CREATE TABLE .. FROM source TABLE 'name'`.
#[must_use]
pub fn is_shared(def: &SourceDef) -> bool {
    def.connector.ends_with("-cdc")
}

fn unknown(what: &str, name: &str, known: &[&str]) -> Error {
    Error::config(format!("there is no {what} connector '{name}'"))
        .hint(format!("the connectors of a {what} are {}", known.join(", ")))
}
