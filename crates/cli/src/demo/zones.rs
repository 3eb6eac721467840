//! Local clocks: the instant at which a clock in some place shows some time.
//!
//! A zone's offsets are kept per hour, since zones of this century switch on whole hours of UTC;
//! that makes half a million lookups an array access each. A place without a zone is refused.

use anyhow::Context;
use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;
use std::collections::HashMap;

const SECOND_US: i64 = 1_000_000;
const MINUTE_US: i64 = 60 * SECOND_US;
const HOUR_US: i64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US;
const MINUTES_A_DAY: i64 = 24 * 60;

/// The zones of places, by a short code.
#[derive(Default)]
pub struct Zones {
    names: HashMap<String, String>,
    places: HashMap<String, usize>,
    offsets: Vec<(String, Offsets)>,
}

impl Zones {
    /// Says which IANA zone a place is in.
    pub fn assign(&mut self, place: &str, zone: &str) {
        self.names.insert(place.to_owned(), zone.to_owned());
    }

    /// The first instant not before `instant_us` at which a clock in `place` shows `minute`
    /// minutes after midnight. 1440, a clock that shows 24:00, is midnight.
    pub fn first_at_or_after(
        &mut self,
        place: &str,
        instant_us: i64,
        minute: i64,
    ) -> anyhow::Result<i64> {
        let index = match self.places.get(place) {
            Some(&index) => index,
            None => self.open(place)?,
        };
        let offsets = &mut self.offsets[index].1;
        let local = instant_us + offsets.at(instant_us);
        let midnight = local - local.rem_euclid(DAY_US);
        let mut shown = midnight + minute.rem_euclid(MINUTES_A_DAY) * MINUTE_US;
        loop {
            let readings = offsets.readings(shown);
            if let Some(&instant) = readings.iter().find(|&&instant| instant >= instant_us) {
                return Ok(instant);
            }
            shown += DAY_US;
        }
    }

    fn open(&mut self, place: &str) -> anyhow::Result<usize> {
        let name = self.names.get(place).with_context(|| {
            format!("airport {place} has no time zone: add it to airports.parquet")
        })?;
        let index = match self.offsets.iter().position(|(known, _)| known == name) {
            Some(index) => index,
            None => {
                let zone: Tz = name
                    .parse()
                    .map_err(|error| anyhow::anyhow!("airport {place}: zone `{name}`: {error}"))?;
                self.offsets.push((name.clone(), Offsets { zone, hours: HashMap::new() }));
                self.offsets.len() - 1
            }
        };
        self.places.insert(place.to_owned(), index);
        Ok(index)
    }
}

/// How far a zone's clock is ahead of UTC, per hour since the Unix epoch, microseconds.
struct Offsets {
    zone: Tz,
    hours: HashMap<i64, i64>,
}

impl Offsets {
    fn at(&mut self, instant_us: i64) -> i64 {
        let hour = instant_us.div_euclid(HOUR_US);
        let zone = self.zone;
        *self.hours.entry(hour).or_insert_with(|| {
            let utc = DateTime::from_timestamp(hour * 3600, 0).unwrap_or_default().naive_utc();
            let seconds = zone.offset_from_utc_datetime(&utc).fix().local_minus_utc();
            i64::from(seconds) * SECOND_US
        })
    }

    /// The first and the last instant at which the clock shows `local_us`: two in the hour that is
    /// repeated in autumn, else one. In the hour skipped in spring, the instant at which it would
    /// have been shown.
    fn readings(&mut self, local_us: i64) -> [i64; 2] {
        // An offset is below a day, so these two offsets hold on either side of the answer and,
        // zones switching months apart, at most one switch lies between them.
        let early = local_us - self.at(local_us - DAY_US);
        let late = local_us - self.at(local_us + DAY_US);
        match (early + self.at(early) == local_us, late + self.at(late) == local_us) {
            (true, true) => [early, late],
            (false, true) => [late; 2],
            (_, false) => [early; 2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    fn zones() -> Zones {
        let mut zones = Zones::default();
        zones.assign("JFK", "America/New_York");
        zones.assign("LAX", "America/Los_Angeles");
        zones.assign("XXX", "Mars/Olympus");
        zones
    }

    #[test]
    fn an_arrival_past_midnight_is_on_the_next_day() {
        let instant = zones().first_at_or_after("JFK", utc("2013-07-01T03:30:00Z"), 25);
        assert_eq!(instant.unwrap(), utc("2013-07-01T04:25:00Z"));
    }

    #[test]
    fn a_western_clock_may_show_less_than_at_departure() {
        // 23:00 in New York is 20:00 in Los Angeles; 22:40 there is 160 minutes later.
        let instant = zones().first_at_or_after("LAX", utc("2013-01-02T04:00:00Z"), 22 * 60 + 40);
        assert_eq!(instant.unwrap(), utc("2013-01-02T06:40:00Z"));
    }

    #[test]
    fn twenty_four_hundred_is_midnight() {
        let instant = zones().first_at_or_after("JFK", utc("2013-07-01T03:30:00Z"), 1440);
        assert_eq!(instant.unwrap(), utc("2013-07-01T04:00:00Z"));
    }

    #[test]
    fn clocks_move_on_the_nights_of_the_switch() {
        // On 10 March 2013 the clock went from 01:59 EST to 03:00 EDT.
        let spring = zones().first_at_or_after("JFK", utc("2013-03-10T06:30:00Z"), 3 * 60 + 10);
        assert_eq!(spring.unwrap(), utc("2013-03-10T07:10:00Z"));
        let skipped = zones().first_at_or_after("JFK", utc("2013-03-10T06:30:00Z"), 2 * 60 + 30);
        assert_eq!(skipped.unwrap(), utc("2013-03-10T07:30:00Z"));
        // On 3 November 2013 the clock showed 01:30 twice.
        let autumn = zones().first_at_or_after("JFK", utc("2013-11-03T05:00:00Z"), 90);
        assert_eq!(autumn.unwrap(), utc("2013-11-03T05:30:00Z"));
        let again = zones().first_at_or_after("JFK", utc("2013-11-03T05:45:00Z"), 90);
        assert_eq!(again.unwrap(), utc("2013-11-03T06:30:00Z"));
    }

    #[test]
    fn a_place_without_a_zone_is_refused_by_name() {
        let unknown = zones().first_at_or_after("ZZZ", 0, 0).unwrap_err().to_string();
        assert!(unknown.contains("ZZZ"), "{unknown}");
        let wrong = zones().first_at_or_after("XXX", 0, 0).unwrap_err().to_string();
        assert!(wrong.contains("Mars/Olympus"), "{wrong}");
    }
}
