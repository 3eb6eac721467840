//! Kaplan as a library: opens log, lake, layers and catalog, and answers what the wires ask.

mod api;
mod archiver;
mod catalog;
mod convert;
mod error;
mod functions;
mod introspect;
mod platform;
mod query;
mod recover;
mod runs;
mod sequencer;
mod settings;
mod statements;
mod status;
mod verify;
mod views;
mod writes;

pub use api::*;
pub use error::{Code, Error, Result};
pub use introspect::{Described, RelationInfo, RelationKind};
pub use platform::Platform;
pub use settings::Settings;
