//! Changes posted to a URL, as lines of JSON. Rows that are only added are sent as they are, so that
//! another Kaplan's stream takes them; with a key each line says what becomes of its row.
//!
//! A change is sent at least once: when no answer comes it is sent again. Its LSN is in a header,
//! so that a receiver can tell.

use crate::sink::{Change, Op, Sink, Spec};
use crate::{Error, Kind, Result, encode, position};
use async_trait::async_trait;
use kaplan_base::Lsn;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Rows in one request.
const REQUEST_ROWS: usize = 10_000;
/// The beginning of options that are headers.
const HEADER: &str = "header.";

const KNOWN: [&str; 6] =
    ["connector", "url", "type", "primary_key", "force_append_only", "snapshot"];

/// A URL.
pub struct WebhookSink {
    spec: Spec,
    url: String,
    http: reqwest::Client,
}

impl WebhookSink {
    /// A sink to a URL, without connecting.
    ///
    /// # Errors
    /// The definition is wrong.
    pub fn new(spec: Spec) -> Result<Self> {
        let options = &spec.def.options;
        let mut headers = HeaderMap::new();
        for (option, value) in options {
            let Some(name) = option.strip_prefix(HEADER) else {
                if KNOWN.contains(&option.as_str()) {
                    continue;
                }
                return Err(Error::config(format!("the connector webhook has no option {option}"))
                    .hint("its options are url, type, primary_key, header.* and snapshot"));
            };
            let wrong = || Error::config(format!("{option} is no header"));
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            let mut value: HeaderValue = value.parse().map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let url = options.get("url").filter(|u| u.starts_with("http")).cloned();
        let url = url.ok_or_else(|| {
            Error::config("url is missing").hint("write url = 'https://host/path'")
        })?;
        let http = reqwest::Client::builder().timeout(TIMEOUT).default_headers(headers).build();
        let http = http.map_err(|e| Error::config(format!("no HTTP client: {e}")))?;
        Ok(Self { spec, url, http })
    }

    fn lines(&self, change: &Change) -> Result<Vec<String>> {
        let all: Vec<usize> = (0..change.rows.num_columns()).collect();
        let rows = encode::objects(&change.rows, &all)?;
        if self.spec.key.is_empty() {
            return Ok(rows);
        }
        let word = |op: &Op| match op {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
        };
        let line = |(row, op): (String, &Op)| format!("{{\"op\":\"{}\",\"row\":{row}}}", word(op));
        Ok(rows.into_iter().zip(&change.ops).map(line).collect())
    }
}

#[async_trait]
impl Sink for WebhookSink {
    async fn open(&mut self) -> Result<Option<Lsn>> {
        position::read(&self.spec.place, self.spec.def.id).await
    }

    async fn write(&mut self, change: &Change, lsn: Lsn) -> Result<()> {
        let lines = self.lines(change)?;
        for (part, lines) in (1_u64..).zip(lines.chunks(REQUEST_ROWS)) {
            let request = self
                .http
                .post(&self.url)
                .header("content-type", "application/x-ndjson")
                .header("x-kaplan-lsn", lsn.0)
                .header("x-kaplan-part", part)
                .body(lines.join("\n"));
            let answer = request.send().await.map_err(|e| {
                Error::unavailable(format!("no answer from the webhook: {}", e.without_url()))
                    .hint("check the url, and whether its server is up")
            })?;
            let status = answer.status();
            if !status.is_success() {
                let text = answer.text().await.unwrap_or_default();
                let text: String = text.chars().take(200).collect();
                let busy = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
                let kind = if busy { Kind::Unavailable } else { Kind::Refused };
                return Err(Error::new(kind, format!("the webhook answered {status}: {text}")));
            }
        }
        position::write(&self.spec.place, self.spec.def.id, lsn).await
    }

    fn exactly_once(&self) -> bool {
        false
    }
}
