//! The file `durable`: how far the log was known to be durable when it was last idle.
//!
//! ```text
//! 0 magic "KAPLANDU"   8 first LSN of the segment  u64   16 offset in it  u64   24 CRC32C  u32
//! ```
//!
//! Invariant: it is replaced as a whole, and only after an fsync of the segment up to the offset,
//! so it never says too much. Saying too little is safe: it only makes the last group look torn
//! where it rotted.

use crate::disk::Disk;
use crate::{Error, disk};
use bytes::Buf;
use kaplan_base::Lsn;
use std::io;

/// The file's name.
pub(crate) const NAME: &str = "durable";
const MAGIC: [u8; 8] = *b"KAPLANDU";
const BYTES: usize = 28;

/// Everything before `offset` in the segment that begins at `segment` is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub segment: Lsn,
    pub offset: u64,
}

impl Mark {
    /// Records the mark durably.
    pub fn write(self, disk: &dyn Disk) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.segment.0.to_le_bytes());
        bytes.extend_from_slice(&self.offset.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        disk::stage(disk, NAME, &bytes)?;
        disk::publish(disk, NAME)
    }

    /// The mark recorded last, if any.
    pub fn read(disk: &dyn Disk) -> Result<Option<Mark>, Error> {
        let file = match disk.open(NAME) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|e| Error::io("open", NAME, e))?,
        };
        let mut bytes = [0; BYTES];
        let len = file.len().map_err(|e| Error::io("measure", NAME, e))?;
        if len == BYTES as u64 {
            file.read_at(0, &mut bytes).map_err(|e| Error::io("read", NAME, e))?;
        }
        let mut rest = &bytes[8..];
        let mark = Mark { segment: Lsn(rest.get_u64_le()), offset: rest.get_u64_le() };
        if bytes[..8] != MAGIC || rest.get_u32_le() != crc32c::crc32c(&bytes[..24]) {
            let reason = "its checksum does not match (this file alone may also be deleted; damage \
                          of the last commits would then pass for a torn write)";
            return Err(Error::corrupt(NAME, 0, reason));
        }
        Ok(Some(mark))
    }
}
