//! Sources whose fields change: unknown, missing, wider and narrower ones, under each policy. No
//! stream stands still, and what is not taken is in the ledger.

use crate::broker::{Broker, Sent};
use crate::files::source;
use crate::kafka::until;
use crate::support::Running;
use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::array::{ListArray, UInt64Array};
use arrow::datatypes::Int64Type;
use kaplan_lake::{Lake, TableSpec};
use std::path::Path;
use std::sync::Arc;

fn parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let columns = columns.into_iter().map(|(name, values)| (name, values, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn longs(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

/// Files of each encoding: as declared, with a column more, with one less, with wider values.
fn write_all(folder: &Path) {
    let text = |name: &str, body: &str| std::fs::write(folder.join(name), body).unwrap();
    text("1.csv", "id,v\n1,10\n");
    text("2.csv", "id,extra,v\n2,5,20\n3,,30\n");
    text("3.csv", "id\n4\n");
    text("4.csv", "id,v,extra\n5,1.5,6\n6,60,many\n7,9999999999,7\n");
    text("1.json", "{\"id\": 1, \"v\": 10}\n");
    text("2.json", "{\"id\": 2, \"v\": 20, \"extra\": 5}\n{\"id\": 3, \"v\": 30}\n");
    text("3.json", "{\"id\": 4}\n");
    text(
        "4.json",
        "{\"id\": 5, \"v\": 1.5, \"extra\": 6}\n{\"id\": 6, \"v\": 60, \"extra\": \"many\"}\n\
         {\"id\": 7, \"v\": 9999999999, \"extra\": 7}\n",
    );
    let at = |name: &str| folder.join(name);
    parquet(&at("1.parquet"), vec![("id", longs(&[1])), ("v", longs(&[10]))]);
    let extra: ArrayRef = Arc::new(Int64Array::from(vec![Some(5), None]));
    parquet(
        &at("2.parquet"),
        vec![("id", longs(&[2, 3])), ("extra", extra), ("v", longs(&[20, 30]))],
    );
    parquet(&at("3.parquet"), vec![("id", longs(&[4]))]);
    let doubles: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
    parquet(&at("4.parquet"), vec![("id", longs(&[5])), ("v", doubles)]);
    // Narrower columns are taken as they are; of wider ones the values that fit.
    let narrow: ArrayRef = Arc::new(Int32Array::from(vec![60, 70]));
    let many: ArrayRef = Arc::new(UInt64Array::from(vec![6, u64::MAX]));
    parquet(&at("5.parquet"), vec![("id", longs(&[6, 7])), ("v", narrow), ("extra", many)]);
    parquet(&at("6.parquet"), vec![("id", longs(&[8, 9])), ("v", longs(&[80, 9_999_999_999]))]);
}

async fn read_by(encode: &str, columns: &str, options: &str, k: &mut Running, folder: &Path) {
    let create = source("source", "s", columns, folder, &format!("*.{encode}"), encode);
    let create = create.replace("refresh.", &format!("{options} refresh."));
    k.sql(&create).await;
}

/// Waits until the stream has so many columns.
async fn grown(k: &mut Running, columns: usize) {
    for round in 0.. {
        let rows = k.rows("select * from s").await;
        if rows.schema.fields().len() == columns {
            return;
        }
        assert!(round < 400, "{:?}\n{:?}", rows.schema, k.table("show sources").await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

const LEDGER: &str = "select split, position, field from s_errors order by 1, 2";

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_takes_or_tells_every_row() {
    let folder = tempfile::tempdir().unwrap();
    write_all(folder.path());
    let (_dir, mut k) = Running::start("select 1").await;
    let plain = "(id bigint, v int)";
    let with_rest = "(id bigint, v int, rest jsonb)";
    let (ignore, error) = ("unknown_fields = 'ignore',", "unknown_fields = 'error',");
    let (missing, evolve) = ("missing_fields = 'error',", "unknown_fields = 'evolve',");
    let capture = "unknown_fields = 'capture', unknown_fields_column = 'rest',";
    let base = ["1|10", "2|20", "3|30", "4|"];
    let text_ledger = |file: &str| vec![format!("{file}|1|v"), format!("{file}|3|v")];
    for (encode, columns, options, query, rows, ledger) in [
        ("csv", plain, "", "*", [&base[..], &["6|60"]].concat(), text_ledger("4.csv")),
        ("json", plain, ignore, "*", [&base[..], &["6|60"]].concat(), text_ledger("4.json")),
        (
            "parquet",
            plain,
            ignore,
            "*",
            [&base[..], &["6|60", "7|70", "8|80"]].concat(),
            vec!["4.parquet|0|v".to_owned(), "6.parquet|2|v".to_owned()],
        ),
        (
            "csv",
            with_rest,
            capture,
            "id, rest",
            vec!["1|", "2|{\"extra\": \"5\"}", "3|", "4|", "6|{\"extra\": \"many\"}"],
            text_ledger("4.csv"),
        ),
        (
            "json",
            with_rest,
            capture,
            "id, rest",
            vec!["1|", "2|{\"extra\": 5}", "3|", "4|", "6|{\"extra\": \"many\"}"],
            text_ledger("4.json"),
        ),
        (
            "parquet",
            with_rest,
            capture,
            "id, rest",
            vec![
                "1|",
                "2|{\"extra\": 5}",
                "3|",
                "4|",
                "6|{\"extra\": 6}",
                "7|{\"extra\": 18446744073709551615}",
                "8|",
            ],
            vec!["4.parquet|0|v".to_owned(), "6.parquet|2|v".to_owned()],
        ),
        (
            "csv",
            plain,
            error,
            "*",
            vec!["1|10", "4|"],
            vec!["2.csv|0|extra".to_owned(), "4.csv|0|extra".to_owned()],
        ),
        (
            "json",
            plain,
            error,
            "*",
            vec!["1|10", "3|30", "4|"],
            ["2.json|1|extra", "4.json|1|extra", "4.json|2|extra", "4.json|3|extra"]
                .map(str::to_owned)
                .to_vec(),
        ),
        (
            "parquet",
            plain,
            error,
            "*",
            vec!["1|10", "4|", "8|80"],
            ["2.parquet|0|extra", "4.parquet|0|v", "5.parquet|0|extra", "6.parquet|2|v"]
                .map(str::to_owned)
                .to_vec(),
        ),
        (
            "csv",
            plain,
            missing,
            "*",
            vec!["1|10", "2|20", "3|30", "6|60"],
            ["3.csv|0|v", "4.csv|1|v", "4.csv|3|v"].map(str::to_owned).to_vec(),
        ),
        (
            "parquet",
            plain,
            missing,
            "*",
            vec!["1|10", "2|20", "3|30", "6|60", "7|70", "8|80"],
            ["3.parquet|0|v", "4.parquet|0|v", "6.parquet|2|v"].map(str::to_owned).to_vec(),
        ),
        (
            "csv",
            plain,
            evolve,
            "*",
            vec!["1|10|", "2|20|5", "3|30|", "4||"],
            ["4.csv|1|v", "4.csv|2|extra", "4.csv|3|v"].map(str::to_owned).to_vec(),
        ),
        (
            "json",
            plain,
            evolve,
            "*",
            vec!["1|10|", "2|20|5", "3|30|", "4||"],
            ["4.json|1|v", "4.json|2|extra", "4.json|3|v"].map(str::to_owned).to_vec(),
        ),
        (
            "parquet",
            plain,
            evolve,
            "*",
            vec!["1|10|", "2|20|5", "3|30|", "4||", "6|60|6", "8|80|"],
            ["4.parquet|0|v", "5.parquet|2|extra", "6.parquet|2|v"].map(str::to_owned).to_vec(),
        ),
    ] {
        read_by(encode, columns, options, &mut k, folder.path()).await;
        let ledger: Vec<&str> = ledger.iter().map(String::as_str).collect();
        k.reads(&format!("select {query} from s order by id"), &rows).await;
        k.reads(LEDGER, &ledger).await;
        assert!(k.table("show sources").await[0].contains("|running|"), "{encode} {options}");
        k.sql("drop source s").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_bring_columns_of_every_type() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(
        at("1.csv"),
        "id,n,x,ok,at,t,zip,\"a, b\",none\n\
         1,7,1.5,true,2024-01-31T12:00:00Z,text,007,q,\n\
         2,8,2,false,2024-02-01T12:00:00+01:00,\"a,b\",12,r,\n",
    )
    .unwrap();
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1), None]), None]);
    let (dir, mut k) = Running::start("select 1").await;
    read_by("csv", "(id bigint)", "unknown_fields = 'evolve',", &mut k, folder.path()).await;
    let csv = [
        "1|7|1.5|true|2024-01-31T12:00:00Z|text|007|q",
        "2|8|2.0|false|2024-02-01T11:00:00Z|a,b|12|r",
    ];
    k.reads("select * from s order by id", &csv).await;
    k.sql("drop source s").await;
    parquet(
        &at("1.parquet"),
        vec![
            ("id", longs(&[1, 2])),
            ("list", Arc::new(list) as ArrayRef),
            ("name", Arc::new(StringArray::from(vec![Some("a"), None])) as ArrayRef),
            ("big", Arc::new(UInt64Array::from(vec![u64::MAX, 0])) as ArrayRef),
        ],
    );
    read_by("parquet", "(id bigint)", "unknown_fields = 'evolve',", &mut k, folder.path()).await;
    grown(&mut k, 4).await;
    k.reads(
        "select id, list, name, big from s order by id",
        &["1|[1, null]|a|18446744073709551615", "2|||0"],
    )
    .await;
    assert!(k.table("select reason from s_errors").await.is_empty());
    k.platform.close().await.unwrap();
    drop(k);
    let mut k = Running::open(dir.path()).await;
    k.reads("select count(*) from s", &["2"]).await;
    for (options, columns, encode, word) in [
        ("unknown_fields = 'evolve',", "(id bigint)", "csv (without_header = 'true')", "header"),
        ("unknown_fields = 'grow',", "(id bigint)", "json", "makes no sense"),
        ("unknown_fields_column = 'x',", "(id bigint, x text)", "parquet", "jsonb column"),
    ] {
        let create = source("source", "w", columns, folder.path(), "*", encode);
        let create = create.replace("refresh.", &format!("{options} refresh."));
        let error = k.fails(&create).await;
        assert!(error.message.contains(word), "{create}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_s_new_fields_become_columns_over_restarts() {
    let Some(broker) = Broker::shared() else { return };
    broker.create("grows", 2).await;
    let (dir, mut k) = Running::start(&format!(
        "CREATE SOURCE grows (id bigint NOT NULL) INCLUDE OFFSET AS off
         WITH ({}, unknown_fields = 'evolve') FORMAT PLAIN ENCODE JSON;
         CREATE MATERIALIZED VIEW everything AS SELECT * FROM grows;
         CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n, count(DISTINCT id) AS ids FROM grows",
        broker.with("grows")
    ))
    .await;
    let mut sent = 0;
    for round in 0..6 {
        // Both partitions bring the same new field, with values of other types.
        let values: Vec<String> = (sent..sent + 40)
            .map(|id| format!("{{\"id\": {id}, \"f{round}\": {}, \"always\": \"a\"}}", id % 2))
            .collect();
        let records = values.iter().enumerate().map(|(at, value)| Sent {
            partition: (at % 2) as i32,
            key: None,
            value: Some(value),
        });
        broker.send("grows", &records.collect::<Vec<_>>()).await;
        sent += 40;
        // Stopped somewhere between a column and its rows, wherever that is.
        tokio::time::sleep(std::time::Duration::from_millis(60 * round)).await;
        k.platform.close().await.unwrap();
        drop(k);
        k = Running::open(dir.path()).await;
    }
    let all = format!("{sent}|{sent}");
    until(&mut k, "SELECT n, ids FROM n", &[&all]).await;
    until(
        &mut k,
        "SELECT count(f0), sum(f0), sum(f5), count(always) FROM grows",
        &["40|20|20|240"],
    )
    .await;
    assert!(k.table("SELECT * FROM grows_errors").await.is_empty());
    // A view that was there keeps the columns it had.
    let rows = k.rows("SELECT * FROM everything LIMIT 1").await;
    assert_eq!(rows.schema.fields().len(), 2, "{:?}", rows.schema);
    k.verify("everything").await;
    // What can be no column is in the ledger, with the field; the others go on.
    let odd = [
        r#"{"id": 900, "_hidden": 1}"#.to_owned(),
        r#"{"id": 901, "off": "mine"}"#.to_owned(),
        format!("{{\"id\": 902, \"{}\": 1}}", "x".repeat(64)),
        r#"{"id": 903, "f0": "text now"}"#.to_owned(),
        r#"{"id": 904, "_hidden": null, "F0": {"a": [1]}}"#.to_owned(),
        r#"{"id": 905, "nothing": null}"#.to_owned(),
    ];
    let records: Vec<Sent<'_>> =
        odd.iter().map(|v| Sent { partition: 0, key: None, value: Some(v) }).collect();
    broker.send("grows", &records).await;
    let all = format!("{}|{}", sent + 2, sent + 2);
    until(&mut k, "SELECT n, ids FROM n", &[&all]).await;
    let long = "x".repeat(64);
    until(
        &mut k,
        "SELECT field FROM grows_errors ORDER BY position",
        &["_hidden", "off", &long, "f0"],
    )
    .await;
    until(&mut k, "SELECT \"F0\" FROM grows WHERE id = 904", &["{\"a\": [1]}"]).await;
    k.platform.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_fields_than_a_table_takes_go_to_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let fields = |from: usize, to: usize| -> String {
        let fields: Vec<String> = (from..to).map(|i| format!("\"c{i}\": {i}")).collect();
        fields.join(", ")
    };
    let line = |id: usize, fields: String| format!("{{\"id\": {id}, {fields}}}\n");
    let body = [line(1, fields(0, 200)), line(2, fields(200, 300)), line(3, fields(0, 10))];
    std::fs::write(folder.path().join("1.json"), body.concat()).unwrap();
    let (_dir, mut k) = Running::start("select 1").await;
    read_by("json", "(id bigint)", "unknown_fields = 'evolve',", &mut k, folder.path()).await;
    grown(&mut k, 256).await;
    k.reads("select id, c9 from s order by id", &["1|9", "3|9"]).await;
    k.reads(LEDGER, &["1.json|2|c255"]).await;
    // With a column for the rest, that has what finds no place.
    k.sql("drop source s").await;
    let options = "unknown_fields = 'evolve', unknown_fields_column = 'rest',";
    read_by("json", "(id bigint, rest jsonb)", options, &mut k, folder.path()).await;
    k.reads("select id, rest is null from s order by id", &["1|true", "2|false", "3|true"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_lake_s_column_and_the_catalog() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("1.json"), "{\"id\": 1}\n").unwrap();
    let (dir, mut k) = Running::start("select 1").await;
    read_by("json", "(id bigint)", "unknown_fields = 'evolve',", &mut k, folder.path()).await;
    k.sql("create materialized view v as select count(*) as n from s").await;
    k.reads("select n from v", &["1"]).await;
    k.platform.close().await.unwrap();
    drop(k);
    // The lake has columns that no definition knows: one as it will be found, one of another type.
    let catalog = std::fs::read_to_string(dir.path().join("catalog.json")).unwrap();
    let catalog: serde_json::Value = serde_json::from_str(&catalog).unwrap();
    let streams = find(&catalog, "streams").unwrap();
    let id = streams["s"]["id"].as_u64().unwrap() as u32;
    {
        use arrow::datatypes::{DataType, Field, Schema};
        let url = url::Url::from_directory_path(dir.path().join("lake")).unwrap();
        let lake = Lake::open(url).await.unwrap();
        let column = |name: &str, of| Field::new(name, of, true);
        let schema = Schema::new(vec![
            column("id", DataType::Int64),
            column("same", DataType::Int64),
            column("other", DataType::Boolean),
        ]);
        let (schema, id) = (Arc::new(schema), kaplan_base::StreamId(id));
        let spec = TableSpec { name: "s".into(), id, schema, changes: false };
        lake.add_columns(&spec).await.unwrap();
    }
    let mut k = Running::open(dir.path()).await;
    std::fs::write(folder.path().join("2.json"), "{\"id\": 2, \"same\": 3, \"other\": \"x\"}\n")
        .unwrap();
    grown(&mut k, 3).await;
    k.reads("select id, same, other from s order by id", &["1||", "2|3|x"]).await;
    k.reads("select n from v", &["2"]).await;
    k.verify("v").await;
    k.platform.close().await.unwrap();
    drop(k);
    let mut k = Running::open(dir.path()).await;
    k.reads("select id, same, other from s order by id", &["1||", "2|3|x"]).await;
}

/// The value under a name, however deep.
fn find<'a>(value: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    let members = value.as_object()?;
    members.get(name).or_else(|| members.values().find_map(|v| find(v, name)))
}
