//! The patterns of `to_char` and `to_number` over numbers, in the C locale.

use super::define::{Def, Kind, def, strict};
use super::templates::{Moment, ordinal_suffix, write};
use super::value::{Number, Value};
use datafusion::common::{Result, exec_datafusion_err, exec_err};

const T: Kind = Kind::Text;

pub(super) fn all() -> Vec<Def> {
    vec![
        def(
            "to_char",
            &[
                strict(&[Kind::Num, T], T, |v| Ok(shown(v[0].number()?, v[1].str()?)?.into())),
                strict(&[Kind::Float, T], T, |v| {
                    Ok(shown(Number::from_f64(v[0].float()?)?, v[1].str()?)?.into())
                }),
                strict(&[Kind::Stamp, T], T, |v| {
                    Ok(write(&Moment::Stamp(v[0].micros()?, false), v[1].str()?).into())
                }),
                strict(&[Kind::Date, T], T, |v| {
                    Ok(write(&Moment::Stamp(v[0].micros()?, false), v[1].str()?).into())
                }),
                strict(&[Kind::Stamptz, T], T, |v| {
                    Ok(write(&Moment::Stamp(v[0].micros()?, true), v[1].str()?).into())
                }),
                strict(&[Kind::Span, T], T, |v| {
                    Ok(write(&Moment::Span(v[0].span()?), v[1].str()?).into())
                }),
            ],
        ),
        def(
            "to_number",
            &[strict(&[T, T], Kind::Num, |v| {
                to_number(v[0].str()?, v[1].str()?).map(Value::Number)
            })
            .returning(super::define::Returns::By(|_, _| {
                Ok(super::logical::Logical::Numeric.field("", true))
            }))],
        ),
    ]
}

/// A pattern, taken apart.
#[derive(Default)]
struct Form {
    /// In order: digits, separators and signs.
    marks: Vec<Mark>,
    before: usize,
    after: usize,
    shift: u32,
    tight: bool,
    blank: bool,
    bracket: bool,
    signed: bool,
    ordinal: Option<bool>,
    roman: bool,
    exponent: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Nine,
    Zero,
    Group,
    Point,
    Sign,
    Minus,
    Plus,
    Either,
    Currency,
    Literal(char),
}

fn form(pattern: &str) -> Result<Form> {
    let mut form = Form::default();
    let (mut at, mut after, mut shifted) = (0, false, false);
    while let Some(rest) = pattern.get(at..).filter(|r| !r.is_empty()) {
        let begins =
            |word: &str| rest.get(..word.len()).is_some_and(|r| r.eq_ignore_ascii_case(word));
        let mut length = 1;
        let digit = |form: &mut Form, mark| {
            form.marks.push(mark);
            if shifted {
                form.shift += 1;
                form.before += 1;
            } else if after {
                form.after += 1;
            } else {
                form.before += 1;
            }
        };
        if begins("EEEE") {
            (form.exponent, length) = (true, 4);
        } else if begins("FM") {
            (form.tight, length) = (true, 2);
        } else if begins("MI") {
            form.marks.push(Mark::Minus);
            (form.signed, length) = (true, 2);
        } else if begins("PL") {
            form.marks.push(Mark::Plus);
            length = 2;
        } else if begins("SG") {
            form.marks.push(Mark::Either);
            (form.signed, length) = (true, 2);
        } else if begins("PR") {
            (form.bracket, form.signed, length) = (true, true, 2);
        } else if begins("TH") {
            (form.ordinal, length) = (Some(rest.starts_with('T')), 2);
        } else if begins("RN") {
            (form.roman, length) = (true, 2);
        } else if begins("9") {
            digit(&mut form, Mark::Nine);
        } else if begins("0") {
            digit(&mut form, Mark::Zero);
        } else if begins(",") || begins("G") {
            form.marks.push(Mark::Group);
        } else if begins(".") || begins("D") {
            if after {
                return exec_err!("multiple decimal points");
            }
            form.marks.push(Mark::Point);
            after = true;
        } else if begins("V") {
            shifted = true;
        } else if begins("S") {
            form.marks.push(Mark::Sign);
            form.signed = true;
        } else if begins("L") {
            form.marks.push(Mark::Currency);
        } else if begins("B") {
            form.blank = true;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            form.marks.extend(quoted[..end].chars().map(Mark::Literal));
            length = (end + 2).min(rest.len());
        } else {
            let c = rest.chars().next().unwrap_or(' ');
            form.marks.push(Mark::Literal(c));
            length = c.len_utf8();
        }
        at += length;
    }
    Ok(form)
}

