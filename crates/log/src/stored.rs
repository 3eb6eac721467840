//! Segments as objects: names, headers, and whole segments as bytes.
//!
//! ```text
//! 00000000000000000042-0000000007.log = the first LSN that comes in it, and its number
//!
//! header, 64 bytes, little endian, then frames (see `frame.rs`)
//! 0   magic "KAPLANOB"
//! 8   format version     u32      12  number of commits  u32
//! 16  first LSN          u64
//! 24  salt               u64      random; also what tells two writers' bytes apart
//! 32  number of the segment       u64
//! 40  epoch of the writer         u64
//! 48  salt of the segment before  u64, 0 if this is the first ever
//! 56  zero, 4 bytes
//! 60  CRC32C of the 60 bytes above   u32
//! ```
//!
//! A segment without commits, which has exactly the header's length, begins an epoch. Objects are
//! whole or absent, so anything else than a header and its commits is damage.

use crate::frame::{self, HEADER_BYTES as FRAME_HEADER_BYTES};
use crate::{Commit, Error};
use bytes::{Buf, Bytes};
use kaplan_base::Lsn;

/// Length of a segment's header.
pub(crate) const HEADER_BYTES: usize = 64;
/// The format that this program writes and reads.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"KAPLANOB";
const SUFFIX: &str = ".log";
const LSN_DIGITS: usize = 20;
const NUMBER_DIGITS: usize = 10;

/// Where a segment stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Counts segments, from 1, without a gap.
    pub number: u64,
    /// The LSN that its first commit has, or would have.
    pub first: Lsn,
}

impl Place {
    pub fn name(self) -> String {
        format!("{:0LSN_DIGITS$}-{:0NUMBER_DIGITS$}{SUFFIX}", self.first.0, self.number)
    }

    /// The place that a name stands for, if it is a segment's.
    pub fn parse(name: &str) -> Option<Self> {
        let (first, number) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if first.len() != LSN_DIGITS || number.len() != NUMBER_DIGITS {
            return None;
        }
        let valid = digits(first) && digits(number);
        valid.then_some(Self { number: number.parse().ok()?, first: Lsn(first.parse().ok()?) })
    }
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub place: Place,
    pub commits: u32,
    pub salt: u64,
    pub epoch: u64,
    pub previous_salt: u64,
}

impl Header {
    fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.commits.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.place.first.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.place.number.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.previous_salt.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of the object that should be the segment at `place`.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Header, Error> {
        let corrupt = |reason: &str| Error::corrupt(&place.name(), 0, reason);
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err(corrupt("the object's header is cut off"));
        };
        if bytes[..8] != MAGIC {
            return Err(corrupt("this is not a log segment"));
        }
        let mut rest = &bytes[8..];
        let found = rest.get_u32_le();
        let commits = rest.get_u32_le();
        let first = Lsn(rest.get_u64_le());
        let (salt, number) = (rest.get_u64_le(), rest.get_u64_le());
        let (epoch, previous_salt) = (rest.get_u64_le(), rest.get_u64_le());
        rest.advance(4);
        if rest.get_u32_le() != crc32c::crc32c(&bytes[..60]) {
            return Err(corrupt("the checksum of the object's header does not match"));
        }
        if found != VERSION {
            return Err(Error::Version { file: place.name(), found, supported: VERSION });
        }
        if (Place { number, first }) != place {
            let reason = format!("the header says that it is segment {number} from commit {first}");
            return Err(corrupt(&reason));
        }
        Ok(Header { place, commits, salt, epoch, previous_salt })
    }
}

/// The bytes of a segment; the commits passed [`frame::check_group`].
pub(crate) fn encode(header: Header, commits: &[Commit]) -> Bytes {
    let frames = commits.iter().map(frame::len).sum::<usize>();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + frames);
    bytes.extend_from_slice(&header.encode());
    for commit in commits {
        let at = bytes.len() as u64;
        frame::encode(commit, at, header.salt, &mut bytes);
    }
    bytes.into()
}

/// The header and the commits of a whole segment.
pub(crate) fn decode(bytes: &Bytes, place: Place) -> Result<(Header, Vec<Commit>), Error> {
    let header = Header::decode(bytes, place)?;
    let name = place.name();
    let mut commits: Vec<Commit> = Vec::new();
    let mut at = HEADER_BYTES;
    let mut next = place.first;
    while at < bytes.len() {
        let corrupt = |reason: &str| Error::corrupt(&name, at as u64, reason);
        let frame = frame::Header::decode(&bytes[at..], header.salt).map_err(corrupt)?;
        if frame.lsn != next {
            return Err(corrupt(&format!("commit {} is where {next} must be", frame.lsn)));
        }
        let end = at + frame.frame_len();
        if end > bytes.len() {
            return Err(corrupt("the frame is cut off"));
        }
        let body = bytes.slice(at + FRAME_HEADER_BYTES..end);
        commits.push(frame::decode(frame, body).map_err(corrupt)?);
        (at, next) = (end, next.next());
    }
    if commits.len() != header.commits as usize {
        let reason = format!("{} commits are there of {}", commits.len(), header.commits);
        return Err(Error::corrupt(&name, at as u64, reason));
    }
    Ok((header, commits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::sample;

    fn segment() -> (Place, Bytes) {
        let commits: Vec<Commit> = (42..47).map(|lsn| sample(lsn, 90)).collect();
        let place = Place { number: 7, first: Lsn(42) };
        let header = Header { place, commits: 5, salt: 99, epoch: 3, previous_salt: 98 };
        let bytes = encode(header, &commits);
        assert_eq!(decode(&bytes, place).unwrap(), (header, commits));
        (place, bytes)
    }

    #[test]
    fn names_are_read_back_and_sort_by_position() {
        let place = Place { number: 7, first: Lsn(42) };
        assert_eq!(place.name(), "00000000000000000042-0000000007.log");
        assert_eq!(Place::parse(&place.name()), Some(place));
        assert!(place.name() < Place { number: 8, first: Lsn(42) }.name());
        assert!(place.name() < Place { number: 8, first: Lsn(100) }.name());
        for other in ["", "42-7.log", "durable", "0000000000000000004x-0000000007.log"] {
            assert_eq!(Place::parse(other), None, "{other}");
        }
    }

    #[test]
    fn flipped_bits_cut_ends_and_other_places_are_noticed() {
        let (place, bytes) = segment();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad.into(), place).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes.slice(..len), place).is_err(), "{len} bytes");
        }
        assert!(decode(&bytes, Place { number: 8, ..place }).is_err());
    }
}
