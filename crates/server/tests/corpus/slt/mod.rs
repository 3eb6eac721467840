//! SQL logic tests: `tests/slt/<category>/<name>.slt`. The README there has the conventions.
//!
//! Every file runs with its views before its data and after it, with the server stopped and started
//! again between two of its records, and with Lambda views and batch runs. A record that fails must
//! be named in `expected_failures.txt` with the reason, and one that is named there must fail.

mod database;
mod expected;
mod passes;

use crate::{Options, root};
use database::{Database, Engine};
use expected::Expected;
use passes::Pass;
use sqllogictest::{DefaultColumnType, MakeConnection, QueryExpect, Record, RecordOutput, Runner};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

type Records = Vec<Record<DefaultColumnType>>;

/// What a record that failed in some pass said, by its line.
type Failures = BTreeMap<u32, Vec<String>>;

pub async fn run(options: &Options) -> bool {
    let dir = root().join("tests/slt");
    let files: Vec<PathBuf> = files(&dir).into_iter().filter(|f| chosen(options, f)).collect();
    assert!(!files.is_empty(), "no file of {} is chosen", dir.display());
    match &options.postgres {
        Some(address) => on_postgres(address, &files, options.rewrite).await,
        None => on_kaplan(options, &dir, &files).await,
    }
}

fn chosen(options: &Options, file: &Path) -> bool {
    options.chosen(&file.display().to_string())
}

/// Every `.slt` file of every category, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for category in std::fs::read_dir(dir).expect("tests/slt") {
        let category = category.unwrap().path();
        if category.is_dir() {
            let entries = std::fs::read_dir(category).unwrap().map(|e| e.unwrap().path());
            found.extend(entries.filter(|p| p.extension().is_some_and(|e| e == "slt")));
        }
    }
    found.sort();
    found
}

fn name_of(dir: &Path, file: &Path) -> String {
    file.strip_prefix(dir).unwrap().display().to_string()
}

/// Whether a record asks the database something, on this engine.
fn asks(record: &Record<DefaultColumnType>) -> Option<(u32, &str)> {
    match record {
        Record::Statement { loc, sql, conditions, .. }
        | Record::Query { loc, sql, conditions, .. } => {
            let skipped = conditions.iter().any(|c| match c {
                sqllogictest::Condition::OnlyIf { label } => label != Engine::Kaplan.name(),
                sqllogictest::Condition::SkipIf { label } => label == Engine::Kaplan.name(),
            });
            (!skipped).then_some((loc.line(), sql.as_str()))
        }
        _ => None,
    }
}

async fn on_kaplan(options: &Options, dir: &Path, files: &[PathBuf]) -> bool {
    println!("slt: {} files, seed {}", files.len(), options.seed);
    let list = dir.join("expected_failures.txt");
    let expected = Expected::load(&list);
    let (mut found, mut problems) = (Expected::default(), Vec::new());
    let (mut records, mut failed, mut blocked, mut wrong) = (0, 0, 0, 0);
    for (number, file) in files.iter().enumerate() {
        let name = name_of(dir, file);
        let parsed: Records = sqllogictest::parse_file(file).expect("a logic test");
        let asked = parsed.iter().filter_map(asks).count();
        records += asked;
        let mut failures = Failures::new();
        let seed = options.seed.wrapping_add(number as u64);
        for pass in Pass::of(&parsed, seed, options.share == 1) {
            blocked += pass.run(&parsed, &mut failures).await;
        }
        for (line, reasons) in &failures {
            failed += 1;
            wrong += usize::from(reasons.iter().any(|r| r.starts_with(passes::WRONG)));
            found.add(&name, *line, &reasons[0]);
        }
        problems.extend(expected.judge(&name, &failures));
    }
    println!(
        "slt: {records} records; {failed} fail as listed or not ({wrong} of them with \
         a wrong answer), {blocked} executions were blocked by them"
    );
    if options.write {
        assert!(options.names.is_empty(), "--write takes all files");
        found.save(&list);
        return true;
    }
    problems.iter().for_each(|p| println!("slt: {p}"));
    problems.is_empty()
}

async fn on_postgres(address: &str, files: &[PathBuf], rewrite: bool) -> bool {
    let mut problems = 0;
    for file in files {
        let mut runner = database::on_postgres(address).await;
        runner.with_normalizer(passes::as_it_is);
        let mut text = String::new();
        for record in sqllogictest::parse_file(file).expect("a logic test") {
            let (record, problem) = judged(&mut runner, record, rewrite).await;
            if let Some(problem) = problem {
                problems += 1;
                println!("{problem}");
            }
            let _ = writeln!(text, "{record}");
        }
        if rewrite {
            std::fs::write(file, format!("{}\n", text.trim_end())).unwrap();
        }
        runner.shutdown_async().await;
    }
    println!("slt on PostgreSQL: {} files, {problems} differences", files.len());
    problems == 0
}

/// The record as it should be, and what is wrong with it. Only results are ever rewritten: whether
/// a statement fails, and with what SQLSTATE, is for its writer to say.
async fn judged<M>(
    runner: &mut Runner<Database, M>,
    record: Record<DefaultColumnType>,
    rewrite: bool,
) -> (Record<DefaultColumnType>, Option<String>)
where
    M: MakeConnection<Conn = Database>,
{
    if rewrite && matches!(&record, Record::Query { expected: QueryExpect::Results { .. }, .. }) {
        let output = runner.apply_record(record.clone()).await;
        if let RecordOutput::Query { error: None, .. } = &output {
            let updated = sqllogictest::update_record_with_output(
                &record,
                &output,
                " ",
                sqllogictest::default_validator,
                passes::as_it_is,
                sqllogictest::default_column_validator,
            );
            return (updated.unwrap_or(record), None);
        }
        if matches!(output, RecordOutput::Nothing) {
            return (record, None);
        }
    }
    let problem = runner.run_async(record.clone()).await.err().map(|e| e.to_string());
    (record, problem)
}
