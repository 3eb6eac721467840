//! The PostgreSQL wire, message by message.

use crate::wire::{Wire, field, first_row, kinds};
use crate::*;

#[tokio::test]
async fn simple_queries_answer_each_statement() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    let messages = client
        .query(
            "INSERT INTO flights (id, carrier) VALUES (1, 'a;b'); SELECT id, carrier FROM flights",
        )
        .await;
    assert_eq!(kinds(&messages), "CTDC");
    assert_eq!(messages[0].1, b"INSERT 0 1\0");
    assert_eq!(first_row(&messages), ["1", "a;b"]);
    assert_eq!(messages[3].1, b"SELECT 1\0");
    assert_eq!(kinds(&client.query(" ; ").await), "I");
    running.stop().await;
}

#[tokio::test]
async fn errors_have_sqlstate_and_hint_and_the_connection_goes_on() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    for (sql, state) in [
        ("SELEC 1", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT nothing FROM flights", "42703"),
        ("CREATE STREAM flights (id BIGINT)", "42P07"),
    ] {
        let messages = client.query(sql).await;
        assert_eq!(field(&messages, 'E', 'C').as_deref(), Some(state), "{sql}");
        let messages = client.prepared(sql, &[]).await;
        assert_eq!(field(&messages, 'E', 'C').as_deref(), Some(state), "{sql} prepared");
    }
    // What stood before the error is answered, what stands after it is not run.
    let messages = client
        .query("INSERT INTO flights (id) VALUES (1); SELEC 1; INSERT INTO flights (id) VALUES (2)")
        .await;
    assert_eq!(kinds(&messages), "CE");
    assert_eq!(first_row(&client.query("SELECT count(*) FROM flights").await), ["1"]);
    running.stop().await;
}

async fn count(client: &mut Wire, table: &str) -> String {
    first_row(&client.query(&format!("SELECT count(*) FROM {table}")).await).remove(0)
}

#[tokio::test]
async fn a_transaction_is_one_commit_or_none() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    let mut other = Wire::connect(running.postgres).await;
    let create = "CREATE TABLE accounts (id INT PRIMARY KEY, amount INT CHECK (amount >= 0))";
    client.query(create).await;
    client.query("INSERT INTO accounts VALUES (1, 10), (2, 0)").await;
    let before = running.platform.status().unwrap().durable_lsn;
    assert_eq!(kinds(&client.query("BEGIN").await), "C");
    client.query("UPDATE accounts SET amount = amount - 4 WHERE id = 1").await;
    client.query("UPDATE accounts SET amount = amount + 4 WHERE id = 2").await;
    client.query("INSERT INTO flights (id) VALUES (7)").await;
    // It sees what it wrote; nobody else does.
    let own = client.query("SELECT string_agg(id || '=' || amount, ' ' ORDER BY id) FROM accounts");
    assert_eq!(first_row(&own.await), ["1=6 2=4"]);
    assert_eq!(count(&mut client, "flights").await, "1");
    assert_eq!(count(&mut other, "accounts WHERE amount = 10").await, "1");
    assert_eq!(count(&mut other, "flights").await, "0");
    assert_eq!(kinds(&client.prepared("COMMIT", &[]).await), "12nC");
    assert_eq!(running.platform.status().unwrap().durable_lsn, before.next());
    assert_eq!(count(&mut other, "accounts WHERE amount = 6").await, "1");

    client.query("BEGIN").await;
    client.query("DELETE FROM accounts").await;
    client.query("INSERT INTO accounts VALUES (3, 3)").await;
    assert_eq!(count(&mut client, "accounts").await, "1");
    assert_eq!(kinds(&client.query("ROLLBACK").await), "C");
    assert_eq!(count(&mut client, "accounts").await, "2");
    let alone = client.query("ROLLBACK").await;
    assert!(field(&alone, 'N', 'M').unwrap().contains("no transaction in progress"));
    running.stop().await;
}

