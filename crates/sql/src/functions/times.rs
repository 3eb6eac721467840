//! Functions over dates, times and intervals. Timestamps with time zone are shown and cut in UTC
//! unless a zone is given.

use super::calendar::{
    DAY_US, HOUR_US, Zone, add_span, checked_date, civil_from_days, days_from_civil, days_in_month,
    join_days, negated, out_of_range, split_days, time_of,
};
use super::define::{Def, Kind, Returns, def, strict};
use super::math::decimal;
use super::value::{Number, Span, Value, read};
use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};
use std::sync::Arc;

const T: Kind = Kind::Text;
const S: Kind = Kind::Span;
const F: Kind = Kind::Float;
const I: Kind = Kind::Int;
const D: Kind = Kind::Date;
const TIME: Kind = Kind::Time;
const STAMP: Kind = Kind::Stamp;
const STAMPTZ: Kind = Kind::Stamptz;

/// `extract` gives microseconds as digits after the point.
const PART: Returns = Returns::By(|fields, constants| {
    let unit = match constants.first().copied().flatten() {
        Some(unit) => unit.try_as_str().flatten().unwrap_or_default().to_ascii_lowercase(),
        None => String::new(),
    };
    let of_day = fields.get(1).is_some_and(|f| f.data_type() == &D.data_type());
    Ok(decimal(match unit.as_str() {
        _ if of_day => 0,
        "epoch" | "second" | "seconds" | "sec" | "" => 6,
        "millisecond" | "milliseconds" | "ms" | "msec" => 3,
        _ => 0,
    }))
});

pub(super) fn all() -> Vec<Def> {
    let mut defs = vec![
        def("kaplan_extract", &parts(Kind::Num, Value::Number).map(|o| o.returning(PART))),
        def("date_part", &parts(F, |n| Value::Float(n.to_f64()))).alias(&["datepart"]),
        def(
            "date_trunc",
            &[
                strict(&[T, STAMP], STAMP, |v| {
                    Ok(Value::Stamp(trunc(v[0].str()?, v[1].micros()?)?))
                })
                .by_column(trunc_column),
                strict(&[T, STAMPTZ], STAMPTZ, |v| {
                    Ok(Value::Stamptz(trunc(v[0].str()?, v[1].micros()?)?))
                })
                .by_column(trunc_column),
                strict(&[T, STAMPTZ, T], STAMPTZ, |v| {
                    let zone = Zone::named(v[2].str()?)?;
                    let local = trunc(v[0].str()?, zone.local(v[1].micros()?)?)?;
                    Ok(Value::Stamptz(zone.instant(local)?))
                }),
                strict(&[T, S], S, |v| Ok(Value::Span(trunc_span(v[0].str()?, v[1].span()?)?))),
            ],
        )
        .alias(&["datetrunc"]),
        def(
            "date_bin",
            &[
                strict(&[S, STAMP], STAMP, |v| {
                    Ok(Value::Stamp(bin(v[0].span()?, v[1].micros()?, 0)?))
                })
                .by_column(bin_column),
                strict(&[S, STAMPTZ], STAMPTZ, |v| {
                    Ok(Value::Stamptz(bin(v[0].span()?, v[1].micros()?, 0)?))
                })
                .by_column(bin_column),
                strict(&[S, STAMP, STAMP], STAMP, |v| {
                    Ok(Value::Stamp(bin(v[0].span()?, v[1].micros()?, v[2].micros()?)?))
                })
                .by_column(bin_column),
                strict(&[S, STAMPTZ, STAMPTZ], STAMPTZ, |v| {
                    Ok(Value::Stamptz(bin(v[0].span()?, v[1].micros()?, v[2].micros()?)?))
                })
                .by_column(bin_column),
            ],
        ),
        def(
            "age",
            &[
                strict(&[STAMP, STAMP], S, |v| {
                    Ok(Value::Span(age(v[0].micros()?, v[1].micros()?)?))
                }),
                strict(&[STAMPTZ, STAMPTZ], S, |v| {
                    Ok(Value::Span(age(v[0].micros()?, v[1].micros()?)?))
                }),
            ],
        ),
        def(
            "timezone",
            &[
                strict(&[T, STAMP], STAMPTZ, |v| {
                    Ok(Value::Stamptz(Zone::named(v[0].str()?)?.instant(v[1].micros()?)?))
                }),
                strict(&[T, STAMPTZ], STAMP, |v| {
                    Ok(Value::Stamp(Zone::named(v[0].str()?)?.local(v[1].micros()?)?))
                }),
            ],
        ),
        def(
            "justify_hours",
            &[strict(&[S], S, |v| Ok(Value::Span(v[0].span()?.justify_hours()?)))],
        ),
        def("justify_days", &[strict(&[S], S, |v| Ok(Value::Span(v[0].span()?.justify_days()?)))]),
        def("justify_interval", &[strict(&[S], S, |v| Ok(Value::Span(v[0].span()?.justify()?)))]),
        def(
            "isfinite",
            &[
                strict(&[D], Kind::Bool, |_| Ok(Value::Bool(true))),
                strict(&[STAMP], Kind::Bool, |_| Ok(Value::Bool(true))),
                strict(&[STAMPTZ], Kind::Bool, |_| Ok(Value::Bool(true))),
                strict(&[S], Kind::Bool, |_| Ok(Value::Bool(true))),
            ],
        ),
        def(
            "kaplan_overlaps",
            &[
                strict(&[STAMP, STAMP, STAMP, STAMP], Kind::Bool, overlaps),
                strict(&[STAMP, S, STAMP, S], Kind::Bool, |v| {
                    let end = |at: usize| add_span(v[at].micros()?, v[at + 1].span()?);
                    overlaps(&[
                        v[0].clone(),
                        Value::Stamp(end(0)?),
                        v[2].clone(),
                        Value::Stamp(end(2)?),
                    ])
                }),
            ],
        ),
    ];
    defs.extend(makers());
    defs
}

