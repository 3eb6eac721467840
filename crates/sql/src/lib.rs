//! SQL for Kaplan: the dialect's own statements ([`dialect`]), the definitions ([`catalog`]), and
//! the way from a query to a circuit: [`planner`] plans it with DataFusion and brings it to the one
//! form that all paths run, [`compile`] cuts it into what is kept and what is computed when read,
//! [`lower`] makes operators of it.

mod asof;
mod careful;
pub mod catalog;
pub mod clock;
pub mod compile;
mod connectors;
pub mod dependencies;
pub mod dialect;
mod emit;
mod error;
mod extremes;
mod forget;
pub mod functions;
mod grouping_sets;
pub mod lower;
mod orders;
mod panes;
pub mod planner;
mod quick;
mod recompute;
mod refused;
mod rewrite;
mod row_errors;
mod row_tail;
#[cfg(test)]
mod rows_tests;
mod single;
mod subqueries;
mod temporal;
mod ties;
mod top;
mod tries;

pub use compile::{CompiledView, Core, SourceInfo};
pub use error::{Error, Result};
pub use planner::{Planner, Relation, StreamTable};
pub use row_errors::row_errors;
pub use row_tail::RowTail;
