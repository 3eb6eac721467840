//! Everything in a bucket of Google Cloud Storage, as far as it can be had here: a double of its XML
//! interface that enforces generations, pages its listings, and loses the answer of every seventh
//! write after it took effect. The real service has not been tried.

use super::bucket::{DEFINITIONS, answers, insert, verified};
use super::server::Server;
use super::{kaplan, stderr};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Objects of one page of a listing.
const PAGE: usize = 7;
/// Every so many writes the answer is lost.
const LOSE_EVERY: u64 = 7;
const DATE: &str = "Mon, 05 Jan 2026 09:00:00 GMT";

#[derive(Default)]
struct Bucket {
    /// Bytes and generation by key.
    objects: Mutex<BTreeMap<String, (Bytes, u64)>>,
    writes: AtomicU64,
    conflicts: AtomicU64,
}

struct Gcs {
    endpoint: String,
    bucket: Arc<Bucket>,
    _runtime: tokio::runtime::Runtime,
}

impl Gcs {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let bucket = Arc::<Bucket>::default();
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&bucket));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, bucket, _runtime: runtime }
    }

    fn server(&self, prefix: &str) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut command = kaplan(dir.path());
        command.args(["start", "--data", &format!("gs://lake/{prefix}")]);
        command.args(["--http", "127.0.0.1:0", "--postgres", "off", "--log-format", "json"]);
        command.args(["--archive-interval-ms", "300", "--checkpoint-interval-ms", "500"]);
        command.args(["--log-linger-ms", "5"]);
        // A key that asks nobody for a token.
        let key = serde_json::json!({
            "private_key": "private_key",
            "private_key_id": "private_key_id",
            "client_email": "client_email",
            "disable_oauth": true,
            "gcs_base_url": self.endpoint,
        });
        command.env("GOOGLE_SERVICE_ACCOUNT_KEY", key.to_string());
        command.env("GOOGLE_ALLOW_HTTP", "true");
        Server::spawn(command, dir)
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

async fn answer(State(bucket): State<Arc<Bucket>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = decoded(parts.uri.path());
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let Some(key) = path.strip_prefix("/lake/") else { return bucket.list(&query) };
    match parts.method {
        Method::PUT if query.is_empty() => {
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            bucket.put(key, bytes, &parts.headers)
        }
        Method::GET | Method::HEAD => bucket.get(key, &parts.headers),
        Method::DELETE => match bucket.objects.lock().unwrap().remove(key) {
            Some(_) => empty(StatusCode::NO_CONTENT),
            None => empty(StatusCode::NOT_FOUND),
        },
        _ => empty(StatusCode::NOT_IMPLEMENTED),
    }
}

fn decoded(path: &str) -> String {
    let pair = format!("x={}", path.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes()).next().unwrap().1.into_owned()
}

impl Bucket {
    fn put(&self, key: &str, bytes: Bytes, headers: &HeaderMap) -> Response<Body> {
        let mut objects = self.objects.lock().unwrap();
        let found = objects.get(key).map_or(0, |(_, generation)| *generation);
        let wanted = headers.get("x-goog-if-generation-match");
        if wanted.is_some_and(|wanted| wanted.to_str().unwrap() != found.to_string()) {
            self.conflicts.fetch_add(1, Ordering::Relaxed);
            return empty(StatusCode::PRECONDITION_FAILED);
        }
        let generation = 1_000 + self.writes.fetch_add(1, Ordering::Relaxed);
        objects.insert(key.to_owned(), (bytes, generation));
        if generation.is_multiple_of(LOSE_EVERY) {
            return empty(StatusCode::SERVICE_UNAVAILABLE);
        }
        Response::builder()
            .header(header::ETAG, format!("\"{generation}\""))
            .header("x-goog-generation", generation)
            .body(Body::empty())
            .unwrap()
    }

    fn get(&self, key: &str, headers: &HeaderMap) -> Response<Body> {
        let found = self.objects.lock().unwrap().get(key).cloned();
        let Some((bytes, generation)) = found else { return empty(StatusCode::NOT_FOUND) };
        let mut response = Response::builder()
            .header(header::ETAG, format!("\"{generation}\""))
            .header(header::LAST_MODIFIED, DATE)
            .header("x-goog-generation", generation);
        let mut part = bytes.clone();
        if let Some(range) = headers.get(header::RANGE) {
            let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let size = bytes.len();
            let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
                (Ok(from), Ok(to)) => (from, (to + 1).min(size)),
                (Ok(from), Err(_)) => (from, size),
                (Err(_), to) => (size.saturating_sub(to.unwrap()), size),
            };
            part = bytes.slice(from..to);
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", to - 1));
        }
        response.body(Body::from(part)).unwrap()
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Response<Body> {
        let prefix = query.get("prefix").cloned().unwrap_or_default();
        let after = query.get("continuation-token").or(query.get("start-after"));
        let (mut contents, mut prefixes, mut next) = (String::new(), BTreeSet::new(), None);
        let objects = self.objects.lock().unwrap();
        let matching = objects.iter().filter(|(key, _)| key.starts_with(&prefix));
        let matching = matching.filter(|(key, _)| after.is_none_or(|after| *key > after));
        for (n, (key, (bytes, generation))) in matching.enumerate() {
            if n == PAGE {
                break;
            }
            next = Some(key.clone());
            match key[prefix.len()..].split_once('/') {
                Some((first, _)) if query.contains_key("delimiter") => {
                    prefixes.insert(format!("{prefix}{first}/"));
                }
                _ => contents.push_str(&format!(
                    "<Contents><Key>{key}</Key><Size>{}</Size><ETag>\"{generation}\"</ETag>\
                     <LastModified>2026-01-05T09:00:00Z</LastModified></Contents>",
                    bytes.len()
                )),
            }
        }
        let more = next.filter(|last| objects.keys().any(|k| k > last && k.starts_with(&prefix)));
        let more = more.map(|n| format!("<NextContinuationToken>{n}</NextContinuationToken>"));
        let prefixes = prefixes
            .iter()
            .map(|p| format!("<CommonPrefixes><Prefix>{p}</Prefix></CommonPrefixes>"));
        let text = format!(
            "<ListBucketResult>{contents}{}{}</ListBucketResult>",
            prefixes.collect::<String>(),
            more.unwrap_or_default()
        );
        Response::new(Body::from(text))
    }
}

#[test]
fn generations_keep_a_bucket_whole_through_kills_and_two_processes() {
    let gcs = Gcs::start();
    let mut server = gcs.server("a/b");
    server.ok(&["sql", "-c", DEFINITIONS]);
    let customers = "INSERT INTO customers VALUES ('c0', 'Ulm'), ('c1', 'Ulm'), ('c2', 'Bonn')";
    server.ok(&["sql", "-c", customers]);
    for round in 0..3 {
        insert(&server, round * 100, 60);
        server.ok(&["batch", "sales", "--wait"]);
        insert(&server, round * 100 + 60, 40);
        let before = answers(&server);
        server.stop("KILL");
        server = gcs.server("a/b");
        verified(&server);
        assert_eq!(answers(&server), before, "round {round}");
    }
    let new = gcs.server("a/b");
    let refused = server.run(&["sql", "-c", "INSERT INTO orders VALUES (999, 'c0', 1, NULL)"]);
    assert!(stderr(&refused).contains("another instance has taken over"), "{}", stderr(&refused));
    verified(&new);
    assert!(answers(&new).ends_with("rows,total\n300,448500\n"), "{}", answers(&new));
    assert!(gcs.bucket.conflicts.load(Ordering::Relaxed) > 5, "no write was settled");
}
