//! The last write of every idempotent producer. A sequence not above the last one is a retry; it is
//! answered with the last commit, which is at or after the one that held the original.
//!
//! A producer is forgotten only when [`MAX_PRODUCERS`] are known and it has been silent for
//! [`PRODUCER_EXPIRY_US`]; when none can be forgotten, a new one is refused. The positions of sources
//! are never forgotten: to read a topic again because it was silent would count its rows twice.

use crate::{Code, Error, Producer, Result};
use kaplan_base::Lsn;
use kaplan_log::MAX_PRODUCER_BYTES;
use kaplan_sql::catalog::PRODUCER_PREFIX;
use std::collections::{BTreeMap, HashMap};

/// Most producers that are remembered.
pub const MAX_PRODUCERS: usize = 100_000;
/// How long a silent producer is remembered at least, microseconds: a week.
pub const PRODUCER_EXPIRY_US: i64 = 7 * 24 * 3_600 * 1_000_000;

#[derive(Clone, Copy)]
struct Last {
    sequence: u64,
    lsn: Lsn,
    time_us: i64,
}

/// A producer's id, its last sequence and that commit.
pub type Told = (String, (u64, Lsn));

/// The producers, with a journal of what is staged.
#[derive(Default)]
pub(super) struct Producers {
    last: HashMap<String, Last>,
    journal: Vec<(String, Option<Last>)>,
    forgotten: Vec<String>,
}

impl Producers {
    /// The commit of this write or of a later one of the producer; none when the write is new.
    pub fn seen(&self, producer: &Producer) -> Option<Lsn> {
        let last = self.last.get(&producer.id)?;
        (producer.sequence <= last.sequence).then_some(last.lsn)
    }

    /// Refuses a source's write that does not continue the last one.
    pub fn check_after(&self, producer: &Producer, after: u64) -> Result<()> {
        let last = self.last.get(&producer.id).map_or(0, |last| last.sequence);
        if last == after && producer.sequence > after {
            return Ok(());
        }
        let message = format!(
            "{} stands at {last}, and the write goes from {after} to {}",
            producer.id, producer.sequence
        );
        Err(Error::new(Code::Conflict, message).hint("begin again at the position that is durable"))
    }

    /// Stages a producer's write.
    pub fn stage(&mut self, producer: Producer, lsn: Lsn, time_us: i64) -> Result<()> {
        if !self.last.contains_key(&producer.id) {
            self.make_room(time_us)?;
        }
        let now = Last { sequence: producer.sequence, lsn, time_us };
        let before = self.last.insert(producer.id.clone(), now);
        self.journal.push((producer.id, before));
        Ok(())
    }

    /// Remembers a durable write.
    pub fn absorb(&mut self, id: &str, sequence: u64, lsn: Lsn, time_us: i64) {
        let known = self.last.get(id).map_or(Lsn::ZERO, |last| last.lsn);
        if known <= lsn {
            self.last.insert(id.to_owned(), Last { sequence, lsn, time_us });
        }
    }

    /// Counts silence from `time_us` on where it is not known since when a producer is silent.
    pub fn open(&mut self, time_us: i64) {
        self.last.values_mut().for_each(|last| last.time_us = last.time_us.max(time_us));
    }

    /// Every producer's last sequence and commit, as far as durable.
    pub fn all(&self) -> BTreeMap<String, (u64, Lsn)> {
        self.last.iter().map(|(id, last)| (id.clone(), (last.sequence, last.lsn))).collect()
    }

    /// The place in the journal to which [`Producers::revert`] can go back.
    pub fn mark(&self) -> usize {
        self.journal.len()
    }

    /// Takes back what was staged after the mark.
    pub fn revert(&mut self, mark: usize) {
        for (id, before) in self.journal.drain(mark.min(self.journal.len())..).rev() {
            match before {
                Some(before) => self.last.insert(id, before),
                None => self.last.remove(&id),
            };
        }
    }

    /// Makes what was staged stay, and tells it; then what was forgotten.
    pub fn confirm(&mut self) -> (Vec<Told>, Vec<String>) {
        let staged = std::mem::take(&mut self.journal);
        let told = staged.into_iter().filter_map(|(id, _)| {
            let last = self.last.get(&id)?;
            Some((id, (last.sequence, last.lsn)))
        });
        (told.collect(), std::mem::take(&mut self.forgotten))
    }

    fn make_room(&mut self, now_us: i64) -> Result<()> {
        if self.last.len() < MAX_PRODUCERS {
            return Ok(());
        }
        let since = now_us.saturating_sub(PRODUCER_EXPIRY_US);
        let expired =
            |id: &String, last: &mut Last| last.time_us < since && !id.starts_with(PRODUCER_PREFIX);
        self.forgotten.extend(self.last.extract_if(expired).map(|(id, _)| id));
        if self.last.len() < MAX_PRODUCERS {
            return Ok(());
        }
        let message = format!("{MAX_PRODUCERS} producers are known already");
        Err(Error::new(Code::Overloaded, message)
            .hint("reuse producer ids; a producer is forgotten after a week of silence"))
    }
}

/// Refuses an id that the log would not take.
pub(super) fn check_id(producer: &Producer) -> Result<()> {
    let bytes = producer.id.len();
    if (1..=MAX_PRODUCER_BYTES).contains(&bytes) {
        return Ok(());
    }
    let message = format!("the producer's id has {bytes} bytes");
    Err(Error::new(Code::InvalidInput, message)
        .field("producer")
        .hint(format!("use 1 to {MAX_PRODUCER_BYTES} bytes")))
}
