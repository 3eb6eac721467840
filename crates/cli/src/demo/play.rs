//! Plays the plan into the platform's log as a producer would: durable commits with a producer and
//! a sequence, some of them sent twice, while batch runs go on by the clock of the events.
//!
//! How far views may fall behind is bounded, so that freshness is that of a system that keeps up
//! and not of a queue that grows. A refused commit is sent again; nothing is skipped.

use super::plan::{Kind, Part, Plan};
use super::progress::Progress;
use super::source::{Events, Flights, SECOND_US, conform};
use anyhow::{Context, bail, ensure};
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use kaplan_base::Lsn;
use kaplan_platform::{
    Ack, BatchMode, BatchRequest, BatchRun, Code, Platform, Producer, RunState, Session,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// Most commits that are not visible in every view yet; further ones wait.
const MAX_UNSEEN_COMMITS: usize = 16;
/// Every so many batches the freshness of a commit is measured.
const SAMPLE_EVERY: u64 = 4;
/// Wait before a commit that was refused with "overloaded" is sent again.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(20);
/// Most times that one commit is sent again.
const MAX_RESENDS: u32 = 3_000;
/// Wait between looks at a batch run, and the most looks.
const RUN_PAUSE: Duration = Duration::from_millis(25);
const MAX_RUN_LOOKS: u32 = 40_000;

/// How to play.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Events per batch.
    pub batch_rows: usize,
    /// Events per second; as fast as possible when absent.
    pub rate: Option<f64>,
    /// Hours of event time between batch runs.
    pub batch_every_hours: f64,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Played {
    /// Events sent, with duplicates and retried commits.
    pub sent: u64,
    /// What the acknowledgements say, both streams together.
    pub acknowledged: Ack,
    /// Duplicates that were sent: planted ones and the rows of retried commits.
    pub duplicates_sent: u64,
    /// New rows behind the watermark that were sent.
    pub late_sent: u64,
    /// Commits, retried ones not counted.
    pub commits: u64,
    /// Commits that were sent twice.
    pub retried: u64,
    /// Times that the platform refused a commit because it was busy.
    pub overloads: u64,
    /// From the first commit until every commit was visible in every view, seconds.
    pub seconds: f64,
    /// From acknowledged to visible, microseconds, of sampled commits.
    pub freshness_us: Vec<u64>,
    /// The batch runs.
    pub runs: Vec<BatchRun>,
    /// The last commit.
    pub last_lsn: Lsn,
}

/// Creates streams, tables and every view in both architectures, and fills the tables.
pub async fn prepare(platform: &Platform, flights: &Flights) -> anyhow::Result<()> {
    let mut session = Session::default();
    platform.execute(&mut session, super::STREAMS_SQL).await.context("streams.sql")?;
    for architecture in super::ARCHITECTURES {
        let sql = super::VIEWS_SQL.replace("{architecture}", architecture);
        platform
            .execute(&mut session, &sql)
            .await
            .with_context(|| format!("views.sql as {architecture}"))?;
    }
    for (table, rows) in [("airlines", &flights.airlines), ("airports", &flights.airports)] {
        let rows = conform(rows, &platform.stream_schema(table)?)?;
        platform.append(table, vec![rows], None).await.with_context(|| table.to_owned())?;
    }
    Ok(())
}

/// Plays the whole plan and waits until every view has taken it in.
pub async fn play(
    platform: &Platform,
    flights: &Flights,
    plan: &Plan,
    pace: Pace,
    progress: &mut Progress,
) -> anyhow::Result<Played> {
    let mut player = Player {
        platform,
        departures: Lane::open(platform, "departures", &flights.departures)?,
        arrivals: Lane::open(platform, "arrivals", &flights.arrivals)?,
        unseen: VecDeque::new(),
        samples: JoinSet::new(),
        runs: Runs::new(platform, pace.batch_every_hours),
        batches: 0,
        played: Played::default(),
    };
    let start = Instant::now();
    for batch in plan.batches(flights, pace.batch_rows) {
        let lsn = player.send(&batch.departures, batch.retried, Kind::Departure).await?;
        let lsn = lsn.max(player.send(&batch.arrivals, batch.retried, Kind::Arrival).await?);
        player.follow(lsn, batch.retried).await?;
        player.runs.tick(batch.at_us).await?;
        let played = &player.played;
        progress.show(batch.at_us, batch.len(), &played.freshness_us, player.runs.last_lsn());
        if let Some(rate) = pace.rate {
            let due = Duration::from_secs_f64(player.played.sent as f64 / rate);
            tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
        }
    }
    platform.wait_visible(player.played.last_lsn).await?;
    player.played.seconds = start.elapsed().as_secs_f64();
    player.finish().await
}

struct Player<'a> {
    platform: &'a Platform,
    departures: Lane,
    arrivals: Lane,
    unseen: VecDeque<Lsn>,
    samples: JoinSet<anyhow::Result<u64>>,
    runs: Runs,
    batches: u64,
    played: Played,
}

/// One stream and its producer.
struct Lane {
    stream: &'static str,
    rows: RecordBatch,
    sequence: u64,
}

impl Lane {
    fn open(platform: &Platform, stream: &'static str, events: &Events) -> anyhow::Result<Self> {
        let rows = conform(&events.rows, &platform.stream_schema(stream)?)?;
        Ok(Self { stream, rows, sequence: 0 })
    }
}

