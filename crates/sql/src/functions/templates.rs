//! The patterns of `to_char`, `to_timestamp` and `to_date` over dates and times.

use super::calendar::{
    DAY_US, HOUR_US, checked_date, civil_from_days, days_from_civil, join_days, split_days,
};
use super::parse::micros_of;
use super::patterns::{DAYS, MONTHS};
use super::times::iso_week;
use super::value::Span;
use datafusion::common::{Result, exec_datafusion_err, exec_err};

/// A piece of a pattern.
#[derive(Debug)]
enum Piece {
    /// A field, with FM before it and TH or th after it.
    Field { name: &'static str, written: String, fill: bool, ordinal: Option<bool> },
    /// Text that stands for itself.
    Text(String),
}

/// Fields, the longer before their prefixes.
const FIELDS: [&str; 47] = [
    "SSSSS", "SSSS", "A.M.", "P.M.", "A.D.", "B.C.", "Y,YYY", "IYYY", "YYYY", "MONTH", "IDDD",
    "HH24", "HH12", "IYY", "YYY", "MON", "DAY", "DDD", "TZH", "TZM", "FF1", "FF2", "FF3", "FF4",
    "FF5", "FF6", "YY", "IY", "HH", "MI", "SS", "MS", "US", "AM", "PM", "AD", "BC", "MM", "DY",
    "DD", "ID", "WW", "IW", "CC", "RM", "TZ", "OF",
];
const SHORT_FIELDS: [&str; 6] = ["Y", "I", "D", "W", "J", "Q"];

fn pieces(pattern: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = 0;
    let mut fill = true;
    while let Some(rest) = pattern.get(at..).filter(|r| !r.is_empty()) {
        let begins =
            |word: &str| rest.get(..word.len()).is_some_and(|r| r.eq_ignore_ascii_case(word));
        if begins("FM") {
            (fill, at) = (false, at + 2);
            continue;
        }
        if begins("FX") || begins("TM") {
            at += 2;
            continue;
        }
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            pieces.push(Piece::Text(quoted[..end].to_owned()));
            at += (end + 2).min(rest.len());
            continue;
        }
        let found = FIELDS.iter().chain(&SHORT_FIELDS).find(|name| begins(name));
        match found {
            Some(name) => {
                at += name.len();
                let after = pattern.get(at..at + 2).unwrap_or_default();
                let ordinal = match after {
                    "TH" => Some(true),
                    "th" => Some(false),
                    _ => None,
                };
                at += if ordinal.is_some() { 2 } else { 0 };
                let written = rest[..name.len()].to_owned();
                pieces.push(Piece::Field { name, written, fill, ordinal });
                fill = true;
            }
            None => {
                let c = rest.chars().next().unwrap_or(' ');
                at += c.len_utf8();
                match pieces.last_mut() {
                    Some(Piece::Text(text)) => text.push(c),
                    _ => pieces.push(Piece::Text(c.to_string())),
                }
            }
        }
    }
    pieces
}

/// What is written: a moment, or the parts of an interval.
pub(super) enum Moment {
    /// Microseconds since 1970, and whether UTC is their zone.
    Stamp(i64, bool),
    /// An interval.
    Span(Span),
}

struct Parts {
    year: i64,
    month: u32,
    day: i64,
    days: i64,
    micros: i64,
    hours: i64,
    zoned: bool,
}

impl Moment {
    fn parts(&self) -> Parts {
        match self {
            Moment::Stamp(at, zoned) => {
                let (days, micros) = split_days(*at);
                let (year, month, day) = civil_from_days(days);
                let (day, hours) = (i64::from(day), micros / HOUR_US);
                Parts { year, month, day, days, micros, hours, zoned: *zoned }
            }
            Moment::Span(span) => Parts {
                year: i64::from(span.months / 12),
                month: (span.months % 12).unsigned_abs(),
                day: i64::from(span.days),
                days: 0,
                micros: span.micros,
                hours: span.micros / HOUR_US,
                zoned: false,
            },
        }
    }
}

/// A moment by a pattern.
pub(super) fn write(moment: &Moment, pattern: &str) -> String {
    let parts = moment.parts();
    let mut out = String::new();
    for piece in pieces(pattern) {
        match piece {
            Piece::Text(text) => out.push_str(&text),
            Piece::Field { name, written, fill, ordinal } => {
                let text = field(&parts, name, &written, fill);
                if let Some(upper) = ordinal {
                    out.push_str(&text);
                    let suffix = ordinal_suffix(&text);
                    out.push_str(&if upper { suffix.to_uppercase() } else { suffix.to_owned() });
                } else {
                    out.push_str(&text);
                }
            }
        }
    }
    out
}

