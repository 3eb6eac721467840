//! Records of a topic: one of several is damaged, and the others must come through as if it were not
//! there. What is damaged becomes a row, a deletion or an entry of the ledger, exactly one of them.

use crate::bodies::{right, stream};
use crate::damage::{any, damaged};
use crate::{Outcome, Target};
use arrow::datatypes::SchemaRef;
use kaplan_base::StreamId;
use kaplan_connect::decode::{Decoder, Layout, Record};
use kaplan_connect::drift::Fields;
use kaplan_connect::source::{self, Kind, Spec};
use kaplan_sql::catalog::{FormatDef, SourceDef};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Records of one input. The damaged one's place is the input's first byte; the second one says
/// whether it is the key or the value.
const RECORDS: usize = 5;
const COLUMNS: [(&str, &str); 6] = [
    ("id", "bigint"),
    ("name", "text"),
    ("price", "numeric(10,2)"),
    ("at", "timestamp with time zone"),
    ("tags", "text[]"),
    ("rest", "jsonb"),
];

const ROW: &str = concat!(
    r#"{"id":7,"name":"\u00e9","price":"1.25","at":"2024-01-31T00:00:00Z","#,
    r#""tags":["a",null],"x":{"y":[1]}}"#
);
const AVRO_SCHEMA: &str = r#"{"type":"record","name":"r","fields":[{"name":"id","type":"long"},
    {"name":"name","type":["null","string"]},{"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"more","type":{"type":"map","values":"double"}},
    {"name":"raw","type":{"type":"fixed","name":"f","size":4}}]}"#;

const ENVELOPE: &str = r#"{"type":"record","name":"Envelope","fields":[
    {"name":"before","type":["null",{"type":"record","name":"Value","fields":[
      {"name":"id","type":"long"},{"name":"name","type":["null","string"]}]}]},
    {"name":"after","type":["null","Value"]},{"name":"op","type":"string"}]}"#;
const MESSAGE: &str = "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\";
    message M { int64 id = 1; string name = 2; repeated string tags = 3;
      google.protobuf.Timestamp at = 4; M inner = 5; repeated int32 packed = 6;
      map<string, double> map = 7; }";

/// A layout with records of it.
struct Records {
    name: &'static str,
    form: &'static str,
    schema: SchemaRef,
    decoder: Decoder,
    good: Vec<Vec<u8>>,
    runtime: Option<tokio::runtime::Runtime>,
}

