//! Random relations and random histories of them. Values are few and awkward, so that groups and
//! joins collide: NULL, -0.0, NaN, empty text, times before 1970. A history is a list of commits;
//! each is a list of weighted rows, and at every prefix no row has a negative weight.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use kaplan_circuit::Delta;
use kaplan_sql::Relation;
use kaplan_sql::dialect::arrow_type;
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
}

/// A row with its weight in one commit.
#[derive(Clone, Debug)]
pub struct Change {
    pub table: usize,
    pub row: Vec<ScalarValue>,
    pub weight: i64,
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
        format!("CREATE {kind} {} ({})", self.name, columns.join(", "))
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
            Table { name: format!("t{t}"), columns, append_only: rng.random_bool(0.5) }
        })
        .collect()
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
    (0..count)
        .map(|_| {
            let mut commit = Vec::new();
            for _ in 0..rng.random_range(0..=4) {
                let table = rng.random_range(0..tables.len());
                change(rng, tables, table, exact, &mut held[table], &mut commit);
            }
            commit
        })
        .collect()
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
        commit.push(Change { table, row, weight: -1 });
        if rng.random_bool(0.5) {
            return;
        }
    }
    let row = if !held.is_empty() && rng.random_bool(0.2) {
        held.choose(rng).unwrap().clone()
    } else {
        tables[table].columns.iter().map(|c| value(rng, c, exact)).collect()
    };
    let weight = if !tables[table].append_only && rng.random_bool(0.1) { 2 } else { 1 };
    held.extend(std::iter::repeat_n(row.clone(), weight));
    commit.push(Change { table, row, weight: weight as i64 });
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

/// Whether at no moment a row is taken away that is not there.
pub fn possible(commits: &[Commit]) -> bool {
    let mut held: Vec<(&Change, i64)> = Vec::new();
    for change in commits.iter().flatten() {
        let same = |h: &&mut (&Change, i64)| h.0.table == change.table && h.0.row == change.row;
        match held.iter_mut().find(same) {
            Some(entry) => entry.1 += change.weight,
            None => held.push((change, change.weight)),
        }
        if held.iter().any(|h| h.1 < 0) {
            return false;
        }
    }
    true
}
