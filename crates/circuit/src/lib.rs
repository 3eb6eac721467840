//! The incremental engine. A view's SQL becomes a [`Circuit`] of operators; `step(deltas in)`
//! takes the changes of one group of commits and keeps the view. The one law: for every way of
//! cutting the commits into steps, the sum of the steps equals the SQL run over all rows at once.
//!
//! Everything here is a function of its input: no IO, no clock, no randomness.

mod aggregate;
mod circuit;
mod codec;
mod delta;
mod error;
mod group;
mod join;
mod key;
mod linear;
mod operator;
mod stateless;
mod trace;

pub use aggregate::{Aggregate, AggregateCall, AggregateSpec};
pub use circuit::{Circuit, Generation, Output, OutputSnapshot, Root};
pub use codec::{decode_batch, decode_delta, encode_batch, encode_delta, environment_fingerprint};
pub use delta::{Delta, WEIGHT_COLUMN};
pub use error::{Error, Result};
pub use group::GroupTable;
pub use join::Join;
pub use key::{Keyer, canonical, hash_arrays};
pub use operator::{Input, Operator, Source};
pub use stateless::{Filter, Project, Union, Unnest};
pub use trace::{Batch, Merge, Trace, consolidate};
