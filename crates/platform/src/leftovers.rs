//! Tables of the lake that no stream has: those of dropped streams until their files are gone, and those
//! of new streams until the catalog has them.
//!
//! They are in the catalog, so that a crash or an error in between leaves nothing that would keep a name
//! for ever: what is left is deleted when the platform opens, and before the next stream is created.
//! The deletion refuses a directory that is another stream's by now.

use crate::platform::Inner;
use crate::{Error, Result, recover};
use arrow::datatypes::Schema;
use kaplan_base::StreamId;
use kaplan_lake::TableSpec;
use kaplan_sql::catalog::{Catalog, Leftover, StreamDef};
use std::sync::Arc;

/// What is left of a stream when it is dropped here, or not kept.
pub(crate) fn of(def: &StreamDef) -> (StreamId, Leftover) {
    (def.id, Leftover { stored: def.stored_name().to_owned(), append_only: def.append_only })
}

/// Creates the tables of new streams. A stream whose directory is taken gets another one; `next` and
/// `new` say so then.
pub(crate) async fn create(
    inner: &Inner,
    stored: &mut Catalog,
    next: &mut Catalog,
    new: &mut [StreamDef],
) -> Result<()> {
    if let Err(error) = inner.notice(finish(inner, stored).await) {
        tracing::warn!(%error, "files of dropped streams are deleted later");
    }
    let mut begun = stored.clone();
    // A number is never given twice, not even after a failure.
    begun.next_id = next.next_id;
    begun.leftovers.extend(new.iter().map(of));
    inner.keep(stored, begun).await?;
    for def in new {
        match inner.lake.create(&recover::info(def)?.table()).await {
            Err(kaplan_lake::Error::Occupied { .. } | kaplan_lake::Error::Column { .. }) => {
                def.stored = Some(format!("{}@{}", def.stored_name(), def.id));
                next.streams.insert(def.name.clone(), def.clone());
                let mut begun = stored.clone();
                begun.leftovers.extend([of(def)]);
                inner.keep(stored, begun).await?;
                inner.lake.create(&recover::info(def)?.table()).await?;
            }
            created => created?,
        }
    }
    next.leftovers.clone_from(&stored.leftovers);
    next.leftovers.retain(|id, _| !next.streams.values().any(|def| def.id == *id));
    Ok(())
}

/// Deletes what is left. What cannot be deleted stays in the catalog for the next time.
pub(crate) async fn finish(inner: &Inner, stored: &mut Catalog) -> Result<()> {
    if stored.leftovers.is_empty() {
        return Ok(());
    }
    let (mut next, mut failed) = (stored.clone(), None);
    for (id, left) in &stored.leftovers {
        match delete(inner, *id, left).await {
            Ok(()) => drop(next.leftovers.remove(id)),
            Err(error) => failed = Some(error),
        }
    }
    inner.keep(stored, next).await?;
    failed.map_or(Ok(()), Err)
}

async fn delete(inner: &Inner, id: StreamId, left: &Leftover) -> Result<(), Error> {
    if inner.sequencer.counters().contains_key(&id) {
        inner.sequencer.forget(id).await?;
    }
    let (name, changes) = (left.stored.clone(), !left.append_only);
    let table = TableSpec { name, id, schema: Arc::new(Schema::empty()), changes };
    // The archiver must not be in the middle of this table.
    let _archiver = inner.progress.lock().await;
    inner.streams.drop_stream(id);
    Ok(inner.lake.drop_table(&table).await?)
}
