//! Functions over numbers. Those over `numeric` are exact where PostgreSQL's are; roots, logarithms
//! and powers of `numeric` are computed as doubles and have 15 digits.

use super::define::{Def, Kind, Overload, Returns, def, strict};
use super::number::DIVISION_SCALE;
use super::value::{Number, Value};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err};

const F: Kind = Kind::Float;
const N: Kind = Kind::Num;
const I: Kind = Kind::Int;
const SAME: Returns = Returns::Same(0);

pub(super) fn all() -> Vec<Def> {
    let mut defs = vec![
        def(
            "abs",
            &[
                same_int(|v| {
                    let value = v[0].int()?.checked_abs();
                    value.map(Value::Int).ok_or_else(|| exec_datafusion_err!("bigint out of range"))
                }),
                number(|v| {
                    Ok(Value::Number(Number {
                        digits: v[0].number()?.digits.abs(),
                        ..v[0].number()?
                    }))
                }),
                float(f64::abs),
            ],
        ),
        def(
            "sign",
            &[
                strict(&[N], N, |v| {
                    Ok(Value::Number(Number::new(v[0].number()?.digits.signum(), 0)))
                })
                .returning(WHOLE),
                float(|x| if x == 0.0 || x.is_nan() { x } else { x.signum() }),
            ],
        ),
        def(
            "ceil",
            &[
                strict(&[N], N, |v| Ok(Value::Number(v[0].number()?.ceil()))).returning(WHOLE),
                float(f64::ceil),
            ],
        )
        .alias(&["ceiling"]),
        def(
            "floor",
            &[
                strict(&[N], N, |v| Ok(Value::Number(v[0].number()?.floor()))).returning(WHOLE),
                float(f64::floor),
            ],
        ),
        def(
            "round",
            &[
                strict(&[N], N, |v| Ok(Value::Number(v[0].number()?.round(0)?))).returning(WHOLE),
                float(f64::round_ties_even),
                strict(&[N, I], N, |v| {
                    Ok(Value::Number(v[0].number()?.to_places(v[1].int()?, false)?))
                })
                .returning(PLACES),
                strict(&[F, I], F, |v| rounded(v, false)),
            ],
        ),
        def(
            "trunc",
            &[
                strict(&[N], N, |v| Ok(Value::Number(v[0].number()?.trunc(0)?))).returning(WHOLE),
                float(f64::trunc),
                strict(&[N, I], N, |v| {
                    Ok(Value::Number(v[0].number()?.to_places(v[1].int()?, true)?))
                })
                .returning(PLACES),
                strict(&[F, I], F, |v| rounded(v, true)),
            ],
        ),
        def(
            "mod",
            &[
                strict(&[I, I], I, |v| {
                    let (a, b) = (v[0].int()?, v[1].int()?);
                    if b == 0 {
                        exec_err!("division by zero")
                    } else {
                        Ok(Value::Int(a.wrapping_rem(b)))
                    }
                })
                .returning(SAME),
                strict(&[N, N], N, |v| Ok(Value::Number(v[0].number()?.rem(v[1].number()?)?)))
                    .returning(WIDEST),
            ],
        ),
        def(
            "div",
            &[strict(&[N, N], N, |v| {
                let (a, b) = (v[0].number()?, v[1].number()?);
                let rest = a.rem(b)?;
                Ok(Value::Number(a.sub(rest)?.div(b, 0)?))
            })
            .returning(WHOLE)],
        ),
        def(
            "power",
            &[strict(&[F, F], F, |v| {
                let (x, y) = (v[0].float()?, v[1].float()?);
                if x == 0.0 && y < 0.0 {
                    return exec_err!("zero raised to a negative power is undefined");
                }
                if x < 0.0 && y.fract() != 0.0 && y.is_finite() {
                    return exec_err!(
                        "a negative number raised to a non-integer power yields a complex result"
                    );
                }
                finite(x.powf(y), &[x, y])
            })],
        )
        .alias(&["pow"]),
        def(
            "sqrt",
            &[strict(&[F], F, |v| {
                let x = v[0].float()?;
                if x < 0.0 {
                    exec_err!("cannot take square root of a negative number")
                } else {
                    Ok(Value::Float(x.sqrt()))
                }
            })],
        ),
        def("cbrt", &[float(f64::cbrt)]),
        def(
            "exp",
            &[strict(&[F], F, |v| {
                let x = v[0].float()?;
                finite(x.exp(), &[x])
            })],
        ),
        def("ln", &[strict(&[F], F, |v| Ok(Value::Float(positive(v[0].float()?)?.ln())))]),
        def(
            "log",
            &[
                strict(&[F], F, |v| Ok(Value::Float(positive(v[0].float()?)?.log10()))),
                strict(&[F, F], F, |v| {
                    let (base, x) = (positive(v[0].float()?)?, positive(v[1].float()?)?);
                    if base == 1.0 {
                        return exec_err!("division by zero");
                    }
                    Ok(Value::Float(x.log(base)))
                }),
            ],
        ),
        def("log10", &[strict(&[F], F, |v| Ok(Value::Float(positive(v[0].float()?)?.log10())))]),
        def("degrees", &[float(f64::to_degrees)]),
        def("radians", &[float(f64::to_radians)]),
        def("sind", &[float(|x| exact_degrees(x, f64::sin, 90.0))]),
        def("cosd", &[float(|x| exact_degrees(x + 90.0, f64::sin, 90.0))]),
        def(
            "tand",
            &[float(|x| {
                let cosine = exact_degrees(x + 90.0, f64::sin, 90.0);
                if x.rem_euclid(180.0) == 45.0 {
                    1.0
                } else {
                    exact_degrees(x, f64::sin, 90.0) / cosine
                }
            })],
        ),
        def(
            "width_bucket",
            &[
                strict(&[N, N, N, I], Kind::Int4, |v| {
                    let (x, low, high) = (v[0].number()?, v[1].number()?, v[2].number()?);
                    let count = v[3].int()?;
                    bucket(x.to_f64(), low.to_f64(), high.to_f64(), count, || {
                        let width = high.sub(low)?;
                        let at = x.sub(low)?.mul(count.into())?;
                        Ok(at.div(width, 10)?.floor().digits as i64)
                    })
                }),
                strict(&[F, F, F, I], Kind::Int4, |v| {
                    let (x, low, high, count) =
                        (v[0].float()?, v[1].float()?, v[2].float()?, v[3].int()?);
                    bucket(x, low, high, count, || {
                        Ok(((x - low) * count as f64 / (high - low)).floor() as i64)
                    })
                }),
            ],
        ),
        def(
            "gcd",
            &[same_two(|a, b| {
                divisor(a, b).ok_or_else(|| exec_datafusion_err!("bigint out of range"))
            })],
        ),
        def(
            "lcm",
            &[same_two(|a, b| {
                if a == 0 || b == 0 {
                    return Ok(0);
                }
                let wrong = || exec_datafusion_err!("bigint out of range");
                let step = a.checked_div(divisor(a, b).ok_or_else(wrong)?).ok_or_else(wrong)?;
                step.checked_mul(b).and_then(i64::checked_abs).ok_or_else(wrong)
            })],
        ),
        def(
            "factorial",
            &[strict(&[I], N, |v| {
                let n = v[0].int()?;
                if n < 0 {
                    return exec_err!("factorial of a negative number is undefined");
                }
                let product = (1..=i128::from(n)).try_fold(1_i128, i128::checked_mul);
                let digits = product.filter(|p| *p < super::number::ten_to(38));
                let digits =
                    digits.ok_or_else(|| exec_datafusion_err!("value overflows numeric format"))?;
                Ok(Value::Number(Number::new(digits, 0)))
            })
            .returning(WHOLE)],
        ),
        def("kaplan_bit_not", &[strict(&[I], I, |v| Ok(Value::Int(!v[0].int()?))).returning(SAME)]),
        def("scale", &[strict(&[N], Kind::Int4, |v| Ok(Value::Int(v[0].number()?.scale.into())))]),
        def(
            "min_scale",
            &[strict(&[N], Kind::Int4, |v| Ok(Value::Int(v[0].number()?.min_scale().into())))],
        ),
        def(
            "trim_scale",
            &[number(|v| Ok(v[0].clone())).returning(Returns::By(|fields, _| {
                Ok(super::logical::Logical::Numeric.mark(fields[0].as_ref().clone()))
            }))],
        ),
    ];
    defs.extend(super::arithmetic::all());
    defs
}

