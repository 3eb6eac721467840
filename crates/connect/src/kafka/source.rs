//! A topic as a source. A split is a partition, a position the next offset.
//!
//! What `scan.startup.mode` says holds for the partitions that are there when the source reads for
//! the first time; one that appears later is read from its beginning. How many are known is a
//! position too (the split `partitions`), committed after theirs.
//!
//! An offset that is not there any more stops the source, visibly: going on elsewhere would lose
//! rows in silence. With `scan.on.gap = 'skip'` it goes on at the first record that is there, and
//! says so in the ledger.

use super::reach::{Complaints, Reader, reach};
use super::{ASK, blocking, client, needed, refuse_unknown, trouble};
use crate::decode::{Decoder, Layout, OPTIONS, Record};
use crate::source::{
    Grown, Lag, MAX_PARCEL_BYTES, MAX_PARCEL_ROWS, POLL_WAIT, Parcel, Positions, Rejected, Source,
    Spec,
};
use crate::{Error, Result, drift};
use async_trait::async_trait;
use kaplan_sql::catalog::ColumnDef;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often partitions that appear, and the ends of those there are, are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// How often a consumer group of the user's is told the offsets.
const TELL: Duration = Duration::from_secs(5);
/// The split whose position is the number of partitions known.
const PARTITIONS: &str = "partitions";

/// Where partitions begin that are read for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Startup {
    Earliest,
    Latest,
    /// The first record at or after this time, milliseconds since the Unix epoch.
    Timestamp(i64),
}

/// A topic.
pub struct KafkaSource {
    name: String,
    topic: String,
    config: ClientConfig,
    startup: Startup,
    skip_gaps: bool,
    /// A consumer group of the user's that is told how far reading has come.
    group: bool,
    decoder: Arc<Decoder>,
    consumer: Option<Arc<Reader>>,
    /// The next offset of each partition.
    next: BTreeMap<i32, u64>,
    /// Partitions whose end was reached.
    at_end: BTreeSet<i32>,
    /// The ends of the partitions, as of the last look.
    ends: BTreeMap<i32, u64>,
    looked: Instant,
    told: Instant,
    /// What is to be committed before anything else: partitions that appeared, gaps passed over.
    first: Vec<Parcel>,
    /// Columns that the records which were read last need.
    grown: Vec<ColumnDef>,
}

const KNOWN: [&str; 6] = [
    "topic",
    "scan.startup.mode",
    "scan.startup.timestamp.millis",
    "scan.on.gap",
    "group.id.prefix",
    "group.id",
];