pub(super) fn ordinal_suffix(digits: &str) -> &'static str {
    let teens = digits.len() > 1 && digits.as_bytes().get(digits.len() - 2) == Some(&b'1');
    match digits.as_bytes().last() {
        Some(b'1') if !teens => "st",
        Some(b'2') if !teens => "nd",
        Some(b'3') if !teens => "rd",
        _ => "th",
    }
}

fn number(value: i64, width: usize, fill: bool) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let digits = value.unsigned_abs();
    if fill { format!("{sign}{digits:0width$}") } else { format!("{sign}{digits}") }
}

/// The name in the letters of the pattern: `MON`, `Mon`, `mon`.
fn lettered(name: &str, written: &str) -> String {
    let mut letters = written.chars();
    match (letters.next(), letters.next()) {
        (Some(a), Some(b)) if a.is_uppercase() && b.is_uppercase() => name.to_uppercase(),
        (Some(a), _) if a.is_uppercase() => name.to_owned(),
        _ => name.to_lowercase(),
    }
}

const ROMAN: [&str; 12] =
    ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];

fn field(p: &Parts, name: &str, written: &str, fill: bool) -> String {
    let upper = written.starts_with(|c: char| c.is_uppercase());
    let cased = |text: &str| if upper { text.to_owned() } else { text.to_lowercase() };
    let name_of = |name: &str, width: usize| {
        let name = lettered(name, written);
        if fill { format!("{name:width$}") } else { name }
    };
    let twelve = if p.hours % 12 == 0 { 12 } else { p.hours % 12 };
    let year = if p.year > 0 || p.days == 0 { p.year } else { 1 - p.year };
    let month = MONTHS.get((p.month as usize).wrapping_sub(1)).copied().unwrap_or("");
    let weekday = DAYS[(p.days + 4).rem_euclid(7) as usize];
    let doy = p.days - days_from_civil(p.year, 1, 1) + 1;
    let (iso_year, week) = iso_week(p.days);
    let fraction = p.micros.rem_euclid(1_000_000);
    match name {
        "HH24" => number(p.hours, 2, fill),
        "HH12" | "HH" => number(twelve, 2, fill),
        "MI" => number(p.micros / 60_000_000 % 60, 2, fill),
        "SS" => number(p.micros / 1_000_000 % 60, 2, fill),
        "SSSSS" | "SSSS" => number(p.micros / 1_000_000, 1, false),
        "MS" | "FF3" => number(fraction / 1_000, 3, true),
        "US" | "FF6" => number(fraction, 6, true),
        "FF1" => number(fraction / 100_000, 1, true),
        "FF2" => number(fraction / 10_000, 2, true),
        "FF4" => number(fraction / 100, 4, true),
        "FF5" => number(fraction / 10, 5, true),
        "AM" | "PM" => cased(if p.hours % 24 < 12 { "AM" } else { "PM" }),
        "A.M." | "P.M." => cased(if p.hours % 24 < 12 { "A.M." } else { "P.M." }),
        "AD" | "BC" => cased(if p.year > 0 { "AD" } else { "BC" }),
        "A.D." | "B.C." => cased(if p.year > 0 { "A.D." } else { "B.C." }),
        "Y,YYY" => format!("{},{:03}", year / 1_000, year % 1_000),
        "YYYY" => number(year, 4, fill),
        "YYY" => number(year % 1_000, 3, fill),
        "YY" => number(year % 100, 2, fill),
        "Y" => number(year % 10, 1, fill),
        "IYYY" => number(iso_year, 4, fill),
        "IYY" => number(iso_year % 1_000, 3, fill),
        "IY" => number(iso_year % 100, 2, fill),
        "I" => number(iso_year % 10, 1, fill),
        "MONTH" => name_of(month, 9),
        "MON" => lettered(month.get(..3).unwrap_or(""), written),
        "MM" => number(p.month.into(), 2, fill),
        "DAY" => name_of(weekday, 9),
        "DY" => lettered(&weekday[..3], written),
        "DDD" => number(doy, 3, fill),
        "IDDD" => number((week - 1) * 7 + (p.days + 3).rem_euclid(7) + 1, 3, fill),
        "DD" => number(p.day, 2, fill),
        "D" => number((p.days + 4).rem_euclid(7) + 1, 1, fill),
        "ID" => number((p.days + 3).rem_euclid(7) + 1, 1, fill),
        "W" => number((p.day - 1) / 7 + 1, 1, fill),
        "WW" => number((doy - 1) / 7 + 1, 2, fill),
        "IW" => number(week, 2, fill),
        "CC" => number((p.year + 99).div_euclid(100), 2, fill),
        "J" => number(p.days + 2_440_588, 1, false),
        "Q" => number(i64::from(p.month.max(1) - 1) / 3 + 1, 1, false),
        "RM" => {
            let roman = cased(ROMAN.get((p.month as usize).wrapping_sub(1)).copied().unwrap_or(""));
            if fill { format!("{roman:4}") } else { roman }
        }
        "TZ" if p.zoned => cased("UTC"),
        "TZH" | "OF" if p.zoned => "+00".to_owned(),
        "TZM" if p.zoned => "00".to_owned(),
        _ => String::new(),
    }
}

