//! Statements that desktop and dashboard programs send unasked, replayed over the wire in both
//! protocols: each one must be answered. The programs themselves are not run here.

use crate::wire::{Message, Wire, field};
use crate::*;

const FILES: [(&str, &str); 4] = [
    ("DBeaver", include_str!("../clients/replayed/dbeaver.sql")),
    ("Grafana", include_str!("../clients/replayed/grafana.sql")),
    ("Metabase", include_str!("../clients/replayed/metabase.sql")),
    ("pgAdmin", include_str!("../clients/replayed/pgadmin.sql")),
];

/// The statements of a file: separated by empty lines, comments in front.
fn statements(file: &str) -> impl Iterator<Item = String> {
    let lines = file.lines().filter(|line| !line.starts_with("--"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let all: Vec<String> = text.split(";\n").map(|s| s.trim().to_owned()).collect();
    all.into_iter().filter(|s| !s.is_empty())
}

fn ok(program: &str, statement: &str, messages: &[Message]) {
    let error = field(messages, 'E', 'M');
    assert_eq!(error, None, "{program}: {statement}");
}

fn rows(messages: &[Message]) -> Vec<String> {
    let rows = messages.iter().filter(|(kind, _)| *kind == 'D');
    rows.map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect()
}

#[tokio::test]
async fn recorded_statements_are_answered() {
    let running = start().await;
    running.sql("CREATE TABLE games (id BIGINT PRIMARY KEY, name TEXT)").await;
    running
        .sql("CREATE MATERIALIZED VIEW per_carrier AS SELECT carrier, count(*) AS n FROM flights GROUP BY carrier")
        .await;
    let mut client = Wire::connect(running.postgres).await;
    for (program, file) in FILES {
        let mut seen = Vec::new();
        for statement in statements(file) {
            let messages = client.query(&statement).await;
            ok(program, &statement, &messages);
            seen.extend(rows(&messages));
            ok(program, &statement, &client.prepared(&statement, &[]).await);
        }
        if program == "Grafana" || program == "Metabase" {
            for name in ["flights", "games", "per_carrier"] {
                assert!(seen.iter().any(|row| row.contains(name)), "{program} does not see {name}");
            }
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn relations_are_found_in_their_schema() {
    let running = start().await;
    let mut client = Wire::connect(running.postgres).await;
    client.query("INSERT INTO public.flights (id, carrier) VALUES (1, 'UA')").await;
    let messages =
        client.query("SELECT \"f\".\"carrier\" FROM \"public\".\"flights\" AS \"f\"").await;
    assert_eq!(wire::first_row(&messages), ["UA"], "{:?}", field(&messages, 'E', 'M'));
    let messages =
        client.prepared("SELECT carrier FROM public.flights WHERE id = $1", &["1"]).await;
    assert_eq!(wire::first_row(&messages), ["UA"], "{:?}", field(&messages, 'E', 'M'));
    running.stop().await;
}
