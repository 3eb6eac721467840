//! One event and how it is made. The constants and formulas are those of the reference generator's
//! `PersonGenerator`, `AuctionGenerator`, `BidGenerator` and `PriceGenerator`.

use crate::random::Random;
use crate::{Config, PROPORTIONS, TOTAL_PROPORTION};
use std::fmt::Write as _;

const FIRST_PERSON_ID: u64 = 1_000;
const FIRST_AUCTION_ID: u64 = 1_000;
const FIRST_CATEGORY_ID: u64 = 10;
const CATEGORIES: u64 = 5;
/// Persons and auctions that may be named before they exist.
const ID_LEAD: u64 = 10;
/// One in this many persons or auctions is hot for its time.
const HOT_EVERY: u64 = 100;
const CHANNELS: u64 = 10_000;

const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] = [
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
];
const FIRST_NAMES: [&str; 11] = [
    "Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter",
];
const LAST_NAMES: [&str; 9] =
    ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// A new person.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of the benchmark")]
pub struct Person {
    pub id: u64,
    pub name: String,
    pub email_address: String,
    pub credit_card: String,
    pub city: &'static str,
    pub state: &'static str,
    pub date_time_us: i64,
    pub extra: String,
}

/// A new auction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of the benchmark")]
pub struct Auction {
    pub id: u64,
    pub item_name: String,
    pub description: String,
    pub initial_bid: i64,
    pub reserve: i64,
    pub date_time_us: i64,
    pub expires_us: i64,
    pub seller: u64,
    pub category: u64,
    pub extra: String,
}

/// A bid on an auction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of the benchmark")]
pub struct Bid {
    pub auction: u64,
    pub bidder: u64,
    pub price: i64,
    pub channel: String,
    pub url: String,
    pub date_time_us: i64,
    pub extra: String,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Someone came.
    Person(Person),
    /// Something is for sale.
    Auction(Auction),
    /// Someone offers a price.
    Bid(Bid),
}

/// The newest person (from 0) when the event happens.
fn last_person(number: u64) -> u64 {
    let offset = (number % TOTAL_PROPORTION).min(PROPORTIONS.0 - 1);
    number / TOTAL_PROPORTION * PROPORTIONS.0 + offset
}

/// The newest auction (from 0) when the event happens; 0 before there is one.
fn last_auction(number: u64) -> u64 {
    let (epoch, offset) = (number / TOTAL_PROPORTION, number % TOTAL_PROPORTION);
    let begun = offset.saturating_sub(PROPORTIONS.0).min(PROPORTIONS.1 - 1);
    match offset < PROPORTIONS.0 {
        true => (epoch * PROPORTIONS.1).saturating_sub(1),
        false => epoch * PROPORTIONS.1 + begun,
    }
}

impl Config {
    /// One of the active persons, or of a few who are yet to come.
    fn some_person(&self, number: u64, random: &mut Random) -> u64 {
        let people = last_person(number) + 1;
        let active = people.min(self.active_people);
        people - active + random.below(active + ID_LEAD)
    }

    /// One of the auctions that are likely to be open, or of a few that are yet to come.
    fn some_auction(&self, number: u64, random: &mut Random) -> u64 {
        let newest = last_auction(number);
        let oldest = newest.saturating_sub(self.auctions_in_flight);
        oldest + random.below(newest - oldest + 1 + ID_LEAD)
    }

    pub(crate) fn person(&self, number: u64, random: &mut Random) -> Person {
        let name = format!("{} {}", random.pick(&FIRST_NAMES), random.pick(&LAST_NAMES));
        let mut email_address = String::new();
        random.text(&mut email_address, 7, ' ');
        email_address.push('@');
        random.text(&mut email_address, 5, ' ');
        email_address.push_str(".com");
        let mut digits = || random.below(10_000);
        let (a, b, c, d) = (digits(), digits(), digits(), digits());
        let credit_card = format!("{a:04} {b:04} {c:04} {d:04}");
        let (city, state) = (random.pick(&CITIES), random.pick(&STATES));
        let texts = [&name, &email_address, &credit_card, city, state];
        let bytes = 8 + texts.map(str::len).iter().sum::<usize>();
        let extra = random.filler(bytes, self.average_bytes.0);
        Person {
            id: FIRST_PERSON_ID + last_person(number),
            name,
            email_address,
            credit_card,
            city,
            state,
            date_time_us: self.time_us(number),
            extra,
        }
    }

    pub(crate) fn auction(&self, number: u64, random: &mut Random) -> Auction {
        let seller = match random.below(self.hot_seller_ratio) {
            0 => self.some_person(number, random),
            _ => last_person(number) / HOT_EVERY * HOT_EVERY,
        };
        let category = FIRST_CATEGORY_ID + random.below(CATEGORIES);
        let initial_bid = random.price();
        let date_time_us = self.time_us(number);
        let until_next = self.auctions_in_flight * TOTAL_PROPORTION / PROPORTIONS.1;
        let horizon_ms = (self.time_us(number + until_next) - date_time_us).unsigned_abs() / 1_000;
        let length_ms = 1 + random.below((horizon_ms * 2).max(1));
        let (mut item_name, mut description) = (String::new(), String::new());
        random.text(&mut item_name, 20, ' ');
        random.text(&mut description, 100, ' ');
        let reserve = initial_bid + random.price();
        let bytes = 6 * 8 + item_name.len() + description.len();
        Auction {
            id: FIRST_AUCTION_ID + last_auction(number),
            item_name,
            description,
            initial_bid,
            reserve,
            date_time_us,
            expires_us: date_time_us.saturating_add_unsigned(length_ms * 1_000),
            seller: FIRST_PERSON_ID + seller,
            category,
            extra: random.filler(bytes, self.average_bytes.1),
        }
    }

