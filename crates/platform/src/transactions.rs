//! Transactions: what a session writes between `BEGIN` and `COMMIT` waits in its session and becomes
//! one commit of the log, or nothing.
//!
//! Every write is tried when its statement runs, against the newest rows and what the transaction has
//! written before, so that a broken constraint is an error of its statement; nothing of the trial
//! stays. Reads of streams and tables see what the transaction has written, over the rows of one LSN;
//! materialized views are read without it. At `COMMIT` all of it is decided again: a row that another
//! session has changed meanwhile refuses the whole of it with [`Code::Conflict`]. After an error
//! nothing but the transaction's end, or a `ROLLBACK TO` a savepoint, is taken.
//!
//! Definitions are not part of it: they take effect at once, and say so.

use crate::platform::Inner;
use crate::sequencer::{StreamWrite, WriteKind, WriteRequest};
use crate::sources;
use crate::statements::noticed;
use crate::{Ack, Code, Error, Outcome, Result, Session};
use kaplan_base::{Lsn, StreamId};
use kaplan_circuit::Delta;
use kaplan_sql::dialect::{Mark, Statement, Transaction as Verb};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most bytes that a transaction may have written; it holds them in memory until it ends.
const MAX_TRANSACTION_BYTES: usize = 64 << 20;

/// A session's transaction, if it has begun one. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Transaction(Arc<Mutex<Option<Open>>>);

/// A transaction that has begun.
#[derive(Clone, Debug, Default)]
struct Open {
    writes: Vec<StreamWrite>,
    bytes: usize,
    /// The name, and how many writes there were.
    savepoints: Vec<(String, usize)>,
    failed: bool,
    /// What the writes change, for reads; none after another write.
    pending: Option<Arc<Pending>>,
}

/// What a transaction has changed, over the rows of one LSN.
#[derive(Debug)]
pub(crate) struct Pending {
    /// The LSN that it was decided at.
    pub lsn: Lsn,
    /// The acknowledgement that a commit would have.
    pub ack: Ack,
    /// Rows added and taken away.
    pub changes: BTreeMap<StreamId, Delta>,
}

impl Transaction {
    /// Whether one has begun and not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Has the transaction take nothing more but its end.
    pub fn fail(&self) {
        if let Some(open) = self.0.lock().as_mut() {
            open.failed = true;
        }
    }

    /// Drops what was written; whether there was a transaction.
    pub fn drop_writes(&self) -> bool {
        self.0.lock().take().is_some()
    }

    fn failed(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|open| open.failed)
    }

    /// Whether it has written to a stream.
    fn has_written(&self, stream: StreamId) -> bool {
        let writes = |open: &Open| open.writes.iter().any(|w| w.stream == stream);
        self.0.lock().as_ref().is_some_and(writes)
    }

    /// The writes so far to some streams, or to all.
    fn writes_to(&self, streams: Option<&[StreamWrite]>) -> Vec<StreamWrite> {
        let open = self.0.lock();
        let writes = open.iter().flat_map(|open| &open.writes);
        let named = |w: &&StreamWrite| {
            streams.is_none_or(|streams| streams.iter().any(|s| s.stream == w.stream))
        };
        writes.filter(named).cloned().collect()
    }

    fn add(&self, writes: Vec<StreamWrite>) -> Result<()> {
        let mut open = self.0.lock();
        let Some(open) = open.as_mut() else {
            return Err(Error::new(Code::NoTransaction, "the transaction has ended"));
        };
        let added = WriteRequest { writes, ..WriteRequest::default() };
        let size = added.bytes();
        if open.bytes + size > MAX_TRANSACTION_BYTES {
            let message =
                format!("the transaction would hold more than {MAX_TRANSACTION_BYTES} bytes");
            return Err(Error::new(Code::TooLarge, message)
                .hint("COMMIT more often; without BEGIN, COPY commits as it goes"));
        }
        open.bytes += size;
        open.writes.extend(added.writes);
        open.pending = None;
        Ok(())
    }

    fn mark(&self, mark: Mark, name: &str) -> Result<()> {
        let mut open = self.0.lock();
        let Some(open) = open.as_mut() else {
            let message = format!("{} can only be used in transaction blocks", mark.tag());
            return Err(Error::new(Code::NoTransaction, message).hint("BEGIN first"));
        };
        let known = || {
            let message = format!("savepoint \"{name}\" does not exist");
            Error::new(Code::UnknownSavepoint, message)
        };
        let at = open.savepoints.iter().rposition(|(known, _)| known == name);
        match mark {
            Mark::Savepoint => open.savepoints.push((name.to_owned(), open.writes.len())),
            Mark::Release => open.savepoints.truncate(at.ok_or_else(known)?),
            Mark::RollbackTo => {
                let at = at.ok_or_else(known)?;
                let kept = open.savepoints[at].1;
                open.savepoints.truncate(at + 1);
                let gone = open.writes.split_off(kept);
                let gone = WriteRequest { writes: gone, ..WriteRequest::default() };
                open.bytes = open.bytes.saturating_sub(gone.bytes());
                (open.failed, open.pending) = (false, None);
            }
        }
        Ok(())
    }
}

/// Commits writes, or keeps them for the session's `COMMIT`.
pub(crate) async fn write(
    inner: &Inner,
    session: &Session,
    writes: Vec<StreamWrite>,
) -> Result<Ack> {
    sources::refuse_writes(inner, writes.iter().map(|w| w.stream))?;
    if !session.transaction.is_open() {
        return inner.sequencer.submit(WriteRequest { writes, ..WriteRequest::default() }).await;
    }
    // Rows that only come in do not depend on what the transaction wrote before.
    let alone = |w: &StreamWrite| matches!(w.kind, WriteKind::Append | WriteKind::Upsert);
    let mut tried = match writes.iter().all(alone) {
        true => Vec::new(),
        false => session.transaction.writes_to(Some(&writes)),
    };
    tried.extend(writes.iter().cloned());
    let request = WriteRequest { writes: tried, ..WriteRequest::default() };
    let ack = inner.sequencer.preview(request).await?.ack;
    session.transaction.add(writes)?;
    Ok(Ack { lsn: session.last_write, ..ack })
}

