//! Columns of a file that are no columns of the table: passed over, kept as JSON in one column, or
//! made columns of the table, as `unknown_fields` says. A row that has a value which has no place is
//! refused; no value goes away in silence but by `ignore`.

use super::reading::Fault;
use crate::decode::{Missing, Unknown};
use crate::drift::{self, Guess};
use crate::formats::{sql_type, stream_type};
use crate::source::{MAX_REJECTED_BYTES, Rejected, Target};
use crate::{Error, encode};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use kaplan_sql::catalog::ColumnDef;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What becomes of columns that are not on both sides.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `unknown_fields`.
    pub unknown: Unknown,
    /// `missing_fields`.
    pub missing: Missing,
    /// `unknown_fields_column`.
    pub capture: Option<String>,
}

/// A column of a file that is no column of the table.
pub struct Spare {
    /// Its name in the file.
    pub name: String,
    /// Its type.
    pub field: FieldRef,
    /// Its values; of text an empty one counts as none.
    pub values: ArrayRef,
}

impl Spare {
    fn has(&self, row: usize) -> bool {
        let is_null = self.values.logical_nulls().is_some_and(|nulls| nulls.is_null(row));
        let text = self.values.as_string_opt::<i32>();
        !is_null && text.is_none_or(|text| !text.value(row).is_empty())
    }
}

impl Policy {
    /// Whether values of unknown columns are of any use.
    pub fn wants(&self) -> bool {
        self.capture.is_some() || self.unknown == Unknown::Evolve
    }

    /// Refuses a file whose columns are not allowed to differ as they do.
    pub fn check(&self, names: &[String], known: &SchemaRef, target: &Target) -> Result<(), Fault> {
        let table = &target.name;
        let unknown = names.iter().find(|name| known.index_of(name).is_err());
        if let (Unknown::Error, Some(name)) = (self.unknown, unknown) {
            let reason = format!("the file has the column \"{name}\", which {table} has not");
            return Err(Fault::of_field(reason, name));
        }
        let missing = known.fields().iter().find(|field| !names.contains(field.name()));
        match (self.missing, missing) {
            (Missing::Error, Some(field)) => {
                let name = field.name();
                Err(Fault::of_field(format!("the file lacks the column \"{name}\""), name))
            }
            _ => Ok(()),
        }
    }

    /// The columns that a table is to have for these; their types are those of the file, or of text
    /// what its values say.
    pub fn grown(&self, spares: &[Spare], of_text: bool, target: &Target) -> Vec<ColumnDef> {
        let mut columns = Vec::new();
        if self.unknown != Unknown::Evolve {
            return columns;
        }
        let room = drift::MAX_EVOLVED_COLUMNS.saturating_sub(target.columns.len());
        for spare in spares.iter().filter(|s| drift::refusal(target, &s.name).is_none()) {
            let sql_type = match of_text {
                true => guess(&spare.values).sql_type().map(str::to_owned),
                false => type_of(spare.field.data_type()),
            };
            columns.extend(sql_type.map(|sql_type| ColumnDef::new(&spare.name, sql_type)));
        }
        columns.truncate(room);
        columns
    }

    /// The values as one JSON object a row; NULL where a row has none.
    pub fn captured(&self, spares: &[Spare], rows: usize) -> Result<Option<ArrayRef>, Fault> {
        if self.capture.is_none() {
            return Ok(None);
        }
        let mut members = vec![Vec::new(); rows];
        for spare in spares {
            let name = Value::String(spare.name.clone());
            let values = encode::values(&spare.field, &spare.values);
            let values = values.map_err(|e: Error| Fault::of_field(e.message, &spare.name))?;
            for (row, value) in values.iter().enumerate().filter(|(row, _)| spare.has(*row)) {
                members[row].push(format!("{name}: {value}"));
            }
        }
        let object =
            |row: Vec<String>| (!row.is_empty()).then(|| format!("{{{}}}", row.join(", ")));
        Ok(Some(Arc::new(members.into_iter().map(object).collect::<StringArray>())))
    }

    /// The rows that have a value without a place, each with the reason.
    pub fn homeless(
        &self,
        spares: &[Spare],
        rows: usize,
        target: &Target,
    ) -> Vec<(usize, Rejected)> {
        if self.unknown != Unknown::Evolve || self.capture.is_some() {
            return Vec::new();
        }
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for spare in spares {
            let why = drift::refusal(target, &spare.name).unwrap_or_else(|| {
                let (name, found) = (&spare.name, sql_type(spare.field.data_type()));
                format!("the column \"{name}\" cannot be added: no column holds {found}")
            });
            for row in (0..rows).filter(|row| spare.has(*row)) {
                if seen.insert(row) {
                    let (reason, field) = (why.clone(), Some(spare.name.clone()));
                    found.push((row, Rejected { reason, field, ..Rejected::default() }));
                }
            }
        }
        found
    }
}

/// The type that texts say.
fn guess(values: &ArrayRef) -> Guess {
    let texts = values.as_string_opt::<i32>().into_iter().flatten().flatten();
    // What is `null` in JSON is a text here.
    let of = |text: &str| if text == "null" { Guess::Text } else { Guess::of_text(text) };
    texts.fold(Guess::Nothing, |all, text| all.and(of(text)))
}

/// The type of a column that holds every value of a file's column; none when there is no such type,
/// or nothing to hold.
fn type_of(data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::Null => None,
        nested if is_nested(nested) => Some("jsonb".to_owned()),
        plain => stream_type(plain).map(|t| sql_type(&t)),
    }
}

/// Whether values have parts, so that they are kept as JSON.
pub fn is_nested(data_type: &DataType) -> bool {
    data_type.is_nested() && !matches!(data_type, DataType::Union(..))
}

/// A row of a file as JSON, for the ledger.
pub fn row_text(rows: &RecordBatch, row: usize) -> Option<String> {
    let all: Vec<usize> = (0..rows.num_columns()).collect();
    let mut text = encode::objects(&rows.slice(row, 1), &all).ok()?.pop()?;
    let cut = (0..=MAX_REJECTED_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(cut.unwrap_or(0));
    Some(text)
}
