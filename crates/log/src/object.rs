//! The log in a bucket: every group of commits is one object, written with put-if-absent.
//!
//! ```text
//! number   1      2      3      4      5      6
//! commits  -      1..4   5      -      6..9   10
//!          epoch 1 ...........  epoch 2 ............
//! ```
//!
//! Invariant: the name of a segment follows from the segments before it, so writers of one history
//! want the same name next, and the store lets one of them have it. Opening writes a segment without
//! commits, which begins an epoch: an older writer finds its next name taken, has acknowledged
//! nothing that the newer one did not find, and is [`Error::Fenced`]. Such segments are never
//! removed, since a name that became free would let a writer of long ago in again.
//!
//! One put is under way at a time. The store settles what became of it (see `kaplan_store`); what
//! stays unknown poisons the log until it is opened again. Segments that were trimmed and came back,
//! because a put arrived twice, lie before the unbroken row that ends at the last segment, and are
//! left out.

use crate::held::{End, Held, Segments, failed, header, list, row, run};
use crate::stopped::Stopped;
use crate::stored::{self, Header};
use crate::{Commit, Error, Log, frame};
use bytes::Bytes;
use kaplan_base::Lsn;
use kaplan_store::Place;
use object_store::{ObjectStoreExt, PutMode};
use parking_lot::Mutex;
use std::time::Duration;

/// How many segments of a writer at work opening follows until it gets in between.
const OPEN_ATTEMPTS: u32 = 1_000;

/// How an [`ObjectLog`] is opened.
#[derive(Clone, Debug)]
pub struct ObjectOptions {
    /// How many bytes of the newest commits are kept in memory for readers (default 64 MiB).
    pub cache_bytes: usize,
    /// The LSN that the first commit gets in an empty place (default 1). Ignored where there are
    /// segments.
    pub first_lsn: Lsn,
}

impl Default for ObjectOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, first_lsn: Lsn(1) }
    }
}

/// What only the appending thread changes.
struct Writer {
    /// The last segment's number and salt.
    number: u64,
    salt: u64,
    head: Lsn,
    stopped: Option<Stopped>,
}

impl Writer {
    fn healthy(&self) -> Result<(), Error> {
        self.stopped.as_ref().map_or(Ok(()), |stopped| Err(stopped.error()))
    }

    fn next(&self) -> stored::Place {
        stored::Place { number: self.number + 1, first: self.head.next() }
    }
}

/// What became of a put.
enum Put {
    Done,
    /// The name was taken by the segment with this header.
    Taken(Header),
}

/// The log in one place of a bucket. Whoever opens it last has it.
pub struct ObjectLog {
    place: Place,
    epoch: u64,
    writer: Mutex<Writer>,
    segments: Segments,
    /// Held by the one trim that runs: names of segments that are no longer wanted.
    unwanted: Mutex<Vec<String>>,
}

/// Puts a segment unless there is one; tells whose it is if there is.
async fn put(place: Place, segment: stored::Place, bytes: Bytes) -> Result<Put, Error> {
    let name = segment.name();
    let path = place.object(&name);
    let put = place.store().put_opts(&path, bytes.into(), PutMode::Create.into());
    match put.await {
        Ok(_) => Ok(Put::Done),
        Err(object_store::Error::AlreadyExists { .. }) => {
            header(&place, segment).await.map(Put::Taken)
        }
        Err(source) => Err(Error::io("write", &name, failed(source))),
    }
}

impl ObjectLog {
    /// Opens the log in `place` and takes it over from whoever has it.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Version`], [`Error::Io`]; [`Error::Fenced`] when another one opened
    /// it meanwhile.
    pub fn open(place: &Place, options: &ObjectOptions) -> Result<Self, Error> {
        let mut end = End::look(place, options.first_lsn.max(Lsn(1)))?;
        for _ in 0..OPEN_ATTEMPTS {
            let marker = end.marker();
            let bytes = stored::encode(marker, &[]);
            match run("write", put(place.clone(), marker.place, bytes))? {
                Put::Done => return Self::opened(place, marker, options),
                // Whoever has the log went on meanwhile: follow.
                Put::Taken(header) => end = End::of(header),
            }
        }
        Err(Error::Fenced { epoch: end.epoch })
    }

