//! Results of any engine as rows of plain values, and their comparison as multisets. Integers,
//! decimals, text and times are exact; where one side is a double, or a decimal that its engine has
//! rounded, the difference must be rounding.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Relative to the larger of two doubles.
const RELATIVE: f64 = 1e-9;
/// Differences that are shown.
const SHOWN: usize = 4;

#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Null,
    /// A double, with the size of its last digit where it is a rounded decimal.
    Double(f64, f64),
    /// An integer or decimal, without needless zeros.
    Exact(String),
    Text(String),
}

pub type Row = Vec<Cell>;

/// A number's text without needless zeros.
fn exact(text: &str) -> Cell {
    let mut text = text;
    if text.contains('.') {
        text = text.trim_end_matches('0').trim_end_matches('.');
    }
    Cell::Exact(if text == "-0" { "0" } else { text }.to_owned())
}

/// Half of what rounding to this many digits after the point may change, and a little more for
/// results that were rounded twice.
fn unit(digits: i32) -> f64 {
    2.0 * 10f64.powi(-digits)
}

/// What the oracle's script wrote: a letter for the type, then the value.
pub fn cell(text: Option<&str>) -> Cell {
    let Some(text) = text else { return Cell::Null };
    let (kind, value) = text.split_at(1);
    match kind {
        "n" => exact(value),
        "f" => Cell::Double(value.parse().unwrap_or(f64::NAN), 0.0),
        _ => Cell::Text(text.to_owned()),
    }
}

pub fn rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut out = Vec::new();
    for batch in batches {
        let columns: Vec<Vec<Cell>> = batch.columns().iter().map(cells).collect();
        out.extend((0..batch.num_rows()).map(|i| columns.iter().map(|c| c[i].clone()).collect()));
    }
    out
}

fn cells(column: &ArrayRef) -> Vec<Cell> {
    let to = |t: DataType| cast(column, &t).expect("a cast of a result");
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let value: Box<dyn Fn(usize) -> Cell> = match column.data_type() {
        t if t.is_integer() => {
            let numbers = to(DataType::Int64).as_primitive::<Int64Type>().clone();
            Box::new(move |i| exact(&numbers.value(i).to_string()))
        }
        t if t.is_floating() => {
            let numbers = to(DataType::Float64).as_primitive::<Float64Type>().clone();
            Box::new(move |i| Cell::Double(numbers.value(i), 0.0))
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().clone();
            Box::new(move |i| Cell::Text(format!("d{}", days.value(i))))
        }
        DataType::Timestamp(_, _) => {
            let times = to(micros).as_primitive::<TimestampMicrosecondType>().clone();
            Box::new(move |i| Cell::Text(format!("t{}", times.value(i))))
        }
        DataType::Decimal128(_, _) | DataType::Decimal256(_, _) => shown(column, exact),
        DataType::Boolean => shown(column, |text| Cell::Text(format!("b{text}"))),
        _ => shown(column, |text| Cell::Text(format!("s{text}"))),
    };
    (0..column.len()).map(|i| if column.is_null(i) { Cell::Null } else { value(i) }).collect()
}

fn shown(column: &ArrayRef, cell: impl Fn(&str) -> Cell + 'static) -> Box<dyn Fn(usize) -> Cell> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column, &options).expect("a printable column");
    let texts: Vec<String> = (0..column.len()).map(|i| formatter.value(i).to_string()).collect();
    Box::new(move |i| cell(&texts[i]))
}

/// The first differences, or None.
pub fn difference(expected: &[Row], found: &[Row]) -> Option<String> {
    let width = expected.iter().chain(found).map(Vec::len).max().unwrap_or(0);
    let rounded: Vec<bool> = (0..width)
        .map(|i| {
            let double =
                |rows: &[Row]| rows.iter().any(|r| matches!(r.get(i), Some(Cell::Double(..))));
            double(expected) || double(found)
        })
        .collect();
    let (mut left, mut right) = (keyed(expected, &rounded), keyed(found, &rounded));
    let keys: Vec<String> = left.keys().chain(right.keys()).cloned().collect();
    let mut lines = Vec::new();
    for key in keys {
        let (l, r) =
            (left.remove(&key).unwrap_or_default(), right.remove(&key).unwrap_or_default());
        let (missing, extra) = unmatched(l, r);
        lines.extend(missing.iter().map(|d| format!("missing {key} {d:?}")));
        lines.extend(extra.iter().map(|d| format!("extra {key} {d:?}")));
    }
    if lines.is_empty() {
        return None;
    }
    let total = lines.len();
    lines.truncate(SHOWN);
    Some(format!("{total} rows differ: {}", lines.join("; ")))
}

type Doubles = Vec<Option<(f64, f64)>>;

/// Rows by their exact columns.
fn keyed(rows: &[Row], rounded: &[bool]) -> BTreeMap<String, Vec<Doubles>> {
    let mut out: BTreeMap<String, Vec<Doubles>> = BTreeMap::new();
    for row in rows {
        let (mut key, mut doubles) = (format!("{}", row.len()), Vec::new());
        for (cell, rounded) in row.iter().zip(rounded) {
            match cell {
                Cell::Double(value, unit) => doubles.push(Some((*value, *unit))),
                Cell::Null if *rounded => doubles.push(None),
                Cell::Exact(text) if *rounded => {
                    let digits = text.split_once('.').map_or(0, |(_, d)| d.len());
                    let digits = i32::try_from(digits).unwrap_or(0);
                    // Of a decimal without digits nothing was rounded away.
                    let unit = if digits == 0 { 0.0 } else { unit(digits) };
                    doubles.push(Some((text.parse().unwrap_or(f64::NAN), unit)));
                }
                Cell::Null => key.push_str("|NULL"),
                Cell::Exact(text) => key.push_str(&format!("|{text}")),
                Cell::Text(text) => key.push_str(&format!("|'{text}'")),
            }
        }
        out.entry(key).or_default().push(doubles);
    }
    out
}

fn unmatched(mut left: Vec<Doubles>, mut right: Vec<Doubles>) -> (Vec<Doubles>, Vec<Doubles>) {
    left.sort_by(order);
    right.sort_by(order);
    let equal = |l: &Doubles, r: &Doubles| {
        l.len() == r.len() && l.iter().zip(r).all(|(a, b)| close(*a, *b))
    };
    if left.len() == right.len() && left.iter().zip(&right).all(|(l, r)| equal(l, r)) {
        return (Vec::new(), Vec::new());
    }
    left.retain(|l| match right.iter().position(|r| equal(l, r)) {
        Some(at) => {
            right.remove(at);
            false
        }
        None => true,
    });
    (left, right)
}

fn order(a: &Doubles, b: &Doubles) -> Ordering {
    let value = |v: &Option<(f64, f64)>| v.map_or(f64::NEG_INFINITY, |(v, _)| v);
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| value(a).total_cmp(&value(b))).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

fn close(a: Option<(f64, f64)>, b: Option<(f64, f64)>) -> bool {
    match (a, b) {
        (Some((a, _)), Some((b, _))) if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
        (Some((a, ua)), Some((b, ub))) => {
            a == b || (a - b).abs() <= ua.max(ub).max(RELATIVE * a.abs().max(b.abs()))
        }
        (None, None) => true,
        _ => false,
    }
}
