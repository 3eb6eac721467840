//! Every type through every format, and the casts that lose nothing.

use crate::*;
use arrow::compute::cast;

const JSON_ROW: &str = r#"{"flag":true,"small":-3,"int":70000,"big":9223372036854775807,
    "real":0.5,"double":-1.25,"price":"12.50","text":"a,\"b\"\u00e9","bytes":"\\x0aFF",
    "day":"2024-01-31","local":"2024-01-31 00:00:00.000001","instant":"2024-01-31T02:00:00+02:00",
    "unknown":{"ignored":[1,2]}}"#;
const JSON_NULLS: &str = r#"{"flag":null,"instant":"1970-01-01"}"#;

#[test]
fn json_lines_hold_every_type() {
    let body = format!("{}\n\n{JSON_NULLS}", JSON_ROW.replace('\n', ""));
    assert_eq!(one(Format::NdJson, &every_type(), &body), every_value());
}

#[test]
fn a_json_array_and_a_single_object_hold_every_type() {
    let body = format!(" [ {JSON_ROW} ,\n{JSON_NULLS}]\n");
    assert_eq!(one(Format::Json, &every_type(), &body), every_value());
    assert_eq!(one(Format::Json, &every_type(), JSON_ROW), every_value().slice(0, 1));
    assert_eq!(one(Format::Json, &every_type(), "[]").num_rows(), 0);
}

#[test]
fn csv_holds_every_type_in_any_column_order() {
    let body = "\u{feff}instant,text,flag,small,int,big,real,double,price,bytes,day,local\r\n\
        2024-01-31T00:00:00Z,\"a,\"\"b\"\"\u{e9}\",true,-3,70000,9223372036854775807,0.5,-1.25,\
        12.50,\\x0aff,2024-01-31,2024-01-31T00:00:00.000001\r\n\
        1970-01-01,,,,,,,,,,,\r\n";
    let batch = one(Format::Csv, &every_type(), body);
    let text = batch.column_by_name("text").unwrap().as_string::<i32>();
    assert_eq!(text.value(1), "", "an empty text is not NULL");
    let mut columns = batch.columns().to_vec();
    columns[7] = every_value().column(7).clone();
    assert_eq!(RecordBatch::try_new(every_type(), columns).unwrap(), every_value());
}

#[test]
fn arrow_and_parquet_hold_every_type() {
    let value = every_value();
    assert_eq!(one(Format::ArrowIpc, &every_type(), ipc_stream(&value)), value);
    assert_eq!(one(Format::Parquet, &every_type(), parquet_file(&value)), value);
    let mut file = Vec::new();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(&mut file, &value.schema()).unwrap();
    writer.write(&value).unwrap();
    writer.write(&value).unwrap();
    writer.finish().unwrap();
    drop(writer);
    assert_eq!(one(Format::ArrowIpc, &every_type(), file).num_rows(), 4);
}

#[test]
fn compressed_arrow_streams_are_read() {
    for codec in [arrow::ipc::CompressionType::LZ4_FRAME, arrow::ipc::CompressionType::ZSTD] {
        let options = arrow::ipc::writer::IpcWriteOptions::default()
            .try_with_compression(Some(codec))
            .unwrap();
        let mut body = Vec::new();
        let mut writer = arrow::ipc::writer::StreamWriter::try_new_with_options(
            &mut body,
            &every_type(),
            options,
        )
        .unwrap();
        writer.write(&every_value()).unwrap();
        writer.finish().unwrap();
        drop(writer);
        assert_eq!(one(Format::ArrowIpc, &every_type(), body), every_value());
    }
}

/// The source type of each column of [`every_type`], another one that holds the same values.
fn neighbours() -> Vec<DataType> {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    vec![
        DataType::Boolean,
        DataType::Int8,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float16,
        DataType::Float32,
        DataType::Decimal128(5, 1),
        dictionary,
        DataType::LargeBinary,
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Timestamp(TimeUnit::Second, Some("+02:00".into())),
    ]
}

#[test]
fn neighbouring_arrow_types_are_cast_without_loss() {
    let value = every_value();
    let arrays = value.columns().iter().zip(neighbours());
    let arrays: Vec<_> = arrays.map(|(a, t)| cast(a, &t).unwrap()).collect();
    let fields = value.schema();
    let fields = fields.fields().iter().zip(&arrays);
    let fields: Vec<_> =
        fields.map(|(f, a)| Field::new(f.name(), a.data_type().clone(), true)).collect();
    let other = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    assert_eq!(one(Format::ArrowIpc, &every_type(), ipc_stream(&other)), value);
}

