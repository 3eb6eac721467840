//! The sequencer: one thread decides the order of all commits. Deciding is in [`State`], without IO
//! and without a clock; here is only the doing: a bounded queue in, group commit into the log,
//! answers out.
//!
//! Invariant: a request is acknowledged only when its commit, or the commits that hold its
//! originals, are durable. A group that the log did not take leaves no trace in the state. After a
//! failure that leaves unknown what is durable, nothing more is taken until the platform is opened
//! again. A caller that stops waiting does not take its write back.

mod absorb;
mod checks;
mod key;
mod producers;
mod queue;
mod request;
mod state;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod unique;

pub use absorb::Positions;
pub use producers::Last;
pub use request::{Checks, Counters, Definition, Limits, StreamWrite, WriteKind, WriteRequest};
pub use state::State;

use crate::transactions::Pending as Preview;
use crate::{Ack, Code, Error, Result};
use kaplan_base::{Clock, Lsn, StreamId};
use kaplan_log::{Commit, Log};
use parking_lot::Mutex;
use queue::{Item, Queue, Waiting, Work};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::oneshot;

/// The handle; clones are the same sequencer. When the last one is dropped, the thread ends after
/// what it was given.
#[derive(Clone)]
pub struct Sequencer(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread and the handles share.
struct Shared {
    queue: Queue,
    limits: Limits,
    /// Bytes of the log that are not archived yet.
    backlog_bytes: AtomicU64,
    seen: Mutex<Seen>,
    /// Why nothing more is taken, when it is not that the platform stops.
    failed: Mutex<Option<Error>>,
}

impl Shared {
    /// Takes nothing more, and answers all that waits; the first reason stays.
    fn fail(&self, reason: Error) {
        self.failed.lock().get_or_insert_with(|| reason.clone());
        self.queue.fail(reason);
    }
}

/// The durable state, for those who ask.
struct Seen {
    head: Lsn,
    counters: BTreeMap<StreamId, Counters>,
    producers: BTreeMap<String, Last>,
}

impl Sequencer {
    /// Ends the recovery of `state` at the log's head and starts the thread.
    ///
    /// # Errors
    /// The state does not fit the log, or the thread cannot be started.
    pub fn start(
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        mut state: State,
        limits: Limits,
    ) -> Result<Sequencer> {
        state.limit_commits(limits.commit_bytes);
        state.open(log.head())?;
        let (counters, producers) = (state.counters(), state.producers());
        let seen = Seen { head: log.head(), counters, producers };
        let shared = Arc::new(Shared {
            queue: Queue::new(limits),
            limits,
            backlog_bytes: AtomicU64::new(0),
            seen: Mutex::new(seen),
            failed: Mutex::default(),
        });
        let worker = Worker { log, clock, state, shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new()
            .name("kaplan-sequencer".to_owned())
            .spawn(move || worker.run())
            .map_err(|e| Error::new(Code::Unavailable, format!("no thread to commit on: {e}")))?;
        Ok(Sequencer(Arc::new(Handle { shared, thread: Mutex::new(Some(thread)) })))
    }

    /// A sequencer that takes nothing, for this reason, and has no thread.
    #[must_use]
    pub fn closed(limits: Limits, reason: Error) -> Sequencer {
        let seen = Seen { head: Lsn::ZERO, counters: BTreeMap::new(), producers: BTreeMap::new() };
        let shared = Shared {
            queue: Queue::new(limits),
            limits,
            backlog_bytes: AtomicU64::new(0),
            seen: Mutex::new(seen),
            failed: Mutex::default(),
        };
        shared.queue.fail(reason);
        Sequencer(Arc::new(Handle { shared: Arc::new(shared), thread: Mutex::default() }))
    }

    /// Shows what another process has counted.
    pub fn set_counters(&self, counters: BTreeMap<StreamId, Counters>) {
        self.0.shared.seen.lock().counters = counters;
    }

    /// Adds what commits of another process say.
    pub fn count(&self, commits: &[Commit]) {
        let mut seen = self.0.shared.seen.lock();
        for commit in commits {
            for write in &commit.writes {
                let counters = seen.counters.entry(write.stream).or_default();
                counters.rows += u64::from(write.rows);
                counters.last_lsn = commit.lsn;
            }
        }
    }

    /// Commits a request; returns when it is durable.
    ///
    /// # Errors
    /// [`Code::Overloaded`] at once, when too much waits or too little of the log is archived;
    /// [`Code::DiskFull`]; [`Code::Unavailable`] when stopped, or when the log failed: then it is
    /// unknown whether the request is durable. Else what is wrong with the request. In all cases
    /// but [`Code::Unavailable`] nothing was written.
    pub async fn submit(&self, request: WriteRequest) -> Result<Ack> {
        let shared = &self.0.shared;
        let backlog = shared.backlog_bytes.load(Ordering::Relaxed);
        if backlog > shared.limits.log_reserve_bytes {
            let message = format!("{backlog} bytes of the log are not archived yet");
            return Err(Error::new(Code::Overloaded, message)
                .hint("retry later; if this lasts, look why the archiver is stuck"));
        }
        let (reply, answer) = oneshot::channel();
        let bytes = request.bytes();
        let since = Instant::now();
        shared.queue.push(Item::Write(Waiting { request, bytes, reply, since }))?;
        answered(answer.await)
    }

    /// What a request would change if it were the next one; nothing is written.
    ///
    /// # Errors
    /// As [`Sequencer::submit`].
    pub async fn preview(&self, request: WriteRequest) -> Result<Preview> {
        let (reply, answer) = oneshot::channel();
        let (bytes, since) = (request.bytes(), Instant::now());
        self.0.shared.queue.push(Item::Preview(Waiting { request, bytes, reply, since }))?;
        answered(answer.await)
    }

    /// Adds a stream or table, after the writes given before.
    ///
    /// # Errors
    /// As [`State::add_stream`]; [`Code::Unavailable`] when stopped.
    pub async fn define(&self, definition: Definition) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.0.shared.queue.push(Item::Define(Box::new(definition), reply))?;
        answered(answer.await)
    }

    /// Changes the definition of a stream or table, after the writes given before; columns may only
    /// be added at the end.
    ///
    /// # Errors
    /// As [`State::redefine_stream`]; [`Code::Unavailable`] when stopped.
    pub async fn redefine(&self, definition: Definition) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.0.shared.queue.push(Item::Redefine(Box::new(definition), reply))?;
        answered(answer.await)
    }

    /// Forgets a stream or table, after the writes given before.
    ///
    /// # Errors
    /// As [`State::forget_stream`]; [`Code::Unavailable`] when stopped.
    pub async fn forget(&self, stream: StreamId) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.0.shared.queue.push(Item::Forget(stream, reply))?;
        answered(answer.await)
    }

    /// Tells how many bytes of the log are not archived yet; to be called after every archive run.
    /// Between the calls the sequencer counts up what it appends.
    pub fn set_backlog_bytes(&self, bytes: u64) {
        self.0.shared.backlog_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What happened to each stream's rows, as far as durable.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<StreamId, Counters> {
        self.0.shared.seen.lock().counters.clone()
    }

    /// The last commit that counters and producers tell of. The log's head may be ahead of it.
    #[must_use]
    pub fn shown(&self) -> Lsn {
        self.0.shared.seen.lock().head
    }

    /// The last write of each producer that is remembered, as far as durable.
    #[must_use]
    pub fn producers(&self) -> BTreeMap<String, Last> {
        self.0.shared.seen.lock().producers.clone()
    }

    /// Forgets the producers whose ids begin so, after the writes given before: the splits of a source
    /// that is gone.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when stopped.
    pub async fn forget_producers(&self, prefix: String) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.0.shared.queue.push(Item::ForgetProducers(prefix, reply))?;
        answered(answer.await)
    }

    /// Takes nothing more for this reason, and answers all that waits with it.
    pub fn halt(&self, reason: Error) {
        self.0.shared.fail(reason);
    }

    /// Why nothing more is taken, when the log failed or the sequencer was halted.
    #[must_use]
    pub fn failed(&self) -> Option<Error> {
        self.0.shared.failed.lock().clone()
    }

    /// The last sequence of each producer whose id begins so, as far as durable.
    #[must_use]
    pub fn producers_like(&self, prefix: &str) -> Vec<(String, u64)> {
        let seen = self.0.shared.seen.lock();
        let from = seen.producers.range(prefix.to_owned()..);
        let found = from.take_while(|(id, _)| id.starts_with(prefix));
        found.map(|(id, last)| (id.clone(), last.sequence)).collect()
    }

    /// Takes nothing more, commits what waits, and returns when the thread has ended. Blocks.
    pub fn stop(&self) {
        self.0.shared.queue.close(stopped());
        if let Some(thread) = self.0.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the sequencer's thread panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close(stopped());
    }
}

