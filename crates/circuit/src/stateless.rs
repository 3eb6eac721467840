//! Operators without state: filter, projection, union, unnest, and the copies that `GROUPING SETS`
//! need. They apply DataFusion's physical expressions to the rows of each delta; weights pass through.

use crate::delta::{as_weights, batch_of, true_rows};
use crate::operator::relabel;
use crate::split::Split;
use crate::{Delta, Error, Input, Operator, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// Keeps the rows for which a condition is true.
pub struct Filter {
    /// What is filtered.
    pub input: Box<dyn Operator>,
    /// The condition.
    pub predicate: Arc<dyn PhysicalExpr>,
}

impl Operator for Filter {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn insert_only(&self) -> bool {
        self.input.insert_only()
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let mut out = Vec::new();
        for delta in self.input.step(input)? {
            let keep = self.predicate.evaluate(&delta.rows)?.into_array(delta.len())?;
            let kept = delta.filter(&true_rows(&keep))?;
            if !kept.is_empty() {
                out.push(kept);
            }
        }
        Ok(out)
    }

    fn children(&self) -> Vec<&dyn Operator> {
        vec![self.input.as_ref()]
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        vec![self.input.as_mut()]
    }

    fn splits(&self) -> Vec<Split> {
        self.input.splits()
    }

    fn describe(&self) -> String {
        format!("Filter {}", self.predicate)
    }
}

/// Computes new columns.
pub struct Project {
    /// What is projected.
    pub input: Box<dyn Operator>,
    /// One expression a column.
    pub expressions: Vec<Arc<dyn PhysicalExpr>>,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Project {
    fn project(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.expressions.len());
        for expression in &self.expressions {
            columns.push(expression.evaluate(rows)?.into_array(rows.num_rows())?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options)?)
    }
}

impl Operator for Project {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn insert_only(&self) -> bool {
        self.input.insert_only()
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let deltas = self.input.step(input)?;
        deltas.iter().map(|d| Ok(d.with_rows(self.project(&d.rows)?))).collect()
    }

    fn children(&self) -> Vec<&dyn Operator> {
        vec![self.input.as_ref()]
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        vec![self.input.as_mut()]
    }

    fn splits(&self) -> Vec<Split> {
        self.input.splits().iter().map(|s| s.projected(&self.expressions)).collect()
    }

    fn describe(&self) -> String {
        let list: Vec<_> = self.expressions.iter().map(ToString::to_string).collect();
        format!("Project [{}]", list.join(", "))
    }
}

/// Puts the rows of several inputs together (`UNION ALL`).
pub struct Union {
    /// The inputs, with the same columns by position.
    pub inputs: Vec<Box<dyn Operator>>,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Union {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn insert_only(&self) -> bool {
        self.inputs.iter().all(|i| i.insert_only())
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let mut out = Vec::new();
        for child in &mut self.inputs {
            for delta in child.step(input)? {
                out.push(delta.with_rows(relabel(&delta.rows, &self.schema)?));
            }
        }
        Ok(out)
    }

    fn children(&self) -> Vec<&dyn Operator> {
        self.inputs.iter().map(AsRef::as_ref).collect()
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        self.inputs.iter_mut().map(AsMut::as_mut).collect()
    }

    fn describe(&self) -> String {
        "Union".into()
    }
}

/// One row for every element of a list column.
pub struct Unnest {
    /// What is unnested.
    pub input: Box<dyn Operator>,
    /// The list column's position.
    pub column: usize,
    /// Whether a NULL list gives one row with NULL (an empty list never gives a row).
    pub keep_nulls: bool,
    /// The output columns: the input's, the list replaced by its element.
    pub schema: SchemaRef,
}

impl Unnest {
    fn unnest(&self, delta: &Delta) -> Result<Delta> {
        let (rows, values) = unnested(delta.rows.column(self.column), self.keep_nulls)?;
        let mut columns = Vec::with_capacity(delta.rows.num_columns());
        for (index, column) in delta.rows.columns().iter().enumerate() {
            columns.push(match index == self.column {
                true => Arc::clone(&values),
                false => arrow::compute::take(column, &rows, None)?,
            });
        }
        let weights = match &delta.weights {
            Some(weights) => Some(as_weights(&arrow::compute::take(weights, &rows, None)?)),
            None => None,
        };
        let rows = RecordBatch::try_new(SchemaRef::clone(&self.schema), columns)?;
        Ok(Delta { rows, weights })
    }
}

/// The elements of all lists, and for each the row whose list it is in.
pub(crate) fn unnested(lists: &ArrayRef, keep_nulls: bool) -> Result<(UInt32Array, ArrayRef)> {
    let list: &ListArray = lists
        .as_list_opt()
        .ok_or_else(|| Error::Damaged("unnest of a column that is not a list".into()))?;
    let (mut rows, mut elements) = (Vec::new(), Vec::new());
    for row in 0..list.len() {
        if list.is_null(row) {
            if keep_nulls {
                rows.push(row as u32);
                elements.push(None);
            }
            continue;
        }
        let (from, to) = (list.value_offsets()[row], list.value_offsets()[row + 1]);
        for element in from..to {
            rows.push(row as u32);
            elements.push(Some(element as u32));
        }
    }
    let values = arrow::compute::take(list.values(), &UInt32Array::from(elements), None)?;
    Ok((UInt32Array::from(rows), values))
}

impl Operator for Unnest {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn insert_only(&self) -> bool {
        self.input.insert_only()
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let deltas = self.input.step(input)?;
        deltas.iter().map(|d| self.unnest(d)).collect()
    }

    fn children(&self) -> Vec<&dyn Operator> {
        vec![self.input.as_ref()]
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        vec![self.input.as_mut()]
    }

    fn splits(&self) -> Vec<Split> {
        let kept = |column| if column == self.column { Vec::new() } else { vec![column] };
        self.input.splits().iter().map(|split| split.moved(kept)).collect()
    }

    fn describe(&self) -> String {
        format!("Unnest {}", self.input.schema().field(self.column).name())
    }
}

/// Several rows for each one, one by each list of expressions: what `GROUPING SETS` group.
pub struct Expand {
    /// What is expanded.
    pub input: Box<dyn Operator>,
    /// For each row that is made, its columns behind the input's own.
    pub lists: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    /// The output columns: the input's, then those of a list.
    pub schema: SchemaRef,
}

impl Operator for Expand {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn insert_only(&self) -> bool {
        self.input.insert_only()
    }

    fn step(&mut self, input: &Input<'_>) -> Result<Vec<Delta>> {
        let mut out = Vec::new();
        for delta in self.input.step(input)? {
            for list in &self.lists {
                let mut columns = delta.rows.columns().to_vec();
                for expression in list {
                    columns.push(expression.evaluate(&delta.rows)?.into_array(delta.len())?);
                }
                let rows = batch_of(SchemaRef::clone(&self.schema), columns, delta.len())?;
                out.push(delta.with_rows(rows));
            }
        }
        Ok(out)
    }

    fn children(&self) -> Vec<&dyn Operator> {
        vec![self.input.as_ref()]
    }

    fn children_mut(&mut self) -> Vec<&mut (dyn Operator + 'static)> {
        vec![self.input.as_mut()]
    }

    fn describe(&self) -> String {
        format!("Expand into {} grouping sets", self.lists.len())
    }
}
