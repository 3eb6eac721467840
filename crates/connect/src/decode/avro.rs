//! Records of Avro, each with the number of its schema in a schema registry before it. Schemas are
//! fetched once and kept; a registry that does not answer is trouble of the source, and never a
//! reason to refuse a record.

use super::Record;
use crate::formats::{DecodeError, adapted};
use crate::{Error, Result};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The byte before the schema's number, and the number's length.
const MAGIC: u8 = 0;
const PREFIX: usize = 5;
/// The longest wait for the registry.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A schema registry.
#[derive(Debug)]
pub struct Registry {
    url: String,
    login: Option<(String, Option<String>)>,
    http: reqwest::Client,
    /// None: the registry does not know the number.
    schemas: Mutex<BTreeMap<u32, Option<AvroSchema>>>,
}

impl Registry {
    /// The registry that `ENCODE AVRO (..)` names.
    ///
    /// # Errors
    /// It names none.
    pub fn new(options: &BTreeMap<String, String>) -> Result<Self> {
        let option = |name: &str| options.get(name).cloned();
        let url = option("schema.registry").filter(|url| url.starts_with("http"));
        let url = url.ok_or_else(|| {
            Error::config("ENCODE AVRO has no schema registry")
                .hint("write ENCODE AVRO (schema.registry = 'http://host:8081')")
        })?;
        let http = reqwest::Client::builder().timeout(TIMEOUT).build();
        let http = http.map_err(|e| Error::config(format!("no HTTP client: {e}")))?;
        let login = option("schema.registry.username");
        let login = login.map(|user| (user, option("schema.registry.password")));
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { url, login, http, schemas: Mutex::default() })
    }

    /// Fetches the schemas of records. Blocks, on a thread that may.
    pub(super) fn prepare(&self, records: &[Record<'_>]) -> Result<()> {
        let ids: BTreeSet<u32> =
            records.iter().filter_map(|r| r.value).filter_map(|v| id_of(v).ok()).collect();
        for id in ids {
            let known = self.known().contains_key(&id);
            if !known {
                let fetched = tokio::runtime::Handle::current().block_on(self.fetch(id))?;
                self.known().insert(id, fetched);
            }
        }
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Option<AvroSchema>>> {
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, id: u32) -> Result<Option<AvroSchema>> {
        let failed = |what: String| {
            Error::unavailable(format!("the schema registry: {what}"))
                .hint("check schema.registry, its login, and whether it is up")
        };
        let mut request = self.http.get(format!("{}/schemas/ids/{id}", self.url));
        if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, password.as_ref());
        }
        let answer = request.send().await.map_err(|e| failed(e.without_url().to_string()))?;
        match answer.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            status => return Err(failed(format!("status {status} for schema {id}"))),
        }
        let body: Value = answer.json().await.map_err(|e| failed(e.to_string()))?;
        let schema = body["schema"].as_str().ok_or_else(|| failed(format!("no schema {id}")))?;
        Ok(Some(AvroSchema::new(schema.to_owned())))
    }

    /// Rows of the columns that records hold.
    pub(super) fn rows(
        &self,
        schema: &SchemaRef,
        bodies: &[&[u8]],
    ) -> Result<RecordBatch, DecodeError> {
        let (mut batches, mut at) = (Vec::new(), 0);
        while at < bodies.len() {
            let id = id_of(bodies[at])?;
            let same = bodies[at..].iter().take_while(|b| id_of(b) == Ok(id)).count();
            let rows = self.of_one_schema(id, &bodies[at..at + same])?;
            batches.push(adapted(&rows, schema)?);
            at += same;
        }
        concat_batches(schema, &batches).map_err(|e| DecodeError::new(e.to_string()))
    }

    fn of_one_schema(&self, id: u32, bodies: &[&[u8]]) -> Result<RecordBatch, DecodeError> {
        let writer = self.known().get(&id).cloned().flatten();
        let writer = writer
            .ok_or_else(|| DecodeError::new(format!("the schema registry has no schema {id}")))?;
        let broken = |e: &dyn std::fmt::Display| DecodeError::new(format!("not valid Avro: {e}"));
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(id), writer).map_err(|e| broken(&e))?;
        let builder = ReaderBuilder::new()
            .with_batch_size(bodies.len())
            .with_writer_schema_store(store)
            .with_active_fingerprint(Fingerprint::Id(id));
        let mut decoder = builder.build_decoder().map_err(|e| broken(&e))?;
        for body in bodies {
            let taken = decoder.decode(body).map_err(|e| broken(&e))?;
            if taken != body.len() {
                return Err(broken(&format!("{taken} of {} bytes are a record", body.len())));
            }
        }
        let rows = decoder.flush().map_err(|e| broken(&e))?;
        rows.ok_or_else(|| broken(&"the record is cut off"))
    }
}

/// The number of a record's schema.
fn id_of(body: &[u8]) -> Result<u32, DecodeError> {
    match body {
        [MAGIC, a, b, c, d, ..] if body.len() >= PREFIX => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => Err(DecodeError::new("the record does not begin with a schema's number")
            .hint("ENCODE AVRO reads what serializers of a schema registry write")),
    }
}
