//! Files of a folder and of a bucket as sources: every row once, in order of the files' names, over
//! restarts; new files; bad rows in the ledger.

use crate::support::Running;
use arrow::array::{Int64Array, RecordBatch, StringArray};
use std::path::Path;
use std::sync::Arc;

impl Running {
    pub async fn reads(&mut self, query: &str, expected: &[&str]) {
        for round in 0.. {
            let lines = self.table(query).await;
            if lines == expected {
                return;
            }
            let sources = self.table("show sources").await;
            assert!(round < 400, "{query}: {lines:?}, not {expected:?}\n{sources:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

fn parquet(path: &Path, ids: std::ops::Range<i64>) {
    let names = ids.clone().map(|id| format!("n{id}"));
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from_iter_values(ids)) as _),
        ("name", Arc::new(StringArray::from_iter_values(names)) as _),
    ]);
    let batch = batch.unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

pub fn source(
    kind: &str,
    name: &str,
    columns: &str,
    folder: &Path,
    pattern: &str,
    format: &str,
) -> String {
    format!(
        "create {kind} {name} {columns} with (connector = 'file', path = '{}', \
         match_pattern = '{pattern}', refresh.interval.sec = 1) format plain encode {format}",
        folder.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_each_file_counts_once_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    parquet(&folder.path().join("2024-01.parquet"), 0..20_000);
    parquet(&folder.path().join("2024-02.parquet"), 20_000..20_010);
    std::fs::write(folder.path().join("other.txt"), "not ours").unwrap();
    let (dir, mut k) = Running::start("select 1").await;
    // Without columns, the files say them.
    k.sql(&source("source", "h", "", folder.path(), "*.parquet", "parquet")).await;
    k.sql("create materialized view v as select count(*) as n, sum(id) as s from h").await;
    k.reads("select n, s from v", &["20010|200190045"]).await;
    parquet(&folder.path().join("2024-03.parquet"), 20_010..20_020);
    k.reads("select n from v", &["20020"]).await;
    k.platform.close().await.unwrap();
    drop(k);
    parquet(&folder.path().join("2024-04.parquet"), 20_020..20_021);
    std::fs::write(folder.path().join("2024-05.parquet"), "PAR1 damaged PAR1").unwrap();
    let mut k = Running::open(dir.path()).await;
    k.reads("select n from v", &["20021"]).await;
    // Names of characters that paths of objects write otherwise.
    parquet(&folder.path().join("2024-06 #1 {50%3A}~é.parquet"), 20_021..20_023);
    k.reads("select n from v", &["20023"]).await;
    k.reads("select count(*) from h_errors", &["1"]).await;
    let reasons = k.table("select split, reason from h_errors").await;
    assert!(reasons[0].starts_with("2024-05.parquet|"), "{reasons:?}");
    // A file that changes after it was read is named, and its rows do not come twice.
    parquet(&folder.path().join("2024-01.parquet"), 0..7);
    for _ in 0..100 {
        if k.table("show sources").await.concat().contains("changed after it was read") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let line = k.table("show sources").await.concat();
    assert!(line.contains("2024-01.parquet") && line.contains("|running|"), "{line}");
    assert_eq!(k.table("select n from v").await, ["20023"]);
    k.verify("v").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_record_of_text_harms_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("deep")).unwrap();
    std::fs::write(
        at("deep/a.ndjson"),
        "{\"id\": 1, \"v\": \"a\"}\n\n{\"id\": oops}\n\
         {\"id\": 2, \"v\": \"b\", \"more\": 1}\n{\"v\": \"no key\"}\n{\"id\": 3}",
    )
    .unwrap();
    std::fs::write(at("b.csv"), "v,id\n\"two\nlines, \"\"quoted\"\"\",10\nx,eleven\n,12\n")
        .unwrap();
    let (_dir, mut k) = Running::start("select 1").await;
    let columns = "(id int primary key, v text) include file as f include offset as o";
    k.sql(&source("table", "j", columns, folder.path(), "**/*.ndjson", "json")).await;
    k.reads(
        "select id, v, f, o from j order by id",
        &["1|a|deep/a.ndjson|1", "2|b|deep/a.ndjson|3", "3||deep/a.ndjson|5"],
    )
    .await;
    k.reads("select count(*) as n from j_errors", &["2"]).await;
    assert_eq!(k.table("select position from j_errors order by 1").await, ["2", "4"]);
    k.sql(&source("source", "c", "(id int, v text)", folder.path(), "*.csv", "csv")).await;
    k.reads("select count(*) as n from c", &["2"]).await;
    assert_eq!(k.table("select v from c where id = 10").await.len(), 2, "a value of two lines");
    let errors = k.table("select position, field, record from c_errors").await;
    assert_eq!(errors, ["2|id|x,eleven"]);
    // The same key in a later file replaces the row.
    std::fs::write(at("deep/b.ndjson"), "{\"id\": 1, \"v\": \"later\"}\n").unwrap();
    k.reads("select v, f from j where id = 1", &["later|deep/b.ndjson"]).await;
    let e = k.fails(&source("source", "x", "(a int)", folder.path(), "*", "avro")).await;
    assert!(e.message.contains("AVRO") && e.hint.is_some(), "{e:?}");
    let e = k.fails(&source("source", "x", "(a int)", Path::new("/nowhere"), "*", "csv")).await;
    assert!(e.message.contains("/nowhere"), "{e:?}");
}

/// An S3 server of the test's own, which ends when it is dropped.
pub struct Bucket(tempfile::TempDir, Vec<(String, String)>);

impl Bucket {
    pub fn start() -> Option<Bucket> {
        let dir = tempfile::tempdir().unwrap();
        let run = std::process::Command::new(Bucket::script())
            .args(["start".as_ref(), dir.path().as_os_str()])
            .status()
            .unwrap();
        if run.code() == Some(77) {
            assert!(std::env::var_os("CI").is_none(), "CI needs an S3 server");
            eprintln!("left out: no S3 server (scripts/s3.sh)");
            return None;
        }
        assert!(run.success(), "{run}");
        let text = std::fs::read_to_string(dir.path().join("env")).unwrap();
        let words = text.split_whitespace().filter_map(|word| word.split_once('='));
        let env = words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(Bucket(dir, env))
    }

    fn script() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/s3.sh")
    }

    pub fn get(&self, name: &str) -> &str {
        &self.1.iter().find(|(known, _)| known == name).unwrap().1
    }

    fn store(&self) -> object_store::aws::AmazonS3 {
        object_store::aws::AmazonS3Builder::new()
            .with_endpoint(self.get("AWS_ENDPOINT_URL"))
            .with_allow_http(true)
            .with_region(self.get("AWS_REGION"))
            .with_access_key_id(self.get("AWS_ACCESS_KEY_ID"))
            .with_secret_access_key(self.get("AWS_SECRET_ACCESS_KEY"))
            .with_bucket_name("lake")
            .build()
            .unwrap()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let stop = ["stop".as_ref(), self.0.path().as_os_str()];
        let _ = std::process::Command::new(Bucket::script()).args(stop).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_bucket_are_read_as_those_of_a_folder() {
    use object_store::ObjectStoreExt;
    let Some(bucket) = Bucket::start() else { return };
    let store = bucket.store();
    let put = async |name: &str, body: &str| {
        let body = body.to_owned().into();
        store.put(&name.into(), body).await.unwrap();
    };
    put("in/1.csv", "id,v\n1,a\n2,b\n").await;
    put("in/2.csv", "id,v\n2,c\nx,y\n").await;
    put("other/3.csv", "id,v\n9,z\n").await;
    let (dir, mut k) = Running::start("select 1").await;
    let source = format!(
        "create table t (id int primary key, v text) include file as f with (connector = 's3', \
         s3.bucket_name = 'lake', s3.region_name = 'us-east-1', s3.endpoint_url = '{}', \
         s3.credentials.access = '{}', s3.credentials.secret = '{}', match_pattern = 'in/*.csv', \
         refresh.interval.sec = 1) format plain encode csv",
        bucket.get("AWS_ENDPOINT_URL"),
        bucket.get("AWS_ACCESS_KEY_ID"),
        bucket.get("AWS_SECRET_ACCESS_KEY"),
    );
    k.sql(&source).await;
    let two = ["1|a|in/1.csv", "2|c|in/2.csv"];
    k.reads("select * from t order by id", &two).await;
    k.reads("select split, position, record from t_errors", &["in/2.csv|2|x,y"]).await;
    put("in/3.csv", "v,id\nd,3\n").await;
    k.reads("select * from t order by id", &[two[0], two[1], "3|d|in/3.csv"]).await;
    k.platform.close().await.unwrap();
    drop(k);
    let mut k = Running::open(dir.path()).await;
    put("in/4.csv", "id,v\n4,e\n").await;
    k.reads("select count(*) as n, max(id) as m from t", &["4|4"]).await;
    let escaped = object_store::path::Path::parse("in/at=10%3A00.csv").unwrap();
    store.put(&escaped, "id,v\n5,f\n".to_owned().into()).await.unwrap();
    k.reads("select count(*) as n, max(id) as m from t", &["5|5"]).await;
    assert_eq!(k.table("select count(*) as n from t_errors").await, ["1"]);
    let shown = k.table("show create table t").await.concat();
    assert!(!shown.contains(bucket.get("AWS_SECRET_ACCESS_KEY")), "{shown}");
}
