//! What the sequencer decides, without IO and without a clock: (state, request, now) becomes a
//! commit and its acknowledgement, or an error.
//!
//! Invariant: decisions are staged. A later request sees them, but they stay only after
//! [`State::confirm`], which the caller calls when the commits are durable; [`State::revert`] makes
//! the state as if they had never been. A refused request leaves nothing staged. LSNs are
//! consecutive and commit times never go back.

use super::checks::fit_quarantine;
use super::producers::{Last, Producers, Told, check_id};
use super::request::{Counters, Definition, StreamWrite, WriteKind, WriteRequest, internal};
use super::stream::{Mark, Stream, Taken, unknown};
use crate::transactions::Pending as Preview;
use crate::{Ack, Code, Error, Producer, Result};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use kaplan_base::limits::MAX_COMMIT_BYTES;
use kaplan_base::{Lsn, StreamId};
use kaplan_circuit::{Delta, Shelf, decode_delta, encode_delta};
use kaplan_log::{Commit, Write};
use kaplan_speed::Memory;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a frame may add to a commit's payloads: a fixed part with the producer, and one a write.
const FRAME_BYTES: usize = 4_096;
const WRITE_BYTES: usize = 64;
/// The part of a commit's bytes up to which [`WriteKind::Clear`] removes rows, as a divisor: rows in
/// the log may take more than they do here.
const CLEARED_SHARE: usize = 4;

/// The streams, tables and producers as of the last decision.
pub struct State {
    /// The last commit decided.
    pub(super) head: Lsn,
    /// The last commit confirmed.
    durable: Lsn,
    /// The last commit's time. A commit taken back does not turn it back.
    pub(super) time_us: i64,
    pub(super) streams: HashMap<StreamId, Stream>,
    pub(super) producers: Producers,
    /// Streams as they were before they were touched, in order of touch.
    staged: Vec<Mark>,
    /// Most bytes of one commit.
    commit_bytes: usize,
    /// What rows of tables and remembered keys take, staged ones included.
    pub(super) held: usize,
    /// Where that is counted, and as how much.
    memory: Option<(Arc<Memory>, usize)>,
    /// Whether a commit of the log's tail was absorbed.
    pub(super) absorbed: bool,
}

/// What became of one request.
#[derive(Debug)]
pub struct Decision {
    /// The commit to append; none when nothing changes.
    pub commit: Option<Commit>,
    /// What to answer once everything decided before is durable too.
    pub ack: Ack,
}

/// What a group of decisions changed, now that it is durable.
#[derive(Debug, Default)]
pub struct Confirmed {
    /// The counters of the streams touched.
    pub counters: Vec<(StreamId, Counters)>,
    /// The producers' last writes.
    pub producers: Vec<Told>,
    /// Producers that are remembered no longer.
    pub forgotten: Vec<String>,
}

/// One request on its way to a commit.
#[derive(Default)]
struct Draft {
    ack: Ack,
    /// The last commit among the duplicates' originals.
    original: Lsn,
    parts: Vec<Part>,
}

