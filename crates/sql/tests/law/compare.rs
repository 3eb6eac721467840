//! Two results as multisets of rows. Everything is exact but floating-point numbers, which may
//! differ by the rounding of their sums; -0.0 equals 0.0 and NaN equals NaN.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Relative to the larger of two floats.
const RELATIVE: f64 = 1e-9;
/// Against the magnitude of what was summed, which is below a thousand here.
const ABSOLUTE: f64 = 1e-6;
/// Differences that are shown.
const SHOWN: usize = 6;

type Floats = Vec<Option<f64>>;

/// The first differences, or None.
pub fn difference(expected: &[RecordBatch], found: &[RecordBatch]) -> Option<String> {
    let (mut left, mut right) = (rows(expected), rows(found));
    let mut lines = Vec::new();
    let keys: Vec<_> = left.keys().chain(right.keys()).cloned().collect();
    for key in keys {
        let (l, r) =
            (left.remove(&key).unwrap_or_default(), right.remove(&key).unwrap_or_default());
        let (missing, extra) = unmatched(l, r);
        let line = |sign: &str, floats: &Floats| format!("  {sign} [{key}] floats {floats:?}");
        lines.extend(missing.iter().map(|f| line("missing", f)));
        lines.extend(extra.iter().map(|f| line("extra  ", f)));
    }
    if lines.is_empty() {
        return None;
    }
    let total = lines.len();
    lines.truncate(SHOWN);
    Some(format!("{total} differing rows\n{}", lines.join("\n")))
}

/// How the columns' types differ from what the view promises, if they do.
pub fn same_types(expected: &SchemaRef, found: &[RecordBatch]) -> Option<String> {
    let types = |schema: &SchemaRef| -> Vec<DataType> {
        schema.fields().iter().map(|f| f.data_type().clone()).collect()
    };
    let (expected, found) = (types(expected), types(&found.first()?.schema()));
    (expected != found).then(|| format!("types {expected:?} became {found:?}"))
}

/// Rows grouped by their exact columns.
fn rows(batches: &[RecordBatch]) -> BTreeMap<String, Vec<Floats>> {
    let mut out: BTreeMap<String, Vec<Floats>> = BTreeMap::new();
    let options = FormatOptions::default().with_null("NULL");
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|c| (c, ArrayFormatter::try_new(c, &options).unwrap()))
            .collect();
        for row in 0..batch.num_rows() {
            let (mut key, mut floats) = (String::new(), Vec::new());
            for (column, text) in &columns {
                let valid = column.is_valid(row);
                match column.data_type() {
                    DataType::Float64 => {
                        let value = column.as_primitive::<Float64Type>().value(row);
                        floats.push(valid.then_some(value));
                    }
                    DataType::Float32 => {
                        let value = column.as_primitive::<Float32Type>().value(row);
                        floats.push(valid.then_some(f64::from(value)));
                    }
                    _ => {
                        let quote = if valid { "'" } else { "" };
                        key.push_str(&format!("{quote}{}{quote} ", text.value(row)));
                    }
                }
            }
            out.entry(key).or_default().push(floats);
        }
    }
    out
}

fn unmatched(mut left: Vec<Floats>, mut right: Vec<Floats>) -> (Vec<Floats>, Vec<Floats>) {
    left.sort_by(order);
    right.sort_by(order);
    let equal = |l: &Floats, r: &Floats| l.iter().zip(r).all(|(a, b)| close(*a, *b));
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

fn order(a: &Floats, b: &Floats) -> Ordering {
    let value = |v: &Option<f64>| v.map_or(f64::NEG_INFINITY, |v| if v == 0.0 { 0.0 } else { v });
    a.iter()
        .zip(b)
        .map(|(a, b)| value(a).total_cmp(&value(b)))
        .find(|o| o.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn close(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
        (Some(a), Some(b)) => {
            a == b || (a - b).abs() <= ABSOLUTE.max(RELATIVE * a.abs().max(b.abs()))
        }
        _ => false,
    }
}
