//! The table of expressions and what PostgreSQL 15 prints for them (`cases.txt`, made by psql): every
//! line is planned and run as a query. Lines of `differs.txt` give another text here, which that file
//! has; a line that comes to agree must leave it.

use super::sql_text;
use crate::dialect::{self, Statement};
use crate::planner::Planner;
use datafusion::prelude::SessionContext;
use std::collections::BTreeMap;

const CASES: &str = include_str!("cases.txt");
const DIFFERS: &str = include_str!("differs.txt");

/// What a query gives, as psql prints it; `!` and the message for an error.
async fn answer(planner: &Planner, expression: &str) -> String {
    match run(planner, expression).await {
        Ok(text) => text,
        Err(error) => format!("! {}", error.lines().next().unwrap_or_default()),
    }
}

async fn run(planner: &Planner, expression: &str) -> Result<String, String> {
    let text = format!("SELECT {expression}");
    let parsed = dialect::parse(&text).map_err(|e| e.to_string())?;
    let Some(Statement::Query(query)) = parsed.into_iter().next().map(|p| p.statement) else {
        return Err("no query".to_owned());
    };
    let error = |e: datafusion::common::DataFusionError| e.strip_backtrace();
    let state = planner.session(Vec::new()).map_err(|e| e.to_string())?;
    let plan = planner.plan(&state, &query).await.map_err(|e| e.to_string())?;
    let context = SessionContext::new_with_state(state);
    let frame = context.execute_logical_plan(plan).await.map_err(error)?;
    let batches = frame.collect().await.map_err(error)?;
    let mut lines = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let schema = batch.schema();
            let cells = batch.columns().iter().enumerate().map(|(at, column)| {
                let text = sql_text(column, schema.field(at), row).map_err(error)?;
                Ok(text.unwrap_or_else(|| "NULL".to_owned()))
            });
            lines.push(cells.collect::<Result<Vec<_>, String>>()?.join("|"));
        }
    }
    Ok(lines.join("\n").replace('\\', "\\\\").replace('\n', "\\n"))
}

fn table(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once('\t'))
}

#[tokio::test]
async fn expressions_print_what_postgresql_prints() {
    let planner = Planner::new();
    let known: BTreeMap<&str, &str> = table(DIFFERS).collect();
    let mut wrong = String::new();
    let mut used = 0;
    for (expression, postgres) in table(CASES) {
        let given = answer(&planner, expression).await;
        let same = given == postgres || (given.starts_with('!') && postgres.starts_with('!'));
        match known.get(expression) {
            None if same => {}
            None => wrong.push_str(&format!("{expression}\t{given}\twanted\t{postgres}\n")),
            Some(stated) if same => {
                used += 1;
                wrong.push_str(&format!(
                    "{expression}\tagrees now, and differs.txt says {stated}\n"
                ));
            }
            Some(stated) => {
                used += 1;
                if given != *stated {
                    wrong.push_str(&format!("{expression}\t{given}\twanted\t{stated}\n"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} lines:\n{wrong}", wrong.lines().count());
    assert_eq!(used, known.len(), "differs.txt names an expression that cases.txt does not have");
}
