//! Read replicas: they follow a writer that is killed and replaced, answer what it would, refuse writes,
//! take nothing over and change nothing in the bucket. On a real S3 server.

use super::bucket::{DEFINITIONS, S3, answers, insert, verified};
use super::server::Server;
use super::{kaplan, stderr};
use std::time::Duration;

/// How often and how long a replica is asked until it answers as expected.
const TRIES: u32 = 400;
const PAUSE: Duration = Duration::from_millis(50);

fn replica(s3: &S3, prefix: &str) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("s3://lake/{prefix}");
    let mut command = s3.command(dir.path(), &["start", "--read-only", "--data", &url]);
    command.args(["--http", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--log-format", "json"]);
    Server::spawn(command, dir)
}

fn csv(server: &Server, query: &str) -> Result<String, String> {
    let output = server.run(&["sql", "--format", "csv", "-c", query]);
    match output.status.success() {
        true => Ok(super::stdout(&output)),
        false => Err(stderr(&output)),
    }
}

/// Waits until a query has the same answer on both.
fn agree(writer: &Server, replica: &Server, query: &str) -> String {
    let mut last = Err(String::new());
    for _ in 0..TRIES {
        let expected = csv(writer, query).unwrap();
        last = csv(replica, query);
        if last.as_ref() == Ok(&expected) {
            return expected;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("{query}: {last:?}")
}

const SALES: &str = "SELECT * FROM sales ORDER BY customer";
const LIVE: &str = "SELECT * FROM live ORDER BY city";
const ORDERS: &str = "SELECT count(*) AS rows, sum(amount) AS total FROM orders";

fn all_agree(writer: &Server, replica: &Server) {
    for query in [SALES, LIVE, ORDERS, "SELECT * FROM customers ORDER BY name"] {
        agree(writer, replica, query);
    }
}

#[test]
fn a_replica_follows_a_writer_that_is_killed_and_replaced() {
    let Some(s3) = S3::start() else { return };
    let mut writer = s3.server("followed");
    writer.ok(&["sql", "-c", DEFINITIONS]);
    writer.ok(&["sql", "-c", "INSERT INTO customers VALUES ('c0', 'Ulm'), ('c1', 'Bonn')"]);
    insert(&writer, 0, 50);
    writer.ok(&["batch", "sales", "--wait"]);
    insert(&writer, 50, 50);
    let replica = replica(&s3, "followed");
    all_agree(&writer, &replica);
    for round in 1..=3 {
        let from = round * 100;
        insert(&writer, from, 60);
        writer.ok(&["sql", "-c", "UPDATE customers SET city = 'Rom' WHERE name = 'c1'"]);
        if round == 2 {
            writer.ok(&["batch", "sales", "--wait"]);
        }
        insert(&writer, from + 60, 40);
        all_agree(&writer, &replica);
        let before = answers(&replica);
        writer.stop("KILL");
        // Nobody writes: what was acknowledged is read on.
        assert_eq!(answers(&replica), before);
        writer = s3.server("followed");
        verified(&writer);
        assert_eq!(answers(&writer), before, "round {round}");
    }
    insert(&writer, 900, 10);
    all_agree(&writer, &replica);
    verified(&replica);
    // The batch view that was published meanwhile is taken over.
    agree(&writer, &replica, "SELECT * FROM batch.sales ORDER BY customer");
    agree(&writer, &replica, "SHOW BATCH RUNS");
    let status: serde_json::Value =
        serde_json::from_str(&replica.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["replica"]["writer_epoch"], 4, "{status}");
    assert_eq!(status["replica"]["commits_behind"], 0, "{status}");
    assert_eq!(status["streams"][1]["rows"], 410, "{status}");
    assert!(replica.get("/readyz").starts_with("ready, a read replica 0 commits behind LSN "));
    assert!(replica.get("/").contains("read replica"));
    // It goes, and the writer has noticed nothing.
    let (stopped, log) = replica.stop("TERM");
    assert_eq!(stopped.code(), Some(0), "{log}");
    insert(&writer, 1_000, 10);
    verified(&writer);
    let (stopped, log) = writer.stop("TERM");
    assert_eq!(stopped.code(), Some(0), "{log}");
}

#[test]
fn a_replica_takes_the_writers_definitions_over() {
    let Some(s3) = S3::start() else { return };
    let writer = s3.server("defined");
    writer.ok(&["sql", "-c", DEFINITIONS]);
    insert(&writer, 0, 30);
    let replica = replica(&s3, "defined");
    for statement in [
        "CREATE MATERIALIZED VIEW large AS SELECT customer, max(amount) AS m FROM orders GROUP BY customer",
        "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT)",
        "INSERT INTO notes VALUES (1, 'a'), (2, 'b')",
        "ALTER TABLE notes ADD COLUMN stars BIGINT",
        "UPDATE notes SET stars = 5 WHERE id = 2",
        "ALTER MATERIALIZED VIEW large RENAME TO largest",
        "CREATE VIEW plain AS SELECT id, stars FROM notes",
        "CREATE FUNCTION twice(n BIGINT) RETURNS BIGINT RETURN n * 2",
    ] {
        writer.ok(&["sql", "-c", statement]);
    }
    insert(&writer, 30, 30);
    agree(&writer, &replica, "SELECT * FROM largest ORDER BY customer");
    agree(&writer, &replica, "SELECT * FROM notes ORDER BY id");
    agree(&writer, &replica, "SELECT id, twice(stars) AS t FROM plain ORDER BY id");
    // A view of the same name that is another one.
    writer.ok(&["sql", "-c", "DROP MATERIALIZED VIEW largest"]);
    writer.ok(&[
        "sql",
        "-c",
        "CREATE MATERIALIZED VIEW largest AS SELECT count(*) AS n FROM orders",
    ]);
    insert(&writer, 60, 30);
    assert_eq!(agree(&writer, &replica, "SELECT n FROM largest"), "n\n90\n");
    writer.ok(&["sql", "-c", "DROP VIEW plain; DROP TABLE notes"]);
    let gone = (0..TRIES).any(|_| {
        std::thread::sleep(PAUSE);
        csv(&replica, "SELECT * FROM notes").is_err_and(|e| e.contains("notes"))
    });
    assert!(gone);
    verified(&replica);
}

/// A replica without processor time, as platforms that bill by request have it, comes back to a log
/// whose next segments are in the lake and gone.
#[test]
fn a_replica_that_slept_goes_on_from_the_lake_and_answers_nothing_old() {
    let Some(s3) = S3::start() else { return };
    let writer = s3.server("slept");
    writer.ok(&["sql", "-c", DEFINITIONS]);
    writer.ok(&["sql", "-c", "INSERT INTO customers VALUES ('c0', 'Ulm'), ('c1', 'Bonn')"]);
    insert(&writer, 0, 50);
    let replica = replica(&s3, "slept");
    all_agree(&writer, &replica);
    replica.signal("STOP");
    for from in (100..1_200).step_by(100) {
        insert(&writer, from, 100);
    }
    let archived = (0..TRIES).any(|_| {
        std::thread::sleep(PAUSE);
        let status = writer.ok(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["archived_lsn"] == status["durable_lsn"]
    });
    assert!(archived);
    std::thread::sleep(Duration::from_millis(1_100));
    replica.signal("CONT");
    // The first answer is not from what it saw before it slept.
    assert_eq!(csv(&replica, ORDERS).unwrap(), csv(&writer, ORDERS).unwrap());
    assert_eq!(csv(&replica, SALES).unwrap(), csv(&writer, SALES).unwrap());
    assert_eq!(csv(&replica, LIVE).unwrap(), csv(&writer, LIVE).unwrap());
    insert(&writer, 2_000, 20);
    all_agree(&writer, &replica);
    verified(&replica);
    let (stopped, log) = replica.stop("TERM");
    assert_eq!(stopped.code(), Some(0), "{log}");
    assert!(log.contains("goes on from the lake"), "{log}");
}

#[test]
fn a_replica_refuses_what_writes() {
    let Some(s3) = S3::start() else { return };
    let writer = s3.server("refused");
    writer.ok(&["sql", "-c", DEFINITIONS]);
    let replica = replica(&s3, "refused");
    for (statement, tag) in [
        ("INSERT INTO orders VALUES (1, 'c', 1, NULL)", "INSERT"),
        ("UPDATE customers SET city = 'x'", "UPDATE"),
        ("DELETE FROM customers", "DELETE"),
        ("CREATE STREAM more (id BIGINT)", "CREATE STREAM"),
        ("DROP MATERIALIZED VIEW live", "DROP"),
        ("REFRESH MATERIALIZED VIEW sales", "REFRESH MATERIALIZED VIEW"),
    ] {
        let refused = csv(&replica, statement).unwrap_err();
        let expected = format!("cannot execute {tag} in a read-only transaction");
        assert!(refused.contains(&expected) && refused.contains("read replica"), "{refused}");
    }
    let refused = replica.run(&["batch", "--wait"]);
    assert!(stderr(&refused).contains("read-only"), "{}", stderr(&refused));
    let url = format!("{}/v1/streams/orders/events", replica.url());
    let posted = std::process::Command::new("curl")
        .args(["-s", "-w", "%{http_code}", "-H", "content-type: application/json", "-d"])
        .args([r#"{"id": 1, "customer": "c"}"#, &url])
        .output()
        .unwrap();
    let posted = super::stdout(&posted);
    assert!(posted.ends_with("403") && posted.contains("\"read_only\""), "{posted}");
    postgres_refuses(&replica);
    assert_eq!(csv(&replica, "SELECT count(*) AS n FROM orders").unwrap(), "n\n0\n");
}

/// PostgreSQL's clients find out by its own means, and are refused with its code.
fn postgres_refuses(replica: &Server) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let url = replica.postgres();
        let (client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let refused = client.simple_query("INSERT INTO orders VALUES (1, 'c', 1, NULL)").await;
        let refused = refused.unwrap_err();
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.code().code(), "25006");
        assert!(refused.hint().unwrap().contains("writer"));
        let shown = client.query_one("SHOW transaction_read_only", &[]).await.unwrap();
        assert_eq!(shown.get::<_, String>(0), "on");
        let standby = client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await.unwrap();
        assert!(standby.get::<_, bool>(0));
        let copied = client.copy_in::<_, axum::body::Bytes>("COPY orders FROM STDIN").await;
        assert_eq!(copied.err().unwrap().code().unwrap().code(), "25006");
    });
}

#[test]
fn a_replica_needs_a_writers_bucket() {
    let Some(s3) = S3::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let start = |data: &str| {
        let mut command = s3.command(dir.path(), &["start", "--read-only", "--data", data]);
        command.args(["--http", "127.0.0.1:0", "--postgres", "off"]);
        stderr(&command.output().unwrap())
    };
    let error = start("s3://lake/nothing");
    assert!(error.contains("there is no log in s3://lake/nothing"), "{error}");
    assert!(error.contains("start the writer first"), "{error}");
    let error = start("here");
    assert!(error.contains("a read replica follows a bucket"), "{error}");
    let mut printed = kaplan(dir.path());
    printed.args(["start", "--read-only", "--print-config"]);
    assert!(super::stdout(&printed.output().unwrap()).contains("read_only = true"));
}
