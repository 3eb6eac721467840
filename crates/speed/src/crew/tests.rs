//! Views split over hands that come, change, give and are lost at random: whatever is read is what one
//! circuit over all commits would show.

use super::*;
use crate::{Attached, Driver, StreamInfo};
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kaplan_circuit::{Delta, encode_delta};
use kaplan_log::{LocalLog, Options, Write};
use kaplan_sql::{Planner, dialect, planner::Relation};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::collections::BTreeMap;

const OF: u64 = 8;
const VIEWS: [(&str, &str); 3] = [
    ("sums", "SELECT k, count(*) AS n, sum(v) AS s, max(v) AS m FROM t GROUP BY k"),
    ("all_rows", "SELECT k, v FROM t WHERE v % 2 = 0"),
    ("total", "SELECT count(*) AS n, min(v) AS least FROM t"),
];

fn schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![field("k"), field("v")]))
}

fn commit(lsn: u64, rng: &mut SmallRng) -> Commit {
    let rows = rng.random_range(1..5);
    let mut column = |most| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values((0..rows).map(|_| rng.random_range(0..most))))
    };
    let rows = RecordBatch::try_new(schema(), vec![column(4), column(1000)]).unwrap();
    let write = Write {
        stream: StreamId(1),
        rows: rows.num_rows() as u32,
        watermark_us: None,
        payload: encode_delta(&Delta::insert(rows)).unwrap().into(),
    };
    Commit { lsn: Lsn(lsn), time_us: 0, producer: None, writes: vec![write] }
}

async fn compiled() -> Vec<Arc<CompiledView>> {
    let planner = Planner::new();
    let mut views = Vec::new();
    for (name, sql) in VIEWS {
        let relation = Relation::Stream {
            name: "t".into(),
            schema: schema(),
            append_only: true,
            watermark: false,
            key: Vec::new(),
        };
        let query = dialect::parse_query(sql).unwrap();
        views.push(Arc::new(planner.compile(name, &[], &query, &[relation]).await.unwrap()));
    }
    assert!(views.iter().all(|view| is_split(view)));
    views
}

/// A hand in this process, as good as one in another.
struct Near {
    name: String,
    log: Arc<LocalLog>,
    streams: Streams,
    views: Vec<Arc<CompiledView>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: Option<Shares>,
    share: Option<Share>,
    to: Lsn,
    full: bool,
    /// It is lost when it is asked to give, although it is there.
    breaks: bool,
}

impl Near {
    fn go(&self, state: &mut State) {
        let to = state.to;
        let Some(share) = &mut state.share else { return };
        while share.lsn() < to {
            let mut commits = self.log.read(share.lsn(), 100).unwrap();
            commits.retain(|commit| commit.lsn <= to);
            share.take(commits).unwrap();
        }
    }
}

impl Hand for Near {
    fn name(&self) -> &str {
        &self.name
    }

    fn shares(&self) -> Option<Shares> {
        self.state.lock().wanted.clone()
    }

    fn is_full(&self) -> bool {
        std::mem::take(&mut self.state.lock().full)
    }

    fn begin(&self, after: Lsn, shares: &Shares, views: &[ViewId]) {
        let known = |(name, version): &ViewId| {
            let view = self.views.iter().find(|view| view.name == *name).unwrap();
            (Arc::clone(view), *version)
        };
        let views = views.iter().map(known).collect();
        let start = (after, shares.clone());
        let mut state = self.state.lock();
        state.share = Some(Share::new(start, views, self.streams.clone(), None).unwrap());
        state.to = after;
    }

    fn advance(&self, to: Lsn) {
        self.state.lock().to = to;
    }

    fn give(&self) {}

    fn given(&self) -> std::result::Result<Vec<Part>, String> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.breaks) || state.wanted.is_none() {
            state.share = None;
            return Err("it broke".into());
        }
        self.go(&mut state);
        Ok(state.share.as_mut().unwrap().give().unwrap())
    }
}

#[derive(Default)]
struct Near3(Mutex<Vec<Arc<Near>>>);

impl Crew for Near3 {
    fn hands(&self) -> Vec<Arc<dyn Hand>> {
        self.0.lock().iter().map(|hand| Arc::clone(hand) as _).collect()
    }

