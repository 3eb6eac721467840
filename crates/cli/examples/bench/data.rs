//! The input: bids of an auction, in the shape of the Nexmark benchmark. The same row number always
//! gives the same row.

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::json::LineDelimitedWriter;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Rows of one commit.
pub const COMMIT_ROWS: usize = 10_000;
/// Bids in a second of event time: a window of 10 s has 100,000.
const EVENTS_PER_SECOND: i64 = 10_000;
/// Distinct auctions.
const AUCTIONS: i64 = 100_000;
/// Distinct bidders; nearly all of them bid in every window.
const BIDDERS: i64 = 10_000;
/// The time of the first bid: 2024-03-01T00:00:00Z in microseconds.
const START_US: i64 = 1_709_251_200_000_000;
const CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// Keys of the stream that single keys are read from.
pub const KEYS: usize = 1_000_000;
/// Has no factor in common with [`KEYS`], so that its multiples meet every key.
const KEY_STRIDE: i64 = 617_411;

/// The columns of a stream of bids.
pub const COLUMNS: &str = "auction bigint, bidder bigint, price bigint, channel text, ts timestamp";

/// The windowed aggregate over a stream of bids that all parts measure.
pub fn windowed(stream: &str) -> String {
    format!(
        "SELECT window_start, window_end, bidder, count(*) AS bids, max(price) AS top,
                sum(price) AS total
         FROM TUMBLE({stream}, ts, INTERVAL '10 seconds')
         GROUP BY window_start, window_end, bidder"
    )
}

/// One commit's bids, beginning with row `first`.
pub fn bids(first: usize) -> Result<RecordBatch> {
    let mut rng = ChaCha8Rng::seed_from_u64(first as u64);
    let mut ints = |limit: i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values((0..COMMIT_ROWS).map(|_| rng.random_range(0..limit))))
    };
    let (auction, bidder, price) = (ints(AUCTIONS), ints(BIDDERS), ints(1_000_000));
    let channel =
        StringArray::from_iter_values((0..COMMIT_ROWS).map(|_| CHANNELS[rng.random_range(0..4)]));
    let us = |row: i64| START_US + row * 1_000_000 / EVENTS_PER_SECOND;
    let rows = first as i64..(first + COMMIT_ROWS) as i64;
    let ts = TimestampMicrosecondArray::from_iter_values(rows.map(us));
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("auction", auction, true),
        ("bidder", bidder, true),
        ("price", price, true),
        ("channel", Arc::new(channel) as ArrayRef, true),
        ("ts", Arc::new(ts) as ArrayRef, true),
    ])?)
}

/// The bids of `commits` commits.
pub fn commits(commits: usize) -> Result<Vec<RecordBatch>> {
    (0..commits).map(|n| bids(n * COMMIT_ROWS)).collect()
}

/// A batch as one JSON object a line.
pub fn ndjson(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut body);
    writer.write(batch)?;
    writer.finish()?;
    Ok(body)
}

/// One commit of a stream `(k bigint, v bigint)`. Every key of `0..KEYS` occurs once in `KEYS` rows,
/// and neighbours are far apart, since keys that arrive sorted would be easy to merge.
pub fn keys(first: usize) -> Result<RecordBatch> {
    let rows = first as i64..(first + COMMIT_ROWS) as i64;
    let scattered = rows.clone().map(|row| row * KEY_STRIDE % KEYS as i64);
    let k: ArrayRef = Arc::new(Int64Array::from_iter_values(scattered));
    let v: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.map(|row| row % 1_000)));
    Ok(RecordBatch::try_from_iter_with_nullable([("k", k, true), ("v", v, true)])?)
}
