//! One view at one LSN, as a table for DataFusion.
//!
//! The merge happens when the view is read: partial states of batch and speed are merged and
//! finished, or rows are added up by weight; then the view's tail runs over the result. The merged
//! core is kept with the snapshot, so that the next reader of the same LSN finds it. A read by the
//! whole key takes only the groups with that key out of each batch, and one by other columns of plain
//! rows only the rows that have their values. Where the tail works row by row, such a read needs no
//! plan at all ([`ServedView::matching`]).

use crate::{Error, Result};
use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::datasource::{MemTable, TableType};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use kaplan_base::Lsn;
use kaplan_batch::Published;
use kaplan_circuit::{AggregateSpec, Batch, Clocks, GroupTable, Output, Trace};
use kaplan_speed::{ViewSnapshot, ViewState};
use kaplan_sql::{CompiledView, Core};
use std::sync::Arc;

/// Which part of a view is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Batch and speed together.
    Served,
    /// The batch view alone.
    Batch,
    /// What came after the batch view.
    Speed,
}

/// A view at one LSN: the speed layer's snapshot and the batch view that it continues.
#[derive(Clone, Debug)]
pub struct ServedView {
    snapshot: Arc<ViewSnapshot>,
    batch: Option<Arc<Published>>,
    layer: Layer,
}

impl ServedView {
    /// Puts a snapshot and a batch view together.
    ///
    /// # Errors
    /// [`Error::Gap`] when the batch view is not one that this snapshot was cut for (take a new
    /// snapshot), [`Error::Failed`] when the view stopped.
    pub fn new(
        snapshot: Arc<ViewSnapshot>,
        batch: Option<Arc<Published>>,
        layer: Layer,
    ) -> Result<Self> {
        let view = snapshot.compiled.name.clone();
        if let (ViewState::Failed(reason), false) = (&snapshot.state, layer == Layer::Batch) {
            let (lsn, reason) = (snapshot.lsn, reason.clone());
            return Err(Error::Failed { view, lsn, reason });
        }
        let base = batch.as_ref().map_or(Lsn::ZERO, |b| b.lsn);
        if layer != Layer::Batch
            && !snapshot.content.generations.iter().any(|(after, _)| *after == base)
        {
            return Err(Error::Gap { view, batch: base });
        }
        if layer == Layer::Batch && batch.is_none() {
            return Err(Error::NoBatch { view });
        }
        Ok(Self { snapshot, batch, layer })
    }

    fn compiled(&self) -> &Arc<CompiledView> {
        &self.snapshot.compiled
    }

    /// What the clocks show where the layer ends.
    fn clocks(&self) -> &Clocks {
        match (&self.batch, self.layer) {
            (Some(batch), Layer::Batch) => &batch.clocks,
            _ => &self.snapshot.clocks,
        }
    }

    /// The batches that make up the layer.
    fn batches(&self) -> Vec<Arc<Batch>> {
        let base = self.batch.as_ref().map_or(Lsn::ZERO, |b| b.lsn);
        let published = self.batch.iter().flat_map(|b| b.batches.iter().cloned());
        let speed = self.snapshot.content.batches_after(base);
        match self.layer {
            Layer::Served => published.chain(speed).collect(),
            Layer::Batch => published.collect(),
            Layer::Speed => speed,
        }
    }

    /// The merged core.
    pub fn core(&self) -> Result<RecordBatch> {
        let base = self.batch.as_ref().map_or(Lsn::ZERO, |b| b.lsn);
        if self.layer != Layer::Served {
            return self.merge();
        }
        // One reader merges, the others wait for what it has made.
        let _one = self.snapshot.merging.lock();
        if let Some(rows) = self.snapshot.merged(base) {
            return Ok(rows);
        }
        let rows = self.merge()?;
        self.snapshot.keep_merged(base, &rows);
        Ok(rows)
    }

    fn merge(&self) -> Result<RecordBatch> {
        self.finish(&self.batches())
    }

    /// What batches make together.
    fn finish(&self, batches: &[Arc<Batch>]) -> Result<RecordBatch> {
        let (view, output) = (self.compiled(), &self.snapshot.content.output);
        let rows = match (self.layer, output) {
            // The change since the batch view can be negative: it is shown as what it adds.
            (Layer::Speed, Output::Rows) => match output.rows(batches)? {
                Some(delta) => Some(delta.expand()?),
                None => None,
            },
            _ => output.read(batches, &view.name)?,
        };
        let rows =
            rows.unwrap_or_else(|| RecordBatch::new_empty(SchemaRef::clone(&view.core_schema)));
        relabel(&rows, &view.core_schema)
    }