fn makers() -> Vec<Def> {
    vec![
        def(
            "make_date",
            &[strict(&[I, I, I], D, |v| {
                let days = date_of(v)?;
                Ok(Value::Date(i32::try_from(days).map_err(|_| out_of_range("date"))?))
            })],
        ),
        def(
            "make_time",
            &[strict(&[I, I, F], TIME, |v| Ok(Value::Time(clock_of(&v[0], &v[1], &v[2])?)))],
        ),
        def(
            "make_timestamp",
            &[strict(&[I, I, I, I, I, F], STAMP, |v| {
                Ok(Value::Stamp(join_days(date_of(v)?, clock_of(&v[3], &v[4], &v[5])?)?))
            })],
        ),
        def(
            "make_timestamptz",
            &[
                strict(&[I, I, I, I, I, F], STAMPTZ, |v| {
                    Ok(Value::Stamptz(join_days(date_of(v)?, clock_of(&v[3], &v[4], &v[5])?)?))
                }),
                strict(&[I, I, I, I, I, F, T], STAMPTZ, |v| {
                    let local = join_days(date_of(v)?, clock_of(&v[3], &v[4], &v[5])?)?;
                    Ok(Value::Stamptz(Zone::named(v[6].str()?)?.instant(local)?))
                }),
            ],
        ),
        def(
            "kaplan_make_interval",
            &[strict(&[I, I, I, I, I, I, F], S, |v| {
                let wrong = || out_of_range("interval");
                let (years, months, weeks) = (v[0].int()?, v[1].int()?, v[2].int()?);
                let months = years.checked_mul(12).and_then(|y| y.checked_add(months));
                let days = weeks.checked_mul(7).and_then(|w| v[3].int().ok()?.checked_add(w));
                let seconds = (v[6].float()? * 1e6).round();
                let minutes =
                    v[4].int()?.checked_mul(60).and_then(|h| v[5].int().ok()?.checked_add(h));
                let micros = minutes.and_then(|m| m.checked_mul(60_000_000));
                if seconds.abs() > 9e18 {
                    return Err(wrong());
                }
                let micros =
                    micros.and_then(|m| m.checked_add(seconds as i64)).ok_or_else(wrong)?;
                Ok(Value::Span(Span {
                    months: months.and_then(|m| i32::try_from(m).ok()).ok_or_else(wrong)?,
                    days: days.and_then(|d| i32::try_from(d).ok()).ok_or_else(wrong)?,
                    micros,
                }))
            })],
        ),
        def(
            "to_timestamp",
            &[
                strict(&[F], STAMPTZ, |v| {
                    let micros = (v[0].float()? * 1e6).round_ties_even();
                    if micros.is_nan() || micros.abs() > 9.2e18 {
                        return Err(out_of_range("timestamp"));
                    }
                    Ok(Value::Stamptz(micros as i64))
                }),
                strict(&[T], STAMPTZ, |v| {
                    let field = Kind::Stamptz.field();
                    super::parse::parse(v[0].str()?, &field)
                }),
                strict(&[T, T], STAMPTZ, |v| {
                    Ok(Value::Stamptz(super::templates::read(v[0].str()?, v[1].str()?)?))
                }),
            ],
        ),
        def(
            "to_date",
            &[
                strict(&[T], D, |v| super::parse::parse(v[0].str()?, &D.field())),
                strict(&[T, T], D, |v| {
                    let micros = super::templates::read(v[0].str()?, v[1].str()?)?;
                    let days = micros.div_euclid(DAY_US);
                    Ok(Value::Date(i32::try_from(days).map_err(|_| out_of_range("date"))?))
                }),
            ],
        ),
    ]
}

