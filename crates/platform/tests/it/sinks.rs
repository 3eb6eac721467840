//! Relations written to other systems, real ones: every change once, over restarts on both sides.

use crate::broker::Broker;
use crate::kafka::until;
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
async fn settled(k: &mut Running) {
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
    for round in 0..3 {
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
    assert!(all.len() <= 9, "written twice: {all:?}");
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
