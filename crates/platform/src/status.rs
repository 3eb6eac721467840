//! What the platform holds and how it fares.

use crate::platform::Inner;
use crate::views::{Phase, ViewEntry};
use crate::{OperatorStatus, Status, StreamStatus, ViewStatus, sinks, sources};
use kaplan_base::{Clock, Lsn};
use kaplan_log::Commit;
use kaplan_speed::{Snapshot, ViewState};
use kaplan_sql::catalog::{Architecture, Catalog};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How many commits freshness is computed over.
const SAMPLES: usize = 10_000;
/// How many batch runs the status shows.
const RUNS: usize = 20;

/// Time from a commit to its visibility, for the last commits.
#[derive(Default)]
pub(crate) struct Freshness(Mutex<VecDeque<u64>>);

impl Freshness {
    /// Notes commits that have just become visible.
    pub fn record(&self, commits: &[Commit], clock: &dyn Clock) {
        let now = clock.now_us();
        let mut samples = self.0.lock();
        for commit in commits {
            if samples.len() == SAMPLES {
                samples.pop_front();
            }
            samples.push_back(u64::try_from(now - commit.time_us).unwrap_or(0));
        }
    }

    /// Median and 99th percentile, microseconds.
    fn percentiles(&self) -> Option<(u64, u64)> {
        let mut sorted: Vec<u64> = self.0.lock().iter().copied().collect();
        sorted.sort_unstable();
        let at = |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len() - 1));
        if sorted.is_empty() { None } else { Some((*at(50)?, *at(99)?)) }
    }
}

/// The status now.
pub(crate) fn of(inner: &Inner) -> Status {
    let definitions = Arc::clone(&inner.definitions.read());
    let snapshot = inner.driver.snapshot();
    let failed = inner.sequencer.failed();
    let views = inner.views.read();
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        ready: inner.ready.load(Ordering::SeqCst)
            && inner.replica.as_ref().is_none_or(crate::replica::Replica::hears)
            && !inner.draining.load(Ordering::SeqCst)
            && failed.is_none(),
        replica: inner
            .replica
            .as_ref()
            .map(|replica| replica.status(snapshot.lsn, *inner.archived.borrow())),
        error: failed.map(|e| e.to_string()),
        durable_lsn: inner.log.head(),
        served_lsn: snapshot.lsn,
        archived_lsn: *inner.archived.borrow(),
        log_start_lsn: inner.log.start(),
        log_bytes: inner.log.bytes(),
        freshness_us: inner.freshness.percentiles(),
        uptime_us: u64::try_from(inner.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        memory: inner.memory.status(),
        streams: streams(inner, &definitions),
        views: views.values().map(|v| view(inner, &snapshot, v)).collect(),
        runs: inner.runs.latest(RUNS),
        sources: sources::statuses(inner),
        sinks: sinks::statuses(inner),
        workers: inner.workers.as_ref().map(|desk| desk.show().workers).unwrap_or_default(),
    }
}

fn streams(inner: &Inner, definitions: &Catalog) -> Vec<StreamStatus> {
    let counters = inner.sequencer.counters();
    let status = |def: &kaplan_sql::catalog::StreamDef| {
        let c = counters.get(&def.id).copied().unwrap_or_default();
        StreamStatus {
            name: def.name.clone(),
            kind: if def.append_only { "stream" } else { "table" }.into(),
            rows: c.rows,
            duplicates: c.duplicates,
            late: c.late,
            quarantined: c.quarantined,
            dropped: c.dropped,
            watermark_us: c.watermark_us,
            last_lsn: c.last_lsn,
        }
    };
    definitions.streams.values().map(status).collect()
}

fn view(inner: &Inner, snapshot: &Snapshot, entry: &ViewEntry) -> ViewStatus {
    let same = |v: &&Arc<kaplan_speed::ViewSnapshot>| v.version == entry.def.version;
    let running = snapshot.views.get(entry.def.stored_name()).filter(same);
    let published = inner.batches.get(entry.def.stored_name(), entry.def.version);
    let (state, error) = match (&*entry.phase.lock(), running.map(|v| &v.state)) {
        (Phase::Failed(reason), _) | (_, Some(ViewState::Failed(reason))) => {
            ("failed", Some(reason.clone()))
        }
        (Phase::Replaying, _) => ("replaying", None),
        _ => ("running", None),
    };
    let base = published.as_ref();
    let (batch_rows, batch_bytes) = base
        .map_or((0, 0), |p| p.batches.iter().fold((0, 0), |a, b| (a.0 + b.len(), a.1 + b.bytes())));
    let operators: Vec<OperatorStatus> = running.map_or_else(Vec::new, |v| {
        let named = v.keepers.iter().zip(&v.sizes);
        let status = named.map(|(name, (rows, bytes))| OperatorStatus {
            name: name.clone(),
            state_rows: *rows as u64,
            state_bytes: *bytes as u64,
        });
        status.collect()
    });
    let (rows, bytes) =
        operators.iter().fold((0, 0), |a, o| (a.0 + o.state_rows, a.1 + o.state_bytes));
    ViewStatus {
        name: entry.def.name.clone(),
        architecture: match entry.def.architecture {
            Architecture::Lambda => "lambda".into(),
            Architecture::Kappa => "kappa".into(),
        },
        state: state.into(),
        error,
        lsn: running.map_or(Lsn::ZERO, |v| v.lsn),
        batch_lsn: base.map(|p| p.lsn),
        batch_published_us: base.map(|p| p.published_us),
        state_rows: rows + batch_rows as u64,
        state_bytes: bytes + batch_bytes as u64,
        operators,
        batch_schedule: entry.def.batch_schedule.clone(),
        query: entry.def.query.clone(),
    }
}
