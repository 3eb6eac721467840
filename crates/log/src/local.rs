//! The log in a directory: segment files that are written, rolled, read and trimmed.
//!
//! Invariant: `State` speaks only of durable commits. It changes after the fsync that made them
//! so, and readers look at nothing else; a segment is sealed (rolled) only when all of it is
//! durable. The writer's lock is taken before the state's, and no file is written under the latter.
//!
//! After a failed write, fsync or directory change the writer refuses everything until the log is
//! opened again, since nobody knows then what the disk holds. One failure is harmless and is undone
//! instead: a write that found no space, because nothing was acknowledged on top of it.

use crate::disk::{self, Disk, File, RealDisk};
use crate::mark::Mark;
use crate::recover::{self, Recovery};
use crate::ring::Ring;
use crate::segment::{self, Scan};
use crate::{Commit, Error, Log, frame};
use kaplan_base::Lsn;
use parking_lot::{Condvar, Mutex};
use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a [`LocalLog`] is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// A new segment is begun when the current one would grow past this many bytes (default
    /// 64 MiB). Trimming frees whole segments, so it is also how much is kept too long.
    pub segment_bytes: u64,
    /// How many bytes of the newest commits are kept in memory for readers (default 64 MiB).
    pub cache_bytes: usize,
    /// The LSN that the first commit gets in an empty directory (default 1), so that the head is
    /// the one before it. Ignored where there are segments.
    pub first_lsn: Lsn,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, cache_bytes: 64 << 20, first_lsn: Lsn(1) }
    }
}

/// One segment file, as far as it is durable.
pub(crate) struct Segment {
    pub first: Lsn,
    pub salt: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Places of some frames, in order, about [`segment::READ_BYTES`] apart.
    pub index: Vec<(Lsn, u64)>,
}

impl Segment {
    pub fn new(first: Lsn, salt: u64, len: u64) -> Self {
        Self { first, salt, len, index: vec![(first, segment::HEADER_BYTES)] }
    }

    /// Remembers the place of a frame, if it is far enough behind the last one remembered.
    pub fn note(&mut self, lsn: Lsn, offset: u64) {
        let last = self.index.last().map_or(0, |(_, last)| *last);
        if offset >= last + segment::READ_BYTES as u64 {
            self.index.push((lsn, offset));
        }
    }

    /// The nearest remembered place at or before `lsn`.
    fn near(&self, lsn: Lsn) -> (Lsn, u64) {
        let after = self.index.partition_point(|(known, _)| *known <= lsn);
        self.index[after.saturating_sub(1)]
    }
}

/// What only the appending thread changes.
pub(crate) struct Writer {
    pub file: Arc<dyn File>,
    pub segment: Lsn,
    pub salt: u64,
    /// The durable length of the segment, where the next frame goes.
    pub end: u64,
    pub head: Lsn,
    pub marked: Option<Mark>,
    pub poison: Option<String>,
}

