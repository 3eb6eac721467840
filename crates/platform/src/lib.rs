//! Kaplan as a library: opens log, lake, layers and catalog, and answers what the wires ask.

mod api;
mod error;
mod platform;
mod sequencer;
mod settings;

pub use api::*;
pub use error::{Code, Error, Result};
pub use platform::Platform;
pub use settings::Settings;
