//! Which log the data has: its own, below the data directory or in the bucket, or a topic of Kafka.
//!
//! ```text
//! log.json, beside the catalog: { "topic": "..", "id": "0123456789abcdef", "begun": true, .. }
//! ```
//!
//! Invariant: data never gets another log in silence. `log.json` is written before the topic is touched,
//! and names the topic and the log in it; data that has it is not opened with its own log, data that has
//! its own log is not opened with a topic, and a topic that holds another log, or nothing any more, is
//! refused.

use crate::archiver::blocking;
use crate::workers::LogTopic;
use crate::{Code, Error, Result, Settings, recover};
use kaplan_base::Lsn;
use kaplan_lake::Progress;
use kaplan_log::{KafkaLog, KafkaOptions, LocalLog, Log, ObjectLog, ObjectOptions, Options};
use kaplan_store::{Document, Place};
use object_store::PutMode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Size of the log's segments; trimming frees whole ones.
const SEGMENT_BYTES: u64 = 16 << 20;
/// The object that names the topic.
const NOTE: &str = "log.json";
/// The file that one process has locked, where the data is in a directory.
const LOCK: &str = "lock";
/// The longest name of a topic.
const MAX_TOPIC_BYTES: usize = 249;

/// Which topic is the log.
#[derive(Clone, Serialize, Deserialize)]
struct Note {
    topic: String,
    /// The log's id in its records, in hexadecimal digits.
    id: String,
    /// Whether it was opened, so that the topic must hold it.
    begun: bool,
    /// The last epoch of the log before.
    epoch_before: u64,
}

/// A log that was opened.
pub(crate) struct Opened {
    pub log: Arc<dyn Log>,
    /// The number of this opening: 0 on files, which are locked.
    pub epoch: u64,
    /// The topic that it is.
    pub topic: Option<LogTopic>,
}

/// Opens the log.
pub(crate) async fn open(place: &Place, settings: &Settings, progress: Progress) -> Result<Opened> {
    if !settings.log_url.is_empty() {
        return open_topic(place, settings, &progress).await;
    }
    if let Some(note) = note(place).await? {
        return Err(elsewhere(&note));
    }
    let place = place.below("log");
    let (log, epoch) = blocking(move || open_own(&place, &progress)).await?;
    Ok(Opened { log, epoch, topic: None })
}

/// Refuses to follow a log that is a topic.
pub(crate) async fn refuse_to_follow(place: &Place, settings: &Settings) -> Result<()> {
    if settings.log_url.is_empty() && note(place).await?.is_none() {
        return Ok(());
    }
    let message =
        "read replicas and batch jobs follow a log in a bucket, and log_url names a topic";
    Err(Error::new(Code::InvalidInput, message)
        .field("log_url")
        .hint("run views and batch runs in the process that writes"))
}

async fn open_topic(place: &Place, settings: &Settings, progress: &Progress) -> Result<Opened> {
    let (brokers, topic) = parse_url(&settings.log_url)?;
    let properties = parse_properties(&settings.log_properties)?;
    let note = match note(place).await? {
        Some(note) => note,
        None => begin(place, topic).await?,
    };
    if note.topic != topic {
        return Err(elsewhere(&note));
    }
    let options = KafkaOptions {
        properties,
        directory: place.below("log").local().map(Path::to_owned),
        begun: note.begun,
        epoch_before: note.epoch_before,
        first_lsn: recover::first_lsn(progress),
        ..KafkaOptions::new(brokers, topic, parse_id(place, &note)?)
    };
    let log = blocking(move || Ok(KafkaLog::open(&options)?)).await?;
    if !note.begun {
        warn_if_gone(place, true, progress);
        write(place, &Note { begun: true, ..note.clone() }).await?;
    }
    let epoch = log.epoch();
    let topic = LogTopic { brokers: brokers.to_owned(), topic: note.topic, id: note.id };
    Ok(Opened { log: Arc::new(log), epoch, topic: Some(topic) })
}

