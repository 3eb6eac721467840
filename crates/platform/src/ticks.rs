//! The time goes on although nothing is written: when a view's rows depend on it, a commit without
//! rows tells the log what time it is. So a row leaves `WHERE at > now() - INTERVAL '1 hour'` and a
//! window closes even on a quiet stream, at one LSN for every reader. Nothing is committed while
//! nothing is due.

use crate::platform::Inner;
use crate::sequencer::WriteRequest;
use kaplan_base::StreamId;
use kaplan_circuit::{Clocks, NOW};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often is looked, and so how late a view may be on a quiet platform.
const TICK: Duration = Duration::from_secs(1);

/// Tells the time until the platform stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let snapshot = inner.driver.snapshot();
        if snapshot.views.values().all(|view| view.compiled.clocks.is_empty()) {
            continue;
        }
        let clocks = shown_now(&inner, &snapshot.clocks);
        if !matches!(inner.driver.due(clocks).await, Ok(true)) {
            continue;
        }
        let tick = WriteRequest { tick: true, ..WriteRequest::default() };
        if let Err(error) = inner.sequencer.submit(tick).await {
            tracing::warn!(%error, "the time was not told");
        }
    }
}

/// What the clocks would show after a commit now.
fn shown_now(inner: &Inner, last: &Clocks) -> Clocks {
    let mut clocks = last.clone();
    clocks.advance(NOW, inner.clock.now_us());
    let counters = inner.sequencer.counters();
    let marks = counters.iter().filter_map(|(id, c)| Some((*id, c.watermark_us?)));
    inner.streams.mark(&mut clocks, &marks.collect::<BTreeMap<StreamId, i64>>());
    clocks
}
