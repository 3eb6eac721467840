//! Whether two answers are the same: as multisets of rows, exact in everything but floating-point
//! numbers, which may differ by rounding.

use crate::Result;
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{SortColumn, cast, concat_batches, lexsort_to_indices, take};
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Relative difference that two floating-point numbers may have.
pub const TOLERANCE: f64 = 1e-9;

/// How two answers differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rows that only one side has, or whose values differ.
    pub rows: u64,
    /// The first of them, in words.
    pub first: Option<String>,
}

/// Compares two sets of rows with the same columns.
pub fn compare(left: &[RecordBatch], right: &[RecordBatch]) -> Result<Difference> {
    let (Some(l), Some(r)) = (one(left)?, one(right)?) else {
        let rows: usize = left.iter().chain(right).map(RecordBatch::num_rows).sum();
        let first = (rows > 0).then(|| "one side has no rows".to_string());
        return Ok(Difference { rows: rows as u64, first });
    };
    let (l, r) = (sorted(&l)?, sorted(&r)?);
    let (mut i, mut j) = (0, 0);
    let mut difference = Difference::default();
    let rows = (l.first().map_or(0, |c| c.len()), r.first().map_or(0, |c| c.len()));
    let order = Order::new(&l, &r)?;
    while i < rows.0 || j < rows.1 {
        let side = match (i < rows.0, j < rows.1) {
            (true, true) => order.compare(i, j),
            (true, false) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        };
        if side.is_eq() && order.close(i, j) {
            (i, j) = (i + 1, j + 1);
            continue;
        }
        difference.rows += 1;
        if difference.first.is_none() {
            let (a, b) = (describe(&l, i), describe(&r, j));
            difference.first = Some(match side {
                std::cmp::Ordering::Less => format!("only served: {a}"),
                std::cmp::Ordering::Greater => format!("only recomputed: {b}"),
                std::cmp::Ordering::Equal => format!("served {a}, recomputed {b}"),
            });
        }
        i += usize::from(side.is_le());
        j += usize::from(side.is_ge());
    }
    Ok(difference)
}

fn one(batches: &[RecordBatch]) -> Result<Option<RecordBatch>> {
    let Some(first) = batches.first() else { return Ok(None) };
    Ok(Some(concat_batches(&first.schema(), batches).map_err(kaplan_circuit::Error::from)?))
}

fn is_float(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float16 | DataType::Float32 | DataType::Float64)
}

/// The columns sorted by the exact ones, then by the floating-point ones; -0.0 counts as 0.0.
fn sorted(batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let failed = kaplan_circuit::Error::from;
    let columns: Vec<ArrayRef> =
        batch.columns().iter().map(kaplan_circuit::canonical).collect::<Result<_, _>>()?;
    if batch.num_rows() == 0 || columns.is_empty() {
        return Ok(columns);
    }
    let (exact, floats): (Vec<_>, Vec<_>) =
        columns.iter().cloned().partition(|c| !is_float(c.data_type()));
    let keys: Vec<SortColumn> = exact
        .into_iter()
        .chain(floats)
        .map(|values| SortColumn { values, options: None })
        .collect();
    let order = lexsort_to_indices(&keys, None).map_err(failed)?;
    Ok(columns.iter().map(|c| take(c, &order, None)).collect::<Result<_, _>>().map_err(failed)?)
}

/// Compares rows of two sides.
struct Order {
    exact: Vec<arrow::array::DynComparator>,
    floats: Vec<(ArrayRef, ArrayRef)>,
}

impl Order {
    fn new(left: &[ArrayRef], right: &[ArrayRef]) -> Result<Self> {
        let failed = kaplan_circuit::Error::from;
        let (mut exact, mut floats) = (Vec::new(), Vec::new());
        for (l, r) in left.iter().zip(right) {
            if is_float(l.data_type()) {
                floats.push((
                    cast(l, &DataType::Float64).map_err(failed)?,
                    cast(r, &DataType::Float64).map_err(failed)?,
                ));
            } else {
                exact
                    .push(arrow::array::make_comparator(l, r, Default::default()).map_err(failed)?);
            }
        }
        Ok(Self { exact, floats })
    }

    fn compare(&self, l: usize, r: usize) -> std::cmp::Ordering {
        let orders = self.exact.iter().map(|c| c(l, r));
        orders.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    }

    fn close(&self, l: usize, r: usize) -> bool {
        self.floats.iter().all(|(a, b)| match (a.is_null(l), b.is_null(r)) {
            (true, true) => true,
            (false, false) => {
                let x = a.as_primitive::<Float64Type>().value(l);
                let y = b.as_primitive::<Float64Type>().value(r);
                let scale = x.abs().max(y.abs()).max(1.0);
                x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= TOLERANCE * scale
            }
            _ => false,
        })
    }
}

fn describe(columns: &[ArrayRef], row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let values = columns.iter().map(|c| match ArrayFormatter::try_new(c, &options) {
        Ok(formatter) if row < c.len() => formatter.value(row).to_string(),
        _ => "?".to_string(),
    });
    format!("({})", values.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array};
    use std::sync::Arc;

    fn rows(keys: Vec<i64>, values: Vec<f64>) -> Vec<RecordBatch> {
        vec![
            RecordBatch::try_from_iter([
                ("k", Arc::new(Int64Array::from(keys)) as ArrayRef),
                ("v", Arc::new(Float64Array::from(values)) as ArrayRef),
            ])
            .unwrap(),
        ]
    }

    #[test]
    fn order_and_rounding_do_not_count() {
        let a = rows(vec![1, 2], vec![0.1 + 0.2, f64::NAN]);
        let b = rows(vec![2, 1], vec![f64::NAN, 0.3]);
        assert_eq!(compare(&a, &b).unwrap(), Difference::default());
    }

    #[test]
    fn values_and_multiplicity_count() {
        let a = rows(vec![1, 1, 2], vec![1.0, 1.0, 5.0]);
        let b = rows(vec![1, 2], vec![1.0, 6.0]);
        let difference = compare(&a, &b).unwrap();
        assert_eq!(difference.rows, 2);
        assert!(difference.first.is_some());
    }
}
