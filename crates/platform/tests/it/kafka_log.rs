//! Kafka as the log of the platform, on a real broker: restarts, take-overs, trimming, and data that
//! has another log.

use crate::broker::Broker;
use crate::kafka::until;
use crate::support::Running;
use kaplan_base::SystemClock;
use kaplan_platform::{BatchRequest, Code, Error, Platform, Settings};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn settings(broker: &Broker, topic: &str) -> Settings {
    let log_url = format!("kafka://127.0.0.1:{}/{topic}", broker.port);
    Settings { log_url, ..Settings::default() }
}

async fn refused(dir: &Path, settings: Settings) -> Error {
    let settings = Settings { data_dir: dir.to_path_buf(), ..settings };
    match Platform::open(settings, Arc::new(SystemClock)).await {
        Ok(_) => panic!("it should be refused"),
        Err(error) => error,
    }
}

const SHOP: &str = "
    CREATE STREAM orders (id bigint NOT NULL, who text, UNIQUE (id) WITHIN INTERVAL '1 day');
    CREATE MATERIALIZED VIEW per_who WITH (architecture = 'lambda') AS
      SELECT who, count(*) AS n, sum(id) AS ids FROM orders GROUP BY who;
    CREATE MATERIALIZED VIEW live WITH (architecture = 'kappa') AS
      SELECT who, count(*) AS n, sum(id) AS ids FROM orders GROUP BY who";

