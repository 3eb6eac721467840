//! A topic that is read and topics that are written, by a real broker that is killed and cut off now and
//! then as well. What the topic holds is the truth: whatever the broker kept must be in the stream and the
//! views once, and in the topics that they are written to once.

use crate::broker::{Broker, Sent};
use crate::check::Report;
use crate::database::settled;
use crate::faults::Beside;
use crate::load::Stopped;
use crate::proxy::Proxy;
use crate::say;
use crate::server::Server;
use anyhow::Context;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

const PARTITIONS: i32 = 3;
const MAX_BATCH: usize = 12;
const PAUSE: Duration = Duration::from_millis(10);

/// The broker, the proxy before it, and what was sent to it.
pub struct Queue {
    broker: Arc<Broker>,
    proxy: Proxy,
    /// The number of the data directory: each has topics of its own.
    life: u32,
    sent: u64,
    /// Records of this life that were counted already.
    counted: u64,
}

impl Queue {
    /// A broker; none where there can be no broker, which is said.
    pub async fn new() -> anyhow::Result<Option<Self>> {
        let proxy = Proxy::start().await?;
        let Some(broker) = Broker::behind(proxy.port) else { return Ok(None) };
        // The port between is the controller's.
        proxy.lead_to(broker.port + 2);
        Ok(Some(Self { broker: Arc::new(broker), proxy, life: 0, sent: 0, counted: 0 }))
    }

    fn topic(&self, name: &str) -> String {
        format!("{name}{}", self.life)
    }

    /// Topics, a source, a view over it, and sinks of both.
    pub async fn define(&mut self, server: &Server) -> anyhow::Result<()> {
        (self.life, self.counted) = (self.life + 1, 0);
        let [input, copy, sums] = ["in", "copy", "sums"].map(|name| self.topic(name));
        self.broker.create(&input, PARTITIONS).await;
        self.broker.create(&copy, 2).await;
        self.broker.create(&sums, 2).await;
        let with = |topic: &str| self.broker.with(topic);
        let sql = format!(
            "CREATE SOURCE queue (id bigint NOT NULL, k text) WITH ({}) FORMAT PLAIN ENCODE JSON;
             CREATE MATERIALIZED VIEW queue_sums AS
               SELECT k, count(*) AS n, sum(id) AS ids FROM queue GROUP BY k;
             CREATE SINK copy FROM queue WITH ({}, type = 'append-only');
             CREATE SINK sums FROM queue_sums WITH ({}, type = 'upsert')",
            with(&input),
            with(&copy),
            with(&sums)
        );
        server.client().sql_ok(&sql).await.map(drop)
    }

    /// Writes to the topic until it is stopped; what the broker did not take is not sent again.
    pub fn start(&mut self, seed: u64, mut stopped: Stopped) -> anyhow::Result<JoinHandle<()>> {
        let producer: FutureProducer =
            self.broker.config().set("message.timeout.ms", "2000").create()?;
        let (topic, mut id) = (self.topic("in"), self.sent);
        // The next writer begins far above whatever this one sends.
        self.sent += 1_000_000;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Ok(tokio::spawn(async move {
            while !*stopped.borrow() {
                for _ in 0..rng.random_range(1..MAX_BATCH) {
                    let value = format!("{{\"id\":{id},\"k\":\"k{}\"}}", rng.random_range(0..5));
                    let record = FutureRecord::<str, str>::to(&topic);
                    let record = record.partition(rng.random_range(0..PARTITIONS)).payload(&value);
                    drop(producer.send_result(record));
                    id += 1;
                }
                tokio::select! {
                    _ = stopped.changed() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }))
    }

    /// Waits until everything is read and written, and compares.
    pub async fn check(&mut self, server: &Server, report: &mut Report) -> anyhow::Result<()> {
        // One more record in each partition: what came before it is not in flight any more.
        let last: Vec<String> =
            (0..PARTITIONS).map(|p| format!("{{\"id\":-{},\"k\":\"last\"}}", p + 1)).collect();
        let last: Vec<Sent<'_>> = (0..PARTITIONS)
            .zip(&last)
            .map(|(partition, value)| Sent { partition, key: None, value: Some(value) })
            .collect();
        self.broker.send(&self.topic("in"), &last).await;
        let truth = ids(self.broker.read(&self.topic("in")))?;
        report.acknowledged += truth.len() as u64 - self.counted;
        self.counted = truth.len() as u64;
        let client = server.client();
        settled(&client, "queue", truth.values().sum()).await?;
        let rows = client.rows("SELECT id FROM queue").await?;
        let rows = rows.iter().filter_map(|r| r[0].as_i64());
        compare("queue", &truth, &bag(rows), report);
        compare("copy", &truth, &ids(self.broker.read(&self.topic("copy")))?, report);
        let served = client.rows("SELECT k, n, ids FROM queue_sums").await?;
        let served: BTreeMap<String, String> = served
            .iter()
            .map(|row| {
                (row[0].as_str().unwrap_or_default().to_owned(), format!("{} {}", row[1], row[2]))
            })
            .collect();
        let mut written = BTreeMap::new();
        for (_, _, value) in self.broker.read(&self.topic("sums")) {
            let row: Value = serde_json::from_str(&value.context("a sum went")?)?;
            let key = row["k"].as_str().unwrap_or_default().to_owned();
            written.insert(key, format!("{} {}", row["n"], row["ids"]));
        }
        if served != written {
            report.violation(format!("sums: served {served:?}, written {written:?}"));
        }
        Ok(())
    }
}

impl Beside for Queue {
    const ROUNDS_PER_KILL: u32 = 12;

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    async fn kill(&self) -> anyhow::Result<()> {
        let broker = Arc::clone(&self.broker);
        Ok(tokio::task::spawn_blocking(move || broker.kill()).await?)
    }

    async fn revive(&self) -> anyhow::Result<()> {
        let broker = Arc::clone(&self.broker);
        Ok(tokio::task::spawn_blocking(move || broker.start()).await?)
    }
}

fn bag(ids: impl Iterator<Item = i64>) -> BTreeMap<i64, u64> {
    let mut bag = BTreeMap::new();
    ids.for_each(|id| *bag.entry(id).or_default() += 1);
    bag
}

fn ids(records: Vec<(i32, Option<String>, Option<String>)>) -> anyhow::Result<BTreeMap<i64, u64>> {
    let mut ids = Vec::with_capacity(records.len());
    for (_, _, value) in records {
        let value: Value = serde_json::from_str(&value.context("a record without a value")?)?;
        ids.push(value["id"].as_i64().context("a record without an id")?);
    }
    Ok(bag(ids.into_iter()))
}

fn compare(
    what: &str,
    truth: &BTreeMap<i64, u64>,
    found: &BTreeMap<i64, u64>,
    report: &mut Report,
) {
    let missing = |a: &BTreeMap<i64, u64>, b: &BTreeMap<i64, u64>| {
        let less = |(id, n): (&i64, &u64)| n.saturating_sub(b.get(id).copied().unwrap_or(0));
        a.iter().map(less).sum::<u64>()
    };
    let (lost, doubled) = (missing(truth, found), missing(found, truth));
    if lost + doubled > 0 {
        say(&format!("{what}: {lost} records lost, {doubled} too many"));
    }
    report.lost += lost;
    report.doubled += doubled;
}
