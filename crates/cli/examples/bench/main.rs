//! Kaplan's half of the benchmark: `bench COMMAND --name value ..` takes one measurement and prints
//! one JSON object a figure. `bench/run.py` runs it beside other engines and writes the report.
//!
//! Each command is a process of its own, so that its peak memory is its own. Inputs are made before
//! the clock starts. Data lie below the cache directory, not below /tmp, which may be a RAM disk
//! where fsync costs nothing.

mod change;
mod data;
mod freshness;
mod ingest;
mod live;
mod measure;
mod nexmark;
mod reads;
mod site;

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

const USAGE: &str = "bench load --site DIR --data DIR | replay --site DIR --query NAME --sql FILE \
    --out FILE [--memory-limit-bytes N] | batch --site DIR --sql FILE | ingest --data DIR | \
    live --data DIR --views 1|4 | \
    small --data DIR | freshness --data DIR | change --rows N | full --data DIR | \
    reads --keys N --clients N";

/// The command's options by name.
pub struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = BTreeMap::new();
        while let Some(name) = given.next() {
            let Some(name) = name.strip_prefix("--") else { bail!("{name}: {USAGE}") };
            let value = given.next().with_context(|| format!("--{name} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    /// The text of an option.
    pub fn text(&self, name: &str) -> Result<&str> {
        Ok(self.0.get(name).with_context(|| format!("--{name} is missing: {USAGE}"))?)
    }

    /// An option that is a whole number and need not be given.
    pub fn number_if_given(&self, name: &str) -> Result<Option<usize>> {
        self.0.contains_key(name).then(|| self.number(name)).transpose()
    }

    /// An option that is a whole number.
    pub fn number(&self, name: &str) -> Result<usize> {
        let text = self.text(name)?;
        text.parse().with_context(|| format!("--{name} {text}: a whole number is needed"))
    }
}

fn main() -> Result<()> {
    // As the program does.
    kaplan_allocator::keep_freed_memory();
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().context(USAGE)?;
    let options = Options::parse(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command.as_str() {
            "load" => nexmark::load(&options).await,
            "replay" => nexmark::replay(&options).await,
            "batch" => nexmark::batch(&options).await,
            "ingest" => ingest::measure(&options).await,
            "live" => live::measure(&options).await,
            "small" => live::small(&options).await,
            "full" => live::full(&options).await,
            "freshness" => freshness::measure(&options).await,
            "change" => change::measure(&options).await,
            "reads" => reads::measure(&options).await,
            _ => bail!("{command}: {USAGE}"),
        }
    })
}
