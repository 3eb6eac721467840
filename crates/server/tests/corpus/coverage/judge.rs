//! One corpus: its queries as views in every way in which a view can come to its rows, each
//! compared with DataFusion over the same rows.

use super::corpora::{Corpus, Query};
use super::oracle::{self, Answers};
use super::page::{Cell, Line};
use super::rows::{Row, difference, rows};
use kaplan_base::SystemClock;
use kaplan_platform::{Outcome, Platform, Session, Settings};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const ARCHITECTURES: [&str; 2] = ["lambda", "kappa"];

/// A platform, and the views on it that were not refused.
struct Running {
    platform: Platform,
    session: Session,
    /// By view: its query and architecture.
    views: BTreeMap<String, (String, &'static str)>,
}

/// What became of each query.
pub struct Judgement {
    pub lines: BTreeMap<String, Line>,
    pub comparisons: usize,
}

impl Running {
    async fn open(dir: &Path) -> Running {
        let settings = Settings {
            data_dir: dir.to_path_buf(),
            archive_interval_ms: 200,
            read_wait_ms: 300_000,
            ..Settings::default()
        };
        let platform = Platform::open(settings, Arc::new(SystemClock)).await.expect("open");
        Running { platform, session: Session::default(), views: BTreeMap::new() }
    }

    async fn restart(self, dir: &Path) -> Running {
        self.platform.close().await.expect("close");
        let views = self.views.clone();
        drop(self);
        Running { views, ..Running::open(dir).await }
    }

    async fn sql(&mut self, sql: &str) -> Result<Vec<Outcome>, String> {
        self.platform.execute(&mut self.session, sql).await.map_err(|e| e.message)
    }

    /// The one number of a result.
    async fn count(&mut self, sql: &str) -> String {
        match self.sql(sql).await.expect("a count").pop() {
            Some(Outcome::Rows(set)) => match rows(&set.batches).first().and_then(|r| r.first()) {
                Some(super::rows::Cell::Exact(text)) => text.clone(),
                other => panic!("{sql}: {other:?}"),
            },
            other => panic!("{sql}: {other:?}"),
        }
    }

    async fn create(&mut self, corpus: &Corpus, stream: bool) {
        for table in &corpus.tables {
            self.sql(&table.create(stream)).await.expect("a stream");
        }
    }

    /// Creates a view of each query in both architectures; notes in its line what was refused.
    async fn views(&mut self, when: &str, queries: &[&Query], lines: &mut BTreeMap<String, Line>) {
        for query in queries {
            for architecture in ARCHITECTURES {
                let view = format!("{}_{when}_{architecture}", query.name);
                let create = format!(
                    "CREATE MATERIALIZED VIEW {view} WITH (architecture = '{architecture}') AS {}",
                    query.sql
                );
                match self.sql(&create).await {
                    Ok(_) => {
                        self.views.insert(view, (query.name.clone(), architecture));
                    }
                    Err(reason) => {
                        let line = lines.entry(query.name.clone()).or_default();
                        line.set(architecture, when, Cell::Refused, &reason);
                    }
                }
            }
        }
    }