#[test]
fn views_and_missing_columns_are_filled_in() {
    let id = Arc::new(Int32Array::from(vec![1, 2]));
    let carrier = Arc::new(StringViewArray::from(vec![Some("UA"), None]));
    let batch = RecordBatch::try_from_iter([("carrier", carrier as ArrayRef), ("id", id)]).unwrap();
    for (format, body) in
        [(Format::ArrowIpc, ipc_stream(&batch)), (Format::Parquet, parquet_file(&batch))]
    {
        let rows = one(format, &flights(), body);
        assert_eq!(rows.column(0).as_ref(), &Int64Array::from(vec![1, 2]));
        assert_eq!(rows.column(1).as_ref(), &StringArray::from(vec![Some("UA"), None]));
        assert_eq!(rows.column(2).null_count(), 2);
    }
}

#[test]
fn scalars_read_as_text_where_the_column_is_text() {
    let body = "{\"id\":\"7\",\"carrier\":12}\n{\"id\":8,\"carrier\":true}";
    let rows = one(Format::NdJson, &flights(), body);
    assert_eq!(rows.column(0).as_ref(), &Int64Array::from(vec![7, 8]));
    assert_eq!(rows.column(1).as_ref(), &StringArray::from(vec!["12", "true"]));
}

#[test]
fn an_empty_body_has_no_rows() {
    for format in [Format::NdJson, Format::Json, Format::Csv, Format::ArrowIpc, Format::Parquet] {
        assert_eq!(decode(format, &flights(), b"").unwrap(), []);
    }
}

#[test]
fn content_types_name_formats() {
    let format = |t| Format::from_content_type(t);
    assert_eq!(format("text/csv; charset=utf-8"), Some(Format::Csv));
    assert_eq!(format("Application/X-NDJSON"), Some(Format::NdJson));
    assert_eq!(format("application/xml"), None);
    assert_eq!(Format::from_path("a/b.PARQUET".as_ref()), Some(Format::Parquet));
    assert_eq!(Format::from_path("a/b".as_ref()), None);
}

/// Columns whose text forms PostgreSQL has and Arrow has not.
fn nested_types() -> SchemaRef {
    use kaplan_sql::dialect::column_field;
    let columns = [
        ("id", "bigint"),
        ("doc", "jsonb"),
        ("tags", "text[]"),
        ("sizes", "numeric(6,2)[]"),
        ("at", "time"),
        ("length", "interval"),
    ];
    let fields = columns.map(|(name, sql)| column_field(name, sql, true).unwrap());
    Arc::new(Schema::new(fields.to_vec()))
}

fn shown(batch: &RecordBatch) -> Vec<String> {
    let schema = batch.schema();
    let cell = |at: usize, row| {
        let text = kaplan_sql::functions::sql_text(batch.column(at), schema.field(at), row);
        text.unwrap().unwrap_or_else(|| "NULL".into())
    };
    let row = |row| (0..batch.num_columns()).map(|at| cell(at, row)).collect::<Vec<_>>().join("|");
    (0..batch.num_rows()).map(row).collect()
}

#[test]
fn nested_json_reaches_columns_that_take_it() {
    let body = concat!(
        r#"{"id":1,"doc":{"a":[1,{"b":"x\"]}\\"}],"n":1.50},"tags":["a","b c",null],"sizes":[1.5,20],"#,
        r#""at":"12:34:56.5","length":"1 day 02:00","ignored":{"doc":[1]}}"#,
        "\n",
        r#"{"doc":[],"tags":"{x,\"y z\"}","sizes":[],"id":2,"length":"P1M"}"#,
        "\n",
        r#"{"id":3,"doc":"{\"a\": true}","tags":null}"#,
        "\n{\"id\":4,\"doc\":\n  {\"k\":\n  17.250}}\n",
    );
    let expected = [
        r#"1|{"a":[1,{"b":"x\"]}\\"}],"n":1.50}|{a,"b c",NULL}|{1.50,20.00}|12:34:56.5|1 day 02:00:00"#,
        r#"2|[]|{x,"y z"}|{}|NULL|1 mon"#,
        r#"3|{"a": true}|NULL|NULL|NULL|NULL"#,
        r#"4|{"k":   17.250}|NULL|NULL|NULL|NULL"#,
    ];
    assert_eq!(shown(&one(Format::NdJson, &nested_types(), body)), expected);
    let array = format!("[{}]", body.trim_end().replace("}\n{", "},{"));
    assert_eq!(shown(&one(Format::Json, &nested_types(), array))[..2], expected[..2]);
}

#[test]
fn nested_values_of_another_type_are_refused_by_row() {
    for (row, field) in [
        (r#"{"id":2,"tags":{"a":1}}"#, "tags"),
        (r#"{"id":2,"sizes":["x"]}"#, "sizes"),
        (r#"{"id":2,"at":"25:00"}"#, "at"),
        (r#"{"id":2,"length":"soon"}"#, "length"),
        (r#"{"id":[2]}"#, "id"),
    ] {
        let body = format!("{{\"id\":1}}\n{row}");
        let error = decode(Format::NdJson, &nested_types(), body.as_bytes()).unwrap_err();
        assert_eq!((error.row, error.field.as_deref()), (Some(2), Some(field)), "{error:?}");
    }
}
