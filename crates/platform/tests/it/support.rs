//! A platform in a temporary directory, and short ways to ask it.

use arrow::util::pretty::pretty_format_batches;
use kaplan_base::{Clock, SystemClock};
use kaplan_platform::{Error, Outcome, Platform, RowSet, Session, Settings};
use std::path::Path;
use std::sync::Arc;

pub struct Running {
    pub platform: Platform,
    pub session: Session,
}

impl Running {
    /// A new platform after these statements; the directory goes when it is dropped.
    pub async fn start(sql: &str) -> (tempfile::TempDir, Running) {
        let dir = tempfile::tempdir().expect("directory");
        let mut running = Running::open(dir.path()).await;
        running.sql(sql).await;
        (dir, running)
    }

    pub async fn open(dir: &Path) -> Running {
        Running::at(dir, Arc::new(SystemClock)).await
    }

    /// The same with a clock of the test's own.
    pub async fn at(dir: &Path, clock: Arc<dyn Clock>) -> Running {
        Running::set(dir, clock, Settings::default()).await
    }

    /// The same with commits of at most so many bytes.
    pub async fn with_commits_of(dir: &Path, commit_bytes: usize) -> Running {
        let settings = Settings { commit_bytes, ..Settings::default() };
        Running::set(dir, Arc::new(SystemClock), settings).await
    }

    /// The same with other settings.
    pub async fn with(dir: &Path, settings: Settings) -> Running {
        Running::set(dir, Arc::new(SystemClock), settings).await
    }

    async fn set(dir: &Path, clock: Arc<dyn Clock>, settings: Settings) -> Running {
        let settings = Settings {
            data_dir: dir.to_path_buf(),
            archive_interval_ms: 50,
            checkpoint_interval_ms: 100,
            ..settings
        };
        let platform = Platform::open(settings, clock).await.expect("open");
        Running { platform, session: Session::default() }
    }

    pub async fn sql(&mut self, sql: &str) -> Vec<Outcome> {
        match self.platform.execute(&mut self.session, sql).await {
            Ok(outcomes) => outcomes,
            Err(e) => panic!("{sql}: {e:?}"),
        }
    }

    pub async fn fails(&mut self, sql: &str) -> Error {
        match self.platform.execute(&mut self.session, sql).await {
            Ok(outcomes) => panic!("{sql} should fail, not {outcomes:?}"),
            Err(e) => e,
        }
    }

    pub async fn rows(&mut self, sql: &str) -> RowSet {
        match self.sql(sql).await.pop() {
            Some(Outcome::Rows(rows)) => rows,
            other => panic!("{sql}: {other:?}"),
        }
    }

    /// The rows as lines of `a|b|c`.
    pub async fn table(&mut self, sql: &str) -> Vec<String> {
        let rows = self.rows(sql).await;
        let text = pretty_format_batches(&rows.batches).expect("format").to_string();
        let lines = text.lines().filter(|l| l.starts_with('|')).skip(1);
        lines
            .map(|l| {
                let cells = l.trim_matches('|').split('|').map(str::trim);
                cells.collect::<Vec<_>>().join("|")
            })
            .collect()
    }

    /// Verifies a view and answers with the number of rows it has.
    pub async fn verify(&mut self, view: &str) -> i64 {
        let report = self.table(&format!("VERIFY MATERIALIZED VIEW {view}")).await;
        let cells: Vec<&str> = report[0].split('|').collect();
        assert_eq!(cells[5], "0", "{view} differs: {report:?}");
        cells[3].parse().expect("rows")
    }
}
