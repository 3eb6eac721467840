//! Messages of PostgreSQL's `pgoutput`: read as they were made, and harmless when damaged; and text
//! values that do not fit, which harm only their own row.

use arrow::array::Array;
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use kaplan_connect::postgres::pgoutput::{
    Cell, Column, DecodeError, Message, Old, Relation, ReplicaIdentity, Tuple, decode,
};
use kaplan_connect::postgres::transaction::{Table, Transactions};
use kaplan_connect::postgres::values::{Mapping, batch};
use kaplan_connect::source::Kind;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

fn text(value: &str) -> Cell {
    Cell::Text(Bytes::copy_from_slice(value.as_bytes()))
}

fn bytes_of(tuple: &Tuple, out: &mut Vec<u8>) {
    out.extend((tuple.len() as u16).to_be_bytes());
    for cell in tuple {
        match cell {
            Cell::Null => out.push(b'n'),
            Cell::Unchanged => out.push(b'u'),
            Cell::Text(value) | Cell::Binary(value) => {
                out.push(if matches!(cell, Cell::Text(_)) { b't' } else { b'b' });
                out.extend((value.len() as u32).to_be_bytes());
                out.extend(value);
            }
        }
    }
}

fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let zero = |name: &str| [name.as_bytes(), &[0]].concat();
    match message {
        Message::Relation(r) => {
            out.push(b'R');
            out.extend(r.id.to_be_bytes());
            out.extend(zero(&r.schema));
            out.extend(zero(&r.name));
            out.push(b'd');
            out.extend((r.columns.len() as u16).to_be_bytes());
            for c in &r.columns {
                out.push(u8::from(c.key));
                out.extend(zero(&c.name));
                out.extend(c.type_id.to_be_bytes());
                out.extend(c.modifier.to_be_bytes());
            }
        }
        Message::Insert { relation, new } => {
            out.push(b'I');
            out.extend(relation.to_be_bytes());
            out.push(b'N');
            bytes_of(new, &mut out);
        }
        Message::Update { relation, old, new } => {
            out.push(b'U');
            out.extend(relation.to_be_bytes());
            if let Some(old) = old {
                out.push(if matches!(old, Old::Key(_)) { b'K' } else { b'O' });
                bytes_of(old.tuple(), &mut out);
            }
            out.push(b'N');
            bytes_of(new, &mut out);
        }
        Message::Delete { relation, old } => {
            out.push(b'D');
            out.extend(relation.to_be_bytes());
            out.push(if matches!(old, Old::Key(_)) { b'K' } else { b'O' });
            bytes_of(old.tuple(), &mut out);
        }
        Message::Truncate { relations } => {
            out.push(b'T');
            out.extend((relations.len() as u32).to_be_bytes());
            out.push(0);
            relations.iter().for_each(|r| out.extend(r.to_be_bytes()));
        }
        other => panic!("{other:?}"),
    }
    out
}

fn column(name: &str, key: bool) -> Column {
    Column { name: name.to_owned(), key, type_id: 25, modifier: -1 }
}

fn messages() -> Vec<Message> {
    let row = vec![text("1"), Cell::Null, text("\u{e9}"), Cell::Unchanged];
    let relation = Relation {
        id: 7,
        schema: "public".to_owned(),
        name: "orders".to_owned(),
        identity: ReplicaIdentity::Default,
        columns: vec![
            column("id", true),
            column("a", false),
            column("b", false),
            column("c", false),
        ],
    };
    let key = vec![text("2"), Cell::Null, Cell::Null, Cell::Null];
    vec![
        Message::Relation(relation),
        Message::Insert { relation: 7, new: row.clone() },
        Message::Update { relation: 7, old: None, new: row.clone() },
        Message::Update { relation: 7, old: Some(Old::Key(key.clone())), new: row.clone() },
        Message::Update { relation: 7, old: Some(Old::Row(row.clone())), new: row },
        Message::Delete { relation: 7, old: Old::Key(key) },
        Message::Truncate { relations: vec![7, 8] },
    ]
}

#[test]
fn messages_are_read_as_they_were_made() {
    for message in messages() {
        let bytes = Bytes::from(encode(&message));
        assert_eq!(decode(bytes.clone()), Ok(message));
        for length in 0..bytes.len() {
            assert!(decode(bytes.slice(..length)).is_err(), "cut to {length}");
        }
        let longer = Bytes::from([bytes.as_ref(), &[0]].concat());
        assert_eq!(decode(longer), Err(DecodeError::Trailing(1)));
    }
    let unknown = decode(Bytes::from_static(b"S\0\0")).unwrap_err();
    assert!(unknown.to_string().contains("'S'"), "{unknown}");
}

