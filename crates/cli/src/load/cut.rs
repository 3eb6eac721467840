//! Cuts a file into batches. The cuts depend on the file and the batch size alone, never on time or
//! buffers: a second load must cut the same places, or its sequence numbers would name other rows.
//!
//! Text is cut between records and sent as it is, so that the server, which knows the columns, reads
//! it. Columnar files are sent as Arrow IPC with the file's own types.

use anyhow::{Context, bail};
use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use kaplan_base::limits::MAX_BODY_BYTES;
use kaplan_connect::formats::Format;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;

/// A batch of text ends at this many bytes even with few rows, well below the server's limit.
const TEXT_BYTES: usize = 16 << 20;
/// Arrow batches larger than this, encoded, are halved.
const ARROW_BYTES: usize = 32 << 20;

/// One request's rows.
#[derive(Debug)]
pub struct Chunk {
    /// The encoded rows.
    pub body: Vec<u8>,
    /// How they are encoded.
    pub format: Format,
    /// How many they are.
    pub rows: u64,
    /// Their share of the file, for the progress bar.
    pub file_bytes: u64,
}

/// The batches of a file, read as they are asked for.
pub type Chunks = Box<dyn Iterator<Item = anyhow::Result<Chunk>>>;

/// Opens a file.
pub fn open(path: &Path, format: Format, batch_rows: usize) -> anyhow::Result<Chunks> {
    let shown = path.display().to_string();
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let size = file.metadata()?.len();
    match format {
        Format::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)
                .with_context(|| format!("{shown} is not a Parquet file"))?;
            let rows = builder.metadata().file_metadata().num_rows().max(1);
            let batches = builder.with_batch_size(batch_rows).build()?;
            let bytes_per_row = size as f64 / rows as f64;
            Ok(arrow_chunks(batches, batch_rows, bytes_per_row))
        }
        Format::ArrowIpc => arrow_file(file, batch_rows),
        Format::Csv => Ok(Box::new(Text::new(BufReader::new(file), true, batch_rows)?)),
        Format::NdJson => Ok(Box::new(Text::new(BufReader::new(file), false, batch_rows)?)),
        Format::Json => whole(file, size, &shown),
    }
}

/// A JSON array cannot be cut without parsing it, so it goes in one piece.
fn whole(mut file: File, size: u64, shown: &str) -> anyhow::Result<Chunks> {
    if size > MAX_BODY_BYTES as u64 {
        bail!("{shown} has {size} bytes; JSON in one piece may have {MAX_BODY_BYTES}: use NDJSON");
    }
    let mut body = Vec::new();
    file.read_to_end(&mut body)?;
    let chunk = Chunk { body, format: Format::Json, rows: 0, file_bytes: size };
    Ok(Box::new(std::iter::once(Ok(chunk))))
}

fn arrow_file(mut file: File, batch_rows: usize) -> anyhow::Result<Chunks> {
    let mut magic = [0; 6];
    let is_file = file.read_exact(&mut magic).is_ok() && &magic == b"ARROW1";
    file.rewind()?;
    let file = BufReader::new(file);
    // The progress bar follows the bytes in memory, which is near enough for this format.
    let per_row = 0.0;
    Ok(if is_file {
        let batches = arrow::ipc::reader::FileReader::try_new(file, None)?;
        arrow_chunks(batches, batch_rows, per_row)
    } else {
        let batches = arrow::ipc::reader::StreamReader::try_new(file, None)?;
        arrow_chunks(batches, batch_rows, per_row)
    })
}