    /// The core's groups with one key.
    fn lookup(&self, spec: &Arc<AggregateSpec>, key: &[ScalarValue]) -> Result<RecordBatch> {
        let mut keys: Vec<ArrayRef> = Vec::with_capacity(key.len());
        for value in key {
            keys.push(kaplan_circuit::canonical(&value.to_array_of_size(1)?)?);
        }
        let hashes = kaplan_circuit::hash_arrays(&keys, 1)?;
        let mut trace: Trace = spec.state_trace();
        trace.restore(self.batches());
        let mut table = GroupTable::new(spec)?;
        trace.lookup(&keys, &hashes, |batch, _, rows| table.merge(&batch.take(&rows)?.rows))?;
        Ok(table.into_values()?)
    }

    /// The view as a table.
    #[must_use]
    pub fn table(self) -> ViewTable {
        ViewTable { view: self }
    }

    /// The key that the conditions fix, in the order of the group columns.
    fn key_of(&self, wanted: &[Condition]) -> Option<(Arc<AggregateSpec>, Vec<ScalarValue>)> {
        let Core::States { spec, .. } = &self.compiled().core else { return None };
        let mut key = Vec::new();
        for (group, output) in self.compiled().key_columns()?.into_iter().enumerate() {
            let (_, value) = wanted.iter().find(|(column, _)| *column == output)?;
            if value.is_null() || value.data_type() != *spec.group_schema.field(group).data_type() {
                return None;
            }
            key.push(value.clone());
        }
        Some((Arc::clone(spec), key))
    }

    /// The merged core without rows that the conditions rule out; None where all of it must be merged.
    fn narrowed(&self, wanted: &[Condition]) -> Result<Option<RecordBatch>> {
        if let Some((spec, key)) = self.key_of(wanted) {
            let rows = self.lookup(&spec, &key)?;
            return Ok(Some(relabel(&rows, &self.compiled().core_schema)?));
        }
        if !matches!(self.compiled().core, Core::Rows(_)) || self.layer != Layer::Served {
            return Ok(None);
        }
        let Some(sources) = self.compiled().core_columns() else { return Ok(None) };
        let schema = &self.compiled().core_schema;
        let in_core = |(output, value): &Condition| {
            let column = sources[*output]?;
            let fits = value.data_type() == *schema.field(column).data_type();
            (fits && is_exact(value)).then(|| (column, value.clone()))
        };
        let wanted: Vec<Condition> = wanted.iter().filter_map(in_core).collect();
        let base = self.batch.as_ref().map_or(Lsn::ZERO, |b| b.lsn);
        let merged = self.snapshot.merged(base);
        if wanted.is_empty() {
            return Ok(None);
        }
        if let Some(rows) = merged {
            let keep = equal(&rows, &wanted)?;
            return Ok(Some(kaplan_circuit::filter_rows(&rows, &keep)?));
        }
        // Equal rows are all kept or all left out, so their weights add up as before.
        let mut batches = Vec::new();
        for batch in self.batches() {
            let found = batch.filtered(|rows| equal(rows, &wanted))?.into_iter();
            batches.extend(found.map(|delta| Arc::new(Batch::new(Vec::<u64>::new(), delta))));
        }
        self.finish(&batches).map(Some)
    }

    /// Whether the conditions fix the whole key of a view of groups.
    #[must_use]
    pub fn is_by_key(&self, wanted: &[Condition]) -> bool {
        self.key_of(wanted).is_some()
    }

    /// The rows in which columns of the view have these values, without a plan; None where only a
    /// plan can tell. The values have the types of their columns.
    pub fn matching(&self, wanted: &[Condition]) -> Result<Option<RecordBatch>> {
        let view = self.compiled();
        let Some(tail) = view.row_tail.as_ref().filter(|_| wanted.iter().all(|(_, v)| is_exact(v)))
        else {
            return Ok(None);
        };
        let Some(core) = self.narrowed(wanted)? else { return Ok(None) };
        // What fails on a row is the planned read's to tell.
        let Ok(rows) = tail.apply(core) else { return Ok(None) };
        let made = rows.columns().iter().map(|column| column.data_type());
        if !made.eq(view.schema.fields().iter().map(|field| field.data_type())) {
            return Ok(None);
        }
        let rows = relabel(&rows, &view.schema)?;
        let keep = equal(&rows, wanted)?;
        Ok(Some(kaplan_circuit::filter_rows(&rows, &keep)?))
    }
}

/// A column, by position, and the value that it must have.
pub type Condition = (usize, ScalarValue);

