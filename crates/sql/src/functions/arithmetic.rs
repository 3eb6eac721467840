//! The operators that DataFusion computes in another way than PostgreSQL: integers refuse to
//! overflow, decimals divide to at least 16 digits, dates and intervals have their own rules.
//! [`super::operators`] puts them in the operators' place.

use super::calendar::{DAY_US, add_span, negated, out_of_range, split_days};
use super::define::{Def, Kind, Returns, def, strict};
use super::math::{QUOTIENT, WIDEST, decimal, scale_of};
use super::value::{Number, Span, Value};
use datafusion::common::{Result, exec_datafusion_err, exec_err};

const S: Kind = Kind::Span;
const F: Kind = Kind::Float;
const N: Kind = Kind::Num;
const I: Kind = Kind::Int;
const D: Kind = Kind::Date;
const TIME: Kind = Kind::Time;
const STAMP: Kind = Kind::Stamp;
const STAMPTZ: Kind = Kind::Stamptz;

/// The product of two decimals.
const PRODUCT: Returns = Returns::By(|fields, _| {
    Ok(decimal(scale_of(&fields[0]).saturating_add(scale_of(&fields[1])).min(30)))
});

pub(super) fn all() -> Vec<Def> {
    vec![
        def(
            "kaplan_add",
            &[
                int(i64::checked_add),
                numbers(Number::add).returning(WIDEST),
                strict(&[D, I], D, |v| later(&v[0], v[1].int()?)),
                strict(&[I, D], D, |v| later(&v[1], v[0].int()?)),
                strict(&[D, TIME], STAMP, |v| plus(v[0].micros()?, v[1].micros()?)),
                strict(&[TIME, D], STAMP, |v| plus(v[0].micros()?, v[1].micros()?)),
                strict(&[TIME, S], TIME, |v| {
                    Ok(Value::Time(of_day(v[0].micros()?, v[1].span()?.micros)))
                }),
                strict(&[S, TIME], TIME, |v| {
                    Ok(Value::Time(of_day(v[1].micros()?, v[0].span()?.micros)))
                }),
                strict(&[D, S], STAMP, |v| {
                    Ok(Value::Stamp(add_span(v[0].micros()?, v[1].span()?)?))
                }),
                strict(&[S, D], STAMP, |v| {
                    Ok(Value::Stamp(add_span(v[1].micros()?, v[0].span()?)?))
                }),
                strict(&[S, S], S, |v| Ok(Value::Span(v[0].span()?.add(v[1].span()?)?))),
            ],
        ),
        def(
            "kaplan_subtract",
            &[
                int(i64::checked_sub),
                numbers(Number::sub).returning(WIDEST),
                strict(&[D, I], D, |v| later(&v[0], v[1].int()?.saturating_neg())),
                strict(&[D, D], Kind::Int4, |v| match (&v[0], &v[1]) {
                    (Value::Date(a), Value::Date(b)) => {
                        Ok(Value::Int(i64::from(*a) - i64::from(*b)))
                    }
                    (other, _) => super::define::unexpected(other),
                }),
                strict(&[TIME, TIME], S, |v| {
                    Ok(Value::Span(Span {
                        micros: v[0].micros()? - v[1].micros()?,
                        ..Span::default()
                    }))
                }),
                strict(&[TIME, S], TIME, |v| {
                    Ok(Value::Time(of_day(v[0].micros()?, negated(v[1].span()?)?.micros)))
                }),
                strict(&[D, S], STAMP, |v| {
                    Ok(Value::Stamp(add_span(v[0].micros()?, negated(v[1].span()?)?)?))
                }),
                strict(&[S, S], S, |v| Ok(Value::Span(v[0].span()?.add(negated(v[1].span()?)?)?))),
                strict(&[STAMP, STAMP], S, |v| between(v[0].micros()?, v[1].micros()?)),
                strict(&[STAMPTZ, STAMPTZ], S, |v| between(v[0].micros()?, v[1].micros()?)),
            ],
        ),
        def(
            "kaplan_multiply",
            &[
                int(i64::checked_mul),
                numbers(Number::mul).returning(PRODUCT),
                strict(&[S, F], S, |v| Ok(Value::Span(v[0].span()?.times(v[1].float()?)?))),
                strict(&[F, S], S, |v| Ok(Value::Span(v[1].span()?.times(v[0].float()?)?))),
            ],
        ),
        def(
            "kaplan_divide",
            &[
                strict(&[N, N], N, |v| {
                    let (a, b) = (v[0].number()?, v[1].number()?);
                    Ok(Value::Number(
                        a.div(b, a.scale.max(b.scale).max(super::number::DIVISION_SCALE))?,
                    ))
                })
                .returning(QUOTIENT),
                strict(&[S, F], S, |v| match v[1].float()? {
                    0.0 => exec_err!("division by zero"),
                    by => Ok(Value::Span(v[0].span()?.times(1.0 / by)?)),
                }),
            ],
        ),
        def("kaplan_negate", &[strict(&[S], S, |v| Ok(Value::Span(negated(v[0].span()?)?)))]),
        def(
            "kaplan_order",
            &[strict(&[S], Kind::Num, |v| {
                Ok(Value::Number(Number::new(v[0].span()?.micros_in_all(), 0)))
            })
            .returning(super::math::WHOLE)],
        ),
    ]
}

fn int(call: fn(i64, i64) -> Option<i64>) -> super::define::Overload {
    strict(&[I, I], I, move |v| {
        let result = call(v[0].int()?, v[1].int()?);
        result.map(Value::Int).ok_or_else(|| exec_datafusion_err!("bigint out of range"))
    })
}

fn numbers(call: fn(Number, Number) -> Result<Number>) -> super::define::Overload {
    strict(&[N, N], N, move |v| Ok(Value::Number(call(v[0].number()?, v[1].number()?)?)))
}

fn later(date: &Value, days: i64) -> Result<Value> {
    let Value::Date(from) = date else { return super::define::unexpected(date) };
    let sum = i64::from(*from).checked_add(days).and_then(|d| i32::try_from(d).ok());
    sum.map(Value::Date).ok_or_else(|| out_of_range("date"))
}

fn plus(a: i64, b: i64) -> Result<Value> {
    a.checked_add(b).map(Value::Stamp).ok_or_else(|| out_of_range("timestamp"))
}

/// Times of day go round.
fn of_day(micros: i64, more: i64) -> i64 {
    (micros + more % DAY_US).rem_euclid(DAY_US)
}

/// Days and time between two timestamps.
fn between(later: i64, earlier: i64) -> Result<Value> {
    let micros = later.checked_sub(earlier).ok_or_else(|| out_of_range("interval"))?;
    let (mut days, mut rest) = split_days(micros);
    if days < 0 && rest > 0 {
        (days, rest) = (days + 1, rest - DAY_US);
    }
    let days = i32::try_from(days).map_err(|_| out_of_range("interval"))?;
    Ok(Value::Span(Span { months: 0, days, micros: rest }))
}
