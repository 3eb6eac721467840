//! Formats and systems that events come from. [`formats`] turns bytes into Arrow batches of a
//! stream's schema, or names the row and field that are wrong.

pub mod formats;
