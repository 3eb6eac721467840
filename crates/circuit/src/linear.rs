//! Linear aggregates under retractions: count, and sum and avg of integers and decimals. Each row
//! adds its weight times its value to its group, so the state of a group is a few sums, whatever
//! the number of its rows, and a retraction is an addition of the opposite sign.
//!
//! Only exact arithmetic is linear: floating sums do not come back to where they were, and are left
//! to the general way. Integer sums wrap as DataFusion's do.

use crate::group::AggregateMerger;
use crate::trace::{Batch, deltas_of};
use crate::{AggregateSpec, Delta, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    RecordBatchOptions,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::CastExpr;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use std::sync::Arc;

/// What is summed of one aggregate.
#[derive(Clone, Debug)]
enum Sum {
    /// Only how many values there are.
    None,
    /// 64-bit integers.
    Integer,
    /// Decimals of this precision and scale.
    Decimal(u8, i8),
}

/// How the result is made of sum and count.
#[derive(Clone, Copy, Debug)]
enum Finish {
    Count,
    Sum,
    /// The mean of integers, as a floating-point number.
    Mean,
}

#[derive(Debug)]
struct Call {
    sum: Sum,
    finish: Finish,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
}

/// A `GROUP BY` all of whose aggregates are linear.
#[derive(Debug)]
pub struct LinearSpec {
    spec: Arc<AggregateSpec>,
    calls: Vec<Call>,
    /// Group columns, the group's weight, then for each aggregate its count and sum.
    schema: SchemaRef,
}

/// The sums of one aggregate by group.
struct Sums {
    counts: Vec<i64>,
    integers: Vec<i64>,
    decimals: Vec<i128>,
}

/// Groups with their sums.
struct Table<'a> {
    linear: &'a LinearSpec,
    groups: Option<Box<dyn GroupValues>>,
    weights: Vec<i64>,
    sums: Vec<Sums>,
    indices: Vec<usize>,
}

impl LinearSpec {
    /// The linear form of an aggregate, if it has one.
    #[must_use]
    pub fn of(spec: &Arc<AggregateSpec>) -> Option<Self> {
        let mut fields: Vec<_> = spec.group_schema.fields().iter().cloned().collect();
        // Not the name of the weight column, which stored batches take for weights.
        fields.push(Arc::new(Field::new("_total", DataType::Int64, false)));
        let mut calls = Vec::with_capacity(spec.aggregates.len());
        for (i, aggregate) in spec.aggregates.iter().enumerate() {
            let call = Call::of(aggregate)?;
            fields.push(Arc::new(Field::new(format!("_n{i}"), DataType::Int64, false)));
            match call.sum {
                Sum::None => {}
                Sum::Integer => {
                    fields.push(Arc::new(Field::new(format!("_s{i}"), DataType::Int64, false)));
                }
                Sum::Decimal(p, s) => {
                    let data_type = DataType::Decimal128(p, s);
                    fields.push(Arc::new(Field::new(format!("_s{i}"), data_type, false)));
                }
            }
            calls.push(call);
        }
        let schema = Arc::new(Schema::new(fields));
        Some(Self { spec: Arc::clone(spec), calls, schema })
    }

    /// The columns of the state.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The sums of the rows of some deltas, one row a group.
    pub fn states_of(&self, deltas: &[Delta]) -> Result<RecordBatch> {
        let mut table = Table::new(self)?;
        for delta in deltas {
            table.update(delta)?;
        }
        table.into_states()
    }

    /// The sums of several batches of sums; groups of which nothing is left vanish.
    pub fn merge_states(&self, states: &[RecordBatch]) -> Result<RecordBatch> {
        let mut table = Table::new(self)?;
        for batch in states {
            table.merge(batch)?;
        }
        table.into_states()
    }

    /// The results of the groups that exist: group columns, then one column an aggregate. A global
    /// aggregate always has its row.
    pub fn values_of(&self, states: &RecordBatch) -> Result<RecordBatch> {
        let width = self.spec.group.len();
        let mut table = Table::new(self)?;
        table.merge(states)?;
        table.grow(usize::from(width == 0));
        let exists: BooleanArray =
            table.weights.iter().map(|w| Some(*w > 0 || width == 0)).collect();
        let rows = table.weights.len();
        let mut columns = table.group_columns()?;
        for (call, sums) in self.calls.iter().zip(&table.sums) {
            columns.push(call.finish(sums)?);
        }
        let output = &self.spec.output_schema;
        let columns = columns
            .iter()
            .zip(output.fields())
            .map(|(c, f)| cast(c, f.data_type()))
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(SchemaRef::clone(output), columns, &options)?;
        Ok(filter_record_batch(&batch, &exists)?)
    }
}

