//! Nexmark and TPC-H as materialized views. A run takes the share of the queries that the seed
//! chooses and compares what it finds with `docs/sql-coverage.md`; `--write` writes that page. The same for
//! what is refused.

mod corpora;
mod judge;
mod oracle;
mod page;
mod refused;
mod rows;

use crate::{Options, root};
use corpora::{Corpus, Query};

/// Runs both corpora, as far as they are wanted; whether nothing is wrong.
pub async fn run(options: &Options) -> bool {
    let path = root().join("docs/sql-coverage.md");
    let mut written = page::load(&path);
    let (mut cases, mut wrong, mut problems) = (0, 0, Vec::new());
    for name in ["nexmark", "tpch"].into_iter().filter(|c| options.wants(c)) {
        let corpus = Corpus::of(name, options.seed);
        let queries: Vec<&Query> = chosen(options, &corpus);
        let names: Vec<&str> = queries.iter().map(|q| q.name.as_str()).collect();
        println!("coverage: {name} {}, seed {}", names.join(" "), options.seed);
        let started = std::time::Instant::now();
        let judgement = judge::judge(&corpus, &queries).await;
        println!("coverage: {name} took {} s", started.elapsed().as_secs());
        cases += judgement.comparisons;
        wrong += judgement.lines.values().filter(|line| line.wrong()).count();
        problems.extend(page::compare(&written, name, &judgement.lines));
        page::merge(&mut written, name, &judgement.lines);
    }
    if options.wants("refused") {
        let (rows, accepted) = refused::rows().await;
        cases += rows.len();
        problems.extend(page::compare_refused(&written, &rows));
        problems.extend(accepted);
        written.insert("refused".to_owned(), rows);
    }
    if options.write {
        page::save(&path, &written);
        problems.clear();
    }
    problems.iter().for_each(|p| println!("coverage: {p}"));
    let seed = options.seed;
    println!(
        r#"{{"target": "coverage", "cases": {cases}, "seed": {seed}, "differences": {wrong}}}"#
    );
    // A share is judged by the page, which names what is known to be wrong; a full run by the truth.
    let full = options.share == 1 && options.names.is_empty();
    problems.is_empty() && !(full && wrong > 0)
}

/// The queries named, or every `share`th from one that the seed chooses.
fn chosen<'a>(options: &Options, corpus: &'a Corpus) -> Vec<&'a Query> {
    let named = |q: &Query| options.names.contains(&q.name);
    if !options.names.is_empty() {
        return corpus.queries.iter().filter(|q| named(q)).collect();
    }
    let (share, first) = (options.share.max(1) as usize, options.seed as usize);
    let turn = |(i, _): &(usize, &Query)| (i + first).is_multiple_of(share);
    corpus.queries.iter().enumerate().filter(turn).map(|(_, q)| q).collect()
}
