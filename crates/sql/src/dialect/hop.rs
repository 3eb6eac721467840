//! `kaplan_hop_starts(ts, slide_us, size_us)`: the starts of all hopping windows that a row is in,
//! as a list of the same timestamp type, ascending. Windows are aligned to the Unix epoch:
//! `s = n * slide`, `s <= ts < s + size`. A NULL timestamp gives an empty list: the row is in no
//! window. Seconds and milliseconds are read as microseconds, so that every start can be said.

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, PrimitiveArray, TimestampMicrosecondArray,
    TimestampNanosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType,
};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use kaplan_base::limits::MAX_WINDOWS_PER_ROW;
use std::sync::Arc;

/// The function's name in SQL.
pub const HOP_STARTS: &str = "kaplan_hop_starts";

/// The name of the function that gives the pane of a row, the first moment at which all rows are in the
/// same windows as it is. It takes what [`HOP_STARTS`] takes, and stands in circuits only.
pub(crate) const HOP_PANE: &str = "kaplan_hop_pane";

/// The function, to be registered in every session that runs rewritten queries.
#[must_use]
pub fn hop_starts() -> ScalarUDF {
    function(Part::Starts)
}

/// The function called [`HOP_PANE`].
pub(crate) fn hop_pane() -> ScalarUDF {
    function(Part::Pane)
}

fn function(part: Part) -> ScalarUDF {
    ScalarUDF::new_from_impl(Hop {
        signature: Signature::user_defined(Volatility::Immutable),
        part,
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Part {
    Starts,
    Pane,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Hop {
    signature: Signature,
    part: Part,
}

impl ScalarUDFImpl for Hop {
    fn name(&self) -> &str {
        match self.part {
            Part::Starts => HOP_STARTS,
            Part::Pane => HOP_PANE,
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [ts, _, _] = types else {
            return plan_err!("{HOP_STARTS} takes a timestamp, the slide and the size");
        };
        let ts = match ts {
            DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
                DataType::Timestamp(TimeUnit::Nanosecond, zone.clone())
            }
            DataType::Timestamp(_, zone) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            DataType::Date32 | DataType::Date64 | DataType::Null => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            other => return plan_err!("HOP needs a timestamp column, this one is {other}"),
        };
        Ok(vec![ts, DataType::Int64, DataType::Int64])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (types.first(), &self.part) {
            (Some(ts), Part::Starts) => Ok(DataType::new_list(ts.clone(), true)),
            (Some(ts), Part::Pane) => Ok(ts.clone()),
            (None, _) => plan_err!("{HOP_STARTS} takes a timestamp, the slide and the size"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ts, slide, size] = args.args.as_slice() else {
            return exec_err!("{HOP_STARTS} takes a timestamp, the slide and the size");
        };
        let ts = ts.to_array(args.number_rows)?;
        let unit = match ts.data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => 1_000,
            _ => 1,
        };
        let windows = Windows {
            slide: i128::from(positive(slide)?) * unit,
            size: i128::from(positive(size)?) * unit,
        };
        windows.check()?;
        if self.part == Part::Pane {
            return match ts.data_type() {
                DataType::Timestamp(TimeUnit::Microsecond, _) => {
                    Ok(windows.panes(ts.as_primitive::<TimestampMicrosecondType>()))
                }
                DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                    Ok(windows.panes(ts.as_primitive::<TimestampNanosecondType>()))
                }
                other => exec_err!("HOP needs a timestamp column, this one is {other}"),
            };
        }
        let list = match ts.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                windows.list(ts.as_primitive::<TimestampMicrosecondType>(), |starts| {
                    Arc::new(
                        TimestampMicrosecondArray::from(starts).with_timezone_opt(zone.clone()),
                    )
                })
            }
            DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
                windows.list(ts.as_primitive::<TimestampNanosecondType>(), |starts| {
                    Arc::new(TimestampNanosecondArray::from(starts).with_timezone_opt(zone.clone()))
                })
            }
            other => return exec_err!("HOP needs a timestamp column, this one is {other}"),
        };
        Ok(ColumnarValue::Array(Arc::new(list?)))
    }
}

fn positive(value: &ColumnarValue) -> Result<i64> {
    match value {
        ColumnarValue::Scalar(ScalarValue::Int64(Some(us))) if *us > 0 => Ok(*us),
        _ => exec_err!("the slide and the size of HOP must be positive constants"),
    }
}

struct Windows {
    slide: i128,
    size: i128,
}