pub fn targets() -> Vec<Box<dyn Target>> {
    let text = |of: &str| of.as_bytes().to_vec();
    let event = |op: &str, before: &str, after: &str| {
        text(&format!(r#"{{"before":{before},"after":{after},"op":"{op}","ts_ms":1}}"#))
    };
    let events = vec![
        event("c", "null", ROW),
        event("u", ROW, ROW),
        event("d", ROW, "null"),
        text(&format!(r#"{{"schema":{{}},"payload":{{"after":{ROW},"op":"r"}}}}"#)),
    ];
    let csv = vec![text("7,\u{e9},1.25,2024-01-31T00:00:00Z,\"{a,NULL}\",\"{\"\"a\"\":1}\"")];
    let json = vec![text(ROW), text("{\"id\":1}")];
    // Columns are added first: then no good record has a field that is not known.
    let known = vec![text(&ROW.replace("\"x\":", "\"rest\":")), text("{\"id\":1,\"y\":null}")];
    vec![
        Records::boxed("json", "plain", "json", json.clone(), &[]),
        Records::boxed("json-upsert", "upsert", "json", json.clone(), &["id"]),
        Records::boxed("json-capture", "plain", "json", json, &[]),
        Records::boxed("json-evolve", "plain", "json", known, &[]),
        Records::boxed("debezium", "debezium", "json", events, &["id"]),
        Records::boxed("csv", "plain", "csv", csv, &[]),
        Records::boxed("avro", "plain", "avro", avro(), &[]),
        Records::boxed("debezium-avro", "debezium", "avro", envelopes(), &["id"]),
        Records::boxed("protobuf", "plain", "protobuf", messages(), &[]),
    ]
}

/// Records as serializers of a schema registry write them.
fn avro() -> Vec<Vec<u8>> {
    let prefix = [0, 0, 0, 0, 1];
    let array = [4, 2, b'a', 4, b'b', b'c', 0];
    let map = [vec![2, 2, b'k'], 1.5_f64.to_le_bytes().to_vec(), vec![0]].concat();
    let full = [&[14, 2, 4, b'h', b'i'][..], &array, &map, b"wxyz"].concat();
    // A block with its size in bytes before it, and empty ones.
    let sized = [&[1, 0][..], &[3, 10, 2, b'a', 4, b'b', b'c', 0], &[0], b"wxyz"].concat();
    [full, sized].map(|record| [prefix.to_vec(), record].concat()).to_vec()
}

/// Envelopes of Debezium.
fn envelopes() -> Vec<Vec<u8>> {
    let (row, none) = ([2, 14, 2, 4, b'h', b'i'], [0]);
    let event =
        |before: &[u8], after: &[u8], op| [&[0, 0, 0, 0, 2], before, after, &[2, op]].concat();
    vec![event(&none, &row, b'c'), event(&row, &row, b'u'), event(&row, &none, b'd')]
}

/// Messages of Protobuf.
fn messages() -> Vec<Vec<u8>> {
    let prefix = [0, 0, 0, 0, 3, 0];
    let full = [&[8, 7, 0x12, 2, b'h', b'i', 0x1a, 1, b'a', 0x22, 2, 8, 1][..], &[0x2a, 2, 8, 9]];
    let deep = [0x2a, 8, 0x2a, 6, 0x2a, 4, 0x2a, 2, 8, 1];
    let packed = [&[0x32, 3, 1, 0x80, 1, 0x3a, 12, 0x0a, 1, b'k', 0x11][..], &[0; 8]].concat();
    [full.concat(), deep.to_vec(), packed].map(|m| [&prefix[..], &m].concat()).to_vec()
}

impl Records {
    fn boxed(
        name: &'static str,
        form: &'static str,
        encode: &str,
        good: Vec<Vec<u8>>,
        key: &[&str],
    ) -> Box<dyn Target> {
        let def = stream(&COLUMNS, key);
        let schema = kaplan_sql::dialect::schema_of(&def).unwrap();
        let target = source::Target {
            name: def.name.clone(),
            upstream: None,
            schema: SchemaRef::clone(&schema),
            primary_key: def.primary_key.clone(),
            append_only: def.append_only,
            columns: def.columns.iter().map(|c| c.name.clone()).collect(),
        };
        let registered = matches!(encode, "avro" | "protobuf");
        let runtime = registered.then(|| tokio::runtime::Runtime::new().unwrap());
        let registry = runtime.as_ref().map(|runtime| ("schema.registry", registry(runtime)));
        let format = FormatDef {
            form: form.into(),
            encode: encode.into(),
            options: registry.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        };
        let option = match name {
            "json-capture" => Some(("unknown_fields_column", "rest")),
            "json-evolve" => Some(("unknown_fields", "evolve")),
            _ => None,
        };
        let def = SourceDef {
            id: 1,
            name: "fuzzed".into(),
            connector: "kafka".into(),
            options: option.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect(),
            format: Some(format),
            include: Vec::new(),
            targets: Vec::new(),
            errors: StreamId(0),
            paused: false,
            table: false,
        };
        let layout = Layout::of(&Spec { def, targets: Vec::new() }, Some(&target)).unwrap();
        let decoder = Decoder::new(target, layout);
        Box::new(Self { name, form, schema, decoder, good, runtime })
    }
}

/// A schema registry that knows three schemas.
fn registry(runtime: &tokio::runtime::Runtime) -> String {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let known = [AVRO_SCHEMA, ENVELOPE, MESSAGE]
        .map(|schema| serde_json::json!({ "schema": schema }).to_string());
    runtime.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 2048];
            let n = socket.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..n]);
            let asked = |at: &usize| head.starts_with(&format!("GET /schemas/ids/{} ", at + 1));
            let found = (0..known.len()).find(asked).map(|at| known[at].as_str());
            let (status, body) = found.map_or(("404 Not Found", "{}"), |body| ("200 OK", body));
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    url
}

impl Target for Records {
    fn name(&self) -> &'static str {
        self.name
    }

    fn input(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let place = rng.random_range(0..RECORDS as u8);
        let key = u8::from(rng.random_ratio(1, 4));
        let good = if key == 1 { b"{\"id\":7}" } else { any(&self.good, rng) };
        [vec![place, key], damaged(good, &self.good, rng)].concat()
    }

    fn take(&mut self, input: &[u8]) -> Result<Outcome, String> {
        let (place, is_key, bytes) = (usize::from(input[0]), input[1] == 1, &input[2..]);
        let key: &[u8] = b"{\"id\":7}";
        let record = |at: usize| {
            let good = self.good[at % self.good.len()].as_slice();
            let (key, value) = match (at == place, is_key) {
                (true, true) if self.form == "plain" => (bytes, Some(good)),
                (true, true) => (bytes, None),
                (true, false) => (key, Some(bytes)),
                (false, _) => (key, Some(good)),
            };
            Record { key: Some(key), value, position: at as u64, ..Record::default() }
        };
        let records: Vec<Record<'_>> = (0..RECORDS).map(record).collect();
        let guard = self.runtime.as_ref().map(tokio::runtime::Runtime::enter);
        self.decoder.prepare(&records).map_err(|e| format!("not prepared: {e}"))?;
        drop(guard);
        let mut fields = Fields::default();
        self.decoder.unknown(&records, &mut fields);
        for column in self.decoder.grown(&fields) {
            let mut def = stream(&COLUMNS, &[]);
            def.columns.push(column);
            kaplan_sql::dialect::schema_of(&def).map_err(|e| format!("no column: {e}"))?;
        }
        let (changes, rejected) = self.decoder.decode("0", &records);
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        for change in &changes {
            if change.kind != Kind::Delete {
                right(&change.rows, &self.schema)?;
            }
            if change.origins.len() != change.rows.num_rows() {
                return Err("rows without an origin".into());
            }
            change.origins.iter().for_each(|at| *seen.entry(*at).or_default() += 1);
        }
        let good_lost = (0..RECORDS as u64).find(|at| {
            *at != place as u64 && seen.get(at) != Some(&1)
                || rejected.iter().any(|r| r.position == *at && *at != place as u64)
        });
        if let Some(at) = good_lost {
            return Err(format!("record {at} was good, and did not come through: {rejected:?}"));
        }
        let refused = rejected.iter().filter(|r| r.position == place as u64).count();
        let rows = seen.get(&(place as u64)).copied().unwrap_or(0);
        match (rows, refused) {
            // Bytes may hold several rows only where an encoding has no end of its own.
            (1, 0) => Ok(Outcome::Read),
            // Debezium has events that change nothing.
            (0, 0) if self.form == "debezium" => Ok(Outcome::Read),
            (0, 1) => Ok(Outcome::Refused),
            _ => Err(format!("the damaged record is {rows} rows and {refused} refusals")),
        }
    }
}
