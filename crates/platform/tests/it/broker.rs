//! One real Kafka broker for all tests that run at the time: started by `scripts/kafka.sh` on free
//! ports, stopped when the last of them ends. Where its jars cannot be had the tests say so; with CI
//! set they fail.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(300);

static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
static SECURE: Mutex<Weak<Broker>> = Mutex::new(Weak::new());

pub struct Broker {
    dir: tempfile::TempDir,
    pub port: u16,
    also: Also,
    process: Mutex<Option<Child>>,
}

/// How clients may come beside the port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Also {
    None,
    /// By the port after the next one, which sends them here.
    Proxy(u16),
    /// By ports that demand SASL, or TLS.
    Secure,
}

/// Of the ports that demand SASL.
pub const USER: &str = "kaplan";
pub const PASSWORD: &str = "kaplan-secret";

/// A record: partition, key, value, headers.
pub struct Sent<'a> {
    pub partition: i32,
    pub key: Option<&'a str>,
    pub value: Option<&'a str>,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kafka.sh")
}

/// A port whose next three are free too: the controller, and clients that come otherwise.
fn free_port() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if port < u16::MAX - 2 && (1..=3).all(|next| free(port + next)) {
            return port;
        }
    }
}

impl Broker {
    /// The broker that the tests share; none where there can be no broker.
    pub fn shared() -> Option<Arc<Broker>> {
        Broker::one(&SHARED, Also::None)
    }

    /// The same, where clients may also come by ports that demand SASL, or TLS.
    pub fn secure() -> Option<Arc<Broker>> {
        Broker::one(&SECURE, Also::Secure)
    }

    fn one(shared: &Mutex<Weak<Broker>>, also: Also) -> Option<Arc<Broker>> {
        let mut shared = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(broker) = shared.upgrade() {
            return Some(broker);
        }
        let broker = Arc::new(Broker::begin(also)?);
        *shared = Arc::downgrade(&broker);
        Some(broker)
    }

    /// A broker of the test's own, which it may kill.
    pub fn new() -> Option<Broker> {
        Broker::begin(Also::None)
    }

    /// The same, where clients may come by a proxy, which leads to the port after the next one.
    pub fn behind(proxy: u16) -> Option<Broker> {
        Broker::begin(Also::Proxy(proxy))
    }

    fn begin(also: Also) -> Option<Broker> {
        let fetched = Command::new(script()).arg("fetch").status().unwrap();
        if fetched.code() == Some(77) {
            assert!(std::env::var_os("CI").is_none(), "CI needs maven and java for Kafka");
            eprintln!("left out: no Kafka broker can be had here (maven, java)");
            return None;
        }
        assert!(fetched.success(), "scripts/kafka.sh fetch: {fetched}");
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker { dir, port: free_port(), also, process: Mutex::new(None) };
        broker.start();
        Some(broker)
    }

    pub fn start(&self) {
        let mut child = Command::new(script())
            .arg("run")
            .arg(self.dir.path())
            .arg(self.port.to_string())
            .args(match self.also {
                Also::None => None,
                Also::Proxy(port) => Some(port.to_string()),
                Also::Secure => Some("secure".to_owned()),
            })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "{}", self.log());
        *self.process.lock().unwrap() = Some(child);
        let consumer: BaseConsumer = self.config().create().unwrap();
        let since = Instant::now();
        while consumer.fetch_metadata(None, Duration::from_secs(5)).is_err() {
            assert!(since.elapsed() < PATIENCE, "{}", self.log());
        }
    }

    /// `host:port` of the port that demands SASL.
    pub fn sasl(&self) -> String {
        assert!(self.also == Also::Secure);
        format!("127.0.0.1:{}", self.port + 2)
    }

    /// `host:port` of the port that demands TLS.
    pub fn tls(&self) -> String {
        assert!(self.also == Also::Secure);
        format!("127.0.0.1:{}", self.port + 3)
    }

    /// The certificate of the authority that the port vouches for itself with.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("tls/ca.pem")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out.log")).unwrap_or_default()
    }

    /// Ends the broker at once, as `kill -9` does.
    pub fn kill(&self) {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).unwrap();
        Command::new("kill").arg("-9").arg(pid.trim()).status().unwrap();
        self.stop();
    }

    fn stop(&self) {
        if let Some(mut child) = self.process.lock().unwrap().take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", format!("127.0.0.1:{}", self.port));
        config
    }

    /// `connector = 'kafka', ..` of a topic, for `WITH (..)`; by the proxy if there is one.
    pub fn with(&self, topic: &str) -> String {
        let port = if let Also::Proxy(port) = self.also { port } else { self.port };
        format!(
            "connector = 'kafka', topic = '{topic}', \
             properties.bootstrap.server = '127.0.0.1:{port}'"
        )
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    pub async fn create(&self, topic: &str, partitions: i32) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let done = self.admin().create_topics([&new], &options).await.unwrap();
        done[0].as_ref().unwrap();
    }

    pub async fn widen(&self, topic: &str, partitions: usize) {
        let new = NewPartitions::new(topic, partitions);
        let done = self.admin().create_partitions([&new], &AdminOptions::new()).await.unwrap();
        done[0].as_ref().unwrap();
    }

    pub async fn delete(&self, topic: &str) {
        let done = self.admin().delete_topics(&[topic], &AdminOptions::new()).await.unwrap();
        done[0].as_ref().unwrap();
    }

    /// Writes records, in order, and returns when the broker has them.
    pub async fn send(&self, topic: &str, records: &[Sent<'_>]) {
        let producer: FutureProducer = self.config().set("linger.ms", "5").create().unwrap();
        let sent = records.iter().map(|r| {
            let headers = OwnedHeaders::new()
                .insert(rdkafka::message::Header { key: "trace", value: Some("t1") });
            let mut record = FutureRecord::<str, str>::to(topic);
            record = record.partition(r.partition).headers(headers).timestamp(1_700_000_000_000);
            record.key = r.key;
            record.payload = r.value;
            producer.send_result(record).map_err(|(e, _)| e).unwrap()
        });
        for delivered in sent.collect::<Vec<_>>() {
            delivered.await.unwrap().map_err(|(e, _)| e).unwrap();
        }
    }

    /// Everything that a committed-only reader finds in a topic: keys and values, partition by
    /// partition.
    pub fn read(&self, topic: &str) -> Vec<(i32, Option<String>, Option<String>)> {
        let consumer: BaseConsumer = self
            .config()
            .set("group.id", "reader")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(20)).unwrap();
        let partitions = metadata.topics()[0].partitions().len();
        let mut list = rdkafka::TopicPartitionList::new();
        for partition in 0..partitions {
            let partition = i32::try_from(partition).unwrap();
            list.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let (mut ends, mut found, since) = (0, Vec::new(), Instant::now());
        while ends < partitions {
            assert!(since.elapsed() < PATIENCE, "the topic {topic} does not end");
            match consumer.poll(Duration::from_secs(1)) {
                Some(Ok(m)) => {
                    let text = |b: Option<&[u8]>| b.map(|b| String::from_utf8_lossy(b).into());
                    found.push((m.partition(), text(m.key()), text(m.payload())));
                }
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ends += 1,
                Some(Err(e)) => panic!("{e}"),
                None => {}
            }
        }
        found.sort_by_key(|(partition, ..)| *partition);
        found
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}