/// `numeric` of 38 digits, all before the point.
pub(super) const WHOLE: Returns = Returns::By(|_, _| Ok(decimal(0)));

/// The scale that the second argument says, when it is a constant.
const PLACES: Returns = Returns::By(|fields, constants| {
    let places = match constants.get(1).copied().flatten() {
        Some(value) => match value.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(places)) => places,
            _ => None,
        },
        None => None,
    };
    Ok(decimal(match places {
        Some(places) => i8::try_from(places.clamp(0, 30)).unwrap_or(0),
        None => scale_of(&fields[0]),
    }))
});

/// The larger of the scales of two arguments.
pub(super) const WIDEST: Returns =
    Returns::By(|fields, _| Ok(decimal(scale_of(&fields[0]).max(scale_of(&fields[1])))));

/// The scale of a quotient.
pub(super) const QUOTIENT: Returns = Returns::By(|fields, _| {
    Ok(decimal(scale_of(&fields[0]).max(scale_of(&fields[1])).max(DIVISION_SCALE)))
});

pub(super) fn scale_of(field: &FieldRef) -> i8 {
    match field.data_type() {
        DataType::Decimal128(_, scale) => *scale,
        _ => 0,
    }
}

pub(super) fn decimal(scale: i8) -> Field {
    Field::new("", DataType::Decimal128(38, scale), true)
}

