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

use crate::ring::Ring;
use crate::stored::{self, HEADER_BYTES, Header};
use crate::{Commit, Error, Log, frame};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use kaplan_base::Lsn;
use kaplan_store::{Place, wait};
use object_store::{ObjectStoreExt, PutMode};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Segments fetched at once.
const READ_AHEAD: usize = 16;
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

/// A segment that holds commits.
#[derive(Clone, Copy, Debug)]
struct Held {
    place: stored::Place,
    bytes: u64,
    /// Its last commit.
    last: Lsn,
}

/// What only the appending thread changes.
struct Writer {
    /// The last segment's number and salt.
    number: u64,
    salt: u64,
    head: Lsn,
    stopped: Option<Stopped>,
}

/// Why nothing more is appended.
enum Stopped {
    Fenced(u64),
    Poisoned(String),
}

impl Writer {
    fn healthy(&self) -> Result<(), Error> {
        match &self.stopped {
            None => Ok(()),
            Some(Stopped::Fenced(epoch)) => Err(Error::Fenced { epoch: *epoch }),
            Some(Stopped::Poisoned(cause)) => Err(Error::Poisoned { cause: cause.clone() }),
        }
    }

    fn next(&self) -> stored::Place {
        stored::Place { number: self.number + 1, first: self.head.next() }
    }
}

/// What readers see.
struct State {
    head: Lsn,
    /// The number of the last segment of all.
    newest: u64,
    segments: VecDeque<Held>,
    ring: Ring,
}