impl Windows {
    fn check(&self) -> Result<()> {
        let most = (self.size + self.slide - 1) / self.slide;
        if most > i128::from(MAX_WINDOWS_PER_ROW) {
            return exec_err!(
                "HOP puts each row into {most} windows, the limit is {MAX_WINDOWS_PER_ROW}"
            );
        }
        Ok(())
    }

    /// The starts that hold `ts`, ascending; those that the type cannot hold are left out.
    fn starts(&self, ts: i64) -> impl Iterator<Item = i64> + use<> {
        let (ts, slide, size) = (i128::from(ts), self.slide, self.size);
        let last = ts.div_euclid(slide) * slide;
        let room = size - (ts - last);
        let count = if room > 0 { (room - 1) / slide + 1 } else { 0 };
        (0..count).rev().filter_map(move |n| i64::try_from(last - n * slide).ok())
    }

    /// The pane of each timestamp; the first one may begin before what the type can hold.
    fn panes<T: ArrowPrimitiveType<Native = i64>>(&self, ts: &PrimitiveArray<T>) -> ColumnarValue {
        let width = self.pane();
        let panes = ts.unary::<_, T>(|ts| match i64::try_from(width) {
            Ok(width) => ts.div_euclid(width).checked_mul(width).unwrap_or(ts),
            Err(_) => ts,
        });
        ColumnarValue::Array(Arc::new(panes.with_data_type(ts.data_type().clone())))
    }

    /// The greatest length that divides slide and size.
    fn pane(&self) -> i128 {
        let (mut a, mut b) = (self.size, self.slide);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    }

    fn list<T: ArrowPrimitiveType<Native = i64>>(
        &self,
        ts: &PrimitiveArray<T>,
        typed: impl FnOnce(Vec<i64>) -> ArrayRef,
    ) -> Result<ListArray> {
        let mut starts = Vec::with_capacity(ts.len());
        let mut lengths = Vec::with_capacity(ts.len());
        for ts in ts {
            let before = starts.len();
            starts.extend(ts.into_iter().flat_map(|ts| self.starts(ts)));
            lengths.push(starts.len() - before);
        }
        if i32::try_from(starts.len()).is_err() {
            return exec_err!("one batch of rows is in {} windows under HOP", starts.len());
        }
        let values = typed(starts);
        let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        Ok(ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), values, None)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_those_that_a_scan_of_all_starts_finds() {
        for (slide, size) in [(5, 10), (5, 12), (10, 5), (1, 4), (7, 7), (3, 20)] {
            let windows = Windows { slide, size };
            for ts in -50_i64..50 {
                let slow: Vec<i64> = (-100_i64..100)
                    .map(|n| n * i64::try_from(slide).unwrap())
                    .filter(|s| *s <= ts && i128::from(ts) < i128::from(*s) + size)
                    .collect();
                let fast: Vec<i64> = windows.starts(ts).collect();
                assert_eq!(fast, slow, "ts {ts}, slide {slide}, size {size}");
            }
        }
    }

    #[test]
    fn rows_of_a_pane_are_in_the_same_windows() {
        for (slide, size) in [(5, 10), (5, 12), (10, 5), (1, 4), (7, 7), (3, 20), (4, 6)] {
            let windows = Windows { slide, size };
            let times = (-50..50).chain([i64::MIN, i64::MIN + 1, i64::MAX]);
            let times = TimestampMicrosecondArray::from_iter_values(times);
            let panes = windows.panes(&times).into_array(times.len()).unwrap();
            let panes = panes.as_primitive::<TimestampMicrosecondType>();
            for (ts, pane) in times.values().iter().zip(panes.values()) {
                assert!(pane <= ts, "{ts} is before its pane {pane}");
                assert!(windows.starts(*ts).eq(windows.starts(*pane)), "{ts} in pane {pane}");
            }
            let distinct: std::collections::BTreeSet<_> = panes.values()[..100].iter().collect();
            let width = usize::try_from(windows.pane()).unwrap();
            assert!(distinct.len() <= 100 / width + 2, "{} panes", distinct.len());
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let windows = Windows { slide: 7, size: 20 };
        assert!(windows.starts(i64::MIN).count() < 3);
        assert_eq!(windows.starts(i64::MAX).count(), 3);
        assert!(Windows { slide: 1, size: 10_001 }.check().is_err());
        assert!(Windows { slide: 1, size: 10_000 }.check().is_ok());
    }
}
