//! The writer's side: who is there, what each was told, and what it gave.

use super::{
    LogTopic, MAX_HELD_BYTES, MAX_NAME_BYTES, Order, Report, WorkerStatus, Workers, decode,
};
use crate::{Code, Error, Result};
use bytes::Bytes;
use kaplan_base::Lsn;
use kaplan_circuit::environment_fingerprint;
use kaplan_speed::crew::{Crew, Dealt, Hand, Part, Shares, ViewId};
use kaplan_sql::catalog::Catalog;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long a worker waits for an order before it speaks again.
const TURN: Duration = Duration::from_millis(500);
/// A worker that was not heard of for this long is gone.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a worker may take to give what it has.
const GIVE: Duration = Duration::from_secs(30);
/// A worker that failed gets nothing for this long.
const BENCH: Duration = Duration::from_secs(5);
/// Workers that are known at once.
const MAX_WORKERS: usize = 1_024;

type Definitions = Arc<RwLock<Arc<Catalog>>>;

/// Where workers come to.
pub(crate) struct Desk {
    log: LogTopic,
    definitions: Definitions,
    members: Mutex<BTreeMap<String, Arc<Member>>>,
    /// What each has, and since when, by its name.
    dealt: Mutex<BTreeMap<String, (Shares, Lsn)>>,
    /// The number of the next answer, unlike those of a writer before this one.
    next: Arc<AtomicU64>,
}

/// A worker.
pub(crate) struct Member {
    name: String,
    definitions: Definitions,
    next: Arc<AtomicU64>,
    state: Mutex<State>,
    /// A worker has spoken, or is gone.
    heard: Condvar,
    /// There are orders.
    ordered: Notify,
}

struct State {
    report: Report,
    spoke: Instant,
    gone: bool,
    failed: Option<(Instant, String)>,
    orders: Vec<Order>,
    /// The answer that is waited for, and the answer.
    asked: u64,
    given: Option<Result<Vec<Part>, String>>,
}

impl Desk {
    pub fn new(log: LogTopic, definitions: Definitions) -> Self {
        let next = Arc::new(AtomicU64::new(uuid::Uuid::new_v4().as_u64_pair().0 >> 16));
        Self { log, definitions, members: Mutex::default(), dealt: Mutex::default(), next }
    }

    /// The log and who is there.
    pub fn show(&self) -> Workers {
        let dealt = self.dealt.lock().clone();
        let status = |member: &Arc<Member>| {
            let state = member.state.lock();
            WorkerStatus {
                name: member.name.clone(),
                shares: state.report.shares.clone(),
                of: state.report.of,
                since: dealt.get(&member.name).map(|(_, since)| *since),
                held_bytes: state.report.held_bytes,
                error: state.failed.as_ref().map(|(_, reason)| reason.clone()),
            }
        };
        let members = self.members.lock();
        let here = members.values().filter(|member| !member.is_gone());
        Workers { log: self.log.clone(), workers: here.map(status).collect() }
    }

    /// A worker speaks; returns what it is to do, after a while without anything if there is nothing.
    pub async fn turn(&self, name: &str, report: Report) -> Result<Vec<Order>> {
        let member = self.member(name, report)?;
        let mut here = Here { member: &member, stays: false };
        let until = tokio::time::Instant::now() + TURN;
        loop {
            let ordered = member.ordered.notified();
            let orders = std::mem::take(&mut member.state.lock().orders);
            if !orders.is_empty() || tokio::time::timeout_at(until, ordered).await.is_err() {
                here.stays = true;
                member.state.lock().spoke = Instant::now();
                return Ok(orders);
            }
        }
    }

    fn member(&self, name: &str, report: Report) -> Result<Arc<Member>> {
        let ours = environment_fingerprint();
        if report.fingerprint != ours {
            let theirs = &report.fingerprint;
            let message = format!("the worker computes as {theirs}, and this process as {ours}");
            return Err(Error::new(Code::InvalidInput, message)
                .hint("run the same version of kaplan, on the same kind of machine"));
        }
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            let message = format!("a worker's name has 1 to {MAX_NAME_BYTES} bytes");
            return Err(Error::new(Code::InvalidInput, message).field("name"));
        }
        let mut members = self.members.lock();
        members.retain(|_, member| !member.is_gone());
        if members.len() >= MAX_WORKERS && !members.contains_key(name) {
            let message = format!("there are {MAX_WORKERS} workers already");
            return Err(Error::new(Code::Overloaded, message).hint("stop some of them"));
        }
        if let Some(member) = members.get(name) {
            let mut state = member.state.lock();
            if state.report.instance != report.instance {
                let message = format!("another worker is called {name}, and is there");
                return Err(Error::new(Code::Unavailable, message).hint("give one another --name"));
            }
            (state.report, state.spoke) = (report, Instant::now());
            if let Some(reason) = state.report.error.take() {
                tracing::warn!(worker = name, reason, "a worker failed");
                state.failed = Some((Instant::now(), reason.clone()));
                state.given = Some(Err(reason));
                member.heard.notify_all();
            }
            return Ok(Arc::clone(member));
        }
        tracing::info!(worker = name, "a worker has come");
        let member = Arc::new(Member::new(name, self, report));
        members.insert(name.to_owned(), Arc::clone(&member));
        Ok(member)
    }

    /// The worker that was asked for this answer, and is waited for.
    pub fn asked(&self, name: &str, number: u64) -> Result<Arc<Member>> {
        let member = self.members.lock().get(name).cloned();
        member.filter(|member| member.state.lock().asked == number).ok_or_else(|| {
            // It was given up meanwhile, and its commits were taken in by others.
            let message = format!("nobody waits for answer {number} of {name} any more");
            Error::new(Code::NotReady, message).hint("begin again")
        })
    }

    /// A worker gives what it was asked for.
    pub fn parts(&self, name: &str, number: u64, bytes: Bytes) -> Result<()> {
        let member = self.asked(name, number)?;
        let parts = decode(bytes);
        let mut state = member.state.lock();
        if state.asked == number {
            (state.given, state.spoke) = (Some(parts), Instant::now());
            member.heard.notify_all();
        }
        Ok(())
    }
}

