//! What is run: the tables of a corpus, its rows as commits, and its queries.

use crate::root;
use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use kaplan_nexmark::{Config, Kind};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tpchgen::generators as tpch;
use tpchgen_arrow as arrows;

/// Events a second: slow, so that no two bids have one time and orders by time are total.
const NEXMARK_RATE: u64 = 100;
const NEXMARK_EVENTS: u64 = 4_000;
const NEXMARK_COMMITS: u64 = 8;
const TPCH_SCALE: f64 = 0.01;
/// Rows of one commit of a TPC-H table.
const TPCH_ROWS: usize = 2_000;

/// One table: its columns come from its rows.
pub struct Table {
    pub name: &'static str,
    pub key: &'static [&'static str],
    pub schema: SchemaRef,
}

/// One query; other engines may need other words for it.
pub struct Query {
    pub name: String,
    pub sql: String,
    pub datafusion: Option<String>,
    pub duckdb: Option<String>,
}

pub struct Corpus {
    pub name: &'static str,
    pub tables: Vec<Table>,
    /// Commits, in order: a table and rows of it.
    pub commits: Vec<(&'static str, RecordBatch)>,
    pub queries: Vec<Query>,
}

impl Corpus {
    pub fn of(name: &str, seed: u64) -> Corpus {
        if name == "nexmark" { nexmark(seed) } else { tpch_of() }
    }

    /// All rows of a table.
    pub fn rows(&self, table: &str) -> Vec<RecordBatch> {
        let of_table = self.commits.iter().filter(|(name, _)| *name == table);
        of_table.map(|(_, rows)| rows.clone()).collect()
    }
}

impl Table {
    /// The statement that creates it, as a stream or as a table by its key.
    pub fn create(&self, stream: bool) -> String {
        let column = |f: &Arc<Field>| format!("{} {} NOT NULL", f.name(), sql_type(f.data_type()));
        let mut elements: Vec<String> = self.schema.fields().iter().map(column).collect();
        if self.name == "bid" {
            elements.push("p_time timestamp AS proctime()".into());
        }
        if stream {
            return format!("CREATE STREAM {} ({})", self.name, elements.join(", "));
        }
        elements.push(format!("PRIMARY KEY ({})", self.key.join(", ")));
        format!("CREATE TABLE {} ({})", self.name, elements.join(", "))
    }
}

fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Int64 => "bigint".into(),
        DataType::Int32 => "integer".into(),
        DataType::Utf8 => "text".into(),
        DataType::Date32 => "date".into(),
        DataType::Timestamp(_, None) => "timestamp".into(),
        DataType::Decimal128(p, s) => format!("numeric({p}, {s})"),
        other => panic!("no type for {other}"),
    }
}

/// The queries of a directory, and what others need in place of them.
fn queries(dir: PathBuf, others: &str) -> Vec<Query> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(&dir).expect("the queries") {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some(number) = name.strip_prefix('q').and_then(|n| n.strip_suffix(".sql")) else {
            continue;
        };
        let Ok(number) = number.parse::<u32>() else { continue };
        let name = format!("q{number}");
        let other = |engine: &str| {
            let path = root().join("tests").join(others).join(format!("{name}.{engine}.sql"));
            std::fs::read_to_string(path).ok()
        };
        let sql = std::fs::read_to_string(&path).unwrap();
        let (datafusion, duckdb) = (other("datafusion"), other("duckdb"));
        found.insert(number, Query { sql, datafusion, duckdb, name });
    }
    found.into_values().collect()
}

fn nexmark(seed: u64) -> Corpus {
    let config = Config { seed, events_per_second: NEXMARK_RATE, ..Config::default() };
    let mut commits = vec![("side_input", side_input())];
    for part in 0..NEXMARK_COMMITS {
        let (from, to) = (part * NEXMARK_EVENTS, (part + 1) * NEXMARK_EVENTS);
        let events = config.batches(from / NEXMARK_COMMITS, to / NEXMARK_COMMITS).unwrap();
        commits.extend(Kind::ALL.map(|kind| (kind.name(), events.of_kind(kind).clone())));
    }
    let table = |name, key, schema| Table { name, key, schema };
    // A bid has no key of its own; its filler makes one of what it has.
    let bid_key = &["auction", "bidder", "price", "date_time", "extra"];
    let tables = vec![
        table("person", &["id"], Kind::Person.schema()),
        table("auction", &["id"], Kind::Auction.schema()),
        table("bid", bid_key, Kind::Bid.schema()),
        table("side_input", &["key"], side_input().schema()),
    ];
    let queries = queries(root().join("examples/nexmark/queries"), "nexmark");
    Corpus { name: "nexmark", tables, commits, queries }
}