    async fn append(&mut self, commits: &[(&'static str, arrow::array::RecordBatch)]) {
        for (table, batch) in commits {
            let schema = self.platform.stream_schema(table).expect("a schema");
            let columns = batch.columns().to_vec();
            let batch = arrow::array::RecordBatch::try_new(schema, columns).expect("its columns");
            self.platform.append(table, vec![batch], None).await.expect("append");
        }
    }

    /// Batch runs of all Lambda views.
    async fn refresh(&mut self) {
        let lambda = self.views.iter().filter(|(_, (_, a))| *a == "lambda");
        let names: Vec<String> = lambda.map(|(view, _)| view.clone()).collect();
        if !names.is_empty() {
            let refresh = format!("REFRESH MATERIALIZED VIEW {}", names.join(", "));
            self.sql(&refresh).await.expect("a batch run");
        }
    }

    /// Compares every view with what it should hold; counts the comparisons.
    async fn compare(
        &mut self,
        when: &str,
        (corpus, answers): (&Corpus, &Answers),
        lines: &mut BTreeMap<String, Line>,
    ) -> usize {
        let mut comparisons = 0;
        for (view, (query, architecture)) in self.views.clone() {
            let line = lines.entry(query.clone()).or_default();
            let when = if when.is_empty() { view.split('_').nth(1).unwrap_or("") } else { when };
            let found = match self.sql(&format!("SELECT * FROM {view}")).await {
                Ok(mut outcomes) => match outcomes.pop() {
                    Some(Outcome::Rows(set)) => rows(&set.batches),
                    _ => Vec::new(),
                },
                Err(reason) => {
                    line.set(architecture, when, Cell::Wrong, &format!("cannot be read: {reason}"));
                    continue;
                }
            };
            comparisons += 1;
            let mut own = None;
            if let Some(asked) = corpus.queries.iter().find(|q| q.name == query)
                && oracle::undefined_elsewhere(asked)
                && let Ok(mut outcomes) = self.sql(&asked.sql).await
                && let Some(Outcome::Rows(set)) = outcomes.pop()
            {
                own = Some(Ok(rows(&set.batches)));
            }
            match answers.get(&query).or(own.as_ref()) {
                None => line.set(architecture, when, Cell::Unjudged, "no other engine has it"),
                Some(Err(reason)) => {
                    let reason = format!("DataFusion refuses it: {reason}");
                    line.set(architecture, when, Cell::Unjudged, &reason);
                }
                Some(Ok(expected)) => match difference(expected, &found) {
                    None if can_tell(expected) => line.set(architecture, when, Cell::Right, ""),
                    None => panic!("{view}: an answer without one of its rows is taken for it"),
                    Some(what) => {
                        println!("coverage: WRONG {view} ({when}): {what}");
                        line.set(architecture, when, Cell::Wrong, "differs from DataFusion");
                    }
                },
            }
        }
        comparisons
    }
}

/// Whether a missing row would be seen.
fn can_tell(expected: &[Row]) -> bool {
    expected.is_empty() || difference(expected, &expected[1..]).is_some()
}

pub async fn judge(corpus: &Corpus, queries: &[&Query]) -> Judgement {
    let mut judgement = Judgement { lines: BTreeMap::new(), comparisons: 0 };
    for query in queries {
        judgement.lines.insert(query.name.clone(), Line::default());
    }
    let all = oracle::datafusion(corpus, queries, false).await;
    judgement.comparisons += over_streams(corpus, queries, &all, &mut judgement.lines).await;
    judgement.comparisons += over_tables(corpus, queries, &all, &mut judgement.lines).await;
    judgement.comparisons += on_duckdb(corpus, queries, &all, &mut judgement.lines);
    judgement
}

/// Views created before the rows, with a batch run and a restart in the middle, and after them.
async fn over_streams(
    corpus: &Corpus,
    queries: &[&Query],
    all: &Answers,
    lines: &mut BTreeMap<String, Line>,
) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::open(dir.path()).await;
    running.create(corpus, true).await;
    running.views("before", queries, lines).await;
    let half = corpus.commits.len() / 2;
    running.append(&corpus.commits[..half]).await;
    running.refresh().await;
    let mut running = running.restart(dir.path()).await;
    running.append(&corpus.commits[half..]).await;
    running.views("after", queries, lines).await;
    let comparisons = running.compare("", (corpus, all), lines).await;
    running.refresh().await;
    let comparisons = comparisons + running.compare("", (corpus, all), lines).await;
    running.platform.close().await.expect("close");
    comparisons
}

/// Views over tables whose rows are all deleted, which leaves what the query has over none, and
/// inserted again, with a batch run before and after.
async fn over_tables(
    corpus: &Corpus,
    queries: &[&Query],
    all: &Answers,
    lines: &mut BTreeMap<String, Line>,
) -> usize {
    let none = oracle::datafusion(corpus, queries, true).await;
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::open(dir.path()).await;
    running.create(corpus, false).await;
    running.append(&corpus.commits).await;
    for table in &corpus.tables {
        // Rows of one key would replace each other, and the answers would be of other rows.
        let count = format!("SELECT count(*) FROM {}", table.name);
        let rows: usize = corpus.rows(table.name).iter().map(|b| b.num_rows()).sum();
        assert_eq!(running.count(&count).await, rows.to_string(), "the key of {}", table.name);
    }
    running.views("again", queries, lines).await;
    running.refresh().await;
    for table in &corpus.tables {
        running.sql(&format!("DELETE FROM {}", table.name)).await.expect("a delete");
    }
    let mut comparisons = running.compare("again", (corpus, &none), lines).await;
    let half = corpus.commits.len() / 2;
    running.append(&corpus.commits[half..]).await;
    running.refresh().await;
    running.append(&corpus.commits[..half]).await;
    comparisons += running.compare("again", (corpus, all), lines).await;
    running.platform.close().await.expect("close");
    comparisons
}

/// DataFusion's answers, which the views' were compared with, against DuckDB's.
fn on_duckdb(
    corpus: &Corpus,
    queries: &[&Query],
    all: &Answers,
    lines: &mut BTreeMap<String, Line>,
) -> usize {
    let mut comparisons = 0;
    let answers = match oracle::duckdb(corpus, queries) {
        Ok(answers) => answers,
        Err(why) => {
            println!("SKIPPED DuckDB: {why}");
            let required = ["CI", "KAPLAN_REQUIRE_ALL"].map(std::env::var_os);
            assert!(required.iter().all(Option::is_none), "DuckDB is required: {why}");
            return 0;
        }
    };
    for (query, answer) in answers {
        let line = lines.entry(query.clone()).or_default();
        match (answer, all.get(&query)) {
            (Ok(expected), Some(Ok(found))) => {
                comparisons += 1;
                match difference(&expected, found) {
                    None => line.duckdb = Cell::Right,
                    Some(what) => {
                        println!("coverage: DuckDB WRONG {} {query}: {what}", corpus.name);
                        line.duckdb = Cell::Wrong;
                    }
                }
                // Other seeds may have rows; TPC-H has none.
                if expected.is_empty() && corpus.name == "tpch" {
                    line.note("no rows at this scale");
                }
            }
            (Err(reason), _) => {
                line.duckdb = Cell::Wrong;
                println!("coverage: DuckDB refuses {} {query}: {reason}", corpus.name);
            }
            _ => {}
        }
    }
    comparisons
}
