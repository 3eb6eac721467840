//! Joins of a stream with a table as of processing time: each row meets the table as it was after the row's
//! own commit, live, out of history, in batch runs, over restarts, and under other views.

use crate::support::Running;
use kaplan_platform::Code;

const SETUP: &str = "
    CREATE STREAM orders (id bigint NOT NULL, currency text, amount bigint);
    CREATE STREAM refunds (order_id bigint NOT NULL, reason text);
    CREATE TABLE rates (currency text PRIMARY KEY, rate bigint, note text);";

const VIEWS: [(&str, &str); 4] = [
    (
        "priced",
        "SELECT o.id, o.amount * r.rate AS eur FROM orders AS o
         JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() AS r ON o.currency = r.currency",
    ),
    (
        "kept",
        "SELECT o.id, r.rate, r.note FROM orders AS o
         LEFT JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() AS r
         ON o.currency = r.currency AND r.rate > 1",
    ),
    (
        "per_note",
        "SELECT r.note, count(*) AS n, sum(o.amount * r.rate) AS eur FROM orders AS o
         LEFT JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() AS r ON r.currency = o.currency
         GROUP BY r.note",
    ),
    (
        "refunded",
        "SELECT o.id, f.reason, r.rate FROM orders AS o JOIN refunds AS f ON f.order_id = o.id
         JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() AS r ON o.currency = r.currency",
    ),
];

/// The table changes between the orders' commits and within them.
async fn trade(k: &mut Running) {
    k.sql(
        "INSERT INTO orders VALUES (1, 'usd', 10);
         INSERT INTO rates VALUES ('usd', 2, 'a'), ('gbp', 3, 'b');
         INSERT INTO orders VALUES (2, 'usd', 10), (3, 'gbp', 10), (4, 'chf', 10), (5, NULL, 10);
         INSERT INTO refunds VALUES (2, 'late');
         UPDATE rates SET rate = 5 WHERE currency = 'usd';
         INSERT INTO refunds VALUES (3, 'broken'), (2, 'again');
         INSERT INTO orders VALUES (6, 'usd', 10);",
    )
    .await;
    // One commit: the order meets what the commit leaves of the table.
    k.sql("BEGIN; INSERT INTO orders VALUES (7, 'gbp', 10); DELETE FROM rates WHERE currency = 'gbp'; COMMIT")
        .await;
    k.sql(
        "BEGIN; UPDATE rates SET rate = 6 WHERE currency = 'usd'; INSERT INTO orders VALUES (8, 'usd', 10);
         UPDATE rates SET rate = 7, note = 'c' WHERE currency = 'usd'; COMMIT;
         INSERT INTO rates VALUES ('gbp', 1, 'd');
         INSERT INTO orders VALUES (9, 'gbp', 10)",
    )
    .await;
}

const PRICED: [&str; 5] = ["2|20", "3|30", "6|50", "8|70", "9|10"];

async fn check(k: &mut Running) {
    for architecture in ["kappa", "lambda"] {
        let of = |view: &str, order: &str| {
            format!("SELECT * FROM {view}_{architecture} ORDER BY {order}")
        };
        assert_eq!(k.table(&of("priced", "1")).await, PRICED, "{architecture}");
        assert_eq!(
            k.table(&of("kept", "1")).await,
            ["1||", "2|2|a", "3|3|b", "4||", "5||", "6|5|a", "7||", "8|7|c", "9||"],
            "{architecture}"
        );
        assert_eq!(
            k.table(&of("per_note", "1 NULLS FIRST")).await,
            ["|4|", "a|2|70", "b|1|30", "c|1|70", "d|1|10"],
            "{architecture}"
        );
        assert_eq!(
            k.table(&of("refunded", "1, 2")).await,
            ["2|again|5", "2|late|2", "3|broken|3"],
            "{architecture}"
        );
        assert_eq!(k.table(&of("above", "1")).await, ["1|180"], "{architecture}");
        for view in ["priced", "kept", "per_note", "refunded", "above"] {
            k.verify(&format!("{view}_{architecture}")).await;
        }
    }
}

async fn create(k: &mut Running) {
    for architecture in ["kappa", "lambda"] {
        for (name, query) in VIEWS {
            let with = format!("WITH (architecture = '{architecture}')");
            k.sql(&format!("CREATE MATERIALIZED VIEW {name}_{architecture} {with} AS {query}"))
                .await;
        }
        k.sql(&format!(
            "CREATE MATERIALIZED VIEW above_{architecture} WITH (architecture = '{architecture}') AS
             SELECT 1 AS one, sum(eur) AS eur FROM priced_{architecture}"
        ))
        .await;
    }
}

const LAMBDA: &str = "priced_lambda, kept_lambda, per_note_lambda, refunded_lambda, above_lambda";

