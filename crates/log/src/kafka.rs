//! The log in a topic of Apache Kafka with one partition: a group of commits is one transaction.
//!
//! ```text
//! offset   0       1      2      3      4      5       6       7..10   11
//! record   marker  (end)  LSN 1  LSN 2  (end)  marker  (end)   LSN 3   (end)
//!          epoch 1 .........................   epoch 2 ...................
//! ```
//!
//! Invariant: there is one producer, since all openings have the same transactional id. Opening takes
//! it over, which settles the last transaction of the one before and lets it write no other, then
//! writes a marker, which begins an epoch, and reads the topic up to the marker. What was acknowledged
//! by the one before lies before it.
//!
//! A commit larger than the broker's messages is cut into parts, and the transaction makes all of a
//! group happen or nothing. A transaction of which nobody knows the end poisons the log until it is
//! opened again. Records that are damaged, missing or somebody else's are refused with their offset.
//! What the topic itself must be like is in `kafka/topic.rs`, the bytes are in `kafka/record.rs`.

mod complaints;
mod group;
mod held;
mod reader;
mod record;
mod topic;
mod writer;

use crate::held::failed as io_failed;
use crate::stopped::Stopped;
use crate::{Commit, Error, Log, disk, frame};
use held::{Found, Held, Place};
use kaplan_base::Lsn;
use parking_lot::{Condvar, Mutex};
use record::{Assembler, Header};
use std::any::Any;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use topic::{Next, Topic};
use writer::Failed;

pub use group::KafkaGroup;
pub use reader::KafkaReader;

/// Bytes of commits read from the topic at once, at least, for those who read page by page.
const READ_AHEAD_BYTES: usize = 8 << 20;
/// How often opening begins to read again, where an earlier writer trims at the same time.
const OPEN_ATTEMPTS: u32 = 5;
/// How long a writer whose transaction failed looks for another one that has the log.
const LOOK: Duration = Duration::from_secs(5);

/// How a [`KafkaLog`] is opened.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// `host:port`, with commas between several.
    pub brokers: String,
    /// The topic; created if there is none.
    pub topic: String,
    /// Further properties of librdkafka, such as `security.protocol`.
    pub properties: BTreeMap<String, String>,
    /// Which log it is: a topic that holds another one is refused.
    pub id: u64,
    /// A directory that is locked while the log is open, where one process may have the other data
    /// (default none).
    pub directory: Option<PathBuf>,
    /// Whether the log was opened before, so that a topic without it is refused (default false).
    pub begun: bool,
    /// The epoch before the log's first one (default 0).
    pub epoch_before: u64,
    /// The LSN that the first commit gets in an empty topic (default 1).
    pub first_lsn: Lsn,
    /// How many bytes of the newest commits are kept in memory for readers (default 64 MiB).
    pub cache_bytes: usize,
    /// How many bytes lie between places that are remembered (default 256 KiB); trimming frees up to
    /// one of them.
    pub index_bytes: u64,
}

impl KafkaOptions {
    /// The defaults for a topic.
    #[must_use]
    pub fn new(brokers: &str, topic: &str, id: u64) -> Self {
        Self {
            brokers: brokers.to_owned(),
            topic: topic.to_owned(),
            properties: BTreeMap::new(),
            id,
            directory: None,
            begun: false,
            epoch_before: 0,
            first_lsn: Lsn(1),
            cache_bytes: 64 << 20,
            index_bytes: 256 << 10,
        }
    }
}

/// What only the appending thread changes.
struct Writer {
    producer: writer::Writer,
    /// The offset of its last record.
    last: i64,
    stopped: Option<Stopped>,
}

impl Writer {
    fn healthy(&self) -> Result<(), Error> {
        self.stopped.as_ref().map_or(Ok(()), |stopped| Err(stopped.error()))
    }
}

