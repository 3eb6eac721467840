//! Kaplan as a library: opens log, lake, layers and catalog, and answers what the wires ask.

mod alter;
mod api;
mod archiver;
mod catalog;
mod changes;
mod classify;
mod columns;
mod convert;
mod definitions;
mod error;
mod functions;
mod introspect;
mod names;
mod platform;
mod query;
mod recover;
mod rows;
mod runs;
mod sequencer;
mod settings;
mod show;
mod sinks;
mod sources;
mod statements;
mod status;
mod ticks;
mod transactions;
mod verify;
mod views;
mod writes;

pub use api::*;
pub use error::{Code, Error, Result};
pub use introspect::{Described, RelationInfo, RelationKind};
pub use platform::Platform;
pub use settings::Settings;
pub use transactions::Transaction;
