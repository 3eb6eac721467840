//! Whether the process lives, whether it takes requests, and everything it knows about itself.

use super::App;
use super::error::ApiError;
use axum::Json;
use axum::extract::State;
use kaplan_platform::{Code, Error, ReplicaStatus, Status};
use std::time::{Duration, Instant};

/// How long an instance that was replaced is left alone. A platform that runs two for a moment ends
/// the older one within this time. Restarted before, it would take the data back from the newer one;
/// after it, the newer one is what went away, and nobody else would ever write again.
const REPLACED_GRACE: Duration = Duration::from_secs(20 * 60);

/// The process answers, and a restart would not help. Being behind is no reason for one; a log that
/// failed is, since only opening it again shows what is durable.
pub(super) async fn live(State(app): State<App>) -> Result<&'static str, ApiError> {
    let failed = app.platform.failed();
    let since = failed.as_ref().map(|_| *app.failed_since.get_or_init(Instant::now));
    liveness(failed, since.map_or(Duration::ZERO, |since| since.elapsed()))
}

/// What to answer to a platform that restarts what is not alive.
fn liveness(failed: Option<Error>, time: Duration) -> Result<&'static str, ApiError> {
    match failed {
        None => Ok("live\n"),
        Some(error) if error.code == Code::Fenced && time < REPLACED_GRACE => Ok("replaced\n"),
        Some(error) => Err(ApiError::new(Code::Unavailable, error.to_string())
            .hint("this instance does not recover by itself: start it again")),
    }
}

/// Reads and writes are accepted; by a replica, reads.
pub(super) async fn ready(State(app): State<App>) -> Result<String, ApiError> {
    let status = app.platform.status()?;
    if let Some(replica) = &status.replica {
        return follows(status.ready, replica);
    }
    match (status.ready, status.error) {
        (true, _) => Ok("ready\n".to_owned()),
        (false, Some(error)) => {
            Err(ApiError::new(Code::Unavailable, format!("not ready: {error}"))
                .hint("this instance does not recover by itself: start it again"))
        }
        (false, None) => {
            Err(ApiError::new(Code::Unavailable, "not ready: recovering or shutting down")
                .hint("ask again in a moment"))
        }
    }
}

/// A read replica is ready while it hears of what is written; it says how far it is behind.
fn follows(ready: bool, replica: &ReplicaStatus) -> Result<String, ApiError> {
    let (behind, newest) = (replica.commits_behind, replica.newest_lsn);
    if ready {
        return Ok(format!("ready, a read replica {behind} commits behind LSN {newest}\n"));
    }
    let reason = replica.error.as_deref().unwrap_or("recovering or shutting down");
    Err(ApiError::new(Code::Unavailable, format!("not ready, a read replica: {reason}"))
        .hint("ask again in a moment"))
}

/// `GET /v1/status`.
pub(super) async fn status(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    Ok(Json(app.platform.status()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_restart_cures_is_not_alive() {
        assert!(liveness(None, REPLACED_GRACE).is_ok());
        let replaced = || Some(Error::new(Code::Fenced, "another instance has the data"));
        assert!(liveness(replaced(), Duration::ZERO).is_ok());
        assert!(liveness(replaced(), REPLACED_GRACE).is_err());
        let broken = Some(Error::new(Code::Unavailable, "the log failed"));
        assert!(liveness(broken, Duration::ZERO).is_err());
    }
}
