//! What an operator last put out, by key: so that a touched key's new rows can be turned into the
//! change from the old ones, and exactly what was added is taken away again, bit by bit.

use crate::delta::batch_of;
use crate::key::hash_arrays;
use crate::trace::{Merge, consolidate};
use crate::{Delta, Result, Trace};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use std::sync::Arc;

/// The rows that an operator put out, by key.
pub(crate) struct Emitted {
    /// Key columns where they are not part of the output, then the output's columns.
    pub(crate) trace: Trace,
    /// Whether key columns stand in front of the output's.
    prefix: usize,
    schema: SchemaRef,
}

impl Emitted {
    /// Output whose key is these columns of it.
    pub(crate) fn by_columns(schema: &SchemaRef, key: Vec<usize>) -> Self {
        let trace = Trace::new(SchemaRef::clone(schema), key, Merge::Sum);
        Self { trace, prefix: 0, schema: SchemaRef::clone(schema) }
    }

    /// Output whose key comes with it, as columns of these fields.
    pub(crate) fn by_keys(schema: &SchemaRef, keys: &[Arc<Field>]) -> Self {
        let fields: Vec<_> = keys.iter().chain(schema.fields()).cloned().collect();
        let stored = Arc::new(Schema::new(fields));
        let trace = Trace::new(stored, (0..keys.len()).collect(), Merge::Sum);
        Self { trace, prefix: keys.len(), schema: SchemaRef::clone(schema) }
    }

    /// Whether nothing was put out yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.trace.is_empty()
    }

    /// New rows, which are all there is of `keys` now, minus what was put out for the same keys.
    /// `new_keys` are the keys of the new rows where the output does not hold them.
    pub(crate) fn replace(
        &mut self,
        new: RecordBatch,
        new_keys: Vec<ArrayRef>,
        keys: &[ArrayRef],
    ) -> Result<Option<Delta>> {
        let rows = new.num_rows();
        let columns = new_keys.into_iter().chain(new.columns().iter().cloned()).collect();
        let new = batch_of(SchemaRef::clone(self.trace.schema()), columns, rows)?;
        let mut changes = vec![Delta::insert(new)];
        let hashes = hash_arrays(keys, keys.first().map_or(1, |k| k.len()))?;
        self.trace.lookup(keys, &hashes, |batch, _, found| {
            let old = batch.take(&found)?;
            let weights = (0..old.len()).map(|i| -old.weight(i)).collect::<Int64Array>();
            changes.push(Delta::weighted(old.rows, weights));
            Ok(())
        })?;
        let change = match changes.len() {
            // Nothing to take away.
            1 => changes.pop(),
            _ => consolidate(changes)?,
        };
        let Some(change) = change.filter(|c| !c.is_empty()) else { return Ok(None) };
        self.trace.insert(change.clone())?;
        self.without_keys(change).map(Some)
    }

    fn without_keys(&self, change: Delta) -> Result<Delta> {
        if self.prefix == 0 {
            return Ok(change);
        }
        let columns = change.rows.columns()[self.prefix..].to_vec();
        let rows = batch_of(SchemaRef::clone(&self.schema), columns, change.len())?;
        Ok(change.with_rows(rows))
    }
}