/// The log in a topic. Whoever opens it last has it.
pub struct KafkaLog {
    topic: Topic,
    id: u64,
    epoch: u64,
    writer: Mutex<Writer>,
    held: Mutex<Held>,
    grown: Condvar,
    /// The commits read from the topic last, for those who read them page by page.
    read: Mutex<Arc<Vec<Commit>>>,
    /// Held by the one trim that runs: the offset up to which records are removed.
    removed: Mutex<i64>,
    _lock: Option<Box<dyn Any + Send + Sync>>,
}

impl KafkaLog {
    /// Opens the log in a topic and takes it over from whoever has it.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::Topic`] where the topic cannot be this log; [`Error::Record`]; [`Error::Io`],
    /// also when another one opened it meanwhile.
    pub fn open(options: &KafkaOptions) -> Result<Self, Error> {
        let lock = options.directory.as_deref().map(disk::lock).transpose()?;
        let topic = Topic::open(options)?;
        // A log of others is left alone: nothing was taken over yet.
        look(&topic, options)?;
        let producer = writer::Writer::open(&topic)?;
        let marker = Header::marker(options.id).encode(&[]);
        let written =
            producer.write(&topic.name, &[marker]).map_err(|failed| match failed.fenced {
                true => topic.trouble("take over", "another instance did at the same time"),
                false => topic.trouble("begin an epoch in", failed.error),
            })?;
        let marker = written.last().copied().unwrap_or_default();
        let (held, epoch) = read_all(&topic, options, marker)?;
        let removed = held.first_offset().unwrap_or(0);
        Ok(Self {
            topic,
            id: options.id,
            epoch,
            writer: Mutex::new(Writer { producer, last: marker, stopped: None }),
            held: Mutex::new(held),
            grown: Condvar::new(),
            read: Mutex::default(),
            removed: Mutex::new(removed),
            _lock: lock,
        })
    }

    /// The number of this opening: higher than that of every earlier one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Writes a group; returns the offset of each commit's first record.
    fn write(&self, writer: &mut Writer, group: &[Commit]) -> Result<Vec<i64>, Error> {
        let (mut values, mut firsts) = (Vec::new(), Vec::with_capacity(group.len()));
        for commit in group {
            firsts.push(values.len());
            values.extend(record::encode(commit, self.epoch, self.id, self.topic.part_bytes()));
        }
        match writer.producer.write(&self.topic.name, &values) {
            Ok(offsets) => {
                writer.last = offsets.last().copied().unwrap_or(writer.last);
                let offset = |first| offsets.get(first).copied().unwrap_or_default();
                Ok(firsts.into_iter().map(offset).collect())
            }
            Err(failed) => Err(self.stop(writer, &failed)),
        }
    }

    /// Takes nothing more, since a transaction failed.
    fn stop(&self, writer: &mut Writer, failed: &Failed) -> Error {
        let may_have_happened = failed.may_have_happened;
        // Whatever the error: once another one has the log, all that this one wrote is settled, and
        // lies before the other one's marker or nowhere.
        if let Ok(Some((epoch, found))) = self.newer(writer.last, LOOK)
            && !(found && may_have_happened)
        {
            writer.stopped = Some(Stopped::Fenced(epoch));
            return Error::Fenced { epoch };
        }
        let file = format!("topic {}", self.topic.name);
        let source = io_failed(failed.error.to_string());
        let error = Error::Failed { action: "write", file, may_have_happened, source };
        writer.stopped = Some(Stopped::Poisoned(error.to_string()));
        error
    }

