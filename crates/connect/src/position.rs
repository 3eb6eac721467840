//! A sink's position as a small object beside Kaplan's own data: for systems that have no place for
//! it.

use crate::{Error, Result};
use kaplan_base::Lsn;
use kaplan_store::Place;

fn name(sink: u32) -> String {
    format!("{sink}.lsn")
}

/// The position; none when there is no object.
///
/// # Errors
/// It cannot be read.
pub async fn read(place: &Place, sink: u32) -> Result<Option<Lsn>> {
    let name = name(sink);
    let Some(bytes) = place.get(&name).await.map_err(|e| failed(&e))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let lsn = text.trim().parse().map_err(|_| {
        Error::unavailable(format!("{} holds no position", place.shown(&name)))
            .hint("remove it to write everything again")
    });
    lsn.map(|lsn| Some(Lsn(lsn)))
}

/// Replaces the position, durably.
///
/// # Errors
/// It cannot be written.
pub async fn write(place: &Place, sink: u32, lsn: Lsn) -> Result<()> {
    place.put(&name(sink), format!("{lsn}\n")).await.map_err(|e| failed(&e))
}

/// Removes the position of a sink that was dropped.
///
/// # Errors
/// It cannot be removed.
pub async fn remove(place: &Place, sink: u32) -> Result<()> {
    place.remove([name(sink)]).await.map_err(|e| failed(&e))
}

fn failed(error: &kaplan_store::Error) -> Error {
    Error::unavailable(format!("the sink's position: {error}"))
}
