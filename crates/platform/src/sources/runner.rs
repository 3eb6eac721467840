//! A source's task: connects, reads, commits, and begins again after whatever went wrong, at the
//! position that is durable. It never gives up by itself.

use super::deliver::Delivery;
use super::{Running, State, spec};
use crate::platform::Inner;
use crate::{Code, Error, Result, alter};
use kaplan_connect::connectors;
use kaplan_connect::source::{Grown, Parcel, Positions, Source};
use kaplan_sql::catalog::{Catalog, SourceDef, StreamDef};
use std::sync::Arc;
use std::time::Duration;

/// The wait after the first error; it doubles with every further one.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Why reading ended without an error.
enum End {
    /// The source is gone, or the platform stops.
    Stopped,
    /// The definition is another one.
    Changed,
}

/// Waits that grow, each with a random part, so that many sources do not come back at one moment.
pub struct Backoff(u32);

impl Backoff {
    pub fn new() -> Self {
        Self(0)
    }

    pub fn next(&mut self) -> Duration {
        let wait = FIRST_WAIT.saturating_mul(1 << self.0.min(10)).min(LONGEST_WAIT);
        self.0 = self.0.saturating_add(1);
        let random = (uuid::Uuid::new_v4().as_u128() % 1_000) as u32;
        wait / 2 + wait / 2 * random / 1_000
    }
}

/// Runs a source until it is dropped or the platform stops.
pub async fn run(inner: Arc<Inner>, id: u32, running: Arc<Running>) {
    let mut stopped = running.stopped.subscribe();
    let mut backoff = Backoff::new();
    loop {
        let catalog = Arc::clone(&inner.definitions.read());
        let Some(def) = find(&catalog, id) else { return };
        let wait = if def.paused {
            running.set(State::Paused, inner.clock.now_us());
            LONGEST_WAIT
        } else {
            let read = read(&inner, &running, &catalog, def, &mut backoff);
            match until(&mut stopped, read).await {
                None | Some(Ok(End::Stopped)) => return,
                Some(Ok(End::Changed)) => continue,
                Some(Err(error)) => {
                    tracing::warn!(source = def.name, %error, "a source waits after an error");
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

/// A future's answer, unless the source is told to stop before.
pub async fn until<T>(
    stopped: &mut tokio::sync::watch::Receiver<bool>,
    work: impl Future<Output = T>,
) -> Option<T> {
    if *stopped.borrow() {
        return None;
    }
    tokio::select! {
        _ = stopped.wait_for(|stopped| *stopped) => None,
        done = work => Some(done),
    }
}

fn find(catalog: &Catalog, id: u32) -> Option<&SourceDef> {
    catalog.sources.values().find(|s| s.id == id)
}

/// A definition with those of the streams that it fills.
fn whole(catalog: &Catalog, id: u32) -> Option<(SourceDef, Vec<StreamDef>)> {
    let def = find(catalog, id)?;
    let filled = |s: &&StreamDef| def.targets.iter().any(|t| t.stream == s.id);
    Some((def.clone(), catalog.streams.values().filter(filled).cloned().collect()))
}

/// Reads and commits until the definition changes.
async fn read(
    inner: &Arc<Inner>,
    running: &Running,
    catalog: &Arc<Catalog>,
    def: &SourceDef,
    backoff: &mut Backoff,
) -> Result<End> {
    running.set(State::Starting, inner.clock.now_us());
    let mut source = connectors::source(spec(catalog, def)?)?;
    let delivery = Delivery::new(inner, running, catalog, def)?;
    let mine = whole(catalog, def.id);
    let mut seen = Arc::clone(catalog);
    let mut at = inner.source_positions(def);
    let begun = source.open(&at).await?;
    let begun = begun.into_iter().map(|(split, position)| Parcel::at(split, position));
    pass_on(inner, running, &delivery, &mut *source, &mut at, begun.collect()).await?;
    running.set(State::Running, inner.clock.now_us());
    loop {
        let now = Arc::clone(&inner.definitions.read());
        if !Arc::ptr_eq(&now, &seen) {
            match whole(&now, def.id) {
                None => return Ok(End::Stopped),
                changed if changed != mine => return Ok(End::Changed),
                _ => seen = now,
            }
        }
        let parcels = source.poll().await?;
        let grown = source.grown();
        if !grown.is_empty() {
            return grow(inner, def, grown).await;
        }
        {
            let mut status = running.status.lock();
            status.lag = source.lag();
            status.note = source.note();
        }
        pass_on(inner, running, &delivery, &mut *source, &mut at, parcels).await?;
        *backoff = Backoff::new();
        // A source that always has something must not keep others from this thread.
        tokio::task::yield_now().await;
    }
}

/// Adds the columns that records bring. What was read is read again, from what is committed, by a
/// source that knows them; so a crash in between leaves columns without values, and loses nothing.
async fn grow(inner: &Arc<Inner>, def: &SourceDef, grown: Vec<Grown>) -> Result<End> {
    for Grown { target, columns } in grown {
        let Some(target) = def.targets.get(target) else { continue };
        let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        tracing::info!(source = def.name, columns = names.join(", "), "a source adds columns");
        alter::grow(inner, target.stream, columns).await?;
    }
    Ok(End::Changed)
}

/// Commits parcels and tells the source.
async fn pass_on(
    inner: &Arc<Inner>,
    running: &Running,
    delivery: &Delivery<'_>,
    source: &mut dyn Source,
    at: &mut Positions,
    parcels: Vec<Parcel>,
) -> Result<()> {
    if parcels.is_empty() {
        return Ok(());
    }
    let mut ends = Positions::new();
    let mut due = Vec::with_capacity(parcels.len());
    for parcel in parcels {
        let after = at.insert(parcel.split.clone(), parcel.position);
        if after.is_some_and(|after| parcel.position <= after) {
            let (split, position) = (&parcel.split, parcel.position);
            let message = format!("split {split} went back to {position}");
            return Err(Error::new(Code::Internal, message));
        }
        ends.insert(parcel.split.clone(), parcel.position);
        due.push((parcel, after));
    }
    let delivered = delivery.deliver(source, due).await?;
    {
        let mut status = running.status.lock();
        status.rows += delivered.iter().map(|d| d.rows).sum::<u64>();
        status.rejected += delivered.iter().map(|d| d.rejected).sum::<u64>();
    }
    tracing::trace!(now_us = inner.clock.now_us(), splits = ends.len(), "committed");
    for (split, position) in ends {
        source.committed(&split, position).await?;
    }
    Ok(())
}
