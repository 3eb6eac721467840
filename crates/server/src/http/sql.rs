//! `POST /v1/sql`: statements in, the last result set out, in the form that `Accept` asks for.
//! Every request is a session of its own.

use super::App;
use super::error::ApiError;
use super::ingest::{read, text};
use crate::execute::execute;
use crate::rows;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use kaplan_base::Lsn;
use kaplan_base::limits::MAX_SQL_BYTES;
use kaplan_platform::{Code, Outcome, RowSet, Session};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    query: String,
}

/// The forms of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    Json,
    NdJson,
    Csv,
    Arrow,
}

pub(super) async fn run(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let accept = accept(&headers);
    let body = read(&headers, body, MAX_SQL_BYTES, None).await?;
    let sql = query(&headers, &body.bytes)?;
    let mut session = Session::default();
    let outcomes = execute(&app.platform, &mut session, &sql).await?;
    if session.transaction.drop_writes() {
        let message = "the transaction was not ended, so nothing of it was committed";
        return Err(ApiError::new(Code::Unsupported, message)
            .hint("over HTTP a transaction is one request: BEGIN; ..; COMMIT"));
    }
    respond(accept, outcomes).await
}

fn query(headers: &HeaderMap, body: &[u8]) -> Result<String, ApiError> {
    let wrong = |message: String| {
        ApiError::new(Code::InvalidInput, message)
            .hint("send {\"query\": \"select ..\"} as application/json, or SQL as text/plain")
    };
    let content_type = text(headers, header::CONTENT_TYPE.as_str())?.unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let sql = match media_type.to_ascii_lowercase().as_str() {
        "application/json" => serde_json::from_slice::<Query>(body)
            .map(|q| q.query)
            .map_err(|e| wrong(format!("the body is not a JSON query: {e}")))?,
        // `curl -d` without a header says that it sends a form, and sends what it was given.
        "" | "text/plain" | "application/sql" | "application/x-www-form-urlencoded" => {
            std::str::from_utf8(body)
                .map(str::to_owned)
                .map_err(|_| wrong("the SQL is not valid UTF-8".to_owned()))?
        }
        other => {
            let what = format!("SQL cannot be read from Content-Type {other}");
            return Err(ApiError::unsupported_media_type(what)
                .hint("send one of: application/json, text/plain, application/sql"));
        }
    };
    match sql.trim().is_empty() {
        true => Err(wrong("there is no SQL in the request".to_owned())),
        false => Ok(sql),
    }
}