    fn dealt(&self, dealt: &[Dealt<'_>]) {
        for (at, one) in dealt.iter().enumerate() {
            for other in &dealt[at + 1..] {
                assert!(one.shares.these.is_disjoint(&other.shares.these));
            }
        }
    }
}

/// The rows of each view, sorted.
fn shown(snapshot: &crate::Snapshot) -> BTreeMap<String, Vec<String>> {
    let rows = |view: &crate::ViewSnapshot| {
        let batches = view.content.batches_after(Lsn::ZERO);
        let rows = view.content.output.read(&batches, "v").unwrap();
        let text = rows
            .map(|rows| arrow::util::pretty::pretty_format_batches(&[rows]).unwrap().to_string());
        let mut lines: Vec<String> = text.unwrap_or_default().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    snapshot.views.iter().map(|(name, view)| (name.clone(), rows(view))).collect()
}

async fn run(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let log = Arc::new(LocalLog::open(directory.path(), Options::default()).unwrap());
    let streams = Streams::default();
    let (name, id) = ("t".to_owned(), StreamId(1));
    streams.set(StreamInfo { id, name, schema: schema(), append_only: true, dropped: false });
    let views = compiled().await;
    let crew = Arc::new(Near3::default());
    let start = || (Lsn::ZERO, Clocks::default());
    let begin = |crew: Option<Arc<dyn Crew>>| {
        let log = Arc::clone(&log) as Arc<dyn Log>;
        Driver::start(log, streams.clone(), start(), Box::new(|_| {}), crew).unwrap()
    };
    let (split, thread) = begin(Some(Arc::clone(&crew) as _));
    let (whole, other) = begin(None);
    let attached = |compiled: &Arc<CompiledView>| Attached {
        compiled: Arc::clone(compiled),
        version: 1,
        circuit: compiled.circuit(Lsn::ZERO).unwrap(),
        lsn: Lsn::ZERO,
        clocks: Clocks::default(),
    };
    for view in &views {
        assert!(whole.attach(attached(view)).await.is_ok());
        assert!(split.attach(attached(view)).await.is_ok());
    }
    let mut head = 0;
    for turn in 0..120 {
        match rng.random_range(0..10) {
            0 => {
                let wanted = shares(&mut rng);
                crew.0.lock().push(Arc::new(Near {
                    name: format!("hand {turn}"),
                    log: Arc::clone(&log),
                    streams: streams.clone(),
                    views: views.clone(),
                    state: Mutex::new(State { wanted, ..State::default() }),
                }));
            }
            change @ 1..=3 => {
                let mut hands = crew.0.lock();
                if !hands.is_empty() {
                    let at = rng.random_range(0..hands.len());
                    let mut state = hands[at].state.lock();
                    match change {
                        1 => state.wanted = shares(&mut rng),
                        2 => state.breaks = true,
                        _ => state.full = true,
                    }
                    drop(state);
                    if rng.random_bool(0.1) {
                        hands.remove(at).state.lock().wanted = None;
                    }
                }
            }
            4 => {
                // As a batch run does: what came before is let go by both.
                let name = views[rng.random_range(0..views.len())].name.clone();
                let (at, _) = split.cut(vec![name.clone()]).await.unwrap();
                let there = whole.cut(vec![name.clone()]).await.unwrap().0;
                if at == there && rng.random_bool(0.5) {
                    split.release(&name, 1, at).await.unwrap();
                    whole.release(&name, 1, at).await.unwrap();
                }
            }
            5 => {
                for driver in [&split, &whole] {
                    driver.wait(Lsn(head)).await.unwrap();
                }
                let (one, two) = (split.whole().await.unwrap(), whole.snapshot());
                assert_eq!((one.lsn, one.apart), (Lsn(head), false), "seed {seed}");
                assert_eq!(shown(&one), shown(&two), "seed {seed}, turn {turn}");
            }
            6 => {
                let view = &views[rng.random_range(0..views.len())];
                for driver in [&split, &whole] {
                    driver.detach(&view.name).await.unwrap();
                    assert!(driver.attach(attached(view)).await.is_ok());
                }
            }
            _ => {
                let group: Vec<Commit> =
                    (1..=rng.random_range(1..6)).map(|n| commit(head + n, &mut rng)).collect();
                head += group.len() as u64;
                log.append(&group).unwrap();
            }
        }
    }
    for driver in [&split, &whole] {
        driver.wait(Lsn(head)).await.unwrap();
    }
    assert_eq!(shown(&split.whole().await.unwrap()), shown(&whole.snapshot()), "seed {seed}");
    split.stop();
    whole.stop();
    thread.join().unwrap();
    other.join().unwrap();
}

fn shares(rng: &mut SmallRng) -> Option<Shares> {
    let these = (0..OF).filter(|_| rng.random_bool(0.4)).collect();
    rng.random_bool(0.9).then_some(Shares { of: OF, these })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_the_same_however_its_commits_are_dealt() {
    for seed in 0..40 {
        run(seed).await;
    }
}