fn elsewhere(note: &Note) -> Error {
    let message = format!("the log of this data is the Kafka topic {}", note.topic);
    Error::new(Code::InvalidInput, message).field("log_url").hint(format!(
        "set log_url to kafka://brokers/{}; opened without it, commits would be missing",
        note.topic
    ))
}

async fn note(place: &Place) -> Result<Option<Note>> {
    let Some(bytes) = place.get(NOTE).await? else { return Ok(None) };
    let damaged = |e| Error::new(Code::Corrupted, format!("{NOTE} cannot be read: {e}"));
    let note = serde_json::from_slice(&bytes).map_err(damaged);
    note.map(Some).map_err(|e| e.hint("restore it from a backup; it names the log's topic"))
}

fn parse_id(place: &Place, note: &Note) -> Result<u64> {
    u64::from_str_radix(&note.id, 16).map_err(|_| {
        let message = format!("the id in {} is no number", place.shown(NOTE));
        Error::new(Code::Corrupted, message).hint("restore it from a backup")
    })
}

async fn write(place: &Place, note: &Note) -> Result<()> {
    let bytes = serde_json::to_vec(note).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
    Ok(place.put(NOTE, bytes).await?)
}

/// Says that a topic is the log of data that has none yet.
async fn begin(place: &Place, topic: &str) -> Result<Note> {
    let own = place.below("log").list().await?;
    if own.iter().any(|(name, _)| name != LOCK) {
        let message = format!("{} holds the log of this data", place.below("log"));
        return Err(Error::new(Code::InvalidInput, message).field("log_url").hint(
            "start without log_url, or with another data_dir; a log cannot be moved to a topic",
        ));
    }
    let epoch_before = Document::epoch(place, crate::catalog::FILE).await?.unwrap_or(0);
    let id = format!("{:016x}", uuid::Uuid::new_v4().as_u64_pair().0);
    let note = Note { topic: topic.to_owned(), id, begun: false, epoch_before };
    let bytes = serde_json::to_vec(&note).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
    let path = place.object(NOTE);
    match place.store().put_opts(&path, bytes.into(), PutMode::Create.into()).await {
        Ok(_) => Ok(note),
        // Another process began at the same time.
        Err(object_store::Error::AlreadyExists { .. }) => {
            let lost = || Error::new(Code::Unavailable, format!("{NOTE} came and went; try again"));
            self::note(place).await?.ok_or_else(lost)
        }
        Err(e) => {
            Err(Error::new(Code::Unavailable, format!("cannot write {}: {e}", place.shown(NOTE))))
        }
    }
}

/// Brokers and topic of `kafka://host:port,host:port/topic`.
fn parse_url(url: &str) -> Result<(&str, &str)> {
    let parts = url.strip_prefix("kafka://").and_then(|rest| rest.split_once('/'));
    let name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match parts {
        Some((brokers, _)) if brokers.contains('@') => {
            Err(Error::new(Code::InvalidInput, "log_url holds credentials")
                .field("log_url")
                .hint("give them as log_properties: sasl.username=..,sasl.password=.."))
        }
        Some((brokers, topic))
            if !brokers.is_empty()
                && (1..=MAX_TOPIC_BYTES).contains(&topic.len())
                && topic.chars().all(name) =>
        {
            Ok((brokers, topic))
        }
        _ => Err(Error::new(Code::InvalidInput, format!("log_url {url} names no topic"))
            .field("log_url")
            .hint("write kafka://host:9092,host:9092/topic, or nothing for the data directory")),
    }
}

