//! Reads over HTTP: results in every form, views, status, probes, metrics and the page.

use crate::*;

async fn with_view() -> Running {
    let running = start().await;
    running
        .sql(
            "CREATE MATERIALIZED VIEW delays WITH (architecture = 'lambda') AS \
             SELECT carrier, count(*) AS n, sum(dep_delay) AS total FROM flights GROUP BY carrier",
        )
        .await;
    let response = running.events("application/x-ndjson", lines(4)).await;
    let ack: Value = response.json().await.unwrap();
    let lsn = kaplan_base::Lsn(ack["lsn"].as_u64().unwrap());
    running.platform.wait_visible(lsn).await.unwrap();
    running
}

#[tokio::test]
async fn a_view_is_read_with_filters() {
    let running = with_view().await;
    let all: Value = running.get("/v1/views/delays").await.json().await.unwrap();
    assert_eq!(all["rows"], json!([["UA", 4, 10]]), "{all}");
    let none: Value = running.get("/v1/views/delays?carrier=XX").await.json().await.unwrap();
    assert_eq!(none["rows"], json!([]), "{none}");
    assert_eq!(none["columns"], all["columns"]);
    let speed: Value =
        running.get("/v1/views/delays?_layer=speed&_limit=1").await.json().await.unwrap();
    assert_eq!(speed["rows"].as_array().unwrap().len(), 1, "{speed}");
    error(running.get("/v1/views/delays?nothing=1").await, 400, "unknown_column").await;
    let listed: Value = running.get("/v1/views").await.json().await.unwrap();
    assert_eq!(listed["views"][0]["name"], "delays", "{listed}");
    let listed: Value = running.get("/v1/streams").await.json().await.unwrap();
    assert_eq!(listed["streams"][0]["name"], "flights", "{listed}");
    running.stop().await;
}

#[tokio::test]
async fn results_come_in_the_form_asked_for() {
    let running = with_view().await;
    let ask = |accept: &'static str| {
        let request = running.client.post(format!("{}/v1/sql", running.url));
        request
            .header("accept", accept)
            .json(&json!({"query": "SELECT carrier, n FROM delays"}))
            .send()
    };
    let csv = ask("text/csv").await.unwrap();
    assert!(csv.headers().contains_key("x-kaplan-lsn"));
    assert_eq!(csv.text().await.unwrap(), "carrier,n\nUA,4\n");
    let lines = ask("application/x-ndjson").await.unwrap().text().await.unwrap();
    assert_eq!(lines, "{\"carrier\":\"UA\",\"n\":4}\n");
    let bytes = ask("application/vnd.apache.arrow.stream").await.unwrap().bytes().await.unwrap();
    let rows: usize = arrow::ipc::reader::StreamReader::try_new(bytes.as_ref(), None)
        .unwrap()
        .map(|batch| batch.unwrap().num_rows())
        .sum();
    assert_eq!(rows, 1);
    let both = running.sql("SELECT 1 AS a; SELECT 'x' AS b").await;
    assert_eq!(both["rows"], json!([["x"]]), "{both}");
    assert_eq!(both["results"][0]["rows"], json!([[1]]), "{both}");
    running.stop().await;
}

#[tokio::test]
async fn batch_runs_are_started_once_a_key() {
    let running = with_view().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let request = running.client.post(format!("{}/v1/batch/runs", running.url));
        let response = request.header("idempotency-key", "night-1").send().await.unwrap();
        assert_eq!(response.status(), 202);
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        let run: Value = response.json().await.unwrap();
        assert_eq!(run["trigger"], "http");
        let again: Value = running.get(&location).await.json().await.unwrap();
        assert_eq!(again["id"], run["id"]);
        ids.push(run["id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    running.stop().await;
}

#[tokio::test]
async fn callers_without_a_token_reach_the_probes_only() {
    let oidc = kaplan_server::Oidc {
        issuer: "https://issuer.example".to_owned(),
        audience: "kaplan".to_owned(),
        ..Default::default()
    };
    let running = start_with(Options { oidc: Some(oidc), ..Options::default() }).await;
    for path in ["/livez", "/live", "/healthz", "/readyz", "/ready"] {
        assert_eq!(running.get(path).await.status(), 200, "{path}");
    }
    for path in ["/", "/metrics", "/v1/status", "/v1/views", "/openapi.json", "/nothing"] {
        let refused = running.get(path).await;
        assert_eq!(refused.status(), 401, "{path}");
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["error"]["code"], "unauthorized", "{body}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_schedulers_repeated_call_starts_one_run() {
    let running = with_view().await;
    let mut ids = Vec::new();
    for time in ["2026-01-05T03:00:00Z", "2026-01-05T03:00:00Z", "2026-01-06T03:00:00Z"] {
        let request = running.client.post(format!("{}/v1/batch/runs", running.url));
        let request = request
            .header("x-cloudscheduler-jobname", "kaplan-batch")
            .header("x-cloudscheduler-scheduletime", time)
            .header("content-type", "application/json")
            .body("{\"mode\":\"auto\"}");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 202);
        let run: Value = response.json().await.unwrap();
        ids.push(run["id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[1], ids[2]);
    running.stop().await;
}

#[tokio::test]
async fn probes_metrics_and_page_answer() {
    let running = with_view().await;
    for path in ["/livez", "/live", "/readyz", "/ready"] {
        assert_eq!(running.get(path).await.status(), 200, "{path}");
    }
    let status: Value = running.get("/v1/status").await.json().await.unwrap();
    assert_eq!(status["ready"], true);
    let metrics = running.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("kaplan_ingest_rows_total{stream=\"flights\"} 4"), "{metrics}");
    assert!(metrics.contains("route=\"/v1/streams/{name}/events\""), "{metrics}");
    let page = running.get("/").await.text().await.unwrap();
    assert!(page.contains("flights") && page.contains("delays"), "{page}");
    let api: Value = running.get("/openapi.json").await.json().await.unwrap();
    assert_eq!(api["openapi"], "3.1.0");
    let response = running.get("/livez").await;
    assert!(response.headers().contains_key("x-request-id"));
    running.stop().await;
}