/// The thread.
struct Worker {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    state: State,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self) {
        // Also when this thread panics, nobody may wait for ever.
        let _guard = FailOnExit(Arc::clone(&self.shared));
        while let Some(work) = self.shared.queue.take() {
            match work {
                Work::Group(group) => self.group(group),
                Work::Preview(Waiting { request, reply, .. }) => {
                    let now_us = self.clock.now_us();
                    drop(reply.send(self.state.preview(request, now_us)));
                }
                Work::Define(definition, reply) => {
                    let id = definition.def.id;
                    let added = self.state.add_stream(*definition);
                    if added.is_ok() {
                        self.shared.seen.lock().counters.insert(id, Counters::default());
                    }
                    drop(reply.send(added));
                }
                Work::Redefine(definition, reply) => {
                    drop(reply.send(self.state.redefine_stream(*definition)));
                }
                Work::Forget(stream, reply) => {
                    let gone = self.state.forget_stream(stream);
                    self.shared.seen.lock().counters.remove(&stream);
                    drop(reply.send(gone));
                }
                Work::ForgetProducers(prefix, reply) => {
                    self.state.forget_producers(&prefix);
                    let mut seen = self.shared.seen.lock();
                    seen.producers.retain(|id, _| !id.starts_with(&prefix));
                    drop(seen);
                    drop(reply.send(Ok(())));
                }
            }
        }
    }

    /// Decides each request, appends all commits at once, and answers.
    fn group(&mut self, group: Vec<Waiting>) {
        let now_us = self.clock.now_us();
        let (mut commits, mut answers) = (Vec::new(), Vec::with_capacity(group.len()));
        for Waiting { request, reply, .. } in group {
            match self.state.decide(request, now_us) {
                Ok(decision) => {
                    commits.extend(decision.commit);
                    answers.push((reply, decision.ack));
                }
                Err(error) => drop(reply.send(Err(error))),
            }
        }
        let appended = match commits.is_empty() {
            true => Ok(()),
            false => self.log.append(&commits),
        };
        match appended {
            Ok(()) => {
                self.publish(&commits);
                for (reply, ack) in answers {
                    drop(reply.send(Ok(ack)));
                }
            }
            Err(error) => {
                self.state.revert();
                let (answer, poisoned) = failure(&error);
                if poisoned {
                    tracing::error!(%error, "the log failed; no more writes are taken");
                    self.shared.fail(answer.clone());
                }
                for (reply, _) in answers {
                    drop(reply.send(Err(answer.clone())));
                }
            }
        }
    }

    /// Shows what is durable.
    fn publish(&mut self, commits: &[Commit]) {
        let bytes: usize = commits.iter().flat_map(|c| &c.writes).map(|w| w.payload.len()).sum();
        self.shared.backlog_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let confirmed = self.state.confirm();
        let mut seen = self.shared.seen.lock();
        seen.head = commits.last().map_or(seen.head, |c| c.lsn);
        seen.counters.extend(confirmed.counters);
        for id in confirmed.forgotten {
            seen.producers.remove(&id);
        }
        seen.producers.extend(confirmed.producers);
    }
}

