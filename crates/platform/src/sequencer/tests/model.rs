//! Everything at random against a model that is too simple to be wrong: lists, searched from end to
//! end. Groups have random sizes, some fail to become durable, and now and then the state is
//! rebuilt from a shuffled lake and a tail.

use super::super::Positions;
use super::*;
use crate::Ack;
use arrow::array::UInt32Array;
use arrow::compute::concat_batches;
use kaplan_circuit::Delta;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One write in a form that both sides read.
#[derive(Clone, Debug)]
struct Op {
    stream: StreamId,
    kind: WriteKind,
    rows: Vec<Row>,
    /// Where the rows are cut into two batches.
    cut: usize,
}

#[derive(Clone, Debug)]
struct Ask {
    ops: Vec<Op>,
    producer: Option<(String, u64)>,
}

impl Ask {
    fn request(&self) -> WriteRequest {
        let shape = |op: &Op, rows: &[Row]| match (op.stream, op.kind) {
            (ITEMS, WriteKind::Delete) => keys(&rows.iter().map(|r| r.0).collect::<Vec<_>>()),
            _ => batch(rows),
        };
        let writes = self.ops.iter().map(|op| {
            let (a, b) = op.rows.split_at(op.cut);
            write(op.stream, op.kind, vec![shape(op, a), shape(op, b)])
        });
        let made = request(writes.collect());
        match &self.producer {
            Some((id, sequence)) => from(made, id, *sequence),
            None => made,
        }
    }
}

/// The naive state. Tables are lists of rows.
#[derive(Clone, Default)]
struct Model {
    lsn: u64,
    time_us: i64,
    events: Vec<(Row, u64, i64)>,
    tables: BTreeMap<StreamId, Vec<Row>>,
    producers: BTreeMap<String, (u64, u64)>,
    newest_us: BTreeMap<StreamId, i64>,
}

/// The change of every stream that changes, and its watermark before.
type Changes = BTreeMap<StreamId, (BTreeMap<Row, i64>, Option<i64>)>;

impl Model {
    fn apply(&mut self, ask: &Ask, now_us: i64) -> (Ack, Changes) {
        self.time_us = self.time_us.max(now_us);
        let arrived: u64 = ask.ops.iter().map(|op| op.rows.len() as u64).sum();
        if let Some((id, sequence)) = &ask.producer
            && let Some((last, lsn)) = self.producers.get(id)
            && sequence <= last
        {
            let lsn = Lsn(*lsn);
            let ack = Ack { lsn, rows: arrived, duplicates: arrived, ..Ack::default() };
            return (ack, Changes::new());
        }
        let before = self.clone();
        let (mut ack, mut original) = (Ack::default(), 0);
        for op in &ask.ops {
            for row in &op.rows {
                match self.put(op, row) {
                    Ok(counted) => ack.rows += u64::from(counted),
                    Err(lsn) => {
                        ack.rows += 1;
                        ack.duplicates += 1;
                        original = original.max(lsn);
                    }
                }
            }
        }
        let changes = self.changes(&before);
        for (stream, (change, watermark)) in &changes {
            for (row, weight) in change.iter().filter(|(_, weight)| **weight > 0) {
                let Some(at) = row.2 else { continue };
                let newest = self.newest_us.entry(*stream).or_insert(at);
                *newest = at.max(*newest);
                ack.late += weight.unsigned_abs() * u64::from(watermark.is_some_and(|w| at < w));
            }
        }
        ack.lsn = Lsn(if original > 0 { original } else { self.lsn });
        if !changes.is_empty() {
            self.lsn += 1;
            ack.lsn = Lsn(self.lsn);
            if let Some((id, sequence)) = &ask.producer {
                self.producers.insert(id.clone(), (*sequence, self.lsn));
            }
        }
        (ack, changes)
    }

