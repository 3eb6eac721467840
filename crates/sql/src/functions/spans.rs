//! Intervals: their text forms, products, quotients and `justify`.

use super::calendar::{DAY_US, out_of_range};
use super::parse::{invalid, micros_of};
use super::value::Span;
use datafusion::common::Result;

/// Days that a month counts as where intervals are compared or multiplied.
const MONTH_DAYS: i64 = 30;

/// The amounts of an interval while it is read, in the unit and its fraction.
#[derive(Default)]
struct Sum {
    months: f64,
    days: f64,
    micros: f64,
}

impl Sum {
    /// `amount` of a unit; None when there is no such unit.
    fn add(&mut self, amount: f64, unit: &str) -> Option<()> {
        let lower = unit.to_ascii_lowercase();
        let unit = match lower.as_str() {
            "s" | "m" | "h" | "d" | "w" | "y" => lower.as_str(),
            "us" | "ms" => lower.as_str(),
            other => other.strip_suffix('s').unwrap_or(other),
        };
        match unit {
            "microsecond" | "us" | "usec" => self.micros += amount,
            "millisecond" | "ms" | "msec" => self.micros += amount * 1e3,
            "second" | "sec" | "s" => self.micros += (amount * 1e6).round(),
            "minute" | "min" | "m" => self.micros += amount * 6e7,
            "hour" | "hr" | "h" => self.micros += amount * 3.6e9,
            "day" | "d" => self.days(amount),
            "week" | "w" => self.days(amount * 7.0),
            "month" | "mon" => self.months(amount),
            "quarter" => self.months(amount * 3.0),
            "year" | "yr" | "y" => self.months += (amount * 12.0).round(),
            "decade" | "dec" => self.months += (amount * 120.0).round(),
            "century" | "centurie" | "cent" | "c" => self.months += (amount * 1_200.0).round(),
            "millennium" | "millennia" | "mil" => self.months += (amount * 12_000.0).round(),
            _ => return None,
        }
        Some(())
    }

    fn days(&mut self, amount: f64) {
        self.days += amount.trunc();
        self.micros += (amount.fract() * DAY_US as f64).round();
    }

    fn months(&mut self, amount: f64) {
        self.months += amount.trunc();
        self.days(((amount.fract() * MONTH_DAYS as f64) * 1e6).round() / 1e6);
    }

    fn span(&self) -> Result<Span> {
        let fits = |value: f64, max: f64| value.is_finite() && value.abs() <= max;
        let whole = fits(self.months, f64::from(i32::MAX)) && fits(self.days, f64::from(i32::MAX));
        if !whole || !fits(self.micros, i64::MAX as f64 / 2.0) {
            return Err(out_of_range("interval field value"));
        }
        Ok(Span {
            months: self.months as i32,
            days: self.days as i32,
            micros: self.micros.round() as i64,
        })
    }
}

/// The interval that a text stands for.
pub(super) fn span_of(text: &str) -> Result<Span> {
    let wrong = || invalid("interval", text);
    let text = text.trim();
    let span = match text.strip_prefix(['P', 'p']) {
        Some(iso) => iso_8601(iso),
        None => verbose(text.strip_prefix('@').unwrap_or(text)),
    };
    span.ok_or_else(wrong)?.span()
}

/// `1Y2M3DT4H5M6S`, after the P.
fn iso_8601(text: &str) -> Option<Sum> {
    let (mut sum, mut time, mut number) = (Sum::default(), false, String::new());
    let mut any = false;
    for c in text.chars() {
        match c.to_ascii_uppercase() {
            'T' if !time && number.is_empty() => time = true,
            c if c.is_ascii_digit() || ".-+".contains(c) => number.push(c),
            unit => {
                let amount: f64 = number.parse().ok()?;
                number.clear();
                let unit = match (unit, time) {
                    ('Y', false) => "year",
                    ('M', false) => "month",
                    ('W', false) => "week",
                    ('D', false) => "day",
                    ('H', true) => "hour",
                    ('M', true) => "minute",
                    ('S', true) => "second",
                    _ => return None,
                };
                sum.add(amount, unit)?;
                any = true;
            }
        }
    }
    (any && number.is_empty()).then_some(sum)
}

/// `1 year 2 mons -3 days 04:05:06 ago`.
fn verbose(text: &str) -> Option<Sum> {
    let mut sum = Sum::default();
    let spaced = separated(text);
    let mut words: Vec<&str> = spaced.split_whitespace().collect();
    let ago = words.last().is_some_and(|w| w.eq_ignore_ascii_case("ago"));
    if ago {
        words.pop();
    }
    if words.is_empty() {
        return None;
    }
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        if word.contains(':') {
            let micros = clock(word)?;
            sum.micros += micros as f64;
            continue;
        }
        if let Some((years, months)) = word.trim_start_matches(['-', '+']).split_once('-') {
            let sign = if word.starts_with('-') { -1.0 } else { 1.0 };
            sum.months +=
                sign * (years.parse::<f64>().ok()? * 12.0 + months.parse::<f64>().ok()?);
            continue;
        }
        let amount: f64 = word.parse().ok()?;
        match words.peek() {
            Some(unit) if unit.bytes().all(|b| b.is_ascii_alphabetic()) => {
                sum.add(amount, unit)?;
                words.next();
            }
            // A bare number at the end counts seconds; before a clock, days.
            Some(next) if next.contains(':') => sum.days(amount),
            Some(_) => return None,
            None => sum.add(amount, "second")?,
        }
    }
    if ago {
        (sum.months, sum.days, sum.micros) = (-sum.months, -sum.days, -sum.micros);
    }
    Some(sum)
}

