//! The wires: HTTP and the PostgreSQL protocol, in front of one [`kaplan_platform::Platform`].
//!
//! A wire translates and nothing else: bytes to batches, text to statements, results to what the
//! client reads, and each [`kaplan_platform::Code`] to the wire's own number. Who may call is asked
//! only where the settings say so: the addresses are loopback unless the operator says otherwise.

mod execute;
mod http;
mod postgres;
mod rows;
mod serve;
mod statements;

pub use http::Oidc;
pub use serve::{Error, Options, Server, serve};