impl KafkaSource {
    /// A source of a topic, without connecting.
    ///
    /// # Errors
    /// The definition is wrong.
    pub fn new(spec: &Spec) -> Result<Self> {
        let options = &spec.def.options;
        let known: Vec<&str> = KNOWN.into_iter().chain(OPTIONS).collect();
        refuse_unknown(options, &known)?;
        let option = |name: &str| options.get(name).map(String::as_str);
        let startup = match (option("scan.startup.mode"), option("scan.startup.timestamp.millis")) {
            (None | Some("earliest"), None) => Startup::Earliest,
            (Some("latest"), None) => Startup::Latest,
            (Some("timestamp") | None, Some(at)) => {
                Startup::Timestamp(at.parse().map_err(|_| {
                    Error::config(format!("scan.startup.timestamp.millis = '{at}' is no time"))
                        .hint("write milliseconds since 1970, such as '1767225600000'")
                })?)
            }
            _ => {
                return Err(Error::config("scan.startup.mode makes no sense").hint(
                    "it is 'earliest', 'latest', or 'timestamp' with scan.startup.timestamp.millis",
                ));
            }
        };
        let skip_gaps = match option("scan.on.gap") {
            None | Some("stop") => false,
            Some("skip") => true,
            Some(other) => {
                return Err(Error::config(format!("scan.on.gap = '{other}' is not possible"))
                    .hint("scan.on.gap is one of 'stop', 'skip'"));
            }
        };
        let group = option("group.id");
        let own = format!("{}-{}", option("group.id.prefix").unwrap_or("kaplan"), spec.def.name);
        let fixed = [
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "true"),
            ("group.id", group.unwrap_or(&own)),
        ];
        let mut config = client(options, &fixed)?;
        if config.get("isolation.level").is_none() {
            config.set("isolation.level", "read_committed");
        }
        if config.get("fetch.wait.max.ms").is_none() {
            config.set("fetch.wait.max.ms", "100");
        }
        let topic = needed(options, "topic")?.to_owned();
        let target = spec.targets.first();
        let layout = Layout::of(spec, target)?;
        let target = target.cloned().unwrap_or_else(|| crate::source::Target {
            name: spec.def.name.clone(),
            upstream: None,
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            primary_key: Vec::new(),
            append_only: true,
            columns: Vec::new(),
        });
        let now = Instant::now();
        Ok(Self {
            name: spec.def.name.clone(),
            topic,
            config,
            startup,
            skip_gaps,
            group: group.is_some(),
            decoder: Arc::new(Decoder::new(target, layout)),
            consumer: None,
            next: BTreeMap::new(),
            at_end: BTreeSet::new(),
            ends: BTreeMap::new(),
            looked: now,
            told: now,
            first: Vec::new(),
            grown: Vec::new(),
        })
    }

    /// Asks the brokers something, off the async threads.
    async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Reader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let consumer = self.consumer.clone();
        let consumer = consumer.ok_or_else(|| Error::unavailable("the source is not open"))?;
        blocking(move || what(&consumer)).await
    }

    /// The bounds of all partitions: the first offset that is there, and the one after the last.
    async fn bounds(&self) -> Result<BTreeMap<i32, (u64, u64)>> {
        let topic = self.topic.clone();
        self.ask(move |consumer| bounds(consumer, &topic)).await
    }

    /// Looks for partitions that appeared, and how far there is to read.
    async fn look(&mut self) -> Result<()> {
        let bounds = self.bounds().await?;
        self.looked = Instant::now();
        self.ends = bounds.iter().map(|(p, (_, high))| (*p, *high)).collect();
        let new: Vec<i32> = bounds.keys().copied().filter(|p| !self.next.contains_key(p)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for partition in &new {
            let low = bounds.get(partition).map_or(0, |(low, _)| *low);
            self.next.insert(*partition, low);
            self.first.push(Parcel::at(partition.to_string(), low));
        }
        self.first.push(Parcel::at(PARTITIONS, self.next.len() as u64));
        let list = self.list(new.into_iter())?;
        self.ask(move |consumer| {
            let assigned = consumer.incremental_assign(&list);
            assigned.map_err(|e| trouble("cannot read partitions that appeared", &e))
        })
        .await
    }

    fn list(&self, partitions: impl Iterator<Item = i32>) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            let offset = self.next.get(&partition).copied().unwrap_or_default();
            let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
            list.add_partition_offset(&self.topic, partition, offset)
                .map_err(|e| trouble("cannot read a partition", &e))?;
        }
        Ok(list)
    }

    /// Where partitions begin that nothing was read of.
    async fn begin(
        &self,
        bounds: &BTreeMap<i32, (u64, u64)>,
        first: bool,
    ) -> Result<Vec<(i32, u64)>> {
        let new = bounds.iter().filter(|(p, _)| !self.next.contains_key(p));
        let new: Vec<(i32, (u64, u64))> = new.map(|(p, b)| (*p, *b)).collect();
        Ok(match self.startup {
            Startup::Latest if first => new.into_iter().map(|(p, (_, high))| (p, high)).collect(),
            Startup::Timestamp(at) if first && !new.is_empty() => {
                let mut times = TopicPartitionList::new();
                for (partition, _) in &new {
                    times
                        .add_partition_offset(&self.topic, *partition, Offset::Offset(at))
                        .map_err(|e| trouble("cannot ask for offsets by time", &e))?;
                }
                let found = self.ask(move |consumer| {
                    let found = consumer.offsets_for_times(times, ASK);
                    found.map_err(|e| trouble("cannot ask for offsets by time", &e))
                });
                let found = found.await?;
                let offset = |p: i32, high: u64| match found.find_partition(&self.topic, p) {
                    Some(e) => match e.offset() {
                        Offset::Offset(at) => u64::try_from(at).unwrap_or(high),
                        _ => high,
                    },
                    None => high,
                };
                new.into_iter().map(|(p, (_, high))| (p, offset(p, high))).collect()
            }
            _ => new.into_iter().map(|(p, (low, _))| (p, low)).collect(),
        })
    }

    /// Sees that what is to be read next is there.
    fn check_gaps(&mut self, bounds: &BTreeMap<i32, (u64, u64)>) -> Result<()> {
        for (partition, next) in &mut self.next {
            let topic = &self.topic;
            let Some((low, high)) = bounds.get(partition).copied() else {
                return Err(Error::gap(format!("partition {partition} of {topic} is gone")).hint(
                    "a topic cannot lose partitions: if it was made anew, DROP the source \
                           and CREATE it again",
                ));
            };
            if (low..=high).contains(next) {
                continue;
            }
            let held = format!(
                "offset {next} of partition {partition} of {topic} is not there any more: it has \
                 {low} to {high}"
            );
            if !self.skip_gaps || *next > high {
                let hint = match *next > high {
                    true => "if the topic was made anew, DROP the source and CREATE it again",
                    false => {
                        "records were deleted before they were read; CREATE the source with \
                              scan.on.gap = 'skip' to go on with those that are there"
                    }
                };
                return Err(Error::gap(held).hint(hint));
            }
            let mut parcel = Parcel::at(partition.to_string(), low);
            parcel.rejected.push(Rejected {
                position: *next,
                reason: format!("{held}; reading goes on at {low}"),
                ..Rejected::default()
            });
            self.first.push(parcel);
            *next = low;
        }
        Ok(())
    }
}