fn shown(number: Number, pattern: &str) -> Result<String> {
    let form = form(pattern)?;
    if form.roman {
        return Ok(roman(number, form.tight));
    }
    if form.exponent {
        return scientific(number, &form);
    }
    let scale = i8::try_from(form.after.min(30)).unwrap_or(0);
    let shifted = match form.shift {
        0 => number,
        shift => number.mul(Number::new(super::number::ten_to(shift), 0))?,
    };
    let number = shifted.round(scale)?;
    let text = Number { digits: number.digits.abs(), ..number }.text();
    let (whole, fraction) = text.split_once('.').unwrap_or((text.as_str(), ""));
    let negative = number.digits < 0;
    let whole = if whole == "0" && (form.after > 0 || form.before == 0) { "" } else { whole };
    let fits = whole.len() <= form.before;
    Ok(Writer { form: &form, whole, fraction, negative, fits }.write())
}

struct Writer<'a> {
    form: &'a Form,
    whole: &'a str,
    fraction: &'a str,
    negative: bool,
    fits: bool,
}

impl Writer<'_> {
    fn write(&self) -> String {
        let form = self.form;
        let has_sign_mark = form.marks.contains(&Mark::Sign);
        let sign_first = form.marks.iter().position(|m| *m == Mark::Sign)
            < form.marks.iter().position(|m| matches!(m, Mark::Nine | Mark::Zero));
        let lead = if !form.signed {
            Some(if self.negative { '-' } else { ' ' })
        } else if form.bracket {
            Some(if self.negative { '<' } else { ' ' })
        } else if has_sign_mark && sign_first {
            Some(if self.negative { '-' } else { '+' })
        } else {
            None
        };
        let mut out = String::new();
        let (mut place, mut started, mut after) = (0, false, false);
        let mut fraction = self.fraction.chars();
        let first_digit = form.before.saturating_sub(self.whole.len());
        let last_shown = self.last_of_fraction();
        let mut seen_after = 0;
        // The sign stands right before the first digit, as wide as the blanks let it.
        let put = |out: &mut String, started: &mut bool| {
            if !*started {
                *started = true;
                match lead {
                    Some(' ') if form.tight => {}
                    Some(sign) => out.push(sign),
                    None => {}
                }
            }
        };
        for mark in &form.marks {
            match mark {
                Mark::Nine | Mark::Zero if after => {
                    let digit = fraction.next().unwrap_or('0');
                    seen_after += 1;
                    if !form.tight || seen_after <= last_shown {
                        out.push(if self.fits { digit } else { '#' });
                    }
                }
                Mark::Nine | Mark::Zero => {
                    let zero_before = self.zeros_from().is_some_and(|z| place >= z);
                    if !self.fits {
                        put(&mut out, &mut started);
                        out.push('#');
                    } else if place >= first_digit {
                        put(&mut out, &mut started);
                        out.extend(self.whole.chars().nth(place - first_digit));
                    } else if zero_before {
                        put(&mut out, &mut started);
                        out.push('0');
                    } else if !form.tight {
                        out.push(' ');
                    }
                    place += 1;
                }
                Mark::Group if after => {}
                Mark::Group => {
                    if started {
                        out.push(',');
                    } else if !form.tight {
                        out.push(' ');
                    }
                }
                Mark::Point => {
                    put(&mut out, &mut started);
                    out.push('.');
                    after = true;
                }
                Mark::Sign if sign_first => {}
                Mark::Sign => out.push(if self.negative { '-' } else { '+' }),
                Mark::Minus => match (self.negative, form.tight) {
                    (true, _) => out.push('-'),
                    (false, false) => out.push(' '),
                    _ => {}
                },
                Mark::Plus => match (self.negative, form.tight) {
                    (false, _) => out.push('+'),
                    (true, false) => out.push(' '),
                    _ => {}
                },
                Mark::Either => out.push(if self.negative { '-' } else { '+' }),
                Mark::Currency => {
                    if !form.tight {
                        out.push(' ');
                    }
                }
                Mark::Literal(c) => out.push(*c),
            }
        }
        if let Some(upper) = form.ordinal.filter(|_| !self.negative && form.after == 0) {
            let suffix = ordinal_suffix(self.whole);
            out.push_str(&if upper { suffix.to_uppercase() } else { suffix.to_owned() });
        }
        if form.bracket {
            match (self.negative, form.tight) {
                (true, _) => out.push('>'),
                (false, false) => out.push(' '),
                _ => {}
            }
        }
        if form.blank && self.whole.is_empty() && self.fraction.bytes().all(|b| b == b'0') {
            return " ".repeat(out.len());
        }
        out
    }

    /// The place of the first 0 before the point: from there on zeros are shown.
    fn zeros_from(&self) -> Option<usize> {
        let digits = self.form.marks.iter().take_while(|m| **m != Mark::Point);
        digits.filter(|m| matches!(m, Mark::Nine | Mark::Zero)).position(|m| *m == Mark::Zero)
    }

    /// How many digits after the point FM leaves: up to the last 0 of the pattern or of the value.
    fn last_of_fraction(&self) -> usize {
        let mut digits = self.form.marks.iter().skip_while(|m| **m != Mark::Point);
        digits.next();
        let marks: Vec<_> = digits.filter(|m| matches!(m, Mark::Nine | Mark::Zero)).collect();
        let zero = marks.iter().rposition(|m| **m == Mark::Zero).map_or(0, |at| at + 1);
        zero.max(self.fraction.trim_end_matches('0').len())
    }
}

