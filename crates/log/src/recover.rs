//! Opening: finds the durable commits of a directory, and leaves it as if nothing had been cut off.
//!
//! Invariant: whatever is reported as held is durable when opening returns, no matter what the page
//! cache showed. Bytes past what is *known* to be durable are written again before the fsync,
//! because after a failed fsync the cache may show, as clean, what the disk never got.
//!
//! What is known to be durable is the greatest of the mark and the claims of all intact frame
//! headers of the last segment, those beyond damage included. Damage above it is a torn tail and is
//! cut; damage below it, a gap between segments, or a missing last segment is refused as corrupt.
//! Segments before the last are complete since they were sealed; their contents are checked when
//! they are read, their headers, order and lengths here.

use crate::disk::{self, Disk, File};
use crate::local::{Options, Segment, State, Writer};
use crate::mark::Mark;
use crate::ring::Ring;
use crate::segment::{self, Fault, Header, READ_BYTES, Scan};
use crate::{Error, frame};
use kaplan_base::Lsn;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// What opening a log found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Commits found in the last segment.
    pub commits: u64,
    /// Bytes of a torn tail that were cut off: writes that were never acknowledged.
    pub cut_bytes: u64,
}

/// Opens the log's files, and makes what they hold durable.
pub(crate) fn recover(
    disk: &dyn Disk,
    options: &Options,
) -> Result<(Writer, State, Recovery), Error> {
    let marked = Mark::read(disk)?;
    let firsts = list(disk)?;
    let mut segments = VecDeque::new();
    if firsts.is_empty() {
        segments.push_back(begin(disk, options, marked)?);
    }
    for first in firsts {
        let segment = open_segment(disk, first, segments.back())?;
        segments.push_back(segment);
    }
    let Some(active) = segments.back_mut() else {
        return Err(Error::corrupt("*.log", 0, "there is no segment"));
    };
    let (file, name) = open(disk, active.first)?;
    let mark = match marked {
        Some(mark) if mark.segment > active.first => {
            let reason =
                format!("the file is missing, and {} bytes of it were durable", mark.offset);
            return Err(Error::corrupt(&segment::name(mark.segment), 0, reason));
        }
        Some(mark) if mark.segment == active.first => mark.offset,
        _ => 0,
    };
    let mut tail =
        Tail { file, name, salt: active.salt, durable: mark, ring: Ring::new(options.cache_bytes) };
    let (head, recovery) = tail.recover(active)?;
    disk.sync_dir().map_err(|e| Error::io("sync the directory of", &tail.name, e))?;
    let writer = Writer {
        file: tail.file,
        segment: active.first,
        salt: active.salt,
        end: active.len,
        head,
        marked,
        poison: None,
    };
    Ok((writer, State { head, segments, ring: tail.ring }, recovery))
}

/// The first LSNs of the segments, in order. Files that never got their name are removed.
fn list(disk: &dyn Disk) -> Result<Vec<Lsn>, Error> {
    let names = disk.list().map_err(|e| Error::io("list", "*.log", e))?;
    for name in names.iter().filter(|name| name.ends_with(disk::STAGED)) {
        disk.remove(name).map_err(|e| Error::io("remove", name, e))?;
    }
    let mut firsts: Vec<Lsn> = names.iter().filter_map(|name| segment::parse_name(name)).collect();
    firsts.sort();
    Ok(firsts)
}

/// Creates the first segment of an empty directory.
fn begin(disk: &dyn Disk, options: &Options, marked: Option<Mark>) -> Result<Segment, Error> {
    if let Some(mark) = marked {
        let reason = format!("the file is missing, and {} bytes of it were durable", mark.offset);
        return Err(Error::corrupt(&segment::name(mark.segment), 0, reason));
    }
    let first = options.first_lsn.max(Lsn(1));
    let salt = disk.nonce();
    let header = Header { first, salt, previous: Lsn::ZERO, previous_len: 0 };
    let name = segment::name(first);
    disk::stage(disk, &name, &header.encode())
        .and_then(|()| disk::publish(disk, &name))
        .map_err(|e| write_error("create", &name, segment::HEADER_BYTES, e))?;
    Ok(Segment::new(first, salt, segment::HEADER_BYTES))
}

fn open(disk: &dyn Disk, first: Lsn) -> Result<(Arc<dyn File>, String), Error> {
    let name = segment::name(first);
    let file = disk.open(&name).map_err(|e| Error::io("open", &name, e))?;
    Ok((file, name))
}