/// What a text says by a pattern.
#[derive(Default)]
struct Said {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    doy: Option<i64>,
    iso: Option<(i64, i64)>,
    iso_week: Option<i64>,
    iso_day: Option<i64>,
    julian: Option<i64>,
    hour: Option<i64>,
    half: bool,
    pm: Option<bool>,
    minute: i64,
    second: i64,
    micros: i64,
    seconds: Option<i64>,
    offset: i64,
    bc: bool,
}

/// The timestamp that a text means by a pattern, in microseconds; what is not said is the earliest.
pub(super) fn read(text: &str, pattern: &str) -> Result<i64> {
    let mut said = Said::default();
    let mut rest = text.trim_start();
    let pieces = pieces(pattern);
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Text(literal) => {
                for c in literal.chars() {
                    let mut chars = rest.chars();
                    match chars.next() {
                        // A separator takes any separator.
                        Some(found) if found == c || !found.is_alphanumeric() => {
                            // A sign may belong to what follows.
                            rest = chars.as_str();
                        }
                        Some(found) if c.is_alphanumeric() && found.is_alphanumeric() => {
                            rest = chars.as_str();
                        }
                        _ => {}
                    }
                }
                rest = rest.trim_start();
            }
            Piece::Field { name, ordinal, .. } => {
                rest = rest.trim_start();
                if rest.is_empty() {
                    break;
                }
                // Without a separator after it, a field takes just its digits.
                let packed = matches!(pieces.get(at + 1), Some(Piece::Field { .. }));
                rest = read_field(&mut said, name, rest, packed)?;
                if ordinal.is_some() {
                    rest = rest.get(2..).unwrap_or_default();
                }
            }
        }
    }
    said.micros()
}

