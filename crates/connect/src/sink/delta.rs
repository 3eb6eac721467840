//! A Delta table that changes are written to, in a folder or a bucket: one Delta transaction a
//! change, and in it the position, as the table's own app transaction. So no change is there twice or
//! half. With a key rows are set and taken out by it (`MERGE`), without one they are added.
//!
//! A table that is not there is created. Refused: tables with other columns, names and types that
//! Delta does not have, a table whose app transactions may expire.

use crate::files::place::{gcs_store, s3_store};
use crate::sink::{Change, Op, Sink, Spec};
use crate::{Error, Kind, Result};
use arrow::array::BooleanArray;
use async_trait::async_trait;
use kaplan_base::{Lsn, Remedy};
use kaplan_lake::{Outlet, outlet_columns};
use kaplan_store::{Place, Retry, Settled};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use url::Url;

const KNOWN: [&str; 14] = [
    "connector",
    "location",
    "path",
    "type",
    "primary_key",
    "force_append_only",
    "snapshot",
    INTERVAL,
    "s3.region_name",
    "s3.endpoint_url",
    "s3.credentials.access",
    "s3.credentials.secret",
    "gcs.credential",
    "gcs.endpoint_url",
];
const INTERVAL: &str = "commit.interval.sec";
/// Each change is a version of the table, and small versions make it slow to read.
const DEFAULT_INTERVAL_SEC: u64 = 10;

/// A table.
pub struct DeltaSink {
    spec: Spec,
    location: Location,
    pause: Duration,
    outlet: Option<Outlet>,
}

enum Location {
    Folder(String),
    Bucket(Url),
}

impl DeltaSink {
    /// A sink to a table, without connecting.
    ///
    /// # Errors
    /// The definition is wrong.
    pub fn new(spec: Spec) -> Result<Self> {
        let options = &spec.def.options;
        if let Some(unknown) = options.keys().find(|o| !KNOWN.contains(&o.as_str())) {
            return Err(Error::config(format!("the connector delta has no option {unknown}"))
                .hint(format!("its options are {}", KNOWN[1..].join(", "))));
        }
        if spec.def.format.as_ref().is_some_and(|f| f.encode != "parquet") {
            return Err(
                Error::config("a Delta table has no ENCODE").hint("write type = 'upsert' instead")
            );
        }
        let location = location(options)?;
        let pause = match options.get(INTERVAL) {
            None => DEFAULT_INTERVAL_SEC,
            Some(seconds) => seconds.parse().ok().filter(|s| *s > 0).ok_or_else(|| {
                Error::config(format!("{INTERVAL} = '{seconds}' is not possible"))
                    .hint("write a number of seconds, such as 10")
            })?,
        };
        outlet_columns(&spec.def.name, &spec.schema).map_err(|e| Error::config(e.to_string()))?;
        Ok(Self { spec, location, pause: Duration::from_secs(pause), outlet: None })
    }

    fn place(&self) -> Result<Place> {
        let options = &self.spec.def.options;
        let failed = |e: kaplan_store::Error| {
            Error::unavailable(e.to_string()).hint("check that it is there and may be written")
        };
        match &self.location {
            Location::Folder(path) => Place::open(path).map_err(failed),
            Location::Bucket(url) => {
                let bucket = url.host_str().unwrap_or_default();
                let store = match url.scheme() {
                    "gs" => gcs_store(bucket, options)?,
                    _ => s3_store(bucket, options)?,
                };
                let settled = Settled::new(store, Retry::default());
                Place::over(url.clone(), std::sync::Arc::new(settled)).map_err(failed)
            }
        }
    }
}

/// Where the table is: `path` of a folder, or `location`.
fn location(options: &BTreeMap<String, String>) -> Result<Location> {
    let hint = "write location = 's3://bucket/prefix', 'gs://bucket/prefix', or path = '/a/folder'";
    let given = match (options.get("path"), options.get("location")) {
        (Some(path), None) => path,
        (None, Some(location)) => location,
        _ => return Err(Error::config("a Delta table has one path or one location").hint(hint)),
    };
    if let Some(path) = given.strip_prefix("file://").or((!given.contains("://")).then_some(given))
    {
        return match Path::new(path).is_absolute() {
            true => Ok(Location::Folder(path.to_owned())),
            false => Err(Error::config(format!("'{given}' is no absolute path")).hint(hint)),
        };
    }
    let url = given.strip_prefix("s3a://").map(|rest| format!("s3://{rest}"));
    let url = Url::parse(url.as_ref().unwrap_or(given)).ok();
    let url = url.filter(|url| matches!(url.scheme(), "s3" | "gs") && url.host_str().is_some());
    let url = url.filter(|url| url.path().len() > 1);
    let none = || Error::config(format!("location = '{given}' is not possible")).hint(hint);
    url.map(Location::Bucket).ok_or_else(none)
}

fn failed(error: &kaplan_lake::Error) -> Error {
    match error.remedy() {
        Remedy::FixInput | Remedy::Report => Error::new(Kind::Refused, error.to_string()),
        _ => Error::unavailable(error.to_string()),
    }
}

#[async_trait]
impl Sink for DeltaSink {
    async fn open(&mut self) -> Result<Option<Lsn>> {
        self.outlet = None;
        let place = tokio::task::block_in_place(|| self.place())?;
        let name = format!("the Delta table {place}");
        let app = format!("kaplan-sink/{}/{}", self.spec.platform, self.spec.def.id);
        let (rows, key) = (&self.spec.schema, self.spec.key.clone());
        let outlet = Outlet::open(&place, (name, app), rows, key).await.map_err(|e| failed(&e))?;
        let version = outlet.version().await.map_err(|e| failed(&e))?;
        self.outlet = Some(outlet);
        Ok(version)
    }

    async fn write(&mut self, change: &Change, lsn: Lsn) -> Result<()> {
        // After a failure only a table that is opened again knows whether the change is there.
        let not_open = || Error::unavailable("the sink is not open");
        let mut outlet = self.outlet.take().ok_or_else(not_open)?;
        let gone: BooleanArray = change.ops.iter().map(|op| Some(*op == Op::Delete)).collect();
        let written = match self.spec.key.is_empty() {
            true => outlet.append(&change.rows, lsn).await,
            false => outlet.merge(&change.rows, &gone, lsn).await,
        };
        written.map_err(|e| failed(&e))?;
        self.outlet = Some(outlet);
        Ok(())
    }

    fn pause(&self) -> Duration {
        self.pause
    }
}
