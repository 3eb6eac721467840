//! The platform as a whole, on real files: views of both architectures over streams and tables,
//! batch runs, restarts, verification; and what other systems feed it with.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod archive;
#[allow(dead_code, reason = "the log's tests and the program's examples share it")]
mod broker;
mod changes;
mod clocks;
mod definitions;
mod delta;
mod drift;
mod files;
mod functions;
mod guides;
mod kafka;
mod kafka_log;
mod kafka_secure;
mod leftovers;
mod lifecycle;
mod memory;
mod postgres;
mod quarantines;
mod reads;
mod row_errors;
mod sinks;
mod stopped;
mod support;
mod temporal;
mod types;