fn roman(number: Number, tight: bool) -> String {
    const STEPS: [(i128, &str); 13] = [
        (1_000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    let mut left = number.round(0).map_or(0, |n| n.digits);
    let text = if (1..4_000).contains(&left) {
        let mut text = String::new();
        for (value, letters) in STEPS {
            while left >= value {
                text.push_str(letters);
                left -= value;
            }
        }
        text
    } else {
        "#".repeat(15)
    };
    if tight { text } else { format!("{text:>15}") }
}

fn scientific(number: Number, form: &Form) -> Result<String> {
    let digits = number.digits.unsigned_abs().to_string();
    let exponent =
        if number.digits == 0 { 0 } else { digits.len() as i64 - 1 - i64::from(number.scale) };
    let mantissa_scale = digits.len() as i64 - 1;
    let scale =
        i8::try_from(mantissa_scale).map_err(|_| exec_datafusion_err!("numeric overflow"))?;
    let after = i8::try_from(form.after.min(30)).unwrap_or(0);
    let mantissa = Number::new(number.digits, scale).round(after)?;
    let sign = if mantissa.digits >= 0 && !form.tight { " " } else { "" };
    let mark = if exponent < 0 { '-' } else { '+' };
    Ok(format!("{sign}{}e{mark}{:02}", mantissa.text(), exponent.abs()))
}

fn to_number(text: &str, pattern: &str) -> Result<Number> {
    let form = form(pattern)?;
    let mut digits = String::new();
    let mut negative = false;
    for c in text.chars() {
        match c {
            '0'..='9' => digits.push(c),
            '.' => digits.push('.'),
            '-' => negative = true,
            '<' if form.bracket => negative = true,
            _ => {}
        }
    }
    let number = Number::parse(&digits)
        .ok_or_else(|| exec_datafusion_err!("invalid input syntax for type numeric: \"{text}\""))?;
    let number = match form.shift {
        0 => number,
        shift => Number::new(number.digits, number.scale.saturating_add(shift as i8)),
    };
    Ok(if negative { Number { digits: -number.digits, ..number } } else { number })
}
