#!/usr/bin/env python3
"""Take a decision out of the code, and see that a test notices.

Each mutant undoes one of the decisions that keep batch and speed in agreement, in a clone of the
committed tree; its test must then fail. `scripts/mutants.py [NAME..]` runs all or those named.
"""

import os
import subprocess
import sys
import tempfile

LAW = ["cargo", "test", "-q", "-p", "kaplan-sql", "--test", "law", "--", "--cases", "400", "--seed", "7"]


def test(crate, target, name):
    return ["cargo", "test", "-q", "-p", crate, *target, name]


# name, what the code decides, file, text, its replacement, the test that must fail
MUTANTS = [
    ("state-at-b", "views with state below do not start from a batch view",
     "crates/sql/src/compile.rs",
     "let mergeable = lowering.insert_only() && !lowering.stateful_below();",
     "let mergeable = lowering.insert_only();", LAW),
    ("cancel", "a batch answer that may differ in bits is not continued by the circuit",
     "crates/sql/src/compile.rs", "exact: is_exact(&core_plan)?,", "exact: true,", LAW),
    ("archived-through", "the lake's position waits for all tables",
     "crates/platform/src/archiver.rs",
     "inner.lake.append(&info.table(), rows, through).await?;",
     "if inner.lake.append(&info.table(), rows, through).await.is_err() { continue; }",
     test("kaplan-platform", ["--test", "it"], "a_table_that_cannot_be_written")),
    ("publish", "a late run, or one of another base, is not published",
     "crates/batch/src/store.rs", "if old || base.is_some_and(|b| b != published) {",
     "if old && base.is_none() && published > lsn.next() {",
     test("kaplan-batch", ["--test", "it"], "a_run_that_finishes_late")),
    ("tail", "what stands above partial states runs over their sum",
     "crates/sql/src/compile.rs",
     "let tail = (core_plan != optimized).then(|| replace(&optimized, &core_plan)).transpose()?;",
     "let tail: Option<LogicalPlan> = None; let _ = replace;", LAW),
    ("last-emitted", "new minus what was put out before",
     "crates/circuit/src/emitted.rs",
     "(0..old.len()).map(|i| -old.weight(i)).collect::<Int64Array>();",
     "(0..old.len()).map(|_| 0).collect::<Int64Array>();", LAW),
    ("empty-input", "an aggregate without groups has a row over no rows",
     "crates/circuit/src/aggregate.rs",
     "let first_global = self.spec.group.is_empty() && self.emitted.is_empty();",
     "let first_global = false;", LAW),
    ("ties", "the whole row is the last tie-break",
     "crates/sql/src/ties.rs", "for column in schema.columns() {",
     "for column in schema.columns().into_iter().take(0) {", LAW),
    ("clock", "functions that depend on the moment are refused",
     "crates/sql/src/rewrite.rs", "    refuse_volatile(&analyzed)?;\n", "    let _ = refuse_volatile;\n",
     test("kaplan-sql", ["--lib"], "views_refuse_constructs")),
    ("row-errors", "a row that cannot be computed does not stop a view",
     "crates/sql/src/rewrite.rs",
     "let total = analyzed.transform_up_with_subqueries(total_node)?.data;",
     "let _ = total_node; let total = analyzed;",
     test("kaplan-sql", ["--lib"], "a_bad_row_does_not_stop_a_view")),
    ("own-rules", "no subquery is left to physical planning",
     "crates/sql/src/planner.rs",
     "options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;",
     "options.optimizer.enable_physical_uncorrelated_scalar_subquery = true;",
     test("kaplan-sql", ["--lib"], "views_go_through_kaplans_rules_alone")),
    ("expiring-transactions", "a table that forgets its app transactions is refused",
     "crates/lake/src/table.rs", ".get(TRANSACTION_RETENTION)", ".get(\"\")",
     test("kaplan-lake", ["--test", "it"], "a_table_whose_app_transactions_expire")),
    ("versions", "what another version published is computed again",
     "crates/batch/src/store.rs", "if manifest.fingerprint != environment_fingerprint() {",
     "if manifest.fingerprint.is_empty() {",
     test("kaplan-batch", ["--test", "it"], "another_version_is_computed_again")),
]


def run(command, directory):
    return subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)


def main():
    root = subprocess.check_output(["git", "rev-parse", "--show-toplevel"], text=True).strip()
    wanted = set(sys.argv[1:])
    alive = []
    with tempfile.TemporaryDirectory() as clone:
        subprocess.check_call(["git", "clone", "-q", root, clone])
        for name, decision, path, text, instead, command in MUTANTS:
            if wanted and name not in wanted:
                continue
            path = os.path.join(clone, path)
            with open(path, encoding="utf-8") as file:
                before = file.read()
            if before.count(text) == 0:
                alive.append(name)
                print(f"{name}: its text is not in {path}", flush=True)
                continue
            with open(path, "w", encoding="utf-8") as file:
                file.write(before.replace(text, instead))
            done = run(command, clone)
            built = "could not compile" not in done.stdout
            noticed = done.returncode != 0 and built
            with open(path, "w", encoding="utf-8") as file:
                file.write(before)
            if not noticed:
                alive.append(name)
            verdict = "noticed" if noticed else "NOT NOTICED" if built else "DOES NOT COMPILE"
            print(f"{name}: {verdict} ({decision})", flush=True)
            if not built:
                print(done.stdout[-2000:], flush=True)
    print(f"{len(alive)} of {len(wanted) or len(MUTANTS)} mutants were not noticed: {', '.join(alive) or 'none'}")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
