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
//! A statement that runs on after its client has given it up writes nothing into what its session
//! does next: it belongs to the transaction, or the time without one, in which its text began.
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
pub struct Transaction {
    shared: Arc<Mutex<Shared>>,
    /// The generation that the text that runs with this clone belongs to; none between texts.
    seen: Option<u64>,
}

/// What the clones share.
#[derive(Debug, Default)]
struct Shared {
    open: Option<Open>,
    /// Rises when a transaction begins, ends, goes back to a savepoint or is cancelled: what began
    /// before writes no more.
    generation: u64,
}

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
        self.shared.lock().open.is_some()
    }

    /// Has the transaction take nothing more but its end.
    pub fn fail(&self) {
        if let Some(open) = self.shared.lock().open.as_mut() {
            open.failed = true;
        }
    }

    /// What runs at the moment writes nothing more, and fails the transaction that it runs in: its
    /// client does not wait for it any longer. What the log has been given already stays.
    pub fn cancel(&self) {
        let mut shared = self.shared.lock();
        shared.generation += 1;
        if let Some(open) = shared.open.as_mut() {
            open.failed = true;
        }
    }

    /// Drops what was written; whether there was a transaction.
    pub fn drop_writes(&self) -> bool {
        let mut shared = self.shared.lock();
        shared.generation += 1;
        shared.open.take().is_some()
    }

    /// A text begins: what it writes belongs to what is open now, and to what it begins itself.
    pub(crate) fn enter(&mut self) {
        self.seen = Some(self.shared.lock().generation);
    }

    /// The text has ended; an error fails the transaction that it belongs to, if that is still open.
    pub(crate) fn leave(&mut self, failed: bool) {
        let mut shared = self.shared.lock();
        if failed
            && self.belongs(&shared).is_ok()
            && let Some(open) = shared.open.as_mut()
        {
            open.failed = true;
        }
        drop(shared);
        self.seen = None;
    }

    /// Refuses a text that began before the transaction did, or in one that has ended.
    fn belongs(&self, shared: &Shared) -> Result<()> {
        if self.seen.is_none_or(|seen| seen == shared.generation) {
            return Ok(());
        }
        let message = "the transaction that the statement ran in has ended or was cancelled";
        Err(Error::new(Code::NoTransaction, message).hint("nothing of the statement was written"))
    }

    /// Ends what other texts belong to; this one goes on in what comes now.
    fn renew(&mut self, shared: &mut Shared) {
        shared.generation += 1;
        self.seen = self.seen.map(|_| shared.generation);
    }

    /// Whether a transaction is open for the text that runs.
    fn is_open_for_me(&self) -> Result<bool> {
        let shared = self.shared.lock();
        self.belongs(&shared)?;
        Ok(shared.open.is_some())
    }

    /// Has reads see newer rows below what the transaction has written.
    fn forget_pending(&self) {
        if let Some(open) = self.shared.lock().open.as_mut() {
            open.pending = None;
        }
    }

    fn failed(&self) -> bool {
        self.shared.lock().open.as_ref().is_some_and(|open| open.failed)
    }

    /// Whether it has written to a stream.
    fn has_written(&self, stream: StreamId) -> bool {
        let writes = |open: &Open| open.writes.iter().any(|w| w.stream == stream);
        self.shared.lock().open.as_ref().is_some_and(writes)
    }

    /// The writes so far to some streams, or to all.
    fn writes_to(&self, streams: Option<&[StreamWrite]>) -> Vec<StreamWrite> {
        let shared = self.shared.lock();
        let writes = shared.open.iter().flat_map(|open| &open.writes);
        let named = |w: &&StreamWrite| {
            streams.is_none_or(|streams| streams.iter().any(|s| s.stream == w.stream))
        };
        writes.filter(named).cloned().collect()
    }

    fn add(&self, writes: Vec<StreamWrite>) -> Result<()> {
        let mut shared = self.shared.lock();
        self.belongs(&shared)?;
        let Some(open) = shared.open.as_mut() else {
            return Err(Error::new(Code::NoTransaction, "the transaction has ended"));
        };
        if open.failed {
            return Err(aborted());
        }
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

    fn mark(&mut self, mark: Mark, name: &str) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut shared = shared.lock();
        self.belongs(&shared)?;
        let Some(open) = shared.open.as_mut() else {
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
                self.renew(&mut shared);
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
    if !session.transaction.is_open_for_me()? {
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
    let tried = inner.sequencer.preview(request).await;
    // Rows that were read over an older LSN are read again over a newer one.
    let ack = tried.inspect_err(|_| session.transaction.forget_pending())?.ack;
    session.transaction.add(writes)?;
    Ok(Ack { lsn: session.last_write, ..ack })
}

/// What the session's transaction has changed, where it has changed anything.
pub(crate) async fn pending(inner: &Inner, session: &Session) -> Result<Option<Arc<Pending>>> {
    let known = {
        let shared = session.transaction.shared.lock();
        match shared.open.as_ref() {
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
    let mut shared = session.transaction.shared.lock();
    if session.transaction.belongs(&shared).is_ok()
        && let Some(open) = shared.open.as_mut()
        && open.writes.len() == count
    {
        open.pending = Some(Arc::clone(&made));
    }
    drop(shared);
    Ok(Some(made))
}

impl Transaction {
    /// Begins or ends a transaction; answers with the one that was open.
    fn turn(&mut self, verb: Verb) -> Result<Option<Open>> {
        let shared = Arc::clone(&self.shared);
        let mut shared = shared.lock();
        self.belongs(&shared)?;
        if verb == Verb::Begin && shared.open.is_some() {
            return Ok(Some(Open::default()));
        }
        let next = (verb == Verb::Begin).then(Open::default);
        let before = std::mem::replace(&mut shared.open, next);
        self.renew(&mut shared);
        Ok(before)
    }

    fn count(&self) -> usize {
        self.shared.lock().open.as_ref().map_or(0, |open| open.writes.len())
    }
}

fn aborted() -> Error {
    let message = "current transaction is aborted, commands ignored until end of transaction block";
    Error::new(Code::FailedTransaction, message).hint("ROLLBACK it")
}

/// Refuses what a failed transaction does not take, and changes of the definition of what it wrote.
pub(crate) fn check(inner: &Inner, session: &Session, statement: &Statement) -> Result<()> {
    let transaction = &session.transaction;
    transaction.is_open_for_me()?;
    let ends = matches!(
        statement,
        Statement::Transaction(Verb::Commit | Verb::Rollback)
            | Statement::Mark(Mark::RollbackTo, _)
    );
    if transaction.failed() && !ends {
        return Err(aborted());
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
pub(crate) async fn run(inner: &Inner, session: &mut Session, verb: Verb) -> Result<Outcome> {
    let before = session.transaction.turn(verb)?;
    match (verb, before) {
        (Verb::Begin, Some(_)) => {
            Ok(noticed("BEGIN", "there is already a transaction in progress"))
        }
        (Verb::Begin, None) => {
            Ok(Outcome::Done { tag: "BEGIN".into(), lsn: None, notices: Vec::new() })
        }
        (Verb::Rollback, Some(_)) => {
            Ok(Outcome::Done { tag: "ROLLBACK".into(), lsn: None, notices: Vec::new() })
        }
        (Verb::Rollback, None) => Ok(noticed("ROLLBACK", "there is no transaction in progress")),
        (Verb::Commit, open) => {
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
pub(crate) fn mark(session: &mut Session, mark: Mark, name: &str) -> Result<Outcome> {
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