    /// The log after its last segment, which began this opening's epoch: from now on nobody appends
    /// but this one, or who opens it later.
    fn opened(place: &Place, marker: Header, options: &ObjectOptions) -> Result<Self, Error> {
        let at = place.clone();
        let listed = run("list", async move { list(&at).await })?;
        if let Some((later, _)) = listed.iter().rev().find(|(p, _)| p.number > marker.place.number)
        {
            let (at, later) = (place.clone(), *later);
            let epoch = run("read", async move { header(&at, later).await })?.epoch;
            return Err(Error::Fenced { epoch });
        }
        let head = marker.place.first.previous();
        let (held, unwanted) = row(&listed, head)?;
        let log = Self {
            place: place.clone(),
            epoch: marker.epoch,
            writer: Mutex::new(Writer {
                number: marker.place.number,
                salt: marker.salt,
                head,
                stopped: None,
            }),
            segments: Segments::new(place, held, (head, marker.place.number), options.cache_bytes),
            unwanted: Mutex::new(unwanted),
        };
        log.segments.read_newest()?;
        Ok(log)
    }

    /// The number of this opening: higher than that of every earlier one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Puts a group as the next segment.
    fn put(&self, writer: &mut Writer, group: &[Commit]) -> Result<Held, Error> {
        let place = writer.next();
        let header = Header {
            place,
            commits: group.len() as u32,
            salt: rand::random(),
            epoch: self.epoch,
            previous_salt: writer.salt,
        };
        let bytes = stored::encode(header, group);
        let (len, last) = (bytes.len() as u64, Lsn(writer.head.0 + group.len() as u64));
        match run("write", put(self.place.clone(), place, bytes)) {
            Ok(Put::Done) => {
                (writer.number, writer.salt) = (place.number, header.salt);
                Ok(Held { place, bytes: len, last })
            }
            Ok(Put::Taken(by)) => {
                writer.stopped = Some(Stopped::Fenced(by.epoch));
                writer.healthy().map(|()| Held { place, bytes: len, last })
            }
            Err(error) => {
                let source = failed(error.to_string());
                let error = Error::Failed {
                    action: "write",
                    file: place.name(),
                    may_have_happened: true,
                    source,
                };
                writer.stopped = Some(Stopped::Poisoned(error.to_string()));
                Err(error)
            }
        }
    }
}

impl Log for ObjectLog {
    fn append(&self, group: &[Commit]) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        writer.healthy()?;
        frame::check_group(writer.head, group)?;
        if group.is_empty() {
            return Ok(());
        }
        let held = self.put(&mut writer, group)?;
        writer.head = held.last;
        self.segments.push(held, group);
        Ok(())
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

    fn trim(&self, through: Lsn) -> Result<(), Error> {
        let mut unwanted = self.unwanted.lock();
        unwanted.extend(self.segments.let_go(through));
        if unwanted.is_empty() {
            return Ok(());
        }
        let (place, names) = (self.place.clone(), unwanted.clone());
        run("remove", async move {
            place.remove(names).await.map_err(|e| Error::io("remove", "*.log", failed(e)))
        })?;
        unwanted.clear();
        Ok(())
    }

    fn wait(&self, after: Lsn, timeout: Duration) -> Lsn {
        self.segments.wait(after, timeout)
    }

    /// Finds out whether another opening has taken the log over, as an append would.
    fn mark_durable(&self) -> Result<(), Error> {
        // An append under way finds out by itself.
        let Some(mut writer) = self.writer.try_lock() else { return Ok(()) };
        writer.healthy()?;
        let (place, next) = (self.place.clone(), writer.next());
        let taken = run("look for", async move {
            match place.store().head(&place.object(&next.name())).await {
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(e) => Err(Error::io("look for", &next.name(), failed(e))),
                Ok(_) => header(&place, next).await.map(Some),
            }
        })?;
        writer.stopped = taken.map(|header| Stopped::Fenced(header.epoch));
        writer.healthy()
    }
}
