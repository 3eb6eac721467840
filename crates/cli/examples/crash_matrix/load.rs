//! The load: writers that remember what was acknowledged, and whatever else goes on.
//!
//! A write without an answer stays pending and is sent again, unchanged, until it is acknowledged;
//! only then does the truth hold it. Nobody else writes to what a writer writes to, except that
//! acknowledged batches are sent again, which must change nothing.

use crate::server::{Client, Reply, Server};
use crate::truth::{Event, KINDS};
use anyhow::{Context, bail};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The stream that drops events it has seen, and the one that relies on producers alone.
pub const STREAMS: [&str; 2] = ["uniq", "plain"];
/// The stream some of whose events carry padding.
const PADDED: &str = "plain";
const PAD: std::ops::Range<usize> = 100_000..800_000;
const KEYS: i64 = 6;
const MAX_BATCH: usize = 8;
/// Between two writes of one writer.
const PAUSE: Duration = Duration::from_millis(8);
/// Most refusals in a row that a write bears.
const MAX_REFUSALS: usize = 2_000;
/// Ids of one writer are below this, above the previous writer's.
const IDS_PER_WRITER: i64 = 1_000_000;
/// One write in this many sends an acknowledged batch again.
const RESENDS: u32 = 8;

/// Says when a round's load ends.
pub type Stopped = watch::Receiver<bool>;

/// A batch on its way.
#[derive(Clone)]
struct Batch {
    sequence: u64,
    events: Vec<Event>,
}

/// Writes events to one stream.
pub struct Writer {
    stream: &'static str,
    /// None relies on `UNIQUE`.
    producer: Option<String>,
    rng: ChaCha8Rng,
    next_id: i64,
    sequence: u64,
    pending: Option<Batch>,
    last: Option<Batch>,
    acknowledged: Vec<Event>,
}

/// Upserts and deletes rows of the table by SQL.
pub struct Keeper {
    rng: ChaCha8Rng,
    pending: Option<(String, Option<i64>)>,
    names: BTreeMap<String, i64>,
}

/// Everything that the writers know.
pub struct World {
    writers: Vec<Writer>,
    keeper: Option<Keeper>,
    /// The acknowledged events by stream and id.
    pub events: BTreeMap<&'static str, BTreeMap<i64, Event>>,
    new: u64,
}

/// The tasks of one round.
pub struct Tasks {
    writers: Vec<JoinHandle<anyhow::Result<Writer>>>,
    keeper: JoinHandle<anyhow::Result<Keeper>>,
}

impl World {
    /// Writers with nothing written yet.
    pub fn new(seed: u64) -> Self {
        let kinds = [("uniq", true), ("uniq", false), ("plain", true), ("plain", true)];
        let writers = kinds.into_iter().zip(0..).map(|((stream, named), n)| Writer {
            stream,
            producer: named.then(|| format!("producer-{n}")),
            rng: ChaCha8Rng::seed_from_u64(seed.wrapping_add(n)),
            next_id: n as i64 * IDS_PER_WRITER,
            sequence: 0,
            pending: None,
            last: None,
            acknowledged: Vec::new(),
        });
        let rng = ChaCha8Rng::seed_from_u64(!seed);
        let keeper = Keeper { rng, pending: None, names: BTreeMap::new() };
        let events = STREAMS.into_iter().map(|s| (s, BTreeMap::new())).collect();
        Self { writers: writers.collect(), keeper: Some(keeper), events, new: 0 }
    }

    /// Lets everybody write until they are stopped or the server is gone.
    pub fn start(&mut self, server: &Server, stopped: &Stopped) -> Tasks {
        let writers = std::mem::take(&mut self.writers).into_iter();
        let writers =
            writers.map(|w| tokio::spawn(w.run(server.client(), stopped.clone()))).collect();
        let keeper = self.keeper.take().unwrap_or_else(Keeper::lost);
        let keeper = tokio::spawn(keeper.run(server.client(), stopped.clone()));
        Tasks { writers, keeper }
    }

    /// Waits for the writers to end.
    pub async fn join(&mut self, tasks: Tasks) -> anyhow::Result<()> {
        for task in tasks.writers {
            self.writers.push(task.await??);
        }
        self.keeper = Some(tasks.keeper.await??);
        self.collect();
        Ok(())
    }