/// The table that the messages are about.
fn table() -> Table {
    let field = |name, nullable| Field::new(name, DataType::Utf8, nullable);
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        field("b", true),
        field("c", true),
    ]);
    Table {
        target: 0,
        name: "orders".to_owned(),
        upstream: "public.orders".to_owned(),
        oid: 7,
        schema: Arc::new(schema),
        key: vec![0],
        since: Some(0),
    }
}

#[test]
fn damaged_and_random_messages_are_harmless() {
    let good: Vec<Vec<u8>> = messages().iter().map(encode).collect();
    let mut refused = 0;
    for seed in 0..20_000 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = match random.random_range(0..4) {
            0 => (0..random.random_range(0..60)).map(|_| random.random()).collect(),
            _ => good[random.random_range(0..good.len())].clone(),
        };
        for _ in 0..random.random_range(1..4) {
            if !bytes.is_empty() {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
        }
        match decode(Bytes::from(bytes)) {
            Err(_) => refused += 1,
            // What is well formed may still be nonsense for the table.
            Ok(message) => {
                let mut transactions = Transactions::new(vec![table()], 0);
                transactions.begin(kaplan_connect::postgres::pgoutput::Begin {
                    final_lsn: 9,
                    commit_time_us: 0,
                    xid: 1,
                });
                let _ = transactions.change(messages().remove(0));
                let _ = transactions.change(message);
                transactions.commit(10);
                transactions.take_changes().unwrap();
            }
        }
    }
    assert!(refused > 5_000, "only {refused} were refused");
}

#[test]
fn changes_of_a_row_keep_their_order_and_their_unsent_values() {
    let mut transactions = Transactions::new(vec![table()], 5);
    let begin = |lsn| kaplan_connect::postgres::pgoutput::Begin {
        final_lsn: lsn,
        commit_time_us: 0,
        xid: 1,
    };
    transactions.begin(begin(9));
    for message in messages() {
        transactions.change(message).unwrap();
    }
    transactions.commit(10);
    // One that was done before the position is passed over.
    transactions.begin(begin(3));
    transactions.change(messages().remove(1)).unwrap();
    transactions.commit(4);
    assert_eq!(transactions.position(), 10);
    let (changes, rejected) = transactions.take_changes().unwrap();
    let kinds: Vec<_> = changes.iter().map(|c| (c.kind, c.rows.num_rows())).collect();
    // The insert lacks a value, which is refused and takes its row out; updates without that value
    // set the others; the last one has the whole row from before, but for what was never sent.
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert!(rejected[0].reason.contains("\"c\""), "{rejected:?}");
    let expected = [(Kind::Delete, 1), (Kind::Patch, 3), (Kind::Delete, 1), (Kind::Truncate, 0)];
    assert_eq!(kinds, expected);
    let patch = &changes[1].rows;
    let names: Vec<_> = patch.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["id", "id", "b"]);
    let keys = arrow::util::display::array_value_to_string(patch.column(0), 1).unwrap();
    assert_eq!(keys, "2", "the key that the row had");
}

#[test]
fn a_value_that_does_not_fit_takes_out_its_row_alone() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("n", DataType::Decimal128(5, 2), true),
    ]));
    let names = ["n".to_owned(), "id".to_owned()];
    let mapping = Mapping::new(&schema, &names);
    let row = |n: &str, id: &str| vec![text(n), text(id)];
    let rows = [
        row("1.005", "1"),
        row("NaN", "2"),
        row("12345.6", "3"),
        row("-1", "x"),
        vec![Cell::Null, text("5")],
        vec![text("1"), Cell::Null],
    ];
    let (kept, misfits) = batch(&rows, &mapping, &schema);
    assert_eq!(kept.num_rows(), 2);
    assert!(kept.column(1).is_null(1));
    let named: Vec<_> = misfits.iter().map(|m| (m.row, m.column.as_str())).collect();
    assert_eq!(named, [(1, "n"), (2, "n"), (3, "id"), (5, "id")]);
    assert!(
        misfits[0].reason.contains("NaN") && misfits[3].reason.contains("NOT NULL"),
        "{misfits:?}"
    );
}