impl Writer {
    fn healthy(&self) -> Result<(), Error> {
        match &self.poison {
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn fail(&mut self, action: &'static str, may_have_happened: bool, source: io::Error) -> Error {
        let file = segment::name(self.segment);
        let error = Error::Failed { action, file, may_have_happened, source };
        self.poison = Some(error.to_string());
        error
    }

    fn disk_full(&self, bytes: u64, source: io::Error) -> Error {
        Error::DiskFull { file: segment::name(self.segment), bytes, source }
    }
}

/// What readers see.
pub(crate) struct State {
    pub head: Lsn,
    /// In order; the last one is active, and there always is one.
    pub segments: VecDeque<Segment>,
    pub ring: Ring,
}

impl State {
    fn start(&self) -> Lsn {
        self.segments.front().map_or(self.head.next(), |segment| segment.first)
    }

    fn segment_of(&self, lsn: Lsn) -> Option<usize> {
        self.segments.partition_point(|segment| segment.first <= lsn).checked_sub(1)
    }
}

/// The log in one directory, which it locks while it is open.
pub struct LocalLog {
    disk: Arc<dyn Disk>,
    options: Options,
    writer: Mutex<Writer>,
    state: Mutex<State>,
    grown: Condvar,
    recovery: Recovery,
    _lock: Box<dyn Any + Send + Sync>,
}

impl LocalLog {
    /// Opens the log in `dir`, which is created if it does not exist.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Corrupt`], [`Error::Version`], [`Error::Io`],
    /// [`Error::DiskFull`].
    pub fn open(dir: &Path, options: Options) -> Result<LocalLog, Error> {
        let shown = dir.display().to_string();
        let disk = RealDisk::open(dir).map_err(|e| Error::io("create", &shown, e))?;
        Self::open_on(Arc::new(disk), options)
    }

    /// Opens the log on `disk`.
    ///
    /// # Errors
    /// As [`LocalLog::open`].
    pub fn open_on(disk: Arc<dyn Disk>, options: Options) -> Result<LocalLog, Error> {
        let lock = disk.lock().map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => Error::Locked,
            _ => Error::io("lock", "lock", e),
        })?;
        let (writer, state, recovery) = recover::recover(&*disk, &options)?;
        let (writer, state) = (Mutex::new(writer), Mutex::new(state));
        Ok(Self { disk, options, writer, state, grown: Condvar::new(), recovery, _lock: lock })
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Seals the active segment and begins the next one.
    fn roll(&self, writer: &mut Writer) -> Result<(), Error> {
        let first = writer.head.next();
        let (previous, previous_len) = (writer.segment, writer.end);
        let header = segment::Header { first, salt: self.disk.nonce(), previous, previous_len };
        let name = segment::name(first);
        match disk::stage(&*self.disk, &name, &header.encode()) {
            // The staged file is nobody's yet: the active segment goes on, and the next append
            // tries to roll again.
            Err(e) if disk::is_full(&e) => return Err(writer.disk_full(segment::HEADER_BYTES, e)),
            Err(e) => return Err(writer.fail("begin a segment after", false, e)),
            Ok(()) => {}
        }
        let file = disk::publish(&*self.disk, &name).and_then(|()| self.disk.open(&name));
        writer.file = file.map_err(|e| writer.fail("begin a segment after", false, e))?;
        (writer.segment, writer.salt, writer.end) = (first, header.salt, segment::HEADER_BYTES);
        let segment = Segment::new(first, header.salt, segment::HEADER_BYTES);
        self.state.lock().segments.push_back(segment);
        // An old mark is still true, so failing to renew it costs only a check.
        let _ = self.mark(writer);
        Ok(())
    }

    /// Writes encoded frames behind the durable ones, and makes them durable.
    fn write(&self, writer: &mut Writer, frames: &[u8]) -> Result<(), Error> {
        if let Err(e) = writer.file.write_at(writer.end, frames) {
            let undo = || writer.file.truncate(writer.end).and_then(|()| writer.file.sync());
            if disk::is_full(&e) && undo().is_ok() {
                return Err(writer.disk_full(frames.len() as u64, e));
            }
            return Err(writer.fail("write", true, e));
        }
        writer.file.sync().map_err(|e| writer.fail("sync", true, e))
    }

    /// Shows durable commits to readers.
    fn publish(&self, writer: &mut Writer, group: &[Commit]) {
        let mut state = self.state.lock();
        for commit in group {
            if let Some(active) = state.segments.back_mut() {
                active.note(commit.lsn, writer.end);
                writer.end += frame::len(commit) as u64;
                active.len = writer.end;
            }
            state.ring.push(commit.clone());
            (writer.head, state.head) = (commit.lsn, commit.lsn);
        }
        drop(state);
        self.grown.notify_all();
    }

    fn mark(&self, writer: &mut Writer) -> Result<(), Error> {
        let mark = Mark { segment: writer.segment, offset: writer.end };
        if writer.marked == Some(mark) {
            return Ok(());
        }
        mark.write(&*self.disk).map_err(|e| Error::io("write", crate::mark::NAME, e))?;
        writer.marked = Some(mark);
        Ok(())
    }

    /// Reads from the segment that holds `next` and the ones after it.
    fn read_files(&self, next: Lsn, max_bytes: usize) -> Result<Vec<Commit>, Error> {
        let mut page = Page { commits: Vec::new(), bytes: 0, max_bytes, next };
        while !page.is_full() {
            let done = match self.read_segment(&mut page) {
                Err(Error::Trimmed { .. }) if !page.commits.is_empty() => true,
                done => done?,
            };
            if done {
                break;
            }
        }
        Ok(page.commits)
    }

    /// Adds commits of the one segment that holds the page's next one; true when there is no more
    /// to add.
    fn read_segment(&self, page: &mut Page) -> Result<bool, Error> {
        let Some(Part { name, first, mut scan, last }) = self.part(page.next)? else {
            return Ok(true);
        };
        loop {
            let entry = scan.next().map_err(|fault| fault.at(&name, scan.offset()))?;
            let Some(entry) = entry else { break };
            let (lsn, offset) = (entry.commit.lsn, entry.offset);
            if !page.take(entry.commit, entry.len) {
                return Ok(true);
            }
            let mut state = self.state.lock();
            if let Ok(at) = state.segments.binary_search_by_key(&first, |segment| segment.first) {
                state.segments[at].note(lsn, offset);
            }
        }
        if scan.next_lsn() != last.next() {
            let reason = format!("the commits from {} to {last} are missing", scan.next_lsn());
            return Err(Error::corrupt(&name, scan.offset(), reason));
        }
        Ok(false)
    }

    /// The durable part of the segment that holds `next`; `None` past the head.
    fn part(&self, next: Lsn) -> Result<Option<Part>, Error> {
        let state = self.state.lock();
        if next > state.head {
            return Ok(None);
        }
        let Some(at) = state.segment_of(next) else {
            return Err(Error::Trimmed { start: state.start() });
        };
        let segment = &state.segments[at];
        let last = state.segments.get(at + 1).map_or(state.head, |later| later.first.previous());
        let (first, salt, len) = (segment.first, segment.salt, segment.len);
        let (near, offset) = segment.near(next);
        drop(state);
        let name = segment::name(first);
        match self.disk.open(&name) {
            Ok(file) => {
                let scan = Scan::new(file, salt, near, offset, len);
                Ok(Some(Part { name, first, scan, last }))
            }
            // It may have been trimmed since the lock was released.
            Err(_) if self.start() > next => Err(Error::Trimmed { start: self.start() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::corrupt(&name, 0, "the file is missing"))
            }
            Err(e) => Err(Error::io("open", &name, e)),
        }
    }
}

/// A segment about to be read.
struct Part {
    name: String,
    first: Lsn,
    scan: Scan,
    /// The last commit that it must hold.
    last: Lsn,
}

/// The commits gathered for one read.
struct Page {
    commits: Vec<Commit>,
    bytes: usize,
    max_bytes: usize,
    next: Lsn,
}

impl Page {
    fn is_full(&self) -> bool {
        !self.commits.is_empty() && self.bytes >= self.max_bytes
    }

