//! One commit as bytes: a frame.
//!
//! ```text
//! header, 32 bytes, little endian            body
//! 0   magic "KFRM"          u32              time_us                 i64
//! 4   length of the body    u32              producer?               u8 (0 or 1), and if 1:
//! 8   lsn                   u64                sequence u64, length u16, id (UTF-8)
//! 16  durable               u64              number of writes        u32, and for each:
//! 24  CRC32C of the body    u32                stream u32, rows u32, watermark? u8 (0 or 1),
//! 28  CRC32C of the         u32                watermark_us i64 (only if 1),
//!     28 bytes above + salt                    length u32, payload
//! ```
//!
//! `durable` is how many bytes of the segment file were known to be durable when the frame was
//! written, so an intact header convicts damage that lies before it. The header's checksum covers
//! the body's, and so the length is believed only when it was written by us. `salt` is the
//! segment's: a payload cannot imitate a frame without knowing it.
//!
//! Decoding treats bytes as hostile: no length is followed past the bytes at hand, and nothing is
//! allocated that the bytes present do not pay for.

use crate::{Commit, Error, MAX_PRODUCER_BYTES, Producer, Write};
use bytes::{Buf, Bytes};
use kaplan_base::limits::MAX_COMMIT_BYTES;
use kaplan_base::{Lsn, StreamId};

/// Length of a frame's header.
pub(crate) const HEADER_BYTES: usize = 32;
/// The first four bytes of every frame.
pub(crate) const MAGIC: [u8; 4] = *b"KFRM";
/// The fewest bytes that one write takes.
const MIN_WRITE_BYTES: usize = 4 + 4 + 1 + 4;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub body_len: u32,
    pub lsn: Lsn,
    pub durable: u64,
    pub body_crc: u32,
}

impl Header {
    fn encode(self, salt: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lsn.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.durable.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = salted(&bytes[..28], salt);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the beginning of `bytes`, if there is an intact one.
    pub fn decode(bytes: &[u8], salt: u64) -> Result<Header, &'static str> {
        let Some(mut rest) = bytes.get(..HEADER_BYTES) else {
            return Err("the frame's header is cut off");
        };
        if rest[..4] != MAGIC {
            return Err("no frame begins here");
        }
        let crc = salted(&rest[..28], salt);
        rest.advance(4);
        let header = Header {
            body_len: rest.get_u32_le(),
            lsn: Lsn(rest.get_u64_le()),
            durable: rest.get_u64_le(),
            body_crc: rest.get_u32_le(),
        };
        if rest.get_u32_le() != crc {
            return Err("the checksum of the frame's header does not match");
        }
        if header.body_len as usize > MAX_COMMIT_BYTES {
            return Err("the frame is longer than a commit may be");
        }
        Ok(header)
    }

    /// Length of the frame, header included.
    pub fn frame_len(self) -> usize {
        HEADER_BYTES + self.body_len as usize
    }
}

fn salted(bytes: &[u8], salt: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(bytes), &salt.to_le_bytes())
}

/// The length of the commit's frame.
pub(crate) fn len(commit: &Commit) -> usize {
    let producer = commit.producer.as_ref().map_or(0, |p| 8 + 2 + p.id.len());
    let write = |w: &Write| {
        MIN_WRITE_BYTES + w.payload.len() + if w.watermark_us.is_some() { 8 } else { 0 }
    };
    HEADER_BYTES + 8 + 1 + producer + 4 + commit.writes.iter().map(write).sum::<usize>()
}

/// Refuses commits that do not continue a log with this head, or that a frame cannot hold.
pub(crate) fn check_group(head: Lsn, group: &[Commit]) -> Result<(), Error> {
    let mut expected = head;
    for commit in group {
        expected = expected.next();
        if commit.lsn != expected {
            return Err(Error::NotConsecutive { expected, found: commit.lsn });
        }
        check(commit)?;
    }
    Ok(())
}

/// Refuses a commit that a frame cannot hold.
fn check(commit: &Commit) -> Result<(), Error> {
    let limit = |what, bytes, limit| {
        if bytes <= limit {
            return Ok(());
        }
        Err(Error::TooLarge { what, lsn: commit.lsn, bytes, limit })
    };
    let id = commit.producer.as_ref().map_or(0, |p| p.id.len());
    limit("the producer's id", id, MAX_PRODUCER_BYTES)?;
    limit("the encoding", len(commit) - HEADER_BYTES, MAX_COMMIT_BYTES)
}

/// Appends the frame of a commit that passed [`check_group`] to `out`.
pub(crate) fn encode(commit: &Commit, durable: u64, salt: u64, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    encode_body(commit, out);
    let body = &out[at + HEADER_BYTES..];
    let header = Header {
        body_len: body.len() as u32,
        lsn: commit.lsn,
        durable,
        body_crc: crc32c::crc32c(body),
    };
    out[at..at + HEADER_BYTES].copy_from_slice(&header.encode(salt));
}