#[tokio::test]
async fn a_broken_constraint_fails_its_statement_and_a_savepoint_mends_it() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    let create =
        "CREATE TABLE limited (id INT PRIMARY KEY, n INT NOT NULL CONSTRAINT small CHECK (n < 9))";
    client.query(create).await;
    client.query("BEGIN").await;
    client.query("INSERT INTO limited VALUES (1, 1)").await;
    client.query("SAVEPOINT a").await;
    client.query("INSERT INTO limited VALUES (2, 2)").await;
    let broken = client.query("INSERT INTO limited VALUES (3, 30)").await;
    assert_eq!(field(&broken, 'E', 'C').as_deref(), Some("23514"));
    assert_eq!(field(&broken, 'E', 'n').as_deref(), Some("small"));
    assert_eq!(field(&broken, 'E', 't').as_deref(), Some("limited"));
    assert_eq!(client.status, 'E');
    assert_eq!(kinds(&client.query("ROLLBACK TO SAVEPOINT a").await), "C");
    assert_eq!(client.status, 'T');
    let null = client.query("INSERT INTO limited (id) VALUES (4)").await;
    assert_eq!(field(&null, 'E', 'C').as_deref(), Some("23502"));
    assert_eq!(field(&null, 'E', 'c').as_deref(), Some("n"));
    client.query("ROLLBACK TO a").await;
    client.query("INSERT INTO limited VALUES (5, 5)").await;
    client.query("RELEASE a").await;
    client.query("COMMIT").await;
    let ids = client.query("SELECT array_agg(id ORDER BY id) FROM limited").await;
    assert_eq!(first_row(&ids), ["{1,5}"]);
    client.query("BEGIN").await;
    let missing = client.query("ROLLBACK TO nowhere").await;
    assert_eq!(field(&missing, 'E', 'C').as_deref(), Some("3B001"));
    running.stop().await;
}

#[tokio::test]
async fn a_row_that_changed_meanwhile_refuses_the_commit() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    let mut other = Wire::connect(running.postgres).await;
    client.query("CREATE TABLE c (id INT PRIMARY KEY, n INT)").await;
    client.query("INSERT INTO c VALUES (1, 1)").await;
    client.query("BEGIN").await;
    client.query("UPDATE c SET n = n + 1").await;
    client.query("INSERT INTO flights (id) VALUES (1)").await;
    other.query("UPDATE c SET n = 10").await;
    let refused = client.query("COMMIT").await;
    assert_eq!(field(&refused, 'E', 'C').as_deref(), Some("40001"));
    assert_eq!(client.status, 'I');
    assert_eq!(first_row(&client.query("SELECT n FROM c").await), ["10"]);
    assert_eq!(count(&mut client, "flights").await, "0");
    running.stop().await;
}

#[tokio::test]
async fn definitions_take_effect_at_once() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    client.query("BEGIN").await;
    let created = client.query("CREATE TABLE d (a INT)").await;
    assert!(field(&created, 'N', 'M').unwrap().contains("at once"));
    client.query("INSERT INTO d VALUES (1)").await;
    let refused = client.query("DROP TABLE d").await;
    assert_eq!(field(&refused, 'E', 'C').as_deref(), Some("0A000"));
    client.query("ROLLBACK").await;
    assert_eq!(count(&mut client, "d").await, "0");
    running.stop().await;
}

#[tokio::test]
async fn a_transaction_over_http_is_one_request() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    let send = |sql: &'static str| {
        let request = running.client.post(format!("{}/v1/sql", running.url)).body(sql);
        async { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(send("BEGIN; INSERT INTO flights (id) VALUES (1)").await, 400);
    assert_eq!(count(&mut client, "flights").await, "0");
    assert_eq!(send("BEGIN; INSERT INTO flights (id) VALUES (1); COMMIT").await, 200);
    assert_eq!(count(&mut client, "flights").await, "1");
    running.stop().await;
}

#[tokio::test]
async fn prepared_statements_take_parameters() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    let insert = "INSERT INTO flights (id, carrier) VALUES ($1, $2)";
    let messages = client.prepared(insert, &["7", "it's"]).await;
    assert_eq!(kinds(&messages), "12nC", "{:?}", field(&messages, 'E', 'M'));
    let messages =
        client.prepared("SELECT carrier FROM flights WHERE carrier = $1", &["it's"]).await;
    assert_eq!(kinds(&messages), "12TDC", "{:?}", field(&messages, 'E', 'M'));
    assert_eq!(first_row(&messages), ["it's"]);
    let messages = client.prepared("SELECT $1", &[]).await;
    assert_eq!(field(&messages, 'E', 'C').as_deref(), Some("08P01"));
    running.stop().await;
}

#[tokio::test]
async fn a_change_behind_with_happens_once() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    let insert = "WITH s AS (SELECT 7 AS id) INSERT INTO flights (id) SELECT id FROM s";
    let messages = client.prepared(insert, &[]).await;
    assert_eq!(kinds(&messages), "12nC", "{:?}", field(&messages, 'E', 'M'));
    assert_eq!(count(&mut client, "flights").await, "1");
    client.query(&format!("PREPARE p AS {insert}")).await;
    let messages = client.prepared("EXECUTE p", &[]).await;
    assert_eq!(kinds(&messages), "12nC", "{:?}", field(&messages, 'E', 'M'));
    assert_eq!(count(&mut client, "flights").await, "2");
    running.stop().await;
}