impl State {
    fn start(&self) -> Lsn {
        self.segments.front().map_or(self.head.next(), |segment| segment.place.first)
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
    state: Mutex<State>,
    grown: Condvar,
    /// The segment read last, for those who read it page by page.
    read: Mutex<Option<(u64, Arc<Vec<Commit>>)>>,
    /// Held by the one trim that runs: names of segments that are no longer wanted.
    unwanted: Mutex<Vec<String>>,
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

/// Runs work with the store to its end.
fn run<T: Send + 'static>(
    action: &'static str,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    wait(work).map_err(|e| Error::io(action, "*.log", failed(e)))?
}

async fn fetch(place: Place, segment: stored::Place) -> Result<Bytes, Error> {
    let name = segment.name();
    let missing = || Error::corrupt(&name, 0, "the object is missing");
    let found = place.get(&name).await.map_err(|e| Error::io("read", &name, failed(e)))?;
    found.ok_or_else(missing)
}

async fn header(place: &Place, segment: stored::Place) -> Result<Header, Error> {
    let name = segment.name();
    let found = place.store().get_range(&place.object(&name), 0..HEADER_BYTES as u64).await;
    let found = found.map_err(|e| Error::io("read", &name, failed(e)))?;
    Header::decode(&found, segment)
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
        let mut end = End::look(place, options)?;
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
            state: Mutex::new(State {
                head,
                newest: marker.place.number,
                segments: held,
                ring: Ring::new(options.cache_bytes),
            }),
            grown: Condvar::new(),
            read: Mutex::default(),
            unwanted: Mutex::new(unwanted),
        };
        log.read_newest()?;
        Ok(log)
    }

    /// Checks the newest commits, and keeps them for readers.
    fn read_newest(&self) -> Result<(), Error> {
        let Some(last) = self.state.lock().segments.back().copied() else { return Ok(()) };
        let commits = self.segments(&[last])?;
        let mut state = self.state.lock();
        commits.iter().flat_map(|c| c.iter()).for_each(|c| state.ring.push(c.clone()));
        Ok(())
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

    /// Segments from the one that holds `next` on, as many as a page may need.
    fn wanted(&self, next: Lsn, max_bytes: usize) -> Result<Vec<Held>, Error> {
        let state = self.state.lock();
        if next < state.start() {
            return Err(Error::Trimmed { start: state.start() });
        }
        let from = state.segments.partition_point(|segment| segment.last < next);
        let mut bytes = 0;
        let mut wanted = Vec::new();
        for segment in state.segments.range(from..).take(READ_AHEAD) {
            bytes += segment.bytes;
            if !wanted.is_empty() && bytes > max_bytes as u64 {
                break;
            }
            wanted.push(*segment);
        }
        Ok(wanted)
    }

    /// The commits of segments, fetched at once; the last one is remembered.
    fn segments(&self, wanted: &[Held]) -> Result<Vec<Arc<Vec<Commit>>>, Error> {
        if let [only] = wanted
            && let Some((number, commits)) = &*self.read.lock()
            && *number == only.place.number
        {
            return Ok(vec![Arc::clone(commits)]);
        }
        let (place, segments) = (self.place.clone(), wanted.to_vec());
        let found = run("read", async move {
            let fetches = segments.into_iter().map(|segment| {
                let place = place.clone();
                async move {
                    let bytes = fetch(place, segment.place).await?;
                    let (_, commits) = stored::decode(&bytes, segment.place)?;
                    if commits.last().is_none_or(|commit| commit.lsn != segment.last) {
                        let reason = format!("it does not end with commit {}", segment.last);
                        return Err(Error::corrupt(&segment.place.name(), 0, reason));
                    }
                    Ok(Arc::new(commits))
                }
            });
            futures::stream::iter(fetches).buffered(READ_AHEAD).try_collect::<Vec<_>>().await
        })?;
        if let (Some(segment), Some(commits)) = (wanted.last(), found.last()) {
            *self.read.lock() = Some((segment.place.number, Arc::clone(commits)));
        }
        Ok(found)
    }

    /// Lets go of segments that are no longer there, as the next opening would find: a writer that had
    /// the log before may have trimmed while this one opened it. Returns the first commit held.
    fn look_again(&self) -> Result<Lsn, Error> {
        let place = self.place.clone();
        let listed = run("list", async move { list(&place).await })?;
        let mut oldest: Option<u64> = None;
        for (place, _) in listed.iter().rev() {
            if oldest.is_some_and(|oldest| place.number + 1 != oldest) {
                break;
            }
            oldest = Some(place.number);
        }
        let mut state = self.state.lock();
        while state.segments.front().is_some_and(|s| oldest.is_some_and(|o| s.place.number < o)) {
            state.segments.pop_front();
        }
        Ok(state.start())
    }

    /// Reads from the bucket.
    fn read_segments(&self, next: Lsn, max_bytes: usize) -> Result<Vec<Commit>, Error> {
        let wanted = self.wanted(next, max_bytes)?;
        let segments = match self.segments(&wanted) {
            // It may have been trimmed since it was looked up.
            Err(_) if self.start() > next => return Err(Error::Trimmed { start: self.start() }),
            Err(Error::Corrupt { .. }) if self.look_again()? > next => {
                return Err(Error::Trimmed { start: self.start() });
            }
            segments => segments?,
        };
        let (mut page, mut bytes) = (Vec::new(), 0);
        for commit in segments.iter().flat_map(|commits| commits.iter()) {
            if commit.lsn < next {
                continue;
            }
            bytes += frame::len(commit);
            if !page.is_empty() && bytes > max_bytes {
                break;
            }
            page.push(commit.clone());
        }
        Ok(page)
    }
}

/// The last segment, after which the next one comes; number zero in an empty place.
struct End {
    number: u64,
    salt: u64,
    epoch: u64,
    head: Lsn,
}

impl End {
    fn look(place: &Place, options: &ObjectOptions) -> Result<Self, Error> {
        let (place, first) = (place.clone(), options.first_lsn.max(Lsn(1)));
        run("list", async move {
            let listed = list(&place).await?;
            let Some((last, _)) = listed.last() else {
                return Ok(Self { number: 0, salt: 0, epoch: 0, head: first.previous() });
            };
            header(&place, *last).await.map(Self::of)
        })
    }

    fn of(header: Header) -> Self {
        let head = Lsn(header.place.first.0 + u64::from(header.commits)).previous();
        Self { number: header.place.number, salt: header.salt, epoch: header.epoch, head }
    }

