//! Relations written to other systems, real ones: every change once, over restarts on both sides.

use crate::broker::Broker;
use crate::kafka::until;
use crate::postgres::upstream::Upstream;
use crate::support::Running;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// What an upsert topic says: the last value of every key, without those that went.
fn upserted(broker: &Broker, topic: &str) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for (_, key, value) in broker.read(topic) {
        let key = key.expect("a key");
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
    rows
}

/// Waits until every sink has everything.
pub async fn settled(k: &mut Running) {
    let since = Instant::now();
    loop {
        let sinks = k.table("SHOW SINKS").await;
        if sinks.iter().all(|s| s.contains("|running|") && s.contains("|0 commits|")) {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{sinks:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const SHOP: &str = "
    CREATE STREAM orders (id bigint, customer text, amount numeric(10, 2));
    CREATE MATERIALIZED VIEW sales AS
      SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer;";

#[tokio::test(flavor = "multi_thread")]
async fn a_view_and_a_stream_in_topics() {
    let Some(broker) = Broker::shared() else { return };
    broker.create("sales", 2).await;
    broker.create("copy", 1).await;
    let (dir, mut k) = Running::start(SHOP).await;
    k.sql("INSERT INTO orders VALUES (1, 'ada', 10.00), (2, 'bob', 20.00)").await;
    k.sql(&format!(
        "CREATE SINK sales_out FROM sales WITH ({}) FORMAT UPSERT ENCODE JSON;
         CREATE SINK copy AS SELECT id, amount FROM orders WHERE amount > 5
           WITH ({}, type = 'append-only')",
        broker.with("sales"),
        broker.with("copy")
    ))
    .await;
    settled(&mut k).await;
    let ada = (r#"{"customer":"ada"}"#, r#"{"customer":"ada","n":1,"total":"10.00"}"#);
    let rows = upserted(&broker, "sales");
    assert_eq!(rows.get(ada.0).map(String::as_str), Some(ada.1));
    assert_eq!(rows.len(), 2);
    for round in 0..4 {
        let from = 10 + round * 10;
        let rows: Vec<String> =
            (from..from + 10).map(|i| format!("({i}, 'c{}', {i}.25)", i % 3)).collect();
        k.sql(&format!("INSERT INTO orders VALUES {}", rows.join(", "))).await;
        if round % 2 == 0 {
            settled(&mut k).await;
        }
        k.platform.close().await.unwrap();
        drop(k);
        k = Running::open(dir.path()).await;
    }
    settled(&mut k).await;
    let copied = broker.read("copy");
    assert_eq!(copied.len(), 42, "{copied:?}");
    let expected = k.table("SELECT customer, n, total FROM sales ORDER BY 1").await;
    let found: Vec<String> = upserted(&broker, "sales")
        .values()
        .map(|row| {
            let row: serde_json::Value = serde_json::from_str(row).unwrap();
            let text = |c: &str| row[c].as_str().unwrap_or_default().to_owned();
            format!("{}|{}|{}", text("customer"), row["n"], text("total"))
        })
        .collect();
    assert_eq!(found, expected);
    let error = k.fails("DROP MATERIALIZED VIEW sales").await;
    assert!(error.message.contains("sales_out"), "{error:?}");
    k.sql("DROP SINK sales_out, copy; DROP MATERIALIZED VIEW sales").await;
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_s_deletions_are_tombstones_and_a_broker_may_die() {
    let Some(broker) = Broker::new() else { return };
    broker.create("people", 1).await;
    broker.create("events", 2).await;
    let (_dir, mut k) = Running::start(&format!(
        "CREATE SOURCE events (id bigint, who text) WITH ({}) FORMAT PLAIN ENCODE JSON;
         CREATE MATERIALIZED VIEW seen AS SELECT who, count(*) AS n FROM events GROUP BY who;
         CREATE TABLE people (name text PRIMARY KEY, age int);
         CREATE SINK people_out FROM people WITH ({}, type = 'upsert')",
        broker.with("events"),
        broker.with("people")
    ))
    .await;
    let (mut sent, mut alive) = (0, 0);
    for round in 0..2 {
        let values: Vec<String> =
            (sent..sent + 200).map(|i| format!("{{\"id\":{i},\"who\":\"w{}\"}}", i % 7)).collect();
        let records: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(i, value)| crate::broker::Sent {
                partition: (i % 2) as i32,
                key: None,
                value: Some(value.as_str()),
            })
            .collect();
        broker.send("events", &records).await;
        sent += 200;
        k.sql(&format!("INSERT INTO people VALUES ('p{round}', {round}), ('q{round}', 1)")).await;
        broker.kill();
        k.sql(&format!("DELETE FROM people WHERE name = 'q{round}'")).await;
        alive += 1;
        broker.start();
        let sum = sent.to_string();
        until(&mut k, "SELECT sum(n) FROM seen", &[&sum]).await;
        settled(&mut k).await;
        assert_eq!(upserted(&broker, "people").len(), alive);
    }
    k.verify("seen").await;
    let all = broker.read("people");
    assert!(all.len() <= 6, "written twice: {all:?}");
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_that_cannot_be_right_are_refused() {
    let (_dir, mut k) = Running::start(SHOP).await;
    let kafka = "connector = 'kafka', topic = 't', properties.bootstrap.server = 'localhost:1'";
    for (sql, message) in [
        ("CREATE SINK s FROM sales WITH (connector = 'jdbc')".to_owned(), "jdbc"),
        (format!("CREATE SINK s FROM sales WITH ({kafka}, type = 'append-only')"), "only appends"),
        (
            format!("CREATE SINK s AS SELECT n FROM sales WITH ({kafka}, type = 'upsert')"),
            "has no key",
        ),
        (format!("CREATE SINK s FROM sales WITH ({kafka}, primary_key = 'x')"), "has no column x"),
        (format!("CREATE SINK s FROM nothing WITH ({kafka})"), "nothing"),
        (
            format!("CREATE SINK s AS SELECT * FROM orders ORDER BY id LIMIT 3 WITH ({kafka})"),
            "LIMIT",
        ),
        (format!("CREATE SINK s FROM orders WITH ({kafka}, colour = 1)"), "option colour"),
    ] {
        let error = k.fails(&sql).await;
        assert!(error.message.contains(message), "{sql}: {error:?}");
    }
    assert!(k.table("SHOW SINKS").await.is_empty());
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_in_a_table_of_postgresql() {
    let tables = "CREATE TABLE sales (customer text PRIMARY KEY, n bigint, total numeric(20, 2));
                  CREATE TABLE log (id bigint, amount numeric(10, 2), at timestamptz, tags text[],
                                    doc jsonb, raw bytea)";
    let Some(server) = Upstream::start(tables).await else { return };
    let (dir, mut k) = Running::start(&format!(
        "{SHOP} CREATE STREAM log (id bigint, amount numeric(10, 2), at timestamptz, tags text[],
           doc jsonb, raw bytea)"
    ))
    .await;
    k.sql("INSERT INTO orders VALUES (1, 'ada', 10.00), (2, 'bob', 20.00)").await;
    let with = |table: &str| {
        format!(
            "connector = 'postgres', host = '127.0.0.1', port = {}, user = 'postgres',
             database = 'postgres', table = '{table}'",
            server.port
        )
    };
    k.sql(&format!(
        "CREATE SINK sales_out FROM sales WITH ({}, type = 'upsert');
         CREATE SINK log_out FROM log WITH ({})",
        with("sales"),
        with("log")
    ))
    .await;
    let row = "12.50, '2024-01-31T12:00:00Z', ARRAY['a', 'b'], '{\"x\": [1, null]}', '\\x0aff'";
    for round in 0..3 {
        k.sql(&format!(
            "INSERT INTO orders VALUES ({round}, 'ada', 1.25), (7, 'c{round}', 2);
             INSERT INTO log VALUES ({round}, {row}), ({round}, NULL, NULL, NULL, NULL, NULL)"
        ))
        .await;
        if round == 1 {
            assert!(server.run("kill"));
            k.sql("INSERT INTO orders VALUES (9, 'dan', 1)").await;
            assert!(server.run("start"));
        }
        k.platform.close().await.unwrap();
        drop(k);
        k = Running::open(dir.path()).await;
    }
    settled(&mut k).await;
    let expected = k.table("SELECT customer, n, total FROM sales ORDER BY 1").await;
    assert_eq!(server.lines("SELECT customer, n, total FROM sales ORDER BY 1").await, expected);
    assert_eq!(expected.len(), 6);
    let log = server.lines("SELECT amount, at, tags, doc, raw FROM log WHERE id = 2").await;
    assert_eq!(log, ["12.50|2024-01-31 12:00:00+00|{a,b}|{\"x\": [1, null]}|\\x0aff", "||||"]);
    assert_eq!(server.lines("SELECT count(*) FROM log").await, ["6"]);
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn days_of_every_year_arrive() {
    let table = "CREATE TABLE days (id int PRIMARY KEY, day date, days date[])";
    let Some(server) = Upstream::start(table).await else { return };
    let (_dir, mut k) = Running::start("CREATE STREAM since (id int, n int)").await;
    k.sql(&format!(
        "CREATE SINK days_out AS SELECT id, DATE '1970-01-01' + n AS day,
           ARRAY[DATE '1970-01-01' + n] AS days FROM since WITH (
           connector = 'postgres', host = '127.0.0.1', port = {}, user = 'postgres',
           database = 'postgres', table = 'days', type = 'append-only')",
        server.port
    ))
    .await;
    settled(&mut k).await;
    // The first of these is in the year 300000.
    k.sql("INSERT INTO since VALUES (1, 108853222), (2, 0)").await;
    let (days, since) = ("SELECT id, day, days FROM days ORDER BY id", Instant::now());
    while server.lines(days).await != ["1|300000-01-01|{300000-01-01}", "2|1970-01-01|{1970-01-01}"]
    {
        let sinks = k.table("SHOW SINKS").await;
        assert!(since.elapsed() < PATIENCE, "{:?}\n{sinks:?}", server.lines(days).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_parquet_files_and_at_a_webhook() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, mut k) = Running::start(SHOP).await;
    // A listener that answers 200 to whatever comes.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let ear = std::sync::Arc::clone(&heard);
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut text = Vec::new();
            let mut part = [0; 4096];
            // One request a connection: its head ends with an empty line, its body is a line a row.
            while !String::from_utf8_lossy(&text).contains("}}") {
                match socket.read(&mut part).await {
                    Ok(n) if n > 0 => text.extend_from_slice(&part[..n]),
                    _ => break,
                }
            }
            ear.lock().unwrap().push_str(&String::from_utf8_lossy(&text));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = socket.write_all(answer).await;
        }
    });
    k.sql(&format!(
        "CREATE SINK files FROM orders WITH (connector = 'file', path = '{}');
         CREATE SINK hook FROM sales WITH (connector = 'webhook', type = 'upsert',
           url = 'http://127.0.0.1:{port}/x', header.authorization = 'Bearer hunter2')",
        folder.path().display()
    ))
    .await;
    for round in 0..3 {
        k.sql(&format!("INSERT INTO orders VALUES ({round}, 'ada', 1.25)")).await;
        settled(&mut k).await;
        k.platform.close().await.unwrap();
        drop(k);
        k = Running::open(dir.path()).await;
    }
    settled(&mut k).await;
    k.sql(&format!(
        "CREATE STREAM back (id bigint, customer text, amount numeric(10, 2));
         COPY back FROM '{}/*.parquet'",
        folder.path().display()
    ))
    .await;
    let rows = k.table("SELECT id, customer, amount FROM back ORDER BY 1").await;
    assert_eq!(rows, ["0|ada|1.25", "1|ada|1.25", "2|ada|1.25"]);
    let heard = heard.lock().unwrap().clone();
    let last = r#"{"op":"update","row":{"customer":"ada","n":3,"total":"3.75"}}"#;
    assert!(heard.contains(last) && heard.contains("x-kaplan-lsn"), "{heard}");
    let shown = k.table("SHOW CREATE SINK hook").await;
    assert!(!shown.join("\n").contains("hunter2"), "{shown:?}");
    k.platform.close().await.unwrap();
    server.abort();
}
