//! What Kaplan refuses, with the words of the refusal: the statements of `tests/refused.sql`, each behind a
//! line that says what it has. One that is accepted is a line too many there.

use crate::site::Site;
use kaplan_platform::Session;

const STATEMENTS: &str = include_str!("../../../../../tests/refused.sql");
/// The title of what is run first.
const SETUP: &str = "setup";

/// Rows of the page, and what was accepted.
pub async fn rows() -> (Vec<String>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let site = Site::open(directory.path()).await;
    let (mut rows, mut accepted) = (Vec::new(), Vec::new());
    for block in STATEMENTS.split("-- ").filter(|block| !block.trim().is_empty()) {
        let (what, sql) = block.split_once('\n').unwrap();
        let done = site.platform.execute(&mut Session::default(), sql).await;
        match done {
            Ok(_) if what == SETUP => {}
            Ok(_) => {
                accepted.push(format!("{what} is not refused any more: {sql}"));
                let drop = "DROP MATERIALIZED VIEW IF EXISTS r";
                let _ = site.platform.execute(&mut Session::default(), drop).await;
            }
            Err(error) if what == SETUP => panic!("{error}"),
            Err(error) => {
                let text = error.to_string().replace(['\n', '|'], " ");
                rows.push(format!("| {what} | {text} |"));
            }
        }
    }
    site.close().await;
    (rows, accepted)
}
