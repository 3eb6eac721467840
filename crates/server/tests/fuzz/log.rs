//! The log's files and objects, and what is in them: a log is opened with the commits that it had or
//! with fewer at its end, or refused as damaged; it never has others. Half of the inputs have their
//! checksums made right again after the damage, so that what is behind them is reached.

use crate::damage::{any, damaged};
use crate::{Outcome, Target};
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kaplan_circuit::Delta;
use kaplan_circuit::{decode_delta, encode_delta};
use kaplan_log::conformance::sample;
use kaplan_log::sim::SimDisk;
use kaplan_log::{Commit, Disk, LocalLog, Log, ObjectLog, ObjectOptions, Options};
use kaplan_store::{Place, wait};
use object_store::memory::InMemory;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Commits of the log that is damaged, and the bytes of each payload.
const COMMITS: u64 = 12;
const PAYLOAD: usize = 300;
const FRAME: &[u8; 4] = b"KFRM";
const FRAME_HEADER: usize = 32;
const SEGMENT_HEADER: usize = 64;

pub fn targets() -> Vec<Box<dyn Target>> {
    vec![Box::new(Files::new()), Box::new(Objects::new()), Box::new(Payloads::new())]
}

fn commits() -> Vec<Commit> {
    (1..=COMMITS).map(|lsn| sample(lsn, PAYLOAD)).collect()
}

/// Makes the checksums of a segment right: of its header, and of every frame that begins with its
/// four letters and whose length leads to an end.
fn mend(bytes: &mut [u8]) {
    if bytes.len() < SEGMENT_HEADER {
        return;
    }
    let sum = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    let salt: [u8; 8] = bytes[24..32].try_into().unwrap();
    let mut at = SEGMENT_HEADER;
    while at + FRAME_HEADER <= bytes.len() {
        if &bytes[at..at + 4] != FRAME {
            at += 1;
            continue;
        }
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let body = at + FRAME_HEADER;
        let end = body.saturating_add(length).min(bytes.len());
        let sum = crc32c::crc32c(&bytes[body..end]);
        bytes[at + 24..at + 28].copy_from_slice(&sum.to_le_bytes());
        let header = crc32c::crc32c_append(crc32c::crc32c(&bytes[at..at + 28]), &salt);
        bytes[at + 28..at + 32].copy_from_slice(&header.to_le_bytes());
        at = end.max(at + 1);
    }
}

/// The first byte says whether checksums are made right, the second one which file it is; the rest is
/// its bytes.
fn segment_input(files: &[(String, Vec<u8>)], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let others: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| bytes.clone()).collect();
    let (mended, file) = (rng.random_range(0..2), rng.random_range(0..files.len()));
    let mut bytes = damaged(&others[file], &others, rng);
    if mended == 1 {
        mend(&mut bytes);
    }
    [vec![mended, file as u8], bytes].concat()
}

/// Whether a log that could be opened has what it may have.
fn judge(log: &dyn Log, mended: bool) -> Result<Outcome, String> {
    let mut after = log.start().previous();
    let mut found = Vec::new();
    while after < log.head() {
        match log.read(after, 1 << 20) {
            Ok(commits) if commits.is_empty() => return Err("a read without commits".into()),
            Ok(commits) => found.extend(commits),
            Err(_) => return Ok(Outcome::Refused),
        }
        after = found.last().map_or(after, |c: &Commit| c.lsn);
    }
    if found.iter().zip(found.iter().skip(1)).any(|(a, b)| b.lsn != a.lsn.next()) {
        return Err("commits are not consecutive".into());
    }
    // With true checksums other commits are as good as ours.
    let all = commits();
    let ours = |c: &Commit| all.get(c.lsn.0 as usize - 1).is_some_and(|own| own == c);
    match mended || found.iter().all(ours) {
        true => Ok(Outcome::Read),
        false => Err("a commit is another one, although checksums hold".into()),
    }
}

/// Segment files of the local log.
struct Files {
    files: Vec<(String, Vec<u8>)>,
}

fn options() -> Options {
    Options { segment_bytes: 1_500, ..Options::default() }
}

