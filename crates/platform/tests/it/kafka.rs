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
    for sql in ["INSERT INTO s VALUES (1)", "DELETE FROM s", "UPDATE s SET a = 1"] {
        let error = k.fails(sql).await;
        assert!(!error.message.is_empty(), "{sql}: {error:?}");
    }
    let error = k.fails("INSERT INTO s VALUES (1)").await;
    assert_eq!(error.code, kaplan_platform::Code::WrongObject, "{error:?}");
    assert!(error.message.contains("cannot write to source \"s\""), "{error:?}");
    let refused = k.platform.append("s", Vec::new(), None).await.unwrap_err();
    assert!(refused.message.contains("cannot write to source"), "{refused:?}");
    // A table with a connector of its own takes rows of others too, as in RisingWave.
    k.sql(&format!("CREATE TABLE t (a int PRIMARY KEY) WITH ({kafka}, topic = 't') {json}")).await;
    k.sql("INSERT INTO t VALUES (1)").await;
    let producer = kaplan_platform::Producer { id: "_source/1/0".into(), sequence: 1 };
    let refused = k.platform.append("t", Vec::new(), Some(producer)).await.unwrap_err();
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

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_come_and_go() {
    let Some(broker) = Broker::shared() else { return };
    broker.create("drift", 1).await;
    let with = broker.with("drift");
    let source = |name: &str, columns: &str, more: &str| {
        format!(
            "CREATE SOURCE {name} (id bigint, who text{columns}) WITH ({with}{more})
             FORMAT PLAIN ENCODE JSON;"
        )
    };
    let sql = [
        source("ignoring", "", ""),
        source("strict", "", ", unknown_fields = 'error', missing_fields = 'error'"),
        source("keeping", ", rest jsonb", ", unknown_fields_column = 'rest'"),
    ];
    let (_dir, mut k) = Running::start(&sql.concat()).await;
    let records = [
        r#"{"id": 1, "who": "ada"}"#,
        r#"{"id": 2, "who": "bob", "city": "Ulm", "at": {"x": [1]}}"#,
        r#"{"id": 3}"#,
        // Widened, and narrowed again.
        r#"{"id": 9007199254740993, "who": "cyd"}"#,
        r#"{"id": 4.5, "who": "dan"}"#,
        r#"{"id": "5", "who": 6}"#,
        r#"{"id": 7, "who": "eve"}"#,
    ];
    let records: Vec<_> = records.iter().map(|r| (0, (*r).to_owned())).collect();
    send(&broker, "drift", &records).await;
    let all = ["1", "2", "3", "7", "9007199254740993"];
    for name in ["ignoring", "keeping"] {
        let ids = format!("SELECT id FROM {name} WHERE id <> 5 ORDER BY id");
        until(&mut k, &ids, &all).await;
    }
    until(
        &mut k,
        "SELECT id FROM strict WHERE id <> 5 ORDER BY id",
        &["1", "7", "9007199254740993"],
    )
    .await;
    let kept = k.table("SELECT rest->>'city', rest->'at'->'x'->>0 FROM keeping WHERE id = 2").await;
    assert_eq!(kept, ["Ulm|1"]);
    let fields = k.table("SELECT field FROM strict_errors ORDER BY position").await;
    assert!(fields.starts_with(&["city".to_owned(), "who".to_owned()]), "{fields:?}");
    // No record is lost without a word, and none holds up the others.
    for name in ["ignoring", "strict", "keeping"] {
        let sql = format!(
            "SELECT (SELECT count(*) FROM {name}) + (SELECT count(*) FROM {name}_errors) AS n"
        );
        until(&mut k, &sql, &["7"]).await;
    }
    k.platform.close().await.unwrap();
}