impl AggregateMerger for LinearSpec {
    fn merge(&self, batches: &[Arc<Batch>]) -> Result<RecordBatch> {
        let states = deltas_of(batches)?.into_iter().map(|delta| delta.rows);
        self.merge_states(&states.collect::<Vec<_>>())
    }
}

impl Call {
    fn of(aggregate: &crate::AggregateCall) -> Option<Self> {
        let function = &aggregate.function;
        if function.is_distinct() {
            return None;
        }
        let mut arguments = function.expressions();
        let (sum, finish) = match function.fun().name() {
            "count" => (Sum::None, Finish::Count),
            "sum" => match function.field().data_type() {
                DataType::Int64 => (Sum::Integer, Finish::Sum),
                DataType::Decimal128(p, s) => (Sum::Decimal(*p, *s), Finish::Sum),
                _ => return None,
            },
            "avg" if *function.field().data_type() == DataType::Float64 => {
                // The mean of an integer column: DataFusion casts the argument.
                let inner = arguments.first()?.downcast_ref::<CastExpr>()?.expr().clone();
                let integer = inner.data_type(&aggregate.input_schema).ok()?.is_signed_integer();
                if !integer {
                    return None;
                }
                arguments = vec![inner];
                (Sum::Integer, Finish::Mean)
            }
            _ => return None,
        };
        Some(Self { sum, finish, arguments, filter: aggregate.filter.clone() })
    }