/// Inserts five orders and one that was there before.
async fn insert(k: &mut Running, from: u64) {
    let rows = (from.saturating_sub(1)..from + 5).map(|i| {
        let who = ["ada", "bob", "cyd"][(i % 3) as usize];
        format!("({i}, '{who}')")
    });
    let rows = rows.collect::<Vec<_>>().join(", ");
    k.sql(&format!("INSERT INTO orders VALUES {rows}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_over_a_topic_restarts_and_counts_once() {
    let Some(broker) = Broker::shared() else { return };
    let settings = settings(&broker, "shop");
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::with(dir.path(), settings.clone()).await;
    k.sql(SHOP).await;
    let mut next = 0;
    for round in 0..4 {
        for _ in 0..5 {
            insert(&mut k, next).await;
            next += 5;
        }
        if round == 1 {
            k.sql("REFRESH MATERIALIZED VIEW per_who").await;
        }
        let expected = [next.to_string()];
        assert_eq!(k.table("SELECT sum(n) FROM per_who").await, expected);
        assert_eq!(k.table("SELECT sum(n) FROM live").await, expected);
        k.verify("per_who").await;
        k.verify("live").await;
        k.platform.close().await.unwrap();
        drop(k);
        k = Running::with(dir.path(), settings.clone()).await;
    }
    k.verify("per_who").await;
    // What the lake has is trimmed, all but the commit that says where the head is.
    let since = Instant::now();
    loop {
        let status = k.platform.status().unwrap();
        if status.log_start_lsn == status.durable_lsn {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let locked = refused(dir.path(), settings.clone()).await;
    assert!(locked.message.contains("in use by another process"), "{locked}");
    k.platform.close().await.unwrap();
}

const CHILD: &str = "KAPLAN_TEST_KAFKA_LOG";

/// Run as a process of its own it inserts until it is killed, and says how many orders were
/// acknowledged; otherwise it starts that process again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_platform_over_a_topic_loses_nothing() {
    if let Some(child) = std::env::var_os(CHILD) {
        let child = child.into_string().unwrap();
        let (log_url, dir) = child.split_once(' ').unwrap();
        let settings = Settings { log_url: log_url.to_owned(), ..Settings::default() };
        let mut k = Running::with(Path::new(dir), settings).await;
        if k.table("SHOW VIEWS").await.is_empty() {
            k.sql(SHOP).await;
        }
        let held = k.table("SELECT coalesce(sum(n), 0) FROM live").await;
        let mut next = held[0].parse::<u64>().unwrap();
        loop {
            insert(&mut k, next).await;
            next += 5;
            println!("\nacknowledged {next}");
        }
    }
    let Some(broker) = Broker::shared() else { return };
    let settings = settings(&broker, "killed-platform");
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kafka_log::a_killed_platform_over_a_topic_loses_nothing", "--exact"])
            .arg("--nocapture")
            .env(CHILD, format!("{} {}", settings.log_url, dir.path().display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let told = lines.filter_map(|l| l.strip_prefix("acknowledged ")?.parse::<u64>().ok());
        let last = told.take(30).last();
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = last.expect("it acknowledges something");
    }
    let mut k = Running::with(dir.path(), settings).await;
    let counts = k.table("SELECT sum(n), sum(ids) FROM live").await;
    let n = counts[0].split('|').next().unwrap().parse::<u64>().unwrap();
    assert!(n >= acknowledged, "{n} of {acknowledged}");
    // Each id from 0 on is there once.
    assert_eq!(counts, [format!("{n}|{}", n * (n - 1) / 2)]);
    assert_eq!(k.table("SELECT sum(n), sum(ids) FROM per_who").await, counts);
    k.verify("per_who").await;
    k.verify("live").await;
    k.platform.close().await.unwrap();
}

/// The data is restored elsewhere, and a platform is started on the copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_opening_fences_the_first() {
    let Some(broker) = Broker::shared() else { return };
    let settings = settings(&broker, "fence");
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut k = Running::with(dir.path(), settings.clone()).await;
    k.sql(SHOP).await;
    k.platform.close().await.unwrap();
    drop(k);
    let from = dir.path().join(".");
    let copied = Command::new("cp").arg("-a").arg(from).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let mut first = Running::with(dir.path(), settings.clone()).await;
    insert(&mut first, 10).await;
    let mut second = Running::with(copy.path(), settings.clone()).await;
    assert_eq!(second.table("SELECT sum(n) FROM live").await, ["6"]);
    let fenced = first.fails("INSERT INTO orders VALUES (100, 'ada')").await;
    assert_eq!(fenced.code, Code::Fenced, "{fenced}");
    insert(&mut second, 20).await;
    until(&mut second, "SELECT sum(n) FROM live", &["12"]).await;
    second.verify("per_who").await;
    second.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn data_does_not_get_another_log() {
    let Some(broker) = Broker::shared() else { return };
    let (dir, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut k = Running::with(dir.path(), settings(&broker, "mine")).await;
    k.sql(SHOP).await;
    insert(&mut k, 10).await;
    k.platform.close().await.unwrap();
    drop(k);
    for other in [Settings::default(), settings(&broker, "other")] {
        let error = refused(dir.path(), other).await;
        assert!(error.message.contains("is the Kafka topic mine"), "{error}");
    }
    // Other data does not get this topic, and nobody is fenced by trying.
    let empty = tempfile::tempdir().unwrap();
    let error = refused(empty.path(), settings(&broker, "mine")).await;
    assert_eq!(error.code, Code::Corrupted, "{error}");
    assert!(error.message.contains("belongs to the log"), "{error}");
    // Data with a log of its own does not get a topic.
    let k = Running::open(own.path()).await;
    k.platform.close().await.unwrap();
    drop(k);
    let error = refused(own.path(), settings(&broker, "fresh")).await;
    assert!(error.message.contains("holds the log of this data"), "{error}");
    // Followers have nothing to follow.
    let follower = Settings { read_only: true, ..settings(&broker, "mine") };
    for follower in [follower, Settings { read_only: true, ..Settings::default() }] {
        let error = refused(dir.path(), follower).await;
        assert!(error.message.contains("log_url names a topic"), "{error}");
    }
    let job = Settings { data_dir: dir.path().into(), ..settings(&broker, "mine") };
    let job = Platform::run_job(job, Arc::new(SystemClock), BatchRequest::default()).await;
    assert!(job.err().unwrap().message.contains("log_url names a topic"));
    // A topic that was made anew is not the log any more.
    broker.delete("mine").await;
    let error = refused(dir.path(), settings(&broker, "mine")).await;
    assert!(error.message.contains("it is empty, although it was the log"), "{error}");
}

/// The lake has commits that the log does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_the_lake_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    let settings = settings(&broker, "behind");
    let dir = tempfile::tempdir().unwrap();
    let mut k = Running::with(dir.path(), settings.clone()).await;
    k.sql(SHOP).await;
    insert(&mut k, 10).await;
    k.platform.close().await.unwrap();
    drop(k);
    let progress = dir.path().join("lake/_kaplan_archive.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&progress).unwrap()).unwrap();
    json["archived_through"] = 1_000.into();
    std::fs::write(&progress, json.to_string()).unwrap();
    let error = refused(dir.path(), settings).await;
    assert_eq!(error.code, Code::Corrupted, "{error}");
    assert!(error.message.contains("the lake has commits up to 1000"), "{error}");
}