fn read_field<'a>(said: &mut Said, name: &str, rest: &'a str, packed: bool) -> Result<&'a str> {
    let wrong = || {
        let shown: String = rest.chars().take(8).collect();
        exec_datafusion_err!("invalid value \"{shown}\" for \"{name}\"")
    };
    let digits = |width: usize| -> Result<(i64, &'a str)> {
        let sign = usize::from(rest.starts_with(['-', '+']) && !packed);
        let width = if packed { width } else { 18 };
        let length = rest[sign..].bytes().take(width).take_while(u8::is_ascii_digit).count();
        if length == 0 {
            return Err(wrong());
        }
        let end = sign + length;
        Ok((rest[..end].parse().map_err(|_| wrong())?, &rest[end..]))
    };
    let word = |names: &[&str]| -> Result<(usize, &'a str)> {
        let long = names
            .iter()
            .position(|n| rest.get(..n.len()).is_some_and(|r| r.eq_ignore_ascii_case(n)));
        if let Some(at) = long {
            return Ok((at, &rest[names[at].len()..]));
        }
        let short = names.iter().position(|n| {
            n.len() >= 3 && rest.get(..3).is_some_and(|r| r.eq_ignore_ascii_case(&n[..3]))
        });
        short.map(|at| (at, &rest[3..])).ok_or_else(wrong)
    };
    let (value, left) = match name {
        "MONTH" | "MON" => {
            let (at, left) = word(&MONTHS)?;
            said.month = Some(at as i64 + 1);
            return Ok(left);
        }
        "DAY" | "DY" => return Ok(word(&DAYS)?.1),
        "RM" => {
            let at = ROMAN
                .iter()
                .rposition(|r| rest.get(..r.len()).is_some_and(|t| t.eq_ignore_ascii_case(r)));
            let at = at.ok_or_else(wrong)?;
            said.month = Some(at as i64 + 1);
            return Ok(&rest[ROMAN[at].len()..]);
        }
        "AM" | "PM" | "A.M." | "P.M." => {
            let (at, left) = word(&["A.M.", "P.M.", "AM", "PM"])?;
            said.pm = Some(at % 2 == 1);
            return Ok(left);
        }
        "AD" | "BC" | "A.D." | "B.C." => {
            let (at, left) = word(&["A.D.", "B.C.", "AD", "BC"])?;
            said.bc = at % 2 == 1;
            return Ok(left);
        }
        "TZ" => {
            let end = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len());
            let zone = super::calendar::Zone::named(&rest[..end])?;
            said.offset = zone.offset_at(0)?;
            return Ok(&rest[end..]);
        }
        "TZH" | "OF" => {
            let end = rest[1..]
                .find(|c: char| !(c.is_ascii_digit() || c == ':'))
                .map_or(rest.len(), |e| e + 1);
            said.offset = super::calendar::parse_offset(&rest[..end]).ok_or_else(wrong)?;
            return Ok(&rest[end..]);
        }
        "YYYY" | "IYYY" => digits(4)?,
        "Y,YYY" => {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == ',')).unwrap_or(rest.len());
            let plain = rest[..end].replace(',', "");
            (plain.parse().map_err(|_| wrong())?, &rest[end..])
        }
        "DDD" | "IDDD" | "YYY" | "IYY" => digits(3)?,
        "MS" | "FF3" | "US" | "FF6" | "FF1" | "FF2" | "FF4" | "FF5" => {
            let width = if matches!(name, "MS" | "FF3") { 3 } else { 6 };
            let length = rest.bytes().take(width).take_while(u8::is_ascii_digit).count();
            let micros = micros_of(&format!("0.{}", &rest[..length])).ok_or_else(wrong)?;
            said.micros = micros;
            return Ok(&rest[length..]);
        }
        "J" | "SSSS" | "SSSSS" => digits(7)?,
        "Y" | "I" | "D" | "ID" | "W" | "Q" | "CC" => digits(if name == "CC" { 2 } else { 1 })?,
        _ => digits(2)?,
    };
    match name {
        "YYYY" | "Y,YYY" => said.year = Some(value),
        "YYY" => said.year = Some(if value < 520 { 2_000 + value } else { 1_000 + value }),
        "YY" => said.year = Some(if value < 70 { 2_000 + value } else { 1_900 + value }),
        "Y" => said.year = Some(2_000 + value),
        "IYYY" => said.iso = Some((value, 0)),
        "IW" => said.iso_week = Some(value),
        "ID" => said.iso_day = Some(value),
        "MM" => said.month = Some(value),
        "DD" => said.day = Some(value),
        "DDD" => said.doy = Some(value),
        "J" => said.julian = Some(value),
        "HH24" => said.hour = Some(value),
        "HH12" | "HH" => (said.hour, said.half) = (Some(value), true),
        "MI" => said.minute = value,
        "SS" => said.second = value,
        "SSSS" | "SSSSS" => said.seconds = Some(value),
        "D" | "W" | "WW" | "Q" | "CC" => {}
        other => return exec_err!("\"{other}\" cannot be read from text"),
    }
    Ok(left)
}

impl Said {
    fn micros(&self) -> Result<i64> {
        let wrong = || exec_datafusion_err!("date/time field value out of range");
        let mut hour = self.hour.unwrap_or(0);
        if self.half {
            if !(1..=12).contains(&hour) {
                return exec_err!("hour \"{hour}\" is invalid for the 12-hour clock");
            }
            hour = hour % 12 + if self.pm == Some(true) { 12 } else { 0 };
        }
        let in_range = (0..=24).contains(&hour)
            && (0..60).contains(&self.minute)
            && (0..=60).contains(&self.second);
        if !in_range {
            return Err(wrong());
        }
        let clock = match self.seconds {
            Some(seconds) => seconds * 1_000_000,
            None => hour * HOUR_US + self.minute * 60_000_000 + self.second * 1_000_000,
        };
        let year = match self.year {
            Some(year) if self.bc => 1 - year,
            Some(year) => year,
            // Without any year PostgreSQL means 1 BC.
            None => 0,
        };
        let days = if let Some(julian) = self.julian {
            julian - 2_440_588
        } else if let Some((iso_year, _)) = self.iso {
            let first = days_from_civil(iso_year, 1, 4);
            let monday = first - (first + 3).rem_euclid(7);
            monday + (self.iso_week.unwrap_or(1) - 1) * 7 + self.iso_day.unwrap_or(1) - 1
        } else if let Some(doy) = self.doy {
            days_from_civil(year, 1, 1) + doy - 1
        } else {
            let narrow = |n: i64| u32::try_from(n).map_err(|_| wrong());
            let (month, day) = (narrow(self.month.unwrap_or(1))?, narrow(self.day.unwrap_or(1))?);
            checked_date(year, month, day).ok_or_else(wrong)?
        };
        debug_assert!(clock <= DAY_US + 60_000_000);
        join_days(days, clock + self.micros - self.offset * 1_000_000)
    }
}