    /// Whether the row counts as one; or the commit of which it is a duplicate.
    fn put(&mut self, op: &Op, row: &Row) -> Result<bool, u64> {
        if op.stream == EVENTS {
            let same = |(r, _, time): &&(Row, u64, i64)| {
                r.0 == row.0 && r.1.is_some() && r.1 == row.1 && time + WITHIN_US >= self.time_us
            };
            if let Some((_, lsn, _)) = self.events.iter().rfind(same) {
                return Err(*lsn);
            }
            self.events.push((row.clone(), self.lsn + 1, self.time_us));
            return Ok(true);
        }
        let table = self.tables.entry(op.stream).or_default();
        let keyed = op.stream == ITEMS;
        let held = table.iter().position(|r| if keyed { r.0 == row.0 } else { r == row });
        match (op.kind, held) {
            (WriteKind::Delete, Some(at)) => drop(table.remove(at)),
            (WriteKind::Delete, None) => return Ok(false),
            (WriteKind::Upsert, Some(at)) => table[at] = row.clone(),
            _ => table.push(row.clone()),
        }
        Ok(true)
    }

    fn sums(&self, stream: StreamId) -> BTreeMap<Row, i64> {
        let mut sums = BTreeMap::new();
        let rows: Vec<&Row> = match stream {
            EVENTS => self.events.iter().map(|e| &e.0).collect(),
            _ => self.tables.get(&stream).into_iter().flatten().collect(),
        };
        rows.into_iter().for_each(|row| *sums.entry(row.clone()).or_insert(0) += 1);
        sums
    }

    fn changes(&self, before: &Model) -> Changes {
        let mut changes = Changes::new();
        for stream in [EVENTS, ITEMS, BAG] {
            let mut change = self.sums(stream);
            for (row, weight) in before.sums(stream) {
                *change.entry(row).or_insert(0) -= weight;
            }
            change.retain(|_, weight| *weight != 0);
            let newest = before.newest_us.get(&stream).filter(|_| stream != BAG);
            if !change.is_empty() {
                changes.insert(stream, (change, newest.map(|n| n - DELAY_US)));
            }
        }
        changes
    }
}

fn random_ask(rng: &mut ChaCha8Rng, model: &Model) -> Ask {
    let op = |rng: &mut ChaCha8Rng| {
        let kinds = [
            (EVENTS, WriteKind::Append),
            (ITEMS, WriteKind::Upsert),
            (ITEMS, WriteKind::Delete),
            (BAG, WriteKind::Append),
            (BAG, WriteKind::Delete),
        ];
        let (stream, kind) = kinds[rng.random_range(0..kinds.len())];
        let rows: Vec<Row> = (0..rng.random_range(0..6))
            .map(|_| {
                let s = ["a", "b", "c"].get(rng.random_range(0..4)).map(|s| (*s).to_owned());
                // The keyless table needs equal rows to be common.
                let at = if stream == BAG { 3 } else { 30 };
                let at = (!rng.random_bool(0.1)).then(|| rng.random_range(0..at) * SECOND_US / 2);
                (rng.random_range(0..5), s, at)
            })
            .collect();
        let cut = rng.random_range(0..=rows.len());
        Op { stream, kind, rows, cut }
    };
    let ops = (0..rng.random_range(1..4)).map(|_| op(rng)).collect();
    let producer = rng.random_bool(0.5).then(|| {
        let id = ["p", "q"].choose(rng).unwrap().to_string();
        let last = model.producers.get(&id).map_or(0, |l| l.0);
        (id, (last + 1).saturating_sub(rng.random_range(0..3)).max(1))
    });
    Ask { ops, producer }
}

/// What is durable, as log and lake would hold it.
#[derive(Default)]
struct Durable {
    commits: Vec<Commit>,
}

impl Durable {
    /// A new state out of a shuffled lake up to a random commit and the tail after it.
    fn recover(&self, rng: &mut ChaCha8Rng, producers: &BTreeMap<String, (u64, u64)>) -> State {
        let mut state = state();
        let archived = rng.random_range(0..=self.commits.len());
        let (lake, tail) = self.commits.split_at(archived);
        for stream in [EVENTS, ITEMS, BAG] {
            absorb_lake(&mut state, stream, lake, rng);
        }
        for (id, (sequence, lsn)) in producers.iter().filter(|p| p.1.1 <= archived as u64) {
            let last = Last { sequence: *sequence, lsn: Lsn(*lsn), time_us: 0 };
            state.absorb_producer(id, last);
        }
        tail.iter().for_each(|commit| state.absorb_commit(commit).unwrap());
        state.open(Lsn(self.commits.len() as u64)).unwrap();
        state
    }
}