fn parts(returns: Kind, value: fn(Number) -> Value) -> [super::define::Overload; 5] {
    [
        strict(&[T, STAMP], returns, move |v| stamp_part(&v[0], v[1].micros()?, false).map(value)),
        strict(&[T, STAMPTZ], returns, move |v| stamp_part(&v[0], v[1].micros()?, true).map(value)),
        strict(&[T, D], returns, move |v| stamp_part(&v[0], v[1].micros()?, false).map(value)),
        strict(&[T, TIME], returns, move |v| time_part(v[0].str()?, v[1].micros()?).map(value)),
        strict(&[T, S], returns, move |v| span_part(v[0].str()?, v[1].span()?).map(value)),
    ]
}

fn whole(value: i64) -> Number {
    Number::new(i128::from(value), 0)
}

/// A field's name without its plural.
fn unit_of(name: &str) -> String {
    let lower = name.trim().to_ascii_lowercase();
    match lower.as_str() {
        "ms" | "msec" | "msecs" | "milliseconds" => "millisecond".to_owned(),
        "us" | "usec" | "usecs" | "microseconds" => "microsecond".to_owned(),
        "sec" | "secs" => "second".to_owned(),
        "min" | "mins" => "minute".to_owned(),
        "hr" | "hrs" => "hour".to_owned(),
        "mon" | "mons" => "month".to_owned(),
        "yr" | "yrs" => "year".to_owned(),
        "centuries" | "c" | "cent" => "century".to_owned(),
        "millennia" | "mil" | "millenniums" => "millennium".to_owned(),
        "century" | "millennium" => lower,
        other => other.strip_suffix('s').unwrap_or(other).to_owned(),
    }
}

fn unknown_unit<T>(unit: &str) -> Result<T> {
    exec_err!("unit \"{unit}\" not recognized or not supported for this type")
}

fn stamp_part(unit: &Value, micros: i64, zoned: bool) -> Result<Number> {
    let (days, rest) = split_days(micros);
    let (year, month, day) = civil_from_days(days);
    let name = unit.str()?;
    let unit = unit_of(name);
    Ok(match unit.as_str() {
        "year" => whole(if year > 0 { year } else { year - 1 }),
        "quarter" => whole(i64::from(month - 1) / 3 + 1),
        "month" => whole(month.into()),
        "day" => whole(day.into()),
        "week" => whole(iso_week(days).1),
        "isoyear" => whole(iso_week(days).0),
        "dow" => whole((days + 4).rem_euclid(7)),
        "isodow" => whole((days + 3).rem_euclid(7) + 1),
        "doy" => whole(days - days_from_civil(year, 1, 1) + 1),
        "decade" => whole(year.div_euclid(10)),
        "century" => whole(if year > 0 { (year + 99) / 100 } else { -((99 - year + 1) / 100) }),
        "millennium" => {
            whole(if year > 0 { (year + 999) / 1_000 } else { -((999 - year + 1) / 1_000) })
        }
        "julian" => {
            let number = whole(days + 2_440_588);
            if rest == 0 {
                number
            } else {
                return exec_err!("julian of a time within a day is not supported");
            }
        }
        "epoch" => Number::new(micros.into(), 6),
        "timezone" | "timezone_hour" | "timezone_minute" if zoned => whole(0),
        _ => return time_part(name, rest),
    })
}

fn time_part(unit: &str, micros: i64) -> Result<Number> {
    let in_minute = micros % 60_000_000;
    Ok(match unit_of(unit).as_str() {
        "hour" => whole(micros / HOUR_US),
        "minute" => whole(micros / 60_000_000 % 60),
        "second" => Number::new(in_minute.into(), 6),
        "millisecond" => Number::new(in_minute.into(), 3),
        "microsecond" => whole(in_minute),
        "epoch" => Number::new(micros.into(), 6),
        _ => return unknown_unit(unit),
    })
}

