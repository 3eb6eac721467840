//! Which aggregates are computed by pane ([`Panes`]): those over `HOP`, or over projections of it, whose
//! functions do not look at the window, and whose keys look either at the window or at the row.

use crate::dialect::{HOP_STARTS, hop_pane};
use crate::lower::{expression, plain_spec};
use crate::{Error, Result};
use arrow::datatypes::{Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{self as logical, Expr, LogicalPlan};
use kaplan_circuit::{AggregateSpec, PaneKey, Panes};
use std::sync::Arc;

/// What the window is called in expressions here.
const WINDOW: &str = "_window";
/// What the pane is called.
const PANE: &str = "_pane";

/// How the states of an aggregate are made by pane; None: they are not.
pub(crate) fn of(aggregate: &logical::Aggregate, spec: &AggregateSpec) -> Result<Option<Panes>> {
    let Some(hopped) = Hopped::of(aggregate)? else { return Ok(None) };
    let mut row_keys = Vec::new();
    let mut keys = Vec::with_capacity(hopped.group.len());
    let window_schema = Arc::new(Schema::new(vec![hopped.window.clone()]));
    let window = Arc::new(DFSchema::try_from(Arc::clone(&window_schema))?);
    for key in hopped.group {
        let of_window = looks_at_window(&key);
        if of_window && key.column_refs().len() > 1 {
            return Ok(None);
        }
        keys.push(if of_window {
            PaneKey::Window(expression(&key, &window)?)
        } else {
            row_keys.push(key.alias(format!("_k{}", row_keys.len())));
            PaneKey::Row(row_keys.len() - 1)
        });
    }
    if hopped.functions.iter().any(looks_at_window) {
        return Ok(None);
    }
    let pane = hopped.starts.args.clone();
    let pane = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(hop_pane()), pane));
    row_keys.push(pane.alias(PANE));
    let functions = hopped.functions.into_iter().enumerate();
    let functions = functions.map(|(n, f)| f.alias(format!("_a{n}"))).collect();
    let by_pane = logical::Aggregate::try_new(Arc::clone(hopped.rows), row_keys, functions)?;
    let by_pane = plain_spec(&by_pane)?;
    let states = |spec: &AggregateSpec| -> Vec<_> {
        let fields = spec.state_schema.fields()[spec.group.len()..].iter();
        fields.map(|field| field.data_type().clone()).collect()
    };
    if states(&by_pane) != states(spec) {
        return Ok(None);
    }
    let mut starts = hopped.starts.clone();
    if let Some(time) = starts.args.first_mut() {
        *time = Expr::Column(Column::new_unqualified(PANE));
    }
    let made = Arc::new(DFSchema::try_from(Arc::clone(&by_pane.state_schema))?);
    let windows = expression(&Expr::ScalarFunction(starts), &made)?;
    let (depth, spec) = (hopped.depth, Arc::new(by_pane));
    Ok(Some(Panes { depth, spec, windows, window_schema, keys }))
}

fn looks_at_window(expr: &Expr) -> bool {
    expr.column_refs().iter().any(|c| c.relation.is_none() && c.name == WINDOW)
}

/// An aggregate over `HOP`, said of the rows below it.
struct Hopped<'a> {
    /// The rows.
    rows: &'a Arc<LogicalPlan>,
    /// The operators between them and the aggregate.
    depth: usize,
    /// The call that gives the windows of a row.
    starts: &'a ScalarFunction,
    /// A window.
    window: Field,
    group: Vec<Expr>,
    functions: Vec<Expr>,
}

impl<'a> Hopped<'a> {
    fn of(aggregate: &'a logical::Aggregate) -> Result<Option<Self>> {
        let mut group: Vec<Expr> = aggregate.group_expr.iter().cloned().map(bare).collect();
        let mut functions: Vec<Expr> = aggregate.aggr_expr.iter().cloned().map(bare).collect();
        let (mut node, mut depth) = (&aggregate.input, 0);
        loop {
            let below = match node.as_ref() {
                LogicalPlan::Projection(projection) => {
                    depth += 1;
                    &projection.input
                }
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                LogicalPlan::Unnest(unnest) => {
                    let LogicalPlan::Projection(lists) = unnest.input.as_ref() else {
                        return Ok(None);
                    };
                    let [(list, _)] = unnest.list_type_columns[..] else { return Ok(None) };
                    let Some(starts) = starts_of(&lists.expr[list]) else { return Ok(None) };
                    let read = |column: usize| match unnest.dependency_indices[column] {
                        at if at == list => Expr::Column(Column::new_unqualified(WINDOW)),
                        at => bare(lists.expr[at].clone()),
                    };
                    replace(&mut group, &unnest.schema, &read)?;
                    replace(&mut functions, &unnest.schema, &read)?;
                    let field = unnest.schema.field(list);
                    let window = Field::new(WINDOW, field.data_type().clone(), true);
                    let (rows, depth) = (&lists.input, depth + 2);
                    return Ok(Some(Self { rows, depth, starts, window, group, functions }));
                }
                _ => return Ok(None),
            };
            let read = |column: usize| match node.as_ref() {
                LogicalPlan::Projection(projection) => bare(projection.expr[column].clone()),
                _ => Expr::Column(Column::from(below.schema().qualified_field(column))),
            };
            replace(&mut group, node.schema(), &read)?;
            replace(&mut functions, node.schema(), &read)?;
            node = below;
        }
    }
}

fn starts_of(expr: &Expr) -> Option<&ScalarFunction> {
    match expr {
        Expr::Alias(alias) => starts_of(&alias.expr),
        Expr::ScalarFunction(call) if call.func.name() == HOP_STARTS => Some(call),
        _ => None,
    }
}

fn bare(expr: Expr) -> Expr {
    expr.unalias_nested().data
}

/// Puts in place of each column what it is made of.
fn replace(exprs: &mut [Expr], schema: &DFSchema, read: &dyn Fn(usize) -> Expr) -> Result<()> {
    for expr in exprs {
        let replaced = expr.clone().transform_up(|e| match e {
            Expr::Column(column) => Ok(Transformed::yes(read(schema.index_of_column(&column)?))),
            other => Ok(Transformed::no(other)),
        });
        *expr = replaced.map_err(|e: DataFusionError| Error::from(e))?.data;
    }
    Ok(())
}
