//! The incremental engine. A view's SQL becomes a [`Circuit`] of operators; `step(deltas in)`
//! takes the changes of one group of commits and keeps the view. The one law: for every way of
//! cutting the commits into steps, the sum of the steps equals the SQL run over all rows at once.
//!
//! Everything here is a function of its input: no IO, no clock, no randomness.

mod aggregate;
mod beside;
mod circuit;
mod clocks;
mod codec;
mod constant;
mod delta;
mod emitted;
mod error;
mod first_rows;
mod group;
mod join;
mod key;
mod linear;
mod operator;
mod outer;
mod pairs;
mod panes;
mod recompute;
mod shelf;
mod side;
mod split;
mod stateless;
mod temporal;
mod temporal_join;
mod trace;

pub use aggregate::{Aggregate, AggregateCall, AggregateSpec, FilteredFunction};
pub use beside::Beside;
pub use circuit::{Circuit, Generation, Output, OutputSnapshot, Root};
pub use clocks::{Clocks, NOW};
pub use codec::{decode_batch, decode_delta, encode_batch, encode_delta, environment_fingerprint};
pub use constant::Constant;
pub use delta::{Delta, LSN_COLUMN, WEIGHT_COLUMN, filter_rows};
pub use error::{Error, Result};
pub use first_rows::{FirstRows, OrderKey};
pub use group::GroupTable;
pub use join::{Join, JoinKeys};
pub use key::{Keyer, canonical, hash_arrays};
pub use operator::{Form, Input, Operator, Source};
pub use panes::{PaneKey, Panes};
pub use recompute::{Part, Recompute};
pub use shelf::{Held, Shelf, least_to_shelve, shelve};
pub use split::{Sharing, Split};
pub use stateless::{Expand, Filter, Project, Union, Unnest};
pub use temporal::{Crossing, Temporal};
pub use temporal_join::{Stamps, TemporalJoin};
pub use trace::{Batch, Merge, Trace, consolidate, link_parts_of};