/// Values for some of the auctions.
fn side_input() -> RecordBatch {
    use arrow::array::{Int64Array, StringArray};
    let keys: Vec<i64> = (1_000..1_400).step_by(3).collect();
    let values = keys.iter().map(|k| Some(format!("value of {k}"))).collect::<StringArray>();
    let schema = Schema::new(vec![
        Field::new("key", DataType::Int64, false),
        Field::new("value", DataType::Utf8, false),
    ]);
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(Int64Array::from(keys)), Arc::new(values)];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

/// Rows with plain text columns, as streams have them.
fn plain(batch: RecordBatch) -> RecordBatch {
    let field = |f: &Arc<Field>| match f.data_type() {
        DataType::Utf8View => Field::new(f.name(), DataType::Utf8, false),
        other => Field::new(f.name(), other.clone(), false),
    };
    let schema =
        Arc::new(Schema::new(batch.schema().fields().iter().map(field).collect::<Vec<_>>()));
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(c, f)| cast(c, f.data_type()).unwrap()).collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

fn tpch_of() -> Corpus {
    let s = TPCH_SCALE;
    let n = TPCH_ROWS;
    let sources: Vec<(&str, &[&str], Batches)> = vec![
        (
            "region",
            &["r_regionkey"],
            Box::new(
                arrows::RegionArrow::new(tpch::RegionGenerator::new(s, 1, 1)).with_batch_size(n),
            ),
        ),
        (
            "nation",
            &["n_nationkey"],
            Box::new(
                arrows::NationArrow::new(tpch::NationGenerator::new(s, 1, 1)).with_batch_size(n),
            ),
        ),
        (
            "supplier",
            &["s_suppkey"],
            Box::new(
                arrows::SupplierArrow::new(tpch::SupplierGenerator::new(s, 1, 1))
                    .with_batch_size(n),
            ),
        ),
        (
            "customer",
            &["c_custkey"],
            Box::new(
                arrows::CustomerArrow::new(tpch::CustomerGenerator::new(s, 1, 1))
                    .with_batch_size(n),
            ),
        ),
        (
            "part",
            &["p_partkey"],
            Box::new(arrows::PartArrow::new(tpch::PartGenerator::new(s, 1, 1)).with_batch_size(n)),
        ),
        (
            "partsupp",
            &["ps_partkey", "ps_suppkey"],
            Box::new(
                arrows::PartSuppArrow::new(tpch::PartSuppGenerator::new(s, 1, 1))
                    .with_batch_size(n),
            ),
        ),
        (
            "orders",
            &["o_orderkey"],
            Box::new(
                arrows::OrderArrow::new(tpch::OrderGenerator::new(s, 1, 1)).with_batch_size(n),
            ),
        ),
        (
            "lineitem",
            &["l_orderkey", "l_linenumber"],
            Box::new(
                arrows::LineItemArrow::new(tpch::LineItemGenerator::new(s, 1, 1))
                    .with_batch_size(n),
            ),
        ),
    ];
    let (mut tables, mut commits) = (Vec::new(), Vec::new());
    for (name, key, batches) in sources {
        let batches: Vec<RecordBatch> = batches.map(|b| plain(b.unwrap())).collect();
        tables.push(Table { name, key, schema: batches[0].schema() });
        commits.extend(batches.into_iter().map(|rows| (name, rows)));
    }
    // The tables' parts take turns, so that at half of the commits each has rows to come.
    let mut order: Vec<(usize, usize)> = Vec::new();
    for (i, (name, _)) in commits.iter().enumerate() {
        let of_table = commits.iter().filter(|(n, _)| n == name).count();
        let within = commits[..i].iter().filter(|(n, _)| n == name).count();
        order.push((within * 1_000 / of_table, i));
    }
    order.sort_unstable();
    let commits = order.into_iter().map(|(_, i)| commits[i].clone()).collect();
    Corpus { name: "tpch", tables, commits, queries: queries(root().join("tests/tpch"), "tpch") }
}
