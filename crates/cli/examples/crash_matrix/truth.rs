//! What the streams, the table and the views must hold, computed from what was acknowledged.

use serde_json::Value;
use std::collections::BTreeMap;

/// Length of the tumbling window, seconds.
pub const WINDOW_S: i64 = 600;
/// The filter view keeps values above this.
pub const THRESHOLD: i64 = 50;
/// 2024-03-01T00:00:00Z.
const EPOCH_S: i64 = 1_709_251_200;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique in its stream.
    pub id: i64,
    /// One of few keys.
    pub k: String,
    /// A small number.
    pub v: i64,
    /// Seconds after the first day began.
    pub at_s: i64,
    /// Bytes of padding, which make the log roll and trim its segments.
    pub pad: usize,
}

impl Event {
    /// The event as a line of NDJSON.
    pub fn json(&self) -> String {
        let Event { id, k, v, at_s, pad } = self;
        let pad = match pad {
            0 => String::new(),
            pad => format!(",\"pad\":\"{}\"", "x".repeat(*pad)),
        };
        let ts = text_time(*at_s);
        format!("{{\"id\":{id},\"k\":\"{k}\",\"v\":{v},\"ts\":\"{ts}\"{pad}}}\n")
    }
}

fn text_time(at_s: i64) -> String {
    let time = chrono::DateTime::from_timestamp(EPOCH_S + at_s, 0).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// Rows as texts with the number of times that each occurs.
pub type Bag = BTreeMap<String, i64>;

/// Rows of the server as a bag.
pub fn bag(rows: &[Vec<Value>]) -> Bag {
    let mut bag = Bag::new();
    for row in rows {
        let cells: Vec<String> = row.iter().map(cell).collect();
        *bag.entry(cells.join("|")).or_default() += 1;
    }
    bag
}

/// A sum of bigints may come as a text, a time with or without fractions.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => match chrono::DateTime::parse_from_rfc3339(text) {
            Ok(time) => (time.timestamp() - EPOCH_S).to_string(),
            Err(_) => text.clone(),
        },
        other => other.to_string(),
    }
}

/// How often rows occur too often or too rarely, with the first example.
pub fn difference(found: &Bag, expected: &Bag) -> (u64, Option<String>) {
    let (mut count, mut first) = (0, None);
    let keys = found.keys().chain(expected.keys().filter(|k| !found.contains_key(*k)));
    for key in keys {
        let have = found.get(key).copied().unwrap_or(0);
        let want = expected.get(key).copied().unwrap_or(0);
        if have != want {
            count += have.abs_diff(want);
            first.get_or_insert_with(|| format!("[{key}] {have} times instead of {want}"));
        }
    }
    (count, first)
}

/// The kinds of views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mergeable count and sum.
    PerKey,
    /// Mergeable, in windows.
    Windows,
    /// Rows of the stream with the table's.
    Joined,
    /// Aggregated over the join.
    Grouped,
    /// A filter.
    Large,
}

/// Every kind.
pub const KINDS: [Kind; 5] =
    [Kind::PerKey, Kind::Windows, Kind::Joined, Kind::Grouped, Kind::Large];

impl Kind {
    /// The view's name.
    pub fn view(self, stream: &str, architecture: &str) -> String {
        format!("{}_{stream}_{architecture}", format!("{self:?}").to_lowercase())
    }

    /// The view's query.
    pub fn query(self, stream: &str) -> String {
        match self {
            Kind::PerKey => {
                format!("SELECT k, count(*) AS n, sum(v) AS s FROM {stream} GROUP BY k")
            }
            Kind::Windows => format!(
                "SELECT window_start, k, count(*) AS n, sum(v) AS s FROM \
                 TUMBLE({stream}, ts, INTERVAL '{WINDOW_S} seconds') GROUP BY window_start, k"
            ),
            Kind::Joined => {
                format!("SELECT e.id, e.v, t.g FROM {stream} e JOIN names t ON e.k = t.k")
            }
            Kind::Grouped => format!(
                "SELECT t.g, count(*) AS n, sum(e.v) AS s FROM {stream} e \
                 JOIN names t ON e.k = t.k GROUP BY t.g"
            ),
            Kind::Large => format!("SELECT id, v FROM {stream} WHERE v > {THRESHOLD}"),
        }
    }

    /// The view's rows.
    pub fn expected(self, events: &BTreeMap<i64, Event>, names: &BTreeMap<String, i64>) -> Bag {
        let mut groups: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let mut rows = Bag::new();
        for e in events.values() {
            let group = match self {
                Kind::PerKey => Some(e.k.clone()),
                Kind::Windows => {
                    Some(format!("{}|{}", e.at_s.div_euclid(WINDOW_S) * WINDOW_S, e.k))
                }
                Kind::Grouped => names.get(&e.k).map(i64::to_string),
                Kind::Joined | Kind::Large => None,
            };
            if let Some(group) = group {
                let sums = groups.entry(group).or_default();
                *sums = (sums.0 + 1, sums.1 + e.v);
            }
            let row = match (self, names.get(&e.k)) {
                (Kind::Joined, Some(g)) => Some(format!("{}|{}|{g}", e.id, e.v)),
                (Kind::Large, _) if e.v > THRESHOLD => Some(format!("{}|{}", e.id, e.v)),
                _ => None,
            };
            if let Some(row) = row {
                *rows.entry(row).or_default() += 1;
            }
        }
        rows.extend(groups.into_iter().map(|(group, (n, s))| (format!("{group}|{n}|{s}"), 1)));
        rows
    }
}