/// Answers what is left in the queue when the thread ends.
struct FailOnExit(Arc<Shared>);

impl Drop for FailOnExit {
    fn drop(&mut self) {
        self.0.queue.fail(stopped());
    }
}

/// What a failed append means for those who wait, and whether it is the end.
fn failure(error: &kaplan_log::Error) -> (Error, bool) {
    match error {
        kaplan_log::Error::DiskFull { .. } => {
            let full = Error::new(Code::DiskFull, error.to_string());
            (full.hint("free space on the log's disk and retry; nothing was written"), false)
        }
        kaplan_log::Error::Fenced { epoch } => {
            (kaplan_log::Error::Fenced { epoch: *epoch }.into(), true)
        }
        kaplan_log::Error::TooLarge { .. } => {
            (Error::new(Code::TooLarge, error.to_string()).hint("send less at once"), false)
        }
        _ => {
            let message = format!("the log failed, so it takes no more writes: {error}");
            let hint = "restart Kaplan; it then knows which writes are durable, and a retry with \
                        the same producer sequence counts once";
            (Error::new(Code::Unavailable, message).hint(hint), true)
        }
    }
}

fn stopped() -> Error {
    Error::new(Code::Unavailable, "the sequencer has stopped")
        .hint("retry when Kaplan has started again")
}

/// An answer; a thread that ended without one leaves unknown what is durable.
fn answered<T>(answer: Result<Result<T>, oneshot::error::RecvError>) -> Result<T> {
    answer.unwrap_or_else(|_| {
        Err(Error::new(Code::Unavailable, "the sequencer ended before it answered")
            .hint("restart Kaplan, then retry with the same producer sequence"))
    })
}
