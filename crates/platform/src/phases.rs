//! How long the parts of a start took: one log line each, so that a slow start says what it waited
//! for. Decides nothing.

use std::time::Instant;

/// The start that goes on.
pub(crate) struct Phases(Instant);

impl Phases {
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Says that a part has ended, and begins the next.
    pub fn ended(&mut self, phase: &'static str) {
        let ms = u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(phase, ms, "a part of the start has ended");
        self.0 = Instant::now();
    }
}