fn bounds(consumer: &Reader, topic: &str) -> Result<BTreeMap<i32, (u64, u64)>> {
    let failed = |e: KafkaError| trouble(&format!("cannot read the topic {topic}"), &e);
    let metadata = consumer.fetch_metadata(Some(topic), ASK).map_err(failed)?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    let partitions = found.map(|t| t.partitions()).unwrap_or_default();
    if partitions.is_empty() {
        let error = found.and_then(|t| t.error()).map(RDKafkaErrorCode::from);
        let error = error.unwrap_or(RDKafkaErrorCode::UnknownTopic);
        return Err(failed(KafkaError::MetadataFetch(error)));
    }
    let mut bounds = BTreeMap::new();
    for partition in partitions {
        let id = partition.id();
        let (low, high) = consumer.fetch_watermarks(topic, id, ASK).map_err(failed)?;
        let unsigned = |offset: i64| u64::try_from(offset).unwrap_or(0);
        bounds.insert(id, (unsigned(low), unsigned(high)));
    }
    Ok(bounds)
}

/// Records of one partition, in one buffer.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    records: Vec<Stored>,
}

struct Stored {
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    offset: u64,
    timestamp_us: Option<i64>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Gathered {
    fn add(&mut self, message: &BorrowedMessage<'_>) {
        let mut keep = |part: Option<&[u8]>| {
            part.map(|part| {
                let from = self.bytes.len();
                self.bytes.extend_from_slice(part);
                from..self.bytes.len()
            })
        };
        let (key, value) = (keep(message.key()), keep(message.payload()));
        let headers = message.headers().map(|headers| {
            let header = |h: rdkafka::message::Header<'_, &[u8]>| {
                (h.key.to_owned(), h.value.map(<[u8]>::to_vec))
            };
            headers.iter().map(header).collect()
        });
        self.records.push(Stored {
            key,
            value,
            offset: u64::try_from(message.offset()).unwrap_or_default(),
            timestamp_us: message.timestamp().to_millis().map(|ms| ms.saturating_mul(1_000)),
            headers: headers.unwrap_or_default(),
        });
    }

    fn records(&self) -> Vec<Record<'_>> {
        let part = |range: &Option<Range<usize>>| range.clone().map(|r| &self.bytes[r]);
        let records = self.records.iter().map(|r| Record {
            key: part(&r.key),
            value: part(&r.value),
            position: r.offset,
            timestamp_us: r.timestamp_us,
            headers: r.headers.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect(),
        });
        records.collect()
    }

    fn parcel(&self, partition: i32, decoder: &Decoder) -> Result<Parcel> {
        let (split, records) = (partition.to_string(), self.records());
        decoder.prepare(&records)?;
        let position = self.records.last().map_or(0, |r| r.offset + 1);
        let (changes, rejected) = decoder.decode(&split, &records);
        Ok(Parcel { split, position, changes, rejected })
    }
}

/// What one look at the queue gave.
#[derive(Default)]
struct Polled {
    parcels: Vec<Parcel>,
    next: BTreeMap<i32, u64>,
    at_end: Vec<i32>,
    grown: Vec<ColumnDef>,
}