/// What a schema registry answers, by path.
fn registered() -> Vec<(&'static str, serde_json::Value)> {
    let avro = |schema: serde_json::Value| serde_json::json!({ "schema": schema.to_string() });
    let long = serde_json::json!({"name": "id", "type": "long"});
    let name = serde_json::json!({"name": "name", "type": "string"});
    let none = serde_json::json!({"name": "more", "type": "null"});
    let record = |name: &str, fields: serde_json::Value| {
        let kind = "record";
        serde_json::json!({"type": kind, "name": name, "fields": fields})
    };
    let row = record(
        "Value",
        serde_json::json!([long, {"name": "name", "type": ["null", "string"], "default": null}]),
    );
    let envelope = serde_json::json!([
        {"name": "before", "type": ["null", row], "default": null},
        {"name": "after", "type": ["null", "Value"], "default": null},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"], "default": null}]);
    let order = "syntax = \"proto3\"; package shop; import \"google/protobuf/timestamp.proto\";
        import \"kind.proto\";
        message Outer { message Order { int64 id = 1; optional string name = 2;
          google.protobuf.Timestamp at = 3; Kind kind = 4; repeated string tags = 5;
          double price = 6; bytes raw = 7; map<string, int32> more = 8; } }";
    let kind = "syntax = \"proto3\"; package shop; enum Kind { SMALL = 0; LARGE = 1; }";
    vec![
        ("/schemas/ids/1", avro(record("r", serde_json::json!([long, name])))),
        ("/schemas/ids/2", avro(record("r", serde_json::json!([long, name, none])))),
        ("/schemas/ids/3", avro(record("Envelope", envelope))),
        ("/schemas/ids/4", avro(record("Key", serde_json::json!([long])))),
        (
            "/schemas/ids/5",
            serde_json::json!({"schemaType": "PROTOBUF", "schema": order,
                "references": [{"name": "kind.proto", "subject": "shop/kind", "version": 1}]}),
        ),
        ("/subjects/shop%2Fkind/versions/1", serde_json::json!({ "schema": kind })),
    ]
}

/// A schema registry. Schema 2 has one more field than 1, with nothing in it.
async fn registry() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let known = registered();
    let serving = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 2048];
            let n = socket.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..n]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let found = known.iter().find(|(known, _)| *known == path);
            let (status, body) = match found {
                Some((_, body)) => ("200 OK", body.to_string()),
                None => ("404 Not Found", "{}".to_owned()),
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

/// A row `{id, name}` as a branch of a union; without a name when it is empty.
fn branch(id: i64, name: &str) -> Vec<u8> {
    let mut bytes = vec![2];
    zigzag(id, &mut bytes);
    if name.is_empty() {
        bytes.push(0);
    } else {
        bytes.push(2);
        zigzag(name.len() as i64, &mut bytes);
        bytes.extend_from_slice(name.as_bytes());
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn debezium_in_avro() {
    use rdkafka::producer::{FutureProducer, FutureRecord};
    let Some(broker) = Broker::shared() else { return };
    broker.create("db.shop.people", 1).await;
    let (port, serving) = registry().await;
    let (_dir, mut k) = Running::start(&format!(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text) WITH ({})
         FORMAT DEBEZIUM ENCODE AVRO (schema.registry = 'http://127.0.0.1:{port}')",
        broker.with("db.shop.people")
    ))
    .await;
    let event = |before: &[u8], after: &[u8], op: &str| {
        [&[0, 0, 0, 0, 3], before, after, &[2], op.as_bytes(), &[0]].concat()
    };
    let none = [0_u8];
    let key = |id: i64| {
        let mut key = vec![0, 0, 0, 0, 4];
        zigzag(id, &mut key);
        key
    };
    let events = [
        (1, Some(event(&none, &branch(1, "ada"), "c"))),
        (2, Some(event(&none, &branch(2, "bob"), "r"))),
        (3, Some(event(&none, &branch(3, ""), "c"))),
        (1, Some(event(&branch(1, "ada"), &branch(1, "eve"), "u"))),
        (2, Some(event(&branch(2, "bob"), &none, "d"))),
        (2, None),
        (4, Some(event(&none, &branch(4, "dan"), "c"))),
        // The row before is not told: the key says which one goes.
        (4, Some(event(&none, &none, "d"))),
        (5, Some(event(&none, &none, "c"))),
        (6, Some(event(&none, &branch(6, "cut"), "c")[..9].to_vec())),
        (7, Some(event(&none, &branch(7, "fay"), "c"))),
    ];
    let producer: FutureProducer = broker.config().create().unwrap();
    for (id, event) in &events {
        let key = key(*id);
        let mut record = FutureRecord::<[u8], [u8]>::to("db.shop.people").key(&key);
        record.payload = event.as_deref();
        producer.send(record, PATIENCE).await.unwrap();
    }
    until(&mut k, "SELECT id, name FROM people ORDER BY id", &["1|eve", "3|", "7|fay"]).await;
    until(&mut k, "SELECT position FROM people_errors ORDER BY 1", &["8", "9"]).await;
    k.platform.close().await.unwrap();
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_with_a_schema_registry() {
    use rdkafka::producer::{FutureProducer, FutureRecord};
    let Some(broker) = Broker::shared() else { return };
    broker.create("proto", 1).await;
    let (port, serving) = registry().await;
    let (_dir, mut k) = Running::start(&format!(
        "CREATE SOURCE proto (id bigint NOT NULL, name text, at timestamptz, kind text, tags text[],
           price double precision, raw bytea, rest jsonb) WITH ({}, unknown_fields_column = 'rest')
         FORMAT PLAIN ENCODE PROTOBUF (schema.registry = 'http://127.0.0.1:{port}',
           message = 'shop.Outer.Order')",
        broker.with("proto")
    ))
    .await;
    // The first message in the first message of the file.
    let framed = |body: &[u8]| [&[0, 0, 0, 0, 5, 4, 0, 0], body].concat();
    let full =
        [
            &[
                0x08, 7, 0x12, 2, 0xc3, 0xa9, 0x1a, 2, 0x08, 1, 0x20, 1, 0x2a, 1, b'a', 0x2a, 1,
                b'b',
            ][..],
            &[0x31],
            &1.5_f64.to_le_bytes(),
            &[0x3a, 2, 0, 255, 0x42, 5, 0x0a, 1, b'x', 0x10, 9],
        ]
        .concat();
    let records = [
        framed(&full),
        framed(&[0x08, 8]),
        // No message at that place, bytes that are none, another message, no such schema.
        [&[0, 0, 0, 0, 5, 2, 18][..], &full].concat(),
        framed(&[0x0a, 200]),
        vec![0, 0, 0, 0, 5, 0],
        vec![0, 0, 0, 0, 77, 0],
        framed(&[0x08, 9]),
    ];
    let producer: FutureProducer = broker.config().create().unwrap();
    for record in &records {
        let record = FutureRecord::<str, [u8]>::to("proto").payload(record.as_slice());
        producer.send(record, PATIENCE).await.unwrap();
    }
    until(&mut k, "SELECT id FROM proto ORDER BY id", &["7", "8", "9"]).await;
    let columns = "id, name, at, kind, cast(tags as text) AS t, price, encode(raw, 'hex') AS r";
    let row =
        k.table(&format!("SELECT {columns}, rest->'more'->>'x' FROM proto WHERE id = 7")).await;
    assert_eq!(row, ["7|\u{e9}|1970-01-01T00:00:01Z|LARGE|{a,b}|1.5|00ff|9"]);
    let row = k.table("SELECT name IS NULL, at IS NULL, kind FROM proto WHERE id = 8").await;
    assert_eq!(row, ["true|true|SMALL"]);
    let positions = "SELECT position FROM proto_errors ORDER BY 1";
    until(&mut k, positions, &["2", "3", "4", "5"]).await;
    k.platform.close().await.unwrap();
    serving.abort();
}
