//! What waits for the sequencer: a queue bounded by bytes. A request that does not fit is refused
//! at once; an empty queue takes one request of any size. Once closed it refuses everything with
//! the reason, and what it holds is still handed out.

use super::request::{Definition, Limits, WriteRequest};
use crate::transactions::Pending as Preview;
use crate::{Ack, Code, Error, Result};
use kaplan_base::StreamId;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::Instant;
use tokio::sync::oneshot;

/// Where an answer goes; nobody may be waiting any more.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// A write that waits.
pub(super) struct Waiting<T = Ack> {
    pub request: WriteRequest,
    pub bytes: usize,
    pub since: Instant,
    pub reply: Reply<T>,
}

/// What the sequencer may be asked, in order.
pub(super) enum Item {
    Write(Waiting),
    Preview(Waiting<Preview>),
    Define(Box<Definition>, Reply<()>),
    Redefine(Box<Definition>, Reply<()>),
    Forget(StreamId, Reply<()>),
    ForgetProducers(String, Reply<()>),
}

/// What the sequencer does next.
pub(super) enum Work {
    Group(Vec<Waiting>),
    Preview(Waiting<Preview>),
    Define(Box<Definition>, Reply<()>),
    Redefine(Box<Definition>, Reply<()>),
    Forget(StreamId, Reply<()>),
    ForgetProducers(String, Reply<()>),
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Item>,
    bytes: usize,
    closed: Option<Error>,
}

/// The queue.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
    limits: Limits,
}

impl Queue {
    pub fn new(limits: Limits) -> Self {
        Self { inner: Mutex::default(), filled: Condvar::new(), limits }
    }

    /// Adds an item, or says why not.
    pub fn push(&self, item: Item) -> Result<()> {
        let mut inner = self.inner.lock();
        if let Some(reason) = &inner.closed {
            return Err(reason.clone());
        }
        let bytes = item.bytes();
        if inner.bytes > 0 && inner.bytes + bytes > self.limits.queue_bytes {
            let message = format!("{} bytes of writes wait to be committed already", inner.bytes);
            return Err(Error::new(Code::Overloaded, message)
                .hint("retry after a moment; nothing of this request was written"));
        }
        inner.bytes += bytes;
        inner.items.push_back(item);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for work: all writes at the front that a group may hold, or one definition. None when
    /// the queue is closed and empty.
    pub fn take(&self) -> Option<Work> {
        let mut inner = self.inner.lock();
        loop {
            if let Some(deadline) = inner.linger_until(&self.limits)
                && !self.filled.wait_until(&mut inner, deadline).timed_out()
            {
                continue;
            }
            match inner.items.pop_front() {
                Some(Item::Define(definition, reply)) => {
                    return Some(Work::Define(definition, reply));
                }
                Some(Item::Redefine(definition, reply)) => {
                    return Some(Work::Redefine(definition, reply));
                }
                Some(Item::Forget(stream, reply)) => return Some(Work::Forget(stream, reply)),
                Some(Item::ForgetProducers(prefix, reply)) => {
                    return Some(Work::ForgetProducers(prefix, reply));
                }
                Some(Item::Preview(waiting)) => {
                    inner.bytes -= waiting.bytes;
                    return Some(Work::Preview(waiting));
                }
                Some(Item::Write(first)) => {
                    return Some(Work::Group(inner.group(first, &self.limits)));
                }
                None if inner.closed.is_some() => return None,
                None => self.filled.wait(&mut inner),
            }
        }
    }

    /// Refuses everything from now on; the first reason stays.
    pub fn close(&self, reason: Error) {
        self.inner.lock().closed.get_or_insert(reason);
        self.filled.notify_one();
    }

    /// Refuses everything from now on, and answers all that waits; the first reason stays.
    pub fn fail(&self, reason: Error) {
        let mut inner = self.inner.lock();
        let reason = inner.closed.get_or_insert(reason).clone();
        inner.bytes = 0;
        for item in inner.items.drain(..) {
            match item {
                Item::Write(waiting) => drop(waiting.reply.send(Err(reason.clone()))),
                Item::Preview(waiting) => drop(waiting.reply.send(Err(reason.clone()))),
                Item::Define(_, reply)
                | Item::Redefine(_, reply)
                | Item::Forget(_, reply)
                | Item::ForgetProducers(_, reply) => drop(reply.send(Err(reason.clone()))),
            }
        }
    }
}

impl Inner {
    /// Until when the write in front waits for others to join it; None when it does not.
    fn linger_until(&self, limits: &Limits) -> Option<Instant> {
        let Some(Item::Write(first)) = self.items.front() else { return None };
        let full = self.bytes >= limits.group_bytes || self.items.len() >= limits.group_requests;
        if limits.linger.is_zero() || full || self.closed.is_some() {
            return None;
        }
        Some(first.since + limits.linger)
    }

    fn group(&mut self, first: Waiting, limits: &Limits) -> Vec<Waiting> {
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < limits.group_requests && bytes < limits.group_bytes {
            match self.items.pop_front() {
                Some(Item::Write(next)) if bytes + next.bytes <= limits.group_bytes => {
                    bytes += next.bytes;
                    group.push(next);
                }
                Some(other) => {
                    self.items.push_front(other);
                    break;
                }
                None => break,
            }
        }
        self.bytes -= bytes;
        group
    }
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Write(waiting) => waiting.bytes,
            Item::Preview(waiting) => waiting.bytes,
            Item::Define(..)
            | Item::Redefine(..)
            | Item::Forget(..)
            | Item::ForgetProducers(..) => 0,
        }
    }
}