/// One stream's part of a commit.
struct Part {
    stream: StreamId,
    /// The stream's place in [`State::staged`].
    mark: usize,
    /// Rows of the request for this stream so far.
    arrived: u64,
    /// Admitted rows of an append-only stream.
    rows: Vec<RecordBatch>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// No streams, no commits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            head: Lsn::ZERO,
            durable: Lsn::ZERO,
            time_us: i64::MIN,
            streams: HashMap::new(),
            producers: Producers::default(),
            staged: Vec::new(),
            commit_bytes: MAX_COMMIT_BYTES,
            held: 0,
            memory: None,
            absorbed: false,
        }
    }

    /// Has commits hold at most so many bytes.
    pub fn limit_commits(&mut self, bytes: usize) {
        self.commit_bytes = bytes.min(MAX_COMMIT_BYTES);
    }

    /// Has rows of tables and remembered keys count against this memory. What would make them more than
    /// there is of it is refused; what is there already stays.
    pub fn count_in(&mut self, memory: Arc<Memory>) {
        self.memory = Some((memory, 0));
        self.count();
    }

    /// Tells the memory what is held now that nothing is staged.
    pub(super) fn count(&mut self) {
        self.held = self.streams.values().map(Stream::held).sum();
        if let Some((memory, told)) = &mut self.memory {
            memory.count(std::mem::replace(told, self.held), self.held);
        }
    }

    /// Adds an empty stream or table.
    ///
    /// # Errors
    /// The number is taken, a column is missing, or its type cannot be a key.
    pub fn add_stream(&mut self, definition: Definition) -> Result<()> {
        let id = definition.def.id;
        if let Some(old) = self.streams.get(&id) {
            let message = format!("stream number {id} is taken by {}", old.name());
            return Err(Error::new(Code::DuplicateRelation, message));
        }
        self.streams.insert(id, Stream::new(definition)?);
        Ok(())
    }

    /// Changes a stream's definition. Nothing may be staged.
    ///
    /// # Errors
    /// There is no such stream, or its rows cannot have the new columns.
    pub fn redefine_stream(&mut self, definition: Definition) -> Result<()> {
        let id = definition.def.id;
        self.streams.get_mut(&id).ok_or_else(|| unknown(id))?.redefine(definition)?;
        self.count();
        Ok(())
    }

    /// Forgets a stream. Nothing may be staged.
    ///
    /// # Errors
    /// There is no such stream.
    pub fn forget_stream(&mut self, stream: StreamId) -> Result<()> {
        self.streams.remove(&stream).ok_or_else(|| unknown(stream))?;
        self.count();
        Ok(())
    }

    /// Decides one request at the time `now_us` and stages its effects.
    ///
    /// # Errors
    /// The request breaks a rule, names an unknown stream or exceeds a limit; nothing of it stays.
    pub fn decide(&mut self, request: WriteRequest, now_us: i64) -> Result<Decision> {
        let (staged, producers, head) = (self.staged.len(), self.producers.mark(), self.head);
        let decided = self.resolve(request, now_us);
        let decided = decided.and_then(|decision| self.fit(staged).map(|()| decision));
        if decided.is_err() {
            self.revert_to(staged, producers);
            self.head = head;
        }
        decided
    }

    /// Refuses what was staged from here on if it needs more memory than there is.
    fn fit(&mut self, staged: usize) -> Result<()> {
        let (mut before, mut after) = (0, 0);
        for mark in &self.staged[staged..] {
            before += mark.held;
            after += self.streams.get(&mark.stream).map_or(mark.held, Stream::held);
        }
        let limit = self.memory.as_ref().map_or(usize::MAX, |(memory, _)| memory.limit());
        let held = (self.held + after).saturating_sub(before);
        if after > before && held > limit {
            return Err(out_of_memory(held, limit));
        }
        self.held = held;
        Ok(())
    }

    /// What a request would change if it were decided now. Nothing may be staged, and nothing is.
    ///
    /// # Errors
    /// As [`State::decide`].
    pub fn preview(&mut self, request: WriteRequest, now_us: i64) -> Result<Preview> {
        let lsn = self.head;
        let decided = self.decide(request, now_us);
        let changes = decided.and_then(|decision| {
            let writes = decision.commit.into_iter().flat_map(|commit| commit.writes);
            let changes = writes.map(|write| {
                let stream =
                    self.streams.get(&write.stream).ok_or_else(|| unknown(write.stream))?;
                let schema = &stream.definition.schema;
                let delta = decode_delta(schema, &write.payload).map_err(internal)?;
                Ok((write.stream, delta))
            });
            Ok(Preview { lsn, ack: decision.ack, changes: changes.collect::<Result<_>>()? })
        });
        self.revert();
        changes
    }

    /// Makes everything staged stay: it is durable.
    pub fn confirm(&mut self) -> Confirmed {
        self.durable = self.head;
        let mut counters = BTreeMap::new();
        for mark in self.staged.drain(..) {
            if let Some(stream) = self.streams.get_mut(&mark.stream) {
                stream.confirm();
                counters.insert(mark.stream, stream.counters);
            }
        }
        self.count();
        let (producers, forgotten) = self.producers.confirm();
        Confirmed { counters: counters.into_iter().collect(), producers, forgotten }
    }

    /// Takes everything staged back: it did not become durable.
    pub fn revert(&mut self) {
        self.revert_to(0, 0);
        self.head = self.durable;
        self.count();
    }

    /// The counters of every stream.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<StreamId, Counters> {
        self.streams.iter().map(|(id, stream)| (*id, stream.counters)).collect()
    }

    /// Every producer's last write.
    #[must_use]
    pub fn producers(&self) -> BTreeMap<String, Last> {
        self.producers.all()
    }

    /// Forgets the producers whose ids begin so: the splits of a source. Nothing may be staged.
    pub fn forget_producers(&mut self, prefix: &str) {
        self.producers.forget(prefix);
    }

    /// Begins after `head`, with everything absorbed so far.
    pub(super) fn begin(&mut self, head: Lsn) {
        (self.head, self.durable) = (head, head);
    }

    fn revert_to(&mut self, staged: usize, producers: usize) {
        for mark in self.staged.drain(staged..).rev() {
            if let Some(stream) = self.streams.get_mut(&mark.stream) {
                stream.revert(&mark);
            }
        }
        self.producers.revert(producers);
    }

    fn resolve(&mut self, request: WriteRequest, now_us: i64) -> Result<Decision> {
        self.time_us = self.time_us.max(now_us);
        if let Some(producer) = &request.producer {
            check_id(producer)?;
            if let Some(after) = request.after {
                self.producers.check_after(producer, after)?;
            }
            if let Some(lsn) = self.producers.seen(producer) {
                return Ok(self.repeat(&request, lsn));
            }
        }
        if let Some(marks) = request.tick {
            return self.tick(&marks);
        }
        let mut draft = Draft::default();
        for write in &request.writes {
            self.stage(write, &mut draft)?;
        }
        self.finish(draft, request.producer, request.after.is_some())
    }

    /// A commit without rows, stamped with the watermarks as they are and with those given.
    fn tick(&mut self, marks: &BTreeMap<StreamId, i64>) -> Result<Decision> {
        for (id, mark) in marks {
            if let Some(stream) = self.streams.get_mut(id) {
                self.staged.push(stream.mark());
                stream.advance_watermark(*mark);
            }
        }
        let mut writes = Vec::new();
        for (id, stream) in &self.streams {
            let Some(watermark_us) = stream.counters.watermark_us else { continue };
            let none = RecordBatch::new_empty(Arc::clone(&stream.definition.schema));
            let payload = encode_delta(&Delta::insert(none)).map_err(internal)?.into();
            let watermark_us = Some(watermark_us);
            writes.push(Write { stream: *id, rows: 0, watermark_us, payload });
        }
        self.head = self.head.next();
        let (lsn, time_us) = (self.head, self.time_us);
        let commit = Commit { lsn, time_us, producer: None, writes };
        Ok(Decision { commit: Some(commit), ack: Ack { lsn, ..Ack::default() } })
    }

    /// A retry of a write that was committed before.
    fn repeat(&mut self, request: &WriteRequest, lsn: Lsn) -> Decision {
        for write in &request.writes {
            if let Some(stream) = self.streams.get_mut(&write.stream) {
                self.staged.push(stream.mark());
                stream.counters.duplicates += write.count();
            }
        }
        let rows = request.rows();
        Decision { commit: None, ack: Ack { lsn, rows, duplicates: rows, ..Ack::default() } }
    }

    /// Stages one write of a request.
    fn stage(&mut self, write: &StreamWrite, draft: &mut Draft) -> Result<()> {
        let part = self.touch(write.stream, draft)?;
        let (lsn, time_us, limit) = (self.head.next(), self.time_us, self.commit_bytes);
        let stream = self.streams.get_mut(&write.stream).ok_or_else(|| unknown(write.stream))?;
        check_kind(stream, write.kind)?;
        if write.kind == WriteKind::Truncate {
            draft.ack.rows += stream.truncate(limit)?;
            return Ok(());
        }
        if write.kind == WriteKind::Clear {
            draft.ack.rows += stream.clear(limit / CLEARED_SHARE);
            return Ok(());
        }
        let mut quarantined = Vec::new();
        for batch in write.rows.iter().filter(|b| b.num_rows() > 0) {
            if write.kind == WriteKind::Remove {
                stream.remove(batch)?;
                continue;
            }
            let first_row = draft.parts[part].arrived + 1;
            draft.parts[part].arrived += batch.num_rows() as u64;
            if write.kind == WriteKind::Delete {
                draft.ack.rows += stream.delete(batch, first_row)?;
                continue;
            }
            let taken = match write.kind {
                WriteKind::Patch => stream.patch(batch, first_row, time_us)?,
                kind => stream.take(batch, kind, first_row, lsn, time_us)?,
            };
            draft.ack.rows += batch.num_rows() as u64;
            draft.count(&mut stream.counters, &taken);
            draft.parts[part].rows.extend(taken.rows);
            quarantined.extend(taken.quarantined);
        }
        let (name, target) = (stream.name().to_owned(), stream.definition.quarantine);
        for rows in quarantined {
            let Some(target) = target else {
                return Err(internal(format!("{name} has no quarantine stream")));
            };
            self.quarantine(target, &rows, draft)?;
        }
        Ok(())
    }

    /// Adds rows to a quarantine stream within the same commit.
    fn quarantine(&mut self, target: StreamId, rows: &RecordBatch, d: &mut Draft) -> Result<()> {
        let part = self.touch(target, d)?;
        let stream = self.streams.get(&target).ok_or_else(|| unknown(target))?;
        let rows = fit_quarantine(stream.name(), &stream.definition.schema, rows)?;
        d.parts[part].rows.push(rows);
        Ok(())
    }

    /// The place of a stream's part in the draft; a new part marks where to go back to.
    fn touch(&mut self, stream: StreamId, draft: &mut Draft) -> Result<usize> {
        if let Some(at) = draft.parts.iter().position(|p| p.stream == stream) {
            return Ok(at);
        }
        let mark = self.streams.get(&stream).ok_or_else(|| unknown(stream))?.mark();
        self.staged.push(mark);
        let mark = self.staged.len() - 1;
        draft.parts.push(Part { stream, mark, arrived: 0, rows: Vec::new() });
        Ok(draft.parts.len() - 1)
    }

    /// Turns what was staged into a commit.
    fn finish(
        &mut self,
        draft: Draft,
        producer: Option<Producer>,
        always: bool,
    ) -> Result<Decision> {
        let Draft { mut ack, original, parts } = draft;
        let (lsn, time_us) = (self.head.next(), self.time_us);
        let mut writes = Vec::with_capacity(parts.len());
        for part in parts {
            writes.extend(self.write(part, lsn, &mut ack)?);
        }
        check_size(&writes, self.commit_bytes)?;
        let commits = always || !writes.is_empty();
        ack.lsn = match (!commits, original) {
            (false, _) => lsn,
            (true, Lsn::ZERO) => self.head,
            // An original of this very request that was taken away again has no commit.
            (true, original) => original.min(self.head),
        };
        if !commits {
            // A producer's sequence is remembered only with a commit, so that it is in the log: a
            // retry of a request without effect may have one then, once.
            return Ok(Decision { commit: None, ack });
        }
        if let Some(producer) = &producer {
            self.producers.stage(producer.clone(), ack.lsn, time_us)?;
        }
        self.head = lsn;
        let producer = producer.map(|p| kaplan_log::Producer { id: p.id, sequence: p.sequence });
        Ok(Decision { commit: Some(Commit { lsn, time_us, producer, writes }), ack })
    }

    /// One stream's part as the log holds it; none when the stream does not change.
    fn write(&mut self, part: Part, lsn: Lsn, ack: &mut Ack) -> Result<Option<Write>> {
        let mark = &self.staged[part.mark];
        let stream = self.streams.get_mut(&part.stream).ok_or_else(|| unknown(part.stream))?;
        let delta = match (&stream.table, part.rows.as_slice()) {
            (Some(table), _) => table.change(mark.table)?,
            (None, []) => return Ok(None),
            (None, [rows]) => Delta::insert(rows.clone()),
            (None, batches) => {
                let schema = &stream.definition.schema;
                Delta::insert(concat_batches(schema, batches).map_err(internal)?)
            }
        };
        if delta.is_empty() {
            return Ok(None);
        }
        let limit = self.commit_bytes;
        let rows = u32::try_from(delta.len());
        let rows = rows.map_err(|_| too_large(delta.len(), "rows", limit))?;
        let watermark_us = stream.counters.watermark_us;
        let late = stream.pass_time(&delta)?;
        ack.late += late;
        stream.counters.late += late;
        stream.counters.rows += u64::from(rows);
        stream.counters.last_lsn = lsn;
        let payload = encode_delta(&delta).map_err(internal)?.into();
        Ok(Some(Write { stream: part.stream, rows, watermark_us, payload }))
    }
}

