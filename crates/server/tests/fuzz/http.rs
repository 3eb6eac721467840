//! Events posted to a real server: every answer is a success or a refusal of the sender's, none is
//! the server's own failure, and in the end the stream has the rows that were acknowledged.

use crate::damage::{any, damaged};
use crate::{Outcome, Target};
use kaplan_base::SystemClock;
use kaplan_platform::{Platform, Settings};
use kaplan_server::{Options, Server};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const TYPES: [&str; 7] = [
    "application/x-ndjson",
    "application/json",
    "text/csv",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.parquet",
    "text/plain; charset=\"",
    "",
];
const ENCODINGS: [&str; 4] = ["", "gzip", "zstd", "identity, gzip"];
const PATHS: [&str; 3] = ["/v1/streams/events/events", "/v1/streams/rows/events", "/v1/sql"];

/// A server and what it acknowledged. An input's first three bytes choose type, encoding and path.
pub struct Ingest {
    runtime: Runtime,
    client: reqwest::Client,
    url: String,
    platform: Platform,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<()>>,
    _directory: tempfile::TempDir,
    acknowledged: u64,
}

impl Ingest {
    pub fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().to_owned();
        let (url, platform, stop, served) = runtime.block_on(async {
            let settings = Settings { data_dir, ..Settings::default() };
            let platform = Platform::open(settings, Arc::new(SystemClock)).await.unwrap();
            let any = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            let options = Options { http: any, postgres: None, ..Options::default() };
            let server = Server::bind(options).await.unwrap();
            let url = format!("http://{}", server.http_addr().unwrap());
            let (stop, stopped) = oneshot::channel::<()>();
            let serving = server.run(platform.clone(), async { drop(stopped.await) });
            let served = tokio::spawn(async move { serving.await.unwrap() });
            (url, platform, stop, served)
        });
        let mut ingest = Self {
            runtime,
            // A connection each: one on which a body was refused unread is closed by the server.
            client: reqwest::Client::builder()
                .no_proxy()
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
            url,
            platform,
            stop: Some(stop),
            served: Some(served),
            _directory: directory,
            acknowledged: 0,
        };
        let tables =
            "CREATE STREAM events (id BIGINT NOT NULL, text TEXT, at TIMESTAMPTZ, doc JSONB);
                      CREATE TABLE rows (id BIGINT PRIMARY KEY, text TEXT)";
        let (status, answer) = ingest.post("/v1/sql", "text/plain", "", tables.as_bytes()).unwrap();
        assert_eq!(status, 200, "{answer}");
        ingest
    }

    fn post(
        &mut self,
        path: &str,
        kind: &str,
        encoding: &str,
        body: &[u8],
    ) -> Result<(u16, String), String> {
        let mut request = self.client.post(format!("{}{path}", self.url)).body(body.to_vec());
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        if !encoding.is_empty() {
            request = request.header("content-encoding", encoding);
        }
        self.runtime.block_on(async {
            let answer = request.send().await.map_err(|e| format!("no answer: {e:?}"))?;
            let status = answer.status().as_u16();
            let text = answer.text().await.map_err(|e| format!("half an answer: {e}"))?;
            Ok((status, text))
        })
    }
}

fn good() -> Vec<Vec<u8>> {
    [
        "{\"id\":1,\"text\":\"a\",\"at\":\"2024-01-31T00:00:00Z\",\"doc\":{\"a\":[1]}}\n{\"id\":2}\n",
        "[{\"id\":1,\"text\":\"\\u00e9\"},{\"id\":2,\"doc\":null}]",
        "id,text\n1,a\n2,\"b\"\"c\"\n",
        "SELECT count(*) FROM rows WHERE id > 1 AND text LIKE 'a%'",
        "INSERT INTO rows VALUES (1, 'a'), (2, E'\\\\x') RETURNING id",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

impl Target for Ingest {
    fn name(&self) -> &'static str {
        "http"
    }

    fn max_bytes(&self) -> usize {
        256 << 20
    }

    fn share(&self) -> u64 {
        4
    }

    fn input(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let good = good();
        let at = rng.random_range(0..good.len());
        // Mostly what the body is; sometimes anything.
        let (kind, path) = match at {
            _ if rng.random_ratio(1, 5) => (rng.random_range(0..7), rng.random_range(0..3)),
            0..3 => (at, rng.random_range(0..2)),
            _ => (6, 2),
        };
        let encoding = if rng.random_ratio(1, 8) { rng.random_range(0..4) } else { 0 };
        let body =
            if rng.random_ratio(1, 10) { any(&good, rng).to_vec() } else { good[at].clone() };
        let head = vec![kind as u8, encoding, path as u8];
        [head, damaged(&body, &good, rng)].concat()
    }

    fn take(&mut self, input: &[u8]) -> Result<Outcome, String> {
        let kind = TYPES[usize::from(input[0])];
        let encoding = ENCODINGS[usize::from(input[1])];
        let path = PATHS[usize::from(input[2])];
        let (status, answer) = self.post(path, kind, encoding, &input[3..])?;
        let parsed: Value = serde_json::from_str(&answer)
            .map_err(|e| format!("{status} with a body that is no JSON: {e}: {answer}"))?;
        match status {
            200 => {
                if path == PATHS[0] {
                    let rows = parsed["rows"].as_u64().ok_or("an answer without rows")?;
                    self.acknowledged += rows;
                }
                Ok(Outcome::Read)
            }
            400..500 if parsed["error"]["message"].as_str().is_some_and(|m| !m.is_empty()) => {
                Ok(Outcome::Refused)
            }
            _ => Err(format!("{status}: {answer}")),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        let (status, answer) =
            self.post("/v1/sql", "text/plain", "", b"SELECT count(*) FROM events")?;
        let answer: Value = serde_json::from_str(&answer).map_err(|e| format!("{status}: {e}"))?;
        let found = answer["rows"][0][0].as_u64().unwrap_or_default();
        drop(self.stop.take());
        let (served, platform) = (self.served.take(), self.platform.clone());
        let closed = self.runtime.block_on(async {
            if let Some(served) = served {
                served.await.map_err(|e| e.to_string())?;
            }
            platform.close().await.map_err(|e| e.to_string())
        });
        closed?;
        match found == self.acknowledged {
            true => Ok(()),
            false => Err(format!("{found} rows, {} acknowledged", self.acknowledged)),
        }
    }
}