    /// Adds a commit unless it comes before the page; false when it has no room.
    fn take(&mut self, commit: Commit, bytes: usize) -> bool {
        if commit.lsn < self.next {
            return true;
        }
        if !self.commits.is_empty() && self.bytes + bytes > self.max_bytes {
            return false;
        }
        self.bytes += bytes;
        self.next = commit.lsn.next();
        self.commits.push(commit);
        true
    }
}

impl Log for LocalLog {
    fn append(&self, group: &[Commit]) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        writer.healthy()?;
        frame::check_group(writer.head, group)?;
        if group.is_empty() {
            return Ok(());
        }
        let bytes = group.iter().map(frame::len).sum::<usize>();
        let full = writer.end + bytes as u64 > self.options.segment_bytes;
        if full && writer.end > segment::HEADER_BYTES {
            self.roll(&mut writer)?;
        }
        let mut frames = Vec::with_capacity(bytes);
        for commit in group {
            frame::encode(commit, writer.end, writer.salt, &mut frames);
        }
        self.write(&mut writer, &frames)?;
        self.publish(&mut writer, group);
        Ok(())
    }

    fn head(&self) -> Lsn {
        self.state.lock().head
    }

    fn start(&self) -> Lsn {
        self.state.lock().start()
    }

    fn bytes(&self) -> u64 {
        self.state.lock().segments.iter().map(|segment| segment.len).sum()
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
        self.read_files(next, max_bytes)
    }

    fn trim(&self, through: Lsn) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        writer.healthy()?;
        loop {
            let state = self.state.lock();
            let next = state.segments.get(1).map(|segment| segment.first);
            let oldest = state.start();
            drop(state);
            if next.is_none_or(|next| next.previous() > through) {
                return Ok(());
            }
            let name = segment::name(oldest);
            match self.disk.remove(&name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &name, e));
                }
                _ => {}
            }
            self.state.lock().segments.pop_front();
            // One at a time, so that no crash leaves a hole in the row of segments.
            self.disk.sync_dir().map_err(|e| writer.fail("remove segments before", false, e))?;
        }
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

    fn mark_durable(&self) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        writer.healthy()?;
        self.mark(&mut writer)
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure, and an old mark is still true.
        let _ = self.mark_durable();
    }
}
