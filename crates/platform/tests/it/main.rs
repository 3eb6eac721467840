//! The platform as a whole, on real files: views of both architectures over streams and tables,
//! batch runs, restarts, verification.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod archive;
mod broker;
mod changes;
mod definitions;
mod functions;
mod kafka;
mod lifecycle;
mod sinks;
mod support;
mod types;
