//! Runs statements so that a client that goes away cannot leave a change half done: a read is
//! dropped with its request, everything else runs to its end on a task of its own.

use crate::statements::{has_word, keyword, split};
use kaplan_platform::{Code, Error, Outcome, Platform, Result, Session};

/// Statements that change nothing and may be run twice.
const READS: [&str; 8] =
    ["SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN", "DESCRIBE", "VERIFY"];

/// What may stand behind `WITH` or `EXPLAIN` and changes rows.
const CHANGES: [&str; 4] = ["INSERT", "UPDATE", "DELETE", "MERGE"];

/// Whether a statement only reads.
pub(crate) fn reads(statement: &str) -> bool {
    let keyword = keyword(statement);
    let may_change = matches!(keyword.as_str(), "WITH" | "EXPLAIN");
    READS.contains(&keyword.as_str()) && !(may_change && has_word(statement, &CHANGES))
}

/// Runs one or several statements.
pub(crate) async fn execute(
    platform: &Platform,
    session: &mut Session,
    sql: &str,
) -> Result<Vec<Outcome>> {
    if split(sql).into_iter().all(reads) {
        return platform.execute(session, sql).await;
    }
    let (platform, mut own, sql) = (platform.clone(), session.clone(), sql.to_owned());
    let done = detached(async move {
        let outcomes = platform.execute(&mut own, &sql).await;
        Ok((own, outcomes))
    });
    let (own, outcomes) = done.await?;
    *session = own;
    outcomes
}

/// Runs work to its end even when nobody waits for it any more.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|e| {
        Err(Error::new(Code::Internal, format!("the operation stopped: {e}"))
            .hint("whether it happened is not known: read before trying again"))
    })
}
