//! The one storage below lake, batch views, checkpoints and catalog: objects with names, in a local
//! directory or in a bucket (S3, Google Cloud Storage), through `object_store`.
//!
//! Invariants: when a write returns, its bytes are on stable storage and whole; a conditional write
//! (put-if-absent, compare-and-set) that reports a conflict lost against other bytes than its own,
//! also when an answer was lost on the way and the write was sent twice; and what a newer opening of
//! a [`Document`] has written is never replaced by an older one.
//!
//! [`Place`] is where objects are, [`Document`] is a small JSON object with one writer at a time,
//! [`wait`] brings storage to threads that are not asynchronous. [`faulty`] is a store that fails,
//! for tests of anything that stands on an `ObjectStore`.

mod blocking;
mod document;
mod durable;
mod error;
pub mod faulty;
mod place;
mod settled;

pub use blocking::wait;
pub use document::{Document, READER};
pub use error::{Error, Result};
pub use place::Place;
pub use settled::{Retry, Settled};