impl Crew for Desk {
    fn hands(&self) -> Vec<Arc<dyn Hand>> {
        let members = self.members.lock();
        members.values().map(|member| Arc::clone(member) as Arc<dyn Hand>).collect()
    }

    fn dealt(&self, dealt: &[Dealt<'_>]) {
        let mut known = self.dealt.lock();
        let before = std::mem::take(&mut *known);
        for Dealt { name, shares, since } in dealt {
            if before.get(*name).is_none_or(|(had, _)| had != *shares) {
                let of = shares.of;
                tracing::info!(worker = name, shares = ?shares.these, of, after = since.0, "shares");
            }
            known.insert((*name).to_owned(), ((*shares).clone(), *since));
        }
    }
}

/// A worker that is listened to. When its connection breaks, nobody listens any more, and it is gone.
struct Here<'a> {
    member: &'a Member,
    stays: bool,
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.member.state.lock().gone = true;
            self.member.heard.notify_all();
        }
    }
}

impl Member {
    fn new(name: &str, desk: &Desk, report: Report) -> Self {
        let state = State {
            report,
            spoke: Instant::now(),
            gone: false,
            failed: None,
            orders: Vec::new(),
            asked: 0,
            given: None,
        };
        Self {
            name: name.to_owned(),
            definitions: Arc::clone(&desk.definitions),
            next: Arc::clone(&desk.next),
            state: Mutex::new(state),
            heard: Condvar::new(),
            ordered: Notify::new(),
        }
    }

    fn is_gone(&self) -> bool {
        self.state.lock().is_gone()
    }

    fn order(&self, order: Order) {
        let mut state = self.state.lock();
        match (state.orders.last_mut(), &order) {
            (Some(Order::Advance { to }), Order::Advance { to: later }) => *to = *later,
            _ => state.orders.push(order),
        }
        drop(state);
        self.ordered.notify_one();
    }
}

impl State {
    fn is_gone(&self) -> bool {
        self.gone || self.spoke.elapsed() > SILENCE
    }
}

impl Hand for Member {
    fn name(&self) -> &str {
        &self.name
    }

    fn shares(&self) -> Option<Shares> {
        let state = self.state.lock();
        let benched = state.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < BENCH);
        let these = state.report.shares.iter().copied().collect();
        (!benched && !state.is_gone()).then(|| Shares { of: state.report.of, these })
    }

    fn is_full(&self) -> bool {
        self.state.lock().report.held_bytes > MAX_HELD_BYTES
    }

    fn begin(&self, after: Lsn, shares: &Shares, views: &[ViewId]) {
        let catalog = serde_json::to_string(&**self.definitions.read()).unwrap_or_default();
        let mut state = self.state.lock();
        // What was ordered before is of no more interest.
        state.orders.clear();
        state.given = None;
        drop(state);
        self.order(Order::Begin {
            after,
            shares: shares.these.iter().copied().collect(),
            of: shares.of,
            views: views.to_vec(),
            catalog,
        });
    }

    fn advance(&self, to: Lsn) {
        self.order(Order::Advance { to });
    }

    fn give(&self) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        // An error from before is the answer.
        state.asked = number;
        state.given = state.given.take().filter(Result::is_err);
        // It is not full any more, and says so when it has given.
        state.report.held_bytes = 0;
        drop(state);
        self.order(Order::Give { number });
    }

    fn given(&self) -> Result<Vec<Part>, String> {
        let until = Instant::now() + GIVE;
        let mut state = self.state.lock();
        loop {
            if let Some(given) = state.given.take() {
                state.asked = 0;
                return given;
            }
            let gone = state.is_gone();
            if gone || Instant::now() >= until {
                state.asked = 0;
                let reason = if gone { "it is gone" } else { "it did not answer in time" };
                let failed = (Instant::now(), reason.to_owned());
                state.failed = Some(failed);
                return Err(reason.to_owned());
            }
            self.heard.wait_for(&mut state, TURN);
        }
    }
}