/// Whether equal values of this type are the same bits, and the value is not NULL.
fn is_exact(value: &ScalarValue) -> bool {
    use arrow::datatypes::DataType;
    let data_type = value.data_type();
    !value.is_null()
        && (data_type.is_integer()
            || matches!(
                data_type,
                DataType::Boolean
                    | DataType::Utf8
                    | DataType::LargeUtf8
                    | DataType::Utf8View
                    | DataType::Date32
                    | DataType::Timestamp(..)
                    | DataType::Decimal128(..)
            ))
}

/// The rows in which all columns have their values.
fn equal(rows: &RecordBatch, wanted: &[Condition]) -> Result<BooleanArray> {
    let mut keep: Option<BooleanArray> = None;
    for (column, value) in wanted {
        let found = cmp::eq(rows.column(*column), &value.to_scalar()?)
            .map_err(kaplan_circuit::Error::from)?;
        keep = Some(match keep {
            Some(keep) => {
                arrow::compute::and(&keep, &found).map_err(kaplan_circuit::Error::from)?
            }
            None => found,
        });
    }
    Ok(keep.unwrap_or_else(|| BooleanArray::from(vec![true; rows.num_rows()])))
}

fn relabel(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let columns = rows.columns().to_vec();
    Ok(RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)
        .map_err(kaplan_circuit::Error::from)?)
}

/// The condition of a filter `column = literal`.
fn condition(filter: &Expr, schema: &SchemaRef) -> Option<Condition> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = filter else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(c), Expr::Literal(v, _)) | (Expr::Literal(v, _), Expr::Column(c)) => {
            schema.index_of(&c.name).ok().map(|column| (column, v.clone()))
        }
        _ => None,
    }
}

/// A served view as DataFusion reads it.
#[derive(Debug)]
pub struct ViewTable {
    view: ServedView,
}

impl ViewTable {
    /// A plan of the view's rows: the core, then the tail.
    async fn rows(
        &self,
        state: &dyn Session,
        core: RecordBatch,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let view = self.view.compiled();
        let columns = (0..core.num_columns())
            .map(|i| {
                let field = core.schema_ref().field(i).clone();
                Arc::new(field.with_name(format!("c{i}")))
            })
            .collect::<Vec<_>>();
        let schema = Arc::new(arrow::datatypes::Schema::new(columns));
        let Some(_) = &view.tail else {
            let table = MemTable::try_new(SchemaRef::clone(&view.core_schema), vec![vec![core]])?;
            return table.scan(state, None, &[], None).await;
        };
        let core = relabel(&core, &schema).map_err(external)?;
        let table = MemTable::try_new(schema, vec![vec![core]])?;
        let clocks = self.view.clocks();
        let tail = view.tail_over(Arc::new(table), clocks).map_err(external)?;
        match tail {
            Some(plan) => state.create_physical_plan(&plan).await,
            None => Err(DataFusionError::Internal("a tail that is not there".into())),
        }
    }
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[async_trait]
impl TableProvider for ViewTable {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.view.compiled().schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let schema = &self.view.compiled().schema;
        let wanted: Vec<_> = filters.iter().filter_map(|f| condition(f, schema)).collect();
        let core = match self.view.narrowed(&wanted).map_err(external)? {
            Some(core) => core,
            None => self.view.core().map_err(external)?,
        };
        let plan = self.rows(state, core).await?;
        let plan = project(plan, projection, &self.schema())?;
        match limit {
            // The filters are applied above this scan: a limit below them would lose rows.
            Some(limit) if filters.is_empty() => {
                use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
                use datafusion::physical_plan::limit::GlobalLimitExec;
                let one = Arc::new(CoalescePartitionsExec::new(plan));
                Ok(Arc::new(GlobalLimitExec::new(one, 0, Some(limit))))
            }
            _ => Ok(plan),
        }
    }
}

/// The columns that are asked for, under the names of the view's schema.
fn project(
    plan: Arc<dyn ExecutionPlan>,
    projection: Option<&Vec<usize>>,
    schema: &SchemaRef,
) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    use datafusion::physical_expr::expressions::{CastExpr, Column};
    use datafusion::physical_plan::projection::ProjectionExec;
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let columns = projection.unwrap_or(&all);
    let have = plan.schema();
    let expressions = columns.iter().map(|i| {
        let field = schema.field(*i);
        let mut column: Arc<dyn datafusion::physical_expr::PhysicalExpr> =
            Arc::new(Column::new(have.field(*i).name(), *i));
        if have.field(*i).metadata() != field.metadata() {
            // A cast to the type that it has: it only brings the field's metadata.
            let field = Arc::new(field.clone());
            column = Arc::new(CastExpr::new_with_target_field(column, field, None));
        }
        (column, field.name().clone())
    });
    Ok(Arc::new(ProjectionExec::try_new(expressions.collect::<Vec<_>>(), plan)?))
}