impl Player<'_> {
    /// Commits one stream's part of a batch, twice if it is to be retried.
    async fn send(&mut self, part: &Part, retried: bool, kind: Kind) -> anyhow::Result<Lsn> {
        if part.rows.is_empty() {
            return Ok(Lsn::ZERO);
        }
        let lane = match kind {
            Kind::Departure => &mut self.departures,
            Kind::Arrival => &mut self.arrivals,
        };
        lane.sequence += 1;
        let stream = lane.stream;
        let producer = Producer { id: format!("flights-{stream}"), sequence: lane.sequence };
        let rows = take_record_batch(&lane.rows, &UInt32Array::from(part.rows.clone()))?;
        let first = self.append(stream, rows.clone(), producer.clone()).await?;
        self.played.commits += 1;
        self.played.duplicates_sent += part.duplicates;
        self.played.late_sent += part.late;
        if retried {
            let second = self.append(stream, rows, producer).await?;
            self.played.retried += 1;
            self.played.duplicates_sent += part.rows.len() as u64;
            ensure!(
                second.lsn == first.lsn,
                "a retried commit to {stream} was acknowledged with LSN {}, the original with {}",
                second.lsn,
                first.lsn
            );
        }
        Ok(first.lsn)
    }

    async fn append(
        &mut self,
        stream: &str,
        rows: RecordBatch,
        producer: Producer,
    ) -> anyhow::Result<Ack> {
        for _ in 0..MAX_RESENDS {
            match self.platform.append(stream, vec![rows.clone()], Some(producer.clone())).await {
                Ok(ack) => {
                    self.count(&ack);
                    return Ok(ack);
                }
                Err(error) if error.code == Code::Overloaded => {
                    self.played.overloads += 1;
                    tokio::time::sleep(OVERLOAD_PAUSE).await;
                }
                Err(error) => return Err(error).with_context(|| format!("append to {stream}")),
            }
        }
        bail!("{stream} refused a commit {MAX_RESENDS} times as overloaded")
    }

    fn count(&mut self, ack: &Ack) {
        let total = &mut self.played.acknowledged;
        total.lsn = total.lsn.max(ack.lsn);
        total.rows += ack.rows;
        total.duplicates += ack.duplicates;
        total.late += ack.late;
        total.quarantined += ack.quarantined;
        total.dropped += ack.dropped;
        self.played.sent += ack.rows;
        self.played.last_lsn = total.lsn;
    }

    /// Samples how soon the commit is visible, and waits when views are too far behind. A retried
    /// commit was acknowledged a while ago, so it says nothing about freshness.
    async fn follow(&mut self, lsn: Lsn, retried: bool) -> anyhow::Result<()> {
        self.batches += 1;
        if !retried && self.batches.is_multiple_of(SAMPLE_EVERY) {
            let (platform, acknowledged) = (self.platform.clone(), Instant::now());
            self.samples.spawn(async move {
                platform.wait_visible(lsn).await?;
                Ok(u64::try_from(acknowledged.elapsed().as_micros()).unwrap_or(u64::MAX))
            });
        }
        while let Some(sample) = self.samples.try_join_next() {
            self.played.freshness_us.push(sample??);
        }
        self.unseen.push_back(lsn);
        if self.unseen.len() > MAX_UNSEEN_COMMITS
            && let Some(oldest) = self.unseen.pop_front()
        {
            self.platform.wait_visible(oldest).await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> anyhow::Result<Played> {
        while let Some(sample) = self.samples.join_next().await {
            self.played.freshness_us.push(sample??);
        }
        self.played.runs = self.runs.finish().await?;
        Ok(self.played)
    }
}

/// Batch runs by the clock of the events, at most one at a time.
struct Runs {
    platform: Platform,
    every_us: i64,
    due_us: Option<i64>,
    under_way: Option<JoinHandle<anyhow::Result<BatchRun>>>,
    done: Vec<BatchRun>,
}

impl Runs {
    fn new(platform: &Platform, every_hours: f64) -> Self {
        Self {
            platform: platform.clone(),
            every_us: (every_hours * 3600.0) as i64 * SECOND_US,
            due_us: None,
            under_way: None,
            done: Vec::new(),
        }
    }

    fn last_lsn(&self) -> Option<Lsn> {
        self.done.last().and_then(|run| run.lsn)
    }

    /// Tells what time it is. A run that falls due while another is under way starts after it.
    async fn tick(&mut self, now_us: i64) -> anyhow::Result<()> {
        let due_us = *self.due_us.get_or_insert(now_us + self.every_us);
        if self.under_way.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join().await?;
        }
        if now_us >= due_us && self.under_way.is_none() {
            self.start();
            self.due_us = Some(now_us + self.every_us);
        }
        Ok(())
    }

    fn start(&mut self) {
        let platform = self.platform.clone();
        let request = BatchRequest { views: Vec::new(), mode: BatchMode::Auto, key: None };
        self.under_way = Some(tokio::spawn(async move {
            let run = platform.start_batch_run(request, "schedule").await?;
            for _ in 0..MAX_RUN_LOOKS {
                let run = platform.batch_run(&run.id).context("the batch run is unknown")?;
                if run.state != RunState::Running {
                    return Ok(run);
                }
                tokio::time::sleep(RUN_PAUSE).await;
            }
            bail!("batch run {} does not end", run.id)
        }));
    }

    async fn join(&mut self) -> anyhow::Result<()> {
        if let Some(run) = self.under_way.take() {
            self.done.push(run.await??);
        }
        Ok(())
    }

    /// Waits for the last run; where the year was too short for one, makes one.
    async fn finish(mut self) -> anyhow::Result<Vec<BatchRun>> {
        if self.done.is_empty() && self.under_way.is_none() {
            self.start();
        }
        self.join().await?;
        Ok(self.done)
    }
}
