//! Random relations and random histories of them. Values are few and awkward, so that groups and
//! joins collide: NULL, -0.0, NaN, empty text, times before 1970. A history is a list of commits;
//! each is a list of weighted rows, and at every prefix no row has a negative weight.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use kaplan_base::Lsn;
use kaplan_circuit::{Delta, Form};
use kaplan_sql::dialect::arrow_type;
use kaplan_sql::{Relation, SourceInfo};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// What an expression generator needs to know of a column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Int,
    Float,
    /// A float that differs in its last bits from path to path: never compared, never a key.
    Approx,
    Decimal,
    Text,
    Bool,
    Date,
    Timestamp,
    Timestamptz,
}

/// A column of a relation.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub sql_type: &'static str,
    pub class: Class,
    pub nullable: bool,
}

/// A stream or a table.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub append_only: bool,
    /// Whether the first column is a primary key: of one key there is one row.
    pub keyed: bool,
}

/// A row with its weight in one commit.
#[derive(Clone, Debug)]
pub struct Change {
    pub table: usize,
    pub row: Vec<ScalarValue>,
    pub weight: i64,
    /// The commit, from 1.
    pub lsn: u64,
}

/// One atomic set of changes.
pub type Commit = Vec<Change>;

impl Table {
    pub fn schema(&self) -> SchemaRef {
        let field = |c: &Column| Field::new(&c.name, arrow_type(c.sql_type).unwrap(), c.nullable);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    pub fn relation(&self) -> Relation {
        Relation::Stream {
            name: self.name.clone(),
            schema: self.schema(),
            append_only: self.append_only,
            watermark: true,
            key: if self.keyed { vec![self.columns[0].name.clone()] } else { Vec::new() },
        }
    }

    pub fn ddl(&self) -> String {
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|c| {
                let null = if c.nullable { "" } else { " NOT NULL" };
                format!("{} {}{null}", c.name, c.sql_type)
            })
            .collect();
        let kind = if self.append_only { "STREAM" } else { "TABLE" };
        let key = if self.keyed { ", PRIMARY KEY (first column)" } else { "" };
        format!("CREATE {kind} {} ({}{key})", self.name, columns.join(", "))
    }
}

const TYPES: [(&str, Class); 11] = [
    ("smallint", Class::Int),
    ("integer", Class::Int),
    ("bigint", Class::Int),
    ("double precision", Class::Float),
    ("numeric(10,2)", Class::Decimal),
    ("text", Class::Text),
    ("boolean", Class::Bool),
    ("date", Class::Date),
    ("timestamp", Class::Timestamp),
    ("timestamptz", Class::Timestamptz),
    ("real", Class::Float),
];

/// One to three relations of two to eight columns.
pub fn tables(rng: &mut ChaCha8Rng) -> Vec<Table> {
    let count = rng.random_range(1..=3);
    (0..count)
        .map(|t| {
            let width = rng.random_range(2..=8);
            let mut columns: Vec<_> = (0..width).map(|c| column(rng, c)).collect();
            // Most relations have something to group by and something to put into windows.
            if rng.random_bool(0.7) {
                (columns[0].sql_type, columns[0].class) = TYPES[rng.random_range(0..3)];
            }
            if rng.random_bool(0.5) {
                (columns[1].sql_type, columns[1].class) = TYPES[rng.random_range(8..10)];
            }
            let append_only = rng.random_bool(0.5);
            Table { name: format!("t{t}"), columns, append_only, keyed: false }
        })
        .collect()
}

/// The same, a stream first, and one or two tables with keys.
pub fn tables_with_keys(rng: &mut ChaCha8Rng) -> Vec<Table> {
    let mut tables = tables(rng);
    tables.truncate(2);
    tables[0].append_only = true;
    for name in ["r", "q"].into_iter().take(rng.random_range(1..=2)) {
        let width = rng.random_range(1..=4);
        let mut columns: Vec<_> = (0..width).map(|c| column(rng, c)).collect();
        (columns[0].sql_type, columns[0].class) = TYPES[[0, 1, 2, 5, 7][rng.random_range(0..5)]];
        columns[0].nullable = false;
        tables.push(Table { name: name.into(), columns, append_only: false, keyed: true });
    }
    tables
}

fn column(rng: &mut ChaCha8Rng, index: usize) -> Column {
    let (sql_type, class) = *TYPES.choose(rng).unwrap();
    Column { name: format!("c{index}"), sql_type, class, nullable: rng.random_bool(0.7) }
}

