//! The lake from outside: exactly-once appends, exact types, compaction, fencing, and what other
//! readers see of it.

#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod appends;
mod fixture;
mod maintenance;
mod outlet;
mod python;
mod types;
