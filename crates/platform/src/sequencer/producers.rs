//! The last write of every idempotent producer. A sequence not above the last one is a retry; it is
//! answered with the last commit, which is at or after the one that held the original.
//!
//! A producer is forgotten only when [`MAX_PRODUCERS`] are known and it has been silent for
//! [`PRODUCER_EXPIRY_US`]; when none can be forgotten, a new one is refused. The splits of sources
//! are apart: they do not count, and their positions are not forgotten before their source is dropped.
//! To read a topic again because it was silent would count its rows twice.

use crate::{Code, Error, Producer, Result};
use kaplan_base::Lsn;
use kaplan_log::MAX_PRODUCER_BYTES;
use kaplan_sql::catalog::PRODUCER_PREFIX;
use std::collections::{BTreeMap, HashMap};

/// Most producers that are remembered.
pub const MAX_PRODUCERS: usize = 100_000;
/// How long a silent producer is remembered at least, microseconds: a week.
pub const PRODUCER_EXPIRY_US: i64 = 7 * 24 * 3_600 * 1_000_000;

/// A producer's last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// The producer's own number of it.
    pub sequence: u64,
    /// Its commit, or a later one that answers for it.
    pub lsn: Lsn,
    /// The commit's time, microseconds since the Unix epoch.
    pub time_us: i64,
}

/// A producer's id and its last write.
pub type Told = (String, Last);

/// The producers, with a journal of what is staged.
#[derive(Default)]
pub(super) struct Producers {
    clients: HashMap<String, Last>,
    splits: HashMap<String, Last>,
    journal: Vec<(String, Option<Last>)>,
    forgotten: Vec<String>,
}

impl Producers {
    fn like(&self, id: &str) -> &HashMap<String, Last> {
        if id.starts_with(PRODUCER_PREFIX) { &self.splits } else { &self.clients }
    }

    fn like_mut(&mut self, id: &str) -> &mut HashMap<String, Last> {
        if id.starts_with(PRODUCER_PREFIX) { &mut self.splits } else { &mut self.clients }
    }

    fn get(&self, id: &str) -> Option<&Last> {
        self.like(id).get(id)
    }

    /// The commit of this write or of a later one of the producer; none when the write is new.
    pub fn seen(&self, producer: &Producer) -> Option<Lsn> {
        let last = self.get(&producer.id)?;
        (producer.sequence <= last.sequence).then_some(last.lsn)
    }

    /// Refuses a source's write that does not continue the last one.
    pub fn check_after(&self, producer: &Producer, after: u64) -> Result<()> {
        let last = self.get(&producer.id).map_or(0, |last| last.sequence);
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
        if self.get(&producer.id).is_none() && !producer.id.starts_with(PRODUCER_PREFIX) {
            self.make_room(time_us)?;
        }
        let now = Last { sequence: producer.sequence, lsn, time_us };
        let before = self.like_mut(&producer.id).insert(producer.id.clone(), now);
        self.journal.push((producer.id, before));
        Ok(())
    }

    /// Remembers a durable write.
    pub fn absorb(&mut self, id: &str, sequence: u64, lsn: Lsn, time_us: i64) {
        let known = self.get(id).map_or(Lsn::ZERO, |last| last.lsn);
        if known <= lsn {
            self.like_mut(id).insert(id.to_owned(), Last { sequence, lsn, time_us });
        }
    }

    /// Counts silence from `time_us` on where it is not known since when a producer is silent.
    pub fn open(&mut self, time_us: i64) {
        let unknown = self.clients.values_mut().filter(|last| last.time_us == 0);
        unknown.for_each(|last| last.time_us = time_us);
    }

    /// Every producer's last write, as far as durable.
    pub fn all(&self) -> BTreeMap<String, Last> {
        self.clients.iter().chain(&self.splits).map(|(id, last)| (id.clone(), *last)).collect()
    }

    /// Forgets the splits of a source: the producers whose ids begin so.
    pub fn forget(&mut self, prefix: &str) {
        self.splits.retain(|id, _| !id.starts_with(prefix));
    }

    /// The place in the journal to which [`Producers::revert`] can go back.
    pub fn mark(&self) -> usize {
        self.journal.len()
    }

    /// Takes back what was staged after the mark.
    pub fn revert(&mut self, mark: usize) {
        let staged = self.journal.split_off(mark.min(self.journal.len()));
        for (id, before) in staged.into_iter().rev() {
            match before {
                Some(before) => self.like_mut(&id).insert(id, before),
                None => self.like_mut(&id).remove(&id),
            };
        }
    }

    /// Makes what was staged stay, and tells it; then what was forgotten.
    pub fn confirm(&mut self) -> (Vec<Told>, Vec<String>) {
        let staged = std::mem::take(&mut self.journal);
        let told = staged.into_iter().filter_map(|(id, _)| {
            let last = *self.get(&id)?;
            Some((id, last))
        });
        (told.collect(), std::mem::take(&mut self.forgotten))
    }

    fn make_room(&mut self, now_us: i64) -> Result<()> {
        if self.clients.len() < MAX_PRODUCERS {
            return Ok(());
        }
        let since = now_us.saturating_sub(PRODUCER_EXPIRY_US);
        let expired = |_: &String, last: &mut Last| last.time_us < since;
        self.forgotten.extend(self.clients.extract_if(expired).map(|(id, _)| id));
        if self.clients.len() < MAX_PRODUCERS {
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: i64 = 1_700_000_000_000_000;

    fn write(id: &str) -> Producer {
        Producer { id: id.into(), sequence: 1 }
    }

    fn full(time_us: i64) -> Producers {
        let mut producers = Producers::default();
        for at in 0..MAX_PRODUCERS {
            producers.absorb(&format!("p{at}"), 1, Lsn(1), time_us);
        }
        producers
    }

    #[test]
    fn the_splits_of_sources_take_no_place_of_clients() {
        let mut producers = full(NOW_US);
        let split = format!("{PRODUCER_PREFIX}1/file");
        producers.stage(write(&split), Lsn(2), NOW_US).unwrap();
        let error = producers.stage(write("new"), Lsn(2), NOW_US).unwrap_err();
        assert_eq!(error.code, Code::Overloaded);

        let mut producers = Producers::default();
        for at in 0..MAX_PRODUCERS {
            producers.absorb(&format!("{PRODUCER_PREFIX}1/{at}"), 1, Lsn(1), NOW_US);
        }
        producers.stage(write("new"), Lsn(2), NOW_US).unwrap();
    }

    #[test]
    fn silence_before_a_restart_counts() {
        let mut silent = full(NOW_US - PRODUCER_EXPIRY_US - 1);
        silent.open(NOW_US);
        silent.stage(write("new"), Lsn(2), NOW_US).unwrap();
        let (told, forgotten) = silent.confirm();
        assert_eq!((told.len(), forgotten.len()), (1, MAX_PRODUCERS));
        assert_eq!(silent.all().len(), 1);
        // Where an older version did not write the time down, it counts from the restart.
        let mut unknown = full(0);
        unknown.open(NOW_US);
        assert!(unknown.stage(write("new"), Lsn(2), NOW_US).is_err());
        unknown.stage(write("new"), Lsn(2), NOW_US + PRODUCER_EXPIRY_US + 1).unwrap();
    }
}
