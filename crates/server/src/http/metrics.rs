//! `GET /metrics`, in Prometheus' text format. Counts of this wire are kept here; everything else
//! is read from the platform's status at each scrape, so that the two cannot disagree.

use super::App;
use super::error::ApiError;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use kaplan_platform::{Code, ConnectorStatus, Status};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const MICROS_PER_SECOND: f64 = 1e6;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: String,
    method: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stream {
    stream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operator {
    view: String,
    operator: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct View {
    view: String,
    architecture: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Quantile {
    quantile: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connector {
    name: String,
    connector: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lag {
    name: String,
    connector: String,
    unit: String,
}

/// A gauge that holds the 64-bit numbers of the platform.
type Number = Gauge<u64, AtomicU64>;
type Seconds = Gauge<f64, AtomicU64>;

/// What this wire counts.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    requests: Family<Request, Counter>,
    ingested: Family<Stream, Counter>,
}

impl Metrics {
    pub(super) fn request(&self, route: &str, method: &str, status: u16) {
        // Any word is a method to HTTP, and a label for each would never end.
        let method = if METHODS.contains(&method) { method } else { "other" };
        let labels = Request { route: route.to_owned(), method: method.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
    }

    pub(super) fn ingested(&self, stream: &str, rows: u64) {
        self.ingested.get_or_create(&Stream { stream: stream.to_owned() }).inc_by(rows);
    }

    fn render(&self, status: &Status) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("kaplan");
        let requests = self.requests.clone();
        registry.register("http_requests", "Requests by route, method and status", requests);
        let rows = self.ingested.clone();
        registry.register("ingest_rows", "Rows acknowledged over HTTP since start", rows);
        platform(&mut registry, status);
        streams(&mut registry, status);
        views(&mut registry, status);
        connectors(&mut registry, "source", &status.sources);
        connectors(&mut registry, "sink", &status.sinks);
        let mut text = String::new();
        encode_registry(&mut text, &registry)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

pub(super) async fn show(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let text = app.metrics.render(&app.platform.status()?).map_err(|e| {
        ApiError::new(Code::Internal, format!("the metrics cannot be written: {e}"))
    })?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

fn platform(registry: &mut Registry, status: &Status) {
    let numbers = [
        ("ready", "1 if reads and writes are accepted", u64::from(status.ready)),
        ("durable_lsn", "The last durable commit", status.durable_lsn.0),
        ("served_lsn", "The last commit that every running view shows", status.served_lsn.0),
        ("archived_lsn", "The last commit that the lake holds", status.archived_lsn.0),
        ("log_start_lsn", "The first commit that the log's tail holds", status.log_start_lsn.0),
        ("log_bytes", "Size of the log's tail", status.log_bytes),
        ("state_limit_bytes", "Memory that state may take", status.memory.state_limit_bytes),
        ("state_memory_bytes", "Memory that state takes", status.memory.state_bytes),
        ("state_file_bytes", "State in files, beyond the limit", status.memory.state_file_bytes),
        ("query_memory_bytes", "Memory that queries have reserved", status.memory.query_bytes),
    ];
    for (name, help, value) in numbers {
        let gauge = Number::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    if let Some(replica) = &status.replica {
        let behind = Number::default();
        behind.set(replica.commits_behind);
        let help = "Commits between what the bucket holds and what this read replica serves";
        registry.register("replica_commits_behind", help, behind);
        let looked = Seconds::default();
        looked.set(replica.looked_us_ago.map_or(f64::NAN, |us| us as f64 / MICROS_PER_SECOND));
        let help = "Time since this read replica looked at the bucket";
        registry.register("replica_silent_seconds", help, looked);
    }
    let uptime = Seconds::default();
    uptime.set(status.uptime_us as f64 / MICROS_PER_SECOND);
    registry.register("uptime_seconds", "Time since start", uptime);
    let freshness = Family::<Quantile, Seconds>::default();
    if let Some((p50, p99)) = status.freshness_us {
        for (quantile, micros) in [("0.5", p50), ("0.99", p99)] {
            let labels = Quantile { quantile: quantile.to_owned() };
            freshness.get_or_create(&labels).set(micros as f64 / MICROS_PER_SECOND);
        }
    }
    registry.register("freshness_seconds", "From acknowledged to visible", freshness);
}

fn streams(registry: &mut Registry, status: &Status) {
    let families = [
        ("stream_rows", "Rows committed", Family::<Stream, Counter>::default()),
        ("stream_duplicates", "Duplicates dropped since start", Family::default()),
        ("stream_late", "Late rows since start", Family::default()),
        ("stream_quarantined", "Rows quarantined since start", Family::default()),
        ("stream_dropped", "Rows dropped by a check since start", Family::default()),
    ];
    for stream in &status.streams {
        let labels = Stream { stream: stream.name.clone() };
        let counts =
            [stream.rows, stream.duplicates, stream.late, stream.quarantined, stream.dropped];
        for ((_, _, family), count) in families.iter().zip(counts) {
            family.get_or_create(&labels).inc_by(count);
        }
    }
    for (name, help, family) in families {
        registry.register(name, help, family);
    }
}

fn views(registry: &mut Registry, status: &Status) {
    let families = [
        ("view_running", "1 if the view takes in commits", Family::<View, Number>::default()),
        ("view_lsn", "The last commit that the view has taken in", Family::default()),
        ("view_state_rows", "Rows of state", Family::default()),
        ("view_state_bytes", "Bytes of state", Family::default()),
    ];
    let batch_lsn = Family::<View, Number>::default();
    for view in &status.views {
        let (name, architecture) = (view.name.clone(), view.architecture.clone());
        let labels = View { view: name, architecture };
        let running = u64::from(view.state == "running");
        let values = [running, view.lsn.0, view.state_rows, view.state_bytes];
        for ((_, _, family), value) in families.iter().zip(values) {
            family.get_or_create(&labels).set(value);
        }
        if let Some(lsn) = view.batch_lsn {
            batch_lsn.get_or_create(&labels).set(lsn.0);
        }
    }
    for (name, help, family) in families {
        registry.register(name, help, family);
    }
    registry.register("view_batch_lsn", "The LSN of the published batch view", batch_lsn);
    operators(registry, status);
}

fn operators(registry: &mut Registry, status: &Status) {
    let (rows, bytes) =
        (Family::<Operator, Number>::default(), Family::<Operator, Number>::default());
    for view in &status.views {
        for operator in &view.operators {
            let labels = Operator { view: view.name.clone(), operator: operator.name.clone() };
            rows.get_or_create(&labels).set(operator.state_rows);
            bytes.get_or_create(&labels).set(operator.state_bytes);
        }
    }
    registry.register("operator_state_rows", "Rows that an operator of a view keeps", rows);
    registry.register("operator_state_bytes", "Bytes of them", bytes);
}

/// Sources or sinks.
fn connectors(registry: &mut Registry, what: &str, all: &[ConnectorStatus]) {
    let running = Family::<Connector, Number>::default();
    let lag = Family::<Lag, Number>::default();
    let rows = Family::<Connector, Counter>::default();
    let errors = Family::<Connector, Counter>::default();
    for c in all {
        let (name, connector) = (c.name.clone(), c.connector.clone());
        let labels = Connector { name: name.clone(), connector: connector.clone() };
        running.get_or_create(&labels).set(u64::from(c.state == "running"));
        rows.get_or_create(&labels).inc_by(c.rows);
        errors.get_or_create(&labels).inc_by(c.errors);
        if let (Some(amount), Some(unit)) = (c.lag, c.lag_unit.clone()) {
            lag.get_or_create(&Lag { name, connector, unit }).set(amount);
        }
    }
    let named = |part: &str| format!("{what}_{part}");
    registry.register(named("running"), "1 if it reads or writes", running);
    registry.register(named("lag"), "How far it is behind, by unit", lag);
    registry.register(named("rows"), "Rows since start", rows);
    if what == "source" {
        registry.register(named("errors"), "Records in its ledger", errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::page::tests::status;

    #[test]
    fn everything_has_a_line() {
        let metrics = Metrics::default();
        metrics.request("/v1/sql", "POST", 200);
        metrics.request("/v1/sql", "POST", 200);
        metrics.ingested("flights", 12);
        let text = metrics.render(&status()).unwrap();
        for line in [
            "kaplan_http_requests_total{route=\"/v1/sql\",method=\"POST\",status=\"200\"} 2",
            "kaplan_ingest_rows_total{stream=\"flights\"} 12",
            "kaplan_ready 1",
            "kaplan_durable_lsn 120",
            "kaplan_freshness_seconds{quantile=\"0.99\"} 0.0125",
            "kaplan_stream_rows_total{stream=\"flights\"} 336776",
            "kaplan_view_batch_lsn{view=\"delays\",architecture=\"lambda\"} 90",
            "kaplan_operator_state_rows{view=\"delays\",operator=\"1 Join\"} 12",
            "kaplan_source_running{name=\"clicks\",connector=\"kafka\"} 0",
            "kaplan_source_lag{name=\"clicks\",connector=\"kafka\",unit=\"records\"} 1234",
            "kaplan_source_errors_total{name=\"clicks\",connector=\"kafka\"} 7",
            "kaplan_sink_rows_total{name=\"copy\",connector=\"kafka\"} 99",
            "kaplan_view_running{view=\"<broken>\",architecture=\"kappa\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
