//! The one law, tested: for every view, every sequence of commits and every way of cutting it into
//! steps, the sum of the circuit's outputs is the view's SQL run by DataFusion over all rows.
//!
//! `cargo test -p kaplan-sql --test law` runs the cases written by hand, those that once failed
//! (`regressions.txt`) and fresh random ones; `-- --cases N --seed S [--case K]` chooses. Each case
//! has its own generator made of seed and number, so that one can be run again alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a test program: it prints its result and stops where it is wrong itself"
)]

mod case;
mod compare;
mod data;
mod grammar;
mod paths;
mod relational;
mod truth;
mod written;

use case::{Case, Outcome, generator};
use kaplan_circuit::link_parts_of;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

const DEFAULT_CASES: u64 = 1_000;
const REGRESSIONS: &str = include_str!("regressions.txt");
/// Plans are deep and tests are not optimized.
const STACK_BYTES: usize = 256 << 20;
/// Cases from this number on are of joins as of processing time; there is one for so many others.
const AS_OF_NOW: u64 = 1 << 32;
const AS_OF_NOW_SHARE: u64 = 8;
/// Rows are few here: about half of the steps' rows are linked by merges, the others copied.
const LINKED_BYTES: usize = 200;
/// Attempts to make a broken case smaller before it is shown.
const SHRINKS: usize = 150;

struct Options {
    cases: u64,
    seed: u64,
    case: Option<u64>,
}

#[derive(Default)]
struct Tally {
    held: u64,
    refused: BTreeMap<String, u64>,
    broken: u64,
    paths: BTreeMap<&'static str, u64>,
}

fn main() {
    let run = || std::thread::Builder::new().stack_size(STACK_BYTES).spawn(law).unwrap().join();
    std::process::exit(run().unwrap_or(1));
}

fn options() -> Options {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let fresh = now.as_nanos() as u64 % 1_000_000_000;
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or(fresh);
    let mut options = Options { cases: DEFAULT_CASES, seed, case: None };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for (name, value) in arguments.iter().zip(arguments.iter().skip(1)) {
        match (name.as_str(), value.parse()) {
            ("--cases", Ok(n)) => options.cases = n,
            ("--seed", Ok(n)) => options.seed = n,
            ("--case", Ok(n)) => options.case = Some(n),
            _ => {}
        }
    }
    options
}

fn law() -> i32 {
    let options = options();
    println!("the law: seed {}, {} cases", options.seed, options.cases);
    link_parts_of(LINKED_BYTES);
    let mut tally = Tally::default();
    if let Some(case) = options.case {
        random(options.seed, case, &mut tally);
    } else {
        for written in written::CASES {
            for round in 0..3 {
                judge(written.name, 0, round, || written.case(), &mut tally);
            }
        }
        for (seed, case) in regressions() {
            random(seed, case, &mut tally);
        }
        for case in 0..options.cases {
            random(options.seed, case, &mut tally);
        }
        for case in 0..options.cases.div_ceil(AS_OF_NOW_SHARE) {
            random(options.seed, AS_OF_NOW + case, &mut tally);
        }
    }
    report(&options, &tally)
}

fn regressions() -> impl Iterator<Item = (u64, u64)> {
    REGRESSIONS.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    })
}

fn random(seed: u64, number: u64, tally: &mut Tally) {
    let make = || match number < AS_OF_NOW {
        true => Case::random(&mut generator(seed, number)),
        false => Case::as_of_now(&mut generator(seed, number)),
    };
    judge("random", seed, number, make, tally);
}

fn check(case: &Case, seed: u64, number: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut rng = generator(seed, number.wrapping_add(1 << 40));
    let run = AssertUnwindSafe(|| runtime.block_on(case.check(&mut rng)));
    catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Outcome::Broken(format!("{:?}\npanic: {}\n", case.views, text.unwrap_or_default()))
    })
}

fn judge(name: &str, seed: u64, number: u64, make: impl Fn() -> Case, tally: &mut Tally) {
    let mut case = make();
    match check(&case, seed, number) {
        Outcome::Held(paths) => {
            tally.held += 1;
            for path in paths {
                *tally.paths.entry(path).or_default() += 1;
            }
        }
        Outcome::Refused(construct) => *tally.refused.entry(construct).or_default() += 1,
        Outcome::Broken(account) => {
            tally.broken += 1;
            let account = shrink(&mut case, seed, number).unwrap_or(account);
            println!("\nBROKEN: {name}; again: --seed {seed} --case {number}\n{account}");
        }
    }
}

/// Leaves out commits and rows as long as the case stays broken.
fn shrink(case: &mut Case, seed: u64, number: u64) -> Option<String> {
    let (mut account, mut attempts) = (None, 0);
    loop {
        let mut shrunk = false;
        for commit in (0..case.commits.len()).rev() {
            for row in (0..case.commits[commit].len()).rev() {
                attempts += 1;
                if attempts > SHRINKS {
                    return account;
                }
                let kept = case.commits[commit].remove(row);
                match data::possible(&case.tables, &case.commits).then(|| check(case, seed, number))
                {
                    Some(Outcome::Broken(text)) => (account, shrunk) = (Some(text), true),
                    _ => case.commits[commit].insert(row, kept),
                }
            }
        }
        if !shrunk {
            return account;
        }
    }
}

fn report(options: &Options, tally: &Tally) -> i32 {
    let refused: u64 = tally.refused.values().sum();
    let all = tally.held + refused + tally.broken;
    println!("refused: {:?}", tally.refused);
    println!("{} passed, {} failed", tally.held, tally.broken);
    let line = serde_json::json!({
        "target": "law",
        "cases": all,
        "seed": options.seed,
        "differences": tally.broken,
        "held": tally.held,
        "refused": refused,
        "refused_percent": refused * 100 / all.max(1),
        "paths": tally.paths,
    });
    println!("{line}");
    i32::from(tally.broken > 0)
}
