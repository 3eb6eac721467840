//! The life of a sink: defined, running, paused, dropped.

use crate::names;
use crate::platform::Inner;
use crate::statements::text_rows;
use crate::{Code, Error, Outcome, Result, Session};
use kaplan_base::Lsn;
use kaplan_sql::catalog::Catalog;
use kaplan_sql::dialect::{AlterConnector, CreateSink, DropRelations};
use std::sync::Arc;

/// `CREATE SINK`.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    session: &Session,
    create: CreateSink,
) -> Result<Outcome> {
    let _ = (inner, session);
    let connector = create.options.get("connector").cloned().unwrap_or_default();
    let message = format!("there is no sink connector '{connector}'");
    Err(Error::new(Code::Unsupported, message).hint("read the view over HTTP or PostgreSQL"))
}

/// The error of a name that no sink has.
fn unknown(name: &str) -> Error {
    Error::new(Code::UnknownObject, format!("sink \"{name}\" does not exist"))
        .hint("SHOW SINKS lists them")
}

/// `ALTER SINK .. {PAUSE | RESUME}`.
pub(crate) async fn alter(
    inner: &Arc<Inner>,
    session: &Session,
    alter: &AlterConnector,
) -> Result<Outcome> {
    Err(unknown(&names::resolve(&inner.definitions.read(), session, &alter.name)))
}

/// `DROP SINK a, b`.
pub(crate) async fn drop(
    inner: &Arc<Inner>,
    session: &Session,
    drop: DropRelations,
) -> Result<Outcome> {
    let name = drop.names.first().map(String::as_str).unwrap_or_default();
    Err(unknown(&names::resolve(&inner.definitions.read(), session, name)))
}

/// `SHOW SINKS`.
pub(crate) fn show(_inner: &Inner, lsn: Lsn) -> Result<Outcome> {
    text_rows(&["name"], Vec::new(), lsn)
}

/// `SHOW CREATE SINK`.
pub(crate) fn create_text(_catalog: &Catalog, name: &str) -> Result<String> {
    Err(unknown(name))
}
