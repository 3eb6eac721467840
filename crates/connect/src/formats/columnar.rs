//! Arrow IPC and Parquet: columns by name, fitted to the stream's types by [`adapt`]. Columns that
//! the stream does not have are not even decoded from Parquet.

use super::adapt::{Plan, adapt};
use super::watched::Watched;
use super::{Batches, DecodeError, Input, MAX_BATCH_VALUES, ipc as check, open_file};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatchReader;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{ChunkReader, Length};
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;
use std::sync::atomic::Ordering;

pub(super) fn ipc<'a>(input: Input<'a>, schema: SchemaRef) -> Result<Batches<'a>, DecodeError> {
    match input {
        Input::Body([]) => Ok(Box::new(std::iter::empty())),
        Input::Body(body) => ipc_from(Cursor::new(body), schema),
        Input::Shared(bytes) => ipc_from(Cursor::new(bytes), schema),
        Input::File { path, read } => {
            let mut file = BufReader::new(open_file(&path)?);
            check::check(&mut file)?;
            let start = file.stream_position().map_err(unreadable)?;
            let mut file = file.into_inner();
            file.seek(std::io::SeekFrom::Start(start)).map_err(unreadable)?;
            let counted = super::Counted { file, read };
            batches(StreamReader::try_new(BufReader::new(counted), None), schema)
        }
    }
}

fn ipc_from<'a>(
    mut reader: impl Read + Seek + Send + 'a,
    schema: SchemaRef,
) -> Result<Batches<'a>, DecodeError> {
    check::check(&mut reader)?;
    batches(StreamReader::try_new(reader, None), schema)
}

pub(super) fn parquet<'a>(
    input: Input<'a>,
    schema: SchemaRef,
    batch_rows: usize,
) -> Result<Batches<'a>, DecodeError> {
    match input {
        Input::Body([]) => Ok(Box::new(std::iter::empty())),
        Input::Body(body) => parquet_from(Bytes::copy_from_slice(body), schema, batch_rows),
        Input::Shared(bytes) => parquet_from(bytes, schema, batch_rows),
        Input::File { path, read } => {
            let (file, failed) = Watched::open(&path)?;
            let length = file.len();
            let builder = parquet_builder(file).map_err(|e| failed.explain(e))?;
            let rows = builder.metadata().file_metadata().num_rows().max(1);
            let batches = parquet_batches(builder, schema, batch_rows);
            let batches = batches.map_err(|e| failed.explain(e))?;
            let batches = batches.map(move |batch| batch.map_err(|e| failed.explain(e)));
            // Parquet is not read front to back: progress goes by rows.
            let mut done = 0_u128;
            Ok(Box::new(batches.inspect(move |batch| {
                done += batch.as_ref().map_or(0, |b| b.num_rows() as u128);
                let bytes = u128::from(length) * done / u128::from(rows.unsigned_abs());
                read.store(u64::try_from(bytes).unwrap_or(length).min(length), Ordering::Relaxed);
            })))
        }
    }
}

/// The schema of a Parquet file, and its rows with the columns that are wanted, as they are.
pub(super) fn columns(
    path: &Path,
    wanted: &dyn Fn(&str) -> bool,
    batch_rows: usize,
) -> Result<(SchemaRef, Batches<'static>), DecodeError> {
    let (file, failed) = Watched::open(path)?;
    let builder = parquet_builder(file).map_err(|e| failed.explain(e))?;
    let schema = SchemaRef::clone(builder.schema());
    let roots = schema.fields().iter().enumerate().filter(|(_, f)| wanted(f.name()));
    let roots: Vec<usize> = roots.map(|(at, _)| at).collect();
    let most = (MAX_BATCH_VALUES / roots.len().max(1)).max(1);
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let reader = builder.with_projection(mask).with_batch_size(batch_rows.min(most)).build();
    let reader = reader.map_err(|e| failed.explain(unreadable(e)))?;
    Ok((schema, Box::new(reader.map(move |b| b.map_err(|e| failed.explain(unreadable(e)))))))
}

fn parquet_from<'a>(
    reader: impl ChunkReader + 'static,
    schema: SchemaRef,
    batch_rows: usize,
) -> Result<Batches<'a>, DecodeError> {
    parquet_batches(parquet_builder(reader)?, schema, batch_rows)
}

pub(super) fn parquet_builder<R: ChunkReader + 'static>(
    reader: R,
) -> Result<ParquetRecordBatchReaderBuilder<R>, DecodeError> {
    ParquetRecordBatchReaderBuilder::try_new(reader).map_err(unreadable)
}

fn parquet_batches<'a, R: ChunkReader + 'static>(
    builder: ParquetRecordBatchReaderBuilder<R>,
    schema: SchemaRef,
    batch_rows: usize,
) -> Result<Batches<'a>, DecodeError> {
    let roots = builder.schema().fields().iter().enumerate();
    let wanted: Vec<usize> =
        roots.filter(|(_, f)| schema.field_with_name(f.name()).is_ok()).map(|(at, _)| at).collect();
    // Without a known column nothing is projected away, so that the error can list what there is.
    let mask = match wanted.is_empty() {
        true => ProjectionMask::all(),
        false => ProjectionMask::roots(builder.parquet_schema(), wanted),
    };
    let reader = builder.with_projection(mask).with_batch_size(batch_rows).build();
    batches(reader.map_err(|e| ArrowError::ParquetError(e.to_string())), schema)
}

fn batches<'a>(
    reader: Result<impl RecordBatchReader + Send + 'a, ArrowError>,
    schema: SchemaRef,
) -> Result<Batches<'a>, DecodeError> {
    let reader = reader.map_err(unreadable)?;
    let plan = Plan::new(&reader.schema(), &schema)?;
    let mut row = 0;
    Ok(Box::new(reader.map(move |batch| {
        let batch = batch.map_err(unreadable)?;
        let first_row = row + 1;
        row += batch.num_rows() as u64;
        adapt(&batch, &plan, &schema, first_row)
    })))
}

fn unreadable(error: impl std::fmt::Display) -> DecodeError {
    DecodeError::new(format!("the bytes cannot be read: {error}"))
        .hint("check that the content type names the format of the bytes, and that none is missing")
}
