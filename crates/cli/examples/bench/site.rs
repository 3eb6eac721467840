//! A platform with default settings in a directory of its own, and short ways to ask it.
//!
//! Each measurement opens one, so that none pays for the data of another.

use anyhow::{Context, Result, bail};
use arrow::array::RecordBatch;
use kaplan_base::{Lsn, SystemClock};
use kaplan_platform::{Outcome, Platform, RowSet, Session, Settings, ViewStatus};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// How long a view may take to take in what it was given before it is measured.
const PATIENCE_MS: u64 = 600_000;
/// How often the archiver's progress is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The open platform; `close` it to delete its directory.
pub struct Site {
    pub platform: Platform,
    session: Session,
    data_dir: PathBuf,
    _dir: Option<TempDir>,
}

/// `$XDG_CACHE_HOME/kaplan/bench`, which is on a disk.
fn parent() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let parent = cache.join("kaplan/bench");
    std::fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
    Ok(parent)
}

impl Site {
    /// One in a directory that is deleted at the end.
    pub async fn open() -> Result<Self> {
        let dir = tempfile::tempdir_in(parent()?)?;
        let mut site = Self::at(dir.path().join("data")).await?;
        site._dir = Some(dir);
        Ok(site)
    }

    /// One in a directory that stays.
    pub async fn at(data_dir: PathBuf) -> Result<Self> {
        Self::with(Settings { data_dir, read_wait_ms: PATIENCE_MS, ..Settings::default() }).await
    }

    /// One with other settings.
    pub async fn with(settings: Settings) -> Result<Self> {
        let data_dir = settings.data_dir.clone();
        let platform = Platform::open(settings, Arc::new(SystemClock)).await?;
        Ok(Self { platform, session: Session::default(), data_dir, _dir: None })
    }

    /// Where its data are.
    pub fn dir(&self) -> &std::path::Path {
        &self.data_dir
    }

    pub async fn close(self) -> Result<()> {
        Ok(self.platform.close().await?)
    }

    /// Runs a statement that has no rows.
    pub async fn run(&mut self, sql: &str) -> Result<()> {
        self.platform.execute(&mut self.session, sql).await.with_context(|| sql.to_owned())?;
        Ok(())
    }

    /// The rows of a query.
    pub async fn rows(&mut self, sql: &str) -> Result<RowSet> {
        let outcomes = self.platform.execute(&mut self.session, sql).await;
        match outcomes.with_context(|| sql.to_owned())?.pop() {
            Some(Outcome::Rows(rows)) => Ok(rows),
            _ => bail!("{sql}: no rows"),
        }
    }

    /// Appends the batches, each in its own commit, with `producers` at work at a time; returns the
    /// last commit.
    pub async fn append_all(
        &self,
        stream: &'static str,
        batches: Vec<RecordBatch>,
        producers: usize,
    ) -> Result<Lsn> {
        let mut tasks = Vec::with_capacity(producers);
        for share in shares(batches, producers) {
            let platform = self.platform.clone();
            tasks.push(tokio::spawn(async move {
                let mut last = Lsn::ZERO;
                for batch in share {
                    last = platform.append(stream, vec![batch], None).await?.lsn;
                }
                anyhow::Ok(last)
            }));
        }
        let mut last = Lsn::ZERO;
        for task in tasks {
            last = last.max(task.await??);
        }
        Ok(last)
    }

    /// Waits until the lake has everything that is durable now.
    pub async fn wait_archived(&self) -> Result<()> {
        let target = self.platform.status()?.durable_lsn;
        while self.platform.status()?.archived_lsn < target {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub fn view(&self, name: &str) -> Result<ViewStatus> {
        let views = self.platform.status()?.views;
        views.into_iter().find(|v| v.name == name).with_context(|| format!("no view {name}"))
    }
}

/// Deals items to `count` hands.
pub fn shares<T>(items: Vec<T>, count: usize) -> Vec<Vec<T>> {
    let mut hands: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
    for (n, item) in items.into_iter().enumerate() {
        hands[n % count].push(item);
    }
    hands
}
