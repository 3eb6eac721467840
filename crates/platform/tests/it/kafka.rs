//! Topics as sources, from a real broker: exactly once over restarts, every format, and what is
//! wrong in a topic.

use crate::broker::{Broker, Sent};
use crate::support::Running;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is this.
pub async fn until(k: &mut Running, sql: &str, expected: &[&str]) {
    let since = Instant::now();
    loop {
        let answer = k.table(sql).await;
        if answer == expected {
            return;
        }
        if since.elapsed() > PATIENCE {
            let sources = k.table("SHOW SOURCES").await;
            let sinks = k.table("SHOW SINKS").await;
            panic!("{sql}: {answer:?} is not {expected:?}\n{sources:?}\n{sinks:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn events(from: usize, to: usize) -> Vec<(i32, String)> {
    let event = |i: usize| {
        let (who, partition) = (["ada", "bob", "cyd"][i % 3], (i % 3) as i32);
        (partition, format!(r#"{{"id": {i}, "who": "{who}", "amount": {i}.50, "more": [1]}}"#))
    };
    (from..to).map(event).collect()
}

async fn send(broker: &Broker, topic: &str, events: &[(i32, String)]) {
    let sent: Vec<Sent<'_>> = events
        .iter()
        .map(|(partition, value)| Sent { partition: *partition, key: None, value: Some(value) })
        .collect();
    broker.send(topic, &sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_counted_once_over_restarts() {
    let Some(broker) = Broker::shared() else { return };
    broker.create("events", 3).await;
    send(&broker, "events", &events(0, 1_000)).await;
    let (dir, mut k) = Running::start(&format!(
        "CREATE SOURCE events (id bigint NOT NULL, who text, amount numeric(10, 2))
         INCLUDE PARTITION AS part INCLUDE OFFSET AS off INCLUDE TIMESTAMP AS at
         INCLUDE HEADER 'trace' AS trace
         WITH ({}) FORMAT PLAIN ENCODE JSON;
         CREATE MATERIALIZED VIEW per_who AS
           SELECT who, count(*) AS n, sum(amount) AS total FROM events GROUP BY who;
         CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n, count(DISTINCT id) AS ids
           FROM events",
        broker.with("events")
    ))
    .await;
    until(&mut k, "SELECT n, ids FROM total", &["1000|1000"]).await;
    for round in 1..5 {
        // One round is stopped in the middle of reading, the next one is stopped when it is idle.
        send(&broker, "events", &events(round * 1_000, round * 1_000 + 1_000)).await;
        if round % 2 == 0 {
            let n = ((round + 1) * 1_000).to_string();
            until(&mut k, "SELECT n FROM total", &[&n]).await;
        }
        k.platform.close().await.unwrap();
        drop(k);
        k = Running::open(dir.path()).await;
    }
    until(&mut k, "SELECT n, ids FROM total", &["5000|5000"]).await;
    let bad = [(0, "{\"id\": 1".to_owned()), (1, "{\"id\": \"x\"}".into()), (2, "{}".into())];
    send(&broker, "events", &bad).await;
    send(&broker, "events", &[(0, r#"{"who": "no id"}"#.to_owned())]).await;
    send(&broker, "events", &events(5_000, 5_003)).await;
    until(&mut k, "SELECT n, ids FROM total", &["5003|5003"]).await;
    until(&mut k, "SELECT count(*), count(DISTINCT split) FROM events_errors", &["4|3"]).await;
    let reasons = k.table("SELECT split, position, field FROM events_errors ORDER BY 1, 2").await;
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert!(reasons.iter().any(|r| r.ends_with("|id")), "{reasons:?}");
    assert_eq!(
        k.table("SELECT part, off, at, trace FROM events WHERE id = 3").await,
        ["0|1|2023-11-14T22:13:20Z|7431"]
    );
    k.verify("per_who").await;
    let shown = k.table("SHOW SOURCES").await;
    assert!(shown[0].starts_with("events|kafka|running|0:"), "{shown:?}");
    k.sql("ALTER SOURCE events PAUSE").await;
    until(&mut k, "SHOW SCHEMAS", &["public"]).await;
    k.sql("DROP MATERIALIZED VIEW per_who, total; DROP SOURCE events").await;
    assert!(k.table("SHOW SOURCES").await.is_empty());
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn upserts_and_tombstones() {
    let Some(broker) = Broker::shared() else { return };
    broker.create("users", 2).await;
    let (dir, mut k) = Running::start(&format!(
        "CREATE TABLE users (id text, name text, PRIMARY KEY (id)) INCLUDE KEY AS id
         WITH ({}) FORMAT UPSERT ENCODE JSON;
         CREATE MATERIALIZED VIEW names AS SELECT name, count(*) AS n FROM users GROUP BY name",
        broker.with("users")
    ))
    .await;
    let put = |partition, key, value| Sent { partition, key: Some(key), value };
    let rows = [
        put(0, "a", Some(r#"{"name": "ada"}"#)),
        put(1, "b", Some(r#"{"name": "bob"}"#)),
        put(0, "c", Some(r#"{"name": "cyd"}"#)),
        put(0, "a", None),
        put(0, "c", Some(r#"{"name": "ada"}"#)),
        put(1, "b", None),
        put(1, "b", Some(r#"{"name": "bea"}"#)),
        put(1, "d", Some("{")),
    ];
    broker.send("users", &rows).await;
    until(&mut k, "SELECT * FROM users ORDER BY id", &["b|bea", "c|ada"]).await;
    until(&mut k, "SELECT key, record FROM users_errors", &["d|{"]).await;
    k.platform.close().await.unwrap();
    drop(k);
    let mut k = Running::open(dir.path()).await;
    broker.send("users", &[put(0, "c", None)]).await;
    until(&mut k, "SELECT * FROM names", &["bea|1"]).await;
    k.verify("names").await;
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn debezium_with_and_without_its_wrapper() {
    let Some(broker) = Broker::shared() else { return };
    broker.create("db.shop.items", 1).await;
    let (_dir, mut k) = Running::start(&format!(
        "CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(8, 2))
         WITH ({}) FORMAT DEBEZIUM ENCODE JSON",
        broker.with("db.shop.items")
    ))
    .await;
    let event = |value| Sent { partition: 0, key: Some(r#"{"id": 1}"#), value };
    let wrapped = r#"{"schema": {"type": "struct"}, "payload":
        {"before": null, "after": {"id": 2, "name": "pen", "price": "2.00"}, "op": "r"}}"#;
    let events = [
        event(Some(r#"{"before":null,"after":{"id":1,"name":"ink","price":"3.10"},"op":"c"}"#)),
        event(Some(wrapped)),
        event(Some(r#"{"before":{"id":1},"after":{"id":1,"name":"ink","price":4},"op":"u"}"#)),
        event(Some(r#"{"before":{"id":2,"name":"pen"},"after":null,"op":"d"}"#)),
        event(None),
        event(Some(r#"{"after":{"id":3,"name":"cap","price":"1"},"op":"c"}"#)),
        event(Some(r#"{"id":4}"#)),
    ];
    broker.send("db.shop.items", &events).await;
    until(&mut k, "SELECT * FROM items ORDER BY id", &["1|ink|4.00", "3|cap|1.00"]).await;
    until(&mut k, "SELECT position FROM items_errors", &["6"]).await;
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_come_grow_and_go() {
    let Some(broker) = Broker::shared() else { return };
    let (dir, mut k) = Running::start(&format!(
        "CREATE SOURCE late (id bigint) WITH ({}, scan.startup.mode = 'latest')
         FORMAT PLAIN ENCODE JSON;
         CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM late",
        broker.with("late")
    ))
    .await;
    let state = "SHOW SOURCES";
    let word = |shown: Vec<String>| shown[0].split('|').nth(2).unwrap_or_default().to_owned();
    let since = Instant::now();
    while word(k.table(state).await) != "retrying" {
        assert!(since.elapsed() < PATIENCE, "{:?}", k.table(state).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.create("late", 1).await;
    let one = |id: usize| vec![(0, format!("{{\"id\": {id}}}"))];
    send(&broker, "late", &one(0)).await;
    while word(k.table(state).await) != "running" {
        assert!(since.elapsed() < PATIENCE * 2, "{:?}", k.table(state).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // "Latest" is where it was when the source first saw the topic, also over a restart.
    let begun = k.table("SELECT n FROM n").await;
    k.platform.close().await.unwrap();
    drop(k);
    send(&broker, "late", &one(1)).await;
    broker.widen("late", 2).await;
    send(&broker, "late", &[(1, "{\"id\": 2}".to_owned())]).await;
    let mut k = Running::open(dir.path()).await;
    let n: usize = begun[0].parse().unwrap();
    until(&mut k, "SELECT n FROM n", &[&(n + 2).to_string()]).await;
    // A partition that appears while it reads.
    broker.widen("late", 3).await;
    send(&broker, "late", &[(2, "{\"id\": 3}".to_owned())]).await;
    until(&mut k, "SELECT n FROM n", &[&(n + 3).to_string()]).await;
    // A topic that is gone, and comes back with less in it, is told and not guessed about.
    broker.delete("late").await;
    while word(k.table(state).await) == "running" {
        assert!(since.elapsed() < PATIENCE * 4, "{:?}", k.table(state).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.create("late", 3).await;
    while word(k.table(state).await) != "stuck" {
        assert!(since.elapsed() < PATIENCE * 5, "{:?}", k.table(state).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(k.table("SELECT n FROM n").await, [(n + 3).to_string()]);
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_definitions_are_refused() {
    let (_dir, mut k) = Running::start("").await;
    let json = "FORMAT PLAIN ENCODE JSON";
    let kafka = "connector = 'kafka', properties.bootstrap.server = 'localhost:1'";
    for (sql, message) in [
        ("CREATE SOURCE s (a int) WITH (connector = 'mysql-cdc')".to_owned(), "mysql-cdc"),
        (format!("CREATE SOURCE s (a int) WITH ({kafka}) {json}"), "topic is missing"),
        (format!("CREATE SOURCE s (a int) WITH ({kafka}, topic = 't')"), "no FORMAT"),
        (format!("CREATE SOURCE s (a int) WITH ({kafka}, topic = 't', x = 1) {json}"), "option x"),
        (
            format!("CREATE SOURCE s (a int) WITH ({kafka}, topic='t', properties.no = 1) {json}"),
            "properties.no",
        ),
        (
            format!("CREATE TABLE s (a int) WITH ({kafka}, topic = 't') FORMAT UPSERT ENCODE JSON"),
            "PRIMARY KEY",
        ),
        (
            format!("CREATE SOURCE s (a int) WITH ({kafka}, topic = 't') FORMAT PLAIN ENCODE XML"),
            "ENCODE XML",
        ),
        ("CREATE SOURCE s (a int)".to_owned(), "no connector"),
    ] {
        let error = k.fails(&sql).await;
        assert!(error.message.contains(message), "{sql}: {error:?}");
    }
    k.sql(&format!(
        "CREATE SOURCE s (a int) WITH ({kafka}, topic = 't', properties.sasl.password = 'hunter2')
         {json}"
    ))
    .await;
    let shown = k.table("SHOW CREATE SOURCE s").await;
    assert!(!shown.join("\n").contains("hunter2"), "{shown:?}");
    k.fails("CREATE STREAM s (a int)").await;
    let producer = kaplan_platform::Producer { id: "_source/1/0".into(), sequence: 1 };
    let refused = k.platform.append("s", Vec::new(), Some(producer)).await.unwrap_err();
    assert!(refused.message.contains("reserved"), "{refused:?}");
    k.platform.close().await.unwrap();
}

/// Zigzag, as Avro writes whole numbers.
fn zigzag(value: i64, out: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        out.push((left as u8 & 0x7f) | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// A record `{id, name}` behind the number of its schema.
fn avro(schema: u8, id: i64, name: &str) -> Vec<u8> {
    let mut record = vec![0, 0, 0, 0, schema];
    zigzag(id, &mut record);
    zigzag(name.len() as i64, &mut record);
    record.extend_from_slice(name.as_bytes());
    record
}

/// A schema registry that knows schema 1, and 2, which has one more field with nothing in it.
async fn registry() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let schema = |more: &str| {
        let fields =
            format!(r#"{{"name":"id","type":"long"}},{{"name":"name","type":"string"}}{more}"#);
        let schema = format!(r#"{{"type":"record","name":"r","fields":[{fields}]}}"#);
        serde_json::json!({ "schema": schema }).to_string()
    };
    let (first, second) = (schema(""), schema(r#",{"name":"more","type":"null"}"#));
    let serving = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 2048];
            let n = socket.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..n]).into_owned();
            let (status, body) = match head.split(' ').nth(1) {
                Some("/schemas/ids/1") => ("200 OK", first.as_str()),
                Some("/schemas/ids/2") => ("200 OK", second.as_str()),
                _ => ("404 Not Found", "{}"),
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (port, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn avro_with_a_schema_registry() {
    use rdkafka::producer::{FutureProducer, FutureRecord};
    let Some(broker) = Broker::shared() else { return };
    broker.create("avro", 1).await;
    let (port, serving) = registry().await;
    let (_dir, mut k) = Running::start(&format!(
        "CREATE SOURCE avro (id bigint NOT NULL, name text, extra text) WITH ({})
         FORMAT PLAIN ENCODE AVRO (schema.registry = 'http://127.0.0.1:{port}')",
        broker.with("avro")
    ))
    .await;
    let producer: FutureProducer = broker.config().create().unwrap();
    let cut = avro(1, 4, "cut")[..8].to_vec();
    let records =
        [avro(1, 1, "ada"), avro(2, -2, "bob"), avro(9, 3, "no schema"), cut, avro(1, 5, "eve")];
    for record in &records {
        let record = FutureRecord::<str, [u8]>::to("avro").payload(record.as_slice());
        producer.send(record, PATIENCE).await.unwrap();
    }
    until(&mut k, "SELECT id, name FROM avro ORDER BY id", &["-2|bob", "1|ada", "5|eve"]).await;
    until(&mut k, "SELECT position FROM avro_errors ORDER BY 1", &["2", "3"]).await;
    k.platform.close().await.unwrap();
    serving.abort();
}
