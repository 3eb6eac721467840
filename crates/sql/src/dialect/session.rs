//! `kaplan_session_start(ts, gap_us)` and `kaplan_session_end(ts, gap_us)`: window functions over
//! rows in the order of `ts`, which give the bounds of each row's session. A session goes on as long
//! as the next row comes no later than the gap after the one before; it ends one gap after its last
//! row. Rows without a timestamp must be left out before.

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{
    PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl,
};
use std::sync::Arc;

/// The start of a row's session.
pub(super) const SESSION_START: &str = "kaplan_session_start";
/// The end of a row's session.
pub(super) const SESSION_END: &str = "kaplan_session_end";

/// The functions, to be registered in every session that runs rewritten queries.
#[must_use]
pub fn session_bounds() -> [WindowUDF; 2] {
    [false, true].map(|end| {
        WindowUDF::from(SessionBound {
            end,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SessionBound {
    end: bool,
    signature: Signature,
}

impl WindowUDFImpl for SessionBound {
    fn name(&self) -> &str {
        if self.end { SESSION_END } else { SESSION_START }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let zone = match types {
            [DataType::Timestamp(_, zone), _] => zone.clone(),
            [DataType::Date32 | DataType::Date64 | DataType::Null, _] => None,
            [other, _] => {
                return plan_err!("SESSION needs a timestamp column, this one is {other}");
            }
            _ => return plan_err!("{} takes a timestamp and the gap", self.name()),
        };
        Ok(vec![DataType::Timestamp(TimeUnit::Microsecond, zone), DataType::Int64])
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        match args.get_input_field(0) {
            Some(ts) => Ok(Arc::new(Field::new(args.name(), ts.data_type().clone(), true))),
            None => plan_err!("{} takes a timestamp and the gap", self.name()),
        }
    }

    fn partition_evaluator(
        &self,
        _: PartitionEvaluatorArgs,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Bounds { end: self.end }))
    }
}

#[derive(Debug)]
struct Bounds {
    end: bool,
}

impl PartitionEvaluator for Bounds {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let [ts, gap] = values else {
            return exec_err!("a session needs a timestamp and the gap");
        };
        let ts = ts.as_primitive::<TimestampMicrosecondType>();
        let gap = gap.as_primitive::<Int64Type>();
        if rows == 0 || ts.null_count() > 0 || gap.null_count() > 0 {
            return match rows {
                0 => Ok(Arc::new(ts.clone())),
                _ => exec_err!("a session needs a timestamp in every row and a gap"),
            };
        }
        let gap = gap.value(0);
        let times = ts.values();
        let mut bounds = Vec::with_capacity(rows);
        let mut first = 0;
        for row in 1..=rows {
            if row < rows && times[row].saturating_sub(times[row - 1]) <= gap {
                continue;
            }
            let bound = if self.end { times[row - 1].saturating_add(gap) } else { times[first] };
            bounds.resize(row, bound);
            first = row;
        }
        let bounds = TimestampMicrosecondArray::from(bounds);
        Ok(Arc::new(bounds.with_timezone_opt(ts.timezone())))
    }
}
