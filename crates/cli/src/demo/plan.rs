//! In which order events reach the log, with planted disorder: late, out of order and repeated
//! events, and commits that are sent twice.
//!
//! The plan is a function of the data, the settings and the seed: the same three give the same
//! commits. It counts what it plants, so that the platform's counters can be held against it.

use super::source::{Flights, SECOND_US};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const MINUTE_S: i64 = 60;
const HOUR_S: i64 = 60 * MINUTE_S;
/// Longest way of an undisturbed event to the log.
const NETWORK_S: i64 = 20;
/// Delay of an event out of order.
const OUT_OF_ORDER_S: std::ops::RangeInclusive<i64> = MINUTE_S..=30 * MINUTE_S;
/// Delay of a late event.
const LATE_S: std::ops::RangeInclusive<i64> = 2 * HOUR_S..=12 * HOUR_S;
/// How long after an event its duplicate is sent.
const DUPLICATE_S: std::ops::RangeInclusive<i64> = 0..=2 * HOUR_S;
/// How far the declared watermarks stay behind, microseconds (see streams.sql).
const WATERMARK_DELAY_US: i64 = HOUR_S * SECOND_US;

/// How much disorder is planted; shares are between 0 and 1.
#[derive(Clone, Copy, Debug)]
pub struct Disorder {
    /// Seeds everything random.
    pub seed: u64,
    /// Share of events that come hours late.
    pub late: f64,
    /// Share of events that come minutes late.
    pub out_of_order: f64,
    /// Share of events that are sent twice.
    pub duplicates: f64,
    /// Share of commits that are sent twice.
    pub retries: f64,
}

/// Departures or arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rows of `departures`.
    Departure,
    /// Rows of `arrivals`.
    Arrival,
}

/// The plan: one entry per event sent, in the order in which they reach the log.
pub struct Plan {
    /// Second of arrival (32 bits), kind (1 bit), row (31 bits): sorts as it should be sent.
    sends: Vec<u64>,
    /// What was planted.
    pub planted: Planted,
    disorder: Disorder,
}

/// What the plan planted, before commits are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Planted {
    /// Events that come hours late.
    pub late: u64,
    /// Events that come minutes late.
    pub out_of_order: u64,
    /// Events that are sent a second time.
    pub duplicates: u64,
}

/// The rows of one stream in one commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Rows to send, in order.
    pub rows: Vec<u32>,
    /// How many of them were sent before.
    pub duplicates: u64,
    /// How many of the others lie behind the watermark.
    pub late: u64,
}

/// What is sent at once: up to one commit per stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows of `departures`.
    pub departures: Part,
    /// Rows of `arrivals`.
    pub arrivals: Part,
    /// Whether both are sent a second time, as a producer does that saw no acknowledgement.
    pub retried: bool,
    /// When the last of them reaches the log, microseconds since the Unix epoch.
    pub at_us: i64,
}

impl Batch {
    /// Rows of both streams.
    pub fn len(&self) -> u64 {
        (self.departures.rows.len() + self.arrivals.rows.len()) as u64
    }
}

impl Plan {
    /// Decides when each event reaches the log.
    pub fn new(flights: &Flights, disorder: Disorder) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(disorder.seed);
        let (departures, arrivals) = (&flights.departures.times_us, &flights.arrivals.times_us);
        let events = departures.len() + arrivals.len();
        let mut sends = Vec::with_capacity(events + events / 8);
        let mut planted = Planted::default();
        for (kind, times) in [(Kind::Departure, departures), (Kind::Arrival, arrivals)] {
            for (row, time_us) in (0_u64..).zip(times) {
                let at = time_us / SECOND_US + disorder.delay_s(&mut rng, &mut planted);
                sends.push(encode(at, kind, row));
                if rng.random::<f64>() < disorder.duplicates {
                    planted.duplicates += 1;
                    sends.push(encode(at + rng.random_range(DUPLICATE_S), kind, row));
                }
            }
        }
        sends.sort_unstable();
        Self { sends, planted, disorder }
    }

    /// Events sent, duplicates included, retried commits not.
    pub fn len(&self) -> u64 {
        self.sends.len() as u64
    }

    /// Cuts the plan into batches of `batch_rows` events.
    pub fn batches<'a>(&'a self, flights: &'a Flights, batch_rows: usize) -> Batches<'a> {
        Batches {
            chunks: self.sends.chunks(batch_rows.max(1)),
            // A stream of its own, so that the size of batches does not change the order.
            rng: ChaCha8Rng::seed_from_u64(self.disorder.seed.wrapping_add(1)),
            retries: self.disorder.retries,
            departures: Sent::new(&flights.departures.times_us),
            arrivals: Sent::new(&flights.arrivals.times_us),
        }
    }
}

impl Disorder {
    fn delay_s(&self, rng: &mut ChaCha8Rng, planted: &mut Planted) -> i64 {
        let fate: f64 = rng.random();
        if fate < self.late {
            planted.late += 1;
            rng.random_range(LATE_S)
        } else if fate < self.late + self.out_of_order {
            planted.out_of_order += 1;
            rng.random_range(OUT_OF_ORDER_S)
        } else {
            rng.random_range(0..=NETWORK_S)
        }
    }
}

fn encode(at_s: i64, kind: Kind, row: u64) -> u64 {
    let kind = u64::from(kind == Kind::Arrival);
    (at_s.unsigned_abs() << 32) | (kind << 31) | row
}

fn decode(send: u64) -> (i64, Kind, u32) {
    let kind = if send >> 31 & 1 == 1 { Kind::Arrival } else { Kind::Departure };
    ((send >> 32) as i64, kind, (send & 0x7fff_ffff) as u32)
}

/// The batches of a plan, in order.
pub struct Batches<'a> {
    chunks: std::slice::Chunks<'a, u64>,
    rng: ChaCha8Rng,
    retries: f64,
    departures: Sent<'a>,
    arrivals: Sent<'a>,
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let chunk = self.chunks.next()?;
        let (mut departures, mut arrivals) = (Part::default(), Part::default());
        let mut at_s = 0;
        for &send in chunk {
            let (at, kind, row) = decode(send);
            at_s = at;
            match kind {
                Kind::Departure => self.departures.push(&mut departures, row),
                Kind::Arrival => self.arrivals.push(&mut arrivals, row),
            }
        }
        self.departures.committed();
        self.arrivals.committed();
        let retried = self.rng.random::<f64>() < self.retries;
        Some(Batch { departures, arrivals, retried, at_us: at_s * SECOND_US })
    }
}

/// What one stream has been sent so far.
struct Sent<'a> {
    times_us: &'a [i64],
    seen: Vec<bool>,
    /// Largest event time so far, and as of the last commit.
    largest_us: i64,
    committed_us: i64,
}

impl<'a> Sent<'a> {
    fn new(times_us: &'a [i64]) -> Self {
        let before = i64::MIN + WATERMARK_DELAY_US;
        let seen = vec![false; times_us.len()];
        Self { times_us, seen, largest_us: before, committed_us: before }
    }

    fn push(&mut self, part: &mut Part, row: u32) {
        let (at, time_us) = (row as usize, self.times_us[row as usize]);
        part.rows.push(row);
        if self.seen[at] {
            part.duplicates += 1;
        } else if time_us < self.committed_us - WATERMARK_DELAY_US {
            part.late += 1;
        }
        self.seen[at] = true;
        self.largest_us = self.largest_us.max(time_us);
    }

    /// The watermark of a row is the one before its commit.
    fn committed(&mut self) {
        self.committed_us = self.largest_us;
    }
}
