//! A schema registry: the schemas of records, by the number before each. They are fetched once and
//! kept; a registry that does not answer is trouble of the source, and never a reason to refuse a
//! record.

use super::Record;
use super::protobuf::{self, Messages};
use crate::formats::DecodeError;
use crate::{Error, Result};
use arrow_avro::schema::AvroSchema;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The byte before the schema's number, and the length of both.
const MAGIC: u8 = 0;
pub(super) const PREFIX: usize = 5;
/// The longest wait for the registry.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Files that one schema of Protobuf may import, directly or not.
const MAX_REFERENCES: usize = 64;

/// What the schemas of a registry are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Avro,
    Protobuf,
}

/// A schema.
#[derive(Clone, Debug)]
pub(super) enum Schema {
    Avro(Box<AvroSchema>),
    Protobuf(Arc<Messages>),
}

/// A schema registry.
#[derive(Debug)]
pub struct Registry {
    url: String,
    login: Option<(String, Option<String>)>,
    http: reqwest::Client,
    language: Language,
    /// Why there is none: the registry does not know the number, or what it has cannot be used.
    schemas: Mutex<BTreeMap<u32, std::result::Result<Schema, String>>>,
}

impl Registry {
    /// The registry that `ENCODE .. (..)` names.
    ///
    /// # Errors
    /// It names none.
    pub(super) fn new(options: &BTreeMap<String, String>, language: Language) -> Result<Self> {
        let option = |name: &str| options.get(name).cloned();
        let url = option("schema.registry").filter(|url| url.starts_with("http"));
        let url = url.ok_or_else(|| {
            let encode = format!("{language:?}").to_uppercase();
            Error::config(format!("ENCODE {encode} has no schema registry"))
                .hint(format!("write ENCODE {encode} (schema.registry = 'http://host:8081')"))
        })?;
        let http = reqwest::Client::builder().timeout(TIMEOUT).build();
        let http = http.map_err(|e| Error::config(format!("no HTTP client: {e}")))?;
        let login = option("schema.registry.username");
        let login = login.map(|user| (user, option("schema.registry.password")));
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { url, login, http, language, schemas: Mutex::default() })
    }

    /// Fetches the schemas of records, and of their keys where these have one. Blocks, on a thread
    /// that may.
    pub(super) fn prepare(&self, records: &[Record<'_>], keys: bool) -> Result<()> {
        let keys = records.iter().filter_map(|r| r.key.filter(|_| keys));
        let bodies = records.iter().filter_map(|r| r.value).chain(keys);
        let ids: BTreeSet<u32> = bodies.filter_map(|v| id_of(v).ok()).collect();
        for id in ids {
            let known = self.known().contains_key(&id);
            if !known {
                let fetched = tokio::runtime::Handle::current().block_on(self.fetch(id))?;
                self.known().insert(id, fetched);
            }
        }
        Ok(())
    }

    /// The schema of a number.
    pub(super) fn schema(&self, id: u32) -> std::result::Result<Schema, DecodeError> {
        let known = self.known().get(&id).cloned();
        let none = || Err(format!("the schema registry has no schema {id}"));
        known.unwrap_or_else(none).map_err(DecodeError::new)
    }

    fn known(
        &self,
    ) -> std::sync::MutexGuard<'_, BTreeMap<u32, std::result::Result<Schema, String>>> {
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, id: u32) -> Result<std::result::Result<Schema, String>> {
        let Some(found) = self.get(&format!("schemas/ids/{id}")).await? else {
            return Ok(Err(format!("the schema registry has no schema {id}")));
        };
        let text = self.text(&found)?;
        match self.language {
            Language::Avro => Ok(Ok(Schema::Avro(Box::new(AvroSchema::new(text))))),
            Language::Protobuf => {
                let imports = self.imports(&found).await?;
                let made = protobuf::compiled(&text, imports);
                Ok(made
                    .map(|m| Schema::Protobuf(Arc::new(m)))
                    .map_err(|e| format!("schema {id} of the registry cannot be used: {e}")))
            }
        }
    }

    /// The files that a schema imports, by the names that it has for them.
    async fn imports(&self, found: &Value) -> Result<BTreeMap<String, String>> {
        let mut imports = BTreeMap::new();
        let mut waiting = references(found);
        while let Some((name, path)) = waiting.pop() {
            if imports.contains_key(&name) {
                continue;
            }
            if imports.len() == MAX_REFERENCES {
                return Err(
                    self.failed(format!("a schema imports more than {MAX_REFERENCES} files"))
                );
            }
            let file = self.get(&path).await?;
            let file = file.ok_or_else(|| self.failed(format!("there is no {path}")))?;
            waiting.extend(references(&file));
            imports.insert(name, self.text(&file)?);
        }
        Ok(imports)
    }

    fn failed(&self, what: String) -> Error {
        Error::unavailable(format!("the schema registry: {what}"))
            .hint("check schema.registry, its login, and whether it is up")
    }

    fn text(&self, found: &Value) -> Result<String> {
        let text = found["schema"].as_str().map(str::to_owned);
        text.ok_or_else(|| self.failed("an answer without a schema".to_owned()))
    }

    /// A document of the registry; none where there is none.
    async fn get(&self, path: &str) -> Result<Option<Value>> {
        let mut request = self.http.get(format!("{}/{path}", self.url));
        if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, password.as_ref());
        }
        let answer = request.send().await;
        let answer = answer.map_err(|e| self.failed(e.without_url().to_string()))?;
        match answer.status().as_u16() {
            200 => answer.json().await.map(Some).map_err(|e| self.failed(e.to_string())),
            404 => Ok(None),
            status => Err(self.failed(format!("status {status} for {path}"))),
        }
    }
}

/// What a schema imports: names and where the registry has them.
fn references(found: &Value) -> Vec<(String, String)> {
    let all = found["references"].as_array().map_or(&[][..], Vec::as_slice);
    let one = |r: &Value| {
        let (name, subject) = (r["name"].as_str()?, r["subject"].as_str()?);
        let version = r["version"].as_i64()?;
        let subject: String = url_part(subject);
        Some((name.to_owned(), format!("subjects/{subject}/versions/{version}")))
    };
    all.iter().filter_map(one).collect()
}

/// A text as one part of a path.
fn url_part(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(b).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The number of a record's schema.
pub(super) fn id_of(body: &[u8]) -> std::result::Result<u32, DecodeError> {
    match body {
        [MAGIC, a, b, c, d, ..] if body.len() >= PREFIX => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => Err(DecodeError::new("the record does not begin with a schema's number")
            .hint("ENCODE AVRO and PROTOBUF read what serializers of a schema registry write")),
    }
}
