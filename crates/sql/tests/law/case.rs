//! One case: a schema, a view, a history; every path's answer is compared with the truth.

use crate::compare::{difference, same_types};
use crate::data::{Commit, Table, commits, show, tables, tables_with_keys};
use crate::grammar::Grammar;
use crate::paths::{Rows, Subject, random_cut};
use crate::truth;
use arrow::array::RecordBatch;
use kaplan_base::Lsn;
use kaplan_circuit::{Batch, Circuit, Delta, Output};
use kaplan_sql::dialect::parse_query;
use kaplan_sql::{CompiledView, Core, Error, Planner, Relation};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Errors of DataFusion's planning and window operators, which no row causes.
const NO_ANSWER: [&str; 3] =
    ["Internal error", "SanityCheckPlan", "Expects PARTITION BY expression to be ordered"];

/// What came of a case.
pub enum Outcome {
    /// The law holds; which paths it was held to.
    Held(Vec<&'static str>),
    /// The view was refused by name.
    Refused(String),
    /// The law is broken: a full account.
    Broken(String),
}

/// The definition of a case.
pub struct Case {
    pub tables: Vec<Table>,
    /// The last one is tested; the others are what it reads.
    pub views: Vec<(String, String)>,
    pub commits: Vec<Commit>,
    /// Whether DataFusion answers the text itself alike.
    pub plain: bool,
}

impl Case {
    /// The case of this number under this seed.
    pub fn random(rng: &mut ChaCha8Rng) -> Self {
        let tables = tables(rng);
        let exact = rng.random_bool(0.6);
        let on_view = rng.random_bool(0.25);
        let mut grammar = Grammar::new(rng, &tables, exact);
        let mut views = Vec::new();
        if on_view {
            let first = grammar.view();
            grammar.add_view("v0", &first);
            views.push(("v0".to_string(), first.sql));
        }
        views.push(("v".to_string(), grammar.view().sql));
        let (plain, joins) = (grammar.plain, grammar.joins + grammar.subqueries);
        let mut commits = commits(rng, &tables, exact);
        commits.truncate([60, 24, 8][joins.min(2)]);
        Self { tables, views, commits, plain }
    }

    /// A case of joins as of processing time, alone or below another view.
    pub fn as_of_now(rng: &mut ChaCha8Rng) -> Self {
        let tables = tables_with_keys(rng);
        let exact = rng.random_bool(0.6);
        let below = rng.random_bool(0.5);
        let mut grammar = Grammar::new(rng, &tables, exact);
        let first = grammar.as_of_now(&tables);
        let mut views = vec![(if below { "v0" } else { "v" }.to_string(), first.sql.clone())];
        if below {
            grammar.only_view("v0", &first);
            views.push(("v".to_string(), grammar.view().sql));
        }
        let (plain, joins) = (grammar.plain, grammar.joins + grammar.subqueries);
        let mut commits = commits(rng, &tables, exact);
        commits.truncate([60, 24, 8][joins.min(2)]);
        Self { tables, views, commits, plain }
    }

    async fn compile(&self) -> Result<CompiledView, Error> {
        let planner = Planner::new();
        let mut relations: Vec<Relation> = self.tables.iter().map(Table::relation).collect();
        let mut compiled = Err(Error::Unsupported {
            construct: "a case without a view".into(),
            hint: String::new(),
        });
        for (name, sql) in &self.views {
            let query = parse_query(sql)?;
            let view = planner.compile(name, &[], &query, &relations).await?;
            relations.push(Relation::View { name: name.clone(), plan: view.plan.clone() });
            compiled = Ok(view);
        }
        compiled
    }

