//! Compaction: many small files become few large ones, with the same rows in the same order.
//!
//! Invariant: a replaced file was part of the version that the commit follows directly. Delta's
//! own conflict check does not compare files that two compactions remove, so that both would add
//! their copy of the rows; therefore each commit here is tried against exactly one version, and
//! after another writer's commit the files are looked up again.

use crate::table::{Loaded, Table};
use crate::{Error, files, provider, schema};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionContext;
use deltalake::datafile::BatchStream;
use deltalake::delta_datafusion::DeltaScanNext;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake::kernel::{Action, Add, LogicalFileView, Remove};
use deltalake::protocol::DeltaOperation;
use deltalake::{DeltaResult, DeltaTableError};
use futures::{StreamExt, TryStreamExt};
use std::collections::{HashMap, HashSet};

/// How often one commit is tried against versions that other writers make.
const MAX_ATTEMPTS: u32 = 20;
/// A file of at least this share of the target (in percent) is left alone.
const FULL_PERCENT: u64 = 75;

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Files that were replaced.
    pub files_removed: usize,
    /// Files that replaced them.
    pub files_added: usize,
    /// Bytes of the replaced files.
    pub bytes_removed: u64,
    /// Bytes of the new files.
    pub bytes_added: u64,
}

/// A data file as planning sees it.
struct Candidate {
    path: String,
    bytes: u64,
    first_lsn: i64,
}

impl Table {
    /// See [`crate::Lake::compact`].
    pub(crate) async fn compact(
        &self,
        target_bytes: u64,
        session: &SessionContext,
    ) -> Result<CompactReport, Error> {
        let _turn = self.compacting.lock().await;
        let mut report = CompactReport::default();
        let candidates = candidates(&self.loaded());
        for run in plan(candidates, target_bytes.max(1)) {
            self.rewrite(&run, session, &mut report).await?;
        }
        Ok(report)
    }

    async fn rewrite(
        &self,
        run: &[Candidate],
        session: &SessionContext,
        report: &mut CompactReport,
    ) -> Result<(), Error> {
        let base = self.loaded();
        let mut sources = Vec::with_capacity(run.len());
        for file in run {
            let scan = provider::delta_scan(&self.log_store, &base.state, session)
                .with_file_paths([file.path.clone()]);
            sources.push(scan.build().await?);
        }
        // The stored columns, not the declared ones: a column that only Delta knows is kept.
        let stored = base.state.snapshot().arrow_schema();
        let rows = read_in_order(sources, session, stored.clone());
        let adds = files::write(self.log_store.clone(), &base.state, stored, u64::MAX, rows).await;
        let adds = adds.map_err(Error::delta(&self.name, "compaction"))?;
        report.files_added += adds.len();
        report.bytes_added += adds.iter().map(|add| unsigned(add.size)).sum::<u64>();
        report.files_removed += run.len();
        report.bytes_removed += run.iter().map(|file| file.bytes).sum::<u64>();
        self.replace(run, adds).await
    }

    async fn replace(&self, run: &[Candidate], adds: Vec<Add>) -> Result<(), Error> {
        let paths: HashSet<&str> = run.iter().map(|file| file.path.as_str()).collect();
        let mut base = self.loaded();
        for _ in 0..MAX_ATTEMPTS {
            let removes = removes(&base, &paths);
            if removes.len() < run.len() {
                break;
            }
            match self.try_replace(&base, removes, &adds).await {
                Err(DeltaTableError::Transaction {
                    source: TransactionError::MaxCommitAttempts(_),
                }) => base = self.refresh().await?,
                other => return other.map_err(Error::delta(&self.name, "compaction commit")),
            }
        }
        Err(Error::Contended { table: self.name.clone() })
    }

