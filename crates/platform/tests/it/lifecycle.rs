//! From definition to restart, for every kind of view.

use crate::support::Running;
use kaplan_platform::Code;

const STREAMS: &str = "
    CREATE STREAM orders (
      id bigint NOT NULL, customer text, amount decimal(10, 2), price double, ts timestamp,
      WATERMARK FOR ts AS ts - INTERVAL '5 minutes',
      UNIQUE (id) WITHIN INTERVAL '1 day'
    );
    CREATE TABLE customers (name text PRIMARY KEY, country text);";

const VIEWS: [(&str, &str); 8] = [
    (
        "per_customer",
        "SELECT customer, count(*) AS n, sum(amount) AS total, avg(price) AS p
                      FROM orders GROUP BY customer",
    ),
    (
        "hourly",
        "SELECT window_start, window_end, customer, count(*) AS n, max(amount) AS top
                FROM TUMBLE(orders, ts, INTERVAL '1 hour') GROUP BY 1, 2, 3",
    ),
    (
        "rolling",
        "SELECT window_start, count(*) AS n
                 FROM HOP(orders, ts, INTERVAL '1 hour', INTERVAL '3 hours') GROUP BY 1",
    ),
    ("large", "SELECT id, amount FROM orders WHERE amount > 50"),
    (
        "joined",
        "SELECT o.id, o.amount, c.country FROM orders o JOIN customers c
                ON o.customer = c.name",
    ),
    (
        "by_country",
        "SELECT c.country, count(*) AS n, sum(o.amount) AS total, avg(o.price) AS p
                    FROM orders o JOIN customers c ON o.customer = c.name GROUP BY c.country",
    ),
    ("total", "SELECT count(*) AS n, sum(amount) AS total FROM orders"),
    (
        "frequent",
        "SELECT customer, count(*) AS n FROM orders GROUP BY customer
                  HAVING count(*) > 3 ORDER BY n DESC, customer LIMIT 2",
    ),
];

fn orders(from: usize, to: usize) -> String {
    let rows: Vec<String> = (from..to)
        .map(|i| {
            let (customer, amount) = (["ada", "bob", "cyd"][i % 3], (i * 7) % 100);
            let (hour, minute) = (i / 60 % 24, i % 60);
            format!(
                "({i}, '{customer}', {amount}.50, {i}.25, '2024-03-01 {hour:02}:{minute:02}:00')"
            )
        })
        .collect();
    format!("INSERT INTO orders VALUES {}", rows.join(", "))
}

