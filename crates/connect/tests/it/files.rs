//! Files: read in batches with progress, and looked at to suggest a stream.

use crate::*;
use kaplan_connect::formats::{infer_schema, open, sql_type};
use std::path::PathBuf;

fn file(directory: &tempfile::TempDir, name: &str, body: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, body).unwrap();
    path
}

#[test]
fn every_format_is_read_in_batches() {
    let directory = tempfile::tempdir().unwrap();
    let rows = 10_000_i64;
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let names: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("c{i}"))));
    let batch = RecordBatch::try_from_iter([("id", ids.clone()), ("carrier", names)]).unwrap();
    let line = |i| format!("{{\"id\":{i},\"carrier\":\"c{i}\"}}");
    let lines: Vec<String> = (0..rows).map(line).collect();
    let csv: String = (0..rows).map(|i| format!("{i},c{i}\n")).collect();
    let files = [
        ("a.ndjson", lines.join("\n").into_bytes()),
        ("a.json", format!("[{}]", lines.join(",\n")).into_bytes()),
        ("a.csv", format!("id,carrier\n{csv}").into_bytes()),
        ("a.arrow", ipc_stream(&batch)),
        ("a.parquet", parquet_file(&batch)),
    ];
    for (name, body) in files {
        let size = body.len() as u64;
        let mut file_rows = open(&file(&directory, name, body), &flights(), 1_000).unwrap();
        assert_eq!(file_rows.total_bytes(), size);
        let batches: Vec<_> = file_rows.by_ref().map(Result::unwrap).collect();
        let all = arrow::compute::concat_batches(&flights(), &batches).unwrap();
        assert_eq!(all.column(0), &ids, "{name}");
        assert!(batches.len() == 10 || name == "a.arrow", "{name}: {}", batches.len());
        let read = file_rows.bytes_read();
        assert!(read <= size && read * 10 > size * 9, "{name}: {read} of {size}");
        assert_eq!(file_rows.total_rows(), (name == "a.parquet").then_some(rows as u64));
    }
}

#[test]
fn a_bad_row_deep_in_a_file_is_named_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut body: String = (1..5_000).map(|i| format!("{{\"id\":{i}}}\n")).collect();
    body.push_str("{\"id\":oops}\n{\"id\":5001}\n");
    let path = file(&directory, "a.ndjson", body);
    let results: Vec<_> = open(&path, &flights(), 1_000).unwrap().collect();
    let errors: Vec<_> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].row, Some(5_000));
    assert!(results.last().unwrap().is_err());
}

fn suggestion(path: &std::path::Path) -> String {
    let schema = infer_schema(path).unwrap();
    let columns = schema.fields().iter();
    columns
        .map(|f| format!("{} {}", f.name(), sql_type(f.data_type())))
        .collect::<Vec<_>>()
        .join(", ")
}

#[test]
fn columns_are_suggested() {
    let directory = tempfile::tempdir().unwrap();
    let csv = "z,n,x,ok,day,at,local,code\n\
        a,1,1.5,true,2024-01-31,2024-01-31T00:00:00Z,2024-01-31 10:00:00,20240131\n\
        b,,2,false,2024-02-01,2024-01-31T00:00:00+01:00,2024-01-31T10:00:00.5,20240201\n";
    let expected = "z text, n bigint, x double precision, ok boolean, day date, \
        at timestamp with time zone, local timestamp without time zone, code bigint";
    assert_eq!(suggestion(&file(&directory, "a.csv", csv)), expected);
    let row = r#"{"z":"a","n":1,"x":1.5,"ok":true,"day":"2024-01-31","at":"2024-01-31T00:00:00Z",
        "local":"2024-01-31 10:00:00","code":20240131,"nested":{"a":1}}"#;
    assert_eq!(suggestion(&file(&directory, "a.json", format!("[{row}]"))), expected);
    assert_eq!(suggestion(&file(&directory, "a.ndjson", row.replace('\n', ""))), expected);
    assert_eq!(
        suggestion(&file(&directory, "b.ndjson", "{\"id\":\"007\",\"m\":1}\n{\"m\":\"x\"}")),
        "id text, m text"
    );
    let columns = "flag boolean, small smallint, int integer, big bigint, real real, \
        double double precision, price numeric(10,2), text text, bytes bytea, day date, \
        local timestamp without time zone, instant timestamp with time zone";
    assert_eq!(suggestion(&file(&directory, "a.parquet", parquet_file(&every_value()))), columns);
    assert_eq!(suggestion(&file(&directory, "a.arrow", ipc_stream(&every_value()))), columns);
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let error = infer_schema(&file(&directory, "a.xls", "")).unwrap_err();
    assert!(error.message.contains("a.xls") && error.hint.is_some(), "{error:?}");
    let error = open("/nowhere/a.csv".as_ref(), &flights(), 10).err().unwrap();
    assert!(error.message.contains("/nowhere/a.csv"), "{error:?}");
}
