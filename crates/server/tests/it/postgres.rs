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

#[tokio::test]
async fn transactions_are_taken_with_a_notice() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    let messages = client.query("BEGIN").await;
    assert_eq!(kinds(&messages), "NC");
    assert!(field(&messages, 'N', 'M').unwrap().contains("its own transaction"));
    assert_eq!(kinds(&client.prepared("COMMIT", &[]).await), "12nNC");
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
async fn a_session_keeps_its_variables() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    assert!(kinds(&client.query("SET application_name = 'test'").await).ends_with('C'));
    assert_eq!(first_row(&client.query("SHOW application_name").await), ["test"]);
    running.stop().await;
}
