//! The wires in front of a real platform in a temporary directory: what clients send, and what they
//! are told when it is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it leaves out"
)]

mod clients;
mod http_errors;
mod http_reads;
mod postgres;
mod replayed;
mod secured;
mod wire;

use kaplan_base::SystemClock;
use kaplan_platform::{Platform, Settings};
use kaplan_server::{Options, Server};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::oneshot;

const MAX_BODY_BYTES: usize = 1 << 20;

struct Running {
    url: String,
    postgres: SocketAddr,
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
    platform: Platform,
    directory: tempfile::TempDir,
}

/// A server on free ports, with one stream that requires an id.
async fn start() -> Running {
    start_with(Options::default()).await
}

async fn start_with(options: Options) -> Running {
    let open = options.oidc.is_none();
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { data_dir: directory.path().to_owned(), ..Settings::default() };
    let platform = Platform::open(settings, Arc::new(SystemClock)).await.unwrap();
    let any = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let options = Options { http: any, postgres: any, max_body_bytes: MAX_BODY_BYTES, ..options };
    let server = Server::bind(options).await.unwrap();
    let url = format!("http://{}", server.http_addr().unwrap());
    let postgres = server.postgres_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let serving = server.run(platform.clone(), shutdown);
    let served = tokio::spawn(async move { serving.await.unwrap() });
    let running = Running {
        url,
        postgres,
        client: Client::new(),
        stop: Some(stop),
        served,
        platform,
        directory,
    };
    if open {
        running
            .sql(
                "CREATE STREAM flights (id BIGINT NOT NULL, carrier TEXT, dep_delay INTEGER, \
                 at TIMESTAMP WITH TIME ZONE)",
            )
            .await;
    }
    running
}

impl Running {
    async fn post(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let request = self.client.post(format!("{}{path}", self.url));
        request.header("content-type", content_type).body(body).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    async fn events(&self, content_type: &str, body: impl Into<reqwest::Body>) -> Response {
        self.post("/v1/streams/flights/events", content_type, body).await
    }

    /// Runs SQL that must succeed.
    async fn sql(&self, sql: &str) -> Value {
        let response = self.post("/v1/sql", "text/plain", sql.to_owned()).await;
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, 200, "{sql}: {body}");
        body
    }

    async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        (&mut self.served).await.unwrap();
        self.platform.close().await.unwrap();
        self.directory.close().unwrap();
    }
}

/// The error of a response that must be one.
async fn error(response: Response, status: u16, code: &str) -> Value {
    let given = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!((given.as_u16(), body["error"]["code"].as_str()), (status, Some(code)), "{body}");
    assert!(body["error"]["message"].is_string(), "{body}");
    body["error"].clone()
}

fn lines(rows: u64) -> String {
    (1..=rows)
        .map(|id| format!("{{\"id\":{id},\"carrier\":\"UA\",\"dep_delay\":{id}}}\n"))
        .collect()
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let options = Options { http: None, ..Options::default() };
    let any = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let first = Server::bind(Options { postgres: any, ..options.clone() }).await.unwrap();
    let taken = first.postgres_addr().unwrap();
    let second = Server::bind(Options { postgres: Some(taken), ..options }).await;
    let message = second.err().unwrap().to_string();
    assert!(message.contains(&taken.to_string()) && message.contains("PostgreSQL"), "{message}");
    assert!(message.contains("another program"), "{message}");
}

#[tokio::test]
async fn shutdown_ends_serving() {
    let running = start().await;
    let mut client = wire::Wire::connect(running.postgres).await;
    client.query("SELECT 1").await;
    let url = running.url.clone();
    running.stop().await;
    assert!(Client::new().get(format!("{url}/livez")).send().await.is_err());
}

#[tokio::test]
async fn rows_of_every_format_are_acknowledged() {
    let running = start().await;
    let csv = "id,carrier\n4,UA\n5,\n";
    for (content_type, body, rows) in [
        ("application/x-ndjson", lines(2), 2),
        ("application/json", "{\"id\":3}".to_owned(), 1),
        ("text/csv", csv.to_owned(), 2),
    ] {
        let response = running.events(content_type, body).await;
        let ack: Value = response.json().await.unwrap();
        assert_eq!(ack["rows"], rows, "{content_type}: {ack}");
        assert!(ack["lsn"].as_u64().unwrap() > 0, "{ack}");
    }
    let counted = running.sql("SELECT count(*) AS n FROM flights").await;
    assert_eq!(counted["rows"], json!([[5]]));
    assert_eq!(counted["columns"], json!([{"name": "n", "type": "bigint"}]));
    running.stop().await;
}

#[tokio::test]
async fn a_repeated_request_counts_once() {
    let running = start().await;
    let mut lsns = Vec::new();
    for _ in 0..2 {
        let request = running.client.post(format!("{}/v1/streams/flights/events", running.url));
        let response = request
            .header("content-type", "application/x-ndjson")
            .header("x-kaplan-producer", "p1")
            .header("x-kaplan-sequence", "7")
            .body(lines(3))
            .send()
            .await
            .unwrap();
        let ack: Value = response.json().await.unwrap();
        lsns.push(ack["lsn"].as_u64().unwrap());
    }
    assert_eq!(lsns[0], lsns[1]);
    let counted = running.sql("SELECT count(*) FROM flights").await;
    assert_eq!(counted["rows"], json!([[3]]));
    running.stop().await;
}

/// `id,carrier\n1,UA\n2,\n`
const GZIP: [u8; 39] = [
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 203, 76, 209, 73, 78, 44, 42, 202, 76, 45, 226, 50, 212, 9,
    117, 228, 50, 210, 225, 2, 0, 110, 154, 12, 24, 19, 0, 0, 0,
];

#[tokio::test]
async fn compressed_bodies_are_read_and_damaged_ones_refused() {
    let running = start().await;
    let send = |body: Vec<u8>| {
        let request = running.client.post(format!("{}/v1/streams/flights/events", running.url));
        let request = request.header("content-type", "text/csv").header("content-encoding", "gzip");
        request.body(body).send()
    };
    let ack: Value = send(GZIP.to_vec()).await.unwrap().json().await.unwrap();
    assert_eq!(ack["rows"], 2, "{ack}");
    let damaged = send(GZIP[..20].to_vec()).await.unwrap();
    error(damaged, 400, "invalid_input").await;
    running.stop().await;
}
