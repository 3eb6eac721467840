//! Workers: other processes that take in their share of the commits for views whose parts add up (see
//! `kaplan_speed::crew`). The log is a Kafka topic, which every one of them reads for itself; they are
//! members of one consumer group, in which the brokers deal out the shares.
//!
//! ```text
//! worker  GET  /v1/workers              which topic, which log
//!         POST /v1/workers/{name}/turn  "I have shares 0 and 2"  -> what to do, as soon as there is something
//!         POST /v1/workers/{name}/parts the states of its commits, when it was asked for them
//! ```
//!
//! `desk.rs` is the side of the process that writes, `work.rs` that of the worker. A worker keeps nothing
//! that cannot be lost: the writer takes its commits in again out of the log.

mod desk;
mod work;

pub(crate) use desk::Desk;
pub use work::{Link, WorkerOptions, run};

use crate::{Code, Error, Result};
use bytes::{Buf, Bytes};
use kaplan_base::Lsn;
use kaplan_circuit::{Batch, Delta, decode_batch, encode_batch};
use kaplan_speed::crew::{Part, ViewId};
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The largest answer of a worker, in bytes.
pub const MAX_PARTS_BYTES: usize = 1 << 30;
/// A worker that keeps more than this is asked for it.
const MAX_HELD_BYTES: u64 = 64 << 20;
/// The longest name of a worker.
const MAX_NAME_BYTES: usize = 128;
/// Shares of a group that is begun: the most workers that can share the commits.
const SHARES: u32 = 32;

/// Which log a writer has, for those who read it too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTopic {
    /// The brokers, as the writer calls them.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// The log's id in its records, in hexadecimal digits.
    pub id: String,
}

/// The workers of a platform and their log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Workers {
    /// The log that they read.
    pub log: LogTopic,
    /// Those that were heard of lately.
    pub workers: Vec<WorkerStatus>,
}

/// A worker, as the writer knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// The shares of the commits that it takes in.
    pub shares: Vec<u64>,
    /// How many shares there are.
    pub of: u64,
    /// It keeps what commits after this one have made; None: it takes in nothing now.
    pub since: Option<Lsn>,
    /// Bytes that it keeps.
    pub held_bytes: u64,
    /// What went wrong last.
    pub error: Option<String>,
}

/// What a worker says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// What its states depend on besides the commits; the writer's must be the same.
    pub fingerprint: String,
    /// Tells it from another one of its name.
    pub instance: String,
    /// The shares that the brokers gave it.
    pub shares: Vec<u64>,
    /// How many there are.
    pub of: u64,
    /// Bytes that it keeps.
    pub held_bytes: u64,
    /// Why it cannot do what it was told to; what it had is lost.
    pub error: Option<String>,
}

/// What a worker is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Begin with nothing after a commit.
    Begin {
        /// The commit.
        after: Lsn,
        /// The shares.
        shares: Vec<u64>,
        /// How many there are.
        of: u64,
        /// The views.
        views: Vec<ViewId>,
        /// The definitions.
        catalog: String,
    },
    /// Take in commits up to this one.
    Advance {
        /// The commit.
        to: Lsn,
    },
    /// Send what the commits have made, and go on with nothing.
    Give {
        /// What the answer is called.
        number: u64,
    },
}

/// What it says of one part, before the part's bytes.
#[derive(Serialize, Deserialize)]
struct PartHeader {
    view: ViewId,
    bytes: usize,
}

/// Parts as bytes: for each one the length of a header as u32 LE, the header as JSON, and the rows as a
/// stored batch.
fn encode(parts: Vec<Part>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for Part { view, rows } in parts {
        let stored = encode_batch(&Batch::new(Vec::<u64>::new(), Delta::insert(rows)))?;
        let header = PartHeader { view, bytes: stored.len() };
        let header =
            serde_json::to_vec(&header).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&stored);
    }
    Ok(bytes)
}

/// The parts of [`encode`], out of any bytes.
fn decode(mut bytes: Bytes) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.try_get_u32_le().map_err(|_| "a part is cut off")? as usize;
        if length > bytes.len() {
            return Err("a part's header is cut off".to_owned());
        }
        let header: PartHeader =
            serde_json::from_slice(&bytes.split_to(length)).map_err(|e| e.to_string())?;
        if header.bytes > bytes.len() {
            return Err("a part's rows are cut off".to_owned());
        }
        let stored = bytes.split_to(header.bytes);
        // Arrow's reader may panic at bytes that lie.
        let read = catch_unwind(AssertUnwindSafe(|| decode_batch(0, &stored, None)));
        let batch = read.map_err(|_| "a part's rows cannot be read")?.map_err(|e| e.to_string())?;
        if batch.is_weighted() {
            return Err("a part's rows have weights".to_owned());
        }
        let deltas = batch.deltas().map_err(|e| e.to_string())?;
        let rows = deltas.into_iter().map(|delta| delta.rows);
        parts.extend(rows.map(|rows| Part { view: header.view.clone(), rows }));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::sync::Arc;

    fn part(name: &str, numbers: Vec<i64>) -> Part {
        let texts = StringArray::from_iter_values(numbers.iter().map(i64::to_string));
        let numbers = Arc::new(Int64Array::from(numbers));
        let rows =
            RecordBatch::try_from_iter([("n", numbers as _), ("t", Arc::new(texts) as _)]).unwrap();
        Part { view: (name.to_owned(), 7), rows }
    }

    #[test]
    fn parts_come_back_as_they_were() {
        let parts = [part("a", vec![1, 2]), part("b", vec![]), part("a", vec![3])];
        let read = decode(encode(parts.to_vec()).unwrap().into()).unwrap();
        assert_eq!(read.len(), 3);
        for (sent, read) in parts.iter().zip(&read) {
            assert_eq!((&sent.view, &sent.rows), (&read.view, &read.rows));
        }
        assert!(decode(Bytes::new()).unwrap().is_empty());
    }

    #[test]
    fn bytes_that_are_no_parts_are_refused() {
        let whole = encode(vec![part("a", (0..50).collect())]).unwrap();
        for cut in 1..whole.len() {
            assert!(decode(Bytes::copy_from_slice(&whole[..cut])).is_err(), "{cut}");
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..2_000 {
            let mut bytes = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            // Whatever it is, it is no panic.
            let _ = decode(bytes.into());
        }
    }
}
