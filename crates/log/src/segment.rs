//! Segment files: names, headers, and the scan over frames.
//!
//! ```text
//! 00000000000000000042.log = the LSN of its first commit, then header and frames
//!
//! header, 64 bytes, little endian
//! 0   magic "KAPLANLG"
//! 8   format version          u32      12  zero   u32
//! 16  first LSN               u64
//! 24  salt of the checksums   u64
//! 32  first LSN of the previous segment, 0 if this is the first ever   u64
//! 40  length of the previous segment when it was sealed                u64
//! 48  zero, 12 bytes
//! 60  CRC32C of the 60 bytes above   u32
//! ```
//!
//! Invariant: a segment gets its name only after its header is durable, so a bad header is always
//! damage. The header also seals the previous segment: its identity and length. The scan hands out
//! intact frames with consecutive LSNs, and stops at the first byte that is anything else.

use crate::disk::File;
use crate::{Commit, Error, frame};
use bytes::{Buf, Bytes};
use kaplan_base::Lsn;
use std::io;
use std::sync::Arc;

/// Length of a segment's header.
pub(crate) const HEADER_BYTES: u64 = 64;
/// The format that this program writes and reads.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"KAPLANLG";
const SUFFIX: &str = ".log";
/// How much a scan reads at once.
pub(crate) const READ_BYTES: usize = 1 << 20;

/// The file name of the segment that begins at `first`.
pub(crate) fn name(first: Lsn) -> String {
    format!("{:020}{SUFFIX}", first.0)
}

/// The first LSN of the segment with this file name, if it is one.
pub(crate) fn parse_name(file: &str) -> Option<Lsn> {
    let digits = file.strip_suffix(SUFFIX)?;
    let valid = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    valid.then(|| digits.parse().ok().map(Lsn))?
}

/// A segment file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub first: Lsn,
    pub salt: u64,
    pub previous: Lsn,
    pub previous_len: u64,
}

impl Header {
    pub fn encode(self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.previous_len.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of `file`, which must be the segment that begins at `first`.
    pub fn read(file: &dyn File, first: Lsn) -> Result<Header, Error> {
        let name = name(first);
        let mut bytes = [0; HEADER_BYTES as usize];
        match file.read_at(0, &mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Error::corrupt(&name, 0, "the file's header is cut off"));
            }
            Err(source) => return Err(Error::io("read", &name, source)),
            Ok(()) => {}
        }
        Header::decode(&bytes, first)
    }

    fn decode(bytes: &[u8; HEADER_BYTES as usize], expected: Lsn) -> Result<Header, Error> {
        let name = name(expected);
        if bytes[..8] != MAGIC {
            return Err(Error::corrupt(&name, 0, "this is not a log segment"));
        }
        let mut rest = &bytes[8..];
        let found = rest.get_u32_le();
        rest.advance(4);
        let first = Lsn(rest.get_u64_le());
        let (salt, previous) = (rest.get_u64_le(), Lsn(rest.get_u64_le()));
        let previous_len = rest.get_u64_le();
        rest.advance(12);
        if rest.get_u32_le() != crc32c::crc32c(&bytes[..60]) {
            let reason = "the checksum of the file's header does not match";
            return Err(Error::corrupt(&name, 0, reason));
        }
        if found != VERSION {
            return Err(Error::Version { file: name, found, supported: VERSION });
        }
        // LSNs fit the lake's signed column; the bound also keeps the count from overflowing.
        if first != expected || first == Lsn::ZERO || i64::try_from(first.0).is_err() {
            let reason = format!("the header says that the segment begins at commit {first}");
            return Err(Error::corrupt(&name, 16, reason));
        }
        Ok(Header { first, salt, previous, previous_len })
    }
}

/// A commit with the place of its frame.
pub(crate) struct Entry {
    pub commit: Commit,
    /// Where the frame begins.
    pub offset: u64,
    /// The frame's length.
    pub len: usize,
    /// What was durable when the frame was written.
    pub durable: u64,
}

/// Why a scan stopped.
pub(crate) enum Fault {
    /// The file could not be read.
    Io(io::Error),
    /// There is no intact frame at the scan's offset.
    Bad(String),
}

impl Fault {
    /// The error where the bytes are known to be durable.
    pub fn at(self, file: &str, offset: u64) -> Error {
        match self {
            Fault::Io(source) => Error::io("read", file, source),
            Fault::Bad(reason) => Error::corrupt(file, offset, reason),
        }
    }
}

/// Reads frames in order, from one offset of a segment file to another.
pub(crate) struct Scan {
    file: Arc<dyn File>,
    salt: u64,
    at: u64,
    end: u64,
    next: Lsn,
    buffer: Bytes,
    buffer_at: u64,
}

impl Scan {
    /// A scan of `file` over the bytes `at..end`, where the first frame must be that of `next`.
    pub fn new(file: Arc<dyn File>, salt: u64, next: Lsn, at: u64, end: u64) -> Self {
        Self { file, salt, at, end, next, buffer: Bytes::new(), buffer_at: at }
    }

    /// Where the next frame begins, or the fault lies.
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// The LSN that the next frame must have.
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The next frame; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Entry>, Fault> {
        if self.at >= self.end {
            return Ok(None);
        }
        let bad = |reason: &str| Fault::Bad(reason.to_owned());
        let bytes = self.peek(frame::HEADER_BYTES)?.ok_or_else(|| bad("a frame is cut off"))?;
        let header = frame::Header::decode(&bytes, self.salt).map_err(bad)?;
        if header.lsn != self.next {
            let (found, next) = (header.lsn, self.next);
            return Err(Fault::Bad(format!("commit {found} stands where {next} must follow")));
        }
        if header.durable > self.at {
            return Err(bad("the frame claims more to be durable than stands before it"));
        }
        let len = header.frame_len();
        let mut bytes = self.peek(len)?.ok_or_else(|| bad("a frame is cut off"))?;
        bytes.advance(frame::HEADER_BYTES);
        let commit = frame::decode(header, bytes).map_err(bad)?;
        let entry = Entry { commit, offset: self.at, len, durable: header.durable };
        self.at += len as u64;
        self.next = self.next.next();
        Ok(Some(entry))
    }

    /// The next `len` bytes; `None` if fewer remain.
    fn peek(&mut self, len: usize) -> Result<Option<Bytes>, Fault> {
        let remaining = self.end - self.at;
        if len as u64 > remaining {
            return Ok(None);
        }
        let skip = usize::try_from(self.at - self.buffer_at).unwrap_or(usize::MAX);
        if self.buffer.len() < skip.saturating_add(len) {
            let want = usize::try_from(remaining).map_or(READ_BYTES, |r| r.min(READ_BYTES));
            let mut bytes = vec![0; want.max(len)];
            match self.file.read_at(self.at, &mut bytes) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(e) => return Err(Fault::Io(e)),
                Ok(()) => {}
            }
            (self.buffer, self.buffer_at) = (Bytes::from(bytes), self.at);
        }
        let skip = (self.at - self.buffer_at) as usize;
        Ok(Some(self.buffer.slice(skip..skip + len)))
    }
}
