//! Whether the process lives, whether it takes requests, and everything it knows about itself.

use super::App;
use super::error::ApiError;
use axum::Json;
use axum::extract::State;
use kaplan_platform::{Code, Status};

/// The process answers: that is all that liveness means. Restarting cures nothing else.
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// Reads and writes are accepted.
pub(super) async fn ready(State(app): State<App>) -> Result<&'static str, ApiError> {
    let status = app.platform.status()?;
    match (status.ready, status.error) {
        (true, _) => Ok("ready\n"),
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

/// `GET /v1/status`.
pub(super) async fn status(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    Ok(Json(app.platform.status()?))
}