fn arrow_chunks(
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>> + 'static,
    batch_rows: usize,
    bytes_per_row: f64,
) -> Chunks {
    Box::new(batches.flat_map(move |batch| {
        let encoded = batch.map_err(anyhow::Error::from).and_then(|batch| {
            let mut chunks = Vec::new();
            for start in (0..batch.num_rows()).step_by(batch_rows) {
                let rows = batch_rows.min(batch.num_rows() - start);
                encode(&batch.slice(start, rows), bytes_per_row, &mut chunks)?;
            }
            Ok(chunks)
        });
        match encoded {
            Ok(chunks) => chunks.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    }))
}

fn encode(batch: &RecordBatch, bytes_per_row: f64, chunks: &mut Vec<Chunk>) -> anyhow::Result<()> {
    let rows = batch.num_rows();
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    let body = writer.into_inner()?;
    if body.len() > ARROW_BYTES && rows > 1 {
        encode(&batch.slice(0, rows / 2), bytes_per_row, chunks)?;
        return encode(&batch.slice(rows / 2, rows - rows / 2), bytes_per_row, chunks);
    }
    let file_bytes = (bytes_per_row * rows as f64) as u64;
    chunks.push(Chunk { body, format: Format::ArrowIpc, rows: rows as u64, file_bytes });
    Ok(())
}

/// Lines of text, cut between records. A record of CSV ends at a line break outside of quotes; a
/// doubled quote inside a field counts twice, which leaves the parity as it is.
struct Text<R> {
    input: R,
    /// The header line of CSV, which begins every batch; `None` for NDJSON.
    header: Option<Vec<u8>>,
    batch_rows: usize,
    over: bool,
}

impl<R: BufRead> Text<R> {
    fn new(mut input: R, csv: bool, batch_rows: usize) -> anyhow::Result<Self> {
        let header = if csv { Some(record(&mut input, true)?) } else { None };
        Ok(Self { input, header, batch_rows, over: false })
    }

    fn chunk(&mut self) -> anyhow::Result<Option<Chunk>> {
        let mut body = self.header.clone().unwrap_or_default();
        let header_bytes = body.len();
        let mut rows = 0;
        while rows < self.batch_rows as u64 && body.len() < TEXT_BYTES {
            let line = record(&mut self.input, self.header.is_some())?;
            if line.is_empty() {
                break;
            }
            // Blank lines are no records; the decoder skips them too.
            rows += u64::from(!line.trim_ascii().is_empty());
            body.extend_from_slice(&line);
        }
        if rows == 0 {
            return Ok(None);
        }
        let file_bytes = (body.len() - header_bytes) as u64;
        let format = if self.header.is_some() { Format::Csv } else { Format::NdJson };
        Ok(Some(Chunk { body, format, rows, file_bytes }))
    }
}

/// One record with its line break, which is added where the file ends without; empty at the end.
fn record(input: &mut impl BufRead, csv: bool) -> anyhow::Result<Vec<u8>> {
    let mut record = Vec::new();
    let mut quotes = 0;
    loop {
        let before = record.len();
        let room = (MAX_BODY_BYTES - before + 1) as u64;
        let read = input.by_ref().take(room).read_until(b'\n', &mut record)?;
        if record.len() > MAX_BODY_BYTES {
            bail!("a record is longer than {MAX_BODY_BYTES} bytes: is a quote left open?");
        }
        quotes += record[before..].iter().filter(|byte| **byte == b'"').count();
        if read == 0 || !csv || quotes % 2 == 0 {
            break;
        }
    }
    if !record.is_empty() && !record.ends_with(b"\n") {
        record.push(b'\n');
    }
    Ok(record)
}

impl<R: BufRead> Iterator for Text<R> {
    type Item = anyhow::Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.chunk().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use std::sync::Arc;

    fn text(input: &str, csv: bool, batch_rows: usize) -> Vec<(String, u64)> {
        let chunks = Text::new(input.as_bytes(), csv, batch_rows).unwrap();
        chunks
            .map(|chunk| chunk.unwrap())
            .map(|chunk| (String::from_utf8(chunk.body).unwrap(), chunk.rows))
            .collect()
    }

    #[test]
    fn csv_is_cut_between_records_and_each_batch_has_the_header() {
        let input = "a,b\n1,\"x\ny \"\"q\"\"\"\n\n2,z\n3,w";
        assert_eq!(
            text(input, true, 2),
            [("a,b\n1,\"x\ny \"\"q\"\"\"\n\n2,z\n".to_owned(), 2), ("a,b\n3,w\n".to_owned(), 1)]
        );
        assert!(text("a,b\n", true, 2).is_empty());
    }

    #[test]
    fn ndjson_is_cut_between_lines_whatever_its_quotes() {
        let input = "{\"a\":\"\\\"\"}\n{\"a\":2}\n{\"a\":3}\n\n";
        let chunks = text(input, false, 2);
        assert_eq!(chunks.iter().map(|(_, rows)| *rows).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(chunks[1].0, "{\"a\":3}\n\n");
    }

    #[test]
    fn a_second_reading_cuts_the_same_places() {
        let input: String = (0..1000).map(|n| format!("{n},\"{n}\n{n}\"\n")).collect();
        let slow = BufReader::with_capacity(7, input.as_bytes());
        let slow: Vec<_> =
            Text::new(slow, true, 13).unwrap().map(|chunk| chunk.unwrap().body).collect();
        let fast: Vec<_> =
            text(&input, true, 13).into_iter().map(|(body, _)| body.into_bytes()).collect();
        assert_eq!(slow, fast);
    }

    #[test]
    fn large_arrow_batches_are_halved_and_lose_no_row() {
        let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(9 << 20); 5]));
        let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5));
        let batch = RecordBatch::try_from_iter([("s", long), ("n", n)]).unwrap();
        let chunks: Vec<Chunk> =
            arrow_chunks(std::iter::once(Ok(batch)), 100, 2.0).map(Result::unwrap).collect();
        assert_eq!(chunks.iter().map(|chunk| chunk.rows).collect::<Vec<_>>(), [2, 3]);
        assert!(chunks.iter().all(|chunk| chunk.body.len() < MAX_BODY_BYTES));
    }
}
