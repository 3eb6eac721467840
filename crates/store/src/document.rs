//! A small JSON object with one writer at a time: the catalog, the archive's progress, manifests.
//!
//! ```text
//! { ...content..., "_writer": { "epoch": 7, "revision": 3 } }
//! ```
//!
//! Every write is a compare-and-set on what this writer last saw. On a conflict the stored epoch
//! decides: a higher one has taken over, and this writer is fenced for good; a lower one is stale,
//! wrote in between, and is overwritten. Epochs are given out by whoever arbitrates between openings
//! (the log); where a lock does that, all have epoch 0.
//!
//! Epoch and revision make the bytes of every write unique, so that a write whose answer was lost is
//! told from another's.

use crate::{Error, Place, Result};
use bytes::Bytes;
use object_store::{GetOptions, PutMode, UpdateVersion};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

/// The epoch of a process that only reads: no writer fences it, and it replaces nothing.
pub const READER: u64 = u64::MAX;
/// The key that is the writer's; content has no such key.
const WRITER: &str = "_writer";
/// How often a write is tried against writers of lower epochs.
const ATTEMPTS: u32 = 10;

/// A JSON object with one writer at a time.
pub struct Document {
    place: Place,
    name: String,
    epoch: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What this writer last saw; None when there was nothing.
    version: Option<UpdateVersion>,
    revision: u64,
}

/// What is stored.
struct Stored {
    content: Map<String, Value>,
    epoch: u64,
    version: UpdateVersion,
}

impl Document {
    /// Reads a document, which this writer may then replace. None when there is none yet.
    ///
    /// # Errors
    /// [`Error::Fenced`] when a writer of a higher epoch has it; [`Error::Damaged`].
    pub async fn open<T: DeserializeOwned>(
        place: &Place,
        name: &str,
        epoch: u64,
    ) -> Result<(Document, Option<T>)> {
        let document = Document {
            place: place.clone(),
            name: name.to_owned(),
            epoch,
            state: Mutex::default(),
        };
        let Some(stored) = document.read().await? else { return Ok((document, None)) };
        document.check(stored.epoch)?;
        document.state.lock().await.version = Some(stored.version);
        let content = serde_json::from_value(Value::Object(stored.content));
        let content = content.map_err(|e| document.damaged(e))?;
        Ok((document, Some(content)))
    }

