//! Wrong requests: the status, and a body that names the stream, the row, the field and the fix.

use crate::*;

#[tokio::test]
async fn rows_that_do_not_fit_are_named() {
    let running = start().await;
    let mut body = lines(16);
    body.push_str("{\"id\":17,\"dep_delay\":\"abc\"}\n");
    body.push_str(&lines(3));
    let wrong = running.events("application/x-ndjson", body).await;
    let wrong = error(wrong, 400, "invalid_value").await;
    assert_eq!(
        wrong["message"],
        "row 17: field \"dep_delay\": expected integer, found string \"abc\""
    );
    assert_eq!((&wrong["row"], &wrong["field"]), (&json!(17), &json!("dep_delay")));
    assert_eq!(wrong["stream"], "flights");
    assert!(wrong["hint"].is_string());

    let broken = running.events("application/x-ndjson", "{\"id\":1}\n{\"id\":2,\n").await;
    let broken = error(broken, 400, "invalid_value").await;
    assert_eq!(broken["row"], 2);
    assert!(broken["message"].as_str().unwrap().contains("not valid JSON"), "{broken}");

    let missing = running.events("application/json", "[{\"carrier\":\"UA\"}]").await;
    let missing = error(missing, 400, "invalid_value").await;
    assert_eq!((&missing["row"], &missing["field"]), (&json!(1), &json!("id")));

    let unknown = running.events("text/csv", "id,carier\n1,UA\n").await;
    let unknown = error(unknown, 400, "invalid_value").await;
    assert_eq!(unknown["field"], "carier");
    assert!(unknown["hint"].as_str().unwrap().contains("carrier"), "{unknown}");

    let damaged = running.events("application/vnd.apache.parquet", "PAR1 nothing PAR1").await;
    error(damaged, 400, "invalid_value").await;

    let counted = running.sql("SELECT count(*) FROM flights").await;
    assert_eq!(counted["rows"], json!([[0]]), "a refused request changes nothing");
    running.stop().await;
}

#[tokio::test]
async fn requests_that_are_not_understood() {
    let running = start().await;
    let unknown = running.post("/v1/streams/nowhere/events", "text/csv", "a\n1\n").await;
    let unknown = error(unknown, 404, "unknown_relation").await;
    assert!(unknown["message"].as_str().unwrap().contains("nowhere"), "{unknown}");

    let xml = running.events("application/xml", "<a/>").await;
    let xml = error(xml, 415, "unsupported_media_type").await;
    assert!(xml["hint"].as_str().unwrap().contains("application/x-ndjson"), "{xml}");

    let encoded = running.client.post(format!("{}/v1/streams/flights/events", running.url));
    let encoded = encoded.header("content-type", "text/csv").header("content-encoding", "br");
    let encoded = encoded.body("x").send().await.unwrap();
    let encoded = error(encoded, 415, "unsupported_media_type").await;
    assert!(encoded["hint"].as_str().unwrap().contains("zstd"), "{encoded}");

    let half = running.client.post(format!("{}/v1/streams/flights/events", running.url));
    let half = half.header("content-type", "text/csv").header("x-kaplan-producer", "p");
    let half = half.body("id\n1\n").send().await.unwrap();
    error(half, 400, "invalid_input").await;

    error(running.get("/v2/nothing").await, 404, "not_found").await;
    error(running.get("/v1/sql").await, 405, "method_not_allowed").await;
    error(running.get("/v1/batch/runs/none").await, 404, "not_found").await;
    error(running.get("/v1/views/nowhere").await, 404, "unknown_relation").await;
    error(running.get("/v1/views/v?_wrong=1").await, 400, "invalid_input").await;
    error(running.get("/v1/views/%ff").await, 400, "invalid_input").await;
    let json = running.post("/v1/sql", "application/json", "{\"query\":").await;
    error(json, 400, "invalid_input").await;
    let other = running.post("/v1/sql", "application/json", "{\"sql\":\"select 1\"}").await;
    error(other, 400, "invalid_input").await;
    running.stop().await;
}

#[tokio::test]
async fn sql_errors_have_their_codes() {
    let running = start().await;
    for (sql, status, code) in [
        ("SELEC 1", 400, "syntax"),
        ("SELECT * FROM nowhere", 404, "unknown_relation"),
        ("SELECT nothing FROM flights", 400, "unknown_column"),
        ("CREATE STREAM flights (id BIGINT)", 409, "duplicate_relation"),
    ] {
        let response = running.post("/v1/sql", "text/plain", sql).await;
        error(response, status, code).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_the_limit_named() {
    let running = start().await;
    let body = vec![b' '; 100 << 20];
    let large = error(running.events("application/x-ndjson", body).await, 413, "too_large").await;
    assert!(large["message"].as_str().unwrap().contains(&MAX_BODY_BYTES.to_string()), "{large}");
    assert!(large["hint"].as_str().unwrap().contains("split"), "{large}");
    // The next request on the same client works.
    assert_eq!(running.events("application/x-ndjson", lines(1)).await.status(), 200);
    running.stop().await;
}

#[tokio::test]
async fn too_many_requests_under_way_are_refused_at_once() {
    let running = start_with(Options { max_in_flight: 0, ..Options::default() }).await;
    let response = running.events("application/x-ndjson", lines(1)).await;
    assert!(response.headers().contains_key("retry-after"));
    error(response, 429, "overloaded").await;
    running.stop().await;
}