    /// The epoch that was begun last after this one's records, and whether there may be more of these
    /// than are known.
    fn newer(&self, last: i64, patience: Duration) -> Result<Option<(u64, bool)>, Error> {
        let (low, _) = self.topic.bounds()?;
        let (mut epoch, mut unknown, since) = (self.epoch, low > last + 1, Instant::now());
        self.topic.scan(low.max(last + 1), |next| {
            let Next::Record(offset, value) = next else {
                let enough = epoch > self.epoch || since.elapsed() >= patience;
                return Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
            };
            let (header, _) = Header::decode(value.unwrap_or_default()).map_err(|reason| {
                Error::Record { topic: self.topic.name.clone(), offset, reason }
            })?;
            match header.parts {
                0 => epoch += 1,
                _ if header.epoch > epoch => epoch = header.epoch,
                _ => unknown |= header.epoch == self.epoch,
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((epoch > self.epoch).then_some((epoch, unknown)))
    }

    /// Reads from the topic, beginning at a place at or before `next`.
    fn read_stored(&self, place: Place, next: Lsn, max_bytes: usize) -> Result<Vec<Commit>, Error> {
        let mut read = self.read.lock();
        let held = |read: &[Commit]| {
            let covers = read.first().is_some_and(|first| first.lsn <= next);
            covers && read.last().is_some_and(|last| last.lsn >= next)
        };
        if !held(&read) {
            match self.fetch(place, next, max_bytes.max(READ_AHEAD_BYTES)) {
                Ok(found) => *read = Arc::new(found),
                Err(error) => return Err(self.trimmed(next)?.unwrap_or(error)),
            }
        }
        let commits = Arc::clone(&read);
        drop(read);
        let (mut page, mut bytes) = (Vec::new(), 0);
        for commit in commits.iter().filter(|commit| commit.lsn >= next) {
            bytes += frame::len(commit);
            if !page.is_empty() && bytes > max_bytes {
                break;
            }
            page.push(commit.clone());
        }
        Ok(page)
    }

    fn fetch(&self, place: Place, next: Lsn, max_bytes: usize) -> Result<Vec<Commit>, Error> {
        let head = self.held.lock().head();
        let mut assembler = Assembler::from(&self.topic.name, self.id, place.lsn);
        let (mut found, mut bytes) = (Vec::new(), 0);
        self.topic.scan(place.offset, |record| {
            let Next::Record(offset, value) = record else { return Ok(ControlFlow::Continue(())) };
            if let Some(record::Found::Commit(commit, _)) = assembler.push(offset, value)? {
                let lsn = commit.lsn;
                if lsn >= next {
                    bytes += frame::len(&commit);
                    found.push(commit);
                }
                if lsn >= head || bytes >= max_bytes {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// What to say of a commit that is not in the topic any more: it was trimmed meanwhile, perhaps by
    /// the writer that had the log before.
    fn trimmed(&self, next: Lsn) -> Result<Option<Error>, Error> {
        let (low, _) = self.topic.bounds()?;
        let mut held = self.held.lock();
        held.begins_at(low);
        let start = held.start();
        Ok((start > next).then_some(Error::Trimmed { start }))
    }
}

/// Refuses a topic that does not hold this log, by its first record.
fn look(topic: &Topic, options: &KafkaOptions) -> Result<(), Error> {
    let (low, _) = topic.bounds()?;
    let first = topic.scan(low, |next| {
        Ok(ControlFlow::Break(match next {
            Next::Record(offset, value) => Some((offset, value.map(<[u8]>::to_vec))),
            Next::End => None,
        }))
    })?;
    match first {
        Some((offset, value)) => {
            let mut assembler = Assembler::new(&topic.name, options.id, None);
            assembler.push(offset, value.as_deref()).map(drop)
        }
        None if options.begun => Err(Error::Topic {
            topic: topic.name.clone(),
            reason: "it is empty, although it was the log".to_owned(),
            fix: "bring its records back; was it deleted, or are these other brokers?".to_owned(),
        }),
        None => Ok(()),
    }
}

/// Everything in the topic up to the marker that was written last, and the marker's epoch.
fn read_all(topic: &Topic, options: &KafkaOptions, marker: i64) -> Result<(Held, u64), Error> {
    for attempt in 1.. {
        let (low, _) = topic.bounds()?;
        match read_from(topic, options, low, marker) {
            Err(Error::Io { .. }) if attempt < OPEN_ATTEMPTS && topic.bounds()?.0 != low => {}
            read => return read,
        }
    }
    Err(topic.trouble("read", "it is trimmed again and again"))
}

fn read_from(
    topic: &Topic,
    options: &KafkaOptions,
    low: i64,
    marker: i64,
) -> Result<(Held, u64), Error> {
    let before = options.first_lsn.max(Lsn(1)).previous();
    let mut held = Held::new(before, options.index_bytes, options.cache_bytes);
    let mut assembler =
        Assembler::new(&topic.name, options.id, (low == 0).then_some(options.epoch_before));
    let mut markers = 0;
    topic.scan(low, |next| {
        let Next::Record(offset, value) = next else { return Ok(ControlFlow::Continue(())) };
        match assembler.push(offset, value)? {
            Some(record::Found::Commit(commit, first)) => held.push(commit, first),
            Some(record::Found::Epoch) => markers += 1,
            None => {}
        }
        Ok(if offset >= marker { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if let Some(head) = assembler.last() {
        held.set_head(head);
    }
    // A log that was never begun may get a topic that others have emptied.
    let new = (!options.begun).then_some(options.epoch_before + markers);
    let epoch = assembler.epoch().or(new).ok_or_else(|| Error::Topic {
        topic: topic.name.clone(),
        reason: "its first records were deleted, and it holds no commit that says where the log is"
            .to_owned(),
        fix: "bring its records back".to_owned(),
    })?;
    Ok((held, epoch))
}

impl Log for KafkaLog {
    fn append(&self, group: &[Commit]) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        writer.healthy()?;
        frame::check_group(self.held.lock().head(), group)?;
        if group.is_empty() {
            return Ok(());
        }
        let offsets = self.write(&mut writer, group)?;
        let mut held = self.held.lock();
        for (commit, offset) in group.iter().zip(offsets) {
            held.push(commit.clone(), offset);
        }
        drop(held);
        self.grown.notify_all();
        Ok(())
    }

    fn head(&self) -> Lsn {
        self.held.lock().head()
    }

    fn start(&self) -> Lsn {
        self.held.lock().start()
    }

    fn bytes(&self) -> u64 {
        self.held.lock().bytes()
    }

    fn read(&self, after: Lsn, max_bytes: usize) -> Result<Vec<Commit>, Error> {
        let held = self.held.lock();
        if after >= held.head() {
            return Ok(Vec::new());
        }
        let found = held.find(after.next(), max_bytes)?;
        drop(held);
        match found {
            Some(Found::Commits(commits)) => Ok(commits),
            Some(Found::Stored(place)) => self.read_stored(place, after.next(), max_bytes),
            None => Ok(Vec::new()),
        }
    }

    fn trim(&self, through: Lsn) -> Result<(), Error> {
        let mut removed = self.removed.lock();
        let mut held = self.held.lock();
        held.let_go(through);
        let wanted = held.first_offset().filter(|offset| *offset > *removed);
        drop(held);
        if let Some(offset) = wanted {
            self.topic.delete_below(offset)?;
            *removed = offset;
        }
        Ok(())
    }

    fn wait(&self, after: Lsn, timeout: Duration) -> Lsn {
        let deadline = Instant::now().checked_add(timeout);
        let mut held = self.held.lock();
        while held.head() <= after {
            match deadline {
                Some(deadline) if self.grown.wait_until(&mut held, deadline).timed_out() => break,
                Some(_) => {}
                None => self.grown.wait(&mut held),
            }
        }
        held.head()
    }

    /// Finds out whether another opening has taken the log over, as an append would.
    fn mark_durable(&self) -> Result<(), Error> {
        // An append under way finds out by itself.
        let Some(mut writer) = self.writer.try_lock() else { return Ok(()) };
        writer.healthy()?;
        // After the last record comes the end of its transaction.
        let (_, end) = self.topic.bounds()?;
        if end > writer.last + 2
            && let Some((epoch, _)) = self.newer(writer.last, Duration::ZERO)?
        {
            writer.stopped = Some(Stopped::Fenced(epoch));
        }
        writer.healthy()
    }
}