async fn again(k: Running, dir: &std::path::Path) -> Running {
    k.platform.close().await.unwrap();
    drop(k);
    Running::open(dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn views_before_rows_views_after_rows_and_batch_runs_agree() {
    let (dir, mut live) = Running::start(SETUP).await;
    create(&mut live).await;
    trade(&mut live).await;
    check(&mut live).await;
    live.sql(&format!("REFRESH MATERIALIZED VIEW {LAMBDA}")).await;
    check(&mut live).await;
    // Later changes of the table touch no answer, also not with a batch view below.
    live.sql(
        "UPDATE rates SET rate = 100; DELETE FROM rates WHERE currency = 'usd';
              INSERT INTO rates VALUES ('chf', 9, 'z')",
    )
    .await;
    check(&mut live).await;
    live.sql("REPLAY MATERIALIZED VIEW priced_kappa; REPLAY MATERIALIZED VIEW per_note_lambda")
        .await;
    check(&mut live).await;
    let mut live = again(live, dir.path()).await;
    check(&mut live).await;
    live.sql(&format!("REFRESH MATERIALIZED VIEW {LAMBDA} FULL")).await;
    check(&mut live).await;

    let (_dir, mut late) = Running::start(SETUP).await;
    trade(&mut late).await;
    late.sql("FLUSH").await;
    create(&mut late).await;
    check(&mut late).await;
    late.sql(&format!("REFRESH MATERIALIZED VIEW {LAMBDA}")).await;
    check(&mut late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_one_row_for_each_row_of_the_table() {
    let (dir, mut k) = Running::start(SETUP).await;
    let priced = VIEWS[0].1;
    k.sql(&format!("CREATE MATERIALIZED VIEW live AS {priced}")).await;
    k.sql("INSERT INTO rates VALUES ('usd', 1, 'a'), ('gbp', 1, 'b'), ('chf', 1, 'c')").await;
    for rate in 2..40 {
        k.sql(&format!("UPDATE rates SET rate = {rate} WHERE currency <> 'chf'")).await;
        k.sql(&format!("INSERT INTO orders VALUES ({rate}, 'usd', 1)")).await;
    }
    k.sql("DELETE FROM rates WHERE currency = 'gbp'").await;
    k.sql(&format!("FLUSH; CREATE MATERIALIZED VIEW late AS {priced}")).await;
    let expected: Vec<String> = (2..40).map(|rate| format!("{rate}|{rate}")).collect();
    for view in ["live", "late"] {
        assert_eq!(k.table(&format!("SELECT * FROM {view} ORDER BY 1")).await, expected);
        k.verify(view).await;
    }
    let rows = |k: &Running, view: &str| {
        let status = k.platform.status().unwrap();
        let view = status.views.into_iter().find(|v| v.name == view).unwrap();
        let join = view.operators.into_iter().find(|o| o.name.contains("TemporalInnerJoin"));
        join.unwrap().state_rows
    };
    // Out of history it holds what the table holds; live also what is still to be merged.
    assert_eq!(rows(&k, "late"), 2);
    assert!(rows(&k, "live") < 40, "{}", rows(&k, "live"));
    let text = k.table("EXPLAIN MATERIALIZED VIEW live").await.join("\n");
    for line in [
        "(trace of the table's rows); state grows with the rows of its table",
        "rows are only added",
    ] {
        assert!(text.contains(line), "{text}");
    }
    // What a stored query knows stays the same when the table changes its shape and its names.
    k.sql(
        "ALTER TABLE rates ADD COLUMN more bigint; ALTER TABLE rates RENAME COLUMN rate TO quote",
    )
    .await;
    k.sql("ALTER TABLE rates RENAME TO quotes; INSERT INTO quotes VALUES ('gbp', 50, 'b', 1)")
        .await;
    let mut k = again(k, dir.path()).await;
    k.sql("INSERT INTO orders VALUES (50, 'gbp', 1); REPLAY MATERIALIZED VIEW late").await;
    for view in ["live", "late"] {
        assert_eq!(k.table(&format!("SELECT * FROM {view} WHERE id = 50")).await, ["50|50"]);
        assert_eq!(k.verify(view).await, 39);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_function_of_history_is_refused_by_name() {
    let (_dir, mut k) = Running::start(SETUP).await;
    k.sql("CREATE TABLE bag (currency text, rate bigint); CREATE TABLE other (id bigint PRIMARY KEY, currency text)")
        .await;
    k.sql("CREATE STREAM timed (id bigint, currency text, at timestamptz)").await;
    k.sql("CREATE TABLE pairs (a bigint, b bigint, x bigint, PRIMARY KEY (a, b))").await;
    k.sql("CREATE MATERIALIZED VIEW per AS SELECT currency, count(*) AS n FROM orders GROUP BY currency")
        .await;
    let now = "FOR SYSTEM_TIME AS OF PROCTIME()";
    for (from, says) in [
        (
            format!("other AS o JOIN rates {now} AS r ON o.currency = r.currency"),
            "the table other, which takes updates",
        ),
        (format!("per AS o JOIN rates {now} AS r ON o.currency = r.currency"), "aggregated"),
        (
            format!(
                "orders AS o LEFT JOIN refunds AS f ON f.order_id = o.id \
                 JOIN rates {now} AS r ON o.currency = r.currency"
            ),
            "a LEFT JOIN",
        ),
        (
            format!(
                "(SELECT * FROM orders WHERE id IN (SELECT order_id FROM refunds)) AS o \
                 JOIN rates {now} AS r ON o.currency = r.currency"
            ),
            "subquery",
        ),
        (format!("orders AS o JOIN bag {now} AS r ON o.currency = r.currency"), "no primary key"),
        (format!("orders AS o JOIN refunds {now} AS r ON o.id = r.order_id"), "no primary key"),
        (format!("orders AS o JOIN per {now} AS r ON o.currency = r.currency"), "what is no table"),
        (
            format!("orders AS o JOIN rates {now} AS r ON o.amount = r.rate"),
            "without r.currency = ..",
        ),
        (
            format!("orders AS o JOIN rates {now} AS r ON o.currency > r.currency"),
            "without r.currency = ..",
        ),
        (format!("orders AS o JOIN pairs {now} AS r ON o.id = r.a"), "without r.b = .."),
        (
            format!("orders AS o JOIN pairs {now} AS r ON o.id = r.a AND o.amount + 0.5 = r.b"),
            "without r.b = ..",
        ),
        (
            format!(
                "(SELECT * FROM timed WHERE at <= now()) AS o JOIN rates {now} AS r \
                 ON o.currency = r.currency"
            ),
            "left side has now()",
        ),
        (
            format!("orders AS o RIGHT JOIN rates {now} AS r ON o.currency = r.currency"),
            "a RIGHT JOIN as of",
        ),
        (
            format!("orders AS o FULL JOIN rates {now} AS r ON o.currency = r.currency"),
            "a FULL JOIN as of",
        ),
        (format!("orders AS o JOIN rates {now} AS r USING (currency)"), "this FOR SYSTEM_TIME"),
        (
            format!("orders AS o, rates {now} AS r WHERE o.currency = r.currency"),
            "this FOR SYSTEM_TIME",
        ),
        (
            "orders AS o JOIN rates FOR SYSTEM_TIME AS OF o.at AS r ON o.currency = r.currency"
                .into(),
            "this FOR SYSTEM_TIME",
        ),
    ] {
        let error =
            k.fails(&format!("CREATE MATERIALIZED VIEW v AS SELECT 1 AS x FROM {from}")).await;
        assert!(error.message.contains(says), "{from}: {error}");
        assert_eq!(error.code, Code::Unsupported, "{from}: {error}");
        assert!(error.hint.is_some(), "{from}: {error}");
    }
    let plain =
        format!("SELECT 1 AS x FROM orders AS o JOIN rates {now} AS r ON o.currency = r.currency");
    let error = k.fails(&plain).await;
    assert!(error.message.contains("outside of a materialized view"), "{error}");
    // As a plain view it waits for a materialized one.
    k.sql(&format!("CREATE VIEW p AS {plain}; CREATE MATERIALIZED VIEW m AS SELECT x FROM p"))
        .await;
    k.sql("INSERT INTO rates VALUES ('usd', 2, 'a'); INSERT INTO orders VALUES (1, 'usd', 1)")
        .await;
    assert_eq!(k.table("SELECT * FROM m").await, ["1"]);
    assert!(k.fails("SELECT * FROM p").await.message.contains("outside of a materialized view"));
    // Keys of several columns, in narrower and wider types.
    k.sql(&format!(
        "CREATE TABLE small (a smallint, b bigint, x bigint, PRIMARY KEY (b, a));
         CREATE MATERIALIZED VIEW two AS SELECT o.id, r.x FROM orders AS o
         JOIN small {now} AS r ON r.b = o.amount AND o.id = r.a AND r.x > 0"
    ))
    .await;
    k.sql("INSERT INTO small VALUES (2, 7, 70), (3, 7, -1); INSERT INTO orders VALUES (2, '', 7), (3, '', 7)")
        .await;
    assert_eq!(k.table("SELECT * FROM two").await, ["2|70"]);
    assert_eq!(k.verify("two").await, 1);
    // Rows that fail are told without the commits that the join needs.
    k.sql(&format!(
        "CREATE MATERIALIZED VIEW bad AS SELECT 10 / r.x AS y FROM
         (SELECT * FROM orders WHERE 7 / amount > 0) AS o JOIN small {now} AS r
         ON o.id = r.a AND o.amount = r.b"
    ))
    .await;
    k.sql("INSERT INTO small VALUES (4, 7, 0); INSERT INTO orders VALUES (4, 'x', 7), (5, 'y', 0)")
        .await;
    let told = k.table("SELECT reason, input FROM errors.bad ORDER BY input").await;
    assert_eq!(told.len(), 2, "{told:?}");
    let is_plain = |row: &String| row.contains("division by zero") && !row.contains('$');
    assert!(told.iter().all(is_plain), "{told:?}");
}
