//! A sink's task: asks the other side where it stands, brings a circuit there, and writes what
//! changes from then on. After whatever goes wrong it begins again; it never gives up by itself.
//!
//! Invariant: what is written at LSN n is the change from the LSN that the other side has to n, no
//! matter in how many steps, so that nothing is written twice or left out.

use super::{Planned, net, plan};
use crate::platform::Inner;
use crate::sources::{Backoff, Running, State, until};
use crate::{Code, Error, Result};
use kaplan_base::Lsn;
use kaplan_circuit::Clocks;
use kaplan_connect::connectors;
use kaplan_speed::Attached;
use kaplan_speed::replay::{self, History};
use kaplan_sql::catalog::{Catalog, SinkDef};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest wait between two tries, and between two looks at the definition.
const LOOK: Duration = Duration::from_millis(500);
/// A pause after each write, so that many small commits become one.
const LINGER: Duration = Duration::from_millis(20);
/// A sink whose relation does not change writes its position this often.
const HEARTBEAT: Duration = Duration::from_secs(600);

/// Why writing ended without an error.
enum End {
    Gone,
    Changed,
}

/// Runs a sink until it is dropped or the platform stops.
pub async fn run(inner: Arc<Inner>, id: u32, running: Arc<Running>) {
    let mut stopped = running.stopped.subscribe();
    let mut backoff = Backoff::new();
    loop {
        let catalog = Arc::clone(&inner.definitions.read());
        let Some(def) = find(&catalog, id) else { return };
        let wait = if def.paused {
            running.set(State::Paused, inner.clock.now_us());
            LOOK
        } else {
            match until(&mut stopped, write(&inner, &running, &catalog, def, &mut backoff)).await {
                None | Some(Ok(End::Gone)) => return,
                Some(Ok(End::Changed)) => continue,
                Some(Err(error)) => {
                    tracing::warn!(sink = def.name, %error, "a sink waits after an error");
                    running.failed(&error, inner.clock.now_us());
                    backoff.next()
                }
            }
        };
        let pause = async {
            tokio::select! {
                () = running.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        };
        if until(&mut stopped, pause).await.is_none() {
            return;
        }
    }
}

fn find(catalog: &Catalog, id: u32) -> Option<&SinkDef> {
    catalog.sinks.values().find(|s| s.id == id)
}

/// A circuit at the position of the other side, which holds only what comes after.
async fn attached(
    inner: &Inner,
    history: &History,
    planned: &Planned,
    at: Lsn,
) -> Result<Attached> {
    let compiled = Arc::clone(&planned.compiled);
    let circuit = compiled.circuit(Lsn::ZERO)?;
    let clocks = Clocks::default();
    let view = Attached { compiled, version: 0, circuit, lsn: Lsn::ZERO, clocks };
    let archived = || *inner.archived.borrow();
    let mut view = replay::reach(history, view, at, &archived).await?;
    view.circuit.cut(at);
    view.circuit.release(at)?;
    Ok(view)
}

/// Writes changes until the definition changes.
async fn write(
    inner: &Arc<Inner>,
    running: &Running,
    catalog: &Catalog,
    def: &SinkDef,
    backoff: &mut Backoff,
) -> Result<End> {
    running.set(State::Starting, inner.clock.now_us());
    let planned = plan(inner, catalog, def).await?;
    let mut sink = connectors::sink(planned.spec.clone())?;
    let there = sink.open().await?;
    let mut at = there.unwrap_or(planned.begin);
    if at > inner.log.head() {
        let head = inner.log.head();
        let message = format!("sink {} has LSN {at}, and Kaplan ends at {head}", def.name);
        return Err(Error::new(Code::NotReady, message)
            .hint("commits that the sink has are lost here: DROP it and CREATE it anew"));
    }
    let history = inner.history();
    let mut view = attached(inner, &history, &planned, at).await?;
    running.set(State::Running, inner.clock.now_us());
    running.status.lock().lsn = at;
    let (mut written, mut first) = (Instant::now(), there.is_none());
    let mut due = Instant::now();
    loop {
        match find(&inner.definitions.read(), def.id) {
            None => return Ok(End::Gone),
            Some(now) if now != def => return Ok(End::Changed),
            _ => {}
        }
        let head = inner.log.head();
        let wait = due.saturating_duration_since(Instant::now());
        if head > at && !wait.is_zero() {
            tokio::time::sleep(wait.min(LOOK)).await;
        } else if head > at || first {
            let archived = || *inner.archived.borrow();
            view = replay::reach(&history, view, head, &archived).await?;
            let content = view.circuit.snapshot();
            let delta = content.output.rows(&content.batches_after(at))?;
            let spec = &planned.spec;
            let change = net::change(delta, &spec.schema, &spec.key, planned.force)?;
            if !change.ops.is_empty() || first || written.elapsed() > HEARTBEAT {
                sink.write(&change, head).await?;
                written = Instant::now();
                due = written + sink.pause();
            }
            view.circuit.cut(head);
            view.circuit.release(head)?;
            (at, first) = (head, false);
            {
                let mut status = running.status.lock();
                status.rows += change.ops.len() as u64;
                status.lsn = at;
            }
            *backoff = Backoff::new();
            tokio::time::sleep(LINGER).await;
        } else {
            let more = inner.driver.wait(at.next());
            let _ = tokio::time::timeout(LOOK, more).await;
        }
    }
}