    /// The segment that begins the next epoch.
    fn marker(&self) -> Header {
        Header {
            place: stored::Place { number: self.number + 1, first: self.head.next() },
            commits: 0,
            salt: rand::random(),
            epoch: self.epoch + 1,
            previous_salt: self.salt,
        }
    }
}

/// All segments that are there, in order.
async fn list(place: &Place) -> Result<Vec<(stored::Place, u64)>, Error> {
    let listed = place.list().await.map_err(|e| Error::io("list", "*.log", failed(e)))?;
    let parse = |(name, bytes): (String, u64)| Some((stored::Place::parse(&name)?, bytes));
    let mut listed: Vec<_> = listed.into_iter().filter_map(parse).collect();
    listed.sort();
    Ok(listed)
}

/// The unbroken row of segments that ends at the last one, and the names of those with commits that
/// lie before it.
fn row(listed: &[(stored::Place, u64)], head: Lsn) -> Result<(VecDeque<Held>, Vec<String>), Error> {
    let mut held = VecDeque::new();
    let mut unwanted = Vec::new();
    let mut next: Option<stored::Place> = None;
    let mut broken = false;
    for &(place, bytes) in listed.iter().rev() {
        broken |= next.is_some_and(|next| place.number + 1 != next.number);
        let marker = bytes == HEADER_BYTES as u64;
        if broken {
            if !marker {
                unwanted.push(place.name());
            }
            continue;
        }
        let last = next.map_or(head, |next| next.first.previous());
        if place.first > last.next() || (marker && place.first != last.next()) {
            let reason = format!("the segment after it begins with commit {}", last.next());
            return Err(Error::corrupt(&place.name(), 0, reason));
        }
        if !marker {
            held.push_front(Held { place, bytes, last });
        }
        next = Some(place);
    }
    Ok((held, unwanted))
}

impl Log for ObjectLog {
    fn append(&self, group: &[Commit]) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        writer.healthy()?;
        let mut expected = writer.head;
        for commit in group {
            expected = expected.next();
            if commit.lsn != expected {
                return Err(Error::NotConsecutive { expected, found: commit.lsn });
            }
            frame::check(commit)?;
        }
        if group.is_empty() {
            return Ok(());
        }
        let held = self.put(&mut writer, group)?;
        writer.head = held.last;
        let mut state = self.state.lock();
        state.segments.push_back(held);
        state.newest = held.place.number;
        group.iter().for_each(|commit| state.ring.push(commit.clone()));
        state.head = held.last;
        drop(state);
        self.grown.notify_all();
        Ok(())
    }

    fn head(&self) -> Lsn {
        self.state.lock().head
    }

    fn start(&self) -> Lsn {
        self.state.lock().start()
    }

    fn bytes(&self) -> u64 {
        self.state.lock().segments.iter().map(|segment| segment.bytes).sum()
    }

    fn read(&self, after: Lsn, max_bytes: usize) -> Result<Vec<Commit>, Error> {
        let state = self.state.lock();
        if after >= state.head {
            return Ok(Vec::new());
        }
        let next = after.next();
        if next < state.start() {
            return Err(Error::Trimmed { start: state.start() });
        }
        if let Some(commits) = state.ring.read(next, max_bytes) {
            return Ok(commits);
        }
        drop(state);
        self.read_segments(next, max_bytes)
    }

    fn trim(&self, through: Lsn) -> Result<(), Error> {
        let mut unwanted = self.unwanted.lock();
        let mut state = self.state.lock();
        let newest = state.newest;
        // The last segment of all stays: it says where the head is.
        while let Some(oldest) = state.segments.front()
            && oldest.last <= through
            && oldest.place.number < newest
        {
            unwanted.push(oldest.place.name());
            state.segments.pop_front();
        }
        drop(state);
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
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.state.lock();
        while state.head <= after {
            match deadline {
                Some(deadline) if self.grown.wait_until(&mut state, deadline).timed_out() => break,
                Some(_) => {}
                None => self.grown.wait(&mut state),
            }
        }
        state.head
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