impl Files {
    fn new() -> Self {
        let disk = SimDisk::new(1);
        let log = LocalLog::open_on(Arc::new(disk.clone()), options()).unwrap();
        commits().iter().for_each(|c| log.append(std::slice::from_ref(c)).unwrap());
        log.mark_durable().unwrap();
        drop(log);
        let read = |name: String| {
            let file = disk.open(&name).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(0, &mut bytes).unwrap();
            (name, bytes)
        };
        Self { files: disk.list().unwrap().into_iter().map(read).collect() }
    }
}

impl Target for Files {
    fn name(&self) -> &'static str {
        "wal"
    }

    fn input(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        segment_input(&self.files, rng)
    }

    fn take(&mut self, input: &[u8]) -> Result<Outcome, String> {
        let disk = SimDisk::new(2);
        for (at, (name, bytes)) in self.files.iter().enumerate() {
            let bytes = if at == usize::from(input[1]) { &input[2..] } else { bytes };
            disk.create(name).unwrap().write_at(0, bytes).unwrap();
        }
        match LocalLog::open_on(Arc::new(disk), options()) {
            Ok(log) => judge(&log, input[0] == 1),
            Err(error) if error.to_string().is_empty() => Err("a refusal without words".into()),
            Err(_) => Ok(Outcome::Refused),
        }
    }
}

/// Segments of a log in a bucket.
struct Objects {
    objects: Vec<(String, Vec<u8>)>,
}

fn place() -> Place {
    let url = url::Url::parse("memory:///bucket/log").unwrap();
    Place::over(url, Arc::new(InMemory::new())).unwrap()
}

impl Objects {
    fn new() -> Self {
        let place = place();
        let log = ObjectLog::open(&place, &ObjectOptions::default()).unwrap();
        commits().chunks(3).for_each(|group| log.append(group).unwrap());
        let read = move || async move {
            let mut objects = Vec::new();
            for (name, _) in place.list().await? {
                let bytes = place.get(&name).await?.unwrap_or_default();
                objects.push((name, bytes.to_vec()));
            }
            Ok::<_, kaplan_store::Error>(objects)
        };
        Self { objects: wait(read()).unwrap().unwrap() }
    }
}

impl Target for Objects {
    fn name(&self) -> &'static str {
        "object-log"
    }

    fn input(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        segment_input(&self.objects, rng)
    }

    fn take(&mut self, input: &[u8]) -> Result<Outcome, String> {
        let place = place();
        let (objects, to, input) = (self.objects.clone(), place.clone(), input.to_vec());
        let mended = input[0] == 1;
        let put = async move {
            for (at, (name, bytes)) in objects.into_iter().enumerate() {
                let bytes = if at == usize::from(input[1]) { input[2..].to_vec() } else { bytes };
                to.put(&name, bytes).await?;
            }
            Ok::<_, kaplan_store::Error>(())
        };
        wait(put).unwrap().unwrap();
        match ObjectLog::open(&place, &ObjectOptions::default()) {
            Ok(log) => judge(&log, mended),
            Err(error) if error.to_string().is_empty() => Err("a refusal without words".into()),
            Err(_) => Ok(Outcome::Refused),
        }
    }
}

/// Rows of a commit.
struct Payloads {
    schema: SchemaRef,
    good: Vec<Vec<u8>>,
}

impl Payloads {
    fn new() -> Self {
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("text", DataType::Utf8, true),
        ]));
        let ids = Int64Array::from(vec![Some(1), None, Some(3)]);
        let texts = StringArray::from(vec![Some("one"), Some(""), None]);
        let columns = vec![Arc::new(ids) as _, Arc::new(texts) as _];
        let rows = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let weighted = Delta { rows: rows.clone(), weights: Some(vec![1, -1, 2].into()) };
        let delta = Delta { rows, weights: None };
        let good = [&delta, &weighted].map(|delta| encode_delta(delta).unwrap());
        Self { schema, good: good.to_vec() }
    }
}

impl Target for Payloads {
    fn name(&self) -> &'static str {
        "payload"
    }

    fn input(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        damaged(any(&self.good, rng), &self.good, rng)
    }

    fn take(&mut self, input: &[u8]) -> Result<Outcome, String> {
        match decode_delta(&self.schema, input) {
            Ok(delta) if delta.rows.schema() != self.schema => Err("another schema".into()),
            Ok(delta) => {
                for column in delta.rows.columns() {
                    column.to_data().validate_full().map_err(|e| e.to_string())?;
                }
                Ok(Outcome::Read)
            }
            Err(_) => Ok(Outcome::Refused),
        }
    }
}