/// Up to sixty commits. `exact`: floats are such that every order of adding them gives the same.
pub fn commits(rng: &mut ChaCha8Rng, tables: &[Table], exact: bool) -> Vec<Commit> {
    let mut held: Vec<Vec<Vec<ScalarValue>>> = vec![Vec::new(); tables.len()];
    let most = *[3, 12, 60].choose(rng).unwrap();
    let count = rng.random_range(0..=most);
    let commits = (0..count)
        .map(|_| {
            let mut commit = Vec::new();
            for _ in 0..rng.random_range(0..=4) {
                let table = rng.random_range(0..tables.len());
                change(rng, tables, table, exact, &mut held[table], &mut commit);
            }
            net(tables, commit)
        })
        .collect();
    numbered(commits)
}

/// The commits with their numbers in their changes.
pub fn numbered(mut commits: Vec<Commit>) -> Vec<Commit> {
    for (commit, lsn) in commits.iter_mut().zip(1..) {
        commit.iter_mut().for_each(|change| change.lsn = lsn);
    }
    commits
}

/// The sequencer logs of a table with a key what a commit changes on the whole.
fn net(tables: &[Table], commit: Commit) -> Commit {
    let mut sum: Commit = Vec::new();
    for change in commit {
        let same = |c: &&mut Change| {
            tables[c.table].keyed && c.table == change.table && c.row == change.row
        };
        match sum.iter_mut().find(same) {
            Some(there) => there.weight += change.weight,
            None => sum.push(change),
        }
    }
    sum.retain(|change| change.weight != 0);
    sum
}

fn change(
    rng: &mut ChaCha8Rng,
    tables: &[Table],
    table: usize,
    exact: bool,
    held: &mut Vec<Vec<ScalarValue>>,
    commit: &mut Commit,
) {
    let take_away = !tables[table].append_only && !held.is_empty() && rng.random_bool(0.5);
    if take_away {
        let row = held.swap_remove(rng.random_range(0..held.len()));
        commit.push(Change { table, row, weight: -1, lsn: 0 });
        if rng.random_bool(0.5) {
            return;
        }
    }
    let row = if !held.is_empty() && rng.random_bool(0.2) {
        held.choose(rng).unwrap().clone()
    } else {
        tables[table].columns.iter().map(|c| value(rng, c, exact)).collect()
    };
    let twice = !tables[table].append_only && rng.random_bool(0.1);
    let weight = if twice && !tables[table].keyed { 2 } else { 1 };
    let same = |old: &Vec<ScalarValue>| tables[table].keyed && old[0] == row[0];
    if let Some(old) = held.iter().position(same) {
        let row = held.swap_remove(old);
        commit.push(Change { table, row, weight: -1, lsn: 0 });
    }
    held.extend(std::iter::repeat_n(row.clone(), weight));
    commit.push(Change { table, row, weight: weight as i64, lsn: 0 });
}

/// A value of the column's type.
pub fn value(rng: &mut ChaCha8Rng, column: &Column, exact: bool) -> ScalarValue {
    let data_type = arrow_type(column.sql_type).unwrap();
    if column.nullable && rng.random_bool(0.2) {
        return ScalarValue::try_from(&data_type).unwrap();
    }
    if column.class == Class::Float {
        let exactly = [-0.0, 0.0, 1.5, -2.25, 0.5, 3.0, f64::NAN];
        let widely = [0.1, 0.2, 0.3, -0.7, 100.7, -0.0, 1e-3, f64::NAN];
        let pool = if exact { &exactly[..] } else { &widely[..] };
        return ScalarValue::Float64(pool.choose(rng).copied()).cast_to(&data_type).unwrap();
    }
    let pool: &[&str] = match column.class {
        Class::Int => &["-2", "-1", "0", "1", "1", "2", "7", "30000"],
        Class::Decimal => &["-1.50", "0.00", "0.10", "2.25", "99.99"],
        Class::Text => &["", "a", "A", "ab", "12", "-3", "1.5", "x y", "ß", " 7", "2020-01-02"],
        Class::Bool => &["true", "false"],
        Class::Date => {
            &["1969-12-31", "1970-01-01", "2024-02-29", "2024-03-01", "1900-01-01", "9999-12-31"]
        }
        _ => &[
            "1969-12-31T23:59:59.999999",
            "1970-01-01T00:00:00",
            "2024-02-29T10:00:00",
            "2024-02-29T10:30:00.5",
            "2024-02-29T11:59:59",
            "1950-06-01T00:00:01",
            "9999-12-31T23:59:59",
            "0001-01-01T00:00:00",
        ],
    };
    let text = ScalarValue::Utf8(pool.choose(rng).map(|s| (*s).to_string()));
    text.cast_to(&data_type).unwrap()
}

