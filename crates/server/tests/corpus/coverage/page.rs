//! `docs/sql-coverage.md`: one line a query, made by the runs and by nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Longest note.
const MAX_NOTE_CHARS: usize = 200;

const HEADER: &str = "\
# SQL coverage

Written by `make coverage` and by nothing else; `make test` runs a share of it and fails where this
page does not say what happened. Each query is a materialized view in both architectures: created
before its rows (`before data`, with a batch run and a restart in the middle), created after them
(`after data`), and over tables whose rows are all deleted and inserted again (`after delete/re-insert`). Every
answer is compared with the query's text on plain DataFusion over the same rows (also over none, after
the delete), and that with DuckDB: integers, decimals, text and times exactly, doubles to 1e-9.

`yes`: right. `refused`: not accepted as a view; the note says why. `wrong`: an answer that differs.
`unjudged`: nothing to compare with. `-`: not run. The queries are in
[examples/nexmark/queries](../examples/nexmark/queries) and [tests/tpch](../tests/tpch).
";

const TABLE: &str = "\
| query | lambda | kappa | before data | after data | after delete/re-insert | duckdb | note |
|---|---|---|---|---|---|---|---|
";
const REFUSED: &str = "
## Refused

What views and statements cannot have, with the words of the refusal and its advice. The statements are in
[tests/refused.sql](../tests/refused.sql); [limits](limits.md) has the reasons.

| statement | refusal |
|---|---|
";
/// Columns that say how a query fared.
const COLUMNS: usize = 6;

/// What became of one way to run a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    #[default]
    NotRun,
    Right,
    Unjudged,
    Refused,
    Wrong,
}

impl Cell {
    fn text(self) -> &'static str {
        match self {
            Cell::NotRun => "-",
            Cell::Right => "yes",
            Cell::Unjudged => "unjudged",
            Cell::Refused => "refused",
            Cell::Wrong => "wrong",
        }
    }
}

/// One query.
#[derive(Clone, Default)]
pub struct Line {
    /// By architecture and time; the worst that happened counts.
    cells: BTreeMap<(String, String), Cell>,
    pub duckdb: Cell,
    note: String,
}

impl Line {
    pub fn set(&mut self, architecture: &str, when: &str, cell: Cell, note: &str) {
        let key = (architecture.to_owned(), when.to_owned());
        let old = self.cells.entry(key).or_default();
        *old = (*old).max(cell);
        self.note(note);
    }

    pub fn note(&mut self, note: &str) {
        let note = note.replace(['\n', '|'], " ");
        if self.note.is_empty() {
            self.note = note.trim().chars().take(MAX_NOTE_CHARS).collect();
        }
    }

    /// The worst of the cells of one architecture, or of one time.
    fn worst(&self, of: &str) -> Cell {
        let cells = self.cells.iter().filter(|((a, w), _)| a == of || w == of);
        cells.map(|(_, cell)| *cell).max().unwrap_or_default()
    }

    pub fn wrong(&self) -> bool {
        self.duckdb == Cell::Wrong || self.cells.values().any(|c| *c == Cell::Wrong)
    }

    fn row(&self, query: &str) -> String {
        let columns = ["lambda", "kappa", "before", "after", "again"].map(|c| self.worst(c).text());
        let duckdb = self.duckdb.text();
        format!("| {query} | {} | {duckdb} | {} |", columns.join(" | "), self.note)
    }
}

/// The page's rows, by corpus and query.
pub type Rows = BTreeMap<String, Vec<String>>;

fn name_of(row: &str) -> &str {
    row.trim_start_matches("| ").split(" |").next().unwrap_or_default()
}

pub fn load(path: &Path) -> Rows {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut rows = Rows::new();
    let mut corpus = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            corpus = title.to_lowercase().replace('-', "");
        } else if line.starts_with("| ") && !["query", "statement"].contains(&name_of(line)) {
            rows.entry(corpus.clone()).or_default().push(line.to_owned());
        }
    }
    rows
}

/// Where the page and what happened disagree.
pub fn compare(rows: &Rows, corpus: &str, lines: &BTreeMap<String, Line>) -> Vec<String> {
    let mut problems = Vec::new();
    for (query, line) in lines {
        let row = line.row(query);
        let written = rows.get(corpus).and_then(|rows| rows.iter().find(|r| name_of(r) == query));
        if written != Some(&row) {
            let written = written.map_or("nothing", String::as_str);
            problems.push(format!("{corpus} {query}: the page has {written}, but it is {row}"));
        }
    }
    problems
}

/// Where the page and what was refused disagree.
pub fn compare_refused(rows: &Rows, refused: &[String]) -> Vec<String> {
    let written = rows.get("refused").map(Vec::as_slice).unwrap_or_default();
    let new = refused.iter().filter(|row| !written.contains(row));
    let gone = written.iter().filter(|row| !refused.contains(row));
    let new = new.map(|row| format!("the page does not have {row}"));
    new.chain(gone.map(|row| format!("the page has, wrongly, {row}"))).collect()
}

/// Puts what happened into the rows.
pub fn merge(rows: &mut Rows, corpus: &str, lines: &BTreeMap<String, Line>) {
    let rows = rows.entry(corpus.to_owned()).or_default();
    for (query, line) in lines {
        rows.retain(|row| name_of(row) != query);
        rows.push(line.row(query));
    }
    rows.sort_by_key(|row| name_of(row).trim_start_matches('q').parse::<u32>().unwrap_or(0));
}

pub fn save(path: &Path, rows: &Rows) {
    let mut text = HEADER.to_owned();
    for (corpus, title) in [("nexmark", "Nexmark"), ("tpch", "TPC-H")] {
        let rows = rows.get(corpus).cloned().unwrap_or_default();
        let all_right = |row: &&String| row.matches(" yes |").count() == COLUMNS;
        let right = rows.iter().filter(all_right).count();
        let _ = writeln!(text, "\n## {title}\n");
        let _ = writeln!(text, "{right} of {} queries are right in every way.\n", rows.len());
        text.push_str(TABLE);
        rows.iter().for_each(|row| {
            let _ = writeln!(text, "{row}");
        });
    }
    text.push_str(REFUSED);
    rows.get("refused").into_iter().flatten().for_each(|row| {
        let _ = writeln!(text, "{row}");
    });
    std::fs::write(path, text).unwrap();
}
