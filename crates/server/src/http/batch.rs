//! `POST /v1/batch/runs` and `GET /v1/batch/runs/{id}`: batch runs asked for from outside, for
//! instance by a scheduler. A key makes the request idempotent; Cloud Scheduler's headers are one.

use super::App;
use super::error::ApiError;
use super::ingest::{read, text};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use kaplan_platform::{BatchRequest, BatchRun, Code};

/// Largest body, in bytes.
const MAX_REQUEST_BYTES: usize = 1 << 20;

pub(super) async fn start(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<impl IntoResponse, ApiError> {
    let body = read(&headers, body, MAX_REQUEST_BYTES, None).await?;
    let mut request = request(&body.bytes, text(&headers, "idempotency-key")?)?;
    if request.key.is_none() {
        request.key = scheduled(&headers)?;
    }
    let run = app.platform.start_batch_run(request, "http").await?;
    let location = format!("/v1/batch/runs/{}", run.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(run)))
}

/// The key of a call by Cloud Scheduler, which repeats a call that it takes for failed: its job and the
/// time that it was due.
fn scheduled(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(time) = text(headers, "x-cloudscheduler-scheduletime")? else { return Ok(None) };
    let job = text(headers, "x-cloudscheduler-jobname")?.unwrap_or_default();
    Ok(Some(format!("cloud-scheduler/{job}/{time}")))
}

fn request(body: &[u8], key: Option<&str>) -> Result<BatchRequest, ApiError> {
    let mut request = match body.trim_ascii() {
        [] => BatchRequest::default(),
        body => serde_json::from_slice(body).map_err(|e| {
            ApiError::new(Code::InvalidInput, format!("the body is not a batch request: {e}")).hint(
                "send {\"views\": [\"name\"], \"mode\": \"auto\" | \"full\" | \"incremental\", \
                       \"key\": \"..\"}; all of it is optional",
            )
        })?,
    };
    match (&request.key, key) {
        (Some(inside), Some(outside)) if inside != outside => Err(ApiError::new(
            Code::InvalidInput,
            "the body and Idempotency-Key name different keys",
        )
        .hint("send the key in one of them")),
        (None, Some(outside)) => {
            request.key = Some(outside.to_owned());
            Ok(request)
        }
        _ => Ok(request),
    }
}

pub(super) async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<BatchRun>, ApiError> {
    app.platform.batch_run(&id).map(Json).ok_or_else(|| {
        ApiError::not_found(format!("there is no batch run {id}"))
            .hint("GET /v1/status lists the last runs")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kaplan_platform::BatchMode;

    #[test]
    fn the_body_and_the_key_are_optional() {
        let none = request(b" \n", None).unwrap();
        assert!(none.views.is_empty() && none.key.is_none() && none.mode == BatchMode::Auto);
        let full = request(br#"{"views":["v"],"mode":"full"}"#, Some("k")).unwrap();
        assert_eq!((full.views, full.mode), (vec!["v".to_owned()], BatchMode::Full));
        assert_eq!(full.key.as_deref(), Some("k"));
        assert!(request(br#"{"mode":"fast"}"#, None).is_err());
        assert!(request(br#"{"key":"a"}"#, Some("b")).is_err());
        assert!(request(br#"{"key":"a"}"#, Some("a")).is_ok());
    }
}
