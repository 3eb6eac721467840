//! Formats and systems that events come from and go to. [`formats`] turns bytes into Arrow batches
//! of a stream's schema, or names the row and field that are wrong; [`source`] and [`sink`] say what
//! a connector is, and [`connectors`] which ones there are; [`decode`] makes changes of records.

pub mod connectors;
pub mod decode;
pub mod drift;
pub mod encode;
mod error;
pub mod files;
pub mod formats;
pub mod kafka;
pub mod position;
pub mod postgres;
pub mod sink;
pub mod source;

pub use error::{Error, Kind, Result};
