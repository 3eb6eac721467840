//! HTTP: the routes, what every request passes through, and what the handlers share.
//!
//! Every answer that is not a success has the one error body of [`error`]. Every request gets an
//! id (its own `X-Request-Id`, or a new one), one log line and one count in the metrics.

mod batch;
mod callers;
mod client;
mod error;
mod ingest;
mod metrics;
mod page;
mod probes;
mod sql;
mod trace;
mod views;
mod workers;

use crate::serve::Options;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use callers::Callers;
pub use callers::Oidc;
use error::ApiError;
use kaplan_platform::Platform;
use metrics::Metrics;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::Semaphore;
use tower_http::decompression::RequestDecompressionLayer;
use tracing::Instrument;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;
/// Bodies of the largest size that may be in memory at once.
const MAX_FULL_BODIES: usize = 8;
/// Longest text of the framework's own refusals that is passed on, in bytes.
const MAX_REFUSAL_BYTES: usize = 4 << 10;
const OPENAPI: &str = include_str!("http/openapi.json");

#[derive(Clone)]
struct App {
    platform: Platform,
    metrics: Arc<Metrics>,
    /// One permit an ingest request.
    ingest: Arc<Semaphore>,
    /// One permit a byte of the ingest requests' bodies.
    buffers: Arc<Semaphore>,
    max_body_bytes: usize,
    requests: Arc<AtomicU64>,
    /// Who may call; None: everybody.
    callers: Option<Arc<Callers>>,
    /// Proxies in front whose word on the caller counts.
    trusted_proxies: usize,
    /// When a liveness probe first met a platform that failed.
    failed_since: Arc<OnceLock<Instant>>,
}

/// Every route; `openapi.json` describes each of them.
fn routes() -> Vec<(&'static str, MethodRouter<App>)> {
    vec![
        ("/", get(page::show)),
        ("/livez", get(probes::live)),
        ("/live", get(probes::live)),
        ("/healthz", get(probes::live)),
        ("/readyz", get(probes::ready)),
        ("/ready", get(probes::ready)),
        ("/metrics", get(metrics::show)),
        ("/openapi.json", get(openapi)),
        ("/v1/status", get(probes::status)),
        ("/v1/streams", get(views::streams)),
        ("/v1/streams/{name}/events", post(ingest::events)),
        ("/v1/views", get(views::list)),
        ("/v1/views/{name}", get(views::read)),
        ("/v1/sql", post(sql::run)),
        ("/v1/batch/runs", post(batch::start)),
        ("/v1/batch/runs/{id}", get(batch::show)),
        ("/v1/workers", get(workers::list)),
        ("/v1/workers/{name}/turn", post(workers::turn)),
        ("/v1/workers/{name}/parts", post(workers::parts)),
    ]
}

pub(crate) fn router(platform: Platform, options: &Options) -> Router {
    let buffers = options.max_body_bytes.saturating_mul(MAX_FULL_BODIES);
    let app = App {
        platform,
        metrics: Arc::default(),
        ingest: Arc::new(Semaphore::new(options.max_in_flight.min(Semaphore::MAX_PERMITS))),
        buffers: Arc::new(Semaphore::new(buffers.min(Semaphore::MAX_PERMITS))),
        max_body_bytes: options.max_body_bytes,
        requests: Arc::default(),
        callers: options.oidc.clone().map(|oidc| Arc::new(Callers::new(oidc))),
        trusted_proxies: options.trusted_proxies,
        failed_since: Arc::default(),
    };
    let router = routes()
        .into_iter()
        .fold(Router::new(), |router, (path, handlers)| router.route(path, handlers));
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::disable())
        // An encoding that the layer does not know is refused by whoever reads the body.
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        .layer(from_fn_with_state(app.clone(), callers::check))
        .layer(from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

async fn unknown_route(request: Request) -> ApiError {
    ApiError::not_found(format!("there is no {}", request.uri().path()))
        .hint("see /openapi.json for what there is")
}

async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::method_not_allowed(format!("{path} does not take {method}"))
        .hint("see /openapi.json for the methods of each path")
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// Names, times, counts and logs one request.
async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&app, &request);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let span = trace::span(request.headers());
    let client = client::of(&request, app.trusted_proxies).map(tracing::field::display);
    let mut response = with_error_body(next.run(request).instrument(span.clone()).await).await;
    let status = response.status().as_u16();
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    app.metrics.request(&route, method.as_str(), status);
    let request_id = id.to_str().unwrap_or_default();
    span.in_scope(|| match status {
        500.. => tracing::error!(request_id, client, %method, route, status, ms, "request"),
        // Two a second of each worker, and more while something is written.
        ..400 if route.starts_with(workers::ROUTES) => {
            tracing::debug!(request_id, client, %method, route, status, ms, "request");
        }
        _ => tracing::info!(request_id, client, %method, route, status, ms, "request"),
    });
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Gives the framework's own refusals, which are plain text, the one error body.
async fn with_error_body(response: Response) -> Response {
    let plain = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let plain = plain.is_none_or(|content_type| content_type.starts_with(b"text/plain"));
    if !plain || !response.status().is_client_error() {
        return response;
    }
    let status = response.status();
    let text = to_bytes(response.into_body(), MAX_REFUSAL_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    ApiError::refused(status, format!("the request is not understood: {text}")).into_response()
}

fn request_id(app: &App, request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID);
    match given.filter(|id| id.len() <= MAX_REQUEST_ID_BYTES && id.to_str().is_ok()) {
        Some(id) => id.clone(),
        None => HeaderValue::from(app.requests.fetch_add(1, Ordering::Relaxed) + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_lists_every_route_and_resolves() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let mut listed: Vec<&str> = paths.keys().map(String::as_str).collect();
        let mut served: Vec<&str> = routes().iter().map(|(path, _)| *path).collect();
        listed.sort_unstable();
        served.sort_unstable();
        assert_eq!(listed, served);
        let text = OPENAPI.to_owned();
        for reference in text.split("\"$ref\": \"#/").skip(1) {
            let pointer = format!("/{}", reference.split('"').next().unwrap());
            assert!(document.pointer(&pointer).is_some(), "{pointer}");
        }
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().unwrap() {
                assert!(operation["summary"].is_string(), "{method} {path}");
                assert!(operation["responses"].is_object(), "{method} {path}");
            }
        }
    }
}