    /// Holds the case to the law.
    pub async fn check(&self, rng: &mut ChaCha8Rng) -> Outcome {
        let view = match self.compile().await {
            Ok(view) => view,
            Err(Error::Unsupported { construct, .. }) => return Outcome::Refused(construct),
            Err(error) if error.to_string().contains("SanityCheckPlan") => {
                return Outcome::Refused("DataFusion: a plan that its own check refuses".into());
            }
            Err(error) => {
                // What DataFusion itself cannot plan is no matter of the law.
                let plain = truth::run_text(&self.views, &self.tables, &[]).await;
                return match plain {
                    Err(why) if matches!(error, Error::Plan(_)) => {
                        Outcome::Refused(format!("DataFusion: {:.60}", why))
                    }
                    _ => Outcome::Broken(self.account(None, &format!("compile: {error}"))),
                };
            }
        };
        match self.paths(&view, rng).await {
            Ok(paths) => Outcome::Held(paths),
            // DataFusion has no answer of its own to compare with.
            Err(why)
                if why.contains("truth itself failed")
                    && NO_ANSWER.iter().any(|known| why.contains(known)) =>
            {
                Outcome::Refused("DataFusion: internal error in the truth".into())
            }
            // A batch run of it fails, and says so: an answer that is not given is not wrong.
            Err(why) if why.starts_with("SanityCheckPlan") => {
                Outcome::Refused("DataFusion: a plan that its own check refuses".into())
            }
            Err(why) => Outcome::Broken(self.account(Some(&view), &why)),
        }
    }

    async fn paths(
        &self,
        view: &CompiledView,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<&'static str>, String> {
        let subject = Subject { view, tables: &self.tables, commits: &self.commits };
        let all = self.commits.len();
        let truth = self.truth(&subject, all).await?;
        let mut done = vec![match view.core {
            Core::States { .. } => "states",
            Core::Rows(_) => "rows",
        }];
        if self.views[0].1.contains(truth::AS_OF_NOW) {
            if self.plain && view.clocks.is_empty() {
                let changes = subject.flat(0..all);
                let text = truth::run_by_commit(&self.views, &self.tables, &changes, all).await;
                // As below.
                if text.is_ok() {
                    agree("the joins commit by commit in plain DataFusion", &truth, text)?;
                    done.push("by commit");
                }
            }
        } else if self.plain && view.clocks.is_empty() {
            let changes = subject.flat(0..all);
            let text = truth::run_text(&self.views, &self.tables, &changes).await;
            // It may fail on times that only microseconds reach.
            if text.is_ok() {
                agree("the SQL text in plain DataFusion", &truth, text)?;
                done.push("text");
            }
        }
        self.cuts(&subject, rng, &truth).await?;
        agree("all rows in another order", &truth, subject.shuffled(rng).await)?;
        if let Some(shared) = subject.shared(rng).await {
            agree("circuits that share the rows", &truth, shared)?;
            done.push("shared");
        }
        done.extend(self.lambda(&subject, rng, &truth).await?);
        if subject.circuit()?.explain().contains("emits changes") {
            done.push("emits");
        }
        Ok(done)
    }

    async fn truth(&self, subject: &Subject<'_>, through: usize) -> Rows {
        let changes = subject.flat(0..through);
        truth::run_over(&subject.view.plan, &subject.clocks(through), &self.tables, &changes)
            .await
            .map_err(|e| format!("the truth itself failed: {e}"))
    }

    /// Random cuts, one of them with restarts and without memory, a read in between, and the sum of what was emitted.
    async fn cuts(
        &self,
        subject: &Subject<'_>,
        rng: &mut ChaCha8Rng,
        truth: &[RecordBatch],
    ) -> Result<(), String> {
        let all = self.commits.len();
        let middle = rng.random_range(0..=all);
        let at_middle = self.truth(subject, middle).await?;
        for round in 0..2 {
            let cut = random_cut(rng, all, &[middle]);
            let odds = if round == 0 { 0.0 } else { 0.3 };
            let name = format!("cut {cut:?} with restarts at odds {odds}");
            let mut circuit = if round == 0 { subject.circuit()? } else { subject.shelved()? };
            let mut emitted = circuit.snapshot().batches_after(Lsn(0));
            let mut then: Option<Circuit> =
                (middle == 0).then(|| subject.restart(&circuit)).transpose()?;
            let fed = subject.feed(&mut circuit, &cut, |circuit, end, out| {
                emitted.extend(out.into_iter().map(as_batch));
                if rng.random_bool(odds) {
                    *circuit = subject.restart(circuit)?;
                }
                if end == middle {
                    then = Some(subject.restart(circuit)?);
                }
                Ok(())
            });
            fed.map_err(|e| format!("{name}: {e}"))?;
            let found = subject.read_circuit(&circuit, all).await?;
            if let Some(what) = same_types(&subject.view.schema, &found) {
                return Err(what);
            }
            agree(&name, truth, Ok(found))?;
            if let Some(then) = then {
                let name = format!("{name}, read after {middle} commits");
                agree(&name, &at_middle, subject.read_circuit(&then, middle).await)?;
            }
            let snapshot = circuit.snapshot();
            if matches!(snapshot.output, Output::Rows) {
                let sum = subject.read(&snapshot.output, &emitted, all).await;
                agree(&format!("{name}: sum of what the steps gave"), truth, sum)?;
            }
        }
        Ok(())
    }

