//! Records of the log's topic as bytes, and commits put together from them.
//!
//! ```text
//! value of a record, little endian; it has no key
//! 0   magic "KAPLANKL"
//! 8   format version  u32        12  part    u32      the first one is 0
//! 16  parts  u32, 0 in a marker  20  zero, 4 bytes
//! 24  id of the log   u64
//! 32  epoch  u64                 40  lsn     u64      both 0 in a marker
//! 48  CRC32C of the content  u32
//! 52  CRC32C of the 52 bytes above  u32
//! 56  content: this part of the commit's frame (see `frame.rs`), whose salt is the log's id
//! ```
//!
//! A marker begins an epoch, one above the epoch before it. Commits say theirs, so that it is known
//! also when the records before them are gone.
//!
//! Anything in a topic may be damaged or somebody else's: nothing is allocated that the bytes at hand
//! do not pay for, and a commit never grows past what one may have.

use crate::frame::{self, HEADER_BYTES as FRAME_HEADER_BYTES};
use crate::{Commit, Error};
use bytes::{Buf, Bytes};
use kaplan_base::Lsn;
use kaplan_base::limits::MAX_COMMIT_BYTES;

/// Length of a record's header.
pub(crate) const HEADER_BYTES: usize = 56;
/// The format that this program writes and reads.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"KAPLANKL";
/// The longest frame.
const MAX_FRAME_BYTES: usize = FRAME_HEADER_BYTES + MAX_COMMIT_BYTES;

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub part: u32,
    /// How many parts the commit has; 0 in a marker.
    pub parts: u32,
    pub log: u64,
    pub epoch: u64,
    pub lsn: Lsn,
}

impl Header {
    /// The record that begins an epoch.
    pub fn marker(log: u64) -> Self {
        Self { part: 0, parts: 0, log, epoch: 0, lsn: Lsn(0) }
    }

    /// The record's value.
    pub fn encode(self, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.part.to_le_bytes());
        bytes.extend_from_slice(&self.parts.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.log.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.lsn.0.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.extend_from_slice(content);
        bytes
    }

    /// Header and content of a record's value.
    pub fn decode(value: &[u8]) -> Result<(Header, &[u8]), String> {
        if !value.starts_with(&MAGIC) {
            return Err("it is not a record of Kaplan's log; somebody else wrote it".to_owned());
        }
        let Some((header, content)) = value.split_at_checked(HEADER_BYTES) else {
            return Err("it is cut off".to_owned());
        };
        let mut rest = &header[8..];
        let version = rest.get_u32_le();
        let (part, parts, zero) = (rest.get_u32_le(), rest.get_u32_le(), rest.get_u32_le());
        let (log, epoch, lsn) = (rest.get_u64_le(), rest.get_u64_le(), Lsn(rest.get_u64_le()));
        let (content_crc, crc) = (rest.get_u32_le(), rest.get_u32_le());
        if crc != crc32c::crc32c(&header[..HEADER_BYTES - 4]) {
            return Err("the checksum of its header does not match".to_owned());
        }
        if version != VERSION {
            return Err(format!("it has format {version}, and this program reads {VERSION}"));
        }
        if content_crc != crc32c::crc32c(content) {
            return Err("the checksum of its content does not match".to_owned());
        }
        let marker = part == 0 && epoch == 0 && lsn == Lsn(0) && content.is_empty();
        let sane = |number: u64| number > 0 && i64::try_from(number).is_ok();
        let of_commit = part < parts && sane(epoch) && sane(lsn.0) && !content.is_empty();
        if zero != 0 || !(if parts == 0 { marker } else { of_commit }) {
            return Err("its header makes no sense".to_owned());
        }
        Ok((Header { part, parts, log, epoch, lsn }, content))
    }
}

/// The values of a commit's records; the commit passed [`frame::check_group`].
pub(crate) fn encode(commit: &Commit, epoch: u64, log: u64, part_bytes: usize) -> Vec<Vec<u8>> {
    let mut bytes = Vec::with_capacity(frame::len(commit));
    frame::encode(commit, 0, log, &mut bytes);
    let parts = bytes.len().div_ceil(part_bytes) as u32;
    let header = |part| Header { part, parts, log, epoch, lsn: commit.lsn };
    (0..)
        .zip(bytes.chunks(part_bytes))
        .map(|(part, content)| header(part).encode(content))
        .collect()
}

/// What a record completes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A marker.
    Epoch,
    /// A commit, and the offset of its first record.
    Commit(Commit, i64),
}