    async fn try_replace(
        &self,
        base: &Loaded,
        removes: Vec<Remove>,
        adds: &[Add],
    ) -> DeltaResult<()> {
        let mut actions: Vec<_> = removes.into_iter().map(Action::Remove).collect();
        for add in adds {
            actions.push(Action::Add(Add { data_change: false, ..add.clone() }));
        }
        let properties =
            CommitProperties::default().with_max_retries(0).with_cleanup_expired_logs(Some(false));
        let operation = DeltaOperation::Optimize {
            predicate: None,
            target_size: adds.iter().map(|add| add.size).max().unwrap_or(0),
        };
        let committed = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(&base.state), self.log_store.clone(), operation)
            .await?;
        self.keep(Loaded { state: committed.snapshot, archived: base.archived });
        Ok(())
    }
}

/// The rows of one source after the other.
fn read_in_order(
    sources: Vec<DeltaScanNext>,
    session: &SessionContext,
    schema: SchemaRef,
) -> BatchStream {
    let (state, tasks) = (session.state(), session.task_ctx());
    let read = move |source: DeltaScanNext| {
        let (state, tasks) = (state.clone(), tasks.clone());
        async move {
            let plan = source.scan(&state, None, &[], None).await?;
            execute_stream(plan, tasks)
        }
    };
    let rows = futures::stream::iter(sources).then(read).try_flatten();
    let exact = move |batch: RecordBatch| {
        Ok(RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?)
    };
    rows.map(move |batch| batch.map_err(DeltaTableError::from).and_then(&exact)).boxed()
}

fn candidates(loaded: &Loaded) -> Vec<Candidate> {
    let mut candidates: Vec<_> = loaded.state.log_data().into_iter().map(candidate).collect();
    candidates.sort_by(|a, b| (a.first_lsn, &a.path).cmp(&(b.first_lsn, &b.path)));
    candidates
}

fn candidate(file: LogicalFileView) -> Candidate {
    // Without statistics a file's place is unknown; it is rewritten first, which is harmless.
    let stats = file.stats().and_then(|s| serde_json::from_str::<serde_json::Value>(&s).ok());
    let first_lsn = stats.and_then(|s| s.get("minValues")?.get(schema::LSN)?.as_i64());
    Candidate {
        path: file.path().into_owned(),
        bytes: unsigned(file.size()),
        first_lsn: first_lsn.unwrap_or(0),
    }
}

fn unsigned(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}

/// Runs of at least two neighbouring small files, each run of about `target` bytes.
fn plan(candidates: Vec<Candidate>, target: u64) -> Vec<Vec<Candidate>> {
    let mut runs = Vec::new();
    let mut run: Vec<Candidate> = Vec::new();
    let mut bytes = 0_u64;
    for file in candidates {
        let small = file.bytes.saturating_mul(100) < target.saturating_mul(FULL_PERCENT);
        if !small || bytes.saturating_add(file.bytes) > target {
            runs.push(std::mem::take(&mut run));
            bytes = 0;
        }
        if small {
            bytes += file.bytes;
            run.push(file);
        }
    }
    runs.push(run);
    runs.retain(|run| run.len() > 1);
    runs
}

fn removes(loaded: &Loaded, paths: &HashSet<&str>) -> Vec<Remove> {
    let files = loaded.state.log_data().into_iter();
    let found = files.filter(|file| paths.contains(file.path().as_ref()));
    let unique: HashMap<_, _> =
        found.map(|file| (file.path().into_owned(), file.remove_action(false))).collect();
    unique.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(files: &[u64], target: u64) -> Vec<Vec<u64>> {
        let number = |(at, bytes): (usize, &u64)| Candidate {
            path: at.to_string(),
            bytes: *bytes,
            first_lsn: i64::try_from(at).unwrap(),
        };
        let files = files.iter().enumerate().map(number).collect();
        plan(files, target).iter().map(|run| run.iter().map(|f| f.bytes).collect()).collect()
    }

    #[test]
    fn runs_are_small_neighbours_up_to_the_target() {
        assert_eq!(sizes(&[10, 10, 90, 10, 20, 30], 100), [vec![10, 10], vec![10, 20, 30]]);
        assert_eq!(sizes(&[60, 60, 30], 100), [vec![60, 30]]);
        assert_eq!(sizes(&[10, 90, 10], 100), Vec::<Vec<u64>>::new());
        assert_eq!(sizes(&[], 100), Vec::<Vec<u64>>::new());
    }
}
