//! Reads of a view by the values of some columns, answered from its state without a plan: the rows of
//! one key, or those of a view of plain rows that have the values. Everything else is planned.

use crate::platform::Inner;
use crate::{Layer, Result, RowSet, Session, names, query};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::Query;
use kaplan_serving::Condition;
use kaplan_speed::Snapshot;
use kaplan_sql::dialect::{self, PointRead, PointValue};
use std::sync::Arc;

/// Answers a query that is such a read; None: it must be planned.
pub(crate) async fn select(
    inner: &Inner,
    session: &Session,
    query: &Query,
) -> Result<Option<RowSet>> {
    match dialect::point_read(query) {
        Some(read) => answer(inner, session, &read).await,
        None => Ok(None),
    }
}

/// Answers such a read; None: its query must be planned.
pub(crate) async fn answer(
    inner: &Inner,
    session: &Session,
    read: &PointRead,
) -> Result<Option<RowSet>> {
    if session.transaction.is_open() || names::layer_of(&read.relation).is_some() {
        return Ok(None);
    }
    let Some((view, schema)) = view_of(inner, session, &read.relation) else { return Ok(None) };
    let Some(wanted) = conditions(read, &schema) else { return Ok(None) };
    let Some(columns) = columns(read, &schema) else { return Ok(None) };
    let found = matching(inner, session, &view, wanted, read.limit).await?;
    let Some((snapshot, rows)) = found else { return Ok(None) };
    let fields = columns.iter().map(|(i, name)| {
        let field: &Field = schema.field(*i);
        Arc::new(field.clone().with_name(name))
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let picked: Vec<usize> = columns.iter().map(|(i, _)| *i).collect();
    let made = rows.project(&picked)?.columns().to_vec();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let rows = RecordBatch::try_new_with_options(Arc::clone(&schema), made, &options)?;
    Ok(Some(RowSet { schema, batches: vec![rows], lsn: snapshot.lsn }))
}

/// The rows of a view with these values, no more than asked for, at a snapshot that has all that is
/// durable.
pub(crate) async fn matching(
    inner: &Inner,
    session: &Session,
    view: &str,
    wanted: Vec<Condition>,
    limit: Option<usize>,
) -> Result<Option<(Arc<Snapshot>, RecordBatch)>> {
    let mut tries = 0;
    let (snapshot, served) = loop {
        let snapshot = inner.fresh_snapshot(session).await?;
        match inner.served(&snapshot, view, Layer::Served) {
            Ok(served) => break (snapshot, served),
            Err(error) => query::gap(error, &mut tries).await?,
        }
    };
    // One key is found at once; rows are looked through where that holds up no request.
    let rows = match served.is_by_key(&wanted) {
        true => served.matching(&wanted)?,
        false => inner.on_query_threads(async move { Ok(served.matching(&wanted)?) }).await?,
    };
    let first = |rows: RecordBatch| rows.slice(0, rows.num_rows().min(limit.unwrap_or(usize::MAX)));
    Ok(rows.map(|rows| (snapshot, first(rows))))
}

/// The view that a name stands for, and its columns.
fn view_of(inner: &Inner, session: &Session, name: &str) -> Option<(String, SchemaRef)> {
    let catalog = Arc::clone(&inner.definitions.read());
    let name = names::resolve(&catalog, session, name);
    let names::Named::View(def) = names::find(&catalog, &name)? else { return None };
    let schema = SchemaRef::clone(&inner.view(&def.name).ok()?.compiled.schema);
    Some((def.name.clone(), schema))
}

/// The columns of the result: their positions in the view and their names.
fn columns(read: &PointRead, schema: &Schema) -> Option<Vec<(usize, String)>> {
    let Some(columns) = &read.columns else {
        return Some(schema.fields().iter().map(|f| f.name().clone()).enumerate().collect());
    };
    let find =
        |(column, name): &(String, String)| Some((schema.index_of(column).ok()?, name.clone()));
    columns.iter().map(find).collect()
}

fn conditions(read: &PointRead, schema: &Schema) -> Option<Vec<Condition>> {
    let find = |(column, value): &(String, PointValue)| {
        let at = schema.index_of(column).ok()?;
        let field = schema.field(at);
        // Types beyond Arrow's, such as uuid, read their texts in their own way.
        let plain = field.metadata().is_empty();
        Some((at, plain.then(|| value_of(value, field.data_type())).flatten()?))
    };
    read.conditions.iter().map(find).collect()
}

/// A literal as a value of a column's type, where the planner would come to the same.
fn value_of(value: &PointValue, data_type: &DataType) -> Option<ScalarValue> {
    match (value, data_type) {
        (PointValue::Integer(value), DataType::Int16 | DataType::Int32 | DataType::Int64) => {
            ScalarValue::Int64(Some(*value)).cast_to(data_type).ok().filter(|v| !v.is_null())
        }
        (PointValue::Boolean(value), DataType::Boolean) => Some(ScalarValue::from(*value)),
        (PointValue::Text(text), DataType::Utf8) => Some(ScalarValue::Utf8(Some(text.clone()))),
        (PointValue::Text(text), DataType::Utf8View) => {
            Some(ScalarValue::Utf8View(Some(text.clone())))
        }
        (PointValue::Text(text) | PointValue::Date(text), DataType::Date32) => {
            is_date(text).then(|| ScalarValue::try_from_string(text.clone(), data_type).ok())?
        }
        (
            PointValue::Text(text) | PointValue::Timestamp(text),
            DataType::Timestamp(TimeUnit::Microsecond, None),
        ) => is_time(text).then(|| ScalarValue::try_from_string(text.clone(), data_type).ok())?,
        _ => None,
    }
}

/// `2024-01-31`: the form that reads the same everywhere.
fn is_date(text: &str) -> bool {
    let digit = |at: usize, byte: u8| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 10 && text.bytes().enumerate().all(|(at, byte)| digit(at, byte))
}

/// `2024-01-31 12:00:00`, with up to six digits more.
fn is_time(text: &str) -> bool {
    let (Some(date), Some(time)) = (text.get(..10), text.get(10..)) else { return false };
    let digit = |at: usize, byte: u8| match at {
        0 => byte == b' ' || byte == b'T',
        3 | 6 => byte == b':',
        9 => byte == b'.',
        _ => byte.is_ascii_digit(),
    };
    let long = time.len() == 9 || (11..=16).contains(&time.len());
    is_date(date) && long && time.bytes().enumerate().all(|(at, byte)| digit(at, byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Platform, Settings};
    use kaplan_base::SystemClock;

    #[tokio::test(flavor = "multi_thread")]
    async fn reads_by_value_take_the_short_way() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { data_dir: dir.path().into(), ..Settings::default() };
        let platform = Platform::open(settings, Arc::new(SystemClock)).await.unwrap();
        let mut session = Session::default();
        let text = "CREATE STREAM s (k integer, a bigint);
             CREATE MATERIALIZED VIEW sums AS SELECT k, sum(a) AS total FROM s GROUP BY k;
             CREATE MATERIALIZED VIEW plain AS SELECT k, a FROM s WHERE a > 1;
             CREATE MATERIALIZED VIEW sorted AS SELECT k, a FROM s ORDER BY a LIMIT 3;
             INSERT INTO s VALUES (1, 1), (1, 2), (2, 3)";
        platform.execute(&mut session, text).await.unwrap();
        for (query, rows) in [
            ("SELECT * FROM sums WHERE k = 1", Some(1)),
            ("SELECT total FROM sums AS v WHERE v.k = 9", Some(0)),
            ("SELECT a FROM plain WHERE k = 1", Some(1)),
            ("SELECT a FROM plain WHERE k = 1 LIMIT 0", Some(0)),
            // Not the whole key, more than a tail row by row, and what is no such read.
            ("SELECT k FROM sums WHERE total = 3", None),
            ("SELECT a FROM sorted WHERE k = 1", None),
            ("SELECT count(*) FROM plain WHERE k = 1", None),
            ("SELECT a FROM plain WHERE k > 1", None),
            ("SELECT a FROM s WHERE k = 1", None),
        ] {
            let parsed = dialect::parse_query(query).unwrap();
            let found = select(&platform.inner, &session, &parsed).await.unwrap();
            let found = found.map(|set| set.batches.iter().map(RecordBatch::num_rows).sum());
            assert_eq!(found, rows, "{query}");
        }
        platform.close().await.unwrap();
    }

    #[test]
    fn texts_of_one_form_are_times() {
        for text in ["2024-01-31 12:00:00", "2024-01-31T12:00:00.5", "2024-01-31 12:00:00.123456"] {
            assert!(is_time(text), "{text}");
        }
        for text in
            ["2024-01-31", "2024-01-31 12:00", "2024-01-31 12:00:00.", "2024-01-31 12:00:00Z", "é"]
        {
            assert!(!is_time(text), "{text}");
        }
    }

    #[test]
    fn values_have_the_type_of_their_column_or_are_left_to_the_planner() {
        let int = |value, data_type| value_of(&PointValue::Integer(value), &data_type);
        assert_eq!(int(7, DataType::Int16), Some(ScalarValue::Int16(Some(7))));
        assert_eq!(int(70_000, DataType::Int16), None);
        assert_eq!(int(7, DataType::Float64), None);
        assert_eq!(value_of(&PointValue::Text("7".into()), &DataType::Int64), None);
        let day = value_of(&PointValue::Text("1970-01-02".into()), &DataType::Date32);
        assert_eq!(day, Some(ScalarValue::Date32(Some(1))));
        assert_eq!(value_of(&PointValue::Text("2024-02-30".into()), &DataType::Date32), None);
    }
}
