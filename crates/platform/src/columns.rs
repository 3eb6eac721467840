//! Result columns of one name. SQL allows `SELECT a, a`; the planner does not. So every repeated
//! column is planned under a name of its own, and gets the one that it should have in the result.

use crate::Result;
use crate::writes::fold;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, SelectItem, SetExpr};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Begins the names that repeated columns are planned under.
const PREFIX: &str = "_column_";

/// The names that repeated columns should have, by the name that they are planned under.
#[derive(Default)]
pub(crate) struct Repeated(Vec<(String, Wanted)>);

/// The name that a repeated column should have.
enum Wanted {
    Name(String),
    /// That of another column, whose name the planner makes.
    Of(usize),
}

/// The query with repeated columns under names of their own.
pub(crate) fn distinct(query: &Query) -> (Query, Repeated) {
    let (mut query, mut repeated) = (query.clone(), Repeated::default());
    name_items(&mut query.body, &mut repeated);
    (query, repeated)
}

fn name_items(body: &mut SetExpr, repeated: &mut Repeated) {
    match body {
        SetExpr::Select(select) => {
            let starred = select.projection.iter().any(|item| {
                matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
            });
            let mut seen = BTreeMap::new();
            for (at, item) in select.projection.iter_mut().enumerate() {
                let Some((name, is_column)) = name_of(item) else { continue };
                // Behind a star any column may be a repeated one.
                let first = *seen.entry(name.clone()).or_insert(at);
                if first == at && !(starred && is_column) {
                    continue;
                }
                let made = matches!(item, SelectItem::UnnamedExpr(_)) && !is_column && !starred;
                let alias = format!("{PREFIX}{at}");
                rename(item, &alias);
                let wanted = if made { Wanted::Of(first) } else { Wanted::Name(name) };
                repeated.0.push((alias, wanted));
            }
        }
        SetExpr::SetOperation { left, right, .. } => {
            name_items(left, repeated);
            name_items(right, &mut Repeated::default());
        }
        _ => {}
    }
}

/// The name that an item has in the result, and whether it is that of a column.
fn name_of(item: &SelectItem) -> Option<(String, bool)> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => Some((fold(ident), true)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
            parts.last().map(|ident| (fold(ident), true))
        }
        SelectItem::UnnamedExpr(expr) => Some((expr.to_string(), false)),
        SelectItem::ExprWithAlias { alias, .. } => Some((fold(alias), false)),
        _ => None,
    }
}

fn rename(item: &mut SelectItem, name: &str) {
    let alias = Ident::with_quote('"', name);
    let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
        return;
    };
    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
}

impl Repeated {
    /// The columns of the result.
    pub fn restore(&self, planned: &SchemaRef) -> SchemaRef {
        if self.0.is_empty() {
            return SchemaRef::clone(planned);
        }
        let wanted = |alias: &str| self.0.iter().find(|(a, _)| a == alias).map(|(_, name)| name);
        let fields = planned.fields().iter().map(|field| {
            let name = match wanted(field.name()) {
                Some(Wanted::Name(name)) => Some(name),
                Some(Wanted::Of(first)) => planned.fields().get(*first).map(|f| f.name()),
                None => None,
            };
            match name {
                Some(name) => Arc::new(field.as_ref().clone().with_name(name)),
                None => Arc::clone(field),
            }
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The rows with the columns of the result.
    pub fn relabel(
        &self,
        schema: &SchemaRef,
        batches: Vec<RecordBatch>,
    ) -> Result<Vec<RecordBatch>> {
        if self.0.is_empty() {
            return Ok(batches);
        }
        let relabel = |batch: RecordBatch| {
            // The rows may admit NULL where the plan does not, as before.
            let planned = batch.schema();
            let fields = schema.fields().iter().zip(planned.fields()).map(|(f, b)| {
                f.as_ref().clone().with_data_type(b.data_type().clone()).with_nullable(true)
            });
            let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let columns = batch.columns().to_vec();
            Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
        };
        batches.into_iter().map(relabel).collect()
    }
}
