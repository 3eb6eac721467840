//! PostgreSQL's types, functions, operators and casts over DataFusion. There is one implementation
//! for views and queries: all of it is in the plan before either of them takes it.
//!
//! - [`value`] is one SQL value, [`parse`] and [`text`] its text forms;
//! - `define` makes DataFusion functions of functions over values; the other modules define them;
//! - `operators` and `casts` put them where DataFusion computes otherwise than PostgreSQL;
//! - [`syntax`] rewrites forms that the planner does not know.
//!
//! Everything here is immutable. Whatever cannot be computed on a row is an error; in views
//! [`crate::tries`] makes NULL of it.

mod arithmetic;
mod arrays;
mod calendar;
mod casts;
mod column;
mod define;
mod json;
mod jsonb;
pub mod logical;
mod markers;
mod math;
mod number;
mod numerals;
mod operators;
mod parse;
mod patterns;
mod spans;
mod strings;
pub(crate) mod syntax;
mod templates;
#[cfg(test)]
mod tests;
mod text;
mod times;
mod typeof_;
pub mod value;

pub use column::{Misfit, assign, canonical, read_text};
pub use logical::Logical;
pub(crate) use markers::{ASOF, TEMPORAL, WITH_TIES};
pub use parse::parse;
pub use text::sql_text;

use datafusion::common::plan_datafusion_err;
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{Expr, ScalarUDF};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::Analyzer;
use operators::Operators;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

static FUNCTIONS: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
    let families = [
        strings::all(),
        patterns::all(),
        math::all(),
        times::all(),
        numerals::all(),
        arrays::all(),
        jsonb::all(),
        markers::all(),
    ];
    let mut functions: Vec<_> = families.into_iter().flatten().map(|d| Arc::new(d.udf())).collect();
    functions.push(Arc::new(typeof_::pg_typeof()));
    let series = datafusion::functions_nested::range::gen_series_udf();
    functions.push(Arc::new(series.as_ref().clone().with_aliases(["kaplan_series"])));
    functions
});

static BY_NAME: LazyLock<HashMap<String, Arc<ScalarUDF>>> = LazyLock::new(|| {
    let named = |f: &Arc<ScalarUDF>| (f.name().to_owned(), Arc::clone(f));
    let mut functions: HashMap<_, _> = FUNCTIONS.iter().map(named).collect();
    let starts_with = datafusion::functions::string::starts_with();
    functions.insert("starts_with".to_owned(), starts_with);
    functions
});

/// `array_to_string`: what is in the list, one after the other with this in between.
pub(crate) fn array_to_string(list: Expr, between: Vec<Expr>) -> Expr {
    let function = BY_NAME.get("array_to_string");
    let args = [vec![list.clone()], between].concat();
    function.map_or(list, |function| function.call(args))
}

/// The value of a subquery that has this many rows.
pub(crate) fn single(rows: Expr, value: Expr) -> Expr {
    let function = BY_NAME.get(markers::SINGLE);
    function.map_or(value.clone(), |single| single.call(vec![rows, value]))
}

/// A record as `jsonb`; without one an empty object.
pub(crate) fn row_to_json(record: Option<Expr>) -> datafusion::common::Result<Expr> {
    let name = if record.is_some() { "to_jsonb" } else { "jsonb_build_object" };
    let function = BY_NAME.get(name);
    let function =
        function.ok_or_else(|| plan_datafusion_err!("function {name} does not exist"))?;
    Ok(function.call(record.into_iter().collect()))
}

fn negate() -> Arc<ScalarUDF> {
    BY_NAME.get("kaplan_negate").map_or_else(datafusion::functions::math::abs, Arc::clone)
}

fn names(function: &ScalarUDF) -> impl Iterator<Item = &str> {
    std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str))
}

/// A session with PostgreSQL's types, functions, operators and casts; it has DataFusion's already.
#[must_use]
pub fn register(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    let ours: BTreeSet<&str> = FUNCTIONS.iter().flat_map(|f| names(f)).collect();
    let functions = builder.scalar_functions().get_or_insert_default();
    // A function that keeps an alias would come back under its name when a session is copied.
    functions.retain(|f| !names(f).any(|name| ours.contains(name)));
    functions.extend(FUNCTIONS.iter().cloned());
    let operators = Operators { functions: BY_NAME.clone() };
    builder.expr_planners().get_or_insert_default().insert(0, Arc::new(operators));
    let casts = || Arc::new(casts::Casts) as Arc<dyn AnalyzerRule + Send + Sync>;
    let mut rules = vec![casts()];
    rules.extend(Analyzer::new().rules);
    // Coercion brings in casts of its own.
    rules.push(casts());
    builder.with_analyzer_rules(rules).with_type_planner(Arc::new(crate::dialect::Types))
}