    /// Adds the rows of one delta.
    fn add(&self, sums: &mut Sums, delta: &Delta, groups: &[usize]) -> Result<()> {
        let rows = delta.len();
        let mut values = Vec::with_capacity(self.arguments.len());
        for argument in &self.arguments {
            values.push(argument.evaluate(&delta.rows)?.into_array(rows)?);
        }
        let filter = match &self.filter {
            Some(f) => Some(f.evaluate(&delta.rows)?.into_array(rows)?),
            None => None,
        };
        let filter = filter.as_ref().map(|f| f.as_boolean());
        let nulls: Vec<_> = values.iter().filter_map(|v| v.logical_nulls()).collect();
        let counts = |row: usize| {
            filter.is_none_or(|f| f.is_valid(row) && f.value(row))
                && nulls.iter().all(|n| n.is_valid(row))
        };
        for (row, group) in groups.iter().enumerate() {
            if counts(row) {
                sums.counts[*group] += delta.weight(row);
            }
        }
        match (&self.sum, values.first()) {
            (Sum::Integer, Some(values)) => {
                let values = cast(values, &DataType::Int64)?;
                let values = values.as_primitive::<Int64Type>();
                for (row, group) in groups.iter().enumerate() {
                    if counts(row) {
                        let change = values.value(row).wrapping_mul(delta.weight(row));
                        sums.integers[*group] = sums.integers[*group].wrapping_add(change);
                    }
                }
            }
            (Sum::Decimal(p, s), Some(values)) => {
                let values = cast(values, &DataType::Decimal128(*p, *s))?;
                let values = values.as_primitive::<Decimal128Type>();
                for (row, group) in groups.iter().enumerate() {
                    if counts(row) {
                        let change = values.value(row).wrapping_mul(i128::from(delta.weight(row)));
                        sums.decimals[*group] = sums.decimals[*group].wrapping_add(change);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&self, sums: &Sums) -> Result<ArrayRef> {
        let some = |i: usize| sums.counts[i] != 0;
        Ok(match (self.finish, &self.sum) {
            (Finish::Count, _) => Arc::new(Int64Array::from(sums.counts.clone())),
            (Finish::Mean, _) => {
                let mean =
                    |i: usize| some(i).then(|| sums.integers[i] as f64 / sums.counts[i] as f64);
                Arc::new((0..sums.counts.len()).map(mean).collect::<Float64Array>())
            }
            (Finish::Sum, Sum::Decimal(p, s)) => {
                let values = (0..sums.counts.len()).map(|i| some(i).then(|| sums.decimals[i]));
                let array: Decimal128Array = values.collect();
                Arc::new(array.with_precision_and_scale(*p, *s)?)
            }
            (Finish::Sum, _) => {
                let values = (0..sums.counts.len()).map(|i| some(i).then(|| sums.integers[i]));
                Arc::new(values.collect::<Int64Array>())
            }
        })
    }
}

impl<'a> Table<'a> {
    fn new(linear: &'a LinearSpec) -> Result<Self> {
        let groups = if linear.spec.group.is_empty() {
            None
        } else {
            let schema = SchemaRef::clone(&linear.spec.group_schema);
            Some(new_group_values(schema, &GroupOrdering::None)?)
        };
        let empty = || Sums { counts: Vec::new(), integers: Vec::new(), decimals: Vec::new() };
        let sums = linear.calls.iter().map(|_| empty()).collect();
        Ok(Self { linear, groups, weights: Vec::new(), sums, indices: Vec::new() })
    }

    /// Makes room for this many groups.
    fn grow(&mut self, groups: usize) {
        if groups <= self.weights.len() {
            return;
        }
        self.weights.resize(groups, 0);
        for (call, sums) in self.linear.calls.iter().zip(&mut self.sums) {
            sums.counts.resize(groups, 0);
            match call.sum {
                Sum::None => {}
                Sum::Integer => sums.integers.resize(groups, 0),
                Sum::Decimal(..) => sums.decimals.resize(groups, 0),
            }
        }
    }

    fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> Result<()> {
        let total = match &mut self.groups {
            Some(groups) => {
                groups.intern(keys, &mut self.indices)?;
                groups.len()
            }
            None => {
                self.indices.clear();
                self.indices.resize(rows, 0);
                usize::from(rows > 0)
            }
        };
        self.grow(total);
        Ok(())
    }

    fn update(&mut self, delta: &Delta) -> Result<()> {
        let keys = self.linear.spec.group_arrays(&delta.rows)?;
        self.intern(&keys, delta.len())?;
        for (row, group) in self.indices.iter().enumerate() {
            self.weights[*group] += delta.weight(row);
        }
        for (call, sums) in self.linear.calls.iter().zip(&mut self.sums) {
            call.add(sums, delta, &self.indices)?;
        }
        Ok(())
    }

    fn merge(&mut self, states: &RecordBatch) -> Result<()> {
        let width = self.linear.spec.group.len();
        self.intern(&states.columns()[..width], states.num_rows())?;
        let mut columns = states.columns()[width..].iter();
        let mut next =
            || columns.next().cloned().unwrap_or_else(|| Arc::new(Int64Array::from(vec![0i64; 0])));
        add_integers(&mut self.weights, &self.indices, &next());
        for (call, sums) in self.linear.calls.iter().zip(&mut self.sums) {
            add_integers(&mut sums.counts, &self.indices, &next());
            match call.sum {
                Sum::None => {}
                Sum::Integer => add_integers(&mut sums.integers, &self.indices, &next()),
                Sum::Decimal(..) => {
                    let column = next();
                    let values = column.as_primitive::<Decimal128Type>().values();
                    for (group, value) in self.indices.iter().zip(values) {
                        sums.decimals[*group] = sums.decimals[*group].wrapping_add(*value);
                    }
                }
            }
        }
        Ok(())
    }

    fn group_columns(&mut self) -> Result<Vec<ArrayRef>> {
        match &mut self.groups {
            Some(groups) => Ok(groups.emit(EmitTo::All)?),
            None => Ok(Vec::new()),
        }
    }

    fn into_states(mut self) -> Result<RecordBatch> {
        let rows = self.weights.len();
        let left = |i: usize| {
            self.weights[i] != 0
                || self.sums.iter().any(|s| {
                    s.counts[i] != 0
                        || s.integers.get(i).is_some_and(|v| *v != 0)
                        || s.decimals.get(i).is_some_and(|v| *v != 0)
                })
        };
        let kept: BooleanArray = (0..rows).map(|i| Some(left(i))).collect();
        let mut columns = self.group_columns()?;
        columns.push(Arc::new(Int64Array::from(std::mem::take(&mut self.weights))));
        for (call, sums) in self.linear.calls.iter().zip(std::mem::take(&mut self.sums)) {
            columns.push(Arc::new(Int64Array::from(sums.counts)));
            match call.sum {
                Sum::None => {}
                Sum::Integer => columns.push(Arc::new(Int64Array::from(sums.integers))),
                Sum::Decimal(p, s) => {
                    let array = Decimal128Array::from(sums.decimals);
                    columns.push(Arc::new(array.with_precision_and_scale(p, s)?));
                }
            }
        }
        if rows == 0 {
            return Ok(RecordBatch::new_empty(SchemaRef::clone(&self.linear.schema)));
        }
        let batch = RecordBatch::try_new(SchemaRef::clone(&self.linear.schema), columns)?;
        Ok(filter_record_batch(&batch, &kept)?)
    }
}

fn add_integers(to: &mut [i64], groups: &[usize], column: &ArrayRef) {
    for (group, value) in groups.iter().zip(column.as_primitive::<Int64Type>().values()) {
        to[*group] = to[*group].wrapping_add(*value);
    }
}
