//! The batch layer: [`compute`] makes a view's core out of the lake at one LSN with plain
//! DataFusion, [`Store`] publishes it atomically, [`Schedule`] says when.
//!
//! A batch view is immutable once published. It knows nothing of the speed layer; the serving layer
//! puts the two together.

pub mod compute;
mod error;
mod schedule;
mod store;

pub use error::{Error, Result};
pub use schedule::Schedule;
pub use store::{Published, Store};