/// Rows of one table as a batch.
pub fn batch(schema: &SchemaRef, rows: &[&Vec<ScalarValue>]) -> RecordBatch {
    if rows.is_empty() {
        return RecordBatch::new_empty(SchemaRef::clone(schema));
    }
    let columns: Vec<ArrayRef> = (0..schema.fields().len())
        .map(|c| ScalarValue::iter_to_array(rows.iter().map(|r| r[c].clone())).unwrap())
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options).unwrap()
}

/// The changes of one table among `changes`, as a delta; None: there are none.
pub fn delta(tables: &[Table], table: usize, changes: &[Change]) -> Option<Delta> {
    let ours: Vec<_> = changes.iter().filter(|c| c.table == table).collect();
    if ours.is_empty() {
        return None;
    }
    let rows = batch(&tables[table].schema(), &ours.iter().map(|c| &c.row).collect::<Vec<_>>());
    if tables[table].append_only {
        return Some(Delta::insert(rows));
    }
    let weights: Int64Array = ours.iter().map(|c| Some(c.weight)).collect();
    Some(Delta::weighted(rows, weights))
}

/// What a source has of changes; rows of several commits in one delta where it does not tell them apart.
pub fn source_deltas(tables: &[Table], source: &SourceInfo, changes: &[Change]) -> Vec<Delta> {
    let table = tables.iter().position(|t| t.name == source.stream).unwrap();
    let mut commits: Vec<u64> = changes.iter().map(|c| c.lsn).collect();
    commits.sort_unstable();
    commits.dedup();
    if source.form == Form::Rows {
        commits.truncate(1);
    }
    let of_commit = |lsn: &u64| {
        let is_in = |c: &&Change| source.form == Form::Rows || c.lsn == *lsn;
        let changes: Vec<Change> = changes.iter().filter(is_in).cloned().collect();
        let delta = delta(tables, table, &changes)?;
        Some(source.rows(Lsn(*lsn), &delta).unwrap())
    };
    commits.iter().filter_map(of_commit).collect()
}

/// The rows of one table in the form that a plan reads.
pub fn rows_in(tables: &[Table], table: usize, form: Form, changes: &[Change]) -> RecordBatch {
    if form == Form::Rows {
        return rows_of(tables, table, changes);
    }
    let ours: Vec<_> = changes.iter().filter(|c| c.table == table).collect();
    let own = tables[table].schema();
    let rows = batch(&own, &ours.iter().map(|c| &c.row).collect::<Vec<_>>());
    let mut columns = rows.columns().to_vec();
    let mut fields: Vec<_> = own.fields().iter().cloned().collect();
    columns.push(Arc::new(ours.iter().map(|c| Some(c.lsn as i64)).collect::<Int64Array>()));
    fields.push(Arc::new(Field::new("_lsn", DataType::Int64, false)));
    if form == Form::Changes {
        columns.push(Arc::new(ours.iter().map(|c| Some(c.weight)).collect::<Int64Array>()));
        fields.push(Arc::new(Field::new("_weight", DataType::Int64, false)));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// All rows of one table that a history leaves.
pub fn rows_of(tables: &[Table], table: usize, changes: &[Change]) -> RecordBatch {
    let mut held: Vec<&Vec<ScalarValue>> = Vec::new();
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for change in changes.iter().filter(|c| c.table == table) {
        let list = if change.weight > 0 { &mut added } else { &mut removed };
        list.extend(std::iter::repeat_n(&change.row, change.weight.unsigned_abs() as usize));
    }
    for row in added {
        match removed.iter().position(|r| *r == row) {
            Some(at) => drop(removed.swap_remove(at)),
            None => held.push(row),
        }
    }
    assert!(removed.is_empty(), "the history takes away rows that are not there");
    batch(&tables[table].schema(), &held)
}

/// A row as text, for the printed reproduction.
pub fn show(row: &[ScalarValue]) -> String {
    row.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether at no moment a row is taken away that is not there, nor after a commit a key has two rows.
pub fn possible(tables: &[Table], commits: &[Commit]) -> bool {
    let mut held: Vec<(&Change, i64)> = Vec::new();
    for commit in commits {
        for change in commit {
            let same = |h: &&mut (&Change, i64)| h.0.table == change.table && h.0.row == change.row;
            match held.iter_mut().find(same) {
                Some(entry) => entry.1 += change.weight,
                None => held.push((change, change.weight)),
            }
            if held.iter().any(|h| h.1 < 0) {
                return false;
            }
        }
        held.retain(|h| h.1 > 0);
        let twice = |at: usize| {
            let (change, count) = held[at];
            let same =
                |h: &(&Change, i64)| h.0.table == change.table && h.0.row[0] == change.row[0];
            tables[change.table].keyed && (count > 1 || held[..at].iter().any(same))
        };
        if (0..held.len()).any(twice) {
            return false;
        }
    }
    true
}