/// What the session's transaction has changed, where it has changed anything.
pub(crate) async fn pending(inner: &Inner, session: &Session) -> Result<Option<Arc<Pending>>> {
    let known = {
        let open = session.transaction.0.lock();
        match open.as_ref() {
            Some(open) if !open.writes.is_empty() => open.pending.clone(),
            _ => return Ok(None),
        }
    };
    if let Some(known) = known {
        return Ok(Some(known));
    }
    let writes = session.transaction.writes_to(None);
    let (request, count) =
        (WriteRequest { writes, ..WriteRequest::default() }, session.transaction.count());
    let made = Arc::new(inner.sequencer.preview(request).await?);
    if let Some(open) = session.transaction.0.lock().as_mut()
        && open.writes.len() == count
    {
        open.pending = Some(Arc::clone(&made));
    }
    Ok(Some(made))
}

impl Transaction {
    fn count(&self) -> usize {
        self.0.lock().as_ref().map_or(0, |open| open.writes.len())
    }
}

/// Refuses what a failed transaction does not take, and changes of the definition of what it wrote.
pub(crate) fn check(inner: &Inner, session: &Session, statement: &Statement) -> Result<()> {
    let transaction = &session.transaction;
    let ends = matches!(
        statement,
        Statement::Transaction(Verb::Commit | Verb::Rollback)
            | Statement::Mark(Mark::RollbackTo, _)
    );
    if transaction.failed() && !ends {
        let message =
            "current transaction is aborted, commands ignored until end of transaction block";
        return Err(Error::new(Code::FailedTransaction, message).hint("ROLLBACK it"));
    }
    let names: Vec<&String> = match statement {
        Statement::Alter(alter) => vec![&alter.name],
        Statement::Drop(names) => names.names.iter().collect(),
        _ => return Ok(()),
    };
    for name in names {
        let Ok(def) = inner.stream(&inner.resolve(session, name)) else { continue };
        if transaction.has_written(def.id) {
            let message = format!("cannot change {name}: this transaction has written to it");
            return Err(Error::new(Code::Unsupported, message)
                .stream(&def.name)
                .hint("COMMIT first: definitions take effect at once"));
        }
    }
    Ok(())
}

/// What is said where a definition changed inside a transaction.
pub(crate) fn remark(session: &Session, statement: &Statement) -> Option<String> {
    use Statement as S;
    let definition = matches!(
        statement,
        S::CreateStream(_)
            | S::CreateTableAs(_)
            | S::CreateView(_)
            | S::CreatePlainView(_)
            | S::CreateIndex(_)
            | S::CreateFunction { .. }
            | S::CreateNamespace { .. }
            | S::DropFunction { .. }
            | S::Alter(_)
            | S::AlterView(_)
            | S::Drop(_)
    );
    (definition && session.transaction.is_open())
        .then(|| "definitions take effect at once: ROLLBACK does not undo this".to_owned())
}

/// `BEGIN`, `COMMIT` and `ROLLBACK`.
pub(crate) async fn run(inner: &Inner, session: &Session, verb: Verb) -> Result<Outcome> {
    let transaction = &session.transaction;
    match verb {
        Verb::Begin => {
            let mut open = transaction.0.lock();
            if open.is_some() {
                return Ok(noticed("BEGIN", "there is already a transaction in progress"));
            }
            *open = Some(Open::default());
            Ok(Outcome::Done { tag: "BEGIN".into(), lsn: None, notices: Vec::new() })
        }
        Verb::Rollback => match transaction.drop_writes() {
            true => Ok(Outcome::Done { tag: "ROLLBACK".into(), lsn: None, notices: Vec::new() }),
            false => Ok(noticed("ROLLBACK", "there is no transaction in progress")),
        },
        Verb::Commit => {
            let open = transaction.0.lock().take();
            let Some(open) = open else {
                return Ok(noticed("COMMIT", "there is no transaction in progress"));
            };
            if open.failed {
                let tag = "ROLLBACK".to_owned();
                return Ok(Outcome::Done { tag, lsn: None, notices: Vec::new() });
            }
            let tag = "COMMIT".to_owned();
            if open.writes.is_empty() {
                return Ok(Outcome::Done { tag, lsn: None, notices: Vec::new() });
            }
            let request = WriteRequest { writes: open.writes, ..WriteRequest::default() };
            let ack = inner.sequencer.submit(request).await.map_err(explained)?;
            Ok(Outcome::Done { tag, lsn: Some(ack.lsn), notices: Vec::new() })
        }
    }
}

/// `SAVEPOINT`, `RELEASE` and `ROLLBACK TO`.
pub(crate) fn mark(session: &Session, mark: Mark, name: &str) -> Result<Outcome> {
    session.transaction.mark(mark, name)?;
    Ok(Outcome::Done { tag: mark.tag().to_owned(), lsn: None, notices: Vec::new() })
}

/// Why nothing of a transaction was committed.
fn explained(error: Error) -> Error {
    match error.code {
        Code::Conflict => {
            let message = "could not serialize access due to concurrent update".to_owned();
            Error { message, ..error }.hint("nothing was committed: run the transaction again")
        }
        _ => error,
    }
}
