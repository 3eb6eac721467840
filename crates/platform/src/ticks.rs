//! The time goes on although nothing is written: when a view's rows depend on it, a commit without
//! rows tells the log what time it is. So a row leaves `WHERE at > now() - INTERVAL '1 hour'` and a
//! window closes even on a quiet stream, at one LSN for every reader. Nothing is committed while
//! nothing is due. The watermark of a stream with an `IDLE TIMEOUT` goes on with the clock while it
//! has no new rows, so that it holds back no window for ever.

use crate::platform::Inner;
use crate::sequencer::WriteRequest;
use kaplan_base::StreamId;
use kaplan_circuit::{Clocks, NOW};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often is looked, and so how late a view may be on a quiet platform.
const TICK: Duration = Duration::from_secs(1);

/// Tells the time until the platform stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    let mut quiet = Quiet::default();
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let snapshot = inner.driver.snapshot();
        if snapshot.views.values().all(|view| view.compiled.clocks.is_empty()) {
            continue;
        }
        let idle = quiet.watermarks(&inner);
        let clocks = shown_now(&inner, &snapshot.clocks, &idle);
        if !matches!(inner.driver.due(clocks).await, Ok(true)) {
            continue;
        }
        let tick = WriteRequest { tick: Some(idle), ..WriteRequest::default() };
        if let Err(error) = inner.sequencer.submit(tick).await {
            tracing::warn!(%error, "the time was not told");
        }
    }
}

/// What the clocks would show after a commit now.
fn shown_now(inner: &Inner, last: &Clocks, idle: &BTreeMap<StreamId, i64>) -> Clocks {
    let mut clocks = last.clone();
    clocks.advance(NOW, inner.clock.now_us());
    let counters = inner.sequencer.counters();
    let marks = counters.iter().filter_map(|(id, c)| Some((*id, c.watermark_us?)));
    inner.streams.mark(&mut clocks, &marks.collect::<BTreeMap<StreamId, i64>>());
    inner.streams.mark(&mut clocks, idle);
    clocks
}

/// Since when streams with an `IDLE TIMEOUT` have had no new rows, as far as this process saw.
#[derive(Default)]
struct Quiet(BTreeMap<StreamId, (u64, Instant)>);

impl Quiet {
    /// The watermarks of those that are idle: as far behind the clock as they were left for.
    fn watermarks(&mut self, inner: &Inner) -> BTreeMap<StreamId, i64> {
        let (counters, now) = (inner.sequencer.counters(), Instant::now());
        let mut marks = BTreeMap::new();
        for def in inner.definitions.read().streams.values() {
            let Some((mark, idle_us)) = def.watermark.as_ref().and_then(|m| Some((m, m.idle_us?)))
            else {
                continue;
            };
            let rows = counters.get(&def.id).map_or(0, |c| c.rows);
            let (seen, since) = self.0.entry(def.id).or_insert((rows, now));
            if *seen != rows {
                (*seen, *since) = (rows, now);
            }
            let behind = idle_us.saturating_add(mark.delay_us);
            if now.duration_since(*since).as_micros() >= idle_us.unsigned_abs().into() {
                marks.insert(def.id, inner.clock.now_us().saturating_sub(behind));
            }
        }
        marks
    }
}
