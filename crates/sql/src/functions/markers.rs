//! Functions that stand for what DataFusion's SQL has no words for, until a plan is spelled out; and
//! what plans call in their place.

use super::define::{Def, Kind, Overload, Returns, def, strict};
use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};
use std::sync::Arc;

/// In the `ON` of an `ASOF JOIN`.
pub(crate) const ASOF: &str = "kaplan_asof";
/// In the `ON` of a join with a table `FOR SYSTEM_TIME AS OF PROCTIME()`.
pub(crate) const TEMPORAL: &str = "kaplan_temporal";
/// Around the number of rows of `FETCH FIRST n ROWS WITH TIES`.
pub(crate) const WITH_TIES: &str = "kaplan_with_ties";
/// `kaplan_single(count, value)`: the value of a subquery that has this many rows.
pub(crate) const SINGLE: &str = "kaplan_single";

pub(super) fn all() -> Vec<Def> {
    let single = Overload {
        args: &[Kind::Int, Kind::Any],
        variadic: false,
        strict: false,
        returns: Returns::Same(1),
        call: Arc::new(|v| Ok(v[1].clone())),
        fast: Some(single),
    };
    vec![
        def(ASOF, &[strict(&[Kind::Bool], Kind::Bool, |_| exec_err!("ASOF stands for a join"))]),
        def(
            TEMPORAL,
            &[strict(&[Kind::Bool], Kind::Bool, |_| exec_err!("SYSTEM_TIME stands for a join"))],
        ),
        def(WITH_TIES, &[strict(&[Kind::Int], Kind::Int, |v| Ok(v[0].clone()))]),
        def(SINGLE, &[single]),
    ]
}

fn single(args: &ScalarFunctionArgs) -> Result<Option<ColumnarValue>> {
    let counts = args.args[0].to_array(args.number_rows)?;
    let counts = counts.as_primitive::<Int64Type>();
    if (0..counts.len()).any(|row| counts.is_valid(row) && counts.value(row) > 1) {
        return exec_err!("more than one row returned by a subquery used as an expression");
    }
    Ok(Some(args.args[1].clone()))
}