/// The first form in `Accept` that exists; JSON when none does.
pub(super) fn accept(headers: &HeaderMap) -> Accept {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut names = values
        .flat_map(|v| v.split(','))
        .map(|v| v.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let known = names.find_map(|name| match name.as_str() {
        "application/json" | "*/*" | "application/*" => Some(Accept::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Accept::NdJson),
        "text/csv" => Some(Accept::Csv),
        "application/vnd.apache.arrow.stream" => Some(Accept::Arrow),
        _ => None,
    });
    known.unwrap_or(Accept::Json)
}

async fn respond(accept: Accept, outcomes: Vec<Outcome>) -> Result<Response, ApiError> {
    let last_rows = outcomes.iter().rposition(|o| matches!(o, Outcome::Rows(_)));
    match last_rows.and_then(|at| outcomes.get(at)) {
        Some(Outcome::Rows(rows)) if accept != Accept::Json => {
            rows_response(accept, rows.clone()).await
        }
        _ => blocking(move || Ok(json_outcomes(&outcomes, last_rows))).await,
    }
}

/// One result set in the form asked for.
pub(super) async fn rows_response(accept: Accept, rows: RowSet) -> Result<Response, ApiError> {
    blocking(move || {
        let (content_type, body) = match accept {
            Accept::Json => ("application/json", json_rows(&rows, "").into_bytes()),
            Accept::NdJson => ("application/x-ndjson", rows::ndjson(&rows).into_bytes()),
            Accept::Csv => ("text/csv; charset=utf-8", rows::csv(&rows).into_bytes()),
            Accept::Arrow => (
                "application/vnd.apache.arrow.stream",
                rows::arrow_stream(&rows).map_err(|e| {
                    ApiError::new(Code::Internal, format!("the rows cannot be written: {e}"))
                })?,
            ),
        };
        Ok(written(content_type, body, Some(rows.lsn)))
    })
    .await
}

/// Writes large results beside the threads that answer requests.
async fn blocking(
    write: impl FnOnce() -> Result<Response, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    tokio::task::spawn_blocking(write).await.unwrap_or_else(|e| {
        Err(ApiError::new(Code::Internal, format!("the result could not be written: {e}")))
    })
}

fn written(content_type: &'static str, body: Vec<u8>, lsn: Option<Lsn>) -> Response {
    let mut response = ([(header::CONTENT_TYPE, content_type)], body).into_response();
    if let Some(lsn) = lsn {
        response.headers_mut().insert("x-kaplan-lsn", HeaderValue::from(lsn.0));
    }
    response
}

fn json_outcomes(outcomes: &[Outcome], last_rows: Option<usize>) -> Response {
    let main = last_rows.or_else(|| outcomes.len().checked_sub(1));
    let Some(main) = main.and_then(|at| outcomes.get(at)) else {
        return written("application/json", b"{}".to_vec(), None);
    };
    let results = match outcomes.len() {
        1 => String::new(),
        _ => {
            let all: Vec<String> = outcomes.iter().map(|o| json_outcome(o, "")).collect();
            format!(",\"results\":[{}]", all.join(","))
        }
    };
    let lsn = match main {
        Outcome::Rows(rows) => Some(rows.lsn),
        Outcome::Done { lsn, .. } => *lsn,
    };
    written("application/json", json_outcome(main, &results).into_bytes(), lsn)
}

/// One result as an object, with `more` members at its end.
fn json_outcome(outcome: &Outcome, more: &str) -> String {
    match outcome {
        Outcome::Rows(rows) => json_rows(rows, more),
        Outcome::Done { tag, lsn, notices } => {
            let members = json!({"tag": tag, "lsn": lsn, "notices": notices}).to_string();
            format!("{}{more}}}", members.strip_suffix('}').unwrap_or(&members))
        }
    }
}

fn json_rows(rows: &RowSet, more: &str) -> String {
    let columns: Value = rows::columns(&rows.schema);
    format!(
        "{{\"columns\":{columns},\"rows\":{},\"lsn\":{}{more}}}",
        rows::json_rows(rows),
        rows.lsn
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch};
    use std::sync::Arc;

    fn rows() -> RowSet {
        let column = Arc::new(Int64Array::from(vec![1, 2])) as arrow::array::ArrayRef;
        let batch = RecordBatch::try_from_iter([("a}", column)]).unwrap();
        RowSet { schema: batch.schema(), batches: vec![batch], lsn: Lsn(9) }
    }

    fn done() -> Outcome {
        Outcome::Done {
            tag: "CREATE }".to_owned(),
            lsn: Some(Lsn(3)),
            notices: vec!["ignored".to_owned()],
        }
    }

    async fn answer(outcomes: Vec<Outcome>) -> Value {
        let response = respond(Accept::Json, outcomes).await.unwrap();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn one_result_stands_alone_and_several_are_listed() {
        let table = json!({"columns": [{"name": "a}", "type": "bigint"}], "rows": [[1], [2]],
            "lsn": 9});
        let tag = json!({"tag": "CREATE }", "lsn": 3, "notices": ["ignored"]});
        assert_eq!(answer(vec![Outcome::Rows(rows())]).await, table);
        assert_eq!(answer(vec![done()]).await, tag);
        assert_eq!(answer(vec![]).await, json!({}));
        let mut both = table.clone();
        both["results"] = json!([table, tag]);
        assert_eq!(answer(vec![Outcome::Rows(rows()), done()]).await, both);
    }

    #[tokio::test]
    async fn accept_chooses_the_form() {
        let headers = |value: &'static str| {
            HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))])
        };
        assert_eq!(accept(&HeaderMap::new()), Accept::Json);
        assert_eq!(accept(&headers("text/html, text/csv;q=0.9")), Accept::Csv);
        assert_eq!(accept(&headers("image/png")), Accept::Json);
        let response = respond(Accept::Csv, vec![Outcome::Rows(rows()), done()]).await.unwrap();
        assert_eq!(response.headers()["x-kaplan-lsn"], "9");
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert_eq!(bytes, "a}\n1\n2\n");
    }
}
