//! The corpora that judge Kaplan's SQL: SQL logic tests over the PostgreSQL wire (`slt`), and the
//! queries of Nexmark and TPC-H as views (`nexmark`, `tpch`), and what is refused (`refused`).
//!
//! `cargo test -p kaplan-server --test corpus` runs all logic tests and a share of the queries that
//! the seed chooses. `-- slt|nexmark|tpch|refused|all [--seed N] [--share N] [NAME..]` chooses; `--write`
//! records what is refused now; `-- slt --postgres 'host=.. port=..' [--override]` runs the logic
//! tests on PostgreSQL, whose answers the files hold.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a test program: it prints its result and stops where it is wrong itself"
)]

mod coverage;
mod site;
mod slt;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Plans are deep and tests are not optimized.
const STACK_BYTES: usize = 64 << 20;

/// What to run, and how.
#[derive(Default)]
pub struct Options {
    pub corpora: Vec<String>,
    /// Only files or queries whose name contains one of these.
    pub names: Vec<String>,
    pub seed: u64,
    /// One query in this many runs.
    pub share: u64,
    pub write: bool,
    pub postgres: Option<String>,
    pub rewrite: bool,
}

impl Options {
    fn parse() -> Options {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let fresh = now.as_nanos() as u64 % 1_000_000_000;
        let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or(fresh);
        let mut options = Options { seed, share: DEFAULT_SHARE, ..Options::default() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} of what?"));
            match argument.as_str() {
                "--seed" => options.seed = value().parse().expect("a number"),
                "--share" => options.share = value().parse().expect("a number"),
                "--write" => options.write = true,
                "--override" => options.rewrite = true,
                "--postgres" => options.postgres = Some(value()),
                "slt" | "nexmark" | "tpch" | "refused" => options.corpora.push(argument),
                "all" => options.share = 1,
                // What `cargo test` may pass on to every test program.
                other if other.starts_with('-') => {}
                _ => options.names.push(argument),
            }
        }
        options
    }

    pub fn wants(&self, corpus: &str) -> bool {
        self.corpora.is_empty() || self.corpora.iter().any(|c| c == corpus)
    }

    pub fn chosen(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|n| name.contains(n.as_str()))
    }
}

/// One query in this many runs in `cargo test`.
const DEFAULT_SHARE: u64 = 3;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn main() {
    let work = || std::thread::Builder::new().stack_size(STACK_BYTES).spawn(judge).unwrap().join();
    std::process::exit(i32::from(work().unwrap_or(true)));
}

/// Runs what was asked for; true when something failed.
fn judge() -> bool {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .unwrap();
    let failed = runtime.block_on(async {
        let mut failed = false;
        if options.wants("slt") {
            failed |= !slt::run(&options).await;
        }
        if ["nexmark", "tpch", "refused"].iter().any(|corpus| options.wants(corpus)) {
            failed |= !coverage::run(&options).await;
        }
        failed
    });
    runtime.shutdown_background();
    failed
}
