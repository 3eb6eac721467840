//! Arithmetic of [`Number`]: exact, or refused where 38 digits do not hold the result.

use super::value::Number;
use arrow::datatypes::i256;
use datafusion::common::{Result, exec_datafusion_err, exec_err};
use std::cmp::Ordering;

/// Digits after the point that a quotient has at least.
pub(super) const DIVISION_SCALE: i8 = 16;

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Number { digits: i128::from(value), scale: 0, trimmed: false }
    }
}

pub(super) fn ten_to(power: u32) -> i128 {
    10_i128.checked_pow(power).unwrap_or(i128::MAX)
}

fn overflow() -> datafusion::common::DataFusionError {
    exec_datafusion_err!("value overflows numeric format")
}

impl Number {
    /// A number of these digits.
    pub(super) fn new(digits: i128, scale: i8) -> Self {
        Number { digits, scale, trimmed: false }
    }

    /// The text's number; None when it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (negative, mantissa) = match mantissa.as_bytes().first()? {
            b'-' => (true, &mantissa[1..]),
            b'+' => (false, &mantissa[1..]),
            _ => (false, mantissa),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut digits: i128 = 0;
        for byte in whole.bytes().chain(fraction.bytes()) {
            let digit = char::from(byte).to_digit(10)?;
            digits = digits.checked_mul(10)?.checked_add(i128::from(digit))?;
        }
        let mut scale = i32::try_from(fraction.len()).ok()? - exponent;
        if scale < 0 {
            digits = digits.checked_mul(10_i128.checked_pow(scale.unsigned_abs())?)?;
            scale = 0;
        }
        while scale > 38 {
            digits /= 10;
            scale -= 1;
        }
        let digits = if negative { -digits } else { digits };
        Some(Self::new(digits, i8::try_from(scale).ok()?))
    }

    /// The nearest number that the shortest text of a double stands for.
    pub(super) fn from_f64(value: f64) -> Result<Self> {
        if !value.is_finite() {
            return exec_err!("cannot convert {value} to numeric: numeric has no such value here");
        }
        Self::parse(&format!("{value:e}")).ok_or_else(overflow)
    }

    pub(super) fn to_f64(self) -> f64 {
        self.text().parse().unwrap_or(f64::NAN)
    }

    /// The same with this many digits after the point, rounded half away from zero.
    pub(super) fn round(self, scale: i8) -> Result<Self> {
        let by = i32::from(scale) - i32::from(self.scale);
        let digits = match by {
            0 => self.digits,
            1.. => {
                let factor = 10_i128.checked_pow(by.unsigned_abs()).ok_or_else(overflow)?;
                self.digits.checked_mul(factor).ok_or_else(overflow)?
            }
            _ => match 10_i128.checked_pow(by.unsigned_abs()) {
                None => 0,
                Some(factor) => {
                    let (quotient, rest) = (self.digits / factor, self.digits % factor);
                    match rest.unsigned_abs().cmp(&(factor.unsigned_abs() / 2)) {
                        Ordering::Less => quotient,
                        _ => quotient + self.digits.signum(),
                    }
                }
            },
        };
        Ok(Self { digits, scale, ..self })
    }

    /// The same with fewer digits after the point, the others cut off.
    pub(super) fn trunc(self, scale: i8) -> Result<Self> {
        if scale >= self.scale {
            return self.round(scale);
        }
        let by = i32::from(self.scale) - i32::from(scale);
        let factor = 10_i128.checked_pow(by.unsigned_abs());
        Ok(Self { digits: factor.map_or(0, |f| self.digits / f), scale, ..self })
    }

    /// `round` and `trunc` to places before the point come back to scale 0.
    pub(super) fn to_places(self, places: i64, cut: bool) -> Result<Self> {
        let places = i8::try_from(places.clamp(-40, 38)).unwrap_or(0);
        let number = if cut { self.trunc(places)? } else { self.round(places)? };
        if places >= 0 { Ok(number) } else { number.round(0) }
    }

    /// The number in a column's type; refused when it has more digits.
    pub(super) fn fit(self, precision: u8, scale: i8) -> Result<Self> {
        let number = self.round(scale)?;
        if number.digits.unsigned_abs() >= ten_to(u32::from(precision)).unsigned_abs() {
            return exec_err!(
                "numeric field overflow: {} does not fit numeric({precision},{scale})",
                self.text()
            );
        }
        Ok(number)
    }

    fn aligned(self, other: Self) -> Result<(i128, i128, i8)> {
        let scale = self.scale.max(other.scale);
        Ok((self.round(scale)?.digits, other.round(scale)?.digits, scale))
    }

    pub(super) fn compare(self, other: Self) -> Result<Ordering> {
        let (left, right, _) = self.aligned(other)?;
        Ok(left.cmp(&right))
    }

    pub(super) fn add(self, other: Self) -> Result<Self> {
        let (left, right, scale) = self.aligned(other)?;
        Ok(Self::new(left.checked_add(right).ok_or_else(overflow)?, scale))
    }

    pub(super) fn sub(self, other: Self) -> Result<Self> {
        self.add(Self { digits: -other.digits, ..other })
    }

    pub(super) fn mul(self, other: Self) -> Result<Self> {
        let digits = self.digits.checked_mul(other.digits).ok_or_else(overflow)?;
        let scale = self.scale.checked_add(other.scale).ok_or_else(overflow)?;
        if scale > 38 { Self::new(digits, scale).round(38) } else { Ok(Self::new(digits, scale)) }
    }

    /// The quotient with this many digits after the point, rounded.
    pub(super) fn div(self, other: Self, scale: i8) -> Result<Self> {
        if other.digits == 0 {
            return exec_err!("division by zero");
        }
        // One digit more than wanted decides the rounding.
        let up = i32::from(scale) + 1 + i32::from(other.scale) - i32::from(self.scale);
        let (left, right) = (i256::from_i128(self.digits), i256::from_i128(other.digits));
        let power = |n: i32| i256::from_i128(10).checked_pow(n.unsigned_abs());
        let factor = power(up).ok_or_else(overflow)?;
        let digits = if up >= 0 {
            left.checked_mul(factor).and_then(|left| left.checked_div(right))
        } else {
            right.checked_mul(factor).and_then(|right| left.checked_div(right))
        };
        let digits = digits.and_then(i256::to_i128).ok_or_else(overflow)?;
        Self::new(digits, scale.checked_add(1).ok_or_else(overflow)?).round(scale)
    }

    pub(super) fn rem(self, other: Self) -> Result<Self> {
        let (left, right, scale) = self.aligned(other)?;
        if right == 0 {
            return exec_err!("division by zero");
        }
        Ok(Self::new(left % right, scale))
    }

    /// How many digits after the point are not trailing zeros.
    pub(super) fn min_scale(self) -> i8 {
        let (mut digits, mut scale) = (self.digits, self.scale);
        while scale > 0 && digits % 10 == 0 {
            digits /= 10;
            scale -= 1;
        }
        scale
    }

    pub(super) fn floor(self) -> Self {
        let factor = ten_to(u32::from(self.scale.unsigned_abs()));
        Self::new(self.digits.div_euclid(factor), 0)
    }

    pub(super) fn ceil(self) -> Self {
        let floor = Self { digits: -self.digits, ..self }.floor();
        Self::new(-floor.digits, 0)
    }

    /// The nearest integer, halves away from zero.
    pub(super) fn to_i64(self) -> Result<i64> {
        let digits = self.round(0)?.digits;
        i64::try_from(digits).map_err(|_| exec_datafusion_err!("bigint out of range"))
    }

    /// As PostgreSQL prints it.
    pub(super) fn text(self) -> String {
        let number = if self.trimmed {
            let scale = self.min_scale();
            self.trunc(scale).unwrap_or(self)
        } else {
            self
        };
        let scale = usize::from(number.scale.unsigned_abs());
        let digits = number.digits.unsigned_abs().to_string();
        let sign = if number.digits < 0 { "-" } else { "" };
        if scale == 0 {
            return format!("{sign}{digits}");
        }
        let padded = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = padded.split_at(padded.len() - scale);
        format!("{sign}{whole}.{fraction}")
    }
}
