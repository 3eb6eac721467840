//! Sources and sinks in the catalog. Their options hold secrets: whatever is shown of them goes
//! through [`shown`].

use super::catalog::Catalog;
use kaplan_base::{Lsn, StreamId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The beginning of the producer ids that sources commit under; nobody else may use it.
pub const PRODUCER_PREFIX: &str = "_source/";

/// What is shown in place of a secret.
pub const MASK: &str = "[REDACTED]";

/// A source: what fills streams and tables from another system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceDef {
    /// The number; never reused, so that a source of the same name inherits no positions.
    pub id: u32,
    /// The name.
    pub name: String,
    /// `connector = '..'`.
    pub connector: String,
    /// All of `WITH (..)`, by lower-case name, secrets included.
    pub options: BTreeMap<String, String>,
    /// `FORMAT .. ENCODE ..`.
    pub format: Option<FormatDef>,
    /// `INCLUDE ..`, in order.
    pub include: Vec<IncludeDef>,
    /// The streams and tables that it fills.
    pub targets: Vec<TargetDef>,
    /// The stream that keeps what could not be read.
    pub errors: StreamId,
    /// `ALTER SOURCE .. PAUSE`.
    #[serde(default)]
    pub paused: bool,
    /// Made by `CREATE TABLE`.
    #[serde(default)]
    pub table: bool,
}

/// A stream or table that a source fills.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetDef {
    /// The stream.
    pub stream: StreamId,
    /// What it is called at the other side: `CREATE TABLE t (..) FROM source TABLE 'public.t'`.
    pub upstream: Option<String>,
}

/// `FORMAT form ENCODE encode (options)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatDef {
    /// `plain`, `upsert`, `debezium`, in lower case.
    pub form: String,
    /// `json`, `avro`, `csv`, `bytes` and so on, in lower case.
    pub encode: String,
    /// The options, by lower-case name.
    pub options: BTreeMap<String, String>,
}

/// What `INCLUDE` takes from around a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Include {
    /// The record's key.
    Key,
    /// The partition.
    Partition,
    /// The offset.
    Offset,
    /// The record's time.
    Timestamp,
    /// All headers, or one by name.
    Header,
    /// The whole record as it arrived.
    Payload,
    /// The name of the file.
    File,
}

impl Include {
    /// The word that it is written with.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Include::Key => "KEY",
            Include::Partition => "PARTITION",
            Include::Offset => "OFFSET",
            Include::Timestamp => "TIMESTAMP",
            Include::Header => "HEADER",
            Include::Payload => "PAYLOAD",
            Include::File => "FILE",
        }
    }
}

/// `INCLUDE what ['header'] [AS column]`: a column of the stream that the record's surroundings
/// fill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncludeDef {
    /// What it takes.
    pub what: Include,
    /// The header's name, for one header.
    pub header: Option<String>,
    /// The column.
    pub column: String,
}

/// A sink: what writes a relation's changes to another system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinkDef {
    /// The number; never reused.
    pub id: u32,
    /// The name.
    pub name: String,
    /// `connector = '..'`.
    pub connector: String,
    /// All of `WITH (..)`, by lower-case name, secrets included.
    pub options: BTreeMap<String, String>,
    /// `FORMAT .. ENCODE ..`.
    pub format: Option<FormatDef>,
    /// The query whose changes are written, as SQL.
    pub query: String,
    /// `FROM name`, as it was written; none after `AS`.
    pub from: Option<String>,
    /// What the query's names stand for.
    pub bound: BTreeMap<String, super::catalog::Bound>,
    /// The key columns' names; empty for a sink that only appends.
    pub key: Vec<String>,
    /// The last commit before the sink was created.
    pub created_at: Lsn,
    /// `ALTER SINK .. PAUSE`.
    #[serde(default)]
    pub paused: bool,
}

impl SourceDef {
    /// The producer id under which a split's changes are committed.
    #[must_use]
    pub fn producer(&self, split: &str) -> String {
        format!("{PRODUCER_PREFIX}{}/{split}", self.id)
    }

    /// The split that a producer id stands for, when it is one of this source.
    #[must_use]
    pub fn split<'a>(&self, producer: &'a str) -> Option<&'a str> {
        let (id, split) = producer.strip_prefix(PRODUCER_PREFIX)?.split_once('/')?;
        (id.parse() == Ok(self.id)).then_some(split)
    }
}

impl Catalog {
    /// The source that fills a stream.
    #[must_use]
    pub fn source_of(&self, stream: StreamId) -> Option<&SourceDef> {
        self.sources.values().find(|s| s.targets.iter().any(|t| t.stream == stream))
    }

    /// Whether a producer is a source that is not there any more.
    #[must_use]
    pub fn is_orphan(&self, producer: &str) -> bool {
        producer.starts_with(PRODUCER_PREFIX)
            && !self.sources.values().any(|s| s.split(producer).is_some())
    }
}

/// Whether an option's value must not be shown.
#[must_use]
pub fn is_secret(option: &str) -> bool {
    const PARTS: [&str; 11] = [
        "password",
        "secret",
        "token",
        "credential",
        "private",
        "sasl.jaas",
        "access.key",
        "api.key",
        "apikey",
        "authorization",
        "passphrase",
    ];
    let folded = option.to_lowercase().replace('_', ".");
    PARTS.iter().any(|part| folded.contains(part))
        || folded.ends_with("key.pem")
        || folded.contains("access.key")
}

/// An option's value as it is shown: secrets are masked, passwords inside of URLs too.
#[must_use]
pub fn shown(option: &str, value: &str) -> String {
    if is_secret(option) {
        return MASK.to_owned();
    }
    match value.split_once("://").map(|(scheme, rest)| (scheme, rest.split_once('@'))) {
        Some((scheme, Some((login, rest)))) if !login.contains('/') => {
            match login.split_once(':') {
                Some((user, _)) => format!("{scheme}://{user}:{MASK}@{rest}"),
                None => value.to_owned(),
            }
        }
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{MASK, shown};

    #[test]
    fn secrets_are_masked() {
        for option in ["properties.sasl.password", "s3_secret_access_key", "Auth_Token"] {
            assert_eq!(shown(option, "hunter2"), MASK, "{option}");
        }
        assert_eq!(shown("topic", "passwords"), "passwords");
        let url = shown("url", "postgres://me:hunter2@db:5432/x");
        assert_eq!(url, format!("postgres://me:{MASK}@db:5432/x"));
        assert_eq!(shown("url", "http://host/a@b"), "http://host/a@b");
    }
}
