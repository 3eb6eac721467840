//! A log in a bucket that another process writes, followed to its end. A follower writes nothing and
//! takes nothing over: it fetches the objects whose names follow from those that it has read.
//!
//! ```text
//! look()  the segments after the last one; when they are gone, or many, a listing of all
//! show()  from now on readers of the log see them
//! ```
//!
//! Invariant: what it shows is one history. A segment that does not name the one before it, or a log
//! that ends before what was read already (a copy was put in its place), is [`Error::Corrupt`]. Between
//! the two calls the caller learns what the commits need, such as definitions.

use crate::held::{End, Held, Segments, header, list, row, run};
use crate::{Commit, Error, Log, stored};
use bytes::Bytes;
use kaplan_base::Lsn;
use kaplan_store::Place;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;

/// Segments fetched one after another; beyond it a listing is quicker.
const NEAR: usize = 8;
/// Bytes of the newest commits that are kept in memory.
const CACHE_BYTES: usize = 64 << 20;

/// The follower of a log in a bucket.
pub struct Follower {
    place: Place,
    segments: Segments,
    end: Mutex<End>,
}

/// What a look has found.
pub struct Found {
    end: End,
    news: News,
}

enum News {
    Next(Vec<(Held, Vec<Commit>)>),
    Row(VecDeque<Held>),
}

impl Found {
    /// The first commit that the log holds after this, if the log does not go on where it ended.
    #[must_use]
    pub fn restarts_at(&self) -> Option<Lsn> {
        match &self.news {
            News::Next(_) => None,
            News::Row(row) => Some(row.front().map_or(self.end.head.next(), |h| h.place.first)),
        }
    }
}

impl Follower {
    /// Opens the log as it is; None where there is none yet.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Version`], [`Error::Io`].
    pub fn open(place: &Place) -> Result<Option<Self>, Error> {
        let Some((end, row)) = all(place)? else { return Ok(None) };
        let segments = Segments::new(place, row, (end.head, end.number), CACHE_BYTES);
        Ok(Some(Self { place: place.clone(), segments, end: Mutex::new(end) }))
    }

    /// The number of the opening that wrote the last segment.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.end.lock().epoch
    }

    /// Looks for what was appended since. `archived` is what the lake is known to hold: where it is
    /// ahead of the log, the segments in between are gone.
    ///
    /// # Errors
    /// As [`Follower::open`]; nothing is lost by an error.
    pub fn look(&self, archived: Lsn) -> Result<Option<Found>, Error> {
        let mut end = *self.end.lock();
        let mut next = Vec::new();
        while next.len() < NEAR {
            let place = stored::Place { number: end.number + 1, first: end.head.next() };
            let Some(bytes) = self.fetch(place)? else { break };
            let (header, commits) = stored::decode(&bytes, place)?;
            if header.previous_salt != end.salt {
                let reason = "it does not continue the segment before it";
                return Err(Error::corrupt(&place.name(), 0, reason));
            }
            end = End::of(header);
            next.push((Held { place, bytes: bytes.len() as u64, last: end.head }, commits));
        }
        if next.len() == NEAR || (next.is_empty() && end.head < archived) {
            return self.look_at_all();
        }
        Ok((!next.is_empty()).then_some(Found { end, news: News::Next(next) }))
    }

    fn look_at_all(&self) -> Result<Option<Found>, Error> {
        let known = *self.end.lock();
        let replaced = |name: &str| {
            Error::corrupt(name, 0, "the log ends before what was read of it; was a copy restored?")
        };
        let (end, row) = all(&self.place)?.ok_or_else(|| replaced("*.log"))?;
        if end.number <= known.number || end.head < known.head {
            let last = stored::Place { number: end.number, first: end.head };
            return Err(replaced(&last.name()));
        }
        Ok(Some(Found { end, news: News::Row(row) }))
    }

    /// Lets readers see what was found.
    pub fn show(&self, found: Found) {
        let end = found.end;
        match found.news {
            News::Next(next) => {
                next.iter().for_each(|(held, commits)| self.segments.push(*held, commits));
            }
            News::Row(row) => self.segments.replace(row, (end.head, end.number)),
        }
        *self.end.lock() = end;
    }

    fn fetch(&self, segment: stored::Place) -> Result<Option<Bytes>, Error> {
        let place = self.place.clone();
        run("read", async move {
            let name = segment.name();
            place.get(&name).await.map_err(|e| Error::io("read", &name, std::io::Error::other(e)))
        })
    }
}

/// The end of the log and the unbroken row up to it.
fn all(place: &Place) -> Result<Option<(End, VecDeque<Held>)>, Error> {
    let place = place.clone();
    run("list", async move {
        let listed = list(&place).await?;
        let Some((last, _)) = listed.last() else { return Ok(None) };
        let end = End::of(header(&place, *last).await?);
        let (row, _) = row(&listed, end.head)?;
        Ok(Some((end, row)))
    })
}

impl Log for Follower {
    fn append(&self, _: &[Commit]) -> Result<(), Error> {
        Err(Error::ReadOnly)
    }

    fn head(&self) -> Lsn {
        self.segments.head()
    }

    fn start(&self) -> Lsn {
        self.segments.start()
    }

    fn bytes(&self) -> u64 {
        self.segments.bytes()
    }

    fn read(&self, after: Lsn, max_bytes: usize) -> Result<Vec<Commit>, Error> {
        self.segments.read(after, max_bytes)
    }

    /// Forgets segments, which stay where they are.
    fn trim(&self, through: Lsn) -> Result<(), Error> {
        drop(self.segments.let_go(through));
        Ok(())
    }

    fn wait(&self, after: Lsn, timeout: Duration) -> Lsn {
        self.segments.wait(after, timeout)
    }
}