fn number(call: impl Fn(&[Value]) -> Result<Value> + Send + Sync + 'static) -> Overload {
    strict(&[N], N, call).returning(SAME)
}

fn same_int(call: impl Fn(&[Value]) -> Result<Value> + Send + Sync + 'static) -> Overload {
    strict(&[I], I, call)
}

fn same_two(call: impl Fn(i64, i64) -> Result<i64> + Send + Sync + 'static) -> Overload {
    strict(&[I, I], I, move |v| Ok(Value::Int(call(v[0].int()?, v[1].int()?)?)))
}

fn float(call: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Overload {
    strict(&[F], F, move |v| Ok(Value::Float(call(v[0].float()?))))
}

/// Refuses what has become infinite out of finite numbers.
fn finite(result: f64, from: &[f64]) -> Result<Value> {
    if result.is_infinite() && from.iter().all(|x| x.is_finite()) {
        return exec_err!("value out of range: overflow");
    }
    Ok(Value::Float(result))
}

fn positive(x: f64) -> Result<f64> {
    if x == 0.0 {
        exec_err!("cannot take logarithm of zero")
    } else if x < 0.0 {
        exec_err!("cannot take logarithm of a negative number")
    } else {
        Ok(x)
    }
}

fn rounded(v: &[Value], cut: bool) -> Result<Value> {
    let (x, places) = (v[0].float()?, v[1].int()?);
    if !x.is_finite() {
        return Ok(v[0].clone());
    }
    Ok(match Number::from_f64(x) {
        Ok(number) => Value::Float(number.to_places(places, cut)?.to_f64()),
        // Too large to have digits after the point.
        Err(_) => Value::Float(x),
    })
}

/// The sine of an angle in degrees, exact at multiples of 30.
fn exact_degrees(x: f64, sine: fn(f64) -> f64, quarter: f64) -> f64 {
    let turn = x.rem_euclid(4.0 * quarter);
    match turn {
        t if t == 0.0 || t == 180.0 => 0.0,
        30.0 | 150.0 => 0.5,
        90.0 => 1.0,
        210.0 | 330.0 => -0.5,
        270.0 => -1.0,
        t => sine(t.to_radians()),
    }
}

fn bucket(
    x: f64,
    low: f64,
    high: f64,
    count: i64,
    inside: impl Fn() -> Result<i64>,
) -> Result<Value> {
    if count < 1 {
        return exec_err!("count must be greater than zero");
    }
    if low == high || low.is_nan() || high.is_nan() {
        return exec_err!("lower bound cannot equal upper bound");
    }
    let (before, after) = if low < high { (x < low, x >= high) } else { (x > low, x <= high) };
    Ok(Value::Int(match (before, after) {
        (true, _) => 0,
        (_, true) => count + 1,
        _ => inside()?.min(count - 1) + 1,
    }))
}

fn divisor(a: i64, b: i64) -> Option<i64> {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    i64::try_from(a).ok()
}