#[tokio::test]
async fn texts_in_any_language_are_prepared() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    let sql = "SELECT carrier AS \u{fc}ber, '\u{540d}' AS \u{540d}\u{524d} FROM flights WHERE carrier = $1";
    let messages = client.prepared(sql, &["\u{e9}"]).await;
    assert_eq!(kinds(&messages), "12TC", "{:?}", field(&messages, 'E', 'M'));
    running.stop().await;
}

#[tokio::test]
async fn a_session_keeps_its_variables() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    assert!(kinds(&client.query("SET application_name = 'test'").await).ends_with('C'));
    assert_eq!(first_row(&client.query("SHOW application_name").await), ["test"]);
    running.stop().await;
}

/// Whatever way a prepared read takes, it answers what its text with the values in it does.
#[tokio::test]
async fn prepared_reads_by_value_answer_as_their_texts() {
    use tokio_postgres::types::ToSql;
    let running = start().await;
    let address = running.postgres;
    let target = format!("host={} port={} user=kaplan", address.ip(), address.port());
    let (client, connection) =
        tokio_postgres::connect(&target, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let define = "
        CREATE STREAM s (b bigint, i integer, n smallint, t text, f boolean, d date, a bigint);
        CREATE MATERIALIZED VIEW by_b AS SELECT b, t, sum(a) AS total FROM s GROUP BY b, t;
        CREATE MATERIALIZED VIEW kept AS SELECT i, n, t, f, d, a FROM s WHERE a > 0;
        INSERT INTO s VALUES (1, 1, 1, 'x', true, DATE '2024-01-01', 5),
          (1, 1, 2, 'y''s', false, NULL, 7), (2, -1, 1, NULL, NULL, DATE '2024-01-02', 1),
          (1, 2, 1, 'x', true, DATE '2024-01-01', 6)";
    client.batch_execute(define).await.unwrap();
    let (one, less, small) = (1_i64, -1_i32, 1_i16);
    let (x, quoted, yes) = ("x", "y's", true);
    let none: Option<i64> = None;
    let cases: [(&str, &[&(dyn ToSql + Sync)], &str); 9] = [
        ("SELECT total FROM by_b WHERE b = $1 AND t = $2", &[&one, &x], "b = 1 AND t = 'x'"),
        (
            "SELECT total FROM by_b WHERE t = $2 AND $1 = b",
            &[&one, &quoted],
            "b = 1 AND t = 'y''s'",
        ),
        ("SELECT total FROM by_b WHERE b = $1", &[&one], "b = 1"),
        ("SELECT total FROM by_b WHERE b = $1 AND t = 'x'", &[&none], "b = NULL AND t = 'x'"),
        ("SELECT a FROM kept WHERE i = $1", &[&less], "i = -1"),
        ("SELECT a FROM kept WHERE n = $1 AND f = $2", &[&small, &yes], "n = 1 AND f = true"),
        ("SELECT a FROM kept WHERE t = $1 LIMIT 5", &[&quoted], "t = 'y''s'"),
        ("SELECT a FROM kept WHERE d = '2024-01-01' AND t = $1", &[&x], "d = DATE '2024-01-01'"),
        ("SELECT a FROM kept WHERE n = $1 OR i = $2", &[&small, &less], "n = 1 OR i = -1"),
    ];
    for round in 0..3 {
        for (sql, values, condition) in &cases {
            let rows = client.query(*sql, values).await.unwrap();
            let mut found: Vec<String> = rows
                .iter()
                .map(|row| row.try_get::<_, i64>(0).map(|n| n.to_string()))
                .map(|value| value.unwrap_or_else(|_| "?".into()))
                .collect();
            let from =
                sql.split_once(" WHERE").unwrap().0.replace("SELECT total", "SELECT total::text");
            let text = format!("{} WHERE {condition}", from.replace("SELECT a", "SELECT a::text"));
            let mut wanted: Vec<String> = client
                .simple_query(&text)
                .await
                .unwrap()
                .into_iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0)?.to_owned()),
                    _ => None,
                })
                .collect();
            if found.iter().any(|value| value == "?") {
                // A numeric sum: as many rows.
                (found, wanted) = (vec![found.len().to_string()], vec![wanted.len().to_string()]);
            }
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted, "{sql}, round {round}");
        }
        // New rows are seen by statements that were prepared before, and so is a transaction's end.
        let insert = "INSERT INTO s VALUES (1, 1, 1, 'x', true, DATE '2024-01-01', 100)";
        client.batch_execute(&format!("BEGIN; {insert}")).await.unwrap();
        client.query(cases[0].0, cases[0].1).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
    }
    let prepared = client.prepare(cases[0].0).await.unwrap();
    client.batch_execute("DROP MATERIALIZED VIEW by_b").await.unwrap();
    let error = client.query(&prepared, cases[0].1).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("42P01"), "{error}");
    drop(client);
    running.stop().await;
}
