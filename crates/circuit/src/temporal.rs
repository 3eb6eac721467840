//! Filters that compare a time of the row with a clock, such as `at > now() - INTERVAL '1 hour'`. The
//! clock only goes on, so each row is passed by it at one moment: it then comes into the view
//! (`at <= clock`) or goes out of it (`at > clock`). Rows that the clock has still to pass are held,
//! in the order of their times; a step looks at those that it passes now and at no others. Rows that
//! it has passed are forgotten, so the state is bounded by what the clock has before it.

use crate::delta::{batch_of, true_rows};
use crate::{Clocks, Delta, Error, Input, Operator, Result, Trace};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::array::{RecordBatchOptions, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// What becomes of a row when the clock passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// It comes in.
    In,
    /// It goes out.
    Out,
}

/// A filter by a clock.
pub struct Temporal {
    /// What is filtered.
    input: Box<dyn Operator>,
    /// The time of a row.
    time: Arc<dyn PhysicalExpr>,
    /// The time that it is compared with, over one row that has a column for each of `clocks`.
    bound: Arc<dyn PhysicalExpr>,
    clocks: Vec<String>,
    crossing: Crossing,
    /// Whether a row of exactly the bound has been passed.
    inclusive: bool,
    /// Rows that are still to be passed: their time, then their columns.
    held: Trace,
}

impl Temporal {
    /// A filter of `input` by the comparison of `time` with `bound`.
    #[must_use]
    pub fn new(
        input: Box<dyn Operator>,
        time: Arc<dyn PhysicalExpr>,
        (bound, clocks): (Arc<dyn PhysicalExpr>, Vec<String>),
        crossing: Crossing,
        inclusive: bool,
    ) -> Self {
        let schema = input.schema();
        let mut fields = vec![Arc::new(Field::new("_time", DataType::Int64, false))];
        fields.extend(schema.fields().iter().cloned());
        let held = Trace::by_value(Arc::new(Schema::new(fields)), 0);
        Self { input, time, bound, clocks, crossing, inclusive, held }
    }

    /// The row that `bound` is computed over, as a schema.
    #[must_use]
    pub fn clock_schema(clocks: &[String]) -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        let field = |clock: &String| Field::new(clock, time.clone(), true);
        Arc::new(Schema::new(clocks.iter().map(field).collect::<Vec<_>>()))
    }

    /// What the clocks show, as the row that `bound` is computed over.
    fn clock_row(&self, shown: &Clocks) -> Result<RecordBatch> {
        let schema = Self::clock_schema(&self.clocks);
        let column = |clock: &String| {
            let time = TimestampMicrosecondArray::from(vec![shown.get(clock)]);
            Arc::new(time.with_timezone("+00:00")) as ArrayRef
        };
        let columns = self.clocks.iter().map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    /// The last time that has been passed. Before a clock has shown anything, nothing has.
    fn passed(&self, shown: &Clocks) -> Result<i64> {
        let bound = self.bound.evaluate(&self.clock_row(shown)?)?.into_array(1)?;
        let bound = micros(&bound)?;
        let bound = bound.is_valid(0).then(|| bound.value(0));
        Ok(match bound {
            Some(bound) if self.inclusive => bound,
            Some(bound) => bound.saturating_sub(1),
            None => i64::MIN,
        })
    }

    /// The rows of a change that are passed already, and those that are held from now on.
    fn split(&self, delta: &Delta, passed: i64) -> Result<(Delta, Delta)> {
        let times = micros(&self.time.evaluate(&delta.rows)?.into_array(delta.len())?)?;
        let is = |yes: fn(i64, i64) -> bool| -> BooleanArray {
            times.iter().map(|time| time.map(|time| yes(time, passed))).collect()
        };
        let late = is(|time, passed| time <= passed);
        let early = true_rows(&(Arc::new(is(|time, passed| time > passed)) as ArrayRef));
        let kept = delta.filter(&early)?;
        let times = arrow::compute::filter(&times, &early)?;
        let mut columns = vec![times];
        columns.extend(kept.rows.columns().iter().cloned());
        let rows = batch_of(SchemaRef::clone(self.held.schema()), columns, kept.len())?;
        Ok((delta.filter(&true_rows(&(Arc::new(late) as ArrayRef)))?, kept.with_rows(rows)))
    }

    /// Held rows without their time.
    fn rows(&self, held: Delta) -> Result<Delta> {
        let columns = held.rows.columns()[1..].to_vec();
        let rows = batch_of(self.input.schema(), columns, held.len())?;
        Ok(held.with_rows(rows))
    }
}

/// Times and dates as microseconds since the Unix epoch.
fn micros(times: &ArrayRef) -> Result<Int64Array> {
    let zone = match times.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        DataType::Date32 | DataType::Date64 => None,
        other => return Err(Error::Damaged(format!("a filter by a clock over {other}"))),
    };
    let times = cast(times, &DataType::Timestamp(TimeUnit::Microsecond, zone))?;
    Ok(cast(&times, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

fn negated(delta: Delta) -> Delta {
    let weights: Int64Array = (0..delta.len()).map(|row| -delta.weight(row)).collect();
    Delta::weighted(delta.rows, weights)
}

impl Operator for Temporal {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn insert_only(&self) -> bool {
        self.crossing == Crossing::In && self.input.insert_only()
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let passed = self.passed(input.clocks)?;
        let mut out = Vec::new();
        for delta in self.held.take_through(passed)? {
            let delta = self.rows(delta)?;
            out.push(if self.crossing == Crossing::Out { negated(delta) } else { delta });
        }
        for delta in self.input.step(input)? {
            let (late, early) = self.split(&delta, passed)?;
            if self.crossing == Crossing::In {
                out.push(late);
            } else {
                out.push(self.rows(early.clone())?);
            }
            self.held.insert(early)?;
        }
        out.retain(|delta| !delta.is_empty());
        Ok(out)
    }

    fn children(&self) -> Vec<&dyn Operator> {
        vec![self.input.as_ref()]
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        vec![self.input.as_mut()]
    }

    fn traces(&self) -> Vec<&Trace> {
        vec![&self.held]
    }

    fn traces_mut(&mut self) -> Vec<&mut Trace> {
        vec![&mut self.held]
    }

    fn due(&self, clocks: &Clocks) -> Result<bool> {
        let passed = self.passed(clocks)?;
        let here = self.held.first_value().is_some_and(|first| first <= passed);
        Ok(here || self.input.due(clocks)?)
    }

    fn is_bounded(&self) -> bool {
        self.crossing == Crossing::Out || self.input.is_bounded()
    }

    fn describe(&self) -> String {
        let (what, sign) = match (self.crossing, self.inclusive) {
            (Crossing::In, true) => ("come once", "<="),
            (Crossing::In, false) => ("come once", "<"),
            (Crossing::Out, true) => ("stay while", ">"),
            (Crossing::Out, false) => ("stay while", ">="),
        };
        let (time, bound) = (&self.time, &self.bound);
        format!(
            "Temporal filter: rows {what} {time} {sign} {bound} (trace of rows before the clock)"
        )
    }
}
