//! `min` and `max` of floating-point numbers. DataFusion's keep the last NaN or the last number
//! that they saw, so their answer depends on the order of rows; these do not: NaN is greater than
//! every number, as in PostgreSQL, and -0.0 is 0.0. They bear the same names.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float32Type, Float64Type};
use datafusion::common::{Result, ScalarValue, not_impl_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use std::cmp::Ordering;
use std::ops::Add;

/// The function that takes the place of `min` or `max` over floats.
pub(crate) fn extreme(largest: bool) -> AggregateUDF {
    let signature = Signature::any(1, Volatility::Immutable);
    AggregateUDF::new_from_impl(Extreme { largest, signature })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    largest: bool,
    signature: Signature,
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        if self.largest { "max" } else { "min" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Null))
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match args.return_field.data_type() {
            DataType::Float64 => Ok(Box::new(One(Best::<Float64Type>::new(self.largest)))),
            DataType::Float32 => Ok(Box::new(One(Best::<Float32Type>::new(self.largest)))),
            other => not_impl_err!("{} over {other}", self.name()),
        }
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        match args.return_field.data_type() {
            DataType::Float64 => Ok(Box::new(Best::<Float64Type>::new(self.largest))),
            DataType::Float32 => Ok(Box::new(Best::<Float32Type>::new(self.largest))),
            other => not_impl_err!("{} over {other}", self.name()),
        }
    }
}

/// The best value of every group so far.
#[derive(Debug)]
struct Best<T: ArrowPrimitiveType> {
    largest: bool,
    groups: Vec<Option<T::Native>>,
}

/// Numbers before NaN; both zeros are equal.
fn order<N: PartialOrd>(a: &N, b: &N) -> Ordering {
    let nan = |v: &N| v.partial_cmp(v).is_none();
    a.partial_cmp(b).unwrap_or_else(|| nan(a).cmp(&nan(b)))
}

impl<T: ArrowPrimitiveType> Best<T>
where
    T::Native: Add<Output = T::Native>,
{
    fn new(largest: bool) -> Self {
        Self { largest, groups: Vec::new() }
    }

    fn take(&mut self, group: usize, value: T::Native) {
        // Adding zero makes 0.0 of -0.0.
        let value = value + T::Native::default();
        let better = if self.largest { Ordering::Greater } else { Ordering::Less };
        let best = &mut self.groups[group];
        if best.is_none_or(|best| order(&value, &best) == better) {
            *best = Some(value);
        }
    }
}

impl<T: ArrowPrimitiveType> GroupsAccumulator for Best<T>
where
    T::Native: Add<Output = T::Native>,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.groups.resize(total, None);
        let values = values[0].as_primitive::<T>();
        for (row, group) in groups.iter().enumerate() {
            let kept = filter.is_none_or(|f| f.is_valid(row) && f.value(row));
            if kept && values.is_valid(row) {
                self.take(*group, values.value(row));
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        Ok(std::sync::Arc::new(groups.into_iter().collect::<PrimitiveArray<T>>()))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.update_batch(states, groups, None, total)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let mut rows = Self::new(self.largest);
        let groups: Vec<usize> = (0..values[0].len()).collect();
        rows.update_batch(values, &groups, filter, groups.len())?;
        rows.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<Option<T::Native>>()
    }
}

/// The same for a single group.
#[derive(Debug)]
struct One<T: ArrowPrimitiveType>(Best<T>);

impl<T: ArrowPrimitiveType + std::fmt::Debug> Accumulator for One<T>
where
    T::Native: Add<Output = T::Native>,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(values, &vec![0; values[0].len()], None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let best = self.0.groups.first().copied().flatten();
        ScalarValue::try_from_array(&PrimitiveArray::<T>::from_iter([best]), 0)
    }

    fn size(&self) -> usize {
        GroupsAccumulator::size(&self.0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}
