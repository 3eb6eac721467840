//! Random damage to good bodies: the decoder answers with rows or with an error, never with a
//! panic, and rows it answers with have the schema asked for.

use crate::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROUNDS: u64 = 400;

fn damage(body: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    for _ in 0..random.random_range(1..=4) {
        if body.is_empty() {
            return;
        }
        let at = random.random_range(0..body.len());
        match random.random_range(0..5) {
            0 => body[at] = random.random(),
            1 => body[at] ^= 1 << random.random_range(0..8),
            2 => body.truncate(at),
            3 => {
                let end = (at + random.random_range(1..16)).min(body.len());
                body.drain(at..end);
            }
            _ => {
                let from = random.random_range(0..body.len());
                let piece = body[from..(from + 8).min(body.len())].to_vec();
                body.splice(at..at, piece);
            }
        }
    }
}

fn survives(format: Format, good: &[u8], seed: u64) {
    let mut refused = 0;
    for round in 0..ROUNDS {
        let mut random = ChaCha8Rng::seed_from_u64(seed + round);
        let mut body = good.to_vec();
        damage(&mut body, &mut random);
        match decode(format, &every_type(), &body) {
            Ok(batches) => {
                for batch in &batches {
                    assert_eq!(batch.schema(), every_type());
                    for column in batch.columns() {
                        column.to_data().validate_full().unwrap();
                    }
                }
            }
            Err(error) => {
                assert!(!error.message.is_empty(), "{format:?} round {round}");
                refused += 1;
            }
        }
    }
    assert!(refused > ROUNDS / 20, "{format:?}: only {refused} of {ROUNDS} were refused");
}

/// A few hundred rows, so that there is something to damage.
fn many() -> RecordBatch {
    let batches = vec![every_value(); 50];
    arrow::compute::concat_batches(&every_type(), &batches).unwrap()
}

#[test]
fn damaged_json_is_harmless() {
    let line = r#"{"flag":true,"big":12,"price":"12.50","text":"\u00e9\ud83d\ude00","bytes":"\\x0a",
        "day":"2024-01-31","instant":"2024-01-31T02:00:00+02:00","other":[1,{"a":null}]}"#;
    let line = line.replace('\n', "");
    let body = vec![line; 20];
    survives(Format::NdJson, body.join("\n").as_bytes(), 1_000);
    survives(Format::Json, format!("[{}]", body.join(",")).as_bytes(), 2_000);
}

#[test]
fn damaged_csv_is_harmless() {
    let row = "true,12,\"a \u{e9}\",2024-01-31T00:00:00Z,12.5\n".repeat(30);
    survives(Format::Csv, format!("flag,big,text,instant,price\n{row}").as_bytes(), 3_000);
}

#[test]
fn damaged_arrow_is_harmless() {
    survives(Format::ArrowIpc, &ipc_stream(&many()), 4_000);
    survives(Format::ArrowIpc, &ipc_stream(&every_value()), 5_000);
}

#[test]
fn damaged_parquet_is_harmless() {
    survives(Format::Parquet, &parquet_file(&many()), 6_000);
    survives(Format::Parquet, &parquet_file(&every_value()), 7_000);
}

#[test]
fn random_bytes_are_harmless() {
    for seed in 0..100 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let body: Vec<u8> = (0..random.random_range(1..500)).map(|_| random.random()).collect();
        for format in [Format::NdJson, Format::Json, Format::Csv, Format::ArrowIpc, Format::Parquet]
        {
            assert!(decode(format, &every_type(), &body).is_err(), "{format:?} seed {seed}");
        }
    }
}

#[test]
fn claims_of_size_are_not_believed() {
    let options = arrow::ipc::writer::IpcWriteOptions::default()
        .try_with_compression(Some(arrow::ipc::CompressionType::ZSTD))
        .unwrap();
    let mut body = Vec::new();
    let mut writer =
        arrow::ipc::writer::StreamWriter::try_new_with_options(&mut body, &every_type(), options)
            .unwrap();
    let text: ArrayRef = Arc::new(StringArray::from(vec!["zzzzzzzzzzzzzzzzzzzzzzzzzz".repeat(90)]));
    let mut columns = every_value().slice(0, 1).columns().to_vec();
    columns[7] = text;
    writer.write(&RecordBatch::try_new(every_type(), columns).unwrap()).unwrap();
    writer.finish().unwrap();
    drop(writer);
    // The text's own length, 2340, stands before its compressed bytes: claim a petabyte instead.
    let mut length = 2_340_i64.to_le_bytes().to_vec();
    length.extend([0x28, 0xb5, 0x2f, 0xfd]);
    let at = body.windows(12).position(|w| w == length).unwrap();
    body[at..at + 8].copy_from_slice(&(1_i64 << 50).to_le_bytes());
    let error = decode(Format::ArrowIpc, &every_type(), &body).unwrap_err();
    assert!(error.message.contains("decompresses to more than"), "{error:?}");
}
