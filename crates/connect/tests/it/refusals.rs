//! Bad input: the message names the row, the field, and the way out.

use crate::*;

/// Twenty good lines, one of them replaced.
fn lines_with(row: usize, line: &str) -> String {
    let good = |n| format!(r#"{{"id":{n},"carrier":"UA","dep_delay":{n}}}"#);
    (1..=20).map(|n| if n == row { line.to_owned() } else { good(n) } + "\n").collect()
}

#[track_caller]
fn says(error: &DecodeError, row: Option<u64>, field: Option<&str>, message: &str) {
    assert_eq!((error.row, error.field.as_deref()), (row, field), "{error:?}");
    assert!(error.message.contains(message), "{error:?}");
    assert!(error.hint.is_some(), "{error:?}");
}

#[test]
fn a_json_value_of_the_wrong_type() {
    let cases = [
        (r#"{"id":1,"dep_delay":"abc"}"#, "dep_delay", "expected integer, found string \"abc\""),
        (r#"{"id":1,"dep_delay":1.5}"#, "dep_delay", "expected integer, found number 1.5"),
        (r#"{"id":1,"dep_delay":3000000000}"#, "dep_delay", "out of range for integer"),
        (r#"{"id":1,"dep_delay":""}"#, "dep_delay", "expected integer, found string \"\""),
        (r#"{"id":1,"dep_delay":{"a":1}}"#, "dep_delay", "expected integer, found an object"),
        (r#"{"id":1,"carrier":[1]}"#, "carrier", "expected text, found an array"),
        (r#"{"id":1,"at":1706659200000}"#, "at", "found number 1706659200000"),
        (r#"{"id":1,"at":"yesterday"}"#, "at", "found string \"yesterday\""),
        (r#"{"carrier":"UA"}"#, "id", "\"id\" is missing or null"),
        (r#"{"id":null,"carrier":"UA"}"#, "id", "\"id\" is missing or null"),
    ];
    for (line, field, message) in cases {
        let error = refused(Format::NdJson, &flights(), lines_with(17, line));
        says(&error, Some(17), Some(field), message);
        assert!(error.message.starts_with("row 17: field"), "{error:?}");
        let array = format!("[{}]", lines_with(17, line).trim_end().replace('\n', ","));
        says(&refused(Format::Json, &flights(), array), Some(17), Some(field), message);
    }
}

#[test]
fn the_first_bad_row_is_named() {
    let mut body = lines_with(9, r#"{"id":1,"at":"x"}"#);
    body.push_str(r#"{"id":"x"}"#);
    says(&refused(Format::NdJson, &flights(), body), Some(9), Some("at"), "row 9");
}

#[test]
fn broken_json_names_the_row_and_the_place() {
    for line in [r#"{"id":1,"carrier":"UA}"#, r#"{"id":1,"carrier":}"#, "{\"id\":1", "nonsense"] {
        let error = refused(Format::NdJson, &flights(), lines_with(5, line));
        says(&error, Some(5), None, "not valid JSON");
        assert!(error.message.contains("line "), "{error:?}");
    }
    let body = format!("{}{{\"id\":21", lines_with(0, ""));
    says(&refused(Format::NdJson, &flights(), body), Some(21), None, "not valid JSON");
}

#[test]
fn json_of_the_wrong_shape() {
    let error = refused(Format::NdJson, &flights(), "[{\"id\":1}]");
    says(&error, Some(1), None, "expected an object, found an array");
    let error = refused(Format::Json, &flights(), "[{\"id\":1},7]");
    says(&error, Some(2), None, "expected an object, found a number");
    says(&refused(Format::Json, &flights(), "[{\"id\":1}"), None, None, "does not end");
    says(&refused(Format::Json, &flights(), "[{\"id\":1}] {}"), None, None, "more text");
    says(
        &refused(Format::NdJson, &flights(), b"{\"id\":1,\"carrier\":\"\xff\"}"),
        Some(1),
        None,
        "",
    );
}

#[test]
fn a_row_with_only_unknown_fields_lists_the_columns() {
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let error = refused(Format::NdJson, &schema, "{\"a\":1}\n{\"b\":2,\"c\":3}");
    says(&error, Some(2), None, "none of its fields is a column: b, c");
    assert!(error.hint.unwrap().contains("columns are: a"));
    says(&refused(Format::NdJson, &schema, "{\"a\":1}\n{}"), Some(2), None, "empty");
    assert_eq!(one(Format::NdJson, &schema, "{\"a\":null}\n{\"a\":null,\"b\":2}").num_rows(), 2);
}

#[test]
fn csv_headers_are_held_against_the_stream() {
    let error = refused(Format::Csv, &flights(), "id,carier\n1,UA\n");
    says(&error, None, Some("carier"), "unknown column \"carier\"");
    assert!(error.hint.unwrap().contains("carrier"));
    says(&refused(Format::Csv, &flights(), "id,id\n1,2\n"), None, Some("id"), "twice");
    says(&refused(Format::Csv, &flights(), "carrier\nUA\n"), None, Some("id"), "NOT NULL");
}

#[test]
fn csv_rows_are_counted_without_the_header() {
    let error = refused(Format::Csv, &flights(), "id,dep_delay\n1,2\n\n3,abc\n");
    says(&error, Some(2), Some("dep_delay"), "expected integer, found string \"abc\"");
    let error = refused(Format::Csv, &flights(), "id,carrier\n1,\"a\n,b\"\n2,UA,x\n");
    says(&error, Some(2), None, "3 values, expected 2");
    says(&refused(Format::Csv, &flights(), "id,carrier\n1,UA\n2\n"), Some(2), None, "1 values");
    says(&refused(Format::Csv, &flights(), "id,carrier\n,UA\n"), Some(1), Some("id"), "null");
    says(&refused(Format::Csv, &flights(), b"id,carrier\n1,\xff\n"), None, None, "UTF-8");
    // A character cut in two by a comma would become one character if the values were joined.
    says(&refused(Format::Csv, &flights(), b"id,carrier\n1\xc3,\xa9\n"), None, None, "UTF-8");
}

#[test]
fn arrow_types_that_do_not_fit_are_named() {
    let cases: [(ArrayRef, &str); 4] = [
        (Arc::new(StringArray::from(vec!["1"])), "expected bigint, found Utf8"),
        (Arc::new(Float64Array::from(vec![1.0])), "expected bigint, found Float64"),
        (Arc::new(UInt64Array::from(vec![u64::MAX])), "18446744073709551615 is out of range"),
        (Arc::new(Int64Array::from(vec![None::<i64>])), "\"id\" is null"),
    ];
    for (column, message) in cases {
        let batch = RecordBatch::try_from_iter_with_nullable([("id", column, true)]).unwrap();
        let error = refused(Format::ArrowIpc, &flights(), ipc_stream(&batch));
        assert!(error.message.contains(message), "{error:?}");
        assert_eq!(error.field.as_deref(), Some("id"));
        assert_eq!(refused(Format::Parquet, &flights(), parquet_file(&batch)), error);
    }
    let other = RecordBatch::try_from_iter([("x", Arc::new(Int8Array::from(vec![1])) as ArrayRef)]);
    let error = refused(Format::ArrowIpc, &flights(), ipc_stream(&other.unwrap()));
    says(&error, None, None, "none of the columns in the input is known: x");
    let error = refused(Format::ArrowIpc, &flights(), b"{\"id\":1}");
    assert!(error.message.contains("Arrow IPC"), "{error:?}");
    let error = refused(Format::Parquet, &flights(), b"{\"id\":1}");
    assert!(error.hint.is_some(), "{error:?}");
}
