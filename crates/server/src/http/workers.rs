//! `/v1/workers`: processes that take in a share of the commits. Each asks in turn what it is to do.

use super::App;
use super::error::ApiError;
use super::ingest::read;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use kaplan_platform::Code;
use kaplan_platform::workers::{MAX_PARTS_BYTES, Order, Report, Workers};
use serde::Deserialize;

/// How its routes of workers begin.
pub(super) const ROUTES: &str = "/v1/workers/";
/// Largest report, in bytes.
const MAX_REPORT_BYTES: usize = 1 << 20;

pub(super) async fn list(State(app): State<App>) -> Result<Json<Workers>, ApiError> {
    Ok(Json(app.platform.workers()?))
}

pub(super) async fn turn(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Vec<Order>>, ApiError> {
    let body = read(&headers, body, MAX_REPORT_BYTES, None).await?;
    let report: Report = serde_json::from_slice(&body.bytes).map_err(|e| {
        ApiError::new(Code::InvalidInput, format!("the body is not a worker's report: {e}"))
            .hint("run `kaplan worker` of this version")
    })?;
    Ok(Json(app.platform.worker_turn(&name, report).await?))
}

#[derive(Deserialize)]
pub(super) struct Answer {
    number: u64,
}

pub(super) async fn parts(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(Answer { number }): Query<Answer>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    // Only what was asked for is read.
    app.platform.check_worker_parts(&name, number)?;
    let body = read(&headers, body, MAX_PARTS_BYTES, None).await?;
    app.platform.worker_parts(&name, number, body.bytes)?;
    Ok(StatusCode::NO_CONTENT)
}