/// `5min` as `5 min`.
fn separated(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut before = ' ';
    for c in text.chars() {
        if c.is_ascii_alphabetic() && (before.is_ascii_digit() || before == '.') {
            out.push(' ');
        }
        out.push(c);
        before = c;
    }
    out
}

fn clock(text: &str) -> Option<i64> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let parts: Vec<&str> = rest.split(':').collect();
    let number = |s: &str| s.parse::<i64>().ok().filter(|n| *n >= 0);
    let (hours, minutes, micros) = match parts.as_slice() {
        [minutes, seconds] if seconds.contains('.') => (0, number(minutes)?, micros_of(seconds)?),
        [hours, minutes] => (number(hours)?, number(minutes)?, 0),
        [hours, minutes, seconds] => (number(hours)?, number(minutes)?, micros_of(seconds)?),
        _ => return None,
    };
    let total = hours.checked_mul(60)?.checked_add(minutes)?.checked_mul(60_000_000)?;
    (minutes < 60 && micros < 60_000_001).then_some(sign * total.checked_add(micros)?)
}

impl Span {
    pub(super) fn to_arrow(self) -> Result<arrow::datatypes::IntervalMonthDayNano> {
        let nanos = self.micros.checked_mul(1_000).ok_or_else(|| out_of_range("interval"))?;
        Ok(arrow::datatypes::IntervalMonthDayNano::new(self.months, self.days, nanos))
    }

    /// What intervals are ordered by: 30 days a month, 24 hours a day.
    pub(super) fn micros_in_all(self) -> i128 {
        let days = i128::from(self.months) * i128::from(MONTH_DAYS) + i128::from(self.days);
        days * i128::from(DAY_US) + i128::from(self.micros)
    }

    pub(super) fn add(self, other: Self) -> Result<Self> {
        let wrong = || out_of_range("interval");
        Ok(Self {
            months: self.months.checked_add(other.months).ok_or_else(wrong)?,
            days: self.days.checked_add(other.days).ok_or_else(wrong)?,
            micros: self.micros.checked_add(other.micros).ok_or_else(wrong)?,
        })
    }

    /// Times a number; what is left of months becomes days, what is left of days time.
    pub(super) fn times(self, factor: f64) -> Result<Self> {
        let wrong = || out_of_range("interval");
        if !factor.is_finite() {
            return Err(wrong());
        }
        let months = f64::from(self.months) * factor;
        let days = f64::from(self.days) * factor;
        let over = rounded((months - months.trunc()) * MONTH_DAYS as f64);
        let mut sec_days = rounded(days - days.trunc() + over - over.trunc());
        let mut whole_days = days.trunc() + over.trunc();
        if sec_days.abs() >= 1.0 {
            whole_days += sec_days.trunc();
            sec_days -= sec_days.trunc();
        }
        let micros = (self.micros as f64 * factor + sec_days * DAY_US as f64).round();
        let fits = months.abs() < 2e9 && whole_days.abs() < 2e9 && micros.abs() < 9.2e18;
        if !fits {
            return Err(wrong());
        }
        Ok(Self { months: months.trunc() as i32, days: whole_days as i32, micros: micros as i64 })
    }

    pub(super) fn justify_hours(self) -> Result<Self> {
        let days = self.micros / DAY_US;
        let mut days = i64::from(self.days) + days;
        let mut micros = self.micros % DAY_US;
        if days > 0 && micros < 0 {
            (days, micros) = (days - 1, micros + DAY_US);
        } else if days < 0 && micros > 0 {
            (days, micros) = (days + 1, micros - DAY_US);
        }
        let days = i32::try_from(days).map_err(|_| out_of_range("interval"))?;
        Ok(Self { days, micros, ..self })
    }

    pub(super) fn justify_days(self) -> Result<Self> {
        let mut months = self.months.saturating_add(self.days / MONTH_DAYS as i32);
        let mut days = self.days % MONTH_DAYS as i32;
        if months > 0 && days < 0 {
            (months, days) = (months - 1, days + MONTH_DAYS as i32);
        } else if months < 0 && days > 0 {
            (months, days) = (months + 1, days - MONTH_DAYS as i32);
        }
        Ok(Self { months, days, ..self })
    }

    pub(super) fn justify(self) -> Result<Self> {
        let span = self.justify_hours()?.justify_days()?;
        let (mut months, mut days, mut micros) = (span.months, span.days, span.micros);
        if months > 0 && (days < 0 || (days == 0 && micros < 0)) {
            (months, days) = (months - 1, days + MONTH_DAYS as i32);
        } else if months < 0 && (days > 0 || (days == 0 && micros > 0)) {
            (months, days) = (months + 1, days - MONTH_DAYS as i32);
        }
        if days > 0 && micros < 0 {
            (days, micros) = (days - 1, micros + DAY_US);
        } else if days < 0 && micros > 0 {
            (days, micros) = (days + 1, micros - DAY_US);
        }
        Ok(Self { months, days, micros })
    }
}

/// Without the noise below a microsecond of a day.
fn rounded(days: f64) -> f64 {
    (days * 1e11).round() / 1e11
}
