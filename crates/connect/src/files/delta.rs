//! Files of a Delta table, `ENCODE DELTA`: those of the version that is there when reading begins, then those
//! that each later version adds. What only writes the same rows together differently adds none.
//!
//! ```text
//! split                 position
//! _delta_log/begin      the first version that is not part of the beginning
//! _delta_log/read       the first version that is not read as a whole
//! part-0001.parquet     as of any file
//! ```
//!
//! Invariant: the beginning is fixed before a file of it is read, so that each row counts once however the
//! table is compacted meanwhile. A table is only added to: a version that takes rows away stops the source,
//! visibly, unless `skip.change.commits` says that such versions are passed over.

use super::place::{Found, Place, listed};
use crate::source::{Parcel, Positions, Rejected};
use crate::{Error, Kind, Result};
use arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::SchemaRef;
use kaplan_lake::{Inlet, InletFile};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

const BEGIN: &str = "_delta_log/begin";
const READ: &str = "_delta_log/read";
/// The option to pass over versions that take rows away.
pub(super) const SKIP: &str = "skip.change.commits";
/// Versions without rows that are passed over before others may do something.
const VERSIONS_AT_ONCE: usize = 100;

/// A table that is read.
pub(super) struct Table {
    inlet: Inlet,
    skip: bool,
    local: bool,
    /// Path of the table within the place, with a `/` behind it, or nothing.
    prefix: String,
    /// Columns that are not in the files that are to be read, by file.
    constants: BTreeMap<String, Vec<(String, Option<String>)>>,
}

/// What is to be done.
#[derive(Default)]
pub(super) struct Next {
    /// Files to read, in order.
    pub files: Vec<Found>,
    /// Positions to go on to.
    pub marks: VecDeque<Parcel>,
    /// Whether there is nothing more at the moment.
    pub ended: bool,
}

impl Table {
    pub fn new(place: &Place, skip: bool) -> Result<Self> {
        let (store, path, url) = place.root()?;
        let prefix = place.prefix();
        let inlet = Inlet::new(place.shown().to_owned(), &store, &path, &url);
        let (local, constants) = (place.is_local(), BTreeMap::new());
        Ok(Self { inlet, skip, local, prefix, constants })
    }

    /// The columns as they are.
    pub async fn columns(&self) -> Result<SchemaRef> {
        let latest = self.latest().await?;
        self.inlet.columns(latest).await.map_err(|e| failed(&e))
    }

    async fn latest(&self) -> Result<u64> {
        let latest = self.inlet.latest().await.map_err(|e| failed(&e))?;
        latest.ok_or_else(|| {
            Error::unavailable("there is no Delta table here, no _delta_log")
                .hint("name the table's folder, or the prefix of a bucket where it is")
        })
    }

    /// What comes after these positions.
    pub async fn next(&mut self, known: &mut Positions, done: u64) -> Result<Next> {
        let mut next = Next::default();
        self.constants.clear();
        let Some(begin) = known.get(BEGIN).copied() else {
            let begin = self.latest().await? + 1;
            go_on(known, &mut next, Parcel::at(BEGIN, begin));
            return Ok(next);
        };
        for _ in 0..VERSIONS_AT_ONCE {
            let read = known.get(READ).copied();
            let (files, rejected) = match read {
                None => {
                    let files = self.inlet.files(begin.saturating_sub(1)).await;
                    (files.map_err(|e| failed(&e))?, None)
                }
                Some(version) => {
                    let found = self.inlet.version(version).await.map_err(|e| failed(&e))?;
                    let Some(found) = found else {
                        // It may have been written since; then it is found the next time.
                        let later = self.latest().await? > version;
                        let read = self.inlet.version(version).await.map_err(|e| failed(&e))?;
                        if later && read.is_none() {
                            return Err(gap(version, "its entry in the log is gone"));
                        }
                        next.ended = true;
                        return Ok(next);
                    };
                    match (found.removes, self.skip) {
                        (false, _) => (found.added, None),
                        (true, true) => (Vec::new(), Some(passed_over(version))),
                        (true, false) => return Err(removes(version)),
                    }
                }
            };
            for file in files {
                let name = format!("{}{}", self.prefix, listed(self.local, &file.path));
                let (file, constants) = found(name, file);
                if known.get(&file.name).is_some_and(|at| *at >= done) {
                    continue;
                }
                if !constants.is_empty() {
                    self.constants.insert(file.name.clone(), constants);
                }
                next.files.push(file);
            }
            if !next.files.is_empty() {
                return Ok(next);
            }
            let mut mark = Parcel::at(READ, read.map_or(begin, |version| version + 1));
            mark.rejected.extend(rejected);
            go_on(known, &mut next, mark);
        }
        Ok(next)
    }

    /// Puts the columns in that are not in a file.
    pub fn fill(&self, parcel: &mut Parcel) -> Result<()> {
        let Some(constants) = self.constants.get(&parcel.split) else { return Ok(()) };
        for change in &mut parcel.changes {
            change.rows = filled(&change.rows, constants)
                .map_err(|e| Error::new(Kind::Gap, format!("{}: {e}", parcel.split)))?;
        }
        Ok(())
    }

    /// The error of a file that is not there.
    pub fn missing(file: &Found) -> Error {
        Error::gap(format!("{} belongs to the table and is not there", file.name))
            .hint("was the table vacuumed? DROP the source and CREATE it anew, or bring it back")
    }
}

/// A file, and the columns that are not in it.
fn found(name: String, file: InletFile) -> (Found, Vec<(String, Option<String>)>) {
    let modified_us = file.modified_ms.saturating_mul(1_000);
    (Found { name, size: file.bytes, modified_us }, file.partition)
}

fn go_on(known: &mut Positions, next: &mut Next, mark: Parcel) {
    known.insert(mark.split.clone(), mark.position);
    // Of versions without rows only the last one says something.
    if next.marks.back().is_some_and(|last| last.rejected.is_empty() && last.split == mark.split) {
        next.marks.pop_back();
    }
    next.marks.push_back(mark);
}

fn filled(
    rows: &RecordBatch,
    constants: &[(String, Option<String>)],
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut columns = rows.columns().to_vec();
    let schema = rows.schema();
    for (name, value) in constants {
        let Ok(at) = schema.index_of(name) else { continue };
        let data_type = schema.field(at).data_type();
        // Delta writes NULL as nothing.
        columns[at] = match value.as_deref().filter(|value| !value.is_empty()) {
            None => new_null_array(data_type, rows.num_rows()),
            Some(value) => {
                let texts = std::iter::repeat_n(value, rows.num_rows());
                let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
                // What does not read as the column's type is an error, and not NULL.
                cast_with_options(
                    &texts,
                    data_type,
                    &CastOptions { safe: false, ..CastOptions::default() },
                )?
            }
        };
    }
    RecordBatch::try_new(schema, columns)
}

fn removes(version: u64) -> Error {
    Error::gap(format!("version {version} of the table takes rows away or replaces them"))
        .hint(format!("a source reads what is added; {SKIP} = 'true' passes over such versions"))
}

fn passed_over(version: u64) -> Rejected {
    let reason = format!("version {version} takes rows away or replaces them, and was passed over");
    Rejected { position: version, reason, ..Rejected::default() }
}

fn gap(version: u64, why: &str) -> Error {
    Error::gap(format!("version {version} of the table is not there any more: {why}"))
        .hint("DROP the source and CREATE it anew; rows that it has read come again")
}

fn failed(error: &kaplan_lake::Error) -> Error {
    Error::unavailable(error.to_string())
}