async fn check_all(k: &mut Running) {
    for (name, _) in VIEWS {
        for architecture in ["lambda", "kappa"] {
            k.verify(&format!("{name}_{architecture}")).await;
        }
        let (l, k2) = (
            k.table(&format!("SELECT * FROM {name}_lambda ORDER BY 1, 2")).await,
            k.table(&format!("SELECT * FROM {name}_kappa ORDER BY 1, 2")).await,
        );
        assert_eq!(l, k2, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_architectures_agree_through_batches_and_restarts() {
    let (dir, mut k) = Running::start(STREAMS).await;
    k.sql("INSERT INTO customers VALUES ('ada', 'GB'), ('bob', 'US')").await;
    k.sql(&orders(0, 40)).await;
    for (name, query) in VIEWS {
        for architecture in ["lambda", "kappa"] {
            k.sql(&format!(
                "CREATE MATERIALIZED VIEW {name}_{architecture}
                 WITH (architecture = '{architecture}') AS {query}"
            ))
            .await;
        }
    }
    check_all(&mut k).await;
    k.sql(&orders(30, 90)).await; // 30..40 are duplicates
    assert_eq!(k.table("SELECT count(*) FROM orders").await, ["90"]);
    assert_eq!(k.table("SELECT n FROM total_kappa").await, ["90"]);
    check_all(&mut k).await;

    k.sql("REFRESH MATERIALIZED VIEW per_customer_lambda, joined_lambda").await;
    k.sql(&orders(90, 130)).await;
    k.sql("INSERT INTO customers VALUES ('cyd', 'DE'), ('ada', 'FR')").await;
    check_all(&mut k).await;
    let all: Vec<String> = VIEWS.iter().map(|(n, _)| format!("{n}_lambda")).collect();
    k.sql(&format!("REFRESH MATERIALIZED VIEW {}", all.join(", "))).await;
    k.sql("DELETE FROM customers WHERE name = 'bob'").await;
    k.sql(&orders(130, 150)).await;
    check_all(&mut k).await;
    k.platform.close().await.unwrap();
    drop(k);

    let mut k = Running::open(dir.path()).await;
    check_all(&mut k).await;
    k.sql(&orders(140, 180)).await;
    assert_eq!(k.table("SELECT count(*) FROM orders").await, ["180"]);
    check_all(&mut k).await;
    k.sql(&format!("REFRESH MATERIALIZED VIEW {} FULL", all.join(", "))).await;
    k.sql("REPLAY MATERIALIZED VIEW joined_kappa; REPLAY MATERIALIZED VIEW by_country_lambda")
        .await;
    check_all(&mut k).await;
    k.platform.close().await.unwrap();
    drop(k);

    // All derived state can be deleted.
    std::fs::remove_dir_all(dir.path().join("speed")).unwrap();
    std::fs::remove_dir_all(dir.path().join("batch")).unwrap();
    let mut k = Running::open(dir.path()).await;
    for (name, _) in VIEWS {
        for architecture in ["lambda", "kappa"] {
            wait_running(&k, &format!("{name}_{architecture}")).await;
        }
    }
    check_all(&mut k).await;
}

pub async fn wait_running(k: &Running, view: &str) {
    for _ in 0..1_000 {
        let status = k.platform.status().unwrap();
        if status.views.iter().any(|v| v.name == view && v.state == "running") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{view} did not come up");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_can_be_read_alone() {
    let (_dir, mut k) = Running::start(STREAMS).await;
    k.sql(
        "CREATE MATERIALIZED VIEW v WITH (architecture = 'lambda') AS
           SELECT customer, count(*) AS n FROM orders GROUP BY customer",
    )
    .await;
    k.sql(&orders(0, 6)).await;
    let error = k.fails("SELECT * FROM batch.v").await;
    assert_eq!(error.code, Code::NotReady, "{error}");
    k.sql("REFRESH MATERIALIZED VIEW v").await;
    k.sql(&orders(6, 9)).await;
    assert_eq!(k.table("SELECT * FROM batch.v ORDER BY 1").await, ["ada|2", "bob|2", "cyd|2"]);
    assert_eq!(k.table("SELECT * FROM speed.v ORDER BY 1").await, ["ada|1", "bob|1", "cyd|1"]);
    assert_eq!(k.table("SELECT * FROM v ORDER BY 1").await, ["ada|3", "bob|3", "cyd|3"]);
    assert_eq!(k.table("SELECT n FROM v WHERE customer = 'bob'").await, ["3"]);
    k.sql("CREATE MATERIALIZED VIEW w AS SELECT sum(n) AS s FROM v WHERE customer <> 'ada'").await;
    assert_eq!(k.table("SELECT * FROM w").await, ["6"]);
    assert_eq!(k.fails("SELECT * FROM batch.w").await.code, Code::InvalidInput);
    assert_eq!(k.fails("DROP MATERIALIZED VIEW v").await.code, Code::Dependency);
    k.sql("DROP MATERIALIZED VIEW v CASCADE").await;
    assert_eq!(k.fails("SELECT * FROM w").await.code, Code::UnknownRelation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_run_of_a_global_aggregate_over_a_table_publishes_one_row() {
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::open(dir.path()).await;
    k.sql("CREATE TABLE t (a int PRIMARY KEY, b int)").await;
    k.sql("INSERT INTO t VALUES (1, 10), (2, 20)").await;
    k.sql(
        "CREATE MATERIALIZED VIEW v WITH (architecture = 'lambda') AS
           SELECT count(*) AS n, sum(b) AS s FROM t",
    )
    .await;
    k.sql("REFRESH MATERIALIZED VIEW v").await;
    assert_eq!(k.table("SELECT * FROM v").await, ["2|30"]);
    k.sql("DELETE FROM t").await;
    assert_eq!(k.table("SELECT n FROM v").await, ["0"]);
    k.sql("REFRESH MATERIALIZED VIEW v").await;
    assert_eq!(k.table("SELECT n FROM v").await, ["0"]);
    k.verify("v").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_corruption_is_found() {
    let (dir, mut k) = Running::start(STREAMS).await;
    k.sql(
        "CREATE MATERIALIZED VIEW v WITH (architecture = 'lambda') AS
           SELECT customer, count(*) AS n FROM orders GROUP BY customer",
    )
    .await;
    k.sql(&orders(0, 60)).await;
    k.sql("REFRESH MATERIALIZED VIEW v").await;
    k.verify("v").await;
    k.platform.close().await.unwrap();
    drop(k);
    plant(&dir.path().join("batch"));
    let mut k = Running::open(dir.path()).await;
    let report = k.table("VERIFY MATERIALIZED VIEW v").await;
    let differences: i64 = report[0].split('|').nth(5).unwrap().parse().unwrap();
    assert!(differences > 0, "{report:?}");
}

/// Changes a count from 20 to 21 in the published file and makes its checksum right again.
fn plant(batch: &std::path::Path) {
    for view in std::fs::read_dir(batch).unwrap().flatten() {
        for file in std::fs::read_dir(view.path()).unwrap().flatten() {
            if file.path().extension().is_some_and(|e| e == "batch") {
                let mut bytes = std::fs::read(file.path()).unwrap();
                bytes.truncate(bytes.len() - 4);
                let needle = 20i64.to_le_bytes();
                let at = bytes.windows(8).position(|w| w == needle).expect("a count of 20");
                bytes[at] = 21;
                let sum = crc32c::crc32c(&bytes);
                bytes.extend_from_slice(&sum.to_le_bytes());
                std::fs::write(file.path(), bytes).unwrap();
                return;
            }
        }
    }
    panic!("no published file");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_name_the_place_and_the_fix() {
    let (_dir, mut k) = Running::start(STREAMS).await;
    let e = k.fails("SELECT * FROM ordres").await;
    assert_eq!(e.code, Code::UnknownRelation);
    assert!(e.hint.unwrap().contains("orders"));
    let e = k.fails("SELEC 1").await;
    assert_eq!(e.code, Code::Syntax);
    let e = k.fails("CREATE MATERIALIZED VIEW a AS SELECT * FROM a").await;
    assert_eq!(e.code, Code::Dependency, "{e}");
    let e = k.fails("CREATE MATERIALIZED VIEW a AS SELECT now() AS t FROM orders").await;
    assert_eq!(e.code, Code::Unsupported);
    assert!(e.message.contains("now"), "{e}");
    let e = k
        .fails(
            "CREATE MATERIALIZED VIEW a AS WITH RECURSIVE r AS (
               SELECT id FROM orders UNION ALL SELECT id + 1 FROM r WHERE id < 5) SELECT id FROM r",
        )
        .await;
    assert_eq!(e.code, Code::Unsupported);
    assert!(e.message.contains("WITH RECURSIVE"), "{e}");
    let e = k
        .fails("INSERT INTO orders VALUES (1, 'a', 1, 1, '2024-01-01'), (2, 'b', 1, 1, 'noon')")
        .await;
    assert_eq!((e.code, e.row, e.field.as_deref()), (Code::InvalidDatetime, Some(2), Some("ts")));
    let e = k.fails("INSERT INTO orders VALUES (NULL, 'a', 1, 1, '2024-01-01')").await;
    assert_eq!((e.code, e.field.as_deref()), (Code::NotNullViolation, Some("id")));
    assert_eq!(k.table("SELECT count(*) FROM orders").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_reject_drop_and_quarantine() {
    let (_dir, mut k) = Running::start(
        "CREATE STREAM s (a bigint, b bigint, c bigint,
             CHECK (a > 0) ON VIOLATION REJECT,
             CONSTRAINT small_b CHECK (b < 10) ON VIOLATION QUARANTINE,
             CHECK (c <> 7) ON VIOLATION DROP)",
    )
    .await;
    assert_eq!(k.fails("INSERT INTO s VALUES (1, 1, 1), (0, 1, 1)").await.row, Some(2));
    k.sql("INSERT INTO s VALUES (1, 1, 1), (2, 99, 1), (3, 1, 7), (4, NULL, NULL)").await;
    assert_eq!(k.table("SELECT a FROM s ORDER BY a").await, ["1", "4"]);
    assert_eq!(
        k.table("SELECT constraint_name, row_number FROM s_quarantine").await,
        ["small_b|2"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_checkpoint_that_was_cut_off_are_not_taken_for_state() {
    let (dir, mut k) = Running::start(STREAMS).await;
    let view = "SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer";
    k.sql(&format!("CREATE MATERIALIZED VIEW v AS {view}")).await;
    k.sql(&orders(0, 40)).await;
    k.verify("v").await;
    k.platform.close().await.unwrap();
    drop(k);
    let left = leave_traces(&dir.path().join("speed"));
    let mut k = Running::open(dir.path()).await;
    // A later batch may get one of these ids, and its file must not be there already.
    assert!(left.iter().all(|f| !f.exists()), "files that no manifest names are removed on open");
    k.verify("v").await;
}

/// Copies a stored batch under the ids that come next, as an unfinished checkpoint would leave it.
fn leave_traces(speed: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut left = Vec::new();
    for view in std::fs::read_dir(speed).unwrap().flatten() {
        let files = std::fs::read_dir(view.path()).unwrap().flatten().map(|f| f.path());
        let trace = files.filter(|f| f.extension().is_some_and(|e| e == "trace")).max().unwrap();
        let stem = trace.file_stem().unwrap().to_str().unwrap();
        let id: u64 = stem.strip_prefix("e0-").unwrap().parse().unwrap();
        for next in id + 1..id + 200 {
            let file = trace.with_file_name(format!("e0-{next}.trace"));
            std::fs::copy(&trace, &file).unwrap();
            left.push(file);
        }
    }
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_run_can_be_repeated_at_the_same_lsn() {
    let (_dir, mut k) = Running::start(STREAMS).await;
    k.sql(
        "CREATE MATERIALIZED VIEW v WITH (architecture = 'lambda') AS
           SELECT customer, count(*) AS n FROM orders GROUP BY customer",
    )
    .await;
    k.sql(&orders(0, 30)).await;
    for _ in 0..3 {
        k.sql("REFRESH MATERIALIZED VIEW v FULL; REFRESH MATERIALIZED VIEW v").await;
        assert_eq!(k.table("SELECT n FROM batch.v WHERE customer = 'ada'").await, ["10"]);
        k.verify("v").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_view_of_a_table_s_total_has_one_row() {
    let (_dir, mut k) = Running::start(
        "CREATE TABLE t (id int PRIMARY KEY, v int);
         CREATE MATERIALIZED VIEW l WITH (architecture = 'lambda') AS SELECT sum(v) AS s FROM t;
         INSERT INTO t VALUES (1, 1), (2, 1); REFRESH MATERIALIZED VIEW l",
    )
    .await;
    assert_eq!(k.table("SELECT * FROM batch.l").await, ["2"]);
    k.sql("INSERT INTO t VALUES (3, 2)").await;
    assert_eq!(k.table("SELECT * FROM l").await, ["4"]);
    k.verify("l").await;
    // What only one layer has is true at that layer's LSN.
    let (batch, served) = (k.rows("SELECT * FROM batch.l").await, k.rows("SELECT * FROM l").await);
    assert!(batch.lsn < served.lsn, "{} {}", batch.lsn, served.lsn);
}
