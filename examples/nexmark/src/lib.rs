//! Nexmark: persons who open auctions, auctions, and bids on them, as Arrow batches.
//!
//! Proportions, identities, hot keys, prices and times are those of the reference generator (the
//! README says where they come from). Every event is a function of the seed and its number, so any
//! range of events can be made alone, in any order, by any number of threads, and is the same every
//! time. The random numbers themselves are not Java's: the distributions agree, the values do not.

mod columns;
mod event;
mod random;

pub use columns::{Batches, Kind};
pub use event::{Auction, Bid, Event, Person};

use arrow::error::ArrowError;
use random::Random;

/// Persons, auctions and bids of every 50 events.
pub const PROPORTIONS: (u64, u64, u64) = (1, 3, 46);
/// Events after which the proportions repeat.
pub const TOTAL_PROPORTION: u64 = PROPORTIONS.0 + PROPORTIONS.1 + PROPORTIONS.2;
/// 2015-07-15T00:00:00Z in microseconds, when the first event happens.
pub const BASE_TIME_US: i64 = 1_436_918_400_000_000;

/// What the events depend on. The defaults are the reference generator's.
#[derive(Clone, Debug)]
pub struct Config {
    /// Other seeds give other events.
    pub seed: u64,
    /// Events per second of event time.
    pub events_per_second: u64,
    /// When the first event happens, microseconds since the Unix epoch.
    pub base_time_us: i64,
    /// One bid in this many is not for a hot auction.
    pub hot_auction_ratio: u64,
    /// One auction in this many is not by a hot seller.
    pub hot_seller_ratio: u64,
    /// One bid in this many is not by a hot bidder.
    pub hot_bidder_ratio: u64,
    /// Auctions that are open at once.
    pub auctions_in_flight: u64,
    /// Persons who may sell and bid at a time.
    pub active_people: u64,
    /// Average bytes of a person, an auction and a bid; the column `extra` fills up to it.
    pub average_bytes: (usize, usize, usize),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            events_per_second: 10_000,
            base_time_us: BASE_TIME_US,
            hot_auction_ratio: 2,
            hot_seller_ratio: 4,
            hot_bidder_ratio: 4,
            auctions_in_flight: 100,
            active_people: 1_000,
            average_bytes: (200, 500, 100),
        }
    }
}

impl Config {
    /// The event with a number, counted from 0.
    #[must_use]
    pub fn event(&self, number: u64) -> Event {
        let mut random = Random::new(self.seed, number);
        let (persons, auctions, _) = PROPORTIONS;
        match number % TOTAL_PROPORTION {
            n if n < persons => Event::Person(self.person(number, &mut random)),
            n if n < persons + auctions => Event::Auction(self.auction(number, &mut random)),
            _ => Event::Bid(self.bid(number, &mut random)),
        }
    }

    /// The events with numbers from `from` to below `to`, one batch a kind.
    pub fn batches(&self, from: u64, to: u64) -> Result<Batches, ArrowError> {
        Batches::of((from..to).map(|number| self.event(number)))
    }

    /// When an event happens, in whole milliseconds as the reference has it.
    fn time_us(&self, number: u64) -> i64 {
        let after_ms = number.saturating_mul(1_000) / self.events_per_second.max(1);
        self.base_time_us + i64::try_from(after_ms).unwrap_or(i64::MAX / 1_000) * 1_000
    }
}