/// Reads a segment's header and checks it against the segment before it.
fn open_segment(disk: &dyn Disk, first: Lsn, before: Option<&Segment>) -> Result<Segment, Error> {
    let (file, name) = open(disk, first)?;
    let header = Header::read(&*file, first)?;
    if let Some(before) = before {
        let before_name = segment::name(before.first);
        if header.previous != before.first {
            let missing = segment::name(header.previous);
            let reason = format!("the file is missing; it lay between {before_name} and {name}");
            return Err(Error::corrupt(&missing, 0, reason));
        }
        if header.previous_len != before.len {
            let reason = format!(
                "the file has {} bytes and was sealed with {}",
                before.len, header.previous_len
            );
            return Err(Error::corrupt(&before_name, before.len.min(header.previous_len), reason));
        }
    }
    let len = file.len().map_err(|e| Error::io("measure", &name, e))?;
    Ok(Segment::new(first, header.salt, len))
}

/// The last segment while it is examined.
struct Tail {
    file: Arc<dyn File>,
    name: String,
    salt: u64,
    /// How many bytes are known to be durable.
    durable: u64,
    ring: Ring,
}

impl Tail {
    /// Scans the segment, cuts what is torn, and makes the rest durable.
    fn recover(&mut self, active: &mut Segment) -> Result<(Lsn, Recovery), Error> {
        let len = active.len;
        let at = segment::HEADER_BYTES;
        let mut scan = Scan::new(self.file.clone(), self.salt, active.first, at, len);
        let fault = loop {
            match scan.next() {
                Err(fault) => break Some(fault),
                Ok(None) => break None,
                Ok(Some(entry)) => {
                    self.durable = self.durable.max(entry.durable);
                    active.note(entry.commit.lsn, entry.offset);
                    self.ring.push(entry.commit);
                }
            }
        };
        let end = scan.offset();
        match fault {
            Some(Fault::Io(source)) => return Err(Error::io("read", &self.name, source)),
            Some(Fault::Bad(reason)) => self.check_torn(end, len, &reason)?,
            None if end < self.durable => {
                let reason = format!("the file ends here, and {} bytes were durable", self.durable);
                return Err(Error::corrupt(&self.name, end, reason));
            }
            None => {}
        }
        self.make_durable(end)?;
        active.len = end;
        let commits = scan.next_lsn().0 - active.first.0;
        Ok((scan.next_lsn().previous(), Recovery { commits, cut_bytes: len - end }))
    }

    /// Refuses the damage at `end` unless it lies above all that is known to be durable.
    fn check_torn(&mut self, end: u64, len: u64, reason: &str) -> Result<(), Error> {
        let claimed = self.claims(end, len).map_err(|e| Error::io("read", &self.name, e))?;
        self.durable = self.durable.max(claimed);
        if end < self.durable {
            let reason = format!("{reason}, and {} bytes of the file were durable", self.durable);
            return Err(Error::corrupt(&self.name, end, reason));
        }
        Ok(())
    }

    /// The most that intact frame headers in the bytes `from..len` claim to be durable.
    fn claims(&self, from: u64, len: u64) -> io::Result<u64> {
        let mut most = 0;
        let mut at = from;
        while at + frame::HEADER_BYTES as u64 <= len {
            let mut bytes = vec![0; (len - at).min(READ_BYTES as u64) as usize];
            self.file.read_at(at, &mut bytes)?;
            for (skip, start) in bytes.windows(frame::HEADER_BYTES).enumerate() {
                if start[..4] != frame::MAGIC {
                    continue;
                }
                match frame::Header::decode(start, self.salt) {
                    Ok(header) if header.durable <= at + skip as u64 => {
                        most = most.max(header.durable);
                    }
                    _ => {}
                }
            }
            // A header may lie across the end of what was read.
            at += (bytes.len() - frame::HEADER_BYTES + 1) as u64;
        }
        Ok(most)
    }

    /// Cuts the file to `end`, and makes all of it durable, writing again what may not be.
    ///
    /// It is cut also where it seems to end there already: after a truncation whose sync failed the
    /// page cache shows the short file, and the disk may still have the long one.
    fn make_durable(&self, end: u64) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            self.file.truncate(end)?;
            let mut at = self.durable.max(segment::HEADER_BYTES);
            while at < end {
                let mut bytes = vec![0; (end - at).min(READ_BYTES as u64) as usize];
                self.file.read_at(at, &mut bytes)?;
                self.file.write_at(at, &bytes)?;
                at += bytes.len() as u64;
            }
            self.file.sync()
        };
        write().map_err(|e| write_error("recover", &self.name, end, e))
    }
}

fn write_error(action: &'static str, name: &str, bytes: u64, source: io::Error) -> Error {
    if disk::is_full(&source) {
        return Error::DiskFull { file: name.to_owned(), bytes, source };
    }
    Error::io(action, name, source)
}