impl Draft {
    fn count(&mut self, counters: &mut Counters, taken: &Taken) {
        let quarantined = taken.quarantined.as_ref().map_or(0, |q| q.num_rows() as u64);
        self.original = self.original.max(taken.original);
        self.ack.duplicates += taken.duplicates;
        self.ack.dropped += taken.dropped;
        self.ack.quarantined += quarantined;
        counters.duplicates += taken.duplicates;
        counters.dropped += taken.dropped;
        counters.quarantined += quarantined;
    }
}

fn out_of_memory(held: usize, limit: usize) -> Error {
    let message = format!("rows of tables and keys of UNIQUE would take {held} bytes of memory");
    Error::new(Code::OutOfMemory, message).hint(format!(
        "there are {limit}, half of memory_limit_bytes: raise it, delete rows, or keep events in a stream, \
         whose rows need no memory"
    ))
}

/// Refuses a write that the stream cannot take.
fn check_kind(stream: &Stream, kind: WriteKind) -> Result<()> {
    let name = stream.name();
    let (message, hint) = match kind {
        WriteKind::Append if stream.is_keyed() => {
            (format!("{name} has a primary key"), "upsert its rows instead of appending them")
        }
        WriteKind::Upsert if !stream.is_keyed() => {
            (format!("{name} has no primary key"), "append its rows instead of upserting them")
        }
        WriteKind::Patch if !stream.is_keyed() => {
            (format!("{name} has no primary key"), "append its rows instead of patching them")
        }
        WriteKind::Delete
        | WriteKind::Insert
        | WriteKind::Remove
        | WriteKind::Truncate
        | WriteKind::Clear
            if stream.table.is_none() =>
        {
            (format!("{name} is append-only"), "only rows of a table can be updated or deleted")
        }
        _ => return Ok(()),
    };
    Err(Error::new(Code::InvalidInput, message).stream(name).hint(hint))
}

fn check_size(writes: &[Write], limit: usize) -> Result<()> {
    let bytes: usize = writes.iter().map(|w| w.payload.len() + WRITE_BYTES).sum();
    match bytes + FRAME_BYTES <= limit {
        true => Ok(()),
        false => Err(too_large(bytes, "bytes", limit)),
    }
}

pub(super) fn too_large(amount: usize, unit: &str, limit: usize) -> Error {
    Error::new(Code::TooLarge, format!("the commit would hold {amount} {unit}"))
        .hint(format!("send less at once: a commit holds at most {limit} bytes"))
}
