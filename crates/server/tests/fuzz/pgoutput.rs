//! Messages of PostgreSQL's logical decoding, and what a transaction makes of them.

use crate::damage::{any, damaged};
use crate::{Outcome, Target};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use kaplan_connect::postgres::pgoutput::{Begin, decode};
use kaplan_connect::postgres::transaction::{Table, Transactions};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

const RELATION: &[u8] = b"R\0\0\0\x07public\0orders\0d\0\x03\x01id\0\0\0\0\x17\xff\xff\xff\xff\
    \0b\0\0\0\0\x19\xff\xff\xff\xff\0c\0\0\0\0\x19\xff\xff\xff\xff";
const TUPLE: &[u8] = b"\0\x03t\0\0\0\x0212nt\0\0\0\x03\xc3\xa9x";

fn good() -> Vec<Vec<u8>> {
    let of = |head: &[u8]| [head, TUPLE].concat();
    let relation = b"\0\0\0\x07";
    vec![
        RELATION.to_vec(),
        of(&[b"I", &relation[..], b"N"].concat()),
        of(&[b"U", &relation[..], b"N"].concat()),
        [of(&[b"U", &relation[..], b"K"].concat()), b"N".to_vec(), TUPLE.to_vec()].concat(),
        of(&[b"D", &relation[..], b"O"].concat()),
        [b"T\0\0\0\x02\0", &relation[..], b"\0\0\0\x08"].concat(),
        [&b"B"[..], &[0; 20]].concat(),
        [&b"C"[..], &[0; 25]].concat(),
        b"O\0\0\0\0\0\0\0\x01origin\0".to_vec(),
        b"Y\0\0\0\x09public\0mood\0".to_vec(),
        b"M\0\0\0\0\0\0\0\0\x01prefix\0\0\0\0\x03abc".to_vec(),
    ]
}

fn table() -> Table {
    let text = |name| Field::new(name, DataType::Utf8, true);
    let schema = vec![Field::new("id", DataType::Int32, false), text("b"), text("c")];
    Table {
        target: 0,
        name: "orders".to_owned(),
        upstream: "public.orders".to_owned(),
        oid: 7,
        schema: Arc::new(Schema::new(schema)),
        key: vec![0],
        since: Some(0),
    }
}

/// One transaction: messages, each behind its length.
pub struct Messages;

impl Target for Messages {
    fn name(&self) -> &'static str {
        "pgoutput"
    }

    fn input(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let (good, mut input) = (good(), Vec::new());
        for at in 0..rng.random_range(1..5) {
            let message = if at == 0 && rng.random() { RELATION } else { any(&good, rng) };
            let message = damaged(message, &good, rng);
            input.extend((message.len() as u32).to_le_bytes());
            input.extend(message);
        }
        input
    }

    fn take(&mut self, mut input: &[u8]) -> Result<Outcome, String> {
        let mut transactions = Transactions::new(vec![table()], 0);
        transactions.begin(Begin { final_lsn: 9, commit_time_us: 0, xid: 1 });
        let mut outcome = Outcome::Read;
        while let Some((length, rest)) = input.split_first_chunk::<4>() {
            let (message, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
            input = rest;
            let taken = decode(Bytes::copy_from_slice(message))
                .map_err(|e| e.to_string())
                .and_then(|message| transactions.change(message).map_err(|e| e.to_string()));
            if let Err(reason) = taken {
                outcome = Outcome::Refused;
                if reason.is_empty() {
                    return Err("a refusal without words".into());
                }
            }
        }
        transactions.commit(10);
        let taken = transactions.take_changes().map_err(|e| format!("no changes: {e}"))?;
        for change in &taken.0 {
            for column in change.rows.columns() {
                column.to_data().validate_full().map_err(|e| e.to_string())?;
            }
        }
        Ok(outcome)
    }
}