/// `name=value,name=value`; a comma in a value is written `\\,`.
pub(crate) fn parse_properties(text: &str) -> Result<BTreeMap<String, String>> {
    let mut properties = BTreeMap::new();
    let mut entries: Vec<String> = Vec::new();
    let mut whole = true;
    for piece in text.split(',') {
        match entries.last_mut().filter(|_| !whole) {
            Some(last) => last.extend([",", piece]),
            None => entries.push(piece.to_owned()),
        }
        whole = true;
        if let Some(last) = entries.last_mut().filter(|last| last.ends_with('\\')) {
            last.pop();
            whole = false;
        }
    }
    for (number, entry) in entries.iter().enumerate().filter(|(_, e)| !e.trim().is_empty()) {
        // What is wrong is not repeated: it may be secret.
        let (name, value) = entry.split_once('=').ok_or_else(|| {
            let message = format!("entry {} of log_properties has no =", number + 1);
            Error::new(Code::InvalidInput, message)
                .field("log_properties")
                .hint("write name=value,name=value; a comma in a value is written \\,")
        })?;
        properties.insert(name.trim().to_owned(), value.to_owned());
    }
    Ok(properties)
}

/// Opens the log, on files or in a bucket; returns the epoch of this opening: 0 on files, which are
/// locked.
fn open_own(place: &Place, progress: &Progress) -> Result<(Arc<dyn Log>, u64)> {
    let first_lsn = recover::first_lsn(progress);
    let Some(dir) = place.local() else {
        let options = ObjectOptions { first_lsn, ..ObjectOptions::default() };
        let log = ObjectLog::open(place, &options)?;
        let epoch = log.epoch();
        warn_if_gone(place, epoch == 1, progress);
        return Ok((Arc::new(log), epoch));
    };
    let options = Options { segment_bytes: SEGMENT_BYTES, first_lsn, ..Options::default() };
    let empty = std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
    warn_if_gone(place, empty, progress);
    Ok((Arc::new(LocalLog::open(dir, options)?), 0))
}

fn warn_if_gone(place: &Place, empty: bool, progress: &Progress) {
    if empty && progress.archived_through > Lsn::ZERO {
        tracing::error!(
            %place,
            archived_through = progress.archived_through.0,
            "the log is gone: Kaplan goes on from the lake, and commits that were acknowledged and \
             not archived yet are lost; if it was moved, stop now and bring it back"
        );
    }
}

/// Refuses a log that does not continue the lake, or lacks what the lake has of it.
pub(crate) fn check_continuous(log: &dyn Log, progress: &Progress) -> Result<()> {
    let (start, head, archived) = (log.start(), log.head(), progress.archived_through);
    if start <= archived.next() && head >= archived {
        return Ok(());
    }
    let message = match head < archived {
        true => format!("the log ends at LSN {head}, and the lake has commits up to {archived}"),
        false => format!("the log begins at LSN {start}, and the lake ends at {archived}"),
    };
    Err(Error::new(Code::Corrupted, message).hint("restore the lake or the log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_brokers_and_topic() {
        assert_eq!(parse_url("kafka://a:1,b:2/log.x").unwrap(), ("a:1,b:2", "log.x"));
        for wrong in ["a:1/log", "kafka://a:1", "kafka:///log", "kafka://a:1/", "kafka://a/b/c"] {
            assert_eq!(parse_url(wrong).unwrap_err().field.as_deref(), Some("log_url"), "{wrong}");
        }
        let secret = parse_url("kafka://ann:secret@a:1/log").unwrap_err().to_string();
        assert!(!secret.contains("secret") && secret.contains("log_properties"), "{secret}");
    }

    #[test]
    fn properties_may_hold_commas() {
        let found = parse_properties("security.protocol=SASL_SSL, sasl.password=a\\,b=c,").unwrap();
        let expected = [("sasl.password", "a,b=c"), ("security.protocol", "SASL_SSL")];
        assert_eq!(found, expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
        assert!(parse_properties("").unwrap().is_empty());
        let error = parse_properties("a=b,secret").unwrap_err().to_string();
        assert!(error.contains("entry 2") && !error.contains("secret"), "{error}");
    }
}
