//! The ways in which one file runs. Sections of a file are marked by comments of one word; a pass
//! takes the sections of each block in its own order, and the records of a section in theirs.

use super::database::{Database, on_kaplan};
use super::{Failures, Records, asks};
use crate::site::Site;
use sqllogictest::{DefaultColumnType, MakeConnection, Record, Runner, TestErrorKind};
use std::collections::BTreeSet;

/// How reasons begin where the answer was wrong rather than refused.
pub const WRONG: &str = "wrong answer";

/// Where a change of rows failed before, so that later answers cannot be the expected ones.
const FOLLOWS: &str = "follows a change that failed";
/// Where a statement failed as it should, but not with the right SQLSTATE.
const OTHER_ERROR: &str = "other error";
/// Longest reason that is kept.
const MAX_REASON_CHARS: usize = 160;

/// Values are compared without any change.
#[allow(clippy::ptr_arg, reason = "the type of a normalizer")]
pub fn as_it_is(value: &String) -> String {
    value.clone()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Setup,
    Data,
    Views,
    Queries,
    Cleanup,
}

fn section(record: &Record<DefaultColumnType>) -> Option<Section> {
    let Record::Comment(lines) = record else { return None };
    match lines.last()?.trim() {
        "setup" => Some(Section::Setup),
        "data" => Some(Section::Data),
        "views" => Some(Section::Views),
        "queries" => Some(Section::Queries),
        "cleanup" => Some(Section::Cleanup),
        _ => None,
    }
}

/// Whether the file is about the state of one session, which no restart leaves.
fn one_session(records: &Records) -> bool {
    records
        .iter()
        .any(|r| matches!(r, Record::Comment(l) if l.iter().any(|l| l.trim() == "one session")))
}

/// One way to run a file.
#[derive(Clone, Copy)]
pub struct Pass {
    views_first: bool,
    /// The server is started again before the record with this number, or after the transaction that
    /// is open there: its writes are its session's.
    restart_before: Option<usize>,
    /// Views run as Lambda, with a batch run at every other `flush`.
    lambda: bool,
}

impl Pass {
    /// The passes of a file with some number of records: two that together have all there is to
    /// try, or all four.
    pub fn of(file: &Records, seed: u64, full: bool) -> Vec<Pass> {
        let records = file.iter().filter_map(asks).count();
        let mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 17;
        let at = 1 + mixed as usize % records.saturating_sub(1).max(1);
        let restart = (!one_session(file)).then_some(at);
        let pass = Pass { views_first: true, restart_before: None, lambda: false };
        if full {
            let second = Pass { views_first: false, ..pass };
            let third = Pass { views_first: mixed & 1 == 0, restart_before: restart, ..pass };
            return vec![pass, second, third, Pass { lambda: true, ..pass }];
        }
        let turn = mixed & 1 == 0;
        vec![
            Pass { views_first: turn, lambda: true, ..pass },
            Pass { views_first: !turn, restart_before: restart, ..pass },
        ]
    }

    /// The records in this pass's order.
    fn order(self, records: &Records) -> Vec<&Record<DefaultColumnType>> {
        let mut out = Vec::new();
        let mut block: Vec<(Section, &Record<DefaultColumnType>)> = Vec::new();
        let mut at = Section::Setup;
        let rank = |s: Section| match s {
            Section::Views if !self.views_first => (Section::Data, 1),
            Section::Data if self.views_first => (Section::Views, 1),
            other => (other, 0),
        };
        let finish = |block: &mut Vec<(Section, &'_ Record<DefaultColumnType>)>| {
            // A stable sort: within a section nothing moves.
            block.sort_by_key(|(s, _)| rank(*s));
        };
        for record in records {
            if let Some(next) = section(record) {
                if next == Section::Setup {
                    finish(&mut block);
                    out.extend(block.drain(..).map(|(_, r)| r));
                }
                at = next;
            }
            block.push((at, record));
        }
        finish(&mut block);
        out.extend(block.drain(..).map(|(_, r)| r));
        out
    }

