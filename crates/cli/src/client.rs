//! The HTTP client of the shell and the other commands that talk to a running Kaplan. It sends what
//! it is given and turns refusals into [`Refusal`]; it retries nothing by itself.

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which server a command talks to.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Address of the server.
    #[arg(long, env = "KAPLAN_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub url: Url,
    /// Identity token for a server that asks for one. Better in the environment than as a flag, which
    /// other users of the machine see.
    #[arg(long, env = "KAPLAN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// A connection to one server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

/// One column of a result set.
#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// PostgreSQL's name of the type.
    #[serde(rename = "type", default)]
    pub kind: String,
}

/// Rows at one LSN.
#[derive(Clone, Debug, Deserialize)]
pub struct ResultSet {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows, each with one value a column.
    pub rows: Vec<Vec<Value>>,
    /// The LSN at which they were true.
    #[serde(default)]
    pub lsn: Option<u64>,
}

/// What a statement without rows answers.
#[derive(Clone, Debug, Deserialize)]
pub struct Done {
    /// The command tag.
    pub tag: String,
    /// The commit that it made.
    #[serde(default)]
    pub lsn: Option<u64>,
    /// Remarks for the user.
    #[serde(default)]
    pub notices: Vec<String>,
}

/// The answer to one statement.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// A result set.
    Rows(ResultSet),
    /// A statement without rows.
    Done(Done),
}

/// The server's answer: the main result, and every result when there are several.
#[derive(Deserialize)]
struct Answers {
    results: Option<Vec<Answer>>,
    #[serde(flatten)]
    only: Option<Answer>,
}

/// What the server refused, in its own words.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// The HTTP status.
    #[serde(skip)]
    pub status: u16,
    /// How long the server asks to wait.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// The kind of error.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The row of the input, counted from 1.
    pub row: Option<u64>,
    /// The field concerned.
    pub field: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

#[derive(Deserialize)]
struct ErrorBody {
    error: Refusal,
}

impl Client {
    /// A client of one server; nothing is sent yet.
    pub fn new(target: &Target) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &target.token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .context("the token is not one line of plain text")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("kaplan/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot set up the HTTP client")?;
        Ok(Self { http, base: target.url.clone() })
    }

    /// The server's address, as shown to people.
    #[must_use]
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Runs SQL; every call is a session of its own.
    pub async fn sql(&self, sql: String) -> anyhow::Result<Vec<Answer>> {
        let request = self.post(&["v1", "sql"])?.header("content-type", "text/plain").body(sql);
        let answers: Answers = self.json(request).await?;
        Ok(answers.results.unwrap_or_else(|| answers.only.into_iter().collect()))
    }

    /// The answer to a GET, from JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<T> {
        self.json(self.http.get(self.at(path)?)).await
    }

    /// A POST to be filled in.
    pub fn post(&self, path: &[&str]) -> anyhow::Result<RequestBuilder> {
        Ok(self.http.post(self.at(path)?))
    }

    /// The address of a path given in segments, each of which is escaped.
    fn at(&self, path: &[&str]) -> anyhow::Result<Url> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| anyhow::anyhow!("{} is not an HTTP address", self.address()))?
            .pop_if_empty()
            .extend(path);
        Ok(url)
    }

    /// Sends a request and reads its JSON answer; a refusal is a [`Refusal`], a lost or refused
    /// connection a [`reqwest::Error`].
    pub async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let body = self.done(request).await?;
        serde_json::from_slice(&body).with_context(|| {
            format!("{} does not answer as Kaplan does; is it one?", self.address())
        })
    }

    /// Sends a request and reads its answer, whatever it says; errors are those of [`Client::json`].
    pub async fn done(&self, request: RequestBuilder) -> anyhow::Result<Bytes> {
        let answer = request.send().await.with_context(|| self.unreachable())?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.context("the connection broke during the answer")?;
        if !status.is_success() {
            let seconds = headers.get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
            let refusal = Refusal {
                status: status.as_u16(),
                retry_after: seconds.map(Duration::from_secs),
                ..refusal(status, &body)
            };
            return Err(refusal.into());
        }
        Ok(body)
    }

    fn unreachable(&self) -> String {
        format!(
            "cannot reach {}: start a server with `kaplan start`, or name one with --url",
            self.address()
        )
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> Refusal {
    serde_json::from_slice::<ErrorBody>(body).map_or_else(
        |_| Refusal { message: format!("the server answered {status}"), ..Refusal::default() },
        |body| body.error,
    )
}

/// A name as SQL takes it: quoted unless it is a plain lower-case word.
#[must_use]
pub fn identifier(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty();
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answers(body: Value) -> usize {
        let answers: Answers = serde_json::from_value(body).unwrap();
        answers.results.map_or(usize::from(answers.only.is_some()), |results| results.len())
    }

    #[test]
    fn answers_are_one_several_or_none() {
        let rows = json!({"columns": [{"name": "a", "type": "bigint"}], "rows": [[1]], "lsn": 9});
        let done = json!({"tag": "SET", "lsn": null, "notices": []});
        assert_eq!(answers(rows.clone()), 1);
        assert_eq!(answers(done.clone()), 1);
        assert_eq!(answers(json!({})), 0);
        let mut both = rows.clone();
        both["results"] = json!([done, rows]);
        assert_eq!(answers(both), 2);
    }

    #[test]
    fn names_are_quoted_when_needed() {
        assert_eq!(identifier("daily_2"), "daily_2");
        assert_eq!(identifier("Daily"), "\"Daily\"");
        assert_eq!(identifier("a\"; drop"), "\"a\"\"; drop\"");
        assert_eq!(identifier("2x"), "\"2x\"");
    }
}
