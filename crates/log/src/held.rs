//! The segments of a log in a bucket as a reader holds them: what is there, in order, the newest
//! commits in memory, and the rest fetched when it is asked for. Shared by the log's writer and its
//! followers.
//!
//! Invariant: the segments are an unbroken row that ends at the head. Objects that are gone meanwhile
//! were trimmed; nothing is skipped in silence.

use crate::ring::Ring;
use crate::stored::{self, HEADER_BYTES, Header};
use crate::{Commit, Error, frame};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use kaplan_base::Lsn;
use kaplan_store::{Place, wait};
use object_store::ObjectStoreExt;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Segments fetched at once.
const READ_AHEAD: usize = 16;

/// A segment that holds commits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub place: stored::Place,
    pub bytes: u64,
    /// Its last commit.
    pub last: Lsn,
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

/// The segments that are held.
pub(crate) struct Segments {
    place: Place,
    cache_bytes: usize,
    state: Mutex<State>,
    grown: Condvar,
    /// The segment read last, for those who read it page by page.
    read: Mutex<Option<(u64, Arc<Vec<Commit>>)>>,
}

impl Segments {
    /// The row that ends at `head` in segment `newest`.
    pub fn new(
        place: &Place,
        segments: VecDeque<Held>,
        (head, newest): (Lsn, u64),
        cache_bytes: usize,
    ) -> Self {
        let state = State { head, newest, segments, ring: Ring::new(cache_bytes) };
        Self {
            place: place.clone(),
            cache_bytes,
            state: Mutex::new(state),
            grown: Condvar::new(),
            read: Mutex::default(),
        }
    }

    /// Adds the next segment and its commits; one without commits only has a number.
    pub fn push(&self, held: Held, commits: &[Commit]) {
        let mut state = self.state.lock();
        state.newest = held.place.number;
        if !commits.is_empty() {
            state.segments.push_back(held);
            commits.iter().for_each(|commit| state.ring.push(commit.clone()));
            state.head = held.last;
        }
        drop(state);
        self.grown.notify_all();
    }

    /// Holds another row, which ends later.
    pub fn replace(&self, segments: VecDeque<Held>, (head, newest): (Lsn, u64)) {
        let ring = Ring::new(self.cache_bytes);
        *self.state.lock() = State { head, newest, segments, ring };
        self.grown.notify_all();
    }

    /// Lets go of segments that end at or before `through`, but never of the last of all, which says
    /// where the head is; returns their names.
    pub fn let_go(&self, through: Lsn) -> Vec<String> {
        let mut state = self.state.lock();
        let (newest, mut names) = (state.newest, Vec::new());
        while let Some(oldest) = state.segments.front()
            && oldest.last <= through
            && oldest.place.number < newest
        {
            names.push(oldest.place.name());
            state.segments.pop_front();
        }
        names
    }

    pub fn head(&self) -> Lsn {
        self.state.lock().head
    }

    pub fn start(&self) -> Lsn {
        self.state.lock().start()
    }

    pub fn bytes(&self) -> u64 {
        self.state.lock().segments.iter().map(|segment| segment.bytes).sum()
    }

    /// See [`crate::Log::wait`].
    pub fn wait(&self, after: Lsn, timeout: Duration) -> Lsn {
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

    /// See [`crate::Log::read`].
    pub fn read(&self, after: Lsn, max_bytes: usize) -> Result<Vec<Commit>, Error> {
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

    /// Checks the newest commits, and keeps them for readers.
    pub fn read_newest(&self) -> Result<(), Error> {
        let Some(last) = self.state.lock().segments.back().copied() else { return Ok(()) };
        let commits = self.segments(&[last])?;
        let mut state = self.state.lock();
        commits.iter().flat_map(|c| c.iter()).for_each(|c| state.ring.push(c.clone()));
        Ok(())
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

pub(crate) fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

/// Runs work with the store to its end.
pub(crate) fn run<T: Send + 'static>(
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

pub(crate) async fn header(place: &Place, segment: stored::Place) -> Result<Header, Error> {
    let name = segment.name();
    let found = place.store().get_range(&place.object(&name), 0..HEADER_BYTES as u64).await;
    let found = found.map_err(|e| Error::io("read", &name, failed(e)))?;
    Header::decode(&found, segment)
}

/// The last segment, after which the next one comes; number zero in an empty place.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub number: u64,
    pub salt: u64,
    pub epoch: u64,
    pub head: Lsn,
}

impl End {
    /// The end of what is there; before the first segment, `first` is the next LSN.
    pub fn look(place: &Place, first: Lsn) -> Result<Self, Error> {
        let place = place.clone();
        run("list", async move {
            let listed = list(&place).await?;
            let Some((last, _)) = listed.last() else {
                return Ok(Self { number: 0, salt: 0, epoch: 0, head: first.previous() });
            };
            header(&place, *last).await.map(Self::of)
        })
    }

    pub fn of(header: Header) -> Self {
        let head = Lsn(header.place.first.0 + u64::from(header.commits)).previous();
        Self { number: header.place.number, salt: header.salt, epoch: header.epoch, head }
    }

    /// The segment that begins the next epoch.
    pub fn marker(&self) -> Header {
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
pub(crate) async fn list(place: &Place) -> Result<Vec<(stored::Place, u64)>, Error> {
    let listed = place.list().await.map_err(|e| Error::io("list", "*.log", failed(e)))?;
    let parse = |(name, bytes): (String, u64)| Some((stored::Place::parse(&name)?, bytes));
    let mut listed: Vec<_> = listed.into_iter().filter_map(parse).collect();
    listed.sort();
    Ok(listed)
}

/// The unbroken row of segments that ends at the last one, and the names of those with commits that
/// lie before it.
pub(crate) fn row(
    listed: &[(stored::Place, u64)],
    head: Lsn,
) -> Result<(VecDeque<Held>, Vec<String>), Error> {
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
