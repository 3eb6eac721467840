//! Reading along in a topic that is the log of another process.
//!
//! ```text
//! topic    marker  LSN 4  LSN 5  LSN 6  marker  LSN 7 ..
//!          ^ begins here  ^ after       ^ passed  ^ next() waits for the brokers
//! ```
//!
//! Invariant: what it returns are the commits after the one that the caller has, each once and in
//! order, and committed ones only. Where a commit is missing it says so, and says it again when it
//! is asked again: [`Error::Trimmed`] for what is trimmed away, before it or underneath it, and
//! [`Error::Record`] for what is damaged or another log's.
//!
//! It takes nothing over: it has no producer, begins no epoch, writes nothing and creates nothing.

use super::look;
use super::record::{Assembler, Found};
use super::topic::{Heard, SILENCE, Topic};
use crate::{Commit, Error, KafkaOptions};
use kaplan_base::Lsn;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use std::time::{Duration, Instant};

/// How it reads: the broker answers as soon as there is something, what is fetched ahead is
/// bounded, and fetching goes on soon when there is room again.
const READING: [(&str, &str); 4] = [
    ("fetch.wait.max.ms", "500"),
    ("queued.max.messages.kbytes", "65536"),
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.error.backoff.ms", "50"),
];
/// The longest wait for a record before the deadline is looked at again.
const POLL: Duration = Duration::from_secs(1);

/// The reader of a log in a topic that another process writes.
pub struct KafkaReader {
    topic: Topic,
    id: u64,
    /// The commit that is returned next.
    next: Lsn,
    /// Puts together what is read; none where reading is to begin at the beginning of the topic.
    assembler: Option<Assembler>,
    /// Since when nothing came from the brokers but this.
    trouble: Option<(Instant, KafkaError)>,
}

impl KafkaReader {
    /// Opens the log as it is; `after` is the last commit that the caller has already. Of the
    /// options, those of brokers, topic and log count; the user's properties come before those of
    /// reading.
    ///
    /// # Errors
    /// [`Error::Topic`] where there is no such topic, or an empty one although the log was begun;
    /// [`Error::Record`] where it holds another log; [`Error::Io`].
    pub fn open(options: &KafkaOptions, after: Lsn) -> Result<Self, Error> {
        let topic = Topic::existing(options, &READING)?;
        look(&topic, options)?;
        Ok(Self { topic, id: options.id, next: after.next(), assembler: None, trouble: None })
    }

    /// The commit after the last one that was returned, and first the one after `after`; None when
    /// it did not come within `wait`.
    ///
    /// # Errors
    /// [`Error::Trimmed`] where it is not there any more; [`Error::Record`]; [`Error::Io`], after
    /// which it goes on where it was.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Commit>, Error> {
        let deadline = Instant::now().checked_add(wait);
        loop {
            let left = deadline
                .map_or(POLL, |end| end.saturating_duration_since(Instant::now()).min(POLL));
            match self.step(left)? {
                Some(commit) if commit.lsn == self.next => {
                    self.next = commit.lsn.next();
                    return Ok(Some(commit));
                }
                // The reader's caller has it.
                Some(commit) if commit.lsn < self.next => {}
                Some(commit) => {
                    self.assembler = None;
                    return Err(Error::Trimmed { start: commit.lsn });
                }
                None if deadline.is_some_and(|end| Instant::now() >= end) => {
                    return self.check_brokers().map(|()| None);
                }
                None => {}
            }
        }
    }

    /// Waits for one record, and returns the commit that it completes.
    fn step(&mut self, wait: Duration) -> Result<Option<Commit>, Error> {
        let mut assembler = match self.assembler.take() {
            Some(assembler) => assembler,
            None => self.begin()?,
        };
        let mut commit = None;
        match self.topic.hear(wait) {
            Ok(Heard::Record(record)) => {
                // Reading begins again after an error, which then is found again.
                if let Some(Found::Commit(found, _)) =
                    assembler.push(record.offset(), record.payload())?
                {
                    commit = Some(found);
                }
                self.trouble = None;
            }
            Ok(Heard::End) => self.trouble = None,
            // Trimmed underneath: what is left says whether something is missing.
            Ok(Heard::Gone(_)) => return Ok(None),
            Ok(Heard::Trouble(error)) => {
                self.trouble.get_or_insert_with(|| (Instant::now(), error));
            }
            Ok(Heard::Nothing) => {}
            Err(error) => {
                self.assembler = Some(assembler);
                return Err(error);
            }
        }
        self.assembler = Some(assembler);
        Ok(commit)
    }

    fn begin(&self) -> Result<Assembler, Error> {
        let (low, _) = self.topic.bounds()?;
        self.topic.begin(low)?;
        Ok(Assembler::new(&self.topic.name, self.id, None))
    }

    /// Asks the brokers whether they are there, if there was trouble and nothing else for long.
    fn check_brokers(&mut self) -> Result<(), Error> {
        let Some((since, error)) = &self.trouble else { return Ok(()) };
        if since.elapsed() > SILENCE {
            if self.topic.bounds().is_err() {
                return Err(self.topic.trouble("read", error));
            }
            self.trouble = None;
        }
        Ok(())
    }
}