fn span_part(unit: &str, span: Span) -> Result<Number> {
    let (years, months) = (i64::from(span.months / 12), i64::from(span.months % 12));
    Ok(match unit_of(unit).as_str() {
        "millennium" => whole(years / 1_000),
        "century" => whole(years / 100),
        "decade" => whole(years / 10),
        "year" => whole(years),
        "quarter" => whole(months / 3 + 1),
        "month" => whole(months),
        "day" => whole(span.days.into()),
        "epoch" => {
            // A year counts 365.25 days, a month 30.
            let days = i128::from(years) * 36_525 * 864 + i128::from(months) * 30 * 86_400;
            let seconds = days + i128::from(span.days) * 86_400;
            Number::new(seconds * 1_000_000 + i128::from(span.micros), 6)
        }
        _ => return time_part(unit, span.micros),
    })
}

/// The ISO year and week of a day.
pub(super) fn iso_week(days: i64) -> (i64, i64) {
    let thursday = days - (days + 3).rem_euclid(7) + 3;
    let (year, ..) = civil_from_days(thursday);
    (year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1)
}

fn trunc(unit: &str, micros: i64) -> Result<i64> {
    trunc_to(&unit_of(unit), micros)
}

/// Cut to a unit in its singular.
fn trunc_to(unit: &str, micros: i64) -> Result<i64> {
    let (days, rest) = split_days(micros);
    let (year, month, _) = civil_from_days(days);
    let to_year = |years: i64| {
        // Centuries and millennia begin with the year 1.
        let start = if years > 10 {
            (year - 1).div_euclid(years) * years + 1
        } else {
            year.div_euclid(years) * years
        };
        join_days(days_from_civil(start, 1, 1), 0)
    };
    match unit {
        "microsecond" => Ok(micros),
        "millisecond" => Ok(micros - micros.rem_euclid(1_000)),
        "second" => Ok(micros - micros.rem_euclid(1_000_000)),
        "minute" => Ok(micros - micros.rem_euclid(60_000_000)),
        "hour" => join_days(days, rest - rest % HOUR_US),
        "day" => join_days(days, 0),
        "week" => join_days(days - (days + 3).rem_euclid(7), 0),
        "month" => join_days(days_from_civil(year, month, 1), 0),
        "quarter" => join_days(days_from_civil(year, (month - 1) / 3 * 3 + 1, 1), 0),
        "year" => join_days(days_from_civil(year, 1, 1), 0),
        "decade" => to_year(10),
        "century" => to_year(100),
        "millennium" => to_year(1_000),
        _ => unknown_unit(unit),
    }
}

/// A column of timestamps cut to one unit.
fn trunc_column(args: &ScalarFunctionArgs) -> Result<Option<ColumnarValue>> {
    let [ColumnarValue::Scalar(unit), ColumnarValue::Array(times)] = &args.args[..] else {
        return Ok(None);
    };
    let Some(Some(unit)) = unit.try_as_str() else { return Ok(None) };
    let (unit, times) = (unit_of(unit), times.as_primitive::<TimestampMicrosecondType>());
    let cut = times.try_unary::<_, TimestampMicrosecondType, _>(|at| trunc_to(&unit, at))?;
    let cut = cut.with_data_type(times.data_type().clone());
    Ok(Some(ColumnarValue::Array(Arc::new(cut))))
}

fn trunc_span(unit: &str, span: Span) -> Result<Span> {
    let months = |by: i32| Span { months: span.months / by * by, ..Span::default() };
    let micros = |by: i64| Span { micros: span.micros / by * by, ..span };
    Ok(match unit_of(unit).as_str() {
        "microsecond" => span,
        "millisecond" => micros(1_000),
        "second" => micros(1_000_000),
        "minute" => micros(60_000_000),
        "hour" => micros(HOUR_US),
        "day" => Span { micros: 0, ..span },
        "month" => months(1),
        "quarter" => months(3),
        "year" => months(12),
        "decade" => months(120),
        "century" => months(1_200),
        "millennium" => months(12_000),
        _ => return unknown_unit(unit),
    })
}