    /// Sends everything that is pending until it is acknowledged, and the last acknowledged
    /// batches once more.
    pub async fn settle(&mut self, server: &Server) -> anyhow::Result<()> {
        let client = server.client();
        for writer in &mut self.writers {
            writer.send_pending(&client).await?.context("no answer from a server that runs")?;
            writer.resend(&client).await?.context("no answer from a server that runs")?;
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.send(&client).await?.context("no answer from a server that runs")?;
        }
        self.collect();
        Ok(())
    }

    fn collect(&mut self) {
        for writer in &mut self.writers {
            for event in writer.acknowledged.drain(..) {
                self.new += 1;
                self.events.entry(writer.stream).or_default().insert(event.id, event);
            }
        }
    }

    /// The table's rows.
    pub fn names(&self) -> BTreeMap<String, i64> {
        self.keeper.as_ref().map(|k| k.names.clone()).unwrap_or_default()
    }

    /// Events acknowledged since the last call.
    pub fn take_acknowledged(&mut self) -> u64 {
        std::mem::take(&mut self.new)
    }
}

impl Writer {
    async fn run(mut self, client: Client, stopped: Stopped) -> anyhow::Result<Self> {
        while !*stopped.borrow() {
            if self.pending.is_none() {
                self.pending = Some(self.batch());
            }
            if self.send_pending(&client).await?.is_none() {
                break;
            }
            if self.rng.random_ratio(1, RESENDS) && self.resend(&client).await?.is_none() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(self)
    }

    fn batch(&mut self) -> Batch {
        self.sequence += self.rng.random_range(1..=2);
        let count = self.rng.random_range(1..=MAX_BATCH);
        let events = (0..count).map(|_| self.event()).collect();
        Batch { sequence: self.sequence, events }
    }

    fn event(&mut self) -> Event {
        self.next_id += 1;
        let padded = self.stream == PADDED && self.rng.random_ratio(1, 12);
        let minutes = self.next_id % IDS_PER_WRITER / 50;
        Event {
            id: self.next_id,
            k: format!("k{}", self.rng.random_range(0..KEYS)),
            v: self.rng.random_range(0..100),
            at_s: minutes * 60 + self.rng.random_range(0..900),
            pad: if padded { self.rng.random_range(PAD) } else { 0 },
        }
    }

    /// Sends what is pending; none when there was no answer.
    async fn send_pending(&mut self, client: &Client) -> anyhow::Result<Option<()>> {
        let Some(batch) = self.pending.clone() else { return Ok(Some(())) };
        if self.send(client, &batch).await?.is_none() {
            return Ok(None);
        }
        self.acknowledged.extend(batch.events.iter().cloned());
        self.pending = None;
        self.last = Some(batch);
        Ok(Some(()))
    }

    /// Sends the last acknowledged batch again.
    async fn resend(&mut self, client: &Client) -> anyhow::Result<Option<()>> {
        match self.last.clone() {
            Some(batch) => self.send(client, &batch).await,
            None => Ok(Some(())),
        }
    }

    async fn send(&self, client: &Client, batch: &Batch) -> anyhow::Result<Option<()>> {
        let mut headers = vec![("content-type", "application/x-ndjson".to_owned())];
        if let Some(producer) = &self.producer {
            headers.push(("x-kaplan-producer", producer.clone()));
            headers.push(("x-kaplan-sequence", batch.sequence.to_string()));
        }
        let path = format!("/v1/streams/{}/events", self.stream);
        let body: String = batch.events.iter().map(Event::json).collect();
        for _ in 0..MAX_REFUSALS {
            match client.post(&path, &headers, body.clone()).await {
                Reply::Ok(_) => return Ok(Some(())),
                Reply::Refused(429 | 503, _) => tokio::time::sleep(PAUSE).await,
                Reply::Refused(status, text) => bail!("{path}: {status} {text}"),
                Reply::Unknown(_) => return Ok(None),
            }
        }
        bail!("{path}: refused {MAX_REFUSALS} times")
    }
}

impl Keeper {
    fn lost() -> Self {
        let rng = ChaCha8Rng::seed_from_u64(0);
        Self { rng, pending: None, names: BTreeMap::new() }
    }

    async fn run(mut self, client: Client, stopped: Stopped) -> anyhow::Result<Self> {
        while !*stopped.borrow() {
            if self.pending.is_none() {
                let key = format!("k{}", self.rng.random_range(0..KEYS));
                let keep = self.rng.random_ratio(3, 4);
                self.pending = Some((key, keep.then(|| self.rng.random_range(0..3))));
            }
            if self.send(&client).await?.is_none() {
                break;
            }
            tokio::time::sleep(PAUSE * 4).await;
        }
        Ok(self)
    }