fn absorb_lake(state: &mut State, stream: StreamId, lake: &[Commit], rng: &mut ChaCha8Rng) {
    let (mut batches, mut weights, mut lsns, mut times) = (vec![], vec![], vec![], vec![]);
    for commit in lake {
        for write in commit.writes.iter().filter(|w| w.stream == stream) {
            let delta = decode_delta(&schema(), &write.payload).unwrap();
            weights.extend((0..delta.len()).map(|i| delta.weight(i)));
            lsns.resize(weights.len(), commit.lsn.to_i64());
            times.resize(weights.len(), commit.time_us);
            batches.push(delta.rows);
        }
    }
    let rows = concat_batches(&schema(), &batches).unwrap();
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    order.shuffle(rng);
    let shuffled = |values: &[i64]| order.iter().map(|i| values[*i as usize]).collect::<Vec<_>>();
    let (lsns, times) = (shuffled(&lsns), shuffled(&times));
    let delta = Delta::weighted(rows, Int64Array::from(weights));
    let delta = delta.take(&UInt32Array::from(order)).unwrap();
    for half in [0..delta.len() / 2, delta.len() / 2..delta.len()] {
        let part = Delta {
            rows: delta.rows.slice(half.start, half.len()),
            weights: delta.weights.as_ref().map(|w| w.slice(half.start, half.len())),
        };
        let per_row = Positions::PerRow { lsns: &lsns[half.clone()], times_us: &times[half] };
        state.absorb_history(stream, per_row, &part).unwrap();
    }
    state.absorb_rows(stream, delta.len() as u64).unwrap();
    let added = self::rows(&delta.rows).into_iter().zip(delta.weights.as_ref().unwrap().values());
    if let Some(newest) = added.filter(|(_, w)| **w > 0).filter_map(|(row, _)| row.2).max() {
        state.absorb_watermark(stream, newest).unwrap();
    }
    for commit in lake {
        state.absorb_time(commit.time_us);
    }
}

fn run(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut state, mut model, mut durable) = (state(), Model::default(), Durable::default());
    let mut clock = 100 * SECOND_US;
    for _ in 0..60 {
        clock += rng.random_range(-SECOND_US..3 * SECOND_US);
        let (before, mut group) = (model.clone(), Vec::new());
        for _ in 0..rng.random_range(1..6) {
            let ask = random_ask(&mut rng, &model);
            let (ack, changes) = model.apply(&ask, clock);
            let decision = state.decide(ask.request(), clock).unwrap();
            assert_eq!(decision.ack, ack, "seed {seed}: {ask:?}");
            let told: Changes = decision
                .commit
                .iter()
                .flat_map(|c| {
                    c.writes.iter().map(|w| (w.stream, (change(c, w.stream), w.watermark_us)))
                })
                .collect();
            assert_eq!(told, changes, "seed {seed}: {ask:?}");
            if let Some(commit) = &decision.commit {
                assert_eq!((commit.lsn.0, commit.time_us), (model.lsn, model.time_us));
                assert_eq!(commit.writes.len(), changes.len());
            }
            group.extend(decision.commit);
        }
        if rng.random_bool(0.25) {
            state.revert();
            model = Model { time_us: model.time_us, ..before };
        } else {
            state.confirm();
            durable.commits.extend(group);
        }
        let held: usize = state.streams.values().map(|stream| stream.held()).sum();
        assert_eq!(state.held, held, "seed {seed}");
        assert!(state.streams.values().flat_map(|s| &s.table).all(|table| table.counts_right()));
        if rng.random_bool(0.15) {
            let counted = state.counters();
            state = durable.recover(&mut rng, &model.producers);
            model.time_us = durable.commits.last().map_or(0, |c| c.time_us);
            for (stream, recovered) in state.counters() {
                let live = counted[&stream];
                assert_eq!(recovered.rows, live.rows, "seed {seed}");
                assert_eq!(recovered.watermark_us, live.watermark_us, "seed {seed}");
                assert_eq!(recovered.last_lsn, live.last_lsn, "seed {seed}");
            }
        }
    }
    assert!(durable.commits.len() > 30, "seed {seed} hardly wrote anything");
}

#[test]
fn random_requests_agree_with_the_model() {
    (0..60).for_each(run);
}
