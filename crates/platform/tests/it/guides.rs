//! The guides' SQL runs as it is printed, and answers what the guides say.

use crate::support::Running;
use kaplan_platform::{Outcome, Session};

/// The blocks of SQL in a guide.
fn blocks(text: &str) -> Vec<&str> {
    let parts = text.split("```sql\n").skip(1);
    parts.map(|part| part.split("```").next().unwrap()).collect()
}

/// The first value of every answer that a guide's SQL gives.
async fn answers(text: &str) -> Vec<String> {
    let (_dir, k) = Running::start("").await;
    let (mut session, mut answers) = (Session::default(), Vec::new());
    for sql in blocks(text) {
        for outcome in k.platform.execute(&mut session, sql).await.unwrap() {
            if let Outcome::Rows(rows) = outcome {
                let text = arrow::util::pretty::pretty_format_batches(&rows.batches).unwrap();
                let line = text.to_string().lines().nth(3).unwrap().replace([' ', '|'], "");
                answers.push(line);
            }
        }
    }
    k.platform.close().await.unwrap();
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_order_and_references() {
    let text = include_str!("../../../../docs/guides/duplicates-order-and-references.md");
    assert_eq!(answers(text).await, ["1", "330.00", "0", "3", "3", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_that_wait() {
    let text = include_str!("../../../../docs/guides/joins-that-wait.md");
    assert_eq!(answers(text).await, ["1", "2", "3", "9", "2", "0"]);
}

#[test]
fn sources_and_sinks_parse() {
    let text = include_str!("../../../../docs/guides/sources-and-sinks.md");
    let statements: usize =
        blocks(text).iter().map(|sql| kaplan_sql::dialect::parse(sql).unwrap().len()).sum();
    assert_eq!(statements, 7);
}
