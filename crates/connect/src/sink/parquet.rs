//! Parquet files in a folder, one a change: the LSN at its end is in the file's name, so the newest
//! name is the position. A file appears whole, with its name, or not at all.

use crate::sink::{Change, Sink, Spec};
use crate::{Error, Result};
use async_trait::async_trait;
use kaplan_base::Lsn;
use parquet::arrow::ArrowWriter;
use std::fs::File;
use std::path::{Path, PathBuf};

const KNOWN: [&str; 5] = ["connector", "path", "type", "force_append_only", "snapshot"];

/// A folder.
pub struct ParquetSink {
    spec: Spec,
    folder: PathBuf,
}

impl ParquetSink {
    /// A sink to a folder of the server's.
    ///
    /// # Errors
    /// The definition is wrong.
    pub fn new(spec: Spec) -> Result<Self> {
        let options = &spec.def.options;
        if let Some(unknown) = options.keys().find(|o| !KNOWN.contains(&o.as_str())) {
            return Err(Error::config(format!("the connector file has no option {unknown}"))
                .hint(format!("its options are {}", KNOWN[1..].join(", "))));
        }
        if spec.def.format.as_ref().is_some_and(|f| f.encode != "parquet") {
            return Err(
                Error::config("the files of a sink are Parquet").hint("write ENCODE PARQUET")
            );
        }
        if !spec.key.is_empty() {
            return Err(Error::config("files can only be added to").hint(
                "write type = 'append-only', and force_append_only = 'true' where rows change",
            ));
        }
        let folder = options.get("path").map(PathBuf::from).filter(|p| p.is_absolute());
        let folder = folder.ok_or_else(|| {
            Error::config("path is missing").hint("write path = '/a/folder/of/the/server'")
        })?;
        Ok(Self { spec, folder })
    }

    fn prefix(&self) -> String {
        format!("{}-{}-", self.spec.def.name.replace(['/', '.'], "_"), self.spec.def.id)
    }

    /// The newest file's LSN.
    fn newest(&self) -> std::io::Result<Option<Lsn>> {
        let prefix = self.prefix();
        let mut newest = None;
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let lsn = name.strip_prefix(&prefix).and_then(|n| n.strip_suffix(".parquet"));
            newest = newest.max(lsn.and_then(|n| n.parse().ok()).map(Lsn));
        }
        Ok(newest)
    }

    fn put(&self, change: &Change, lsn: Lsn) -> Result<()> {
        let name = format!("{}{:020}", self.prefix(), lsn.0);
        // Begins with a dot, so that no reader of the folder takes it for a finished one.
        let next = self.folder.join(format!(".{name}.next"));
        let failed = |e: &dyn std::fmt::Display| failed(&next, e);
        let file = File::create(&next).map_err(|e| failed(&e))?;
        let schema = change.rows.schema();
        let mut writer = ArrowWriter::try_new(file, schema, None).map_err(|e| failed(&e))?;
        writer.write(&change.rows).map_err(|e| failed(&e))?;
        let file = writer.into_inner().map_err(|e| failed(&e))?;
        file.sync_all().map_err(|e| failed(&e))?;
        let path = self.folder.join(format!("{name}.parquet"));
        std::fs::rename(&next, path).map_err(|e| failed(&e))?;
        File::open(&self.folder).and_then(|f| f.sync_all()).map_err(|e| failed(&e))
    }
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::unavailable(format!("{}: {error}", path.display()))
        .hint("check the folder, its permissions and the room on its disk")
}

#[async_trait]
impl Sink for ParquetSink {
    async fn open(&mut self) -> Result<Option<Lsn>> {
        std::fs::create_dir_all(&self.folder).map_err(|e| failed(&self.folder, &e))?;
        self.newest().map_err(|e| failed(&self.folder, &e))
    }

    async fn write(&mut self, change: &Change, lsn: Lsn) -> Result<()> {
        tokio::task::block_in_place(|| self.put(change, lsn))
    }
}