fn encode_body(commit: &Commit, out: &mut Vec<u8>) {
    out.extend_from_slice(&commit.time_us.to_le_bytes());
    out.push(u8::from(commit.producer.is_some()));
    if let Some(producer) = &commit.producer {
        out.extend_from_slice(&producer.sequence.to_le_bytes());
        out.extend_from_slice(&(producer.id.len() as u16).to_le_bytes());
        out.extend_from_slice(producer.id.as_bytes());
    }
    out.extend_from_slice(&(commit.writes.len() as u32).to_le_bytes());
    for write in &commit.writes {
        out.extend_from_slice(&write.stream.0.to_le_bytes());
        out.extend_from_slice(&write.rows.to_le_bytes());
        out.push(u8::from(write.watermark_us.is_some()));
        if let Some(watermark) = write.watermark_us {
            out.extend_from_slice(&watermark.to_le_bytes());
        }
        out.extend_from_slice(&(write.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&write.payload);
    }
}

/// The commit in a frame's body; payloads share the body's memory.
pub(crate) fn decode(header: Header, body: Bytes) -> Result<Commit, &'static str> {
    if crc32c::crc32c(&body) != header.body_crc {
        return Err("the checksum of the commit does not match");
    }
    decode_body(header.lsn, body)
        .ok_or("the commit's encoding is wrong although its checksum holds")
}

fn decode_body(lsn: Lsn, mut body: Bytes) -> Option<Commit> {
    let time_us = body.try_get_i64_le().ok()?;
    let producer = if flag(&mut body)? { Some(decode_producer(&mut body)?) } else { None };
    let count = body.try_get_u32_le().ok()? as usize;
    if count > body.len() / MIN_WRITE_BYTES {
        return None;
    }
    let mut writes = Vec::with_capacity(count);
    for _ in 0..count {
        writes.push(decode_write(&mut body)?);
    }
    body.is_empty().then_some(Commit { lsn, time_us, producer, writes })
}

fn decode_producer(body: &mut Bytes) -> Option<Producer> {
    let sequence = body.try_get_u64_le().ok()?;
    let len = usize::from(body.try_get_u16_le().ok()?);
    if len > MAX_PRODUCER_BYTES {
        return None;
    }
    let id = String::from_utf8(take(body, len)?.to_vec()).ok()?;
    Some(Producer { id, sequence })
}

fn decode_write(body: &mut Bytes) -> Option<Write> {
    let stream = StreamId(body.try_get_u32_le().ok()?);
    let rows = body.try_get_u32_le().ok()?;
    let watermark_us = if flag(body)? { Some(body.try_get_i64_le().ok()?) } else { None };
    let len = body.try_get_u32_le().ok()? as usize;
    Some(Write { stream, rows, watermark_us, payload: take(body, len)? })
}

fn flag(body: &mut Bytes) -> Option<bool> {
    match body.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn take(body: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= body.len()).then(|| body.split_to(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn sample() -> Commit {
        let write = |stream, watermark_us, payload: &'static [u8]| Write {
            stream: StreamId(stream),
            rows: 3,
            watermark_us,
            payload: Bytes::from_static(payload),
        };
        Commit {
            lsn: Lsn(7),
            time_us: -5,
            producer: Some(Producer { id: "gate-ü".into(), sequence: u64::MAX }),
            writes: vec![write(1, None, b""), write(2, Some(i64::MIN), b"payload of the second")],
        }
    }

    #[test]
    fn a_frame_is_read_back_and_has_the_length_foretold() {
        let mut bytes = Vec::new();
        encode(&sample(), 64, 9, &mut bytes);
        assert_eq!(bytes.len(), len(&sample()));
        let header = Header::decode(&bytes, 9).unwrap();
        assert_eq!((header.lsn, header.durable, header.frame_len()), (Lsn(7), 64, bytes.len()));
        let body = Bytes::from(bytes.clone()).slice(HEADER_BYTES..);
        assert_eq!(decode(header, body).unwrap(), sample());
        assert!(Header::decode(&bytes, 8).is_err(), "another segment's salt");
    }

    /// Every flipped bit of a frame is noticed.
    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        encode(&sample(), 64, 9, &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = Header::decode(&bad, 9)
                .and_then(|header| decode(header, Bytes::from(bad).slice(HEADER_BYTES..)));
            assert!(read.is_err(), "bit {bit}");
        }
    }

    /// Bodies whose checksums hold but whose contents are hostile neither panic nor allocate more
    /// than they pay for; whatever decodes encodes to the same bytes.
    #[test]
    fn hostile_bodies_are_refused_or_round_trip() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut original = Vec::new();
        encode_body(&sample(), &mut original);
        let (mut refused, mut read) = (0, 0);
        for _ in 0..50_000 {
            let mut body = original.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..body.len());
                match rng.random_range(0..4) {
                    0 => body[at] = rng.random(),
                    1 => body.truncate(at.max(1)),
                    2 => body.insert(at, rng.random()),
                    _ => body[at] = 0xff,
                }
            }
            match decode_body(Lsn(7), Bytes::from(body.clone())) {
                None => refused += 1,
                Some(commit) => {
                    read += 1;
                    let mut again = Vec::new();
                    encode_body(&commit, &mut again);
                    assert_eq!(again, body);
                }
            }
        }
        assert!(refused > 1_000 && read > 1_000, "{refused} refused, {read} read");
    }
}