    /// Runs the file, adds what failed, and counts the records that were blocked.
    pub async fn run(mut self, records: &Records, failures: &mut Failures) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let mut site = Site::open(dir.path()).await;
        let mut runner = on_kaplan(site.postgres);
        runner.with_normalizer(as_it_is);
        let (mut number, mut blocked, mut disturbed) = (0, 0, false);
        let mut missing = BTreeSet::new();
        let mut batch = Batch::default();
        let mut in_transaction = false;
        for record in self.order(records) {
            let Some((line, sql)) = asks(record) else { continue };
            if !in_transaction && self.restart_before.is_some_and(|at| at <= number) {
                self.restart_before = None;
                runner.shutdown_async().await;
                drop(runner);
                site = site.restart().await;
                runner = on_kaplan(site.postgres);
                runner.with_normalizer(as_it_is);
            }
            number += 1;
            in_transaction = match words(sql).first().map(String::as_str) {
                Some("begin" | "start") => true,
                Some("commit" | "end" | "abort") => false,
                Some("rollback") => in_transaction && words(sql).contains(&"to".to_owned()),
                _ => in_transaction,
            };
            if names(sql, &missing) {
                blocked += 1;
                continue;
            }
            let record = if self.lambda { as_lambda(record) } else { record.clone() };
            let mut failed = failure(&mut runner, &record).await;
            if self.lambda && failed.is_none() {
                failed = batch.after(sql, &site).await;
            }
            if let Some(mut reason) = failed {
                if disturbed && reason.starts_with(WRONG) {
                    FOLLOWS.clone_into(&mut reason);
                }
                disturbed |= changes(sql) && !reason.starts_with(OTHER_ERROR);
                missing.extend(created(sql));
                let reasons = failures.entry(line).or_default();
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
        }
        runner.shutdown_async().await;
        drop(runner);
        site.close().await;
        blocked
    }
}

const VIEW: &str = "create materialized view ";

/// The record with its view as a Lambda view.
fn as_lambda(record: &Record<DefaultColumnType>) -> Record<DefaultColumnType> {
    let mut record = record.clone();
    if let Record::Statement { sql, .. } = &mut record
        && sql.starts_with(VIEW)
        && let Some(at) = sql.find(" as\n").or_else(|| sql.find(" as "))
    {
        sql.insert_str(at, " with (architecture = 'lambda')");
    }
    record
}

/// The Lambda views that there are, and when they had a batch run.
#[derive(Default)]
struct Batch {
    views: BTreeSet<String>,
    flushes: usize,
}

impl Batch {
    /// Takes note of a statement that was run; every other `flush` is a batch run of all views.
    async fn after(&mut self, sql: &str, site: &Site) -> Option<String> {
        let words = words(sql);
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["create", "materialized", "view", view, ..] => {
                self.views.insert(view.to_owned());
            }
            ["drop", "materialized", "view", ..] | ["alter", ..] => {
                self.views.retain(|view| !words.contains(view));
            }
            ["flush"] => {
                self.flushes += 1;
                if self.flushes % 2 == 1 && !self.views.is_empty() {
                    return refresh(&self.views, site).await;
                }
            }
            _ => {}
        }
        None
    }
}

async fn refresh(views: &BTreeSet<String>, site: &Site) -> Option<String> {
    let names: Vec<&str> = views.iter().map(String::as_str).collect();
    let sql = format!("REFRESH MATERIALIZED VIEW {}", names.join(", "));
    let run = site.platform.execute(&mut kaplan_platform::Session::default(), &sql).await;
    run.err().map(|e| format!("{WRONG}: a batch run: {}", e.message))
}

/// The words of a statement, in lower case.
fn words(sql: &str) -> Vec<String> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    sql.split(|c| !word(c)).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

fn names(sql: &str, missing: &BTreeSet<String>) -> bool {
    !missing.is_empty() && words(sql).iter().any(|w| missing.contains(w))
}

/// Whether a statement would change rows or columns, so that later answers depend on it.
fn changes(sql: &str) -> bool {
    let changing = ["insert", "update", "delete", "truncate", "alter", "rollback", "with"];
    words(sql).first().is_some_and(|w| changing.contains(&w.as_str()))
}

/// What a statement would have created.
fn created(sql: &str) -> Option<String> {
    let words = words(sql);
    if words.first()? != "create" {
        return None;
    }
    let kinds = ["table", "stream", "view"];
    let kind = words.iter().position(|w| kinds.contains(&w.as_str()))?;
    let fillers = ["if", "not", "exists"];
    words[kind + 1..].iter().find(|w| !fillers.contains(&w.as_str())).cloned()
}

/// Why a record failed, in one line.
async fn failure<M>(
    runner: &mut Runner<Database, M>,
    record: &Record<DefaultColumnType>,
) -> Option<String>
where
    M: MakeConnection<Conn = Database>,
{
    let error = runner.run_async(record.clone()).await.err()?;
    let reason = match error.kind() {
        TestErrorKind::Fail { err, .. } => err.to_string(),
        TestErrorKind::ErrorMismatch { err, actual_sqlstate, .. } => {
            format!("{OTHER_ERROR}: {err} ({})", actual_sqlstate.unwrap_or_default())
        }
        TestErrorKind::Ok { .. } => format!("{WRONG}: no error"),
        TestErrorKind::QueryResultMismatch { actual, .. } => {
            format!("{WRONG}: {}", actual.replace('\n', " / "))
        }
        TestErrorKind::StatementResultMismatch { actual, .. } => format!("{WRONG}: {actual}"),
        other => format!("{WRONG}: {other}"),
    };
    Some(reason.replace(['\n', '\r'], " ").trim().chars().take(MAX_REASON_CHARS).collect())
}