/// A column of timestamps cut into intervals of one length. What fails on a row is left to the rows.
fn bin_column(args: &ScalarFunctionArgs) -> Result<Option<ColumnarValue>> {
    let (stride, times, origin) = match &args.args[..] {
        [ColumnarValue::Scalar(stride), ColumnarValue::Array(times)] => (stride, times, None),
        [
            ColumnarValue::Scalar(stride),
            ColumnarValue::Array(times),
            ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(Some(origin), _)),
        ] => (stride, times, Some(*origin)),
        _ => return Ok(None),
    };
    let Value::Span(stride) = read(&stride.to_array()?, &args.arg_fields[0], 0)? else {
        return Ok(None);
    };
    let Ok(stride) = width(stride) else { return Ok(None) };
    let (origin, times) = (origin.unwrap_or(0), times.as_primitive::<TimestampMicrosecondType>());
    let cut = |at: i64| at.checked_sub(at.checked_sub(origin)?.rem_euclid(stride));
    let cut = times.try_unary::<_, TimestampMicrosecondType, ()>(|at| cut(at).ok_or(()));
    Ok(cut.ok().map(|cut| {
        let cut = cut.with_data_type(times.data_type().clone());
        ColumnarValue::Array(Arc::new(cut))
    }))
}

fn bin(stride: Span, at: i64, origin: i64) -> Result<i64> {
    let stride = width(stride)?;
    let past = (i128::from(at) - i128::from(origin)).rem_euclid(i128::from(stride));
    at.checked_sub(past as i64).ok_or_else(|| out_of_range("timestamp"))
}

/// The length of the intervals that timestamps are cut into, microseconds.
fn width(stride: Span) -> Result<i64> {
    if stride.months != 0 {
        return exec_err!("timestamps cannot be binned into intervals containing months or years");
    }
    let stride =
        i64::from(stride.days).checked_mul(DAY_US).and_then(|d| d.checked_add(stride.micros));
    let stride = stride.ok_or_else(|| out_of_range("interval"))?;
    if stride <= 0 {
        return exec_err!("stride must be greater than zero");
    }
    Ok(stride)
}

/// Years, months, days and time from the second to the first.
fn age(later: i64, earlier: i64) -> Result<Span> {
    if later < earlier {
        return negated(age(earlier, later)?);
    }
    let ((days_a, mut rest), (days_b, rest_b)) = (split_days(later), split_days(earlier));
    let ((y1, m1, d1), (y2, m2, d2)) = (civil_from_days(days_a), civil_from_days(days_b));
    let mut months = (y1 - y2) * 12 + i64::from(m1) - i64::from(m2);
    let mut days = i64::from(d1) - i64::from(d2);
    rest -= rest_b;
    if rest < 0 {
        (rest, days) = (rest + DAY_US, days - 1);
    }
    if days < 0 {
        // The days of the earlier month, as PostgreSQL counts.
        days += i64::from(days_in_month(y2, m2));
        months -= 1;
    }
    let narrow = |n: i64| i32::try_from(n).map_err(|_| out_of_range("interval"));
    Ok(Span { months: narrow(months)?, days: narrow(days)?, micros: rest })
}

fn overlaps(v: &[Value]) -> Result<Value> {
    let ends = |a: usize| -> Result<(i64, i64)> {
        let (from, to) = (v[a].micros()?, v[a + 1].micros()?);
        Ok((from.min(to), from.max(to)))
    };
    let ((a, b), (c, d)) = (ends(0)?, ends(2)?);
    Ok(Value::Bool(a == c || (a < d && c < b)))
}

fn date_of(v: &[Value]) -> Result<i64> {
    let (year, month, day) = (v[0].int()?, v[1].int()?, v[2].int()?);
    let narrow = |n: i64| u32::try_from(n).ok();
    let known = (year != 0 && year.unsigned_abs() < 300_000)
        .then(|| checked_date(if year < 0 { year + 1 } else { year }, narrow(month)?, narrow(day)?))
        .flatten();
    known.ok_or_else(|| {
        exec_datafusion_err!("date field value out of range: {year}-{month:02}-{day:02}")
    })
}

fn clock_of(hour: &Value, minute: &Value, seconds: &Value) -> Result<i64> {
    let micros = (seconds.float()? * 1e6).round();
    if !(0.0..=60e6).contains(&micros) {
        return exec_err!("time field value out of range: {} seconds", seconds.text());
    }
    time_of(hour.int()?, minute.int()?, micros as i64)
}
