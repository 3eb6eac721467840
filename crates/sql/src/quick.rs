//! Arithmetic on columns of timestamps that needs no calendar: Arrow's kernels take each value apart into
//! year, month and day for it. Without time zone or in UTC every day has 24 hours.

use arrow::array::{ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{
    DataType, Date32Type, IntervalMonthDayNanoType, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{ColumnarValue, Operator};
use std::sync::Arc;

const DAY_US: i64 = 86_400_000_000;
/// Arrow's calendar holds 262,000 years; times and intervals within these bounds never leave it.
const MAX_TIME_US: i64 = 8_000_000_000_000_000_000;
const MAX_SHIFT_US: i64 = 100_000_000_000_000_000;

/// The column, if it is one of timestamps for which the arithmetic holds.
fn times(column: &ColumnarValue) -> Option<&PrimitiveArray<TimestampMicrosecondType>> {
    let ColumnarValue::Array(column) = column else { return None };
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, None) => {}
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone))
            if ["UTC", "+00:00"].contains(&zone.as_ref()) => {}
        _ => return None,
    }
    let times = column.as_primitive::<TimestampMicrosecondType>();
    times.values().iter().all(|time| (-MAX_TIME_US..=MAX_TIME_US).contains(time)).then_some(times)
}

/// A column of timestamps and a constant interval without months, added or subtracted; None: it is
/// something else.
pub(crate) fn shifted(
    left: &ColumnarValue,
    op: Operator,
    right: &ColumnarValue,
) -> Option<ColumnarValue> {
    let ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(by))) = right else {
        return None;
    };
    let (0, days, nanos) = IntervalMonthDayNanoType::to_parts(*by) else { return None };
    if nanos % 1_000 != 0 {
        return None;
    }
    let by = i64::from(days).checked_mul(DAY_US)?.checked_add(nanos / 1_000)?;
    let by = match op {
        Operator::Plus => by,
        Operator::Minus => -by,
        _ => return None,
    };
    if !(-MAX_SHIFT_US..=MAX_SHIFT_US).contains(&by) {
        return None;
    }
    let times = times(left)?;
    let shifted = times.unary::<_, TimestampMicrosecondType>(|time| time + by);
    let shifted = shifted.with_timezone_opt(times.timezone().map(Arc::from));
    Some(ColumnarValue::Array(Arc::new(shifted)))
}

/// A column of timestamps as dates; None: it is something else.
pub(crate) fn dates(column: &ColumnarValue) -> Option<ColumnarValue> {
    // Within the bounds there are fewer days than an i32 can count.
    let days = times(column)?.unary::<_, Date32Type>(|time| time.div_euclid(DAY_US) as i32);
    let days: ArrayRef = Arc::new(days);
    Some(ColumnarValue::Array(days))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;
    use arrow::array::{Array, Datum, Scalar, TimestampMicrosecondArray};
    use arrow::array::{IntervalMonthDayNanoArray, TimestampNanosecondArray};
    use arrow::compute::kernels::{cast::cast, numeric};

    const TIMES: [Option<i64>; 9] = [
        Some(0),
        None,
        Some(-1),
        Some(DAY_US - 1),
        Some(-DAY_US),
        Some(1_709_164_800_000_000),
        Some(-62_135_596_800_000_001),
        Some(MAX_TIME_US),
        Some(-MAX_TIME_US),
    ];

    fn columns() -> Vec<ArrayRef> {
        let plain = TimestampMicrosecondArray::from(TIMES.to_vec());
        let zoned = |zone: &str| Arc::new(plain.clone().with_timezone(zone)) as ArrayRef;
        vec![Arc::new(plain.clone()), zoned("UTC"), zoned("+00:00")]
    }

    #[test]
    fn what_is_quick_is_what_arrow_computes() {
        let by = [(0, 1_000), (0, -7_000_000), (1, 0), (-400, 3_600_000_000_000), (30_000, 0)];
        for column in columns() {
            let value = ColumnarValue::Array(Arc::clone(&column));
            for (days, nanos) in by {
                let interval = IntervalMonthDayNanoType::make_value(0, days, nanos);
                let one = IntervalMonthDayNanoArray::from(vec![interval]);
                let constant = ScalarValue::IntervalMonthDayNano(Some(interval)).into();
                let one = Scalar::new(one);
                for (op, expected) in [
                    (Operator::Plus, numeric::add(&column as &dyn Datum, &one)),
                    (Operator::Minus, numeric::sub(&column as &dyn Datum, &one)),
                ] {
                    let found = shifted(&value, op, &constant).unwrap().into_array(9).unwrap();
                    assert_eq!(&found, &expected.unwrap(), "{op} {days} days {nanos} ns");
                    assert_eq!(found.data_type(), column.data_type());
                }
            }
            let found = dates(&value).unwrap().into_array(TIMES.len()).unwrap();
            assert_eq!(&found, &cast(&column, &DataType::Date32).unwrap());
        }
    }

    #[test]
    fn what_needs_a_calendar_is_left_to_arrow() {
        let array = |array: ArrayRef| ColumnarValue::Array(array);
        let beyond = TimestampMicrosecondArray::from(vec![i64::MAX]);
        let berlin = TimestampMicrosecondArray::from(vec![0]).with_timezone("Europe/Berlin");
        let nanos = TimestampNanosecondArray::from(vec![0]);
        let day = IntervalMonthDayNanoType::make_value(0, 1, 0);
        let day = ScalarValue::IntervalMonthDayNano(Some(day)).into();
        for column in [Arc::new(beyond) as ArrayRef, Arc::new(berlin), Arc::new(nanos)] {
            assert!(dates(&array(Arc::clone(&column))).is_none());
            assert!(shifted(&array(column), Operator::Plus, &day).is_none());
        }
        let time = array(Arc::new(TimestampMicrosecondArray::from(vec![0])));
        for (months, days, nanos) in [(1, 0, 0), (0, 0, 999), (0, i32::MAX, 0)] {
            let by = IntervalMonthDayNanoType::make_value(months, days, nanos);
            let by = ScalarValue::IntervalMonthDayNano(Some(by)).into();
            assert!(shifted(&time, Operator::Plus, &by).is_none(), "{months} {days} {nanos}");
        }
        assert!(shifted(&time, Operator::Multiply, &day).is_none());
    }
}