    /// Sends what is pending; none when there was no answer.
    async fn send(&mut self, client: &Client) -> anyhow::Result<Option<()>> {
        let Some((key, group)) = self.pending.clone() else { return Ok(Some(())) };
        let sql = match group {
            Some(group) => format!("INSERT INTO names VALUES ('{key}', {group})"),
            None => format!("DELETE FROM names WHERE k = '{key}'"),
        };
        for _ in 0..MAX_REFUSALS {
            match client.sql(&sql).await {
                Reply::Ok(_) => {
                    match group {
                        Some(group) => self.names.insert(key, group),
                        None => self.names.remove(&key),
                    };
                    self.pending = None;
                    return Ok(Some(()));
                }
                Reply::Refused(429 | 503, _) => tokio::time::sleep(PAUSE).await,
                Reply::Refused(status, text) => bail!("{sql}: {status} {text}"),
                Reply::Unknown(_) => return Ok(None),
            }
        }
        bail!("{sql}: refused {MAX_REFUSALS} times")
    }
}

/// Asks for batch runs, one after the other, until stopped or the server is gone.
pub fn batches(client: Client, seed: u64, stopped: Stopped) -> JoinHandle<anyhow::Result<()>> {
    tokio::spawn(async move {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        while !*stopped.borrow() {
            let mode = ["auto", "full", "incremental"][rng.random_range(0..3)];
            let body = format!("{{\"mode\":\"{mode}\"}}");
            let headers = [("content-type", "application/json".to_owned())];
            match client.post("/v1/batch/runs", &headers, body).await {
                Reply::Ok(run) if rng.random_ratio(3, 4) => ended(&client, &run).await,
                Reply::Ok(_) | Reply::Refused(409 | 429 | 503, _) => {}
                Reply::Refused(status, text) => bail!("batch run: {status} {text}"),
                Reply::Unknown(_) => return Ok(()),
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(20..200))).await;
        }
        Ok(())
    })
}

/// Waits until a batch run has ended or the server is gone.
async fn ended(client: &Client, run: &Value) {
    let path = format!("/v1/batch/runs/{}", run["id"].as_str().unwrap_or_default());
    while client.get(&path).await.is_ok_and(|run| run["state"] == "running") {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Replays views, with batch runs in between, until stopped or the server is gone.
pub fn replays(client: Client, seed: u64, stopped: Stopped) -> JoinHandle<anyhow::Result<()>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let runs = rng.random_bool(0.5).then(|| batches(client.clone(), seed, stopped.clone()));
    tokio::spawn(async move {
        while !*stopped.borrow() {
            let kind = KINDS[rng.random_range(0..KINDS.len())];
            let stream = STREAMS[rng.random_range(0..STREAMS.len())];
            let architecture = ["lambda", "kappa"][rng.random_range(0..2)];
            let view = kind.view(stream, architecture);
            match client.sql(&format!("REPLAY MATERIALIZED VIEW {view}")).await {
                Reply::Ok(_) | Reply::Refused(409 | 429 | 503, _) => {}
                Reply::Refused(status, text) => bail!("REPLAY {view}: {status} {text}"),
                Reply::Unknown(_) => break,
            }
        }
        match runs {
            Some(runs) => runs.await?,
            None => Ok(()),
        }
    })
}

/// Creates and drops a view again and again until stopped or the server is gone.
pub fn definitions(client: Client, seed: u64, stopped: Stopped) -> JoinHandle<anyhow::Result<()>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    tokio::spawn(async move {
        while !*stopped.borrow() {
            let kind = KINDS[rng.random_range(0..KINDS.len())];
            let stream = STREAMS[rng.random_range(0..STREAMS.len())];
            let architecture = ["lambda", "kappa"][rng.random_range(0..2)];
            let query = kind.query(stream);
            let create = format!(
                "CREATE MATERIALIZED VIEW IF NOT EXISTS passing
                 WITH (architecture = '{architecture}') AS {query}"
            );
            for sql in [create.as_str(), "DROP MATERIALIZED VIEW IF EXISTS passing"] {
                match client.sql(sql).await {
                    Reply::Ok(_) | Reply::Refused(409 | 429 | 503, _) => {}
                    Reply::Refused(status, text) => bail!("{sql}: {status} {text}"),
                    Reply::Unknown(_) => return Ok(()),
                }
            }
        }
        Ok(())
    })
}
