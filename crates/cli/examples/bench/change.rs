//! What one changed row costs in a view with much state: from the acknowledged commit of one row
//! until the view shows it. Groups and partitions have ten rows, whatever the size of the state.

use crate::Options;
use crate::measure::{latency, milliseconds, print};
use crate::site::Site;
use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use std::sync::Arc;
use std::time::Instant;

/// Rows of a commit while the state is built.
const COMMIT_ROWS: usize = 50_000;
/// Changes before the clock starts, and those that are timed.
const WARM_UP: usize = 30;
const CHANGES: usize = 300;
/// Has no factor in common with a power of ten, so that its multiples meet every key.
const STRIDE: usize = 617_411;

/// A view, the table that is changed, and the table that its state comes from beside it.
struct Case {
    name: &'static str,
    tables: &'static [&'static str],
    query: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "join",
        tables: &["a", "b"],
        query: "SELECT a.id, a.v AS av, b.v AS bv FROM a JOIN b ON a.id = b.id",
    },
    Case {
        name: "top-N",
        tables: &["a"],
        query: "SELECT id, g, v, rank FROM (SELECT id, g, v, row_number() OVER (PARTITION BY g \
                ORDER BY v DESC, id) AS rank FROM a) AS r WHERE rank <= 3",
    },
    Case {
        name: "min with deletes",
        tables: &["a"],
        query: "SELECT g, min(v) AS least FROM a GROUP BY g",
    },
    Case {
        name: "window function",
        tables: &["a"],
        query: "SELECT id, g, sum(v) OVER (PARTITION BY g ORDER BY id) AS running FROM a",
    },
];

pub async fn measure(options: &Options) -> Result<()> {
    let rows = options.number("rows")?;
    let chosen = options.text("case").ok();
    for case in CASES.iter().filter(|case| chosen.is_none_or(|name| name == case.name)) {
        one(case, rows).await?;
    }
    Ok(())
}

async fn one(case: &Case, rows: usize) -> Result<()> {
    let mut site = Site::open().await?;
    for table in case.tables {
        let columns = "id bigint PRIMARY KEY, g bigint NOT NULL, v bigint NOT NULL";
        site.run(&format!("CREATE TABLE {table} ({columns})")).await?;
    }
    site.run(&format!("CREATE MATERIALIZED VIEW v AS {}", case.query)).await?;
    let each = rows / case.tables.len();
    for table in case.tables {
        for from in (0..each).step_by(COMMIT_ROWS) {
            let ids = from..(from + COMMIT_ROWS).min(each);
            let ids = ids.map(|n| n * STRIDE % each);
            site.platform.append(table, vec![batch(ids, 0)?], None).await?;
        }
    }
    site.wait_archived().await?;
    let mut ms = Vec::new();
    for n in 0..WARM_UP + CHANGES {
        let change = batch(std::iter::once(n * STRIDE % each), n + 1)?;
        let ack = site.platform.append(case.tables[0], vec![change], None).await?;
        let start = Instant::now();
        site.platform.wait_visible(ack.lsn).await?;
        if n >= WARM_UP {
            ms.push(milliseconds(start.elapsed()));
        }
    }
    let note = format!("{rows} rows of input, one row updated, acknowledged to visible");
    latency(&format!("one-row change, {}", case.name), &mut ms, &note)?;
    let state = site.view("v")?;
    let mib = state.state_bytes as f64 / f64::from(1 << 20);
    print(&format!("state, {}", case.name), mib, "MiB", &format!("{} rows", state.state_rows))?;
    site.close().await
}

/// Rows of `(id, g, v)`; `round` changes the value.
fn batch(ids: impl Iterator<Item = usize>, round: usize) -> Result<RecordBatch> {
    let ids: Vec<i64> = ids.map(|id| id as i64).collect();
    let groups: Int64Array = ids.iter().map(|id| id / 10).collect();
    let value = |id: &i64| (id * 7_919 + 104_729 * round as i64) % 1_000_003;
    let values: Int64Array = ids.iter().map(value).collect();
    let columns: [ArrayRef; 3] =
        [Arc::new(Int64Array::from(ids)), Arc::new(groups), Arc::new(values)];
    Ok(RecordBatch::try_from_iter(["id", "g", "v"].into_iter().zip(columns))?)
}