/// Takes what is there, up to the size of a parcel, and decodes it.
fn gather(consumer: &Reader, topic: &str, decoder: &Decoder) -> Result<Polled> {
    let mut parts: BTreeMap<i32, Gathered> = BTreeMap::new();
    let mut polled = Polled::default();
    let (mut rows, mut bytes, mut wait) = (0, 0, POLL_WAIT);
    while rows < MAX_PARCEL_ROWS && bytes < MAX_PARCEL_BYTES {
        match consumer.poll(wait) {
            None => break,
            Some(Ok(message)) => {
                rows += 1;
                bytes += message.payload_len() + message.key_len();
                parts.entry(message.partition()).or_default().add(&message);
                wait = Duration::ZERO;
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => polled.at_end.push(partition),
            Some(Err(error)) => return Err(gap_or_trouble(topic, &error)),
        }
    }
    let mut fields = drift::Fields::default();
    parts.values().for_each(|gathered| decoder.unknown(&gathered.records(), &mut fields));
    polled.grown = decoder.grown(&fields);
    if !polled.grown.is_empty() {
        return Ok(polled);
    }
    for (partition, gathered) in parts {
        let parcel = gathered.parcel(partition, decoder)?;
        polled.next.insert(partition, parcel.position);
        polled.parcels.push(parcel);
    }
    Ok(polled)
}

fn gap_or_trouble(topic: &str, error: &KafkaError) -> Error {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
            Error::unavailable(format!("an offset of {topic} is not there any more"))
        }
        _ => trouble(&format!("cannot read the topic {topic}"), error),
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn open(&mut self, committed: &Positions) -> Result<Positions> {
        let (config, topic) = (self.config.clone(), self.topic.clone());
        let consumer = blocking(move || {
            let made = config.create_with_context::<_, Reader>(Complaints::default());
            let made = made.map_err(|e| Error::config(e.to_string()))?;
            reach(&made, &topic, &format!("cannot read the topic {topic}")).map(|_| made)
        });
        self.consumer = Some(Arc::new(consumer.await?));
        self.next = committed
            .iter()
            .filter_map(|(split, position)| Some((split.parse().ok()?, *position)))
            .collect();
        let bounds = self.bounds().await?;
        self.first.clear();
        self.check_gaps(&bounds)?;
        let first = !committed.contains_key(PARTITIONS);
        let begun = self.begin(&bounds, first).await?;
        self.next.extend(begun.iter().copied());
        self.ends = bounds.iter().map(|(p, (_, high))| (*p, *high)).collect();
        let list = self.list(self.next.keys().copied())?;
        self.ask(move |consumer| {
            consumer.assign(&list).map_err(|e| trouble("cannot read the partitions", &e))
        })
        .await?;
        let mut begun: Positions = begun.into_iter().map(|(p, at)| (p.to_string(), at)).collect();
        let known = self.next.len() as u64;
        if committed.get(PARTITIONS).is_none_or(|before| *before < known) {
            begun.insert(PARTITIONS.to_owned(), known);
        }
        tracing::debug!(source = self.name, partitions = known, "a topic is read");
        Ok(begun)
    }

    async fn poll(&mut self) -> Result<Vec<Parcel>> {
        if !self.first.is_empty() {
            return Ok(std::mem::take(&mut self.first));
        }
        if self.looked.elapsed() >= LOOK {
            self.look().await?;
            if !self.first.is_empty() {
                return Ok(std::mem::take(&mut self.first));
            }
        }
        let (topic, decoder) = (self.topic.clone(), Arc::clone(&self.decoder));
        let polled = self.ask(move |consumer| gather(consumer, &topic, &decoder)).await?;
        for (partition, next) in polled.next {
            self.next.insert(partition, next);
            self.at_end.remove(&partition);
        }
        self.at_end.extend(polled.at_end);
        self.grown = polled.grown;
        Ok(polled.parcels)
    }

    fn grown(&mut self) -> Vec<Grown> {
        let columns = std::mem::take(&mut self.grown);
        if columns.is_empty() { Vec::new() } else { vec![Grown { target: 0, columns }] }
    }

    async fn committed(&mut self, _: &str, _: u64) -> Result<()> {
        if !self.group || self.told.elapsed() < TELL {
            return Ok(());
        }
        self.told = Instant::now();
        let list = self.list(self.next.keys().copied())?;
        // For those who watch the group: nothing here depends on it.
        let told = self.ask(move |consumer| Ok(consumer.commit(&list, CommitMode::Async))).await?;
        drop(told);
        Ok(())
    }

    fn lag(&self) -> Option<Lag> {
        let behind = |(partition, next): (&i32, &u64)| match self.at_end.contains(partition) {
            true => 0,
            false => self.ends.get(partition).map_or(0, |end| end.saturating_sub(*next)),
        };
        Some(Lag { amount: self.next.iter().map(behind).sum(), unit: "messages" })
    }
}
