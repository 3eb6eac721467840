//! Days, months and zones: the proleptic Gregorian calendar over 64-bit numbers, so that nothing
//! overflows where dates do, and the zones of the IANA database.

use super::value::Span;
use chrono::{NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;
use datafusion::common::{DataFusionError, Result, exec_datafusion_err, exec_err};

pub(super) const DAY_US: i64 = 86_400_000_000;
pub(super) const HOUR_US: i64 = 3_600_000_000;

/// Year (0 is 1 BC), month and day of a number of days since 1970.
pub(super) fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// Days since 1970 of a date that may have any day of month.
pub(super) fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let mp = i64::from((month + 9) % 12);
    let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

pub(super) fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a date that exists.
pub(super) fn checked_date(year: i64, month: u32, day: u32) -> Option<i64> {
    let known = (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
    known.then(|| days_from_civil(year, month, day))
}

/// Whole days and microseconds of the day.
pub(super) fn split_days(micros: i64) -> (i64, i64) {
    (micros.div_euclid(DAY_US), micros.rem_euclid(DAY_US))
}

pub(super) fn out_of_range(what: &str) -> DataFusionError {
    exec_datafusion_err!("{what} out of range")
}

/// A timestamp from days and microseconds.
pub(super) fn join_days(days: i64, micros: i64) -> Result<i64> {
    days.checked_mul(DAY_US)
        .and_then(|d| d.checked_add(micros))
        .ok_or_else(|| out_of_range("timestamp"))
}

/// The timestamp an interval later: months first, then days, then the rest.
pub(super) fn add_span(micros: i64, span: Span) -> Result<i64> {
    let (mut days, rest) = split_days(micros);
    if span.months != 0 {
        let (year, month, day) = civil_from_days(days);
        let month = year * 12 + i64::from(month) - 1 + i64::from(span.months);
        let (year, month) = (month.div_euclid(12), month.rem_euclid(12) as u32 + 1);
        days = days_from_civil(year, month, day.min(days_in_month(year, month)));
    }
    join_days(days + i64::from(span.days), rest)?
        .checked_add(span.micros)
        .ok_or_else(|| out_of_range("timestamp"))
}

pub(super) fn negated(span: Span) -> Result<Span> {
    let parts = (span.months.checked_neg(), span.days.checked_neg(), span.micros.checked_neg());
    match parts {
        (Some(months), Some(days), Some(micros)) => Ok(Span { months, days, micros }),
        _ => Err(out_of_range("interval")),
    }
}

/// A zone by its name, abbreviation or offset.
pub(super) enum Zone {
    Named(Tz),
    Fixed(i64),
}

impl Zone {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let name = name.trim();
        if let Some(seconds) = parse_offset(name) {
            return Some(Zone::Fixed(seconds));
        }
        let fixed = match name.to_ascii_uppercase().as_str() {
            "Z" | "UTC" | "GMT" | "ZULU" => Some(0),
            "EST" => Some(-5),
            "EDT" => Some(-4),
            "CST" => Some(-6),
            "CDT" => Some(-5),
            "MST" => Some(-7),
            "MDT" => Some(-6),
            "PST" => Some(-8),
            "PDT" => Some(-7),
            "CET" => Some(1),
            "CEST" => Some(2),
            "JST" => Some(9),
            _ => None,
        };
        if let Some(hours) = fixed {
            return Some(Zone::Fixed(hours * 3_600));
        }
        let found = chrono_tz::TZ_VARIANTS.iter().find(|z| z.name().eq_ignore_ascii_case(name));
        found.map(|zone| Zone::Named(*zone))
    }

    pub(super) fn named(name: &str) -> Result<Self> {
        Self::parse(name).ok_or_else(|| exec_datafusion_err!("time zone \"{name}\" not recognized"))
    }

    fn civil(micros: i64) -> Result<NaiveDateTime> {
        chrono::DateTime::from_timestamp_micros(micros)
            .map(|at| at.naive_utc())
            .ok_or_else(|| out_of_range("timestamp"))
    }

    /// The seconds that clocks there are ahead of UTC at an instant.
    pub(super) fn offset_at(&self, utc: i64) -> Result<i64> {
        Ok(match self {
            Zone::Fixed(seconds) => *seconds,
            Zone::Named(zone) => {
                i64::from(zone.offset_from_utc_datetime(&Self::civil(utc)?).fix().local_minus_utc())
            }
        })
    }

    /// What clocks there show at an instant.
    pub(super) fn local(&self, utc: i64) -> Result<i64> {
        utc.checked_add(self.offset_at(utc)? * 1_000_000).ok_or_else(|| out_of_range("timestamp"))
    }

    /// The instant at which clocks there show this. Skipped times take the offset before the gap,
    /// doubled ones that after it (standard time), as PostgreSQL does.
    pub(super) fn instant(&self, local: i64) -> Result<i64> {
        let offset = match self {
            Zone::Fixed(seconds) => *seconds,
            Zone::Named(zone) => match zone.offset_from_local_datetime(&Self::civil(local)?) {
                chrono::LocalResult::Single(offset) => i64::from(offset.fix().local_minus_utc()),
                chrono::LocalResult::Ambiguous(a, b) => {
                    i64::from(a.fix().local_minus_utc().min(b.fix().local_minus_utc()))
                }
                chrono::LocalResult::None => self.offset_at(local - DAY_US)?,
            },
        };
        local.checked_sub(offset * 1_000_000).ok_or_else(|| out_of_range("timestamp"))
    }
}

/// `+02`, `-05:30`, `+0530` as seconds ahead of UTC.
pub(super) fn parse_offset(text: &str) -> Option<i64> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let parts: Vec<&str> = rest.split(':').collect();
    let number = |s: &str| (s.len() == 2).then(|| s.parse::<i64>().ok()).flatten();
    let (hours, minutes, seconds) = match parts.as_slice() {
        [one] if one.len() == 4 => (number(&one[..2])?, number(&one[2..])?, 0),
        [one] if one.len() == 1 => (one.parse().ok()?, 0, 0),
        [hours] => (number(hours)?, 0, 0),
        [hours, minutes] => (number(hours)?, number(minutes)?, 0),
        [hours, minutes, seconds] => (number(hours)?, number(minutes)?, number(seconds)?),
        _ => return None,
    };
    (hours < 16 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60 + seconds))
}

/// Microseconds of the day from its parts.
pub(super) fn time_of(hour: i64, minute: i64, seconds_us: i64) -> Result<i64> {
    let known = (0..24).contains(&hour) || (hour == 24 && minute == 0 && seconds_us == 0);
    if !known || !(0..60).contains(&minute) || !(0..=60_000_000).contains(&seconds_us) {
        return exec_err!("time field value out of range: {hour}:{minute:02}");
    }
    Ok(hour * HOUR_US + minute * 60_000_000 + seconds_us)
}
