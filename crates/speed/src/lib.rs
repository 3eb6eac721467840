//! The speed layer: one [`Driver`] takes the commits of the log through every view's circuit, one
//! step for each group of commits, and publishes after each step a [`Snapshot`] in which all views
//! stand at one LSN. [`replay`] builds a circuit out of history, [`checkpoint`] stores and restores
//! state.
//!
//! Whatever is here is derived: it can be deleted and is built again from lake and log.

pub mod checkpoint;
pub mod crew;
mod driver;
mod error;
mod memory;
mod merger;
pub mod replay;
mod scan;
mod snapshot;
mod streams;

pub use driver::{Attached, Driver, MAX_STEP_BYTES, NotAttached, OnStep};
pub use error::{Error, Result};
pub use memory::Memory;
pub use snapshot::{Merged, Snapshot, ViewSnapshot, ViewState};
pub use streams::{StreamInfo, Streams};