/// Puts records, read in order, together.
pub(crate) struct Assembler {
    topic: String,
    log: u64,
    /// The epoch of the last record, if it is known.
    epoch: Option<u64>,
    /// The last commit.
    last: Option<Lsn>,
    /// Whether a commit may have lost its first parts: nothing before it was read.
    fresh: bool,
    partial: Option<Partial>,
}

/// A commit of which parts are missing.
struct Partial {
    header: Header,
    offset: i64,
    bytes: Vec<u8>,
}

impl Assembler {
    /// For records from the beginning of what is left of the topic; `epoch` is the one before the first
    /// record, where that is known.
    pub fn new(topic: &str, log: u64, epoch: Option<u64>) -> Self {
        let topic = topic.to_owned();
        Self { topic, log, epoch, last: None, fresh: true, partial: None }
    }

    /// For records from a commit on.
    pub fn from(topic: &str, log: u64, commit: Lsn) -> Self {
        let last = Some(commit.previous());
        Self { last, fresh: false, ..Self::new(topic, log, None) }
    }

    /// The last epoch that was begun, if the topic still says which.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// The last commit, if one was read.
    pub fn last(&self) -> Option<Lsn> {
        self.last
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// [`Error::Record`] when it does not continue the log.
    pub fn push(&mut self, offset: i64, value: Option<&[u8]>) -> Result<Option<Found>, Error> {
        self.take(offset, value).map_err(|reason| Error::Record {
            topic: self.topic.clone(),
            offset,
            reason,
        })
    }

    fn take(&mut self, offset: i64, value: Option<&[u8]>) -> Result<Option<Found>, String> {
        let (header, content) = Header::decode(value.unwrap_or_default())?;
        if header.log != self.log {
            return Err(format!(
                "it belongs to the log {:016x}, and this one is {:016x}",
                header.log, self.log
            ));
        }
        if header.parts == 0 {
            self.whole_before()?;
            self.fresh = false;
            self.epoch = self.epoch.map(|epoch| epoch + 1);
            return Ok(Some(Found::Epoch));
        }
        if self.epoch.is_some_and(|epoch| epoch != header.epoch) {
            let found = self.epoch.unwrap_or_default();
            return Err(format!("it is of epoch {}, and epoch {found} was begun", header.epoch));
        }
        self.epoch = Some(header.epoch);
        if header.part == 0 {
            return self.begin(header, offset, content);
        }
        let Some(partial) = &mut self.partial else {
            if self.fresh && self.last.is_none_or(|last| last == header.lsn) {
                // What is left of a commit that was trimmed.
                self.last = Some(header.lsn);
                return Ok(None);
            }
            return Err(format!("the first part of commit {} is missing", header.lsn));
        };
        let next = Header { part: partial.header.part + 1, ..partial.header };
        if header != next {
            return Err(format!(
                "part {} of commit {} is where part {} of commit {} must be",
                header.part, header.lsn, next.part, next.lsn
            ));
        }
        partial.header = header;
        if partial.bytes.len() + content.len() > MAX_FRAME_BYTES {
            return Err("the commit is longer than one may be".to_owned());
        }
        partial.bytes.extend_from_slice(content);
        self.complete()
    }

    fn begin(
        &mut self,
        header: Header,
        offset: i64,
        content: &[u8],
    ) -> Result<Option<Found>, String> {
        self.whole_before()?;
        if let Some(next) = self.last.map(Lsn::next)
            && next != header.lsn
        {
            return Err(format!("commit {} is where commit {next} must be", header.lsn));
        }
        self.fresh = false;
        self.partial = Some(Partial { header, offset, bytes: content.to_vec() });
        self.complete()
    }

    fn whole_before(&self) -> Result<(), String> {
        match &self.partial {
            Some(partial) => Err(format!(
                "part {} of commit {} must be here",
                partial.header.part + 1,
                partial.header.lsn
            )),
            None => Ok(()),
        }
    }

    /// The commit, if all of its parts are there.
    fn complete(&mut self) -> Result<Option<Found>, String> {
        let last = |partial: &mut Partial| partial.header.part + 1 == partial.header.parts;
        let Some(partial) = self.partial.take_if(last) else { return Ok(None) };
        let bytes = Bytes::from(partial.bytes);
        let header = frame::Header::decode(&bytes, self.log)?;
        if header.frame_len() != bytes.len() || header.lsn != partial.header.lsn {
            return Err(format!("its parts are not those of commit {}", partial.header.lsn));
        }
        let commit = frame::decode(header, bytes.slice(FRAME_HEADER_BYTES..))?;
        self.last = Some(commit.lsn);
        Ok(Some(Found::Commit(commit, partial.offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::sample;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const LOG: u64 = 0x1234;

    /// Marker, commits 1 to 3, marker, commit 4, each cut into parts of 40 bytes.
    fn records() -> Vec<Vec<u8>> {
        let marker = || vec![Header::marker(LOG).encode(&[])];
        let commit = |lsn, epoch| encode(&sample(lsn, 90), epoch, LOG, 40);
        [marker(), commit(1, 1), commit(2, 1), commit(3, 1), marker(), commit(4, 2)].concat()
    }

    fn assemble(from: &mut Assembler, records: &[Vec<u8>]) -> Result<Vec<Commit>, Error> {
        let mut commits = Vec::new();
        for (offset, record) in (0..).zip(records) {
            if let Some(Found::Commit(commit, _)) = from.push(offset, Some(record))? {
                commits.push(commit);
            }
        }
        Ok(commits)
    }

    fn whole() -> Assembler {
        Assembler::new("t", LOG, Some(0))
    }

    #[test]
    fn commits_are_put_together_and_epochs_counted() {
        let mut assembler = whole();
        let commits = assemble(&mut assembler, &records()).unwrap();
        assert_eq!(commits, (1..=4).map(|lsn| sample(lsn, 90)).collect::<Vec<_>>());
        assert_eq!((assembler.epoch(), assembler.last()), (Some(2), Some(Lsn(4))));
    }

    /// Wherever the beginning was cut off, what is left is read, and the epoch is known.
    #[test]
    fn a_topic_that_lost_its_beginning_is_read_from_the_first_whole_commit() {
        let records = records();
        for cut in 1..records.len() {
            let mut assembler = Assembler::new("t", LOG, None);
            let commits = assemble(&mut assembler, &records[cut..]).unwrap();
            assert_eq!((assembler.epoch(), assembler.last()), (Some(2), Some(Lsn(4))), "{cut}");
            let first = 5 - commits.len() as u64;
            assert_eq!(commits, (first..=4).map(|lsn| sample(lsn, 90)).collect::<Vec<_>>());
        }
    }

    /// Any record taken out, doubled or moved is noticed, unless it is at the end.
    #[test]
    fn gaps_and_doubles_are_refused() {
        let records = records();
        for at in 0..records.len() - 1 {
            let mut missing = records.clone();
            missing.remove(at);
            let mut doubled = records.clone();
            doubled.insert(at, records[at].clone());
            let marker = Header::decode(&records[at]).unwrap().0.parts == 0;
            assert!(assemble(&mut whole(), &missing).is_err(), "without {at}");
            assert!(marker || assemble(&mut whole(), &doubled).is_err(), "{at} twice");
        }
        let foreign = Header::marker(LOG + 1).encode(&[]);
        for record in [b"hello".to_vec(), Vec::new(), foreign] {
            let refused = whole().push(17, Some(&record)).unwrap_err();
            assert!(matches!(refused, Error::Record { offset: 17, .. }), "{refused}");
        }
        assert!(whole().push(17, None).is_err());
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let records = records();
        for at in 0..records.len() {
            for bit in 0..records[at].len() * 8 {
                let mut bad = records.clone();
                bad[at][bit / 8] ^= 1 << (bit % 8);
                assert!(assemble(&mut whole(), &bad).is_err(), "record {at}, bit {bit}");
            }
        }
    }

    /// Headers whose checksums hold but whose contents are hostile neither panic nor make a commit.
    #[test]
    fn hostile_records_are_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let number = |rng: &mut ChaCha8Rng| match rng.random_range(0..4) {
            0 => 0,
            1 => rng.random_range(0..4),
            2 => u32::MAX,
            _ => rng.random(),
        };
        for _ in 0..20_000 {
            let mut assembler = whole();
            assembler.push(0, Some(&Header::marker(LOG).encode(&[]))).unwrap();
            for offset in 1..5 {
                let header = Header {
                    part: number(&mut rng),
                    parts: number(&mut rng),
                    log: LOG,
                    epoch: 1,
                    lsn: Lsn(1),
                };
                let content = vec![rng.random(); rng.random_range(0..100)];
                match assembler.push(offset, Some(&header.encode(&content))) {
                    Ok(found) => assert!(!matches!(found, Some(Found::Commit(..)))),
                    Err(_) => break,
                }
            }
        }
    }
}