    pub(crate) fn bid(&self, number: u64, random: &mut Random) -> Bid {
        let auction = match random.below(self.hot_auction_ratio) {
            0 => self.some_auction(number, random),
            _ => last_auction(number) / HOT_EVERY * HOT_EVERY,
        };
        // The second person of each hundred, so that hot bidders are not hot sellers.
        let bidder = match random.below(self.hot_bidder_ratio) {
            0 => self.some_person(number, random),
            _ => last_person(number) / HOT_EVERY * HOT_EVERY + 1,
        };
        let price = random.price();
        let (channel, url) = self.channel(random);
        Bid {
            auction: FIRST_AUCTION_ID + auction,
            bidder: FIRST_PERSON_ID + bidder,
            price,
            channel,
            url,
            date_time_us: self.time_us(number),
            extra: random.filler(4 * 8, self.average_bytes.2),
        }
    }

    /// Half of the bids come by one of four channels with an address of their own each, the others
    /// by one of many, whose address is a function of the channel.
    fn channel(&self, random: &mut Random) -> (String, String) {
        if random.below(2) > 0 {
            let channel = random.pick(&HOT_CHANNELS);
            // Its first letter tells it from the others.
            let mut fixed = Random::new(self.seed, u64::MAX - u64::from(channel.as_bytes()[0]));
            return (channel.to_owned(), address(&mut fixed));
        }
        let number = random.below(CHANNELS);
        let mut fixed = Random::new(self.seed, u64::MAX / 2 - number);
        let mut url = address(&mut fixed);
        if fixed.below(10) > 0 {
            let reversed = u32::try_from(number).unwrap_or(0).reverse_bits().cast_signed();
            let _ = write!(url, "&channel_id={}", reversed.unsigned_abs());
        }
        (format!("channel-{number}"), url)
    }
}

fn address(random: &mut Random) -> String {
    let mut url = "https://www.nexmark.com/".to_owned();
    for _ in 0..3 {
        random.text(&mut url, 5, '_');
        url.push('/');
    }
    url.push_str("item.htm?query=1");
    url
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn events_depend_on_seed_and_number_only() {
        let config = Config { seed: 7, ..Config::default() };
        assert_eq!(config.event(4_321), Config { seed: 7, ..Config::default() }.event(4_321));
        assert_ne!(config.event(4_321), Config::default().event(4_321));
    }

    #[test]
    fn identities_are_consecutive_and_times_rise() {
        let config = Config::default();
        let (mut people, mut auctions, mut last) = (Vec::new(), Vec::new(), 0);
        for number in 0..5_000 {
            let time = match config.event(number) {
                Event::Person(p) => {
                    people.push(p.id);
                    p.date_time_us
                }
                Event::Auction(a) => {
                    assert!(a.expires_us > a.date_time_us && a.reserve > a.initial_bid);
                    auctions.push(a.id);
                    a.date_time_us
                }
                Event::Bid(b) => b.date_time_us,
            };
            assert!(time >= last);
            last = time;
        }
        assert_eq!(people, (1_000..1_100).collect::<Vec<_>>());
        assert_eq!(auctions, (1_000..1_300).collect::<Vec<_>>());
        assert_eq!(last - config.base_time_us, 499_000);
    }

    #[test]
    fn hot_keys_prices_and_channels_are_distributed_as_published() {
        let config = Config { seed: 3, ..Config::default() };
        let (mut bids, mut hot_auction, mut hot_bidder, mut hot_channel) = (0, 0, 0, 0);
        let mut magnitudes = BTreeMap::<u32, u32>::new();
        for number in 100_000..200_000 {
            let Event::Bid(bid) = config.event(number) else { continue };
            bids += 1;
            hot_auction += u32::from((bid.auction - FIRST_AUCTION_ID).is_multiple_of(HOT_EVERY));
            hot_bidder += u32::from((bid.bidder - FIRST_PERSON_ID) % HOT_EVERY == 1);
            hot_channel += u32::from(HOT_CHANNELS.contains(&bid.channel.as_str()));
            *magnitudes.entry(bid.price.ilog10()).or_default() += 1;
        }
        assert_eq!(bids, 92_000);
        // Half and three quarters, and the hundredth of the others that hits them by chance.
        assert!((45_500..47_500).contains(&hot_auction), "{hot_auction}");
        assert!((68_500..70_500).contains(&hot_bidder), "{hot_bidder}");
        assert!((45_000..47_000).contains(&hot_channel), "{hot_channel}");
        assert_eq!(magnitudes.keys().copied().collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7]);
        assert!(magnitudes.values().all(|n| (14_500..16_200).contains(n)), "{magnitudes:?}");
    }
}