    /// The epoch of the writer that stored a document last; None when there is none yet.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub async fn epoch(place: &Place, name: &str) -> Result<Option<u64>> {
        let (document, _) = Self::open::<Value>(place, name, READER).await?;
        Ok(document.read().await?.map(|stored| stored.epoch))
    }

    /// As [`Document::open`], and makes the document this writer's own at once: from then on a
    /// writer of a lower epoch cannot replace it. An absent one gets the default content.
    ///
    /// # Errors
    /// As [`Document::open`] and [`Document::replace`].
    pub async fn claim<T: DeserializeOwned + Serialize + Default>(
        place: &Place,
        name: &str,
        epoch: u64,
    ) -> Result<(Document, T)> {
        for _ in 0..ATTEMPTS {
            let (document, stored) = Self::open::<T>(place, name, epoch).await?;
            let content = stored.unwrap_or_default();
            if document.put_once(&content).await? {
                return Ok((document, content));
            }
        }
        Err(Error::Contended { object: place.shown(name), attempts: ATTEMPTS })
    }

    /// Replaces the content, which must serialize as an object; it is durable on return.
    ///
    /// # Errors
    /// [`Error::Fenced`]; [`Error::Object`], after which it is unknown which content is stored
    /// until the next success.
    pub async fn replace(&self, content: &impl Serialize) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if self.put_once(content).await? {
                return Ok(());
            }
        }
        Err(Error::Contended { object: self.place.shown(&self.name), attempts: ATTEMPTS })
    }

    /// One compare-and-set; false after a conflict with a writer that has no right to it.
    async fn put_once(&self, content: &impl Serialize) -> Result<bool> {
        if self.epoch == READER {
            return Err(Error::ReadOnly { object: self.place.shown(&self.name) });
        }
        let mut state = self.state.lock().await;
        state.revision += 1;
        let bytes = self.encode(content, state.revision)?;
        let mode = match &state.version {
            Some(version) => PutMode::Update(version.clone()),
            None => PutMode::Create,
        };
        let path = self.place.object(&self.name);
        match self.place.store().put_opts(&path, bytes.into(), mode.into()).await {
            Ok(put) => {
                state.version = Some(put.into());
                Ok(true)
            }
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotFound { .. },
            ) => {
                let stored = self.read().await?;
                if let Some(stored) = &stored {
                    self.check(stored.epoch)?;
                }
                state.version = stored.map(|stored| stored.version);
                Ok(false)
            }
            Err(source) => Err(Error::object("write", self.place.shown(&self.name))(source)),
        }
    }

    fn encode(&self, content: &impl Serialize, revision: u64) -> Result<Bytes> {
        let value = serde_json::to_value(content).map_err(|e| self.damaged(e))?;
        let Value::Object(mut value) = value else {
            return Err(self.damaged("the content is not an object"));
        };
        value.insert(WRITER.to_owned(), json!({ "epoch": self.epoch, "revision": revision }));
        let text = serde_json::to_vec_pretty(&value).map_err(|e| self.damaged(e))?;
        Ok(text.into())
    }

    async fn read(&self) -> Result<Option<Stored>> {
        let path = self.place.object(&self.name);
        let failed = || Error::object("read", self.place.shown(&self.name));
        let found = match self.place.store().get_opts(&path, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed()(source)),
        };
        let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
        let bytes = found.bytes().await.map_err(failed())?;
        let mut content: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|e| self.damaged(e))?;
        let writer = content.remove(WRITER);
        let epoch = writer.and_then(|w| w["epoch"].as_u64()).unwrap_or(0);
        Ok(Some(Stored { content, epoch, version: UpdateVersion { e_tag, version } }))
    }

    fn check(&self, found: u64) -> Result<()> {
        if found <= self.epoch {
            return Ok(());
        }
        Err(Error::Fenced { object: self.place.shown(&self.name), found, own: self.epoch })
    }

    fn damaged(&self, reason: impl ToString) -> Error {
        Error::Damaged { object: self.place.shown(&self.name), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use url::Url;

    type Content = BTreeMap<String, u64>;

    fn content(n: u64) -> Content {
        BTreeMap::from([("n".to_owned(), n)])
    }

    fn places() -> (tempfile::TempDir, [Place; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let url = Url::parse("memory:///a/b").unwrap();
        let memory = Place::over(url, Arc::new(InMemory::new())).unwrap();
        let local = Place::open(dir.path().to_str().unwrap()).unwrap();
        (dir, [memory, local])
    }

    #[tokio::test]
    async fn a_document_is_read_back_without_its_writer() {
        let (_dir, places) = places();
        for place in places {
            let (document, nothing) = Document::open::<Content>(&place, "d", 1).await.unwrap();
            assert!(nothing.is_none());
            for n in 1..4 {
                document.replace(&content(n)).await.unwrap();
            }
            let (_, read) = Document::open::<Content>(&place, "d", 1).await.unwrap();
            assert_eq!(read, Some(content(3)));
        }
    }

    #[tokio::test]
    async fn a_stale_writer_is_fenced_once_the_newer_one_has_claimed() {
        let (_dir, places) = places();
        for place in places {
            let (old, _) = Document::claim::<Content>(&place, "d", 1).await.unwrap();
            old.replace(&content(1)).await.unwrap();
            let (new, read) = Document::claim::<Content>(&place, "d", 2).await.unwrap();
            assert_eq!(read, content(1));
            for _ in 0..2 {
                let refused = old.replace(&content(7)).await;
                assert!(matches!(refused, Err(Error::Fenced { found: 2, own: 1, .. })));
            }
            new.replace(&content(2)).await.unwrap();
            let late = Document::claim::<Content>(&place, "d", 1).await;
            assert!(matches!(late, Err(Error::Fenced { .. })));
            let (_, read) = Document::open::<Content>(&place, "d", 2).await.unwrap();
            assert_eq!(read, Some(content(2)));
        }
    }

    #[tokio::test]
    async fn a_reader_reads_what_any_writer_wrote_and_replaces_nothing() {
        let (_dir, places) = places();
        for place in places {
            let (writer, _) = Document::claim::<Content>(&place, "d", 7).await.unwrap();
            writer.replace(&content(1)).await.unwrap();
            let (reader, read) = Document::open::<Content>(&place, "d", READER).await.unwrap();
            assert_eq!(read, Some(content(1)));
            let refused = reader.replace(&content(2)).await;
            assert!(matches!(refused, Err(Error::ReadOnly { .. })));
            let claimed = Document::claim::<Content>(&place, "d", READER).await;
            assert!(matches!(claimed, Err(Error::ReadOnly { .. })));
            writer.replace(&content(3)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_a_stale_writer_wrote_in_between_gives_way() {
        let (_dir, places) = places();
        for place in places {
            let (old, _) = Document::open::<Content>(&place, "d", 1).await.unwrap();
            let (new, _) = Document::open::<Content>(&place, "d", 2).await.unwrap();
            old.replace(&content(1)).await.unwrap();
            new.replace(&content(2)).await.unwrap();
            assert!(matches!(old.replace(&content(3)).await, Err(Error::Fenced { .. })));
            let (_, read) = Document::open::<Content>(&place, "d", 2).await.unwrap();
            assert_eq!(read, Some(content(2)));
        }
    }
}