    /// Batch up to B and the circuit's generations after it.
    async fn lambda(
        &self,
        subject: &Subject<'_>,
        rng: &mut ChaCha8Rng,
        truth: &[RecordBatch],
    ) -> Result<Vec<&'static str>, String> {
        let view = subject.view;
        let all = self.commits.len();
        let (first, second) = (rng.random_range(0..=all), rng.random_range(0..=all));
        let (b1, b2) = (first.min(second), first.max(second));
        let applies = view.mergeable || (matches!(view.core, Core::Rows(_)) && view.exact);
        if !applies {
            return Ok(Vec::new());
        }
        let cut = random_cut(rng, all, &[b1, b2]);
        let mut circuit = subject.circuit()?;
        let fed = subject.feed(&mut circuit, &cut, |circuit, end, _| {
            if end == b1 || end == b2 {
                circuit.cut(Lsn(end as u64));
            }
            Ok(())
        });
        fed.map_err(|e| format!("lambda, cut {cut:?}: {e}"))?;
        let snapshot = circuit.snapshot();
        if b2 > 0 && rng.random_bool(0.5) {
            circuit.release(Lsn(b2 as u64)).map_err(|e| e.to_string())?;
        }
        let mut batches = match &view.core {
            Core::States { spec, .. } => {
                let mut batches = subject.batch_states(spec, rng, 0..b1).await?;
                batches.extend(subject.batch_states(spec, rng, b1..b2).await?);
                batches
            }
            Core::Rows(_) => subject.batch_rows(b2).await?,
        };
        let after =
            if b2 == 0 { Vec::new() } else { circuit.snapshot().batches_after(Lsn(b2 as u64)) };
        if b2 == 0 {
            batches = snapshot.batches_after(Lsn(0));
        }
        batches.extend(after);
        let name = format!("batch of {b1} and {b2} commits, then the speed layer, cut {cut:?}");
        agree(&name, truth, subject.read(&snapshot.output, &batches, all).await)?;
        Ok(vec!["lambda"])
    }

    /// All that is needed to understand a broken law.
    fn account(&self, view: Option<&CompiledView>, why: &str) -> String {
        let mut text = String::new();
        for table in &self.tables {
            text += &format!("{};\n", table.ddl());
        }
        for (name, sql) in &self.views {
            text += &format!("CREATE MATERIALIZED VIEW {name} AS {sql};\n");
        }
        for (n, commit) in self.commits.iter().enumerate() {
            for change in commit {
                let name = &self.tables[change.table].name;
                text +=
                    &format!("commit {n}: {name} {:+} ({})\n", change.weight, show(&change.row));
            }
        }
        if let Some(view) = view {
            text += &format!("plan\n{}\n", view.plan.display_indent());
            match &view.core {
                Core::Rows(plan) => text += &format!("core rows\n{}\n", plan.display_indent()),
                Core::States { input, .. } => {
                    text += &format!("core states over\n{}\n", input.display_indent());
                }
            }
            if let Some(tail) = &view.tail {
                text += &format!("tail\n{}\n", tail.display_indent());
            }
            if let Ok(circuit) = view.circuit(Lsn(0)) {
                text += &format!("circuit\n{}", circuit.explain());
            }
        }
        format!("{text}\n{why}\n")
    }
}

fn as_batch(delta: Delta) -> Arc<Batch> {
    Arc::new(Batch::new(Vec::new(), delta))
}

fn agree(path: &str, truth: &[RecordBatch], found: Rows) -> Result<(), String> {
    let found = found.map_err(|e| format!("{path}: {e}"))?;
    match difference(truth, &found) {
        Some(what) => Err(format!("{path}: {what}")),
        None => Ok(()),
    }
}

/// The generator of one case, so that it can be run again alone.
pub fn generator(seed: u64, case: u64) -> ChaCha8Rng {
    let mut mixed = seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ChaCha8Rng::seed_from_u64(mixed)
}
