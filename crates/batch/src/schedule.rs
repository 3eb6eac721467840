//! When a view's batch runs are due: a five-field cron expression in UTC.

use crate::{Error, Result};
use chrono::{DateTime, Utc};
use croner::Cron;
use std::str::FromStr;

/// A parsed `batch_schedule`.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
}

impl Schedule {
    /// Parses `minute hour day month weekday`.
    pub fn parse(expression: &str) -> Result<Self> {
        let cron = Cron::from_str(expression).map_err(|e| Error::Schedule {
            expression: expression.into(),
            reason: e.to_string(),
        })?;
        Ok(Self { cron })
    }

    /// The first time after this one, microseconds since the Unix epoch.
    #[must_use]
    pub fn next_after_us(&self, now_us: i64) -> Option<i64> {
        let now: DateTime<Utc> = DateTime::from_timestamp_micros(now_us)?;
        let next = self.cron.find_next_occurrence(&now, false).ok()?;
        Some(next.timestamp_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_next_night() {
        let schedule = Schedule::parse("0 2 * * *").unwrap();
        let noon = 1_735_732_800_000_000; // 2025-01-01T12:00:00Z
        assert_eq!(schedule.next_after_us(noon), Some(noon + 14 * 3_600 * 1_000_000));
    }

    #[test]
    fn names_what_is_wrong() {
        let error = Schedule::parse("61 2 * * *").unwrap_err();
        assert!(error.to_string().contains("61 2 * * *"), "{error}");
    }
}
